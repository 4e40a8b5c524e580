"""Line charts, drawn with Pillow: panels with axes, lines that differ in colour, dashes and marks, and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]

SCALE = 2                                              # drawn larger and reduced, for smooth lines
WIDTH, HEIGHT, MARGIN, LEGEND_ROW = 520, 420, 56, 34   # of a panel, of what surrounds it, of a row of the legend
GRID, FRAME, NUMBERS = "#e2e2e2", "#888888", "#444444"


# ---------------------------------------------------------------- axes

@dataclass(frozen=True)
class Axis:
    """One axis: its name, its ends, its ticks and how their numbers are written; `log`: in proportion to the logarithm."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False
    numbers: str = "{:g}"

    def __post_init__(self):
        if not self.low < self.high:
            raise ValueError(f"axis {self.label!r} goes from {self.low} to {self.high}; expected low < high")
        if self.log and self.low <= 0:
            raise ValueError(f"axis {self.label!r} starts at {self.low}, which has no logarithm; expected a number above 0, or log=False")

    def share(self, value: float) -> float:
        """Where a value lies on the axis: 0 at its low end, 1 at its high end; values outside of it are put on the end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def log_axis(label: str, values: Sequence[float]) -> Axis:
    """A logarithmic axis with room for these values, all above 0; ticks at the powers of two, or at the values if that makes too few."""
    low, high = min(values) / 1.2, max(values) * 1.2
    powers = [2.0 ** k for k in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    return Axis(label, low, high, powers if len(powers) > 2 else sorted(set(values)), log=True)


def axis_from_zero(label: str, values: Sequence[float], numbers: str = "{:g}") -> Axis:
    """An axis from 0 to a round number above these values, with four to six ticks."""
    highest = max(max(values), 1e-9)
    unit = 10 ** math.floor(math.log10(highest))
    step = next(s * unit for s in (0.2, 0.25, 0.5, 1, 2) if 5 * s * unit >= highest)
    n = math.ceil(highest / step - 1e-9)
    return Axis(label, 0.0, n * step, [i * step for i in range(n + 1)], numbers=numbers)


# ---------------------------------------------------------------- lines

@dataclass(frozen=True)
class Style:
    """How a line looks: its colour, its dashes (pixels on and off, or one number for none), the mark at its points."""

    colour: str
    dash: tuple[int, ...]
    mark: str                                          # circle, square, triangle, diamond, cross or ring


# Okabe and Ito's colours, which stay apart in every kind of colour blindness; dashes and marks tell lines apart without any
STYLES = (Style("#000000", (1,), "circle"), Style("#e69f00", (1,), "square"), Style("#56b4e9", (1,), "triangle"),
          Style("#009e73", (26, 10), "diamond"), Style("#d55e00", (4, 8), "cross"), Style("#cc79a7", (14, 8), "ring"))


def draw_line(draw: ImageDraw.ImageDraw, points: Sequence[Point], style: Style, width: int = 3) -> None:
    """A line through points of the drawing, dashed as the style says."""
    if len(style.dash) == 1:
        draw.line(points, style.colour, width * SCALE, joint="curve")
        return
    on, period, walked = style.dash[0] * SCALE, sum(style.dash) * SCALE, 0.0
    points = _close(points)
    stroke = [points[0]]
    for (x, y), (x_next, y_next) in zip(points, points[1:]):
        walked += math.hypot(x_next - x, y_next - y)
        if walked % period < on:
            stroke.append((x_next, y_next))
        else:
            if len(stroke) > 1:
                draw.line(stroke, style.colour, width * SCALE, joint="curve")
            stroke = [(x_next, y_next)]
    if len(stroke) > 1:
        draw.line(stroke, style.colour, width * SCALE, joint="curve")


def _close(points: Sequence[Point]) -> list[Point]:
    """The same line through points at most one pixel apart, so that a dash may begin anywhere."""
    out = [points[0]]
    for (x, y), (x_next, y_next) in zip(points, points[1:]):
        n = math.ceil(math.hypot(x_next - x, y_next - y)) or 1
        out += [(x + (x_next - x) * i / n, y + (y_next - y) * i / n) for i in range(1, n + 1)]
    return out


def draw_mark(draw: ImageDraw.ImageDraw, point: Point, style: Style, radius: float = 6) -> None:
    """The style's mark, centred on a point of the drawing."""
    (x, y), r = point, radius * SCALE
    if style.mark in ("circle", "ring"):
        draw.ellipse((x - r, y - r, x + r, y + r), "white" if style.mark == "ring" else style.colour, style.colour, 2 * SCALE)
    elif style.mark == "cross":
        for sign in (1, -1):
            draw.line((x - r, y - sign * r, x + r, y + sign * r), style.colour, 3 * SCALE)
    else:
        corners = {"square": (45, 135, 225, 315), "triangle": (30, 150, 270), "diamond": (0, 90, 180, 270)}[style.mark]
        draw.polygon([(x + 1.2 * r * math.cos(math.radians(a)), y + 1.2 * r * math.sin(math.radians(a))) for a in corners], style.colour)


