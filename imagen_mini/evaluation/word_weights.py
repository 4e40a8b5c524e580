"""The weight of a word, measured: how much of the image the object covers, and if that rises."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from imagen_mini.evaluation.benchmark import random_object
from imagen_mini.scenes.captions import article_for

BACKGROUND_TOLERANCE = 0.3  # from the background, in some channel of [-1, 1]


def covered_share(image: Tensor) -> float:
    """Return the share of an image [3, h, w] in [-1, 1] that is not background.

    The background is the median colour; a pixel differs from it by more than BACKGROUND_TOLERANCE
    in some channel.
    """
    background = image.flatten(1).median(1).values[:, None, None]
    return ((image - background).abs().amax(0) > BACKGROUND_TOLERANCE).float().mean().item()


def sized_captions(n: int, word: str) -> list[str]:
    """Return captions of one object with its colour and its size.

    Args:
        n: How many captions.
        word: The size, small or large.
    """
    rng = random.Random(f"reweight/{word}")
    objects = [random_object(rng, "color") for _ in range(n)]
    return [f"{article_for(word)} {word} {t.color} {t.shape}" for t in objects]


def spearman_with_order(values: Tensor) -> Tensor:
    """Return Spearman's rank correlation of values with their order: 1 if they rise, -1 if they
    fall.
    """
    ranks = values.argsort().argsort().double()
    order = torch.arange(len(values), dtype=torch.float64)
    return torch.corrcoef(torch.stack([ranks, order]))[0, 1]
