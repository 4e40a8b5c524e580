"""Measuring the measure: controls whose answer is known, intervals against the binomial
distribution, figures that show what they are given.
"""

import random

import numpy as np
import pytest
import torch
from PIL import ImageColor
from support.scenes import one

from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.corruptions import gaussian_noise
from imagen_mini.evaluation.error_analysis import error_table
from imagen_mini.evaluation.scoring import evaluate, sample_scene_matching, table
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.scenes.captions import parse_caption
from imagen_mini.scenes.parse import ParsedScene
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene
from imagen_mini.viz.image_grid import BORDERS, MARGIN
from imagen_mini.viz.measuring import (
    audit_sheet,
    chance_rate,
    coverage,
    gallery,
    measure_parser_under,
    mixed,
    naive_interval,
    plot_comparison,
    plot_corruptions,
    plot_coverage,
    plot_groups,
    plot_sets,
    plot_shares,
    plot_widths,
    swap_colors,
)

PROMPTS = benchmark(10, categories=["colors", "positional"])


def results_of(every=None):
    """Results of true images, one in `every` with other colours."""
    rng = random.Random(0)
    scenes = [sample_scene_matching(c.description, rng) for _, _, c in PROMPTS]
    images = render(scenes if every is None else swap_colors(scenes, every), 64)
    return list(evaluate(lambda texts, seeds: images, PROMPTS, batch=len(PROMPTS)))


def test_a_planted_share_is_found_and_called_by_its_name():
    assert all(r.right for r in results_of())
    results = results_of(every=5)
    assert [i for i, r in enumerate(results) if not r.right] == [0, 5, 10, 15]
    assert error_table(results) == {
        name: {"right": 8, "color": 2} for name in ("colors", "positional")
    }


def test_swapped_colors_change_nothing_else():
    scene = Scene((one(), one("star", "pink", x=48)), "gray")
    changed, kept = swap_colors([scene, scene], every=2)
    assert kept == scene and all(
        a.color != b.color and (a.shape, a.x, a.size) == (b.shape, b.x, b.size)
        for a, b in zip(scene.objects, changed.objects)
    )


def test_chance_is_the_mean_over_all_pairs():
    parsed_scenes = [
        ParsedScene(scene, "white", scene.objects, ())
        for scene in (Scene((one(color=c),), "white") for c in ("red", "red", "blue"))
    ] + [ParsedScene(None, None, (), ("x",))]
    assert (
        chance_rate(
            [parse_caption("a red circle"), parse_caption("a circle"), parse_caption("a star")],
            parsed_scenes,
        )
        == (2 + 3 + 0) / 12
    )


def test_coverage_is_that_of_the_binomial_distribution():
    assert (
        coverage(lambda k, n: (0, 1), 10, 0.3) == pytest.approx(1)
        and coverage(lambda k, n: (0.9, 1), 10, 0.3) == 0
    )
    assert coverage(lambda k, n: (0, 1) if k == 2 else (2, 3), 2, 0.5) == pytest.approx(0.25)
    rng, n, p = random.Random(0), 10, 0.8
    draws = [sum(rng.random() < p for _ in range(n)) for _ in range(4000)]
    for interval in (wilson_interval, naive_interval):
        share = sum(interval(k, n)[0] <= p <= interval(k, n)[1] for k in draws) / len(draws)
        assert coverage(interval, n, p) == pytest.approx(share, abs=0.02)


def test_the_naive_interval_is_sure_of_itself_where_it_should_not_be():
    assert naive_interval(10, 10) == (1, 1) and naive_interval(0, 10) == (0, 0)
    assert naive_interval(9, 10) == pytest.approx((0.7141, 1.0), abs=1e-4) and naive_interval(
        50, 100
    ) == pytest.approx((0.402, 0.598), abs=1e-3)
    assert coverage(naive_interval, 10, 0.95) < 0.5 < 0.9 < coverage(wilson_interval, 10, 0.95)


def test_spoilt_images_are_counted_by_outcome_and_generated():
    rows = measure_parser_under(6, 64, gaussian_noise, (0, 2.0), batch=4)
    assert (rows[0]["right"], rows[1]["right"]) == (6, 0) and rows[1]["unreadable"] + rows[1][
        "misread"
    ] == 6
    (panel,) = plot_corruptions({"noise": rows}).axes
    assert panel.get_title() == "noise" and [list(line.get_ydata()) for line in panel.get_lines()][
        0
    ] == [1, 0]


def test_a_gallery_shows_some_of_each_and_a_sheet_all():
    results = results_of(every=5)
    both, wrong_only, sheet = (
        gallery(results, columns=4, cell=60),
        gallery(results, right=0, columns=4, cell=60),
        audit_sheet(results, columns=5, cell=60),
    )
    assert both.height > 1.5 * wrong_only.height and sheet.width == 5 * 72
    assert (
        has(wrong_only, BORDERS[False])
        and not has(wrong_only, BORDERS[True])
        and has(both, BORDERS[True])
    )
    unjudged = audit_sheet(results, judged=False, columns=5, cell=60)
    assert (
        not has(unjudged, BORDERS[True])
        and not has(unjudged, BORDERS[False])
        and sheet.mode == both.mode == "P"
    )


def has(image, color):
    """Is there a corner of a frame in that colour? In a palette it may be off by a little."""
    # the upper edge of the first row
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).int()[MARGIN - 2]
    return bool(((pixels - torch.tensor(ImageColor.getrgb(color))).abs().amax(-1) < 8).any())


def test_mixed_results_are_some_of_them_in_another_order():
    results = results_of()
    some = mixed(results, 12)
    assert (
        len({id(r) for r in some}) == 12
        and {id(r) for r in some} <= {id(r) for r in results}
        and [id(r) for r in some] != [id(r) for r in results[:12]]
    )


def test_mixed_results_hold_as_many_mistakes_as_are_asked_for():
    results = results_of(every=5)
    mistakes = [r for r in results if not r.right]
    for wrong in (2, len(mistakes) + 3):
        some = mixed(results, 12, wrong=wrong)
        assert len({id(r) for r in some}) == 12 and sum(not r.right for r in some) >= min(
            wrong, len(mistakes)
        )


def test_charts_show_the_numbers_they_are_given():
    rows = table(results_of(every=5))
    (panel,) = plot_shares(rows).axes
    assert [bar.get_width() for bar in panel.patches] == [0.8, 0.8] and [
        t.get_text() for t in panel.get_yticklabels()
    ] == list(rows)
    (panel,) = plot_groups(
        [(8, 10), (10, 10)], {"Wilson": wilson_interval, "naive": naive_interval}
    ).axes
    assert "all 20 images: 90%" in [t.get_text() for t in panel.get_legend().get_texts()]
    shares, difference = plot_comparison(("a", 10, 20), ("b", 15, 20)).axes
    assert [bar.get_height() for bar in shares.patches] == [
        0.5,
        0.75,
    ] and "b less a" in difference.get_title()
    (panel,) = plot_coverage({"naive": naive_interval}, 10).axes
    assert panel.get_lines()[0].get_ydata()[99] == pytest.approx(coverage(naive_interval, 10, 0.5))
    (panel,) = plot_widths(naive_interval, (0.5, 1.0), (10, 100), "naive").axes
    assert list(panel.get_lines()[1].get_ydata()) == [0, 0] and panel.get_lines()[0].get_ydata()[
        0
    ] == pytest.approx(0.62, abs=0.01)
    (panel,) = plot_sets({"true": (1.0, 0.2), "drawn": (0.7, 0.9)}).axes
    assert [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in panel.get_lines()
    ] == [(0.2, 1.0), (0.9, 0.7)]
