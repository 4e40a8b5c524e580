"""A quick look at one stage on its own, as training takes it: super-resolution is given true
low-resolution images.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from imagen_mini.cascade.stage import DiffusionStage, augment_low_res
from imagen_mini.diffusion.samplers import sample
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.scoring import Result, evaluate, sample_scene_matching
from imagen_mini.scenes.render import render
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.utils.rng import randn


def sample_single_stage(
    stage: DiffusionStage,
    encoder: TextEncoder,
    captions: list[str],
    seeds: list[int],
    low_res: Tensor | None = None,
) -> Tensor:
    """Images [b, 3, size, size] in [-1, 1] by one stage without the others; super-resolution is
    given true low-resolution images.
    """
    size, name, device = (
        stage.config.unet.image_size,
        stage.config.name,
        next(stage.parameters()).device,
    )
    level = None
    if low_res is not None:
        level = torch.full((len(captions),), stage.config.aug_level, device=device)
        low_res = augment_low_res(
            low_res, level, randn(seeds, low_res.shape[1:], "preview", device=device)
        )
    *_, last = sample(
        stage.denoiser(encoder(captions), low_res, level),
        randn(seeds, (3, size, size), name, "x_T", device=device),
        stage.times(),
        stage.log_snr_of,
        stage.config.sampler,
        lambda step: randn(seeds, (3, size, size), name, "step", step, device=device),
        eta=stage.config.eta,
    )
    return last.x_0_hat.clamp(-1, 1)


def preview(
    stage: DiffusionStage, encoder: TextEncoder, n: int = 4, categories: list[str] | None = None
) -> list[Result]:
    """A quick look at one stage: `n` captions of some categories."""
    low = stage.config.unet.low_res_size
    usual = (
        ["one object", "binding", "counting", "positional"]
        if low is None
        else ["texture", "two textures"]
    )
    prompts = benchmark(n, seed=1, categories=categories or usual)

    scenes = [sample_scene_matching(c.description, random.Random(c.text)) for _, _, c in prompts]
    low_res = None if low is None else render(scenes, low, next(stage.parameters()).device)
    return list(
        evaluate(
            lambda captions, seeds: sample_single_stage(stage, encoder, captions, seeds, low_res),
            prompts,
            batch=len(prompts),
        )
    )
