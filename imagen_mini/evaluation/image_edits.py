"""Edits of given images, scored: rendered scenes that the network never generated.

The judge reads the given image and the edited one, as it does for edits of samples
(`edit_benchmark`). The given image shows its caption exactly, so that every edit counts that asks
for something.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from imagen_mini.cascade.sampling_options import RequestedOptions
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.editing.base import Edit
from imagen_mini.editing.blending import DiffEditMask
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import AttentionInjection, Refine
from imagen_mini.evaluation.edit_benchmark import (
    EditScore,
    EditTask,
    score_edit,
    unedited_psnr,
)
from imagen_mini.evaluation.metrics import psnr
from imagen_mini.image_editing import (
    prepare_given_image,
    resolve_method,
    resolve_method_options,
)
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.parse import ParsedScene
from imagen_mini.scenes.world import World

OWN_SAMPLE, SEED_ALONE = "own sample", "seed alone"  # the two controls


@dataclass(frozen=True)
class ImageEditRow:
    """One row of the table: a method of `pipe.edit`, and the edit on top of it.

    Args:
        method: Its name; or OWN_SAMPLE, the source is generated and not given; or SEED_ALONE, the
            target's prompt and a seed, without the image.
        edit: What happens in attention: "", "attention" (Prompt-to-Prompt) or "switching".
        options: Further arguments of `pipe.edit`.
    """

    method: str
    edit: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """How the table calls it."""
        parts = [self.method, self.edit]
        if (strength := dict(self.options).get("strength")) is not None:
            parts.append(f"strength {strength:g}")
        return ", ".join(part for part in parts if part)

    def edit_for(self, kind: type[AttentionInjection]) -> Edit | None:
        """The edit, for a kind of task."""
        return {
            "": lambda: None,
            "attention": lambda: Refine(1.0, 1.0) if kind is Refine else kind(),
            "switching": PromptSwitching,
        }[self.edit]()


BY_PROMPTS = ("mask", DiffEditMask())


def _up_to(strength: float, *more: tuple[str, Any]) -> tuple[tuple[str, Any], ...]:
    return (("strength", strength), *more)


ROWS = (
    ImageEditRow(OWN_SAMPLE, "attention"),
    ImageEditRow(OWN_SAMPLE, "switching"),
    ImageEditRow(SEED_ALONE),
    ImageEditRow("ddim"),
    ImageEditRow("ddim", "attention"),
    ImageEditRow("negative-prompt", "attention"),
    ImageEditRow("negative-prompt", "switching"),
    ImageEditRow("null-text", "attention"),
    ImageEditRow("direct", "attention"),
    ImageEditRow("edict", "attention"),
    ImageEditRow("negative-prompt", "attention", _up_to(0.9)),
    ImageEditRow("negative-prompt", "switching", _up_to(0.9)),
    ImageEditRow("direct", "attention", _up_to(0.9)),
    ImageEditRow("edict", "attention", _up_to(0.9)),
    ImageEditRow("pnp"),
    ImageEditRow("pnp", options=_up_to(0.7)),
    ImageEditRow("masactrl"),
    *(ImageEditRow("sdedit", options=_up_to(t)) for t in (0.15, 0.25, 0.35, 0.6)),
    ImageEditRow("blend", options=(BY_PROMPTS,)),
    ImageEditRow("blend", options=_up_to(0.3, BY_PROMPTS)),
    ImageEditRow("repaint", options=(BY_PROMPTS,)),
    *(ImageEditRow("diffedit", options=_up_to(t)) for t in (0.3, 0.6)),
)


def given_image(task: EditTask, world: World, size: int = 64) -> Tensor:
    """A rendered scene that shows the source's caption, [1, 3, size, size]; a function of the
    task's seed and caption.
    """
    rng = random.Random(f"given/{task.seed}/{task.source.text}")
    return world.render([world.scene_matching(task.source.description, rng)], size)


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
    pipe: ImagenPipeline, row: ImageEditRow, task: EditTask, kind: type[AttentionInjection]
) -> tuple[Tensor, Tensor]:
    """Make one edit in one way.

    Args:
        pipe: The pipeline; only its first stage is sampled.
        row: The way.
        task: The edit.
        kind: Its attention injection, for rows with "attention".

    Returns:
        The source, [3, h, w], and the edited image.
    """
    name = next(iter(pipe.stages))
    size = pipe.stages[name].config.unet.image_size
    options: dict = {"seed": task.seed, "stages": (name,), "output_type": "pt", "progress": False}
    prompts = [task.source.text, task.target.text]
    if row.method == OWN_SAMPLE:
        images = pipe(prompts, edit=row.edit_for(kind), **options).images
    else:
        image = given_image(task, pipe.world, size)
        if row.method == SEED_ALONE:
            images = torch.cat([image, pipe(prompts[1:], **options).images.cpu()])
        else:
            edited = pipe.edit(
                image.to(pipe.device),
                *prompts,
                method=row.method,
                edit=row.edit_for(kind),
                **dict(row.options),
                **options,
            )
            images = torch.cat([image, edited.images[1:].float().cpu()])
    source, target = images.float().cpu()
    return source, target


def score_image_edit(task: EditTask, source: Tensor, edited: Tensor, world: World) -> EditScore:
    """Score an edit of an image by what the world's judge reads in both, [3, h, w] each."""
    images = torch.stack([source, edited])
    before, after = world.parse_image(images)
    return replace(score_edit(task, before, after), psnr=unedited_psnr(task, before, after, images))


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
