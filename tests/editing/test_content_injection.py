"""Content injection: features between two, with known lengths and angles, and in the pipeline."""

import pytest
import torch

from imagen_mini.editing.content_injection import MixFeatures, slerp_features
from imagen_mini.editing.guides import ContentInjection
from imagen_mini.models.control import BlockSite
from imagen_mini.utils.rng import randn


def test_between_two_right_angles_the_way_is_a_circle():
    a = torch.tensor([3.0, 0.0]).reshape(1, 2, 1, 1)
    b = torch.tensor([0.0, 7.0]).reshape(1, 2, 1, 1)
    third = slerp_features(a, b, 1 / 3).flatten()
    assert third.tolist() == pytest.approx([3 * 3**0.5 / 2, 1.5])  # 30 degrees, length 3
    assert torch.allclose(slerp_features(a, b, 0.0), a)
    assert slerp_features(a, b, 1.0).flatten().tolist() == pytest.approx([0, 3], abs=1e-6)


def test_lengths_stay_angles_grow_evenly_and_rows_do_not_mix():
    a, b = (randn([0, 1, 2], (4, 3, 3), name, dtype=torch.float64) for name in "ab")
    cosine = lambda x, y: torch.nn.functional.cosine_similarity(x.flatten(1), y.flatten(1))
    whole = cosine(a, b).arccos()
    for share in (0.25, 0.5, 0.9):
        mixed = slerp_features(a, b, share)
        assert torch.allclose(mixed.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1))
        assert torch.allclose(cosine(a, mixed).arccos(), share * whole)
        assert torch.allclose(slerp_features(a[1:2], b[1:2], share), mixed[1:2])


def test_parallel_features_are_no_division_by_zero():
    a = randn([0], (4, 3, 3), "a")
    assert torch.allclose(slerp_features(a, 2 * a, 0.5), a)
    assert slerp_features(a, -a, 0.5).isfinite().all()


def test_the_control_leaves_content_and_its_own_site_alone():
    site, x = BlockSite("mid.block1", "mid", 4), randn(range(4), (8, 4, 4), "x")
    control = MixFeatures(site, 0.5)
    found = control.modify_features(site, x)
    assert torch.equal(found[:2], x[:2])
    assert torch.equal(found[2:], slerp_features(x[2:], x[:2], 0.5))
    assert control.needs_features(site)
    assert not control.needs_features(BlockSite("mid.block0", "mid", 4))


@pytest.fixture
def images(tiny_pipe):
    def images(share, prompts=("a red circle", "a blue star"), **options):
        guide = None if share is None else ContentInjection(share, **options)
        return tiny_pipe(
            list(prompts), seed=list(range(3, 3 + len(prompts))), stages=("base",), guide=guide,
            num_inference_steps=3, guidance_scale=2.0, sampler="ddim", progress=False,
            output_type="pt",
        ).images  # fmt: skip

    return images


def test_content_stays_and_style_changes_with_the_share(images):
    plain, none, half, all_of_it = (images(share) for share in (None, 0.0, 0.5, 1.0))
    assert torch.allclose(none, plain, rtol=0, atol=1e-4)
    for mixed in (half, all_of_it):
        assert torch.allclose(mixed[0], plain[0], rtol=0, atol=1e-4)
        assert not torch.allclose(mixed[1], plain[1], rtol=0, atol=1e-3)
    assert not torch.allclose(half[1], all_of_it[1], rtol=0, atol=1e-3)
    assert torch.allclose(images(0.5, until=0.0), plain, rtol=0, atol=1e-4)


def test_what_cannot_be_mixed_is_an_error(images):
    with pytest.raises(ValueError, match="3 prompts; expected content prompts and as many style"):
        images(0.5, ("a star", "a ring", "a circle"))
    for options, message in [({"share": 1.5}, "share 1.5"), ({"until": 2}, "until 2")]:
        with pytest.raises(ValueError, match=message):
            ContentInjection(**options)
