"""Two things in each other's place: scenes that a caption describes as well, and training on what lies between."""

import itertools
import random
from dataclasses import replace

import pytest
import torch

from imagen_mini.config import TrainConfig
from imagen_mini.data import Scenes, Twins
from imagen_mini.diffusion import expected_of_two, q_sample
from imagen_mini.scenes.captions import read, training_caption
from imagen_mini.scenes.exchange import exchange, is_free
from imagen_mini.scenes.scene import SIZES, Object, Scene, held_out, training_scene
from imagen_mini.training import how_far_exchanged, on_the_way

CIRCLE = Object(x=16, y=30, shape="circle", color="red", size="small", texture="solid")
SQUARE = Object(x=46, y=34, shape="square", color="blue", size="large", texture="dotted")
PAIR = Scene((CIRCLE, SQUARE), "white")


def exchanged(scene, caption, seed=0):
    return exchange(scene, read(caption), random.Random(seed))


def test_places_are_exchanged_and_sizes_stay_with_the_place_or_go_along():
    seen = {exchanged(PAIR, "a red circle and a blue square", seed).scene for seed in range(20)}
    assert seen == {Scene((replace(CIRCLE, x=46, y=34, size=circle), replace(SQUARE, x=16, y=30, size=square)), "white")
                    for circle, square in (("small", "large"), ("large", "small"))}


@pytest.mark.parametrize("caption", ["a small red circle and a blue square", "a red circle and a large blue square on a white background"])
def test_sizes_go_along_where_the_caption_says_them(caption):
    assert {exchanged(PAIR, caption, seed).scene for seed in range(20)} == {Scene((replace(CIRCLE, x=46, y=34), replace(SQUARE, x=16, y=30)), "white")}


@pytest.mark.parametrize("scene, caption", [
    (PAIR, "a red circle to the left of a blue square"),
    (Scene((CIRCLE,), "white"), "a red circle"),
    (Scene((CIRCLE, replace(CIRCLE, x=46, texture="striped")), "white"), "two red circles"),          # textures do not count: at 64 px none shows
    (Scene((CIRCLE, replace(SQUARE, y=58 - int(SQUARE.reach), size="large"), replace(SQUARE, x=9, y=9, color="red", size="small")), "black"), "a ring"),
])
def test_there_is_no_second_scene_where_things_cannot_be_exchanged(scene, caption):
    assert exchanged(scene, caption) is None


def test_second_scenes_are_of_training_and_fit_the_caption():
    found = 0
    for index in range(400):
        scene = training_scene(5, index)
        assert is_free(scene)
        caption = training_caption(scene, 5, index)
        other = exchange(scene, caption.description, random.Random(index))
        if other is not None:
            found += 1
            assert other.scene != scene and caption.description.fits(other.scene) and is_free(other.scene) and not held_out(other.scene)
            assert other.scene.background == scene.background and sorted(o.color for o in other.scene.objects) == sorted(o.color for o in scene.objects)
    assert 100 < found < 300                           # not for single things, equal ones, or related ones


def test_a_scene_is_not_free_if_a_thing_leaves_the_picture_or_touches_another():
    assert is_free(PAIR)
    assert not is_free(Scene((replace(CIRCLE, x=5), SQUARE), "white"))
    assert not is_free(Scene((replace(CIRCLE, x=30), SQUARE), "white"))
    assert SIZES["large"] > 5


def test_the_twins_of_samples_are_their_second_scenes_and_each_side_holds_its_thing():
    data, numbers = Scenes(3), range(12)
    batch, twins = data.batch(numbers, 64), data.twins(numbers, 64)
    differ = (batch.pictures - twins.pictures).abs().amax((1, 2, 3)) > 0.1
    assert 3 < differ.sum() < 12
    assert torch.equal(differ, twins.side.amax((1, 2, 3)) > 0)           # no second picture, no sides
    for x_0, other, side, does in zip(batch.pictures, twins.pictures, twins.side, differ):
        if does:                                       # things differ on both sides
            change = (x_0 - other).abs().amax(0)
            assert (change * side[0]).max() > 0.1 and (change * (1 - side[0])).max() > 0.1
    again = data.twins([7], 64)
    assert torch.equal(again.pictures[0], twins.pictures[7]) and torch.equal(again.side[0], twins.side[7])


# ---------------------------------------------------------------- the target

def test_the_expectation_of_two_pictures_leaves_nothing_to_be_known():
    """x_0 less E[x_0 | x_t] is uncorrelated with whatever is computed from x_t, and x_0 less x_0 of the other kind is not."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, 3, 2, 2, generator=g, dtype=torch.float64)
    n = 40_000
    first = (torch.rand(n, 1, 1, 1, generator=g) < 0.5)
    x_0, other = torch.where(first, a, b), torch.where(first, b, a)
    log_snr = torch.full((n,), -2.0, dtype=torch.float64)
    x_t = q_sample(x_0, torch.randn(n, 3, 2, 2, generator=g, dtype=torch.float64), log_snr)
    expected = expected_of_two(x_0, other, x_t, log_snr)
    assert torch.allclose(expected, expected_of_two(other, x_0, x_t, log_snr))                         # which of the two it was cannot be seen in it
    for of in (torch.ones_like(x_t), x_t, x_t.tanh(), (x_t * (a - b)).sum((1, 2, 3), keepdim=True).sin()):
        product = ((x_0 - expected) * of).flatten(1)
        assert (product.mean(0).abs() < 5 * product.std(0) / n ** 0.5).all()
    assert (expected - a).square().mean() < (x_0 - a).square().mean()


@pytest.mark.parametrize("log_snr, p", [(10.0, 1.0), (-30.0, 0.5)])
def test_what_is_seen_clearly_is_known_and_what_is_not_seen_is_either(log_snr, p):
    a, b = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), -0.5)
    log_snr = torch.tensor([log_snr])
    x_t = q_sample(a, torch.zeros_like(a), log_snr)
    assert torch.allclose(expected_of_two(a, b, x_t, log_snr), p * a + (1 - p) * b, atol=1e-3)


# ---------------------------------------------------------------- what is shown

def test_pictures_on_the_way_are_between_the_two_each_side_by_its_own_share():
    x_0, other = torch.zeros(4, 3, 2, 2), torch.ones(4, 3, 2, 2)
    side = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(4, 1, 2, 2)
    shares = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.2, 0.7], [0.5, 0.5]])
    shown = on_the_way(x_0, Twins(other, side), shares, torch.tensor([-3.0, -3.0, -3.0, 2.0]))
    assert torch.allclose(shown[:3, 0, 0], shares[:3])
    assert torch.equal(shown[3], x_0[3])               # with little noise things are decided


def test_half_of_the_time_one_thing_is_half_way_and_the_other_itself():
    shares = how_far_exchanged(4000, torch.Generator().manual_seed(0))
    one = ((shares == torch.tensor([0.5, 0.0])).all(1) | (shares == torch.tensor([0.0, 0.5])).all(1))
    assert one.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares[~one].mean().item() == pytest.approx(0.5, abs=0.02) and 0 <= shares.min() and shares.max() <= 1


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_to_1_is_an_error(share):
    with pytest.raises(ValueError, match="exchanged .*: expected a share from 0 to 1"):
        TrainConfig(exchanged=share)


def test_is_free_agrees_with_random_scenes_of_every_size():
    for index, count in itertools.product(range(20), (1, 2, 3, 4)):
        assert is_free(training_scene(9, index, [float(k + 1 == count) for k in range(4)]))
