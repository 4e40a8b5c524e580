"""The checks of the notebooks' exercises: module nbNN belongs to notebook NN, and its `check` says
what is right or what is wrong.

A check never raises: a notebook with open exercises runs to its end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, repr=False)
class Checked:
    """What a check found. `right` is None where there is no answer yet."""

    right: bool | None
    message: str

    def __repr__(self) -> str:
        return {True: "Right. ", False: "Not yet: ", None: "No answer yet: "}[
            self.right
        ] + self.message


class Wrong(Exception):
    """Raised inside a check; its message tells the student what was seen, what was expected, and
    where to look.
    """


class NoAnswer(Exception):
    """Raised inside a check by an answer that is still blank."""


def checks(check: Callable[[Callable], str]) -> Callable[[Callable], Checked]:
    """Make a check of a function that is given the student's answer, raises `Wrong`, and returns a
    sentence for a right one.
    """

    @functools.wraps(check)
    def run(answer: Callable) -> Checked:
        def call(*args, **kwargs):
            value = answer(*args, **kwargs)
            if value is None or value is ...:
                raise NoAnswer
            return value

        try:
            return Checked(True, check(functools.update_wrapper(call, answer)))
        except Wrong as found:
            return Checked(False, str(found))
        except (NoAnswer, NotImplementedError):
            return Checked(
                None,
                f"{answer.__name__} returns nothing; replace the ... by your own lines, and "
                "run the cell again",
            )
        except Exception as error:
            return Checked(False, f"{answer.__name__} stopped with {type(error).__name__}: {error}")

    return run


def expect_close(
    seen, expected: Tensor, what: str, hint: str = "", tolerance: float = 1e-6
) -> None:
    """`Wrong` unless `seen` is a tensor of the shape of `expected` whose values are within
    `tolerance` of it, relative to the largest of it or 1.
    """
    if not isinstance(seen, Tensor):
        raise Wrong(f"{what} should be a tensor; got {type(seen).__name__}")
    if seen.shape != expected.shape:
        raise Wrong(
            f"{what} should have the shape {list(expected.shape)}; got {list(seen.shape)}. "
            f"{hint}".strip()
        )
    far = (seen.double() - expected.double()).abs()
    if not seen.isfinite().all() or far.max() > tolerance * max(1.0, expected.abs().max().item()):
        where = (
            tuple(torch.unravel_index(torch.nan_to_num(far, nan=torch.inf).argmax(), far.shape))
            if far.ndim
            else ()
        )
        place = f" at {[int(i) for i in where]}" if where else ""
        raise Wrong(
            f"{what} is {seen[where].item():.4g}{place}, expected "
            f"{expected[where].item():.4g}. {hint}".strip()
        )
