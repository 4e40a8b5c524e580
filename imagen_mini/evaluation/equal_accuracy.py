"""Two ways to guide, compared where they are equally accurate: at which scale, and at which price?

A larger scale shows the prompt better and the true images worse, so two methods are not compared at
one scale each, but where their lines reach the same accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PointOfLine:
    """A point on the line of a method, between two that were measured.

    Args:
        scale: The guidance scale, interpolated.
        accuracy: The share of correct images there.
        frechet: The Fréchet distance to true images, interpolated.
    """

    scale: float
    accuracy: float
    frechet: float


def at_accuracy(rows: Sequence[Mapping[str, float]], accuracy: float) -> PointOfLine | None:
    """Return where a line first reaches an accuracy, by linear interpolation between neighbours.

    Args:
        rows: Measurements with the keys "scale", "accuracy" and "frechet", in any order.
        accuracy: From 0 to 1.

    Returns:
        The point with the smallest scale; None where the line does not reach the accuracy. Of a
        line that begins above it, its first point: no guidance is needed.

    Raises:
        ValueError: There are no measurements.
    """
    if not rows:
        raise ValueError("no measurements; expected at least one scale")
    line = sorted(rows, key=lambda row: row["scale"])
    if line[0]["accuracy"] >= accuracy:
        return PointOfLine(*(line[0][k] for k in ("scale", "accuracy", "frechet")))
    for a, b in zip(line[:-1], line[1:]):
        if a["accuracy"] < accuracy <= b["accuracy"]:
            share = (accuracy - a["accuracy"]) / (b["accuracy"] - a["accuracy"])
            scale, frechet = (a[k] + share * (b[k] - a[k]) for k in ("scale", "frechet"))
            return PointOfLine(scale, accuracy, frechet)
    return None


def common_accuracy(lines: Sequence[Sequence[Mapping[str, float]]]) -> float:
    """Return the largest accuracy that every line reaches.

    Args:
        lines: Measurements of each method.

    Raises:
        ValueError: A line has no measurements.
    """
    if not lines or not all(lines):
        raise ValueError("a line has no measurements; expected at least one scale of each")
    return min(max(row["accuracy"] for row in line) for line in lines)
