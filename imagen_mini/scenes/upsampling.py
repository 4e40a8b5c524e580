"""Caption upsampling: colours that a caption leaves open are chosen in words, before sampling."""

from __future__ import annotations

import random
from dataclasses import replace

from imagen_mini.scenes.captions import ObjectDescription, caption_from
from imagen_mini.scenes.scene import COLORS, HELD_OUT_COLOR_SHAPE
from imagen_mini.scenes.world import SCENES, World


def upsample_caption(text: str, seed: int = 0, world: World = SCENES) -> str:
    """State a random colour for each object whose colour a caption leaves open.

        "a ring and a circle"  ->  "a blue ring and an orange circle"

    A network that is told no colour must settle on one while it samples, in all of an object alike.
    One that has not been trained for long often gives an object two. Objects that are described
    alike, as in "two circles", get the same colour, and others another one. Colours that are held
    out for a shape are not taken.

    Args:
        text: A caption of the world's grammar.
        seed: Which colours. Seeds of images do well: images of a caption then differ in colour.
        world: The world of the caption (default: `scenes`).

    Returns:
        A caption whose images all show what `text` says, too. If `text` leaves no colour open, it
        comes back as it is. Else it is put in other words, without an object that it negates.

    Raises:
        ValueError: The caption cannot be parsed.

    Reference:
        Improving Image Generation with Better Captions (Betker et al., 2023), where a language
        model does this before DALL-E 3 is asked. Differs from the paper: a grammar does it.
    """
    description = world.parse_caption(text)
    if all(o.color for o in description.objects):
        return text
    rng = random.Random(f"upsampling/{seed}/{text}")
    taken = {o.color for o in description.objects}
    told: dict[ObjectDescription, ObjectDescription] = {}
    for o in description.objects:
        if o not in told:
            known = [c for c in COLORS if (c, o.shape) not in HELD_OUT_COLOR_SHAPE]
            color = o.color or rng.choice([c for c in known if c not in taken] or known)
            taken.add(color)
            told[o] = replace(o, color=color)
    objects = tuple(told[o] for o in description.objects)
    return caption_from(replace(description, objects=objects), rng).text
