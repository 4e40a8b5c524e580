"""Notebook 12: Wilson's interval of a share."""

from __future__ import annotations

import math

from imagen_mini.course.exercises import WrongAnswerError, checks
from imagen_mini.evaluation.statistics import wilson_interval

CASES = ((9, 10), (10, 10), (0, 10), (8, 10), (1, 3), (50, 100), (3, 40))
TOLERANCE = 1e-4  # 1.96 or 1.959964: both are correct


def mistakes(k: int, n: int, z: float = 1.96) -> dict[str, tuple[float, float]]:
    """Return plausible but incorrect intervals by the message for each."""
    p, zz = k / n, z * z / n
    naive, half = z * math.sqrt(p * (1 - p) / n), z * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    said_of_naive = (
        "That is the naive interval: the deviation must be taken at p, not at the share that "
        "was observed; at 10 of 10 the naive one has no width"
    )
    return {
        said_of_naive: (max(0.0, p - naive), min(1.0, p + naive)),
        "That is the interval for z = 1, which holds the truth 68 times in 100; for 95 "
        "take z = 1.96": wilson_interval(k, n, 1.0),
        "The factor of p^2 in the quadratic equation is 1 + z^2 / n: did you divide by it?": (
            p + zz / 2 - half,
            p + zz / 2 + half,
        ),
        "The middle is not k / n: it is pulled towards one half, by z^2 / (2 n) before "
        "the division": ((p - half) / (1 + zz), (p + half) / (1 + zz)),
    }


@checks
def check(interval) -> str:
    """`interval(successes, n)` returns both p that solve |successes / n - p| = 1.96 sqrt(p (1 - p)
    / n), the lower one first.
    """
    for k, n in CASES:
        found = interval(k, n)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise WrongAnswerError(
                f"for {k} of {n} you return {found!r}, expected two numbers: (low, high)"
            )
        low, high = (float(end) for end in found)
        expected = wilson_interval(k, n)
        if close((low, high), expected):
            continue
        if close((high, low), expected):
            raise WrongAnswerError(
                f"for {k} of {n} you return ({low:.3f}, {high:.3f}): the lower end comes first"
            )
        hint = next(
            (words for words, wrong in mistakes(k, n).items() if close((low, high), wrong)), ""
        )
        if not hint and not -TOLERANCE <= low <= high <= 1 + TOLERANCE:
            hint = (
                "No share lies beyond 0 or 1. The roots of the quadratic equation never do; "
                "the naive interval does"
            )
        raise WrongAnswerError(
            f"for {k} of {n} you say {low:.3f} to {high:.3f}, expected {expected[0]:.3f} to "
            f"{expected[1]:.3f}. {hint}".strip()
        )
    return "It holds the shares p for which what was seen is within 1.96 deviations."


def close(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return all(abs(x - y) <= TOLERANCE for x, y in zip(a, b))
