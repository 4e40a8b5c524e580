"""Plots of a measurement show what they are given."""

import random

import numpy as np
import pytest
import torch
from PIL import ImageColor

from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.scoring import evaluate, sample_scene_matching, table
from imagen_mini.evaluation.scoring_controls import swap_colors
from imagen_mini.evaluation.statistics import interval_coverage, wald_interval, wilson_interval
from imagen_mini.scenes.render import render
from imagen_mini.viz.image_grid import BORDERS, MARGIN
from imagen_mini.viz.measuring import (
    audit_grid,
    gallery,
    plot_comparison,
    plot_coverage,
    plot_groups,
    plot_image_sets,
    plot_interval_widths,
    plot_shares,
)

PROMPTS = benchmark(10, categories=["colors", "positional"])


def results_of(every=None):
    """Results of true images, one in `every` with other colours."""
    rng = random.Random(0)
    scenes = [sample_scene_matching(c.description, rng) for _, _, c in PROMPTS]
    images = render(scenes if every is None else swap_colors(scenes, every), 64)
    return list(evaluate(lambda texts, seeds: images, PROMPTS, batch=len(PROMPTS)))


def test_a_gallery_shows_some_of_each_and_an_audit_grid_all():
    results = results_of(every=5)
    both, incorrect_only, grid = (
        gallery(results, columns=4, cell=60),
        gallery(results, correct=0, columns=4, cell=60),
        audit_grid(results, columns=5, cell=60),
    )
    assert both.height > 1.5 * incorrect_only.height and grid.width == 5 * 72
    assert (
        has(incorrect_only, BORDERS[False])
        and not has(incorrect_only, BORDERS[True])
        and has(both, BORDERS[True])
    )
    unjudged = audit_grid(results, judged=False, columns=5, cell=60)
    assert (
        not has(unjudged, BORDERS[True])
        and not has(unjudged, BORDERS[False])
        and grid.mode == both.mode == "P"
    )


def has(image, color):
    """Is there a corner of a frame in that colour? In a palette it may be off by a little."""
    # the upper edge of the first row
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).int()[MARGIN - 2]
    return bool(((pixels - torch.tensor(ImageColor.getrgb(color))).abs().amax(-1) < 8).any())


def test_charts_show_the_numbers_they_are_given():
    rows = table(results_of(every=5))
    (ax,) = plot_shares(rows).axes
    assert [bar.get_width() for bar in ax.patches] == [0.8, 0.8] and [
        t.get_text() for t in ax.get_yticklabels()
    ] == list(rows)
    (ax,) = plot_groups(
        [(8, 10), (10, 10)], {"Wilson": wilson_interval, "naive": wald_interval}
    ).axes
    assert "all 20 images: 90%" in [t.get_text() for t in ax.get_legend().get_texts()]
    shares, difference = plot_comparison(("a", 10, 20), ("b", 15, 20)).axes
    assert [bar.get_height() for bar in shares.patches] == [
        0.5,
        0.75,
    ] and "b minus a" in difference.get_title()
    (ax,) = plot_coverage({"naive": wald_interval}, 10).axes
    assert ax.get_lines()[0].get_ydata()[99] == pytest.approx(
        interval_coverage(wald_interval, 10, 0.5)
    )
    (ax,) = plot_interval_widths(wald_interval, (0.5, 1.0), (10, 100), "naive").axes
    assert list(ax.get_lines()[1].get_ydata()) == [0, 0] and ax.get_lines()[0].get_ydata()[
        0
    ] == pytest.approx(0.62, abs=0.01)
    (ax,) = plot_image_sets({"true": (1.0, 0.2), "drawn": (0.7, 0.9)}).axes
    assert [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in ax.get_lines()
    ] == [(0.2, 1.0), (0.9, 0.7)]
