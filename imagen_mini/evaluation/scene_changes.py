"""What else changed? The attributes in which two images differ, as a judge reads both."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import permutations

from imagen_mini.scenes.scene import Scene, SceneObject

ATTRIBUTES = (
    "count",
    "shape",
    "color",
    "size",
    "place",
    "background",
    "material",
    "texture",
    "light",
)
MOVED = 4.0  # in 1/64 of the width: objects that move by less are at the same place


def changed_attributes(before: Scene, after: Scene, moved: float = MOVED) -> list[str]:
    """Return the attributes in which two scenes differ.

    Objects are paired: alike ones first, then near ones. So two objects that change places have
    changed their places alone. Of scenes with unequally many objects, only what is new or gone
    altogether counts, and places are not compared.

    Args:
        before: A scene.
        after: Another one.
        moved: The distance in 1/64 of the width from which on an object has another place, on
            average over the objects (default: 4).

    Returns:
        Of ATTRIBUTES, in this order.
    """
    found = [a for a in ("background", "light") if getattr(before, a) != getattr(after, a)]
    if len(before.objects) == len(after.objects):
        pairs = _pairs(before, after)
        if sum(_distance(a, b) for a, b in pairs) > moved * len(pairs):
            found.append("place")
        found += [name for name in OF_OBJECTS if any(_differ(name, a, b) for a, b in pairs)]
    else:
        found.append("count")
        for name in OF_OBJECTS:
            kinds = [{getattr(o, name) for o in scene.objects} for scene in (before, after)]
            if kinds[0] != kinds[1]:
                found.append(name)
    return sorted(found, key=ATTRIBUTES.index)


OF_OBJECTS = ("shape", "color", "size", "material", "texture")
# what an unlike pair costs, in 1/64 of the width: rather another place than another shape
UNLIKE = {"shape": 64.0, "color": 32.0}


def _pairs(before: Scene, after: Scene) -> list[tuple[SceneObject, SceneObject]]:
    """The objects of two scenes of equally many, paired with the least cost."""

    def cost(order: Iterable[SceneObject]) -> float:
        return sum(
            _distance(a, b) + sum(by for name, by in UNLIKE.items() if _differ(name, a, b))
            for a, b in zip(before.objects, order)
        )

    return list(zip(before.objects, min(permutations(after.objects), key=cost)))


def _distance(a: SceneObject, b: SceneObject) -> float:
    """Between the centres of two objects, in 1/64 of the width."""
    return math.hypot(a.x - b.x, a.y - b.y)


def _differ(name: str, a: SceneObject, b: SceneObject) -> bool:
    """Do two objects differ in this attribute?"""
    return getattr(a, name) != getattr(b, name)


def count_changes(before: Sequence[Scene | None], after: Sequence[Scene | None]) -> dict[str, int]:
    """Count what changed, over pairs of scenes.

    Args:
        before: Scenes; None: unreadable.
        after: As many.

    Returns:
        "n", the pairs of which both can be read; "unreadable", those of which only the first one
        can; and for each of ATTRIBUTES the pairs that differ in it.

    Raises:
        ValueError: There are not as many scenes after as before.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} scenes before and {len(after)} after; expected as many")
    pairs = [(a, b) for a, b in zip(before, after) if a is not None]
    readable = [(a, b) for a, b in pairs if b is not None]
    changes = Counter(name for a, b in readable for name in changed_attributes(a, b))
    return {
        "n": len(readable),
        "unreadable": len(pairs) - len(readable),
        **{name: changes[name] for name in ATTRIBUTES},
    }


def describe_changes(counts: dict[str, int]) -> str:
    """Return `count_changes` in words, such as "size 3 of 4; 1 unreadable"."""
    parts = [f"{name} {counts[name]} of {counts['n']}" for name in ATTRIBUTES if counts[name]]
    if not parts:
        parts = [f"nothing in {counts['n']}"]
    return ", ".join(parts) + (f"; {counts['unreadable']} unreadable" * bool(counts["unreadable"]))
