"""What the parser reads from clean and from corrupted images."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace

from torch import Tensor

from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.scenes.parse import UNCLEAR, ParsedScene, parse_image
from imagen_mini.scenes.scene import HELD_OUT_SEED, Scene
from imagen_mini.scenes.world import WORLDS, World


def shapes_in(images: Tensor) -> list[str]:
    """Name the shape that the parser recognizes in each image [b, 3, h, w] in [-1, 1].

    Other than for a scene, the rest of the image may be odd: a blurred square is a square.

    Returns:
        For each image the shape of its object; "several objects" or "none" if there is not one.
    """
    names = []
    for parsed in parse_image(images.float().cpu()):
        shapes = [o.shape for o in parsed.objects]
        names.append(shapes[0] if len(shapes) == 1 else "several objects" if shapes else "none")
    return names


def read_correctly(scenes: Sequence[Scene], images: Tensor) -> list[bool]:
    """Return for each image whether the parser reads its scene from it, textures left out.

    Args:
        scenes: b scenes.
        images: Images [b, 3, 64, 64] in [-1, 1].
    """
    return [
        parsed.scene == scene.without_texture()
        for parsed, scene in zip(parse_image(images.float()), scenes, strict=True)
    ]


OUTCOMES = ("right", "unreadable", "misread")


def parse_outcome(scene: Scene, parsed: ParsedScene, size: int) -> str:
    """Return one of OUTCOMES: what became of a scene that was rendered and read. It is unreadable,
    too, if an attribute is unclear and the rest is right (see `may_be`).

    Args:
        scene: The true scene.
        parsed: What the parser read.
        size: The side of the image; below 256 px textures cannot be seen and do not count.
    """
    truth = scene if size == 256 else scene.without_texture()
    if parsed.scene == truth:
        return "right"
    return "unreadable" if parsed.scene is None or may_be(truth, parsed.scene) else "misread"


def may_be(scene: Scene, other: Scene) -> bool:
    """True if two scenes agree in all that is unclear in neither, and in places up to 1/64."""
    pairs = [(scene.background, other.background), (scene.light, other.light)]
    near = len(scene.objects) == len(other.objects)
    for o, p in zip(scene.objects, other.objects):
        near &= max(abs(o.x - p.x), abs(o.y - p.y)) <= 1
        pairs += zip(astuple(replace(o, x=p.x, y=p.y)), astuple(p))
    return near and all(a == b or UNCLEAR in (a, b) for a, b in pairs)


def fresh_scenes(n: int, world: World, seed: str = "fresh") -> list[Scene]:
    """Sample scenes of 1 to 5 objects of every kind, held-out combinations included."""
    rng = random.Random(f"{world.name}/{seed}")
    return [
        world.random_scene(rng, exclude_held_out=False, counts=(20, 40, 17, 13, 10))
        for _ in range(n)
    ]


def count_outcomes(
    scenes: Sequence[Scene],
    size: int,
    world: World,
    read: Callable[[Tensor], list[ParsedScene]] | None = None,
    corrupt: Callable[[Tensor], Tensor] = lambda images: images,
    batch: int = 64,
) -> dict[str, int]:
    """Render scenes, corrupt the images, read them again and count OUTCOMES.

    Args:
        scenes: Scenes of the world.
        size: The side of the images.
        world: The world.
        read: The judge (default: that of the world).
        corrupt: Images -> images (default: as they are).
        batch: Images at once (default: 64).
    """
    read, found = read or world.parse_image, []
    for at in range(0, len(scenes), batch):
        part = scenes[at : at + batch]
        parsed = read(corrupt(world.render(part, size)))
        found += [parse_outcome(s, r, size) for s, r in zip(part, parsed, strict=True)]
    return {name: found.count(name) for name in OUTCOMES}


def measure_parser_robustness(
    n: int,
    size: int,
    corrupt: Callable[[Tensor, float], Tensor],
    strengths: Sequence[float],
    batch: int = 64,
    world: World = WORLDS["scenes"],
) -> list[dict]:
    """Measure how often the parser reads corrupted images of true scenes.

    Args:
        n: The number of held-out scenes.
        size: The side of the images.
        corrupt: The corruption (images, strength) -> images.
        strengths: The strengths to try.
        batch: Images at once (default: 64).
        world: Of the scenes (default: `scenes`).

    Returns:
        For each strength its value, n, the counts of OUTCOMES, and their 95 % `intervals`.
    """
    scenes, rows = [world.training_scene(HELD_OUT_SEED, i) for i in range(n)], []
    for strength in strengths:
        counts = count_outcomes(
            scenes,
            size,
            world,
            corrupt=lambda images, by=strength: corrupt(images, by),
            batch=batch,
        )
        rows.append(
            {
                "strength": strength,
                "n": n,
                **counts,
                "intervals": {name: wilson_interval(k, n) for name, k in counts.items()},
            }
        )
    return rows
