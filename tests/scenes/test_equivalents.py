"""Equivalent scenes: a caption describes them equally well. And training on mixtures of them."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.alternatives import (
    AlternativeMixing,
    Alternatives,
    equivalent_mix_weights,
    mix_alternatives,
)
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.diffusion.gaussian import q_sample, two_candidate_posterior_mean
from imagen_mini.scenes.captions import parse_caption, training_caption
from imagen_mini.scenes.equivalents import (
    find_equivalent,
    is_free,
    move_object,
    recolor_object,
    sides,
    swap_objects,
)
from imagen_mini.scenes.render import render_packed
from imagen_mini.scenes.scene import COLORS, SIZES, Scene, SceneObject, held_out, training_scene
from imagen_mini.training.batches import draw_step_variables
from imagen_mini.training.config import TrainConfig

CIRCLE = SceneObject(x=16, y=30, shape="circle", color="red", size="small", texture="solid")
SQUARE = SceneObject(x=46, y=34, shape="square", color="blue", size="large", texture="dotted")
PAIR = Scene((CIRCLE, SQUARE), "white")


def equivalents(scene, caption, n=40):
    """The different ones among n."""
    return {
        found.scene
        for seed in range(n)
        if (found := find_equivalent(scene, parse_caption(caption), random.Random(seed)))
        is not None
    }


def ways(scene, other):
    """How the scenes differ: objects exchanged, moved or recolored."""

    def all_of(of, *names):
        return sorted(tuple(getattr(o, name) for name in names) for o in of.objects)

    if all_of(scene, "x", "y") != all_of(other, "x", "y"):
        return (
            "moved" if all_of(scene, "shape", "color") == all_of(other, "shape", "color") else "?"
        )
    return "exchanged" if all_of(scene, "color") == all_of(other, "color") else "recolored"


# ---------------------------------------------------------------- the three ways


def test_objects_are_exchanged_and_sizes_and_colours_stay_with_the_place_or_go_along():
    seen = {found.scene for seed in range(40) for found in swap_objects(PAIR, random.Random(seed))}
    assert seen == {
        Scene(
            (
                replace(CIRCLE, x=46, y=34, size=size, color=color),
                replace(SQUARE, x=16, y=30, size=other_size, color=other_color),
            ),
            "white",
        )
        for size, other_size in (("small", "large"), ("large", "small"))
        for color, other_color in (("red", "blue"), ("blue", "red"))
    }


def test_an_object_is_moved_clear_of_its_first_place_and_of_all_others():
    for seed in range(50):
        for found in move_object(PAIR, random.Random(seed)):
            (old,) = set(PAIR.objects) - set(found.scene.objects)
            (new,) = set(found.scene.objects) - set(PAIR.objects)
            assert (
                found.places == ((old.x, old.y), (new.x, new.y))
                and replace(new, x=old.x, y=old.y) == old
            )
            assert is_free(Scene((*PAIR.objects, new), "white"))


def test_an_object_takes_another_colour_and_the_two_places_are_halves_of_it():
    seen = Counter()
    for seed in range(100):
        for found in recolor_object(PAIR, random.Random(seed)):
            (old,) = set(PAIR.objects) - set(found.scene.objects)
            (new,) = set(found.scene.objects) - set(PAIR.objects)
            assert replace(new, color=old.color) == old
            seen[old.shape, new.color] += 1
            inside = [
                (x, y)
                for x in range(64)
                for y in range(64)
                if (x + 0.5 - old.x) ** 2 + (y + 0.5 - old.y) ** 2 < 36
            ]
            side = sides(torch.tensor([found.places]), 64)[0, 0]
            assert 0.35 < sum(side[y, x].item() for x, y in inside) / len(inside) < 0.65
    assert seen.keys() == {
        (o.shape, color) for o in PAIR.objects for color in COLORS if color != o.color
    }


def test_like_objects_stay_alike():
    three = Scene((CIRCLE, replace(CIRCLE, x=46), replace(CIRCLE, y=50)), "white")
    assert not list(recolor_object(three, random.Random(0)))
    assert {ways(three, other) for other in equivalents(three, "three circles")} == {"moved"}


# ---------------------------------------------------------------- what fits the caption


@pytest.mark.parametrize(
    "caption, expected",
    [
        ("a red circle and a blue square", {"exchanged", "moved"}),
        ("a red circle to the left of a blue square", {"moved"}),
        ("a circle to the left of a square", {"moved", "recolored"}),
        ("a circle and a square", {"exchanged", "moved", "recolored"}),
    ],
)
def test_an_equivalent_changes_only_what_the_caption_leaves_open(caption, expected):
    assert {ways(PAIR, other) for other in equivalents(PAIR, caption)} == expected


@pytest.mark.parametrize(
    "caption",
    [
        "a small red circle and a blue square",
        "a red circle and a large blue square on a white background",
    ],
)
def test_sizes_go_along_where_the_caption_says_them(caption):
    found = {other for other in equivalents(PAIR, caption) if ways(PAIR, other) == "exchanged"}
    assert found == {Scene((replace(CIRCLE, x=46, y=34), replace(SQUARE, x=16, y=30)), "white")}


def test_colours_stay_or_go_along_only_where_the_caption_leaves_them_open():
    def colors(caption):
        return {
            (o.color, o.x)
            for other in equivalents(PAIR, caption)
            if ways(PAIR, other) == "exchanged"
            for o in other.objects
            if o.shape == "circle"
        }

    assert colors("a circle and a square") == {("red", 46), ("blue", 46)}
    assert (
        colors("a red circle and a square")
        == colors("a red circle and a blue square")
        == {("red", 46)}
    )


def test_textures_alone_make_no_equivalent():
    # exchanged, they look the same at 64 px
    pair = Scene((CIRCLE, replace(CIRCLE, x=46, texture="striped")), "white")
    assert {ways(pair, other) for other in equivalents(pair, "two red circles")} == {"moved"}


def test_there_is_no_equivalent_that_the_caption_does_not_describe():
    assert not equivalents(PAIR, "a ring")


def test_equivalents_are_of_training_and_fit_the_caption():
    seen = Counter()
    for index in range(400):
        scene = training_scene(5, index)
        assert is_free(scene)
        caption = training_caption(scene, 5, index)
        other = find_equivalent(scene, caption.description, random.Random(index))
        if other is None:
            seen["none"] += 1
            continue
        seen[ways(scene, other.scene)] += 1
        assert (
            other.scene != scene
            and caption.description.fits(other.scene)
            and is_free(other.scene)
            and not held_out(other.scene)
        )
        assert other.scene.background == scene.background and len(other.scene.objects) == len(
            scene.objects
        )
    assert (
        seen["?"] == 0
        and seen["none"] < 60
        and seen["exchanged"] > 80
        and seen["moved"] > 80
        and seen["recolored"] > 10
    )


def test_a_scene_is_not_free_if_an_object_leaves_the_image_or_touches_another():
    assert is_free(PAIR)
    assert not is_free(Scene((replace(CIRCLE, x=5), SQUARE), "white"))
    assert not is_free(Scene((replace(CIRCLE, x=30), SQUARE), "white"))
    assert SIZES["large"] > 5


def test_is_free_agrees_with_random_scenes_of_every_size():
    for index, count in itertools.product(range(20), (1, 2, 3, 4)):
        assert is_free(training_scene(9, index, [float(k + 1 == count) for k in range(4)]))


def test_an_object_whose_texture_is_not_said_takes_another_and_the_small_image_stays_as_it_is():
    seen = Counter()
    for seed in range(100):
        found = find_equivalent(
            PAIR,
            parse_caption("a red circle and a dotted square"),
            random.Random(seed),
            textures=True,
        )
        (new,) = set(found.scene.objects) - set(PAIR.objects)
        assert new == replace(CIRCLE, texture=new.texture) and new.texture != "solid"
        seen[new.texture] += 1
        (x, y), (u, v) = found.places
        assert (x + u, y + v) == pytest.approx((2 * CIRCLE.x, 2 * CIRCLE.y))
    assert len(seen) == 3
    assert (
        find_equivalent(
            PAIR,
            parse_caption("a solid circle and a dotted square"),
            random.Random(0),
            textures=True,
        )
        is None
    )


def test_equivalents_for_super_resolution_differ_in_texture_alone_and_on_both_sides():
    data, numbers = SceneDataset(3), range(12)
    batch, found = data.batch(numbers, 256, 64), data.alternatives(numbers, 256, 64)
    rows, equivalents = data.plan(numbers, 256, 64, alternatives=True).others.equivalents
    assert (
        torch.equal(render_packed(equivalents, 64), batch.low_res[rows])
        and torch.equal(render_packed(equivalents, 256), found.equivalents[rows])
        and torch.equal(found.contradictions, batch.images)
    )
    differ = (batch.images - found.equivalents).abs().amax((1, 2, 3)) > 0.1
    assert 3 < differ.sum() < 12 and torch.equal(differ, found.side.amax((1, 2, 3)) > 0)
    for change, side in zip(
        (batch.images - found.equivalents).abs().amax(1)[differ], found.side[differ]
    ):
        assert (change * side[0]).max() > 0.1 and (change * (1 - side[0])).max() > 0.1


def test_the_equivalents_of_samples_are_their_second_scenes_and_differ_on_both_sides():
    data, numbers = SceneDataset(3), range(12)
    batch, found = data.batch(numbers, 64), data.alternatives(numbers, 64)
    differ = (batch.images - found.equivalents).abs().amax((1, 2, 3)) > 0.1
    assert 3 < differ.sum() < 12
    assert torch.equal(differ, found.side.amax((1, 2, 3)) > 0)  # no second image, no sides
    for x_0, other, side, does in zip(batch.images, found.equivalents, found.side, differ):
        if does:
            change = (x_0 - other).abs().amax(0)
            assert (change * side[0]).max() > 0.1 and (change * (1 - side[0])).max() > 0.1
    again = data.alternatives([7], 64)
    assert torch.equal(again.equivalents[0], found.equivalents[7]) and torch.equal(
        again.side[0], found.side[7]
    )


@pytest.mark.parametrize("world", ["scenes", "studio"])
def test_contradictions_are_made_where_they_are_needed(world):
    data, numbers = SceneDataset(3, world=world), range(8)
    needed = [i in (2, 5) for i in numbers]
    batch, every = data.plan(numbers, 64, alternatives=True).materialize("cpu")
    _, some = data.plan(numbers, 64, alternatives=True, contradicted=needed).materialize("cpu")
    assert torch.equal(some.equivalents, every.equivalents) and torch.equal(some.side, every.side)
    for i in numbers:
        expected = every.contradictions if needed[i] else batch.images
        assert torch.allclose(some.contradictions[i], expected[i], atol=1e-6)
        assert (every.contradictions[i] - batch.images[i]).abs().max() > 0.1
    plan = data.plan(numbers, 64, alternatives=True, contradicted=[False] * 8)
    assert torch.equal(plan.materialize("cpu")[1].contradictions, batch.images)


# ---------------------------------------------------------------- the target


def test_the_expectation_of_two_images_leaves_nothing_to_be_known():
    """x_0 less E[x_0 | x_t] is uncorrelated with whatever is computed from x_t, and x_0 less x_0 of
    the other kind is not.
    """
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, 3, 2, 2, generator=g, dtype=torch.float64)
    n = 40_000
    first = torch.rand(n, 1, 1, 1, generator=g) < 0.5
    x_0, other = torch.where(first, a, b), torch.where(first, b, a)
    log_snr = torch.full((n,), -2.0, dtype=torch.float64)
    x_t = q_sample(x_0, torch.randn(n, 3, 2, 2, generator=g, dtype=torch.float64), log_snr)
    expected = two_candidate_posterior_mean(x_0, other, x_t, log_snr)
    # which of the two it was cannot be seen in it
    assert torch.allclose(expected, two_candidate_posterior_mean(other, x_0, x_t, log_snr))
    for of in (
        torch.ones_like(x_t),
        x_t,
        x_t.tanh(),
        (x_t * (a - b)).sum((1, 2, 3), keepdim=True).sin(),
    ):
        product = ((x_0 - expected) * of).flatten(1)
        assert (product.mean(0).abs() < 5 * product.std(0) / n**0.5).all()
    assert (expected - a).square().mean() < (x_0 - a).square().mean()


@pytest.mark.parametrize("log_snr, p", [(10.0, 1.0), (-30.0, 0.5)])
def test_what_is_seen_clearly_is_known_and_what_is_not_seen_is_either(log_snr, p):
    a, b = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), -0.5)
    log_snr = torch.tensor([log_snr])
    x_t = q_sample(a, torch.zeros_like(a), log_snr)
    assert torch.allclose(
        two_candidate_posterior_mean(a, b, x_t, log_snr), p * a + (1 - p) * b, atol=1e-3
    )


# ---------------------------------------------------------------- what is shown


def alternatives(n):
    side = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(n, 1, 2, 2)
    return Alternatives(torch.ones(n, 3, 2, 2), side, torch.full((n, 3, 2, 2), -1.0))


def test_images_on_the_way_to_equivalents_are_between_the_two_each_side_by_its_own_share():
    x_0, seconds = torch.zeros(4, 3, 2, 2), alternatives(4)
    shares = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.2, 0.7], [0.5, 0.5]])
    out = mix_alternatives(
        x_0, seconds, shares, torch.zeros(4), torch.tensor([-3.0, -3.0, -3.0, 2.0])
    )
    assert torch.allclose(out["noised_image"][:3, 0, 0], shares[:3])
    assert torch.equal(out["noised_image"][3], x_0[3])  # with little noise objects are decided
    assert torch.equal(out["alternative_x_0"], seconds.equivalents)


def test_images_with_a_mistake_are_between_the_two_and_what_is_correct_stays_x_0():
    x_0, seconds = torch.zeros(3, 3, 2, 2), alternatives(3)
    out = mix_alternatives(
        x_0,
        seconds,
        torch.zeros(3, 2),
        torch.tensor([1.0, 0.25, 1.0]),
        torch.tensor([-3.0, -3.0, 2.0]),
    )
    assert [x.unique().tolist() for x in out["noised_image"]] == [[-1.0], [-0.25], [0.0]]
    assert torch.equal(out["alternative_x_0"], x_0)


def test_half_of_the_time_one_place_is_half_way_and_the_other_itself():
    shares = equivalent_mix_weights(4000, torch.Generator().manual_seed(0))
    one = (shares == torch.tensor([0.5, 0.0])).all(1) | (shares == torch.tensor([0.0, 0.5])).all(1)
    assert one.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (
        shares[~one].mean().item() == pytest.approx(0.5, abs=0.02)
        and 0 <= shares.min()
        and shares.max() <= 1
    )


def test_each_image_has_an_equivalent_or_a_contradiction_or_neither_and_none_without_its_caption():
    config, stage = (
        TrainConfig(batch_size=20_000, cond_drop_prob=0.1),
        DiffusionStage(PRESETS["tiny"]["base"]),
    )
    found = draw_step_variables(config, stage, 0, AlternativeMixing(0.5, 0.3))
    equivalent, contradicts = found["equivalent_mix"].any(1), found["contradiction"] > 0
    assert not (equivalent & contradicts).any() and not (contradicts & found["drop"]).any()
    assert equivalent.float().mean().item() == pytest.approx(
        0.5, abs=0.02
    ) and contradicts.float().mean().item() == pytest.approx(0.3 * 0.9, abs=0.02)
    assert (found["contradiction"][contradicts] == 1).float().mean().item() == pytest.approx(
        0.5, abs=0.03
    ) and found["contradiction"].max() <= 1


@pytest.mark.parametrize("equivalent, contradiction", [(-0.1, 0.0), (0.0, -0.1), (0.6, 0.5)])
def test_shares_that_are_none_are_an_error(equivalent, contradiction):
    with pytest.raises(
        ValueError, match="_prob must be at least 0|_prob .*: expected shares of all images"
    ):
        TrainConfig(equivalent_prob=equivalent, contradiction_prob=contradiction)
