"""What `ImagenPipeline.edit` is given, checked and brought into one form: the method, its options,
the image and the mask. The methods themselves are in `editing/given_images.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from imagen_mini.cascade.sampling_options import (
    RequestedOptions,
    SamplingOptions,
    resolve_sampling_options,
)
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.guidance import Denoiser, GuidanceScale
from imagen_mini.diffusion.samplers import samplers_with
from imagen_mini.editing.base import Edit
from imagen_mini.editing.blending import DiffEditMask, LocalBlend
from imagen_mini.editing.given_images import (
    EDIT_OF_METHOD,
    IMAGE_EDIT_METHODS,
    GivenImage,
    ImageEditMethod,
    disagreement_mask,
    word_mask,
)
from imagen_mini.models.control import AttentionControl
from imagen_mini.pipeline_inputs import as_edit, check_batch, given_images
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder
from imagen_mini.utils.checks import as_number
from imagen_mini.utils.images import Images, central_square, upright_rgb
from imagen_mini.utils.rng import randn

# where an image may change: 0 and 1, or how to find it
Mask = Tensor | np.ndarray | Image.Image | LocalBlend | DiffEditMask


def resolve_method(
    method: str | ImageEditMethod, edit: Edit | None
) -> tuple[str, ImageEditMethod, Edit | None]:
    """The name of a method for errors, the method, and the edit that goes with it.

    Args:
        method: A key of IMAGE_EDIT_METHODS, or a method.
        edit: As the caller gives it.

    Raises:
        TypeError: Neither.
        ValueError: An unknown name, or an edit that the method does not take.
    """
    names = ", ".join(map(repr, IMAGE_EDIT_METHODS))
    edit = as_edit(edit)
    # 1. the method
    if isinstance(method, str):
        if method not in IMAGE_EDIT_METHODS:
            raise ValueError(f"method {method!r}; expected one of {names}")
        name, found = method, IMAGE_EDIT_METHODS[method]
    elif isinstance(method, ImageEditMethod):
        name, found = type(method).__name__, method
    else:
        raise TypeError(
            f"method {method!r}; expected one of {names}, or a method such as NullTextInversion()"
        )
    # 2. its edit
    if isinstance(method, str) and method in EDIT_OF_METHOD:
        own = EDIT_OF_METHOD[method]
        if edit is not None:
            raise ValueError(
                f"method {name!r} has its edit, {type(own).__name__}(), and edit="
                f"{type(edit).__name__}(...) is another one: pass method='direct' with the edit "
                "that you want"
            )
        edit = own
    if edit is not None and not found.takes_edit:
        raise ValueError(
            f"edit={type(edit).__name__}(...) with method {name!r}, which has no source beside the "
            "target to take attention from; expected one of "
            f"{', '.join(repr(n) for n, m in IMAGE_EDIT_METHODS.items() if m.takes_edit)}"
        )
    return name, found, edit


def resolve_method_options(
    name: str, method: ImageEditMethod, stage: DiffusionStage, requested: RequestedOptions
) -> SamplingOptions:
    """How the stage is sampled by a method: the caller's options, or those that the method needs.

    Args:
        name: The method's name, for errors.
        method: The method.
        stage: The stage.
        requested: The caller's options.

    Raises:
        ValueError: A sampler, a threshold or fresh noise that the method does not go with.
    """
    of_stage = {
        option: value.get(stage.config.name) if isinstance(value, dict) else value
        for option, value in requested.items()
    }
    # 1. the sampler
    sampler = of_stage.get("sampler")
    if method.samplers:
        if sampler not in (None, *method.samplers):
            why = "an inversion retraces the steps of ddim" if method.inverts else "it steps back"
            raise ValueError(
                f"sampler {sampler!r} with method {name!r}: {why}; expected "
                f"{' or '.join(map(repr, method.samplers))}, or leave it out"
            )
        of_stage["sampler"] = sampler or method.samplers[0]
    # 2. what an inversion cannot retrace
    if method.inverts:
        for option, off in (("threshold", "none"), ("eta", 0)):
            if of_stage.get(option) not in (None, off):
                raise ValueError(
                    f"{option} {of_stage[option]!r} with method {name!r}: an inversion cannot "
                    f"retrace it; expected {off!r}, or leave it out"
                )
            of_stage[option] = off
    options = resolve_sampling_options(stage, **of_stage)
    by_name = isinstance(requested.get("eta"), dict)  # else a later stage may use it
    if by_name and of_stage.get("eta") and options.sampler not in samplers_with("eta"):
        raise ValueError(
            f"eta {of_stage['eta']} with the {options.sampler} sampler, which does not use it: "
            "leave it out"
        )
    return options


def prepare_given_image(
    stage: DiffusionStage,
    text_encoder: TextEncoder,
    image: Images,
    prompts: list[str],
    name: str,
    method: ImageEditMethod,
    edit: Edit | None,
    options: SamplingOptions,
    seed: int,
    mask: Mask | None = None,
    strength: float | None = None,
    progress: bool = False,
) -> GivenImage:
    """The image, the prompts and the options as a method takes them.

    Args:
        stage: The base stage.
        text_encoder: Encodes the prompts.
        image: One image, of any type that the pipeline takes.
        prompts: The source's, then the targets'.
        name: The method's name, for errors.
        method: The method.
        edit: What happens in attention.
        options: How the stage is sampled.
        seed: Of all noise.
        mask: Where the image may change.
        strength: The time up to which noise is added.
        progress: Show progress bars.

    Raises:
        TypeError, ValueError: Something that the method does not take, misses, or cannot use.
    """
    size, device = stage.config.unet.image_size, stage.net.out.weight.device
    # 1. what the method takes; with a given mask DiffEdit reads no caption
    found_mask = mask is None or isinstance(mask, (LocalBlend, DiffEditMask))
    if method.reads_source and not prompts[0] and (found_mask or not method.takes_mask):
        raise ValueError(
            f"method {name!r} reads the prompt of the source, and it is empty: pass source=, the "
            "caption of the image"
        )
    if strength is not None and not method.takes_strength:
        raise ValueError(
            f"strength {strength} with method {name!r}, which does not use it; expected one of "
            f"{_methods_that('takes_strength')}"
        )
    strength = method.strength if strength is None else as_number("strength", strength)
    if not 0 <= strength <= 1:
        raise ValueError(
            f"strength {strength}; expected a time from 0 (the image stays) to 1 (noise)"
        )
    if mask is not None and not method.takes_mask:
        raise ValueError(
            f"a mask with method {name!r}, which does not use one; expected one of "
            f"{_methods_that('takes_mask')}, or an edit that blends, such as edit=LocalBlend(...)"
        )
    if mask is None and method.needs_mask:
        raise ValueError(
            f"method {name!r} needs a mask: an array of 0 and 1 (may change), "
            "LocalBlend('circle') for where a word of the source attends, or DiffEditMask() for "
            "where the prompts disagree"
        )
    # 2. the image, one of them
    x_0 = given_images("image", image, size)
    if len(x_0) != 1:
        raise ValueError(f"image: {len(x_0)} images; expected one, edit each in a call of its own")
    x_0 = check_batch("image", x_0, 1, size, False).to(device, torch.float32)

    # 3. everything together
    def noise(purpose: str, number: int) -> Tensor:
        # as the pipeline has it, so that sampling from noise is that of the pipeline
        numbered = () if purpose == "x_T" else (number,)
        return randn([seed], x_0.shape[1:], stage.config.name, purpose, *numbered, device=device)

    given = GivenImage(
        image=x_0,
        tokens=[text_encoder.tokenize_prompt(prompt) for prompt in prompts],
        text=text_encoder(prompts),
        sites=stage.net.sites,
        denoiser=partial(_denoiser, stage, options.threshold),
        timesteps=stage.timesteps(options.num_inference_steps, options.timestep_spacing),
        schedule=stage.schedule,
        guidance_scale=options.guidance_scale,
        noise=noise,
        sampler=options.sampler,
        eta=options.eta,
        strength=strength,
        edit=edit,
        copy=partial(StageCopy, stage, options.threshold),
        track=partial(_track, not progress),
    )
    if edit is not None:  # does it fit? An error now costs nothing
        edit.bind(given.tokens, given.sites, given.text.mask.shape[1])
    # 4. an inversion goes up to the strength alone
    if method.inverts and strength < 1:
        timesteps = given.timesteps[given.timesteps <= strength]
        if len(timesteps) < 2:
            raise ValueError(
                f"strength {strength} with method {name!r}: none of the "
                f"{options.num_inference_steps} steps is left; expected at least "
                f"{given.timesteps[-2]:.3g}, or more steps"
            )
        given = replace(given, timesteps=timesteps)
    # 5. the mask
    return given if mask is None else replace(given, mask=resolve_mask(mask, given, image))


class StageCopy:
    """A copy of a base stage that may be trained (`TrainableCopy`), in float32 at least.

    Args:
        stage: The stage; it is left alone.
        threshold: How the denoisers of the copy keep x_0 in range.
    """

    def __init__(self, stage: DiffusionStage, threshold: str):
        self.stage = deepcopy(stage).requires_grad_(False)
        self.dtype = torch.promote_types(stage.net.out.weight.dtype, torch.float32)
        self.stage.to(self.dtype)
        self.denoiser = partial(_denoiser, self.stage, threshold)

    def parameters(self) -> Iterable[nn.Parameter]:
        """The weights of the copy."""
        return self.stage.parameters()

    def loss(self, x_0: Tensor, text: TextEmbeddings, t: Tensor, eps: Tensor) -> Tensor:
        """The stage's loss, [b]."""
        x_0, t, eps = (x.to(self.dtype) for x in (x_0, t, eps))
        return self.stage.loss(x_0, text.to(self.dtype), t, eps)


