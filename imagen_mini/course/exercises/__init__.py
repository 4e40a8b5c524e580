"""The checks of the notebooks' exercises: module nbNN belongs to notebook NN, and its `check` says
what is correct or what is not.

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
    """What a check found.

    Attributes:
        correct: Whether the answer is correct; None where there is no answer yet.
        message: What to say to the student.
    """

    correct: bool | None
    message: str

    def __repr__(self) -> str:
        return {True: "Correct. ", False: "Not yet: ", None: "No answer yet: "}[
            self.correct
        ] + self.message


class WrongAnswerError(Exception):
    """Raised inside a check. Its message tells the student what was seen, what was expected, and
    where to look.
    """


class NoAnswerError(Exception):
    """Raised inside a check by an answer that is still blank."""


def checks(check: Callable[[Callable], str]) -> Callable[[Callable], Checked]:
    """Make a check of a function.

    Args:
        check: A function of the student's answer. It raises `WrongAnswerError`, or returns a
            sentence for a correct one.

    Returns:
        A function of the student's answer that returns `Checked` and never raises.
    """

    @functools.wraps(check)
    def run(answer: Callable) -> Checked:
        def call(*args, **kwargs):
            value = answer(*args, **kwargs)
            if value is None or value is ...:
                raise NoAnswerError
            return value

        try:
            return Checked(True, check(functools.update_wrapper(call, answer)))
        except WrongAnswerError as found:
            return Checked(False, str(found))
        except (NoAnswerError, NotImplementedError):
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
    """Compare a tensor of the student's with the expected one.

    Args:
        seen: What the student's function returned.
        expected: What it should be.
        what: Its name in the message.
        hint: Added to the message (default: none).
        tolerance: The largest difference, relative to the largest expected value or 1 (default:
            1e-6).

    Raises:
        WrongAnswerError: If `seen` is no tensor, or of another shape or value.
    """
    if not isinstance(seen, Tensor):
        raise WrongAnswerError(f"{what} should be a tensor; got {type(seen).__name__}")
    if seen.shape != expected.shape:
        raise WrongAnswerError(
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
        raise WrongAnswerError(
            f"{what} is {seen[where].item():.4g}{place}, expected "
            f"{expected[where].item():.4g}. {hint}".strip()
        )
