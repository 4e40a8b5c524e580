import math


def reference(successes, n):
    """The roots of (1 + z^2 / n) p^2 - (2 p_hat + z^2 / n) p + p_hat^2 = 0."""
    seen, zz = successes / n, 1.96**2 / n
    a, b, c = 1 + zz, -(2 * seen + zz), seen**2
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def naive(successes, n):
    p = successes / n
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def naive_and_clipped(successes, n):
    low, high = naive(successes, n)
    return max(0.0, low), min(1.0, high)


def one_deviation(successes, n):
    p, zz = successes / n, 1 / n
    half = math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return (p + zz / 2 - half) / (1 + zz), (p + zz / 2 + half) / (1 + zz)


def undivided(successes, n):
    p, zz = successes / n, 1.96**2 / n
    half = 1.96 * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return p + zz / 2 - half, p + zz / 2 + half


def around_what_was_seen(successes, n):
    p, zz = successes / n, 1.96**2 / n
    half = 1.96 * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return (p - half) / (1 + zz), (p + half) / (1 + zz)


INCORRECT_ANSWERS = [
    (naive, "beyond 0 or 1"),
    (naive_and_clipped, "at 10 of 10 the naive one has no width"),
    (one_deviation, "z = 1.96"),
    (undivided, "did you divide"),
    (around_what_was_seen, "pulled towards one half"),
    (lambda k, n: reference(k, n)[::-1], "lower end comes first"),
    (lambda k, n: k / n, "two numbers"),
]
