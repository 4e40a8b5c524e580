"""Draw the noise schedules: log-SNR, alpha and sigma over t, as one picture.

    python -m sample.plot_schedules --out schedules.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from imagen_mini.schedule import (alpha_sigma, cosine_log_snr, interpolated_log_snr, linear_log_snr, resolution_shift, sigmoid_log_snr,
                                  zero_terminal_snr)

SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": cosine_log_snr,
    "linear": linear_log_snr,
    "sigmoid": sigmoid_log_snr,
    "cosine, shifted for 256 px": partial(cosine_log_snr, shift=resolution_shift(256)),
    "cosine, interpolated 32 to 256 px": partial(interpolated_log_snr, size=256, low=32, high=256),
    "linear, zero terminal SNR": zero_terminal_snr(linear_log_snr),
}
# Okabe and Ito's colours, which stay apart in every kind of colour blindness; each line also has its own dashes, in pixels on and off
COLOURS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7")
DASHES = ((1,), (1,), (1,), (26, 10), (4, 8), (14, 8))

SCALE = 2                                              # drawn larger and reduced, for smooth lines
WIDTH, HEIGHT, MARGIN, LEGEND = 520, 420, 56, 92       # of a panel, of what surrounds it, of the legend


class Panel:
    """One line chart: axes with ticks and a title, at `left`, `top` of a drawing."""

    def __init__(self, draw: ImageDraw.ImageDraw, left: int, top: int, title: str, low: float, high: float, ticks: Sequence[float]):
        self.draw, self.left, self.top, self.low, self.high = draw, left * SCALE, top * SCALE, low, high
        self.width, self.height = WIDTH * SCALE, HEIGHT * SCALE
        small = ImageFont.load_default(size=15 * SCALE)
        draw.text((self.left + self.width / 2, self.top - 12 * SCALE), title, "black", ImageFont.load_default(size=19 * SCALE), anchor="mb")
        for value in ticks:
            _, y = self.at(0, value)
            draw.line((self.left, y, self.left + self.width, y), "#e2e2e2", SCALE)
            draw.text((self.left - 8 * SCALE, y), f"{value:g}", "#444444", small, anchor="rm")
        for t in (0, 0.25, 0.5, 0.75, 1):
            x, _ = self.at(t, low)
            draw.line((x, self.top, x, self.top + self.height), "#e2e2e2", SCALE)
            draw.text((x, self.top + self.height + 8 * SCALE), f"{t:g}", "#444444", small, anchor="mt")
        draw.text((self.left + self.width / 2, self.top + self.height + 30 * SCALE), "t   (0 picture, 1 noise)", "black", small, anchor="mt")
        draw.rectangle((self.left, self.top, self.left + self.width, self.top + self.height), outline="#888888", width=SCALE)

    def at(self, t: float, value: float) -> tuple[float, float]:
        """Where a point of the chart lies in the drawing; values outside of it are put on the border."""
        value = min(max(value, self.low), self.high)
        return self.left + t * self.width, self.top + (self.high - value) / (self.high - self.low) * self.height

    def line(self, t: Sequence[float], values: Sequence[float], colour: str, dash: Sequence[int]) -> None:
        """A line through the points, up to the first that leaves the chart."""
        inside = next((i for i, value in enumerate(values) if not self.low <= value <= self.high), len(values) - 1)
        dashed_line(self.draw, [self.at(*point) for point in zip(t[:inside + 1], values[:inside + 1])], colour, dash)


def dashed_line(draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: str, dash: Sequence[int], width: int = 3) -> None:
    """A line through close points; `dash` is (on, off) in pixels along it, or one number for a line without gaps."""
    if len(dash) == 1:
        draw.line(points, colour, width * SCALE, joint="curve")
        return
    on, period, walked = dash[0] * SCALE, sum(dash) * SCALE, 0.0
    stroke = [points[0]]
    for (x, y), (x_next, y_next) in zip(points, points[1:]):
        walked += ((x_next - x) ** 2 + (y_next - y) ** 2) ** 0.5
        if walked % period < on:
            stroke.append((x_next, y_next))
        else:
            if len(stroke) > 1:
                draw.line(stroke, colour, width * SCALE, joint="curve")
            stroke = [(x_next, y_next)]
    if len(stroke) > 1:
        draw.line(stroke, colour, width * SCALE, joint="curve")


def plot(schedules: dict[str, Callable[[Tensor], Tensor]]) -> Image.Image:
    """Three panels side by side, and which line is which below them."""
    step = WIDTH + MARGIN + 16
    sheet = Image.new("RGB", ((MARGIN + 3 * step) * SCALE, (HEIGHT + 2 * MARGIN + LEGEND) * SCALE), "white")
    draw = ImageDraw.Draw(sheet)
    panels = [Panel(draw, MARGIN + i * step, MARGIN, title, low, high, ticks) for i, (title, low, high, ticks) in enumerate((
        ("log-SNR", -16, 16, range(-16, 17, 4)), ("alpha, of the picture", 0, 1, (0, 0.25, 0.5, 0.75, 1)),
        ("sigma, of the noise", 0, 1, (0, 0.25, 0.5, 0.75, 1))))]
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    font = ImageFont.load_default(size=17 * SCALE)
    for i, ((name, log_snr_of), colour, dash) in enumerate(zip(schedules.items(), COLOURS, DASHES, strict=True)):
        log_snr = log_snr_of(t)
        for panel, values in zip(panels, (log_snr, *alpha_sigma(log_snr))):
            panel.line(t.tolist(), values.tolist(), colour, dash)
        x, y = (MARGIN + i % 3 * step) * SCALE, (HEIGHT + 2 * MARGIN + 24 + i // 3 * 34) * SCALE
        dashed_line(draw, [(x + k, y) for k in range(72 * SCALE)], colour, dash)
        draw.text((x + 86 * SCALE, y), name, "black", font, anchor="lm")
    return sheet.resize((sheet.width // SCALE, sheet.height // SCALE), Image.Resampling.LANCZOS)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("schedules.png"), help="the picture to write (default: schedules.png)")
    args = parser.parse_args(arguments)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    plot(SCHEDULES).save(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
