"""Principal components of features: known ones are found, and what they are about is measured."""

import pytest
import torch
from support.scenes import one

from imagen_mini.editing.feature_store import FeatureStore
from imagen_mini.evaluation.feature_maps import (
    as_colors,
    decoder_features,
    explained_by,
    kinds_of_places,
    principal_components,
)
from imagen_mini.scenes.scene import Scene


def test_the_directions_of_largest_variance_are_found_together_over_all_images():
    g = torch.Generator().manual_seed(0)
    known = torch.randn(2, 3, 8, 8, generator=g) * torch.tensor([5.0, 3.0, 2.0])[:, None, None]
    basis = torch.linalg.qr(torch.randn(6, 6, generator=g))[0][:, :3]
    features = torch.einsum("cn,bnhw->bchw", basis, known) + 7
    found, share = principal_components(features)
    assert share.sum().item() == pytest.approx(1, abs=1e-5) and share[0] > share[1] > share[2]
    # they are the known ones up to their mean: the same distances between all places
    flat, expected = (x.transpose(0, 1).flatten(1) for x in (found, known))
    assert torch.allclose(
        torch.cdist(flat.T, flat.T), torch.cdist(expected.T, expected.T), atol=1e-2
    )
    assert torch.allclose(flat.mean(1), torch.zeros(3), atol=1e-4)
    assert (flat.cov() - torch.diag(flat.var(1))).abs().max() < 1e-3  # not correlated
    again, _ = principal_components(features.flip(0))
    assert torch.allclose(again.flip(0), found, atol=1e-4)  # its sign is no accident
    with pytest.raises(ValueError, match="at most 6"):
        principal_components(features, 7)


def test_one_scale_of_colours_holds_for_all_images():
    components = torch.zeros(2, 3, 10, 10)
    components[1] = 4.0
    colors = as_colors(components)
    assert (colors[0] == -1).all() and (colors[1] == 1).all()
    assert as_colors(torch.zeros(1, 3, 4, 4)).isfinite().all()


def test_what_components_are_about_is_told_apart():
    scenes = [
        Scene((one("circle", "red", x=16), one("square", "blue", "small", x=48)), "gray"),
        Scene((one("circle", "blue", x=48), one("square", "red", "small", x=16)), "gray"),
    ]
    shapes, colors = (kinds_of_places(scenes, 32, kind) for kind in ("shape", "color"))
    assert shapes.shape == (2, 32, 32) and shapes.unique().tolist() == [0, 1, 2]
    assert shapes[0, 16, 8] == shapes[1, 16, 24] == 1 and shapes[0, 0, 0] == 0
    assert colors[0, 16, 8] == colors[1, 16, 8] and colors[0, 16, 8] != colors[1, 16, 24]
    by_shape = torch.stack([shapes.float(), shapes.float() ** 2], 1)
    assert explained_by(by_shape, shapes) == pytest.approx(1)
    assert explained_by(by_shape, colors) < 0.9
    assert explained_by(torch.zeros(2, 3, 32, 32), shapes) == 0
    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert explained_by(noise, shapes) < 0.02


def test_the_features_of_the_decoder_are_those_that_the_next_layer_reads(tiny_pipe):
    stage = tiny_pipe.stages["base"]
    images, noise = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    text = tiny_pipe.text_encoder([""])
    found = decoder_features(stage, text, images, 0.5, noise)
    expected = {}
    hooks = [
        block.register_forward_hook(
            lambda _, args, out, name=site.name: expected.update({name: out})
        )
        for level in stage.net.up
        for block, site in zip(level.blocks, level.block_sites)
    ]
    again = decoder_features(stage, text, images, 0.5, noise)
    for hook in hooks:
        hook.remove()
    assert list(found) == list(expected) and all(name.startswith("up") for name in found)
    sizes = [x.shape[-1] for x in found.values()]
    assert sizes == sorted(sizes)  # the coarsest first
    assert all(torch.equal(again[name], expected[name]) for name in found)
    alone = decoder_features(stage, text, images[:1], 0.5, noise[:1])
    assert all(torch.allclose(alone[n], found[n][:1], atol=1e-4) for n in found)
    with pytest.raises(ValueError, match="place_in_unet 'decoder'"):
        FeatureStore("decoder")
