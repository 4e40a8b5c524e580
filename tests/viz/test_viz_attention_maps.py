"""Attention maps as images, and the plot of how well words find their objects."""

from dataclasses import replace

import torch
from support.scenes import tokens

from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.evaluation.localization import localization_table
from imagen_mini.models.control import AttentionSite
from imagen_mini.text.encoder import Tokens
from imagen_mini.viz.attention_maps import (
    content_words,
    overlay_heat,
    plot_localization,
    token_labels,
)

CROSS, SELF, HYBRID = (
    AttentionSite(f"mid.{kind}", "mid", kind, 4) for kind in ("cross", "self", "hybrid")
)


def test_a_map_is_brightest_where_it_is_highest():
    heat = torch.zeros(4, 4)
    heat[1, 2] = 1
    generated = overlay_heat(torch.zeros(3, 32, 32), heat)
    assert generated.shape == (3, 32, 32) and generated.abs().max() <= 1
    assert divmod(generated.sum(0).argmax().item(), 32) in [
        (y, x) for y in (11, 12) for x in (19, 20)
    ]
    assert overlay_heat(torch.zeros(3, 32, 32), heat, top=2.0).sum() < generated.sum()


def test_pieces_are_named_and_articles_are_no_words_to_show():
    maps = AttentionStore()
    of = tokens("a cr-imson ring above a ring")
    maps.reset(
        [replace(of, pieces=("▁a", "▁cr", "imson", "▁ring", "▁above", "▁a", "▁ring", "</s>"))],
        [CROSS],
    )
    assert token_labels(maps) == [
        "a",
        "cr",
        "-imson",
        "ring",
        "above",
        "a",
        "ring",
        "</s>",
    ] and content_words(maps) == ["crimson", "ring", "above"]
    # a BERT marks what continues a word, not what begins one
    bert = ("[CLS]", "cr", "##imson", "ring", "above", "a", "ring", "[SEP]")
    words = (None, 0, 0, 1, 2, 3, 4, None)
    maps.tokens = [Tokens(tuple(range(8)), bert, words, ("crimson", "ring", "above", "a", "ring"))]
    assert token_labels(maps) == [
        *("[CLS]", "cr", "-imson", "ring", "above", "a", "ring", "[SEP]"),
    ]


def test_the_table_and_the_chart_show_the_report():
    report = {
        "captions": 2,
        "judged": 1,
        "times": [1.0, 0.5],
        "layers": {"up0.cross": 32},
        "chance": {"up0.cross": 0.03},
        "overlap": {"color": {"up0.cross": [0.2, 0.6]}, "shape": {"up0.cross": [0.1, 0.3]}},
    }
    found = [line.split() for line in localization_table(report).splitlines()]
    assert found == [
        ["layer", "grid", "color", "shape", "chance"],
        ["up0.cross", "32", "40%", "20%", "3%"],
    ]
    color, shape = plot_localization(report).axes
    assert (
        list(color.lines[0].get_ydata()) == [0.2, 0.6]
        and list(shape.lines[0].get_ydata()) == [0.1, 0.3]
        and color.lines[1].get_ydata()[0] == 0.03
    )