def _denoiser(
    stage: DiffusionStage,
    threshold: str,
    text: TextEmbeddings,
    guidance_scale: GuidanceScale = 1.0,
    control_at: Callable[[float], AttentionControl | None] | None = None,
    known: Tensor | None = None,
) -> Denoiser:
    """`stage.denoiser` as `MakeDenoiser`, for a base stage."""
    return stage.denoiser(text, None, None, guidance_scale, threshold, control_at, known=known)


def _track(disable: bool, states: Iterable[Any], what: str, steps: int) -> Iterable[Any]:
    """A progress bar of these states."""
    return tqdm(states, total=steps, desc=what, disable=disable, leave=False)


def _methods_that(has: str) -> str:
    return ", ".join(repr(name) for name, m in IMAGE_EDIT_METHODS.items() if getattr(m, has))


# ---------------------------------------------------------------- masks


def resolve_mask(mask: Mask, given: GivenImage, image: Images) -> Tensor:
    """Where the image may change, [1 or targets, 1, h, w] of 0 and 1.

    Args:
        mask: 1 where the image may change: an array or tensor [h, w], [1, h, w] or
            [1 or targets, 1, h, w] of bools, of 0 and 1, or of 0 and 255 as uint8; or a PIL image
            of the size of the given one, white where it may change. `LocalBlend` finds it by the
            attention to words of the source, `DiffEditMask` by what the prompts disagree about.
        given: The image and the prompts.
        image: The image as the caller gave it.

    Raises:
        TypeError: None of these.
        ValueError: Another size, other values, or a mask in which nothing may change.
    """
    if isinstance(mask, LocalBlend):
        found = word_mask(given, mask)
    elif isinstance(mask, DiffEditMask):
        found = disagreement_mask(given, mask)
    else:
        found = _as_mask(mask, given, image).to(given.image)
    if not found.flatten(1).any(1).all():
        raise ValueError("mask: it is 0 everywhere, so nothing may change; expected some 1")
    return found


