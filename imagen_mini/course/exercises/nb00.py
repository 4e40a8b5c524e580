"""Notebook 00: from which step on is the image decided?"""

from __future__ import annotations

from imagen_mini.course.exercises import WrongAnswerError, checks

CASES = (
    ([False, False, True, True], 2, "it is correct from step 2 on"),
    ([True, False, True, True], 2, "the estimate of step 0 was correct, too, but did not stay so"),
    ([True, True], 0, "it was correct all along"),
    (
        [False, True, False, True, False],
        5,
        "it is incorrect at the end, so it was never decided: the number of steps",
    ),
    ([False, False], 2, "it never was correct: the number of steps"),
)


@checks
def check(decided_at) -> str:
    """`decided_at(verdicts)`: the first step from which on every verdict is True; the number of
    verdicts if the last one is not.
    """
    for verdicts, expected, why in CASES:
        seen = decided_at(list(verdicts))
        if seen != expected or isinstance(seen, bool):
            raise WrongAnswerError(f"for {verdicts} you say {seen}, expected {expected}: {why}")
    return "An image counts as decided once the estimate is correct and stays so."
