"""Inpainting by a network that sees what is known: it starts as the network that it was, and it
sees what it is told, and no more.
"""

import random
from copy import deepcopy

import pytest
import torch
from test_given_images import FAST, IMAGE, MASK, TARGET, edited

from imagen_mini.cascade.weight_transfer import with_inpainting
from imagen_mini.data.holes import KINDS, random_known
from imagen_mini.editing.guided_sampling import known_part
from imagen_mini.evaluation.image_edits import ROWS, rows_of
from imagen_mini.pipeline import ImagenPipeline
from train import inpainting


@pytest.fixture(scope="module")
def inpainting_pipe(tiny_pipe):
    """As it is before it is fine-tuned."""
    return ImagenPipeline(tiny_pipe.text_encoder, [with_inpainting(tiny_pipe.stages["base"])])


@pytest.fixture(scope="module")
def seeing_pipe(inpainting_pipe):
    """Its added channels have an effect."""
    pipe = deepcopy(inpainting_pipe)
    with torch.no_grad():
        pipe.stages["base"].net.stem.weight.add_(0.01)
    return pipe


def test_at_first_it_computes_what_the_trained_network_does_whatever_is_known(
    tiny_pipe, inpainting_pipe
):
    trained, stage = tiny_pipe.stages["base"], inpainting_pipe.stages["base"]
    text, t, eps = tiny_pipe.text_encoder([TARGET]), torch.tensor([0.3]), torch.randn(1, 3, 64, 64)
    expected = trained.loss(IMAGE, text, t, eps)
    for known in (None, known_part(IMAGE, 1 - MASK)):
        assert torch.allclose(stage.loss(IMAGE, text, t, eps, known=known), expected, rtol=1e-5)
    images = inpainting_pipe(TARGET, **FAST).images
    assert (images - tiny_pipe(TARGET, **FAST).images).abs().max() < 1e-3
    filled = edited(inpainting_pipe, "inpaint", mask=MASK)[1]
    inside = MASK.bool()
    assert (filled - images[0])[:, inside].abs().max() < 1e-3  # sampled as without a mask
    assert torch.equal(filled[:, ~inside], IMAGE[0][:, ~inside])


def test_the_added_weights_get_gradients_and_the_others_are_copies(tiny_pipe):
    trained = tiny_pipe.stages["base"]
    stage = with_inpainting(trained)
    text, t, eps = tiny_pipe.text_encoder([TARGET]), torch.tensor([0.3]), torch.randn(1, 3, 64, 64)
    stage.loss(IMAGE, text, t, eps, known=known_part(IMAGE, 1 - MASK)).sum().backward()
    added = stage.net.stem.weight.grad[:, trained.net.stem.in_channels :]
    assert added.abs().sum(dim=(0, 2, 3)).min() > 0  # of every added channel
    assert stage.net.stem.weight.data_ptr() != trained.net.stem.weight.data_ptr()
    with pytest.raises(ValueError, match="this one has it already"):
        with_inpainting(stage)
    with pytest.raises(ValueError, match="enlarges images"):
        with_inpainting(tiny_pipe.stages["sr_256"])


def test_what_is_known_is_seen_under_guidance_and_what_is_not_is_hidden(seeing_pipe):
    def filled(image, **more):
        options = FAST | {"guidance_scale": 3.0} | more
        return seeing_pipe.edit(image, "", TARGET, "inpaint", mask=MASK, **options).images

    inside = MASK.bool()
    first = filled(IMAGE)
    outside = torch.where(inside, IMAGE, -IMAGE)
    hidden = torch.where(inside, -IMAGE, IMAGE)
    assert (filled(outside)[1] - first[1])[:, inside].abs().max() > 1e-3
    assert torch.equal(filled(hidden)[1], first[1])
    # several targets and no guidance
    two = seeing_pipe.edit(IMAGE, "", [TARGET, "a ring"], "inpaint", mask=MASK, **FAST).images
    alone = edited(seeing_pipe, "inpaint", mask=MASK)
    assert (two[1] - alone[1]).abs().max() < 1e-3 and not torch.equal(two[1], two[2])


def test_the_known_part_is_the_image_and_where():
    part = known_part(IMAGE, 1 - MASK)
    assert part.shape == (1, 4, 64, 64) and torch.equal(part[0, 3], 1 - MASK)
    assert torch.equal(part[:, :3], IMAGE * (1 - MASK))


def test_a_network_without_it_says_how_to_get_one(tiny_pipe, inpainting_pipe):
    with pytest.raises(ValueError, match="inpainting=False.*train.inpainting"):
        edited(tiny_pipe, "inpaint", mask=MASK)
    with pytest.raises(ValueError, match="'inpaint' needs a mask"):
        edited(inpainting_pipe, "inpaint")
    names = [row.name for row in ROWS]
    assert [r.name for r in rows_of(inpainting_pipe, names)] == names
    assert set(names) - {r.name for r in rows_of(tiny_pipe, names)} == {"inpaint, painted mask"}


def test_holes_are_of_every_kind_and_functions_of_the_seed():
    holes = [random_known(random.Random(i), 64) for i in range(60)]
    assert all(x.shape == (1, 64, 64) and set(x.unique().tolist()) <= {0, 1} for x in holes)
    assert all((x == 0).any() for x in holes)  # something is always missing
    shares = torch.tensor([x.mean().item() for x in holes])
    assert 0.1 < (shares == 0).float().mean() < 0.45  # one in four is missing altogether
    assert shares.max() > 0.8 and len(KINDS) == 4
    assert torch.equal(random_known(random.Random(3), 64), holes[3])
    # the same hole at any size
    small = random_known(random.Random(3), 32)
    assert (small - holes[3][:, ::2, ::2]).abs().mean() < 0.1


def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(
    tiny_pipe, tmp_path, monkeypatch
):
    tiny_pipe.save_pretrained(tmp_path / "given")
    command = ["--pipeline", str(tmp_path / "given"), "--steps", "4", "--batch", "2"]
    command += ["--save-every", "2", "--device", "cpu"]
    inpainting.main([*command, "--out", str(tmp_path / "whole")])
    loss = inpainting.inpainting_loss

    def interrupted(stage, encoder, world, step, n):
        if step == 3:
            raise KeyboardInterrupt
        return loss(stage, encoder, world, step, n)

    monkeypatch.setattr(inpainting, "inpainting_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        inpainting.main([*command, "--out", str(tmp_path / "parts")])
    monkeypatch.setattr(inpainting, "inpainting_loss", loss)
    with pytest.raises(ValueError, match="a run of .*'batch': 2.*pass the same options"):
        inpainting.main([*command, "--batch", "3", "--out", str(tmp_path / "parts")])
    inpainting.main([*command, "--out", str(tmp_path / "parts")])
    whole, parts = (
        ImagenPipeline.from_pretrained(tmp_path / name).stages["base"].state_dict()
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert whole["net.stem.weight"][:, -4:].any()
