"""Confidence intervals for shares, for differences of shares and for means.

Which one to use: `wilson_interval` for one share, `newcombe_interval` for two shares of independent
images, `paired_agresti_min` for two shares of the same prompts, `difference_of_means` for
differences of any size. All intervals are of 95 %. `exact_paired_p` tests two shares of the same
prompts without an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Z = 1.96  # the 97.5 % quantile of the standard normal distribution


# ---------------------------------------------------------------- independent images


def wilson_interval(successes: int, n: int, z: float = Z) -> tuple[float, float]:
    """Return Wilson's score interval of a share.

    With p = successes / n, it holds every share that is at most z of its standard deviations away:

        (p + z^2 / (2 n)  +-  z sqrt(p (1 - p) / n + z^2 / (4 n^2))) / (1 + z^2 / n)

    Args:
        successes: Number of successes, 0 to `n`.
        n: Number of trials. For 0 the interval is (0, 1).
        z: Quantile of the normal distribution (default: 1.96, for 95 %).

    Returns:
        (low, high), both in [0, 1].

    Reference:
        Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if n == 0:
        return 0.0, 1.0
    p, zz = successes / n, z * z / n
    middle, half = p + zz / 2, z * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return max(0.0, (middle - half) / (1 + zz)), min(1.0, (middle + half) / (1 + zz))


def newcombe_interval(
    successes_a: int, n_a: int, successes_b: int, n_b: int
) -> tuple[float, float, float]:
    """Return the difference of two independent shares, b less a, with its 95 % interval.

    With the shares a and b and their Wilson intervals (l_a, u_a) and (l_b, u_b):

        low  = b - a - sqrt((b - l_b)^2 + (u_a - a)^2)
        high = b - a + sqrt((u_b - b)^2 + (a - l_a)^2)

    Args:
        successes_a: Successes of a, 0 to `n_a`.
        n_a: Trials of a, at least 1.
        successes_b: Successes of b, 0 to `n_b`.
        n_b: Trials of b, at least 1.

    Returns:
        (difference, low, high), each in [-1, 1].

    Reference:
        Newcombe (1998), "Interval estimation for the difference between independent proportions",
        method 10.
    """
    low_a, high_a = wilson_interval(successes_a, n_a)
    low_b, high_b = wilson_interval(successes_b, n_b)
    a, b = successes_a / n_a, successes_b / n_b
    difference = b - a
    return (
        difference,
        difference - ((b - low_b) ** 2 + (high_a - a) ** 2) ** 0.5,
        difference + ((high_b - b) ** 2 + (a - low_a) ** 2) ** 0.5,
    )


# ---------------------------------------------------------------- paired images


@dataclass(frozen=True)
class Difference:
    """A mean of `n` paired differences and its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.mean:+.0f} points ({100 * self.low:+.0f} to {100 * self.high:+.0f})"


def paired_agresti_min(differences: Sequence[float]) -> Difference:
    """Return the mean difference of two shares of the same prompts, with its 95 % interval.

    Half a prompt is added that speaks for the difference, half a prompt that speaks against it, and
    one for neither:

        (sum d) / (n + 2)  +-  z sqrt(sum d^2 + 1 - (sum d)^2 / (n + 2)) / (n + 2)

    so that no interval has width 0 because all prompts agree. `mean` is without the added prompts.

    Args:
        differences: One difference per prompt, each in [-1, 1]; for single images -1, 0 or 1.

    Returns:
        The mean and the interval, clipped to [-1, 1].

    Reference:
        Agresti and Min (2005), "Simple improved confidence intervals for comparing matched
        proportions", for single images. Differences of several images per prompt are an extension
        of this project.
    """
    n, total = len(differences), sum(differences)
    half = Z * math.sqrt(sum(d * d for d in differences) + 1 - total**2 / (n + 2)) / (n + 2)
    return Difference(
        total / max(1, n), max(-1.0, total / (n + 2) - half), min(1.0, total / (n + 2) + half), n
    )


def exact_paired_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of the exact paired test: do signs of both kinds occur equally often?

    Of m differences that are not 0, k are positive. If both signs were equally likely, k would be
    binomial:

        p = min(1, 2 sum_{i <= min(k, m - k)} C(m, i) / 2^m)

    Args:
        differences: One difference per prompt; those that are 0 do not count.

    Reference:
        McNemar (1947), "Note on the sampling error of the difference between correlated
        proportions or percentages", in its exact form.
    """
    signs = [d > 0 for d in differences if d]
    m, k = len(signs), min(sum(signs), len(signs) - sum(signs))
    return min(1.0, 2 * sum(math.comb(m, i) for i in range(k + 1)) / 2**m)


def difference_of_means(differences: Sequence[float]) -> Difference:
    """Return the mean of differences of any size, with Student's 95 % interval.

    With the sample's standard deviation s and the quantile t of n - 1 degrees of freedom:

        mean  +-  t s / sqrt(n)

    Args:
        differences: One difference per image. For fewer than two the interval is unbounded.
    """
    n = len(differences)
    if n < 2:
        return Difference(sum(differences), -math.inf, math.inf, n)
    mean = sum(differences) / n
    half = t_quantile(n - 1) * math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    return Difference(mean, mean - half, mean + half, n)


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution.

    It is found by bisection of the distribution function, which is a finite sum for an integer
    number of degrees of freedom.

    Args:
        freedom: Degrees of freedom, at least 1.

    Reference:
        Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
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


Interval = Callable[[int, int], tuple[float, float]]  # (successes, n) -> (low, high)


def wald_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the normal approximation's interval p +- z sqrt(p (1 - p) / n), clipped to [0, 1].

    It takes the deviation at the observed share for the one at the true share, and is too narrow
    near 0 and 1.

    Args:
        successes: Number of successes.
        n: Number of trials, at least 1.
        z: Quantile of the normal distribution (default: 1.96, 95 %).
    """
    p = successes / n
    half = z * math.sqrt(p * (1 - p) / n)
    return max(0.0, p - half), min(1.0, p + half)


def interval_coverage(interval: Interval, n: int, p: float) -> float:
    """Return how often an interval contains the true share, exactly, by the binomial distribution.

    Args:
        interval: The function (successes, n) -> (low, high).
        n: Number of trials.
        p: The true share.
    """
    return sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for k in range(n + 1)
        if interval(k, n)[0] <= p <= interval(k, n)[1]
    )


# ---------------------------------------------------------------- in words


def score_line(found: Sequence[bool | None]) -> str:
    """Return '7 of 8 correct (88 %, 95 % interval 53 to 98 %)'.

    Args:
        found: Verdicts; those that are None (not judged) are left out.
    """
    judged = [v for v in found if v is not None]
    correct, n = sum(judged), len(judged)
    low, high = wilson_interval(correct, n)
    return (
        f"{correct} of {n} correct ({100 * correct / max(1, n):.0f} %, 95 % interval "
        f"{100 * low:.0f} to {100 * high:.0f} %)"
    )


def format_share(found: Sequence[bool]) -> str:
    """Return '7 of 8 (53 to 98 %)', for tables: the 95 % interval is in parentheses."""
    low, high = wilson_interval(sum(found), len(found))
    return f"{sum(found)} of {len(found)} ({100 * low:.0f} to {100 * high:.0f} %)"
