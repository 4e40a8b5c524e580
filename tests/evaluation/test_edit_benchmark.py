"""Judging edits: what counts as success, as a kept layout, and as nothing else changed."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.scenes import one, scene_of

import imagen_mini
from imagen_mini.evaluation.edit_benchmark import (
    ADDED,
    EditScore,
    EditTask,
    additions,
    counted_edits,
    edit_table,
    edit_tasks,
    evaluate_edits,
    score_edit,
    swaps,
    unedited_psnr,
)
from imagen_mini.scenes.captions import Caption, parse_caption
from imagen_mini.scenes.parse import UNCLEAR, ParsedScene, parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.scenes.world import find_world

FROM_TO = [f"a {color} circle to the left of a blue star" for color in ("red", "green")]
SWAP = EditTask("color", 0, 0, *(Caption(text, (), parse_caption(text)) for text in FROM_TO))
BEFORE = Scene((one(), one("star", "blue", "small", x=48, y=30)), "gray")


def judged(after, before=BEFORE, swap=SWAP, size=64):
    source, edited = parse_image(torch.cat([render(before, size), render(after, size)]))
    return score_edit(swap, source, edited)


def edited(circle=None, star=None, background="gray"):
    """BEFORE with a green circle, as SWAP asks for, and perhaps other changes."""
    first, second = BEFORE.objects[::-1]
    return Scene(
        (replace(first, **{"color": "green"} | (circle or {})), replace(second, **star or {})),
        background,
    )


@pytest.mark.parametrize("size", [64, 256])
def test_an_edit_that_changes_what_was_asked_for_and_nothing_else_is_good(size):
    assert (
        judged(edited(), size=size) == EditScore(True, True, True, True)
        and judged(edited(), size=size).good
    )


def test_an_edit_may_move_objects_by_a_little():
    assert judged(edited(circle={"x": 22, "y": 31}, star={"x": 46})).good


@pytest.mark.parametrize(
    "after, success",
    [
        (edited(star={"y": 45}), True),
        (edited(circle={"x": 12}), True),
        (edited(star={"color": "pink"}), False),
        (edited(star={"shape": "ring"}), False),
        (edited(star={"size": "large"}), True),
    ],
    ids=["moved", "itself moved", "recolored", "reshaped", "resized"],
)
def test_an_edit_that_moves_anything_or_changes_another_object_has_not_kept_the_layout(
    after, success
):
    assert judged(after) == EditScore(True, success, False, False)


@pytest.mark.parametrize(
    "after, success",
    [
        (edited(circle={"size": "small"}), True),
        (edited(background="white"), True),
        (edited(circle={"shape": "square"}), False),
    ],
    ids=["itself resized", "background", "itself reshaped"],
)
def test_an_edit_that_changes_more_in_its_place_has_kept_the_layout_but_not_all_else(
    after, success
):
    assert judged(after) == EditScore(True, success, True, False)


def test_a_texture_that_changes_is_seen_in_the_large_image():
    assert not judged(edited(star={"texture": "striped"}), size=256).layout
    assert judged(edited(circle={"texture": "striped"}), size=256) == EditScore(
        True, True, True, False
    )


@pytest.mark.parametrize("circle", [{"color": "red"}, {"color": "orange"}, {"color": "blue"}])
def test_an_edit_to_another_color_than_asked_for_is_kept_but_no_success(circle):
    assert judged(edited(circle=circle)) == EditScore(True, False, True, True)


ONE_MORE = (*edited().objects, one("ring", "pink", "small", x=34, y=10))


@pytest.mark.parametrize(
    "objects", [(), BEFORE.objects[:1], ONE_MORE], ids=["none", "one gone", "one more"]
)
def test_an_edit_that_loses_or_adds_an_object_is_neither(objects):
    score = judged(Scene(objects, "gray"))
    assert not score.success and not score.layout and not score.kept


def test_an_edit_of_a_source_that_is_wrong_already_does_not_count():
    score = judged(edited(), before=Scene(BEFORE.objects[:1], "gray"))
    assert not score.source_right and not score.layout
    unreadable = ParsedScene(None, None, (), ("noise",))
    assert score_edit(SWAP, unreadable, parse_image(render(edited(), 64))[0]) == EditScore(
        False, True, False, False
    )
    assert score_edit(SWAP, parse_image(render(BEFORE, 64))[0], unreadable) == EditScore(
        True, False, False, False
    )


def test_one_of_two_like_objects_can_be_edited():
    swap = EditTask(
        "color",
        0,
        0,
        *(
            Caption(t, (), parse_caption(t))
            for t in ("two red circles", "a green circle and a red circle")
        ),
    )
    before = Scene((one(x=20), one(x=45)), "white")
    assert judged(Scene((one(x=20, color="green"), one(x=45)), "white"), before, swap).good
    assert not judged(before, before, swap).success


@pytest.mark.parametrize("attribute", ["color", "shape"])
def test_a_swap_changes_one_word_of_one_object(attribute):
    list_of_swaps = swaps(attribute, 40)
    assert [len(s.source.description.objects) for s in list_of_swaps] == [1, 2] * 20
    for s in list_of_swaps:
        a, b = s.source.text.split(), s.target.text.split()
        words = [(x, y) for x, y in zip(a, b) if x != y and {x, y} != {"a", "an"}]
        before, after = s.source.description.objects[s.obj], s.target.description.objects[s.obj]
        assert len(a) == len(b) and words == [
            (getattr(before, attribute), getattr(after, attribute))
        ]
        assert replace(before, **{attribute: ""}) == replace(after, **{attribute: ""})
        assert parse_caption(s.target.text) == s.target.description
    assert swaps(attribute, 5) == list_of_swaps[:5]


@pytest.mark.parametrize("attribute", ADDED)
def test_an_addition_says_one_object_more_in_the_same_words(attribute):
    tasks = additions(attribute, 40)
    assert [len(t.source.description.objects) for t in tasks] == [1, 2] * 20 and tasks[
        :5
    ] == additions(attribute, 5)
    for t in tasks:
        a, b = (
            [w for w in c.text.replace(",", "").split() if w not in ("a", "an")]
            for c in (t.source, t.target)
        )
        new = [w for w in b if w not in a]
        assert [w for w in b if w not in new] == a and parse_caption(
            t.target.text
        ) == t.target.description
        if attribute == "background":
            assert (
                t.obj is None
                and new == ["on", t.target.description.background, "background"]
                and t.source.description.background is None
            )
            assert replace(t.target.description, background=None) == t.source.description
        else:
            before, after = (d.objects[t.obj] for d in (t.source.description, t.target.description))
            assert (
                getattr(before, attribute) is None
                and new == [getattr(after, attribute)]
                and replace(after, **{attribute: None}) == before
            )


@pytest.mark.parametrize(
    "after, score",
    [
        (Scene(BEFORE.objects, "white"), (True, True, True)),
        (Scene(BEFORE.objects, "gray"), (False, True, True)),
        (Scene(edited().objects, "white"), (False, False, False)),
        (Scene(BEFORE.objects[:1], "white"), (False, False, False)),
    ],
    ids=["done", "not done", "an object recolored", "an object gone"],
)
def test_a_new_background_is_to_leave_every_object_alone(after, score):
    task = EditTask(
        "background",
        None,
        0,
        *(
            Caption(t, (), parse_caption(t))
            for t in (FROM_TO[0], FROM_TO[0] + " on a white background")
        ),
    )
    assert judged(after, swap=task) == EditScore(True, *score)


def test_pixels_count_where_the_edit_should_have_left_them_alone():
    """A new colour of the edited object costs nothing. Noise elsewhere costs its PSNR. Another
    object that moved costs a lot.
    """

    def psnr(after, task=SWAP, noise=0.0):
        images = torch.cat([render(BEFORE, 64), render(after, 64)])
        images[1] += noise * torch.randn(
            images[1].shape, generator=torch.Generator().manual_seed(0)
        )
        return unedited_psnr(task, *parse_image(images), images)

    assert psnr(edited()) == psnr(BEFORE) == psnr(edited(circle={"size": "small", "x": 22})) == 60
    assert psnr(edited(), noise=0.02) == pytest.approx(20 * math.log10(2 / 0.02), abs=0.2)
    assert psnr(edited(star={"y": 45})) < 25 and psnr(edited(background="white")) < 15
    new_ground = EditTask(
        "background",
        None,
        0,
        *(
            Caption(t, (), parse_caption(t))
            for t in (FROM_TO[0], FROM_TO[0] + " on a white background")
        ),
    )
    assert (
        psnr(Scene(BEFORE.objects, "white"), new_ground)
        == 60
        > 30
        > psnr(Scene(edited().objects, "white"), new_ground)
    )
    images = torch.cat([render(BEFORE, 64), torch.zeros(1, 3, 64, 64)])
    assert (
        unedited_psnr(SWAP, parse_image(images)[0], ParsedScene(None, None, (), ("noise",)), images)
        is None
    )


def test_perfect_edits_score_one_and_unedited_images_zero():
    list_of_swaps = swaps("color", 8)
    by_text = {s.source.text: s for s in list_of_swaps}

    def generate(prompts, seed, edit=True):
        s = by_text[prompts[0]]
        source = scene_of(s.source.description, random.Random(seed))
        objects = list(s.source.description.assign(source))
        if edit:
            objects[s.obj] = replace(
                objects[s.obj], color=s.target.description.objects[s.obj].color
            )
        return render([source, replace(source, objects=tuple(objects))], 64)

    perfect = edit_table([score for _, _, (score,) in evaluate_edits(generate, list_of_swaps)])
    assert perfect["n"] == perfect["source_right"] == 8
    assert perfect["good"] == perfect["success"] == perfect["all_kept"] == perfect["good_high"] == 1
    unedited = edit_table(
        [
            score
            for _, _, (score,) in evaluate_edits(
                lambda p, seed: generate(p, seed, False), list_of_swaps
            )
        ]
    )
    assert (
        unedited["success"] == unedited["good"] == unedited["all_kept"] == 0
        and unedited["layout"] == 1
    )


def test_rates_are_taken_over_the_edits_whose_source_was_correct():
    row = edit_table(
        [
            EditScore(True, True, True, True),
            EditScore(True, True, True, False),
            EditScore(True, False, True, True),
            EditScore(True, True, False, False),
            EditScore(False, True, False, False),
        ]
    )
    assert (
        row["n"],
        row["source_right"],
        row["success"],
        row["layout"],
        row["good"],
        row["all_kept"],
    ) == (5, 4, 0.75, 0.75, 0.5, 0.25)
    assert edit_table([])["n"] == 0


def test_the_committed_list_of_edits_is_what_is_evaluated():
    rows = [
        f"{name}\t{t.seed}\t{t.source.text}\t{t.target.text}"
        for name, tasks in edit_tasks(30).items()
        for t in tasks
    ]
    assert (
        Path(imagen_mini.__file__).parent / "evaluation/edit_benchmark.tsv"
    ).read_text().splitlines() == ["kind\tseed\tsource\ttarget", *rows]


# ---------------------------------------------------------------- what counts as an edit


def test_an_edit_whose_source_shows_the_target_already_does_not_count():
    """'a red circle' -> 'a large red circle', where the source's circle is large by chance."""
    source, target = (
        Caption(text, (), parse_caption(text)) for text in ("a red circle", "a large red circle")
    )
    task = EditTask("size", 0, 0, source, target)
    large, small = (
        ParsedScene(scene, "white", scene.objects, ())
        for scene in (
            Scene((SceneObject(30, 30, "circle", "red", size, None),), "white")
            for size in ("large", "small")
        )
    )
    empty, needed = score_edit(task, large, large), score_edit(task, small, large)
    assert empty.success and not empty.asked and not empty.counts
    assert needed.success and needed.asked and needed.counts
    row = edit_table([empty, needed, score_edit(task, small, small)])
    assert (row["n"], row["source_right"], row["asked"], row["success"]) == (3, 3, 2, 0.5)
    assert counted_edits(row) == 2 and counted_edits({"source_right": 7}) == 7


