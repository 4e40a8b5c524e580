"""Edits by the exact parser: does a word swap change what it should, and nothing else?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from .benchmark import held_out_relation, random_thing, related
from .evaluation import wilson_interval
from .scenes.captions import Caption, Description, Thing, write
from .scenes.parse import Reading, parse
from .scenes.scene import HELD_OUT_COLOR_SHAPE

TOLERANCE = 3                                          # in 1/64 of the width: what counts as the same place


@dataclass(frozen=True)
class Swap:
    """A word swap on a caption of one or two things: in thing `thing`, `attribute` becomes another value."""

    attribute: str                                     # color or shape
    thing: int
    seed: int
    source: Caption
    target: Caption


def swaps(attribute: str, n: int, seed: int = 0) -> list[Swap]:
    """`n` swaps of colours or shapes, half on one thing, half on two related ones. Source and target differ in one word."""
    out: list[Swap] = []
    while len(out) < n:
        i = len(out)
        rng = random.Random(f"swap/{seed}/{attribute}/{i}")
        source = Description((random_thing(rng, "color"),)) if i % 2 == 0 else related(rng)
        which = rng.randrange(len(source.things))
        old = source.things[which]
        others = [t for k, t in enumerate(source.things) if k != which]
        while True:
            new = random_thing(rng, "color", shape=None if attribute == "shape" else old.shape)
            new = Thing(new.shape, new.color if attribute == "color" else old.color)
            if (getattr(new, attribute) != getattr(old, attribute) and (new.color, new.shape) not in HELD_OUT_COLOR_SHAPE
                    and all(getattr(new, attribute) != getattr(t, attribute) for t in others)):
                target = Description(tuple(new if k == which else t for k, t in enumerate(source.things)), source.relation)
                if target.relation is None or not held_out_relation(target):
                    break
        style = rng.random()
        captions = [write(d, random.Random(style)) for d in (source, target)]
        out.append(Swap(attribute, which, seed * 1000 + i, *captions))
    return out


@dataclass(frozen=True)
class EditScore:
    """How one edit went. `success`: the target caption holds. `layout`: every other object is unchanged and every place is, the edited
    object's too. `kept`: what is more, the background and the edited object's other attributes are unchanged (its size, say)."""

    source_right: bool
    success: bool
    layout: bool
    kept: bool

    @property
    def good(self) -> bool:
        return self.success and self.layout


def same_place(a, b) -> bool:
    return abs(a.x - b.x) <= TOLERANCE and abs(a.y - b.y) <= TOLERANCE


def score_edit(swap: Swap, source: Reading, edited: Reading) -> EditScore:
    """Judge an edit by the readings of both pictures."""
    objects = swap.source.description.assign(source.scene) if source.scene is not None else None
    success = swap.target.description.fits(edited.scene)
    if objects is None or edited.scene is None or len(edited.scene.objects) != len(objects):
        return EditScore(objects is not None, success, False, False)
    attributes, remaining = ("shape", "color", "size", "texture"), list(edited.scene.objects)
    before = objects[swap.thing]
    for other in (o for i, o in enumerate(objects) if i != swap.thing):
        same = [o for o in remaining if same_place(other, o) and all(getattr(other, name) == getattr(o, name) for name in attributes)]
        if not same:
            return EditScore(True, success, False, False)
        remaining.remove(same[0])
    (after,) = remaining
    layout = same_place(before, after)
    kept = edited.scene.background == source.scene.background and all(
        getattr(before, name) == getattr(after, name) for name in attributes if name != swap.attribute)
    return EditScore(True, success, layout, layout and kept)


def evaluate_edits(draw: Callable[[list[str], int], Tensor], list_of_swaps: list[Swap]) -> Iterator[tuple[Swap, Tensor, tuple[EditScore, ...]]]:
    """Draw each swap and judge it. `draw([source, target], seed)` gives the source's picture, then the target's by each method that
    is compared, [1 + methods, 3, h, w]; yields one score a method."""
    for swap in list_of_swaps:
        images = draw([swap.source.text, swap.target.text], swap.seed)
        source, *edited = parse(images.float().cpu())
        yield swap, images, tuple(score_edit(swap, source, reading) for reading in edited)


def edit_table(scores: list[EditScore]) -> dict[str, float]:
    """Rates over the edits whose source picture was right to begin with, and the interval of `good`."""
    of = [s for s in scores if s.source_right]
    good = sum(s.good for s in of)
    low, high = wilson_interval(good, len(of))

    def rate(values) -> float:
        return round(sum(values) / max(1, len(of)), 4)

    return {"n": len(scores), "source_right": len(of), "success": rate(s.success for s in of), "layout": rate(s.layout for s in of),
            "good": rate(s.good for s in of), "good_low": round(low, 4), "good_high": round(high, 4),
            "all_kept": rate(s.success and s.kept for s in of)}
