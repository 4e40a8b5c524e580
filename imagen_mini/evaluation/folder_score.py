"""Scores of a pipeline on a folder of images, which no parser can read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.base import Dataset
from imagen_mini.evaluation.metrics import (
    frechet_distance,
    gaussian_statistics,
    nearest_neighbours,
    precision_and_recall,
)
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.diagnostics import measure_noise_bins

SMALL = 16  # pixels of a side that images are reduced to, where there is no network to compare them


def caption_use(
    stage: DiffusionStage, encoder: TextEncoder, data: Dataset, indices: Sequence[int]
) -> dict[str, float]:
    """Measure what captions are worth to a stage: its loss with an image's own caption, and what
    another image's, or none, adds to it.

    Args:
        stage: The stage.
        encoder: Its text encoder, on the same device.
        data: The data set.
        indices: Of the samples, at least two.

    Returns:
        "loss" with the own caption, averaged over times; "another" and "none", the shares of it
        that the loss rises by; "another_se" and "none_se", their standard errors.
    """
    found = measure_noise_bins(stage, encoder, data, indices)
    bins = [loss for loss in found.losses["true"] if not math.isnan(loss)]  # few fill not all
    own = sum(bins) / len(bins)
    (another, another_se), (none, none_se) = found.gaps["shuffled"], found.gaps["none"]
    return {
        "loss": own,
        "another": another / own,
        "another_se": another_se / own,
        "none": none / own,
        "none_se": none_se / own,
    }


def small_pixels(images: Tensor) -> Tensor:
    """Images [n, 3, h, w] as features [n, d]: their pixels at a small size. Two images are near if
    they have the same colours in the same places.
    """
    return F.interpolate(images.float(), size=(SMALL, SMALL), mode="area").flatten(1)


def compare_with_true(
    generated: Tensor, true: Tensor, features: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """Fréchet distance, precision and recall of generated images against true ones.

    Args:
        generated: [n, 3, h, w] in [-1, 1].
        true: [m, 3, h, w].
        features: Images -> features [n, d], for example of Inception.
    """
    a, b = features(true), features(generated)
    precision, recall = precision_and_recall(a, b)
    distance = frechet_distance(*gaussian_statistics(a), *gaussian_statistics(b))
    return {"frechet": distance, "precision": precision, "recall": recall}


def memorised(
    generated: Tensor, unseen: Tensor, trained_on: Tensor
) -> tuple[dict[str, float], Tensor]:
    """Compare how near generated images come to those that were trained on, beside how near true
    images come that were not.

    Args:
        generated: Features of generated images [n, d], for example their `small_pixels`.
        unseen: Features of true images that were not trained on [m, d].
        trained_on: Features of those that were [k, d].

    Returns:
        The median distance of both to the nearest image that was trained on, and the share of
        generated images that are nearer than all but 5 % of the unseen ones. Copies are nearer in
        all; images of the same kind in 5 %. Then the row of the nearest one for each generated
        image, [n].
    """
    near, which = nearest_neighbours(generated, trained_on)
    usual, _ = nearest_neighbours(unseen, trained_on)
    return {
        "generated": near.median().item(),
        "unseen": usual.median().item(),
        "nearer": (near < usual.quantile(0.05)).double().mean().item(),
    }, which
