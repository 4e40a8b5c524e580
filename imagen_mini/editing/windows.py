"""Windows: in which share of the sampling steps something is done."""

from __future__ import annotations

Window = float | tuple[float, float]


def as_window(window: Window, name: str) -> tuple[float, float]:
    start, end = (0.0, window) if isinstance(window, (int, float)) else window
    if not 0 <= start <= end <= 1:
        raise ValueError(
            f"{name}={window!r}: expected a share of the steps from 0 to 1, or a pair (start, "
            "end) of such"
        )
    return float(start), float(end)


def within(window, t: float):
    """Is the share of the walk that is done at t within (start, end)? It is the share of the steps,
    too, where they are even in t, which is rounded.
    """
    done = 1 - t + 1e-6
    return (window[0] <= done) & (done < window[1])
