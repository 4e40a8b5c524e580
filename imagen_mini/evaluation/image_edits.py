"""Edits of given images, scored: rendered scenes that the network never generated.

The judge reads the given image and the edited one, as it does for edits of samples
(`edit_benchmark`). The given image shows its caption exactly, so that every edit counts that asks
for something.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from imagen_mini.cascade.sampling_options import RequestedOptions
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.editing.base import Edit
from imagen_mini.editing.blending import DiffEditMask
from imagen_mini.editing.feature_injection import FeatureInjection
from imagen_mini.editing.given_images import IMAGE_EDIT_METHODS
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import AttentionInjection, Chain
from imagen_mini.evaluation.edit_benchmark import (
    EditScore,
    EditTask,
    score_edit,
    unedited_psnr,
)
from imagen_mini.evaluation.edit_comparison import (
    ATTENTION,
    FEATURES,
    FEATURES_ALONE,
    FEATURES_ALONE_MASKED,
    FEATURES_MASKED,
    with_features,
)
from imagen_mini.evaluation.edit_measures import (
    changed_outside,
    place_of_edit,
    seam,
    structure_distance,
)
from imagen_mini.evaluation.metrics import psnr
from imagen_mini.image_editing import (
    prepare_given_image,
    resolve_method,
    resolve_method_options,
)
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.parse import ParsedScene
from imagen_mini.scenes.scene import Scene
from imagen_mini.scenes.world import World
from imagen_mini.utils.memory import TensorMemory

OWN_SAMPLE, SEED_ALONE = "own sample", "seed alone"  # the two controls
PAINTED = "painted"  # the value of `mask` for that which a user would paint: `place_of_edit`


@dataclass(frozen=True)
class ImageEditRow:
    """One row of the table: a method of `pipe.edit`, and the edit on top of it.

    Args:
        method: Its name; or OWN_SAMPLE, the source is generated and not given; or SEED_ALONE, the
            target's prompt and a seed, without the image.
        edit: What happens in the network: "", "switching", "attention" (Prompt-to-Prompt),
            "features", "attention and features", "features and mask" or "attention, features and
            mask".
        options: Further arguments of `pipe.edit`.
    """

    method: str
    edit: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """How the table calls it."""
        options, parts = dict(self.options), [self.method, self.edit]
        if options.get("mask") is PAINTED:
            parts.append("painted mask")
        if (strength := options.get("strength")) is not None:
            parts.append(f"strength {strength:g}")
        return ", ".join(part for part in parts if part)

    @property
    def keeps_image(self) -> bool:
        """Does it edit the given image? Controls do not."""
        return self.method not in (OWN_SAMPLE, SEED_ALONE)

    @property
    def needs(self) -> tuple[str, ...]:
        """What it takes beside the image and the target's prompt: of "caption", "mask",
        "inversion", "optimisation" and "trained network".
        """
        if not self.keeps_image:
            return ()
        method, mask = IMAGE_EDIT_METHODS[self.method], dict(self.options).get("mask")
        found = {
            "caption": method.reads_source or bool(self.edit) or isinstance(mask, DiffEditMask),
            "mask": mask is PAINTED,
            "inversion": method.inverts,
            "optimisation": method.optimizes,
            "trained network": method.needs_trained,
        }
        return tuple(need for need, needed in found.items() if needed)

    def edit_for(self, kind: type[AttentionInjection]) -> Edit | None:
        """The edit, for a kind of task."""
        return {
            "": lambda: None,
            "switching": PromptSwitching,
            ATTENTION: kind,
            FEATURES_ALONE: FeatureInjection,
            FEATURES: partial(with_features, kind),
            FEATURES_ALONE_MASKED: lambda: Chain(FeatureInjection(), DiffEditMask()),
            FEATURES_MASKED: partial(with_features, kind, mask=True),
        }[self.edit]()


BY_PROMPTS, BY_USER = ("mask", DiffEditMask()), ("mask", PAINTED)


def _up_to(strength: float, *more: tuple[str, Any]) -> tuple[tuple[str, Any], ...]:
    return (("strength", strength), *more)


ROWS = (
    ImageEditRow(OWN_SAMPLE, ATTENTION),
    ImageEditRow(OWN_SAMPLE, FEATURES_ALONE_MASKED),
    ImageEditRow(OWN_SAMPLE, FEATURES_MASKED),
    ImageEditRow(OWN_SAMPLE, "switching"),
    ImageEditRow(SEED_ALONE),
    ImageEditRow("ddim"),
    ImageEditRow("ddim", ATTENTION),
    ImageEditRow("negative-prompt", ATTENTION),
    ImageEditRow("negative-prompt", FEATURES_ALONE),
    ImageEditRow("negative-prompt", FEATURES),
    ImageEditRow("negative-prompt", FEATURES_ALONE_MASKED),
    ImageEditRow("negative-prompt", FEATURES_MASKED),
    ImageEditRow("negative-prompt", "switching"),
    ImageEditRow("null-text", ATTENTION),
    ImageEditRow("direct", ATTENTION),
    ImageEditRow("edict", ATTENTION),
    ImageEditRow("edict", FEATURES_ALONE_MASKED),
    ImageEditRow("edict", FEATURES_MASKED),
    ImageEditRow("negative-prompt", ATTENTION, _up_to(0.9)),
    ImageEditRow("negative-prompt", "switching", _up_to(0.9)),
    ImageEditRow("direct", ATTENTION, _up_to(0.9)),
    ImageEditRow("edict", ATTENTION, _up_to(0.9)),
    ImageEditRow("pnp"),
    ImageEditRow("pnp", options=_up_to(0.7)),
    ImageEditRow("masactrl"),
    *(ImageEditRow("sdedit", options=_up_to(t)) for t in (0.15, 0.25, 0.35, 0.6)),
    ImageEditRow("blend", options=(BY_PROMPTS,)),
    ImageEditRow("blend", options=_up_to(0.3, BY_PROMPTS)),
    ImageEditRow("blend", options=(BY_USER,)),
    ImageEditRow("repaint", options=(BY_PROMPTS,)),
    ImageEditRow("repaint", options=(BY_USER,)),
    *(ImageEditRow("diffedit", options=_up_to(t)) for t in (0.3, 0.6)),
    ImageEditRow("imagic"),
    ImageEditRow("inpaint", options=(BY_USER,)),
)


def rows_of(pipe: ImagenPipeline, names: Sequence[str]) -> list[ImageEditRow]:
    """The rows of these names that a pipeline can make: one of them takes a network that was
    fine-tuned to inpaint.
    """
    inpaints = next(iter(pipe.stages.values())).config.unet.inpainting
    return [
        row
        for row in ROWS
        if row.name in names
        and (inpaints or not row.keeps_image or not IMAGE_EDIT_METHODS[row.method].needs_trained)
    ]


def given_scene(task: EditTask, world: World) -> Scene:
    """A scene that shows the source's caption; a function of the task's seed and caption."""
    rng = random.Random(f"given/{task.seed}/{task.source.text}")
    return world.scene_matching(task.source.description, rng)


def given_image(task: EditTask, world: World, size: int = 64) -> Tensor:
    """That scene, rendered, [1, 3, size, size]."""
    return world.render([given_scene(task, world)], size)


def reads_the_same(task: EditTask, given: ParsedScene, other: ParsedScene) -> bool:
    """Does the judge read the same in both images: the source's caption, every object with its
    attributes and where it was, and the background?
    """
    nothing = EditTask("background", None, task.seed, task.source, task.source)
    score = score_edit(nothing, given, other)
    return (
        score.success
        and score.layout
        and other.scene is not None
        and given.scene is not None
        and other.scene.background == given.scene.background
    )


def edit_by(
    pipe: ImagenPipeline,
    row: ImageEditRow,
    task: EditTask,
    kind: type[AttentionInjection],
    steps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Make one edit in one way.

    Args:
        pipe: The pipeline; only its first stage is sampled.
        row: The way.
        task: The edit.
        kind: Its attention injection, for rows with "attention".
        steps: Of sampling, and of inversion. None: those of the stage.

    Returns:
        The source, [3, h, w], and the edited image.
    """
    name = next(iter(pipe.stages))
    size = pipe.stages[name].config.unet.image_size
    options: dict = {"seed": task.seed, "stages": (name,), "output_type": "pt", "progress": False}
    options["num_inference_steps"] = steps
    prompts = [task.source.text, task.target.text]
    if row.method == OWN_SAMPLE:
        images = pipe(prompts, edit=row.edit_for(kind), **options).images
    else:
        image = given_image(task, pipe.world, size)
        of_row = dict(row.options)
        if of_row.get("mask") is PAINTED:
            of_row["mask"] = place_of_edit(task, given_scene(task, pipe.world), pipe.world, size)
        if row.method == SEED_ALONE:
            images = torch.cat([image, pipe(prompts[1:], **options).images.cpu()])
        else:
            edited = pipe.edit(
                image.to(pipe.device),
                *prompts,
                method=row.method,
                edit=row.edit_for(kind),
                **of_row,
                **options,
            )
            images = torch.cat([image, edited.images[1:].float().cpu()])
    source, target = images.float().cpu()
    return source, target


