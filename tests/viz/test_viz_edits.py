"""What notebooks and scripts show of edits."""

import pytest
import torch
from support.scenes import tokens

from imagen_mini.editing.alignment import replacement_mapper
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.evaluation.edit_benchmark import EditScore, swaps
from imagen_mini.evaluation.statistics import format_share
from imagen_mini.scenes.captions import parse_caption
from imagen_mini.scenes.render import masks, render
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.viz.edits import (
    alignment_sheet,
    changed_tokens,
    compare,
    compare_to_same_seed,
    compared_lines,
    covered,
    difference,
    fading_sheet,
    map_tiles,
    monotone,
    sized_captions,
    window_sheet,
)

SOURCE, TARGET = "a red ring", "a blue ring"
ONE = Scene((SceneObject(30, 30, "circle", "red", "large", "solid"),), "white")


def test_images_beside_the_seed_are_those_of_the_pipeline(tiny_pipe):
    options = {"seed": 4, "stages": ("base",), "progress": False}
    seen = compare_to_same_seed(tiny_pipe, SOURCE, TARGET, 4, None, Replace())
    assert seen.shape == (3, 3, *[tiny_pipe.stages["base"].config.unet.image_size] * 2)
    assert torch.allclose(seen[1], tiny_pipe(TARGET, **options).stages["base"][0], atol=1e-4)
    assert torch.allclose(
        seen[[0, 2]],
        tiny_pipe([SOURCE, TARGET], edit=Replace(), **options).stages["base"],
        atol=1e-4,
    )
    assert torch.allclose(
        compare_to_same_seed(tiny_pipe, SOURCE, TARGET, 4, None), seen[:2], atol=1e-4
    )


def test_a_difference_is_black_where_images_agree_and_white_where_they_are_opposite():
    a = torch.full((3, 2, 2), -1.0)
    b = a.clone()
    b[1, 0, 0] = 1.0
    seen = difference(a, b)
    assert seen.shape == (3, 2, 2) and (seen[:, 0, 0] == 1).all() and seen.sum() == 3 - 9


def test_changed_tokens_are_those_that_the_other_prompt_does_not_have():
    assert changed_tokens(tokens("a red ring"), tokens("a small blue ring")) == ([1], [1, 2])


def test_maps_of_the_changed_words_are_one_of_the_source_and_two_of_the_target(tiny_pipe):
    maps = AttentionStore()
    base = tiny_pipe(
        [SOURCE, TARGET],
        edit=Replace(shared_prompt_steps=0.0),
        record=maps,
        stages=("base",),
        progress=False,
    ).stages["base"]
    tiles, labels = map_tiles(maps, list(base), None)
    assert labels == ["'red' in the source", "'blue' by itself", "'blue' as edited"] and all(
        tile.shape == base[0].shape for tile in tiles
    )
    assert (
        not torch.allclose(tiles[1], tiles[2]) and len(map_tiles(maps, list(base), "ring")[0]) == 2
    )


def test_an_alignment_is_generated_with_a_row_for_each_token_of_the_source():
    a, b = tokens("a red ring"), tokens("a small ring")
    (panel,) = alignment_sheet(a, b, {"title": replacement_mapper(a, b)}).axes
    assert (
        panel.get_title() == "title"
        and len(panel.get_yticks()) == len(a.ids)
        and len(panel.get_xticks()) == len(b.ids)
    )
    assert len(panel.texts) == replacement_mapper(a, b).count_nonzero()


def test_comparing_leaves_out_edits_whose_source_is_wrong(tiny_pipe, monkeypatch):
    tasks, scene = (
        swaps("color", 2),
        Scene((SceneObject(30, 30, "circle", "red", "large", "solid"),), "white"),
    )
    assert compare(tiny_pipe, tasks, {"none": None}).tasks == []  # an untrained network
    object.__setattr__(tasks[0].source, "description", parse_caption("a red circle"))
    object.__setattr__(tasks[0].target, "description", parse_caption("a red circle"))
    monkeypatch.setattr(
        "imagen_mini.viz.edits.compare_to_same_seed", lambda *given: render([scene] * 3, 64)
    )
    found = compare(tiny_pipe, tasks, {"none": None, "replace": Replace()})
    assert (
        found.tasks == tasks[:1]
        and [s.success for s in found.scores["replace"]] == [True]
        and len(found.images) == 1
    )
    assert "1 of 1 (21 to 100 %)" in compared_lines(found.scores) and "60 dB" in compared_lines(
        found.scores
    )


def test_shares_have_their_interval():
    assert format_share([True] * 7 + [False]) == "7 of 8 (53 to 98 %)"


def test_the_window_is_generated_with_both_rates():
    good, bad = EditScore(True, True, True, True, 40.0), EditScore(True, True, False, False, 30.0)
    sheet = window_sheet({"a": {0.0: [bad, bad], 1.0: [good, bad]}, "b": {0.0: [good, good]}})
    lines = {c.get_label(): c.lines[0].get_ydata().tolist() for c in sheet.axes[0].containers}
    assert lines == {"shows the new prompt": [1.0, 1.0], "keeps the layout": [0.0, 0.5]}


def test_what_a_object_covers_is_its_mask():
    assert covered(render(ONE, 64)[0]) == pytest.approx(masks(ONE).float().mean().item(), rel=0.15)


def test_captions_that_say_a_size_say_it_of_one_object():
    descriptions = [parse_caption(caption) for caption in sized_captions(5, "large")]
    assert all(
        len(d.objects) == 1 and d.objects[0].size == "large" and d.objects[0].color
        for d in descriptions
    )


def test_rank_correlation():
    assert (
        monotone(torch.tensor([1.0, 2.0, 5.0])) == 1
        and monotone(torch.tensor([3.0, 2.0, 0.0])) == -1
    )


def test_fading_is_generated_with_a_line_for_each_caption():
    sheet = fading_sheet(
        "small", [-1, 0, 1], torch.tensor([[0.1, 0.05, 0.02], [0.2, 0.1, 0.1]]), ["x", "y"]
    )
    assert [line.get_ydata()[0] for line in sheet.axes[0].lines] == pytest.approx([0.1, 0.2])
