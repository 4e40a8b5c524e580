"""Intervals for shares and for differences of shares."""

from __future__ import annotations

import math
from collections.abc import Sequence


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion. Source: Wilson (1927)."""
    if n == 0:
        return 0.0, 1.0
    p, zz = successes / n, z * z / n
    middle, half = p + zz / 2, z * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return max(0.0, (middle - half) / (1 + zz)), min(1.0, (middle + half) / (1 + zz))


def newcombe_interval(right_a: int, n_a: int, right_b: int, n_b: int) -> tuple[float, float, float]:
    """b's share less a's, and its 95 % interval. Source: Newcombe (1998), method 10, from two
    Wilson intervals.
    """
    (low_a, high_a), (low_b, high_b) = wilson_interval(right_a, n_a), wilson_interval(right_b, n_b)
    a, b = right_a / n_a, right_b / n_b
    difference = b - a
    return (
        difference,
        difference - ((b - low_b) ** 2 + (high_a - a) ** 2) ** 0.5,
        difference + ((high_b - b) ** 2 + (a - low_a) ** 2) ** 0.5,
    )


def score_line(found: Sequence[bool | None]) -> str:
    """'7 of 8 right (88 %, 95 % interval 53 to 98 %)', over the verdicts that are not None."""
    judged = [v for v in found if v is not None]
    right, n = sum(judged), len(judged)
    low, high = wilson_interval(right, n)
    return (
        f"{right} of {n} right ({100 * right / max(1, n):.0f} %, 95 % interval {100 * low:.0f} "
        f"to {100 * high:.0f} %)"
    )


def format_share(found: Sequence[bool]) -> str:
    """'7 of 8 (53 to 98 %)', for tables: the 95 % interval in brackets."""
    low, high = wilson_interval(sum(found), len(found))
    return f"{sum(found)} of {len(found)} ({100 * low:.0f} to {100 * high:.0f} %)"
