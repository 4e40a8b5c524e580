"""Notebook 15: images held out of training, so that no caption is on both sides."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from types import CodeType

from imagen_mini.course.exercises import WrongAnswerError, checks

ANIMALS = "cat dog cow pig hen fox owl bee ant eel".split()


def plain(caption: str) -> str:
    """A caption without what makes no difference."""
    return " ".join(caption.lower().split())


def names_used(function: Callable) -> set[str]:
    """The global names that a function uses, and those of the functions inside of it."""
    codes: list[CodeType | None] = [getattr(inspect.unwrap(function), "__code__", None)]
    names: set[str] = set()
    while codes:
        if (code := codes.pop()) is not None:
            names |= set(code.co_names)
            codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return names


@checks
def check(hold_out) -> str:
    """`hold_out(captions, share)`: captions of n images -> the indices of those held out, a list;
    images of one caption on the same side, at most `share` of all, whatever the order.
    """

    def ask(captions: list[str], share: float) -> list[int]:
        """The answer, after a look at its form."""
        try:
            chosen = [int(i) for i in hold_out(list(captions), share)]
        except TypeError as error:
            raise WrongAnswerError(
                f"expected a list of indices; it cannot be read as one ({error})"
            ) from error
        if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(len(captions))):
            raise WrongAnswerError(
                f"of {len(captions)} images you hold out {sorted(chosen)}; expected different "
                f"indices from 0 to {len(captions) - 1}"
            )
        if len(chosen) > share * len(captions):
            raise WrongAnswerError(
                f"of {len(captions)} images and a share of {share} you hold out {len(chosen)}; "
                f"expected at most {int(share * len(captions))}. A caption whose images do not "
                "all fit is left out"
            )
        return chosen

    # 1. every caption another one: nothing can leak, and all of the share is used
    alone = [f"a {animal}" for animal in ANIMALS]
    chosen = ask(alone, 0.3)
    if len(chosen) != 3:
        raise WrongAnswerError(
            f"of 10 images with 10 captions and a share of 0.3 you hold out {len(chosen)}; "
            "expected 3"
        )
    # 2. several images of a caption, then written in other ways
    for name, captions in (
        ("four images", [f"a {animal}" for animal in ANIMALS] * 4),
        (
            "images with capitals and spaces",
            [f"a {a}" for a in ANIMALS]
            + [f"A {a.upper()}" for a in ANIMALS]
            + [f"  a   {a} " for a in ANIMALS],
        ),
    ):
        chosen = ask(captions, 0.25)
        apart = {plain(captions[i]) for i in chosen}
        both = sorted(apart & {plain(c) for i, c in enumerate(captions) if i not in set(chosen)})
        if both:
            raise WrongAnswerError(
                f"with {name} of each caption, {both[0]!r} is on both sides. Group the indices by "
                "caption first, without capitals and spaces, and hold out whole groups"
            )
        if not chosen:
            raise WrongAnswerError(
                f"with {name} of each caption you hold out nothing; expected some, as whole "
                "captions fit into the share"
            )
    # 3. another order of the same folder
    for captions in (alone, alone * 4):
        shuffled = list(captions)
        random.Random("nb15").shuffle(shuffled)
        first, second = ({of[i] for i in ask(of, 0.3)} for of in (captions, shuffled))
        if first != second:
            raise WrongAnswerError(
                f"in one order you hold out {sorted(first)}, in another {sorted(second)}. Let the "
                "captions decide: take them in an order that depends on their text alone, for "
                "example that of hashlib.sha256(caption.encode()).hexdigest()"
            )
    # 4. another session
    if "hash" in names_used(hold_out):
        raise WrongAnswerError(
            "Python's hash of a text is another one in each session, so that a run that goes on "
            "would train on what was held out. hashlib.sha256(caption.encode()).hexdigest() stays"
        )
    return "No caption that is tested was trained on, in any order of the folder."
