"""Windows: in which share of the sampling steps something is done."""

from __future__ import annotations

from torch import Tensor

Window = float | tuple[float, float]


def as_window(window: Window, name: str) -> tuple[float, float]:
    """A window as a pair (start, end) of shares of the steps.

    Args:
        window: A number f, which means (0, f), or a pair (start, end).
        name: What the window is called, for the error.

    Raises:
        ValueError: Not 0 <= start <= end <= 1.
    """
    start, end = (0.0, window) if isinstance(window, (int, float)) else window
    if not 0 <= start <= end <= 1:
        raise ValueError(
            f"{name}={window!r}: expected a share of the steps from 0 to 1, or a pair (start, "
            "end) of such"
        )
    return float(start), float(end)


def within(window: tuple[float, float], t: float) -> bool:
    """Is time t inside the window (start, end)?

    What counts is the share 1 - t of the way from noise to image. Where the steps are even in t it
    is the share of the steps, too, up to rounding.
    """
    start, end = window
    return start <= _done(t) < end


def within_each(windows: Tensor, t: float) -> Tensor:
    """`within` for windows [2, ...]: bool [...]."""
    return (windows[0] <= _done(t)) & (_done(t) < windows[1])


def _done(t: float) -> float:
    return 1 - t + 1e-6
