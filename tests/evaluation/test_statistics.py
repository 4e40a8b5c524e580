"""Intervals against the binomial distribution."""

import random

import pytest

from imagen_mini.evaluation.statistics import interval_coverage, wald_interval, wilson_interval


def test_coverage_is_that_of_the_binomial_distribution():
    assert (
        interval_coverage(lambda k, n: (0, 1), 10, 0.3) == pytest.approx(1)
        and interval_coverage(lambda k, n: (0.9, 1), 10, 0.3) == 0
    )
    assert interval_coverage(lambda k, n: (0, 1) if k == 2 else (2, 3), 2, 0.5) == pytest.approx(
        0.25
    )
    rng, n, p = random.Random(0), 10, 0.8
    draws = [sum(rng.random() < p for _ in range(n)) for _ in range(4000)]
    for interval in (wilson_interval, wald_interval):
        share = sum(interval(k, n)[0] <= p <= interval(k, n)[1] for k in draws) / len(draws)
        assert interval_coverage(interval, n, p) == pytest.approx(share, abs=0.02)


def test_the_wald_interval_is_too_narrow_near_one():
    assert wald_interval(10, 10) == (1, 1) and wald_interval(0, 10) == (0, 0)
    assert wald_interval(9, 10) == pytest.approx((0.7141, 1.0), abs=1e-4) and wald_interval(
        50, 100
    ) == pytest.approx((0.402, 0.598), abs=1e-3)
    assert (
        interval_coverage(wald_interval, 10, 0.95)
        < 0.5
        < 0.9
        < interval_coverage(wilson_interval, 10, 0.95)
    )
