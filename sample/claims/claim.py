"""What a claim is, and what may be concluded: a verdict follows from a 95 % interval, never from a
difference alone.

Both sides of a comparison draw the same prompts from the same seeds, so what is looked at is the
difference prompt by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from PIL import Image

from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.viz.style import STYLES, percent_axis

HOLDS, FAILS, UNCLEAR = "holds", "does not hold", "cannot be told at this scale"
# of shares: when the interval excludes even a gain of 10 points, there is none to speak of
MEANINGFUL = 0.1
Z = 1.96


@dataclass(frozen=True)
class Verdict:
    outcome: str  # HOLDS, FAILS or UNCLEAR
    numbers: str  # the numbers that it follows from, in a sentence or two


@dataclass(frozen=True)
class Claim:
    """A sentence from a paper, and the judge that reads an experiment's numbers."""

    sentence: str
    source: str
    judge: Callable[[dict], Verdict]


@dataclass(frozen=True)
class Experiment:
    """One measurement with its figure, and the claims that it decides.

    `measure(pipe, n)` gives numbers for JSON and a sheet of example images; with `variants`,
    networks that have to be trained first, it is given these in the pipeline's place.
    `plot(numbers, path)` makes the figure.
    """

    name: str
    method: str  # what is measured, in words
    n: int  # of prompts, in the unit that `method` names
    claims: tuple[Claim, ...]
    measure: Callable[..., tuple[dict, Image.Image]]
    generate: Callable[[dict, Path], None]
    cascade: bool = False  # needs super-resolution
    variants: tuple = ()
    of_text_encoder: bool = False  # of the pipeline, its numbers depend on the text encoder alone


# ---------------------------------------------------------------- statistics


@dataclass(frozen=True)
class Difference:
    """A mean of `n` differences and its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.mean:+.0f} points ({100 * self.low:+.0f} to {100 * self.high:+.0f})"


def tally(right: Sequence[bool]) -> dict:
    """How often something is right, with Wilson's 95 % interval; `each` keeps what became of every
    prompt, so that tallies can be paired.
    """
    n, k = len(right), sum(map(bool, right))
    low, high = wilson_interval(k, n)
    return {
        "n": n,
        "right": k,
        "accuracy": round(k / max(1, n), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "each": "".join("01"[bool(r)] for r in right),
    }


def percent(row: dict) -> str:
    return f"{row['accuracy']:.0%}"


def gain(before: dict, after: dict) -> Difference:
    """The share of `after` less that of `before`, two tallies of the same prompts."""
    if before["n"] != after["n"]:
        raise ValueError(f"tallies of {before['n']} and {after['n']} prompts cannot be paired")
    return paired_agresti_min([int(b) - int(a) for a, b in zip(before["each"], after["each"])])


def paired_agresti_min(differences: Sequence[float]) -> Difference:
    """The mean of differences of shares, prompt by prompt, each in [-1, 1]; half a prompt is added
    that speaks for, half a one against, and one for neither,

        (sum d) / (n + 2)  +-  z sqrt(sum d^2 + 1 - (sum d)^2 / (n + 2)) / (n + 2)

    so that no interval has width 0 because all prompts agree. `mean` is without them.

    Source: Agresti and Min (2005), "Simple improved confidence intervals for comparing matched
    proportions", for single images; that differences may be of several images of a prompt is our
    extension.
    """
    n, total = len(differences), sum(differences)
    half = Z * math.sqrt(sum(d * d for d in differences) + 1 - total**2 / (n + 2)) / (n + 2)
    return Difference(
        total / max(1, n), max(-1.0, total / (n + 2) - half), min(1.0, total / (n + 2) + half), n
    )


def difference_of_means(differences: Sequence[float]) -> Difference:
    """The mean of differences of any size, with Student's t interval; of fewer than two, everything
    is possible.
    """
    n = len(differences)
    if n < 2:
        return Difference(sum(differences), -math.inf, math.inf, n)
    mean = sum(differences) / n
    half = t_quantile(n - 1) * math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    return Difference(mean, mean - half, mean + half, n)


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t distribution, by bisection of its distribution function,
    which is a sum for whole degrees of freedom.

    Source: Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
    """

    def within(t: float) -> float:  # the probability of [-t, t]
        angle = math.atan(t / math.sqrt(freedom))
        term, total = (math.cos(angle), 0.0) if freedom % 2 else (1.0, 0.0)
        for k in range(1 + freedom % 2, freedom, 2):
            total += term
            term *= math.cos(angle) ** 2 * k / (k + 1)
        return (
            2 / math.pi * (angle + math.sin(angle) * total)
            if freedom % 2
            else math.sin(angle) * total
        )

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 0.95 else (low, middle)
    return low


# ---------------------------------------------------------------- figures


def bars(panel: Axes, rows: dict[str, dict]) -> None:
    """Tallies beside one another, with their intervals."""
    for i, ((name, row), style) in enumerate(zip(rows.items(), STYLES)):
        reach = [[max(0, row["accuracy"] - row["low"])], [max(0, row["high"] - row["accuracy"])]]
        panel.bar(i, row["accuracy"], color=style["color"], label=name, yerr=reach, capsize=4)
    panel.set_axisbelow(True)
    panel.set_xticks([])
    percent_axis(panel)


# ---------------------------------------------------------------- from intervals to outcomes


def is_above(d: Difference, meaningful: float = MEANINGFUL) -> str:
    """Is the difference above 0? It holds if the interval is, and does not if the interval excludes
    even what would be meaningful.
    """
    return HOLDS if d.low > 0 else FAILS if d.high < meaningful else UNCLEAR


def is_enough(*rows: dict) -> bool:
    """Is anything surely right more often than the difference that would be meaningful? Where
    hardly an image is right, nothing can differ.
    """
    return any(row["low"] > MEANINGFUL for row in rows)


def beats(before: dict, after: dict) -> str:
    """Is `after` right more often? Two tallies of the same prompts."""
    outcome = is_above(gain(before, after))
    return outcome if outcome == HOLDS or is_enough(before, after) else UNCLEAR


def is_beyond(d: Difference, margin: float) -> str:
    """Is the difference above a margin? It holds if the interval is, does not if the interval lies
    below the same margin on the other side.
    """
    return HOLDS if d.low > margin else FAILS if d.high < -margin else UNCLEAR


def is_most(row: dict) -> str:
    """Is it more often so than not?"""
    return HOLDS if row["low"] > 0.5 else FAILS if row["high"] < 0.5 else UNCLEAR


def all_of(*outcomes: str) -> str:
    """A claim of several parts holds if all do, and does not if one does not."""
    return FAILS if FAILS in outcomes else HOLDS if set(outcomes) == {HOLDS} else UNCLEAR