def score_image_edit(task: EditTask, source: Tensor, edited: Tensor, world: World) -> EditScore:
    """Score an edit of an image by what the world's judge reads in both, [3, h, w] each."""
    return _score(task, torch.stack([source, edited]), world)[0]


def _score(task: EditTask, images: Tensor, world: World) -> tuple[EditScore, ParsedScene]:
    """The score of an edit, and what the judge reads in the source."""
    before, after = world.parse_image(images)
    score = score_edit(task, before, after)
    return replace(score, psnr=unedited_psnr(task, before, after, images)), before


@dataclass(frozen=True)
class ImageEditScore:
    """All that is measured of one edit of a given image.

    Args:
        edit: The judge's score.
        structure: The self-similarity distance of the images; None without a classifier.
        outside: The share of pixels that changed outside of the place of the edit; None if the
            judge cannot tell that place.
        seam: How much more than before colours jump across the rim of that place; None likewise.
    """

    edit: EditScore
    structure: float | None
    outside: float | None
    seam: float | None


def measure_image_edit(
    task: EditTask, source: Tensor, edited: Tensor, world: World
) -> ImageEditScore:
    """Score an edit of an image, and measure what it left as it was, [3, h, w] each."""
    score, before = _score(task, torch.stack([source, edited]), world)
    place = place_of_edit(task, before.scene, world, source.shape[-1])
    return ImageEditScore(
        score,
        structure_distance(source, edited, world),
        None if place is None else changed_outside(source, edited, place),
        None if place is None else seam(source, edited, place),
    )


