"""Combinations that are held out of training, though each of their parts is trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence

from train.make_dataset.emoji import TONES, Drawing

# Why an image is held out, and how many may be, as a share of all:
SHARES = {
    # the subject is trained on in other styles; in this one it is not, in any tone
    "subject x style": 0.025,
    # the person is trained on in other tones; in this one it is not, in any style
    "subject x tone": 0.015,
    # the person is trained on in this tone in other styles, and in this style in other tones
    "subject x tone x style": 0.015,
}


def combinations_held_out(
    drawings: Sequence[Drawing], merged: Collection[Drawing] = ()
) -> dict[Drawing, str]:
    """Choose the drawings that are held out.

    Of a subject at most one combination is held out. So of each drawing that is, all parts of the
    caption are trained on in other company.

    Args:
        drawings: All drawings.
        merged: Those whose image another one has, too: they are trained on.

    Returns:
        For each drawing that is held out the reason, a key of `SHARES`. A function of the captions
        alone.
    """
    of_subject: dict[str, list[Drawing]] = defaultdict(list)
    for drawing in drawings:
        of_subject[drawing.subject].append(drawing)
    held_out: dict[Drawing, str] = {}
    used: set[str] = set()
    for reason, share in SHARES.items():
        room = int(share * len(drawings))
        # 1. all combinations of this kind, in an order that only their words decide
        candidates = [
            (subject, *parts)
            for subject, of in of_subject.items()
            if subject not in used
            for parts in dict.fromkeys(_parts(reason, drawing) for drawing in of)
            if None not in parts
        ]
        # 2. as many of them as there is room for
        for subject, *parts in sorted(candidates, key=lambda c: _number(reason, *c)):
            of = of_subject[subject]
            chosen = [drawing for drawing in of if _parts(reason, drawing) == tuple(parts)]
            rest = [drawing for drawing in of if drawing not in chosen]
            if (
                subject not in used
                and len(chosen) <= room
                and not any(drawing in merged for drawing in chosen)
                and not any(drawing.tone and drawing.tone not in TONES for drawing in of)
                and all(_is_shown_apart(reason, drawing, rest) for drawing in chosen)
            ):
                held_out |= dict.fromkeys(chosen, reason)
                used.add(subject)
                room -= len(chosen)
    return held_out


def _parts(reason: str, drawing: Drawing) -> tuple[str | None, ...]:
    """What beside the subject makes a combination of this kind."""
    return {
        "subject x style": (drawing.style,),
        "subject x tone": (drawing.tone,),
        "subject x tone x style": (drawing.tone, drawing.style),
    }[reason]


def _is_shown_apart(reason: str, drawing: Drawing, rest: Sequence[Drawing]) -> bool:
    """Do the other drawings of its subject show each part of a drawing, as the reason says?"""
    styles = [other for other in rest if other.style == drawing.style]
    tones = [other for other in rest if other.tone == drawing.tone]
    if reason == "subject x style":
        return bool(tones)
    other_tone = any(other.tone for other in styles)
    return other_tone and (reason == "subject x tone" or bool(tones))


def _number(*words: str | None) -> bytes:
    return hashlib.sha256("/".join(map(str, words)).encode()).digest()
