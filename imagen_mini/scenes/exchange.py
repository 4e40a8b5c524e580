"""Two things in each other's place: a second scene that a caption describes as well as the first.

"A red circle and a blue square" does not say which of the two is on the left. What a network must know is that if one place shows the circle, the
other shows the square.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .captions import Description
from .scene import GAP, GRID, Object, Scene, held_out


@dataclass(frozen=True)
class Exchange:
    """`scene` is the second one; `places` are the (x, y), in 1/64 of the width, of the two things that were exchanged, in the first and in the second."""

    scene: Scene
    places: tuple[tuple[int, int], tuple[int, int]]

    def side(self, size: int) -> Tensor:
        """1 where a pixel is nearer to the first place than to the second, else 0: [size, size]."""
        line = (torch.arange(size) + 0.5) * GRID / size
        y, x = torch.meshgrid(line, line, indexing="ij")
        first, second = ((x - px) ** 2 + (y - py) ** 2 for px, py in self.places)
        return (first < second).float()


def is_free(scene: Scene) -> bool:
    """Do all things lie inside the picture and apart, as `random_scene` places them?"""
    inside = all(int(o.reach + 1.5) <= at <= int(GRID - o.reach - 0.5) for o in scene.objects for at in (o.x, o.y))
    return inside and all((a.x - b.x) ** 2 + (a.y - b.y) ** 2 >= (a.reach + b.reach + GAP) ** 2 for a, b in itertools.combinations(scene.objects, 2))


def exchange(scene: Scene, description: Description, rng: random.Random) -> Exchange | None:
    """Let two things of the scene stand in each other's place, with their sizes or, as well, without: another scene of training that fits the
    description. None if there is none, as for a single thing, for equal ones, and where a relation is said."""
    pairs = list(itertools.combinations(scene.objects, 2))
    for a, b in rng.sample(pairs, len(pairs)):
        for kept in rng.sample([("x", "y"), ("x", "y", "size")], 2):
            moved = [_in_place_of(b, a, kept), _in_place_of(a, b, kept)]
            second = Scene(tuple([o for o in scene.objects if o not in (a, b)] + moved), scene.background)
            if second.without_texture() != scene.without_texture() and description.fits(second) and is_free(second) and not held_out(second):
                return Exchange(second, ((a.x, a.y), (b.x, b.y)))
    return None


def _in_place_of(thing: Object, other: Object, kept: tuple[str, ...]) -> Object:
    return replace(thing, **{name: getattr(other, name) for name in kept})