# ---------------------------------------------------------------- panels and the sheet

class Panel:
    """One chart: a frame with a title and axes with ticks, its upper left corner at `left`, `top` of the drawing."""

    def __init__(self, draw: ImageDraw.ImageDraw, left: float, top: float, title: str, x: Axis, y: Axis):
        self.draw, self.left, self.top, self.x, self.y = draw, left * SCALE, top * SCALE, x, y
        self.right, self.bottom = self.left + WIDTH * SCALE, self.top + HEIGHT * SCALE
        small = ImageFont.load_default(size=15 * SCALE)
        draw.text(((self.left + self.right) / 2, self.top - 12 * SCALE), title, "black", ImageFont.load_default(size=19 * SCALE), anchor="mb")
        for value in y.ticks:
            _, height = self.at(x.low, value)
            draw.line((self.left, height, self.right, height), GRID, SCALE)
            draw.text((self.left - 8 * SCALE, height), y.numbers.format(value), NUMBERS, small, anchor="rm")
        for value in x.ticks:
            across, _ = self.at(value, y.low)
            draw.line((across, self.top, across, self.bottom), GRID, SCALE)
            draw.text((across, self.bottom + 8 * SCALE), x.numbers.format(value), NUMBERS, small, anchor="mt")
        draw.text(((self.left + self.right) / 2, self.bottom + 30 * SCALE), x.label, "black", small, anchor="mt")
        draw.rectangle((self.left, self.top, self.right, self.bottom), outline=FRAME, width=SCALE)

    def at(self, x: float, y: float) -> Point:
        """Where a point of the chart lies in the drawing."""
        return self.left + self.x.share(x) * (self.right - self.left), self.bottom - self.y.share(y) * (self.bottom - self.top)

    def line(self, xs: Sequence[float], ys: Sequence[float], style: Style, marks: bool = False) -> None:
        """A line through the points, up to the first that leaves the chart; `marks`: with the style's mark at each."""
        inside = next((i for i, y in enumerate(ys) if not self.y.low <= y <= self.y.high), len(ys) - 1)
        points = [self.at(x, y) for x, y in zip(xs[:inside + 1], ys[:inside + 1])]
        if len(points) > 1:
            draw_line(self.draw, points, style)
        for point in points if marks else ():
            draw_mark(self.draw, point, style)

    def intervals(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], style: Style, shift: float = 0.0) -> None:
        """An upright bar from low to high at each x, moved by `shift` pixels so that those of several lines stand side by side."""
        for x, low, high in zip(xs, lows, highs):
            (across, bottom), (_, top) = self.at(x, low), self.at(x, high)
            across += shift * SCALE
            self.draw.line((across, bottom, across, top), style.colour, SCALE)
            for end in (bottom, top):
                self.draw.line((across - 3 * SCALE, end, across + 3 * SCALE, end), style.colour, SCALE)


class Chart:
    """A sheet of panels, each given as (title, x axis, y axis), `columns` in a row; below them, which line is which."""

    def __init__(self, panels: Sequence[tuple[str, Axis, Axis]], legend: Sequence[tuple[str, Style]], columns: int = 3, marks: bool = False):
        columns = min(columns, len(panels))
        across, down = WIDTH + MARGIN + 16, HEIGHT + 2 * MARGIN
        rows, legend_rows = -(-len(panels) // columns), -(-len(legend) // columns)
        self.sheet = Image.new("RGB", ((MARGIN + columns * across) * SCALE, (rows * down + legend_rows * LEGEND_ROW + 24) * SCALE), "white")
        draw = ImageDraw.Draw(self.sheet)
        self.panels = [Panel(draw, MARGIN + i % columns * across, MARGIN + i // columns * down, *panel) for i, panel in enumerate(panels)]
        for i, (name, style) in enumerate(legend):
            x, y = (MARGIN + i % columns * across) * SCALE, (rows * down + 24 + i // columns * LEGEND_ROW) * SCALE
            draw_line(draw, [(x, y), (x + 72 * SCALE, y)], style)
            if marks:
                draw_mark(draw, (x + 36 * SCALE, y), style)
            draw.text((x + 86 * SCALE, y), name, "black", ImageFont.load_default(size=17 * SCALE), anchor="lm")

    def picture(self) -> Image.Image:
        """The sheet in its final size."""
        return self.sheet.resize((self.sheet.width // SCALE, self.sheet.height // SCALE), Image.Resampling.LANCZOS)
