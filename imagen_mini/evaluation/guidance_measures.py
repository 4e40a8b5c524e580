"""The effect of guidance and thresholding on images, in numbers: how many are correct, how
saturated they are, how much they vary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.scene import Scene
from imagen_mini.scenes.world import SCENES, World

SATURATED = 0.99


RANGE_LIMIT = 1.05  # a little beyond 1: a good estimate rings around the ends of the range, too


def saturation(x_0_hat: Tensor) -> dict[str, float]:
    """Return the share of values with |x| >= SATURATED and the mean of |x|, as `saturated` and
    `mean_abs`.

    Args:
        x_0_hat: Images of any shape, not clamped.
    """
    magnitude = x_0_hat.float().abs()
    return {
        "saturated": round((magnitude >= SATURATED).float().mean().item(), 4),
        "mean_abs": round(magnitude.mean().item(), 4),
    }


def share_out_of_range(x_0_hat: Tensor) -> float:
    """Return the share of values beyond RANGE_LIMIT, which no image has."""
    return (x_0_hat.float().abs() > RANGE_LIMIT).float().mean().item()


def x_0_hat_trajectory(
    pipe: ImagenPipeline, prompts: Sequence[str], seeds: Sequence[int], **options
) -> list[Tensor]:
    """Return the base stage's x_0_hat after each step.

    Args:
        pipe: The pipeline.
        prompts: b prompts.
        seeds: b seeds.
        **options: Further arguments of the pipeline's call.

    Returns:
        Tensors [b, 3, h, w] after thresholding, not clamped. The last one is the image.
    """
    found: list[Tensor] = []
    base = next(iter(pipe.stages))
    pipe(
        list(prompts),
        seed=list(seeds),
        stages=(base,),
        progress=False,
        on_step=lambda _, state: found.append(state.x_0_hat),
        **options,
    )
    return found


def accuracy_with_interval(found: Sequence[bool]) -> dict[str, float]:
    """Return the share of correct verdicts and its 95 % interval, as `plot_accuracy` takes them."""
    right, n = sum(found), len(found)
    low, high = wilson_interval(right, n)
    return {"n": n, "right": right, "accuracy": right / n, "low": low, "high": high}


def measure_at_scale(
    pipe: ImagenPipeline, prompts: Sequence[str], seeds: Sequence[int], w: float, **options
) -> dict[str, float]:
    """Return one point of a curve over the guidance scale.

    Args:
        pipe: The pipeline.
        prompts: b prompts.
        seeds: b seeds.
        w: The guidance scale.
        **options: Further arguments of the pipeline's call.

    Returns:
        A dictionary: `w`, the accuracy by the parser with its 95 % interval, the saturation, and
        `outside`, the share of values out of range at the step where it is largest.
    """
    trajectory = x_0_hat_trajectory(pipe, prompts, seeds, guidance_scale=w, **options)
    image = trajectory[-1]
    return {
        "w": w,
        **accuracy_with_interval(judge_images(prompts, image.clamp(-1, 1), pipe.world)),
        **saturation(image),
        "outside": max(map(share_out_of_range, trajectory)),
    }


def render_matching(prompts: Sequence[str], size: int = 64, world: World = SCENES) -> Tensor:
    """Return rendered images [b, 3, size, size] in [-1, 1], one that matches each prompt.

    A perfect model could generate them. The scene is a function of the prompt.

    Args:
        prompts: b prompts.
        size: Width of the images (default: 64).
        world: The world whose captions and images these are (default: `scenes`).
    """
    scenes = [world.scene_matching(world.parse_caption(p), random.Random(p)) for p in prompts]
    return world.render(scenes, size)


def position_spread(scenes: Sequence[Scene], shape: str) -> tuple[float, float]:
    """Return the standard deviations of x and of y of all objects of a shape, in 1/64 of the width.

    They are nan for fewer than two objects.
    """
    places = torch.tensor(
        [(o.x, o.y) for scene in scenes for o in scene.objects if o.shape == shape],
        dtype=torch.float64,
    ).reshape(-1, 2)
    x, y = places.std(0).tolist() if len(places) > 1 else (float("nan"),) * 2
    return x, y


def share_of_large_objects(scenes: Sequence[Scene]) -> float:
    """Return the share of objects that are large; nan if there is no object."""
    sizes = [o.size for scene in scenes for o in scene.objects]
    return sizes.count("large") / len(sizes) if sizes else float("nan")
