"""Kinds of errors: what is incorrect in an image, in one word; and confusion matrices.

A score says how often a network fails, these say at what. A network that gives both colours to the
incorrect objects needs another remedy than one that generates an incorrect colour.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from imagen_mini.evaluation.scoring import Result
from imagen_mini.scenes.captions import Description, ObjectDescription
from imagen_mini.scenes.parse import ParsedScene
from imagen_mini.scenes.scene import COLORS, MATERIALS, SHAPES, SIZES, TEXTURES, SceneObject
from imagen_mini.scenes.world import SCENES, World

ATTRIBUTES = {
    "shape": tuple(SHAPES),
    "color": tuple(COLORS),
    "size": tuple(SIZES),
    "texture": tuple(TEXTURES),
    "material": MATERIALS,
}
ERROR_TYPES = (
    "right",
    "unreadable",
    "too few",
    "too many",
    *ATTRIBUTES,
    "binding",
    "relation",
    "background",
    "light",
)


def classify_error(description: Description, parsed: ParsedScene) -> str:
    """Classify the error of an image.

    right                 no error
    unreadable            no scene explains the image
    too few, too many     the number of objects differs
    shape, color, ...     a stated attribute is missing, however objects are matched
    binding               every stated attribute is there, but not on its object
    relation, background, light
                          all objects are correct, but not their relation, the background, or where
                          the light comes from

    Args:
        description: What the caption states.
        parsed: What was read from the image.

    Returns:
        One of `ERROR_TYPES`: the first that applies, in the order above.
    """
    scene = parsed.scene
    if scene is None:
        return "unreadable"
    if len(scene.objects) != len(description.objects):
        return "too few" if len(scene.objects) < len(description.objects) else "too many"
    if description.fits(scene):
        return "right"
    orders = list(itertools.permutations(scene.objects))
    if any(all(obj.fits(o) for obj, o in zip(description.objects, objects)) for objects in orders):
        related = Description(description.objects, description.relation)
        if not related.fits(scene):
            return "relation"
        return "light" if description.background in (None, scene.background) else "background"
    for name in ATTRIBUTES:
        if not any(
            all(_matches(obj, o, name) for obj, o in zip(description.objects, objects))
            for objects in orders
        ):
            return name
    return "binding"


def _matches(obj: ObjectDescription, o: SceneObject, attribute: str) -> bool:
    return getattr(obj, attribute) is None or getattr(o, attribute) in (
        None,
        getattr(obj, attribute),
    )


def error_table(results: Iterable[Result]) -> dict[str, dict[str, int]]:
    """Count the kinds of errors of each category.

    Returns:
        category -> kind of error -> number of images. Kinds that do not occur are left out.
    """
    counts: dict[str, Counter] = {}
    for r in results:
        counts.setdefault(r.category, Counter())[
            classify_error(r.caption.description, r.parsed)
        ] += 1
    return {
        category: {kind: of[kind] for kind in ERROR_TYPES if of[kind]}
        for category, of in counts.items()
    }


def confusion_matrices(
    results: Iterable[Result], world: World = SCENES
) -> dict[str, dict[str, dict[str, int]]]:
    """Count which value was generated for which stated value, by attribute, and for the background
    and the light.

    Attributes are counted only for captions of one object and images that show one, where there is
    no question which object is meant.

    Args:
        results: Of captions of one world.
        world: That world (default: `scenes`).

    Returns:
        "shape", "color", "size", "texture", "background", and in a world that has them "material"
        and "light" -> stated value -> generated value -> number of images.
    """
    words = world.vocabulary
    known = {**ATTRIBUTES, "material": words.materials, "background": words.backgrounds}
    known["light"] = words.lights
    found = {
        name: {said: dict.fromkeys(values, 0) for said in values}
        for name, values in known.items()
        if values
    }
    for r in results:
        scene, description = r.parsed.scene, r.caption.description
        if scene is None:
            continue
        for name in ("background", "light"):
            said, generated = getattr(description, name), getattr(scene, name)
            if said is not None and generated in found[name][said]:
                found[name][said][generated] += 1
        if len(description.objects) == len(scene.objects) == 1:
            for name in ATTRIBUTES:
                said, generated = (
                    getattr(description.objects[0], name),
                    getattr(scene.objects[0], name),
                )
                if said is not None and generated in found[name][said]:
                    found[name][said][generated] += 1
    return found
