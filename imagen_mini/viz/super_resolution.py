"""Super-resolution by itself: the same images given to it clean, generated or spoilt, at several
levels of augmentation, and how right it gets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from matplotlib.figure import Figure
from torch import Tensor

from imagen_mini.evaluation.metrics import psnr
from imagen_mini.evaluation.scoring import description_of, judge_images
from imagen_mini.evaluation.statistics import format_share, wilson_interval
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.scene import GRID, Scene
from imagen_mini.viz.style import STYLES, percent_axis, subplots


def true_scenes(prompts: Sequence[str], images: Tensor) -> list[Scene]:
    """The scene in each 64 px image [b, 3, 64, 64] in [-1, 1], as the parser reads it, with the
    textures that its prompt names; what has none is solid.

    Rendered at 64 px it is the image without its mistakes, at 256 px what super-resolution should
    make of it. ValueError if an image does not show its prompt: then nobody can say what it should
    become.
    """
    out = []
    for prompt, parsed in zip(prompts, parse_image(images.float().cpu()), strict=True):
        description = description_of(prompt)
        objects = (
            None
            if description is None or parsed.scene is None
            else description.assign(parsed.scene)
        )
        if objects is None:
            raise ValueError(
                f"the image of {prompt!r} does not show it, so there is no true scene; keep "
                "those whose verdict is right"
            )
        textured = (
            replace(o, texture=obj.texture or "solid")
            for o, obj in zip(objects, description.objects)
        )
        out.append(Scene(tuple(textured), parsed.scene.background))
    return out


def around(images: Tensor, scenes: Sequence[Scene], share: float = 0.375) -> Tensor:
    """The part of each image [b, 3, size, size] around the first thing of its scene, `share` of the
    width, [b, 3, k, k]: to look at textures from near. At the rim the part is moved inside.
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
class Enlarged:
    """What super-resolution made of some small images at one level of augmentation. `images` [b, 3,
    size, size] in [-1, 1]; of each, whether it is as its prompt says (`right`), whether the parser
    can read it at all (`readable`), and how near it is to the true image (`psnr` [b], in dB).
    """

    level: float
    images: Tensor
    right: list[bool]
    readable: list[bool]
    psnr: Tensor


def enlarge(
    pipe: ImagenPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    low_res: Tensor,
    truth: Tensor,
    level: float,
    steps: int | None = None,
) -> Enlarged:
    """Super-resolution alone, on low_res [b, 3, 64, 64] in [-1, 1], judged by the prompts and
    against `truth` [b, 3, 256, 256]. `steps`: None, the stage's own number.
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
    readable = [parsed.scene is not None for parsed in parse_image(images)]
    return Enlarged(
        level,
        images,
        [bool(v) for v in judge_images(prompts, images)],
        readable,
        psnr(images, truth),
    )


def level_lines(found: dict[str, list[Enlarged]]) -> str:
    """What was `found` for each kind of small image, by level: a line each."""
    lines = [
        f"{'given':12}{'aug_level':>10}   {'right':22}{'readable':22}likeness to the true image"
    ]
    for kind, rows in found.items():
        lines += [
            f"{kind:12}{r.level:>10g}   "
            f"{format_share(r.right):22}{format_share(r.readable):22}{r.psnr.mean():.1f} dB"
            for r in rows
        ]
    return "\n".join(lines)


def level_sheet(found: dict[str, list[Enlarged]]) -> Figure:
    """Two panels over the level: share right, with 95 % intervals, and likeness to the true image,
    with the 95 % interval of its mean over images. Kinds are drawn side by side at each level, so
    that their bars can be told apart.
    """
    sheet, (shares, likeness) = subplots(
        ["right by the parser, textures too", "likeness to the true image (dB)"],
        "aug_level",
        columns=2,
    )
    levels = sorted({r.level for rows in found.values() for r in rows})
    for i, ((kind, rows), style) in enumerate(zip(found.items(), STYLES)):
        x = [levels.index(r.level) + 0.12 * (i - (len(found) - 1) / 2) for r in rows]
        values = [sum(r.right) / len(r.right) for r in rows]
        ends = [wilson_interval(sum(r.right), len(r.right)) for r in rows]
        below, above = (
            [v - low for v, (low, _) in zip(values, ends)],
            [high - v for v, (_, high) in zip(values, ends)],
        )
        shares.errorbar(x, values, [below, above], capsize=3, label=kind, **style)
        half = [1.96 * r.psnr.std().item() / len(r.psnr) ** 0.5 for r in rows]
        likeness.errorbar(
            x, [r.psnr.mean().item() for r in rows], half, capsize=3, label=kind, **style
        )
    for panel in (shares, likeness):
        panel.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    percent_axis(shares)
    shares.set_ylim(-0.02, 1.06)
    lines, names = shares.get_legend_handles_labels()
    sheet.legend(lines, names, loc="outside lower center", ncols=4, frameon=False)
    return sheet
