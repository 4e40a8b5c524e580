"""Numbers that a user gives: of the right type, finite and in range, or a plain error."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def as_integer(name: str, value: Any, low: int | None = None, what: str = "an integer") -> int:
    """An integer, as a Python int.

    Args:
        name: What the error calls it.
        value: An int, or one of NumPy or torch. No bool, and no float, even if it is whole.
        low: The smallest one allowed. None: any.
        what: What the error says was expected.

    Raises:
        TypeError: Not an integer.
        ValueError: Below `low`.
    """
    number = _unwrapped(value)
    expected = what if low is None else f"{what} of at least {low}"
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise TypeError(f"{name}: expected {expected}; got {value!r} ({type(value).__name__})")
    if low is not None and number < low:
        raise ValueError(f"{name}: expected {expected}; got {value}")
    return int(number)


def as_number(name: str, value: Any) -> float:
    """A finite number, as a Python float.

    Args:
        name: What the error calls it.
        value: An int or float, or one of NumPy or torch.

    Raises:
        TypeError: Not a number.
        ValueError: NaN or infinite.
    """
    number = _unwrapped(value)
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"{name}: expected a number; got {value!r} ({type(value).__name__})")
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number; got {value}")
    return float(number)


def _unwrapped(value: Any) -> Any:
    """The number in an array or tensor without dimensions; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value
