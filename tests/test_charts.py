"""Charts: where things land on an axis, and that a line is where and how it should be."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor, ImageDraw

from imagen_mini.charts import STYLES, Axis, Chart, Style, axis_from_zero, draw_line, log_axis

SOLID, DASHED = STYLES[0], Style("#000000", (20, 20), "circle")
UNIT = Axis("", 0, 1, (0, 1))


def test_an_axis_is_in_proportion_to_the_value_or_to_its_logarithm():
    assert [Axis("", 2, 10, ()).share(v) for v in (2, 4, 10)] == [0, 0.25, 1]
    assert [Axis("", 1, 16, (), log=True).share(v) for v in (1, 2, 4, 16)] == pytest.approx([0, 0.25, 0.5, 1])


def test_what_lies_outside_of_an_axis_is_put_on_its_end():
    assert [UNIT.share(v) for v in (-5, 7)] == [0, 1] and [Axis("", 1, 4, (), log=True).share(v) for v in (0, -1, 9)] == [0, 0, 1]


@pytest.mark.parametrize("low, high, log, message", [
    (1, 1, False, "axis 'w' goes from 1 to 1; expected low < high"), (0, 4, True, "axis 'w' starts at 0, which has no logarithm")])
def test_an_axis_without_extent_or_logarithm_is_an_error(low, high, log, message):
    with pytest.raises(ValueError, match=message):
        Axis("w", low, high, (), log)


@pytest.mark.parametrize("values, ticks", [([1, 3, 63], [1, 2, 4, 8, 16, 32, 64]), ([1, 1.5, 16], [1, 2, 4, 8, 16]), ([5], [5]), ([1, 1.5], [1, 1.5])])
def test_a_logarithmic_axis_holds_its_values_and_has_ticks_at_powers_of_two_or_at_the_values(values, ticks):
    axis = log_axis("w", values)
    assert list(axis.ticks) == ticks and axis.low < min(values) and axis.high > max(values)


@pytest.mark.parametrize("highest, top", [(1.0, 1.0), (1.01, 1.25), (0.37, 0.4), (9.9, 10), (5.2, 6), (0.0, None)])
def test_an_axis_from_zero_ends_at_a_round_number_above_its_values_after_three_to_five_steps(highest, top):
    axis = axis_from_zero("", [0.0, highest])
    assert axis.low == 0 and axis.high >= highest and 4 <= len(axis.ticks) <= 6 and axis.ticks[-1] == axis.high
    assert top is None or axis.high == pytest.approx(top)


def row(image, y):
    return [image.getpixel((x, y)) == (0, 0, 0) for x in range(image.width)]


def test_a_dashed_line_has_gaps_also_between_points_far_apart_and_a_solid_one_none():
    sheets = [Image.new("RGB", (400, 20), "white") for _ in range(3)]
    draw_line(ImageDraw.Draw(sheets[0]), [(0, 10), (399, 10)], SOLID)
    draw_line(ImageDraw.Draw(sheets[1]), [(0, 10), (399, 10)], DASHED)
    draw_line(ImageDraw.Draw(sheets[2]), [(x, 10) for x in range(400)], DASHED)
    solid, far, close = (row(sheet, 10) for sheet in sheets)
    assert all(solid) and sum(a != b for a, b in zip(far, close)) < 10
    assert 180 <= sum(far) <= 220 and far[:30] == [True] * 30 and not any(far[45:75])


def dark_at(panel, sheet, x, y):
    """Whether the line goes through this point of the chart."""
    across, down = panel.at(x, y)
    return sheet.getpixel((round(across), round(down))) == ImageColor.getrgb(SOLID.colour)


def test_a_line_goes_through_its_points_and_ends_where_it_leaves_the_chart():
    chart = Chart([("title", UNIT, UNIT)], [("line", SOLID)])
    chart.panels[0].line([0.1, 0.5, 0.9], [0.2, 0.6, 0.4], SOLID)
    assert all(dark_at(chart.panels[0], chart.sheet, *point) for point in ((0.1, 0.2), (0.3, 0.4), (0.5, 0.6), (0.7, 0.5), (0.9, 0.4)))
    assert not dark_at(chart.panels[0], chart.sheet, 0.5, 0.3)
    left = Chart([("title", UNIT, UNIT)], [("line", SOLID)])
    left.panels[0].line([0.1, 0.4, 0.6, 0.9], [0.5, 0.5, 2.0, 0.5], SOLID)
    assert dark_at(left.panels[0], left.sheet, 0.3, 0.5) and not dark_at(left.panels[0], left.sheet, 0.75, 0.5)


def test_intervals_reach_from_low_to_high_and_no_further():
    chart = Chart([("title", UNIT, UNIT)], [("line", SOLID)])
    chart.panels[0].intervals([0.55], [0.2], [0.7], SOLID)
    assert [dark_at(chart.panels[0], chart.sheet, 0.55, y) for y in (0.1, 0.22, 0.45, 0.68, 0.8)] == [False, True, True, True, False]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.mark)
def test_every_mark_is_drawn_in_its_colour_around_its_point(style):
    chart = Chart([("title", UNIT, UNIT)], [("line", style)])
    chart.panels[0].line([0.53], [0.47], style, marks=True)
    (x, y), r = chart.panels[0].at(0.53, 0.47), 20
    patch = chart.sheet.crop((round(x) - r, round(y) - r, round(x) + r, round(y) + r))
    pixels = torch.from_numpy(np.array(patch))
    where = (pixels == torch.tensor(ImageColor.getrgb(style.colour))).all(-1).nonzero().double()
    assert len(where) > 60 and (where.mean(0) - r).abs().max() < 4 and (where - r).abs().max() < r - 2


def test_the_marks_and_colours_of_the_styles_are_all_different():
    assert len({s.mark for s in STYLES}) == len({s.colour for s in STYLES}) == len(STYLES)


def test_panels_stand_in_rows_and_the_legend_below_them():
    one, five = (Chart([("title", UNIT, UNIT)] * n, [("line", SOLID)]).picture() for n in (1, 5))
    assert five.width > 2.5 * one.width and 1.5 * one.height < five.height < 2 * one.height
