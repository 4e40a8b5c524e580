"""Super-resolution by itself: the same images given to it clean, generated or corrupted, at several
augmentation levels, and how often the result is correct.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imagen_mini.evaluation.metrics import psnr
from imagen_mini.evaluation.scoring import description_of, judge_images
from imagen_mini.evaluation.statistics import format_share
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.scene import GRID, Scene
from imagen_mini.scenes.world import SCENES, World


def true_scenes(prompts: Sequence[str], images: Tensor, world: World = SCENES) -> list[Scene]:
    """Return the scene in each 64 px image, as the parser reads it, with the textures of its
    prompt.

    Rendered at 64 px it is the image without its errors; at 256 px it is what super-resolution
    should make of it. An object without a texture in the prompt is solid.

    Args:
        prompts: b prompts.
        images: Images [b, 3, 64, 64] in [-1, 1].
        world: The world whose captions and images these are (default: `scenes`).

    Raises:
        ValueError: If an image does not show its prompt: then nobody can say what it should become.
    """
    out = []
    for prompt, parsed in zip(prompts, world.parse_image(images.float().cpu()), strict=True):
        description = description_of(prompt, world)
        objects = (
            None
            if description is None or not description.fits(parsed.scene)
            else description.assign(parsed.nearest)
        )
        if objects is None:
            raise ValueError(
                f"the image of {prompt!r} does not show it, so there is no true scene; keep "
                "those whose verdict is correct"
            )
        textured = tuple(
            replace(o, texture=obj.texture or "solid")
            for o, obj in zip(objects, description.objects)
        )
        out.append(replace(parsed.nearest, objects=textured))
    return out


def crop_around_object(images: Tensor, scenes: Sequence[Scene], share: float = 0.375) -> Tensor:
    """Return the part of each image around the first object of its scene.

    Args:
        images: Images [b, 3, size, size].
        scenes: b scenes.
        share: The side of the part, as a share of the width (default: 0.375).

    Returns:
        [b, 3, k, k]. At the border of the image the part is moved inside.
    """
    size = images.shape[-1]
    k, scale = round(share * size), size / GRID
    corners = [
        [
            min(max(0, round(place * scale) - k // 2), size - k)
            for place in (scene.objects[0].x, scene.objects[0].y)
        ]
        for scene in scenes
    ]
    return torch.stack(
        [image[:, y : y + k, x : x + k] for image, (x, y) in zip(images, corners, strict=True)]
    )


@dataclass(frozen=True)
class SuperResolutionResult:
    """What super-resolution made of some low-resolution images at one augmentation level.

    Attributes:
        level: The augmentation level.
        images: [b, 3, size, size] in [-1, 1].
        correct: For each image, whether it shows its prompt.
        readable: For each image, whether the parser can read it at all.
        psnr: [b], against the true image, in dB.
    """

    level: float
    images: Tensor
    correct: list[bool]
    readable: list[bool]
    psnr: Tensor


def super_resolve(
    pipe: ImagenPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    low_res: Tensor,
    truth: Tensor,
    level: float,
    steps: int | None = None,
) -> SuperResolutionResult:
    """Run super-resolution alone and judge the result.

    Args:
        pipe: The pipeline.
        prompts: b prompts.
        seeds: b seeds.
        low_res: Low-resolution images [b, 3, 64, 64] in [-1, 1].
        truth: The true images [b, 3, 256, 256].
        level: The augmentation level.
        steps: The number of steps (default: the stage's).
    """
    stages = pipe(
        list(prompts),
        seed=list(seeds),
        low_res=low_res,
        aug_level=level,
        num_inference_steps=steps,
        output_type="pt",
        progress=False,
    ).stages
    images = stages[list(stages)[-1]].float().cpu()
    readable = [parsed.scene is not None for parsed in pipe.world.parse_image(images)]
    return SuperResolutionResult(
        level,
        images,
        [bool(v) for v in judge_images(prompts, images, pipe.world)],
        readable,
        psnr(images, truth),
    )


def augmentation_table(found: dict[str, list[SuperResolutionResult]]) -> str:
    """Return the results for each kind of low-resolution image as text, a line for each level."""
    lines = [
        f"{'given':12}{'aug_level':>10}   {'correct':22}{'readable':22}likeness to the true image"
    ]
    for kind, rows in found.items():
        lines += [
            f"{kind:12}{r.level:>10g}   "
            f"{format_share(r.correct):22}{format_share(r.readable):22}{r.psnr.mean():.1f} dB"
            for r in rows
        ]
    return "\n".join(lines)
