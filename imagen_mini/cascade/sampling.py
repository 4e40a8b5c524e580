"""Sampling from one stage: the loop that the pipeline, previews and measurements share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from imagen_mini.cascade.sampling_options import (
    SamplingOptions,
    guidance_by_step,
    resolve_sampling_options,
)
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.diffusion.samplers import SamplingState, sample
from imagen_mini.text.encoder import TextEmbeddings
from imagen_mini.utils.rng import randn


def starting_noise(stage: DiffusionStage, seeds: Sequence[int]) -> Tensor:
    """The noise from which a stage starts: x_T of one image for each seed.

    Args:
        stage: The stage that is to be sampled.
        seeds: One seed for each image.

    Returns:
        Standard normal noise [b, 3, size, size] on the device of the stage. Row i depends on
        seeds[i] and on the name and the size of the stage alone.
    """
    size = stage.config.unet.image_size
    device = stage.net.out.weight.device
    return randn(seeds, (3, size, size), stage.config.name, "x_T", device=device)


def sampling_loop(
    stage: DiffusionStage,
    denoise: Denoiser,
    seeds: Sequence[int],
    options: SamplingOptions,
    x_T: Tensor | None = None,
    timesteps: Tensor | None = None,
    after_step: Callable[[Tensor, int, float], Tensor] | None = None,
) -> Iterator[SamplingState]:
    """Sample from a stage with a given denoiser, and yield a state after every step.

    Args:
        stage: Its name, size, schedule and device are used, and not its network.
        denoise: (x_t, t) -> x_0_hat, such as `stage.denoiser(...)`.
        seeds: One seed for each image. They determine x_T and the fresh noise of every step.
        options: The sampler and its options.
        x_T: Where to start, [b, 3, size, size]. None: `starting_noise(stage, seeds)`.
        timesteps: The times of the steps [steps + 1], falling to 0. None: those of the options.
        after_step: (x, step, s) -> x: may change the image after each step. None: nothing does.

    Yields:
        The state after each step. The last one's `x_0_hat` is the image, before it is clamped.
    """
    size = stage.config.unet.image_size
    device = stage.net.out.weight.device

    def fresh_noise(step: int) -> Tensor:
        return randn(seeds, (3, size, size), stage.config.name, "step", step, device=device)

    if timesteps is None:
        timesteps = stage.timesteps(options.num_inference_steps, options.timestep_spacing)
    yield from sample(
        denoise,
        starting_noise(stage, seeds) if x_T is None else x_T,
        timesteps,
        stage.schedule,
        options.sampler,
        fresh_noise,
        after_step,
        eta=options.eta,
        gamma=options.gamma,
    )


@torch.no_grad()
def sample_from_stage(
    stage: DiffusionStage,
    text: TextEmbeddings,
    seeds: Sequence[int],
    options: SamplingOptions | None = None,
    low_res: Tensor | None = None,
    aug_level: Tensor | None = None,
    x_T: Tensor | None = None,
) -> Tensor:
    """Images by one stage, without a pipeline around it.

    Args:
        stage: The stage to sample from.
        text: Encoded prompts, b rows.
        seeds: One seed for each of them.
        options: How to sample. None: the stage's defaults.
        low_res: Super-resolution only: images [b, 3, l, l], already augmented.
        aug_level: Super-resolution only: the level of that augmentation, [b] in [0, 1].
        x_T: The starting noise [b, 3, size, size]. None: `starting_noise(stage, seeds)`.

    Returns:
        Images [b, 3, size, size] in [-1, 1].
    """
    options = resolve_sampling_options(stage) if options is None else options
    timesteps = stage.timesteps(options.num_inference_steps, options.timestep_spacing)
    scale = guidance_by_step(options.guidance_scale, timesteps)
    denoise = stage.denoiser(text, low_res, aug_level, scale, options.threshold)
    *_, last = sampling_loop(stage, denoise, seeds, options, x_T, timesteps)
    return last.x_0_hat.clamp(-1, 1)
