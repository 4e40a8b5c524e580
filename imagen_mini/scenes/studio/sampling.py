"""Random scenes of the world `studio`: those of the flat world, with materials, a surface, a light
and a seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from imagen_mini.scenes.captions import Caption, caption_from, describe
from imagen_mini.scenes.scene import LIGHTS, MATERIALS, SURFACES, Scene, random_scene

SAME_MATERIAL = 0.5  # how often all objects of a scene have one material


def furnish(scene: Scene, rng: random.Random) -> Scene:
    """Give a flat scene materials, a surface, a light and a seed."""
    materials = [rng.choice(MATERIALS) for _ in scene.objects]
    if rng.random() < SAME_MATERIAL:
        materials = materials[:1] * len(materials)
    objects = (replace(o, material=m) for o, m in zip(scene.objects, materials))
    return Scene(
        tuple(objects), rng.choice(tuple(SURFACES)), rng.choice(LIGHTS), rng.getrandbits(32)
    )


def random_studio_scene(rng: random.Random, **options) -> Scene:
    """Sample a random scene of the world `studio`.

    Args:
        rng: Source of randomness.
        **options: Those of `random_scene`.
    """
    return furnish(random_scene(rng, **options), rng)


def studio_training_scene(
    seed: int, index: int, counts: Sequence[float] = (22, 50, 17, 11)
) -> Scene:
    """Return scene `index` of the endless training set `seed` of the world `studio`.

    Args:
        seed: Which training set; `HELD_OUT_SEED` is reserved for evaluation.
        index: Number of the scene, from 0.
        counts: Relative frequencies of 1, 2, ... objects.
    """
    return random_studio_scene(random.Random(f"studio/scene/{seed}/{index}"), counts=counts)


def studio_training_caption(scene: Scene, seed: int, index: int) -> Caption:
    """Return the caption of training scene `index`: a pure function of its arguments."""
    rng = random.Random(f"studio/caption/{seed}/{index}")
    return caption_from(describe(scene, rng), rng)
