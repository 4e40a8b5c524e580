"""Windows: in which share of the sampling steps something is done.

A window (start, end) holds step i of n, counted from 0, if start <= i / n < end. So 0.8 of 10 steps
are the first 8, however the times of the steps are spaced.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real

from torch import Tensor

Window = float | tuple[float, float]
ROUNDING = 1e-6  # i / n and a share that a user wrote may differ in their last bit


def as_window(window: Window, name: str) -> tuple[float, float]:
    """A window as a pair (start, end) of shares of the steps.

    Args:
        window: A number f, which means (0, f), or a pair (start, end).
        name: What the window is called, for the error.

    Raises:
        ValueError: Not 0 <= start <= end <= 1.
    """
    pair = tuple(window) if isinstance(window, (tuple, list)) else (0.0, window)
    numbers = len(pair) == 2 and all(isinstance(share, Real) for share in pair)
    if not numbers or not 0 <= pair[0] <= pair[1] <= 1:
        raise ValueError(
            f"{name}={window!r}: expected a share of the steps from 0 to 1, or a pair (start, "
            "end) of such"
        )
    return float(pair[0]), float(pair[1])


def share_done(timesteps: Tensor) -> Callable[[float], float]:
    """Return the function from a time to the share of the steps that are done then.

    Args:
        timesteps: [n + 1], descending: step i goes from timesteps[i] to timesteps[i + 1].

    Returns:
        A function of a time t: i / n for the step i that starts at t or contains t, in [0, 1).
    """
    starts = timesteps[:-1].tolist()

    def done(t: float) -> float:
        return max(0, sum(start >= t for start in starts) - 1) / len(starts)

    return done


def within(window: tuple[float, float], done: float) -> bool:
    """Is a step in the window (start, end), when this share of the steps is done?"""
    start, end = window
    return start <= done + ROUNDING < end


def within_each(windows: Tensor, done: float) -> Tensor:
    """`within` for windows [2, ...]: bool [...]."""
    return (windows[0] <= done + ROUNDING) & (done + ROUNDING < windows[1])
