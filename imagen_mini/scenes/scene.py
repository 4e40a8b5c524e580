"""The scene graph: what an image of the built-in world can hold, and how scenes are sampled.

A `Scene` is complete: every attribute of every object is decided, so it can be rendered. Positions
are integers in units of 1/64 of the image's width, so that a scene parsed from an image can be
compared with `==`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

GRID = 64  # positions are multiples of 1 / GRID of the image's width

# Every channel of an object's colour lies in [0.22, 0.78]: a texture may add and subtract 0.22
# without clipping.
COLORS = {
    "red": (0.78, 0.22, 0.22),
    "orange": (0.78, 0.50, 0.22),
    "yellow": (0.78, 0.78, 0.22),
    "green": (0.22, 0.64, 0.25),
    "cyan": (0.22, 0.72, 0.78),
    "blue": (0.22, 0.30, 0.78),
    "purple": (0.50, 0.22, 0.66),
    "pink": (0.78, 0.48, 0.68),
}
BACKGROUNDS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "gray": (0.5, 0.5, 0.5),
    "beige": (0.92, 0.85, 0.68),
}
SIZES = {"small": 6.5, "large": 10.5}  # radius in 1/64 of the width
TEXTURES = ("solid", "striped", "dotted", "checkered")

# The world `studio` has these as well. A surface stands in the place of a background; the words
# are its name and its adjective.
SURFACES = {
    "wood": "wooden",
    "sand": "sandy",
    "slate": "slate",
    "linen": "linen",
    "marble": "marble",
}
MATERIALS = ("matte", "shiny", "metallic")
LIGHTS = ("left", "right", "top", "bottom")  # the side of the image from which light comes

# Radius of the circle around each shape, in units of its size: keeps objects apart and inside the
# image.
SHAPES = {
    "circle": 1.0,
    "square": 1.26,
    "triangle": 1.36,
    "star": 1.36,
    "cross": 1.22,
    "ring": 1.12,
}
MIN_GAP = 2  # least distance between two of those circles, in 1/64

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

# Never part of the training set, so that composition can be tested. (The held-out words are in
# captions.py.)
HELD_OUT_COLOR_SHAPE = frozenset(
    {
        ("red", "triangle"),
        ("blue", "star"),
        ("green", "square"),
        ("purple", "circle"),
        ("yellow", "cross"),
        ("cyan", "ring"),
    }
)
HELD_OUT_TEXTURE_SHAPE = frozenset(
    {("striped", "star"), ("dotted", "triangle"), ("checkered", "ring")}
)
HELD_OUT_RELATIONS = frozenset(
    {("star", "left of", "cross"), ("ring", "above", "square"), ("triangle", "left of", "circle")}
)
HELD_OUT_COUNT = 5
MAX_OBJECTS = 5
HELD_OUT_SEED = 1_000_003  # seed of the scenes used for evaluation: no training uses it


@dataclass(frozen=True, order=True)
class SceneObject:
    """One object of a scene.

    `x` grows to the right and `y` downwards, both in 1/64 of the image's width.
    """

    y: int
    x: int
    shape: str
    color: str
    size: str
    texture: str | None  # None: unknown, as when parsed from a 64 px image
    material: str | None = None  # None: unknown, or of the world `scenes`, which has none

    @property
    def radius(self) -> float:
        """Radius of the circle around the object, in 1/64 of the width."""
        return SIZES[self.size] * SHAPES[self.shape]


@dataclass(frozen=True)
class Scene:
    """Objects on a background.

    Objects are kept in reading order, so that equal images are equal scenes.

    Args:
        objects: The objects, in any order.
        background: One of `BACKGROUNDS`, or of `SURFACES` in the world `studio`.
        light: The side that light comes from, one of `LIGHTS`. None (default): unknown, or of the
            world `scenes`, which has no light.
        seed: Decides all that no caption speaks of, such as the grain of a surface (default: 0).
            It takes no part in comparisons.
    """

    objects: tuple[SceneObject, ...]
    background: str
    light: str | None = None
    seed: int = field(default=0, compare=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "objects", tuple(sorted(self.objects)))

    def without_texture(self) -> Scene:
        """Return the same scene as far as a 64 px image can show it: with unknown textures."""
        return replace(self, objects=tuple(replace(o, texture=None) for o in self.objects))


def relation(a, b) -> str | None:
    """Return where `a` lies with respect to `b`, by the larger of the two offsets.

    Args:
        a: An object with `x` and `y`.
        b: Another one.

    Returns:
        One of `RELATIONS`, or None if the two offsets are equal (on the diagonal).
    """
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) == abs(dy):
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def unambiguous_relation(a, b) -> str | None:
    """Return `relation(a, b)` if one offset exceeds the other by at least 6/64, else None.

    Only such relations are stated in training captions.
    """
    return relation(a, b) if abs(abs(a.x - b.x) - abs(a.y - b.y)) >= 6 else None


def conflicts(upper, lower) -> bool:
    """Return True if `upper` is large and `lower` is small.

    In training no large object stands clearly above a small one (see `unambiguous_relation`): it is
    the training set's one regularity. Near a diagonal, where no caption states a relation, a large
    object may be the higher one.
    """
    return upper.size == "large" and lower.size == "small"


def held_out(scene: Scene) -> set[str]:
    """Return the names of the held-out splits that a scene belongs to.

    Args:
        scene: Any scene.

    Returns:
        A subset of "color-shape", "texture-shape", "relation", "conflict" and "count". It is empty
        for every training scene.
    """
    found = set()
    for o in scene.objects:
        if (o.color, o.shape) in HELD_OUT_COLOR_SHAPE:
            found.add("color-shape")
        if (o.texture, o.shape) in HELD_OUT_TEXTURE_SHAPE:
            found.add("texture-shape")
    for a in scene.objects:
        for b in scene.objects:
            if (a.shape, relation(a, b), b.shape) in HELD_OUT_RELATIONS:
                found.add("relation")
            if unambiguous_relation(a, b) == "above" and conflicts(a, b):
                found.add("conflict")
    if len(scene.objects) >= HELD_OUT_COUNT:
        found.add("count")
    return found


def sample_free_position(
    rng: random.Random, radius: float, placed: list[SceneObject], tries: int = 20
) -> tuple[int, int] | None:
    """Sample a position for an object of a given radius that keeps clear of the other objects.

    Args:
        rng: Source of randomness.
        radius: Radius of the circle around the object, in 1/64 of the width.
        placed: Objects that are already there.
        tries: Number of positions to try (default: 20).

    Returns:
        (x, y) in 1/64 of the width, or None if all tries failed.
    """
    low, high = int(radius + 1.5), int(GRID - radius - 0.5)
    for _ in range(tries):
        x, y = rng.randint(low, high), rng.randint(low, high)
        if all(
            (x - o.x) ** 2 + (y - o.y) ** 2 >= (radius + o.radius + MIN_GAP) ** 2 for o in placed
        ):
            return x, y
    return None


def random_scene(
    rng: random.Random,
    count: int | None = None,
    same: float = 0.2,
    exclude_held_out: bool = True,
    counts: Sequence[float] = (22, 50, 17, 11),
) -> Scene:
    """Sample a random scene.

    Args:
        rng: Source of randomness.
        count: Number of objects. By default 1, 2, 3 or 4, with probabilities from `counts`.
        same: Probability that all objects share shape and colour, as captions with numbers need
            (default: 0.2).
        exclude_held_out: Reject scenes of a held-out split (default: True). This is the training
            distribution.
        counts: Relative frequencies of 1, 2, ... objects.

    Returns:
        A scene whose objects lie inside the image and at least `MIN_GAP` apart.
    """
    n = count or rng.choices(range(1, len(counts) + 1), counts)[0]
    while True:
        alike = n > 1 and rng.random() < same
        shape, color = rng.choice(tuple(SHAPES)), rng.choice(tuple(COLORS))
        objects: list[SceneObject] = []
        for _ in range(n):
            if not alike:
                shape, color = rng.choice(tuple(SHAPES)), rng.choice(tuple(COLORS))
            size = "large" if rng.random() < (0.5 if n <= 2 else 0.2) else "small"
            texture = rng.choice(TEXTURES)
            where = sample_free_position(rng, SIZES[size] * SHAPES[shape], objects)
            if where is None:
                break
            objects.append(
                SceneObject(
                    x=where[0], y=where[1], shape=shape, color=color, size=size, texture=texture
                )
            )
        else:
            scene = Scene(tuple(objects), rng.choice(tuple(BACKGROUNDS)))
            if not (exclude_held_out and held_out(scene)):
                return scene


def training_scene(seed: int, index: int, counts: Sequence[float] = (22, 50, 17, 11)) -> Scene:
    """Return scene `index` of the endless training set `seed`: a pure function of its arguments.

    Args:
        seed: Which training set; `HELD_OUT_SEED` is reserved for evaluation.
        index: Number of the scene, from 0.
        counts: Relative frequencies of 1, 2, ... objects.
    """
    return random_scene(random.Random(f"scene/{seed}/{index}"), counts=counts)
