"""Scores by the exact parser: does the picture show what its caption says?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.benchmark import benchmark
from imagen_mini.cascade.stage import Stage, augment
from imagen_mini.utils.rng import randn
from imagen_mini.diffusion.samplers import sample
from imagen_mini.scenes.captions import Caption, Description, read
from imagen_mini.scenes.parse import Reading, parse
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import BACKGROUNDS, COLORS, SHAPES, SIZES, TEXTURES, Object, Scene, free_place
from imagen_mini.text.encoder import TextEncoder


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion. Source: Wilson (1927)."""
    if n == 0:
        return 0.0, 1.0
    p, zz = successes / n, z * z / n
    middle, half = p + zz / 2, z * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return max(0.0, (middle - half) / (1 + zz)), min(1.0, (middle + half) / (1 + zz))


# ---------------------------------------------------------------- text alignment

@dataclass(frozen=True)
class Result:
    """One picture and its verdict."""

    category: str
    seed: int
    caption: Caption
    image: Tensor                                      # [3, h, w] in [-1, 1]
    reading: Reading

    @property
    def right(self) -> bool:
        return self.caption.description.fits(self.reading.scene)


def verdict(description: Description, reading: Reading) -> str:
    """In words: right, or what was read instead."""
    if reading.scene is None:
        return "unreadable: " + "; ".join(reading.problems)
    return "right" if description.fits(reading.scene) else "wrong: shows " + in_words(reading.scene)


def judge(prompt: str, image: Tensor) -> str:
    """The parser's verdict on a picture [3, h, w] in [-1, 1], or why there is none: the prompt is not of the world's grammar."""
    try:
        description = read(prompt)
    except ValueError as error:
        return f"not judged: {error}"
    return verdict(description, parse(image[None].float().cpu())[0])


def in_words(scene: Scene) -> str:
    """What a scene holds, briefly."""
    things = ", ".join(" ".join(filter(None, (o.size, o.texture, o.color, o.shape))) + f" at ({o.x}, {o.y})" for o in scene.objects)
    return (things or "nothing") + f" on {scene.background}"


def evaluate(draw: Callable[[list[str], list[int]], Tensor], prompts: list[tuple[str, int, Caption]], batch: int = 16) -> Iterator[Result]:
    """Draw every prompt and judge it. `draw(prompts, seeds)` gives pictures [b, 3, h, w] in [-1, 1]."""
    for start in range(0, len(prompts), batch):
        part = prompts[start:start + batch]
        images = draw([c.text for _, _, c in part], [seed for _, seed, _ in part])
        for (category, seed, caption), image, reading in zip(part, images, parse(images.float().cpu())):
            yield Result(category, seed, caption, image, reading)


def score(results: list[Result]) -> dict[str, float]:
    """n, right, accuracy, its Wilson 95 % interval, and how many pictures could not be read."""
    right = sum(r.right for r in results)
    low, high = wilson_interval(right, len(results))
    return {"n": len(results), "right": right, "accuracy": round(right / len(results), 4), "low": round(low, 4), "high": round(high, 4),
            "unreadable": sum(r.reading.scene is None for r in results)}


def table(results: list[Result]) -> dict[str, dict[str, float]]:
    """`score` of each category."""
    return {category: score([r for r in results if r.category == category]) for category in dict.fromkeys(r.category for r in results)}


def draw_alone(stage: Stage, encoder: TextEncoder, captions: list[str], seeds: list[int], low_res: Tensor | None = None) -> Tensor:
    """Pictures [b, 3, size, size] in [-1, 1] by one stage without the others; super-resolution is given true low-resolution pictures."""
    size, name, device = stage.config.unet.image_size, stage.config.name, next(stage.parameters()).device
    level = None
    if low_res is not None:
        level = torch.full((len(captions),), stage.config.aug_level, device=device)
        low_res = augment(low_res, level, randn(seeds, low_res.shape[1:], "preview", device=device))
    *_, last = sample(stage.denoiser(encoder(captions), low_res, level), randn(seeds, (3, size, size), name, "x_T", device=device), stage.times(),
                      stage.log_snr_of, stage.config.sampler, lambda step: randn(seeds, (3, size, size), name, "step", step, device=device), eta=stage.config.eta)
    return last.x_0_hat.clamp(-1, 1)


def preview(stage: Stage, encoder: TextEncoder, n: int = 4, categories: list[str] | None = None) -> list[Result]:
    """A quick look at one stage: `n` captions of some categories."""
    low = stage.config.unet.low_res_size
    usual = ["one object", "binding", "counting", "positional"] if low is None else ["texture", "two textures"]
    prompts = benchmark(n, seed=1, categories=categories or usual)

    scenes = [scene_of(c.description, random.Random(c.text)) for _, _, c in prompts]
    low_res = None if low is None else render(scenes, low, next(stage.parameters()).device)
    return list(evaluate(lambda captions, seeds: draw_alone(stage, encoder, captions, seeds, low_res), prompts, batch=len(prompts)))


def scene_of(description: Description, rng: random.Random) -> Scene:
    """A random scene that the description fits."""
    while True:
        objects: list[Object] = []
        for thing in description.things:
            size, texture = thing.size or rng.choice(tuple(SIZES)), thing.texture or rng.choice(TEXTURES)
            where = free_place(rng, SIZES[size] * SHAPES[thing.shape], objects)
            if where is not None:
                objects.append(Object(x=where[0], y=where[1], shape=thing.shape, color=thing.color or rng.choice(tuple(COLORS)), size=size, texture=texture))
        scene = Scene(tuple(objects), description.background or rng.choice(tuple(BACKGROUNDS)))
        if description.fits(scene):
            return scene
