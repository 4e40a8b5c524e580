"""Plots of edits."""

import pytest
import torch
from support.scenes import tokens

from imagen_mini.editing.alignment import replacement_mapper
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.evaluation.edit_benchmark import EditScore
from imagen_mini.viz.edits import (
    attention_map_images,
    difference_image,
    plot_token_mappers,
    plot_window_sweep,
    plot_word_weights,
)

SOURCE, TARGET = "a red ring", "a blue ring"


def test_a_difference_is_black_where_images_agree_and_white_where_they_are_opposite():
    a = torch.full((3, 2, 2), -1.0)
    b = a.clone()
    b[1, 0, 0] = 1.0
    seen = difference_image(a, b)
    assert seen.shape == (3, 2, 2) and (seen[:, 0, 0] == 1).all() and seen.sum() == 3 - 9


def test_maps_of_changed_words_are_one_of_the_source_and_two_of_the_target(tiny_pipe):
    maps = AttentionStore()
    base = tiny_pipe(
        [SOURCE, TARGET],
        edit=Replace(shared_prompt_steps=0.0),
        attention_store=maps,
        stages=("base",),
        progress=False,
    ).stages["base"]
    tiles, labels = attention_map_images(maps, list(base), None)
    assert labels == ["'red' in the source", "'blue' by itself", "'blue' as edited"] and all(
        tile.shape == base[0].shape for tile in tiles
    )
    assert (
        not torch.allclose(tiles[1], tiles[2])
        and len(attention_map_images(maps, list(base), "ring")[0]) == 2
    )


def test_a_mapper_is_plotted_with_a_row_for_each_token_of_the_source():
    a, b = tokens("a red ring"), tokens("a small ring")
    (ax,) = plot_token_mappers(a, b, {"title": replacement_mapper(a, b)}).axes
    assert (
        ax.get_title() == "title"
        and len(ax.get_yticks()) == len(a.ids)
        and len(ax.get_xticks()) == len(b.ids)
    )
    assert len(ax.texts) == replacement_mapper(a, b).count_nonzero()


def test_the_window_is_plotted_with_both_rates():
    good, bad = EditScore(True, True, True, True, 40.0), EditScore(True, True, False, False, 30.0)
    fig = plot_window_sweep({"a": {0.0: [bad, bad], 1.0: [good, bad]}, "b": {0.0: [good, good]}})
    lines = {c.get_label(): c.lines[0].get_ydata().tolist() for c in fig.axes[0].containers}
    assert lines == {"shows the new prompt": [1.0, 1.0], "keeps the layout": [0.0, 0.5]}


def test_word_weights_are_plotted_with_a_line_for_each_caption():
    fig = plot_word_weights(
        "small", [-1, 0, 1], torch.tensor([[0.1, 0.05, 0.02], [0.2, 0.1, 0.1]]), ["x", "y"]
    )
    assert [line.get_ydata()[0] for line in fig.axes[0].lines] == pytest.approx([0.1, 0.2])