MEMORY_STEPS = 8  # steps of the edit whose memory is measured


def memory_of_edit(
    pipe: ImagenPipeline, row: ImageEditRow, task: EditTask, kind: type[AttentionInjection]
) -> int:
    """The peak of the bytes of tensors that an edit makes beside the weights, with few steps: more
    of them hardly need more.
    """
    with TensorMemory() as memory:
        edit_by(pipe, row, task, kind, MEMORY_STEPS)
    return memory.peak


@torch.no_grad()
def reconstruct(
    pipe: ImagenPipeline, method: str, task: EditTask, steps: int, w: float, strength: float = 1.0
) -> tuple[float, bool]:
    """Invert a given image and sample it back with its own prompt, under guidance.

    Args:
        pipe: The pipeline.
        method: A method of `pipe.edit` that inverts.
        task: Its source is the image.
        steps: Steps each way, of a full trajectory.
        w: The guidance scale, at all noise levels.
        strength: The time up to which it is inverted (default 1).

    Returns:
        The PSNR in dB, and whether the judge reads the same.
    """
    stage = cast(DiffusionStage, next(iter(pipe.stages.values())))
    image = given_image(task, pipe.world, stage.config.unet.image_size)
    name, how, _ = resolve_method(method, None)
    requested: RequestedOptions = {"num_inference_steps": steps, "guidance_scale": w}
    options = resolve_method_options(name, how, stage, requested)
    # without a target, which would cost as much as the source
    given = prepare_given_image(
        stage,
        pipe.text_encoder,
        image,
        [task.source.text],
        name,
        how,
        None,
        options,
        task.seed,
        strength=strength,
    )
    *_, last = how.run(given)
    back = last.x_0_hat.clamp(-1, 1).float().cpu()
    return psnr(image, back).item(), reads_the_same(
        task, *pipe.world.parse_image(torch.cat([image, back]))
    )
