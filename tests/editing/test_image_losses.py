"""Losses of images against values that are known: of rendered scenes, and of pixels by hand."""

import pytest
import torch

from imagen_mini.editing.image_losses import (
    box_loss,
    box_mask,
    classifier_loss,
    color_loss,
    color_similarity,
    image_loss,
    segment_loss,
)
from imagen_mini.scenes.render import masks, render
from imagen_mini.scenes.scene import BACKGROUNDS, COLORS, Scene, SceneObject

RED = SceneObject(16, 16, "square", "red", "large", "solid")
BLUE = SceneObject(45, 45, "square", "blue", "large", "solid")
SCENE = Scene((RED, BLUE), "black")
IMAGE = render(SCENE)
TOP_LEFT, BOTTOM_RIGHT = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)


def test_the_mask_of_a_box_has_its_area():
    mask = box_mask((0.1, 0.25, 0.6, 0.3), 16)
    assert mask.mean().item() == pytest.approx(0.5 * 0.05) and mask.max() <= 1
    assert not mask[:4].any() and not mask[5:].any()  # y from 4 to 4.8
    assert mask[4, 1].item() == pytest.approx(0.8 * 0.4)  # x from 1.6


def test_a_colour_where_it_is_costs_nothing_and_another_half_its_squared_distance():
    inside = box_mask((14 / 64, 14 / 64, 18 / 64, 18 / 64), 64)
    assert color_loss(COLORS["red"], inside)(IMAGE).item() == pytest.approx(0, abs=1e-10)
    distance = sum((2 * a - 2 * b) ** 2 for a, b in zip(COLORS["red"], COLORS["blue"]))
    assert color_loss(COLORS["blue"], inside)(IMAGE).item() == pytest.approx(distance / 2)


def test_a_box_holds_all_nothing_or_half_of_a_colour():
    all_, none = box_loss(COLORS["red"], TOP_LEFT), box_loss(COLORS["red"], BOTTOM_RIGHT)
    assert all_(IMAGE).item() < 1e-3 and none(IMAGE).item() > 0.99
    half = box_loss(COLORS["red"], (0.0, 0.0, 16 / 64, 1.0))  # the square's centre is at x = 16
    assert half(IMAGE).item() == pytest.approx(0.25, abs=0.01)
    both = box_loss(COLORS["red"], TOP_LEFT)(torch.cat([IMAGE, IMAGE.flip(2, 3)]))
    assert both[0] < 0.01 < 0.9 < both[1]


def test_the_segments_of_a_scene_fit_its_own_image_best():
    labels = (masks(SCENE) * torch.tensor([1, 2])[:, None, None]).sum(0)
    palette = [BACKGROUNDS["black"], COLORS["red"], COLORS["blue"]]
    loss = segment_loss(labels, palette)
    moved, exchanged = IMAGE.roll(6, -1), IMAGE.flip(2, 3)
    found = loss(torch.cat([IMAGE, moved, exchanged]))
    assert found[0] < 0.05 and found[1] > 5 * found[0] and found[2] > 5 * found[0]


def test_the_loss_of_an_image_is_half_the_squared_distance():
    other = IMAGE.clone()
    other[0, 1, 5, 7] += 0.3
    assert image_loss(IMAGE)(torch.cat([IMAGE, other])).tolist() == pytest.approx([0, 0.045])


def test_a_classifier_is_believed():
    log_p = lambda images: -images.square().sum((1, 2, 3))
    assert torch.equal(classifier_loss(log_p)(IMAGE), IMAGE.square().sum((1, 2, 3)))


@pytest.mark.parametrize(
    "loss",
    [
        color_loss(COLORS["red"], box_mask((0.2, 0.2, 0.9, 0.6), 4)),
        box_loss(COLORS["red"], (0.2, 0.2, 0.9, 0.6), 0.8),
        segment_loss(torch.arange(16).reshape(4, 4) % 3, list(COLORS.values())[:3]),
        image_loss(torch.zeros(1, 3, 4, 4)),
    ],
    ids=["color", "box", "segment", "image"],
)
def test_gradients_are_those_of_the_loss_and_images_do_not_mix(loss):
    g = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 4, 4, generator=g, dtype=torch.float64).mul(2).sub(1)
    assert torch.autograd.gradcheck(loss, images.requires_grad_(), atol=1e-6)
    assert torch.allclose(loss(images)[1:], loss(images[1:]))


def test_similarity_is_1_where_the_colour_is():
    there = color_similarity(IMAGE, COLORS["red"])[0]
    assert there[16, 16].item() == pytest.approx(1) and there[45, 45] < 0.01
    assert ((there > 0.5) == masks(SCENE)[0]).float().mean() > 0.99


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: box_loss(COLORS["red"], (0.5, 0, 0.5, 1)), r"box \(0.5, 0, 0.5, 1\); expected"),
        (lambda: box_mask((0, 0, 1.5, 1), 8), "in shares of the image"),
        (lambda: color_loss((1, 0), torch.ones(4, 4)), r"colour \(1, 0\); expected red, green"),
        (lambda: color_loss((1, 0, 0), torch.zeros(4, 4)), "at least one pixel"),
        (lambda: segment_loss(torch.full((4, 4), 2), [(0, 0, 0)] * 2), "labels from 2 to 2 with"),
    ],
)
def test_what_cannot_be_a_loss_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
