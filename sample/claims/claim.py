"""What a claim is, and how it is decided: a verdict follows from a 95 % interval, never from a
difference alone.

Both sides of a comparison generate the same prompts from the same seeds, so the intervals are those
of differences prompt by prompt (`imagen_mini.evaluation.statistics`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from PIL import Image

from imagen_mini.evaluation.statistics import (
    Difference,
    exact_paired_p,
    paired_agresti_min,
    wilson_interval,
)
from imagen_mini.viz.style import STYLES, percent_axis

HOLDS, FAILS, UNCLEAR = "holds", "does not hold", "cannot be told at this scale"
# a difference of shares: if the interval excludes even this gain, there is none worth mentioning
MEANINGFUL = 0.1
LEVEL = 0.05  # of the exact paired test


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim, and the numbers that it follows from."""

    outcome: str  # HOLDS, FAILS or UNCLEAR
    numbers: str  # the numbers that it follows from, in a sentence or two


@dataclass(frozen=True)
class Claim:
    """A sentence from a paper, its source, and the function that judges an experiment's numbers."""

    sentence: str
    source: str
    judge: Callable[[dict], Verdict]


@dataclass(frozen=True)
class Experiment:
    """One measurement with its figure, and the claims that it decides.

    `measure(pipe, n)` returns numbers for JSON and a grid of example images. An experiment with
    `variants`, networks that have to be trained first, gets their `Runs` instead of the pipeline.
    `plot(numbers, path)` writes the figure.
    """

    name: str
    method: str  # what is measured, in words
    n: int  # number of prompts, in the unit that `method` names
    claims: tuple[Claim, ...]
    measure: Callable[..., tuple[dict, Image.Image]]
    plot: Callable[[dict, Path], None]
    cascade: bool = False  # needs super-resolution
    variants: tuple = ()
    of_text_encoder: bool = False  # its numbers depend on the pipeline's text encoder alone
    one_form: bool = False  # its variants are trained apart, but built alike


# ---------------------------------------------------------------- tallies


def tally(correct: Sequence[bool]) -> dict:
    """Count how often something is correct.

    Args:
        correct: One verdict per prompt.

    Returns:
        "n"; "right", the number of correct ones; "accuracy" with Wilson's 95 % interval, "low" and
        "high"; and "each", the verdicts as a string of 0 and 1, so that tallies can be paired.
    """
    n, k = len(correct), sum(map(bool, correct))
    low, high = wilson_interval(k, n)
    return {
        "n": n,
        "right": k,
        "accuracy": round(k / max(1, n), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "each": "".join("01"[bool(c)] for c in correct),
    }


def percent(row: dict) -> str:
    """Return the accuracy of a tally, for example '88%'."""
    return f"{row['accuracy']:.0%}"


def paired(before: dict, after: dict) -> list[int]:
    """Return 1, 0 or -1 for each prompt: only `after` is correct, no difference, only `before`.

    Raises:
        ValueError: if the tallies are not of equally many prompts.
    """
    if before["n"] != after["n"]:
        raise ValueError(f"tallies of {before['n']} and {after['n']} prompts cannot be paired")
    return [int(b) - int(a) for a, b in zip(before["each"], after["each"])]


def gain(before: dict, after: dict) -> Difference:
    """Return the share of `after` less that of `before`, two tallies of the same prompts."""
    return paired_agresti_min(paired(before, after))


def gain_line(before: dict, after: dict) -> str:
    """Return the gain in words, with its interval and the exact paired test."""
    return f"{gain(before, after)}, exact paired p = {exact_paired_p(paired(before, after)):.2g}"


# ---------------------------------------------------------------- figures


def bars(ax: Axes, rows: dict[str, dict]) -> None:
    """Plot tallies beside one another, with their intervals."""
    for i, ((name, row), style) in enumerate(zip(rows.items(), STYLES)):
        error = [[max(0, row["accuracy"] - row["low"])], [max(0, row["high"] - row["accuracy"])]]
        ax.bar(i, row["accuracy"], color=style["color"], label=name, yerr=error, capsize=4)
    ax.set_axisbelow(True)
    ax.set_xticks([])
    percent_axis(ax)


# ---------------------------------------------------------------- from intervals to outcomes


def is_above(d: Difference, meaningful: float = MEANINGFUL) -> str:
    """Judge whether a difference is above 0.

    It holds if the interval is, and does not hold if the interval excludes even what would be
    meaningful.
    """
    return HOLDS if d.low > 0 else FAILS if d.high < meaningful else UNCLEAR


def is_enough(*rows: dict) -> bool:
    """Return True if some tally surely exceeds the difference that would be meaningful.

    Where hardly an image is correct, nothing can differ.
    """
    return any(row["low"] > MEANINGFUL for row in rows)


def has_room(before: dict) -> bool:
    """Return True if a meaningful gain over this tally is possible.

    Where nearly all images are correct already, a gain can be neither seen nor excluded.
    """
    return before["accuracy"] <= 1 - MEANINGFUL


def beats(before: dict, after: dict) -> str:
    """Judge if `after` is correct more often than `before`, two tallies of the same prompts.

    It holds if the interval lies above 0 and the exact paired test agrees. It does not hold if both
    say the opposite; or if the interval excludes a meaningful gain where there was room for one and
    enough images are correct.
    """
    d, surely = gain(before, after), exact_paired_p(paired(before, after)) < LEVEL
    if surely and d.low > 0:
        return HOLDS
    if surely and d.high < 0:
        return FAILS
    if d.high < MEANINGFUL and is_enough(before, after) and has_room(before):
        return FAILS
    return UNCLEAR


def is_most(row: dict) -> str:
    """Judge whether a tally is above one half."""
    return HOLDS if row["low"] > 0.5 else FAILS if row["high"] < 0.5 else UNCLEAR


def all_of(*outcomes: str) -> str:
    """Combine the parts of a claim: it holds if all do, and does not hold if one does not."""
    return FAILS if FAILS in outcomes else HOLDS if set(outcomes) == {HOLDS} else UNCLEAR