def test_how_far_an_object_moved_is_told():
    task = EditTask("color", 0, 0, *(Caption(t, (), parse_caption(t)) for t in TWO_COLORS))

    def parsed(color, x):
        scene = Scene((SceneObject(30, x, "circle", color, "large", None),), "white")
        return ParsedScene(scene, "white", scene.objects, ())

    scores = [score_edit(task, parsed("red", 30), parsed("blue", 30 + k)) for k in (0, 3, 4)]
    assert [s.moved for s in scores] == [0, 3, 4]
    assert [s.layout for s in scores] == [True, True, False]


TWO_COLORS = ("a red circle", "a blue circle")


# ---------------------------------------------------------------- any world


STUDIO = find_world("studio")


@pytest.mark.parametrize("kind", ["background added", "material added", "color added"])
def test_additions_of_another_world_have_its_words_and_its_judge_scores_them(kind):
    assert kind in edit_tasks(0, world=STUDIO) and "material added" not in edit_tasks(0)
    tasks = edit_tasks(4, world=STUDIO)[kind]
    for task in tasks:
        attribute = kind.split()[0]
        before, after = task.source.description, task.target.description
        assert STUDIO.parse_caption(task.target.text) == after
        if attribute == "background":
            assert before.background is None and after.background in STUDIO.vocabulary.backgrounds
        else:
            assert getattr(before.objects[task.obj], attribute) is None
            assert getattr(after.objects[task.obj], attribute) is not None

    # a perfect edit and none at all, rendered, and read by this world's judge
    def generate(prompts, seed):
        task = next(t for t in tasks if t.source.text == prompts[0])
        after = STUDIO.scene_matching(task.target.description, random.Random(seed))
        objects = list(task.target.description.assign(after))
        before = replace(after, background=other(after.background, STUDIO.vocabulary.backgrounds))
        if task.obj is not None:
            old = objects[task.obj]
            words = STUDIO.vocabulary.materials if kind == "material added" else ("red", "blue")
            word = other(getattr(old, kind.split()[0]), words)
            objects[task.obj] = replace(old, **{kind.split()[0]: word})
            before = replace(after, objects=tuple(objects))
        return STUDIO.render([before, after, before], 64)

    scores = [of for _, _, of in evaluate_edits(generate, tasks, STUDIO)]
    assert sum(perfect.source_right for perfect, _ in scores) >= 3  # the judge may refuse one
    for perfect, nothing in scores:
        if perfect.source_right:
            assert perfect.asked and perfect.good and perfect.kept
            assert not nothing.success and nothing.layout and nothing.kept


def other(word, words):
    """A word of these that is not this one."""
    return next(w for w in words if w != word)


def test_a_lamp_on_another_side_is_not_what_an_edit_of_a_colour_keeps():
    task = EditTask("color", 0, 0, *(Caption(t, (), parse_caption(t)) for t in TWO_COLORS))

    def parsed(color, light, material="matte"):
        obj = SceneObject(30, 30, "circle", color, "large", None, material)
        scene = Scene((obj,), "wood", light)
        return ParsedScene(scene, "wood", scene.objects, ())

    source = parsed("red", "left")
    assert score_edit(task, source, parsed("blue", "left")).kept
    assert not score_edit(task, source, parsed("blue", "right")).kept
    assert not score_edit(task, source, parsed("blue", "left", "shiny")).kept
    # what could not be read has not changed for all that anybody knows
    assert score_edit(task, source, parsed("blue", UNCLEAR, UNCLEAR)).kept
