"""A quick preview of a single stage during training: super-resolution is given true low-resolution
images.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from imagen_mini.cascade.sampling import sample_from_stage
from imagen_mini.cascade.stage import DiffusionStage, augment_low_res
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.scoring import Result, evaluate
from imagen_mini.scenes.world import find_world
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.utils.rng import randn


def sample_single_stage(
    stage: DiffusionStage,
    encoder: TextEncoder,
    captions: list[str],
    seeds: list[int],
    low_res: Tensor | None = None,
) -> Tensor:
    """Sample images with one stage, without the others.

    Args:
        stage: The stage.
        encoder: The text encoder.
        captions: b captions.
        seeds: b seeds.
        low_res: For super-resolution, [b, 3, low, low] in [-1, 1]; else None (default).

    Returns:
        [b, 3, size, size] in [-1, 1].
    """
    level = None
    if low_res is not None:
        device = next(stage.parameters()).device
        level = torch.full((len(captions),), stage.config.aug_level, device=device)
        noise = randn(seeds, low_res.shape[1:], "preview", device=device)
        low_res = augment_low_res(low_res, level, noise)
    return sample_from_stage(stage, encoder(captions), seeds, low_res=low_res, aug_level=level)


def preview(
    stage: DiffusionStage, encoder: TextEncoder, n: int = 4, categories: list[str] | None = None
) -> list[Result]:
    """Sample and judge a few benchmark captions with one stage.

    Args:
        stage: The stage.
        encoder: The text encoder.
        n: Captions of each category (default: 4).
        categories: Of the benchmark (default: some that this stage can decide).
    """
    low = stage.config.unet.low_res_size
    usual = (
        ["one object", "binding", "counting", "positional"]
        if low is None
        else ["texture", "two textures"]
    )
    world = find_world(stage.config.world)
    prompts = benchmark(n, seed=1, categories=categories or usual, world=world)
    scenes = [world.scene_matching(c.description, random.Random(c.text)) for _, _, c in prompts]
    low_res = None if low is None else world.render(scenes, low, next(stage.parameters()).device)
    return list(
        evaluate(
            lambda captions, seeds: sample_single_stage(stage, encoder, captions, seeds, low_res),
            prompts,
            batch=len(prompts),
            world=world,
        )
    )