def _as_mask(mask: Any, given: GivenImage, image: Images) -> Tensor:
    """A given mask as [1 or targets, 1, h, w] of 0 and 1."""
    size = given.image.shape[-1]
    # 1. a PIL image goes the way of the image
    if isinstance(mask, Image.Image):
        one = image[0] if isinstance(image, (list, tuple)) else image
        expected = upright_rgb(one).size if isinstance(one, Image.Image) else (size, size)
        mask = upright_rgb(mask, "black")
        if mask.size != expected:
            raise ValueError(
                f"mask of {mask.width} x {mask.height} pixels, and the image has {expected[0]} x "
                f"{expected[1]}; expected the same size"
            )
        gray = central_square(mask, size)[..., 0]
        return torch.from_numpy(gray.copy())[None, None] > 127
    # 2. arrays: the shape
    if not isinstance(mask, (np.ndarray, Tensor)):
        raise TypeError(
            f"mask {type(mask).__name__}; expected an array, a tensor, a PIL image, "
            "LocalBlend(...) or DiffEditMask()"
        )
    shape = tuple(mask.shape)
    x = torch.as_tensor(mask)
    rows = (1, len(given.targets))
    if shape[-2:] != (size, size) or shape[:-2] not in ((), (1,), *((n, 1) for n in rows)):
        raise ValueError(
            f"mask {list(shape)}: expected [{size}, {size}] or [1, 1, {size}, {size}], the size "
            "at which the image is edited"
        )
    # 3. the values
    x = x.reshape(-1, 1, size, size)
    white = 255 if x.dtype == torch.uint8 and x.max() > 1 else 1
    if not ((x == 0) | (x == white)).all():
        raise ValueError(
            f"mask: values from {x.min().item():.3g} to {x.max().item():.3g}; expected 0 (stays) "
            "and 1 (may change), or 0 and 255 as uint8: threshold it first, as mask > 0.5"
        )
    return x > 0
