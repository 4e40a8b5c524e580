"""Judging edits: what counts as success, as a kept layout, and as nothing else changed."""

import random
from dataclasses import replace

import pytest
import torch
from shown import one, scene_of

from imagen_mini.edits import EditScore, Swap, edit_table, evaluate_edits, score_edit, swaps
from imagen_mini.scenes.captions import Caption, read
from imagen_mini.scenes.parse import Reading, parse
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene


FROM_TO = [f"a {color} circle to the left of a blue star" for color in ("red", "green")]
SWAP = Swap("color", 0, 0, *(Caption(text, (), read(text)) for text in FROM_TO))
BEFORE = Scene((one(), one("star", "blue", "small", x=48, y=30)), "gray")


def judged(after, before=BEFORE, swap=SWAP, size=64):
    source, edited = parse(torch.cat([render(before, size), render(after, size)]))
    return score_edit(swap, source, edited)


def edited(circle=None, star=None, background="gray"):
    """BEFORE with a green circle, as SWAP asks for, and perhaps other changes."""
    first, second = BEFORE.objects[::-1]
    return Scene((replace(first, **{"color": "green"} | (circle or {})), replace(second, **star or {})), background)


@pytest.mark.parametrize("size", [64, 256])
def test_an_edit_that_changes_what_was_asked_for_and_nothing_else_is_good(size):
    assert judged(edited(), size=size) == EditScore(True, True, True, True) and judged(edited(), size=size).good


def test_an_edit_may_move_things_by_a_little():
    assert judged(edited(circle={"x": 22, "y": 31}, star={"x": 46})).good


@pytest.mark.parametrize("after, success", [
    (edited(star={"y": 45}), True), (edited(circle={"x": 12}), True), (edited(star={"color": "pink"}), False), (edited(star={"shape": "ring"}), False),
    (edited(star={"size": "large"}), True),
], ids=["moved", "itself moved", "recolored", "reshaped", "resized"])
def test_an_edit_that_moves_anything_or_changes_another_thing_has_not_kept_the_layout(after, success):
    assert judged(after) == EditScore(True, success, False, False)


@pytest.mark.parametrize("after, success", [
    (edited(circle={"size": "small"}), True), (edited(background="white"), True), (edited(circle={"shape": "square"}), False),
], ids=["itself resized", "background", "itself reshaped"])
def test_an_edit_that_changes_more_in_its_place_has_kept_the_layout_but_not_all_else(after, success):
    assert judged(after) == EditScore(True, success, True, False)


def test_a_texture_that_changes_is_seen_in_the_large_picture():
    assert not judged(edited(star={"texture": "striped"}), size=256).layout
    assert judged(edited(circle={"texture": "striped"}), size=256) == EditScore(True, True, True, False)


@pytest.mark.parametrize("circle", [{"color": "red"}, {"color": "orange"}, {"color": "blue"}])
def test_an_edit_to_another_color_than_asked_for_is_kept_but_no_success(circle):
    assert judged(edited(circle=circle)) == EditScore(True, False, True, True)


ONE_MORE = (*edited().objects, one("ring", "pink", "small", x=34, y=10))


@pytest.mark.parametrize("objects", [(), BEFORE.objects[:1], ONE_MORE], ids=["none", "one gone", "one more"])
def test_an_edit_that_loses_or_adds_a_thing_is_neither(objects):
    score = judged(Scene(objects, "gray"))
    assert not score.success and not score.layout and not score.kept


def test_an_edit_of_a_source_that_is_wrong_already_does_not_count():
    score = judged(edited(), before=Scene(BEFORE.objects[:1], "gray"))
    assert not score.source_right and not score.layout
    unreadable = Reading(None, None, (), ("noise",))
    assert score_edit(SWAP, unreadable, parse(render(edited(), 64))[0]) == EditScore(False, True, False, False)
    assert score_edit(SWAP, parse(render(BEFORE, 64))[0], unreadable) == EditScore(True, False, False, False)


def test_one_of_two_like_things_can_be_edited():
    swap = Swap("color", 0, 0, *(Caption(t, (), read(t)) for t in ("two red circles", "a green circle and a red circle")))
    before = Scene((one(x=20), one(x=45)), "white")
    assert judged(Scene((one(x=20, color="green"), one(x=45)), "white"), before, swap).good
    assert not judged(before, before, swap).success


@pytest.mark.parametrize("attribute", ["color", "shape"])
def test_a_swap_changes_one_word_of_one_thing(attribute):
    list_of_swaps = swaps(attribute, 40)
    assert [len(s.source.description.things) for s in list_of_swaps] == [1, 2] * 20
    for s in list_of_swaps:
        a, b = s.source.text.split(), s.target.text.split()
        words = [(x, y) for x, y in zip(a, b) if x != y and {x, y} != {"a", "an"}]
        before, after = s.source.description.things[s.thing], s.target.description.things[s.thing]
        assert len(a) == len(b) and words == [(getattr(before, attribute), getattr(after, attribute))]
        assert replace(before, **{attribute: ""}) == replace(after, **{attribute: ""})
        assert read(s.target.text) == s.target.description
    assert swaps(attribute, 5) == list_of_swaps[:5]


def test_perfect_edits_score_one_and_unedited_pictures_zero():
    list_of_swaps = swaps("color", 8)
    by_text = {s.source.text: s for s in list_of_swaps}

    def draw(prompts, seed, edit=True):
        s = by_text[prompts[0]]
        source = scene_of(s.source.description, random.Random(seed))
        objects = list(s.source.description.assign(source))
        if edit:
            objects[s.thing] = replace(objects[s.thing], color=s.target.description.things[s.thing].color)
        return render([source, replace(source, objects=tuple(objects))], 64)

    perfect = edit_table([score for _, _, (score,) in evaluate_edits(draw, list_of_swaps)])
    assert perfect["n"] == perfect["source_right"] == 8
    assert perfect["good"] == perfect["success"] == perfect["all_kept"] == perfect["good_high"] == 1
    unedited = edit_table([score for _, _, (score,) in evaluate_edits(lambda p, seed: draw(p, seed, False), list_of_swaps)])
    assert unedited["success"] == unedited["good"] == unedited["all_kept"] == 0 and unedited["layout"] == 1


def test_rates_are_taken_over_the_edits_whose_source_was_right():
    row = edit_table([EditScore(True, True, True, True), EditScore(True, True, True, False), EditScore(True, False, True, True),
                      EditScore(True, True, False, False), EditScore(False, True, False, False)])
    assert (row["n"], row["source_right"], row["success"], row["layout"], row["good"], row["all_kept"]) == (5, 4, 0.75, 0.75, 0.5, 0.25)
    assert edit_table([])["n"] == 0
