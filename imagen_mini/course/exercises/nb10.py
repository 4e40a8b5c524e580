"""Notebook 10: noise-conditioning augmentation by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imagen_mini.cascade.stage import augment_low_res
from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.utils.rng import randn

LEVELS = (0.2, 0.5, 0.8)


def plain_cosine(low_res: Tensor, aug_level: Tensor, noise: Tensor) -> Tensor:
    """`augment_low_res` by a cosine that is not clipped near 0 and 1: as correct as ours."""
    angle = (math.pi / 2 * aug_level).reshape(-1, 1, 1, 1)
    return torch.cos(angle) * low_res + torch.sin(angle) * noise


def alike(a: Tensor, b: Tensor) -> bool:
    return (
        isinstance(a, Tensor)
        and a.shape == b.shape
        and bool(torch.allclose(a, b, atol=0.01, rtol=0))
    )


@checks
def check(augment_by_hand) -> str:
    """`augment_by_hand(low_res, aug_level, noise)`: alpha low_res + sigma noise, by the cosine
    schedule at time aug_level, each image at its own level.
    """
    low_res = randn(range(3), (3, 8, 8), "nb10", "picture", dtype=torch.float64).clamp(-1, 1)
    noise = randn(range(3), (3, 8, 8), "nb10", "noise", dtype=torch.float64)
    nothing, level = torch.zeros_like(low_res), torch.tensor(LEVELS, dtype=torch.float64)
    shown = ", ".join(f"{v:g}" for v in LEVELS)

    def answer(*given: Tensor) -> Tensor:
        return augment_by_hand(*(tensor.clone() for tensor in given))

    seen = answer(low_res, 0 * level, noise)
    if alike(seen, (low_res + 1) / 2):
        raise WrongAnswerError(
            "at level 0 you return (low_res + 1) / 2, expected low_res as it is: images "
            "stay in [-1, 1], as everywhere in the package"
        )
    if isinstance(seen, Tensor) and seen.shape == low_res.shape and not alike(seen, low_res):
        raise WrongAnswerError(
            f"at level 0 you change the image by up to {(seen - low_res).abs().max():.2g}, "
            "expected (nearly) nothing: alpha is 1 and sigma is 0 "
            "there"
        )
    seen = answer(low_res, level, nothing)
    if alike(seen, low_res):
        raise WrongAnswerError(
            f"with noise of zeros you return the image unscaled at levels {shown}, expected "
            "alpha times the image: alpha^2 + sigma^2 = 1, so "
            "the more noise comes in, the more image must go"
        )
    seen = answer(nothing, level, noise)
    if alike(seen, level.reshape(-1, 1, 1, 1) * noise):
        raise WrongAnswerError(
            f"on an image of zeros your noise has the deviation {shown}: sigma is aug_level "
            "itself. Expected sigma of the schedule at that time, "
            "sin(pi aug_level / 2): the level is a time, not a deviation"
        )
    if alike(seen, augment_low_res(nothing, level, noise).clamp(-1, 1)):
        raise WrongAnswerError(
            f"your values end at {seen.min():.2g} and {seen.max():.2g}, expected noise beyond "
            "-1 and 1 too: a noisy image is not clamped, "
            "or its noise is no longer normal"
        )
    for i, (one, own) in enumerate(zip(LEVELS, level)):
        if alike(seen, augment_low_res(nothing, own.expand(3), noise)):
            raise WrongAnswerError(
                f"for levels {shown} all three images get the noise of level {one:g} (number "
                f"{i}), expected each its own: reshape alpha and sigma to "
                "[b, 1, 1, 1]"
            )
    seen = answer(low_res, level, noise)
    if alike(seen, augment_low_res(low_res, level, noise).clamp(-1, 1)):
        raise WrongAnswerError(
            "your values end at -1 and 1, expected noise beyond them too: a noisy image is not "
            "clamped, or its noise is no longer normal"
        )
    expected = min(
        (way(low_res, level, noise) for way in (augment_low_res, plain_cosine)),
        key=lambda e: (
            (seen - e).abs().max().item()
            if isinstance(seen, Tensor) and seen.shape == e.shape
            else 0.0
        ),
    )
    expect_close(
        seen,
        expected,
        f"the augmented image at levels {shown}",
        "It is alpha low_res + sigma noise, with alpha_sigma(cosine_log_snr(aug_level))",
        1e-5,
    )
    return (
        "The forward process on the small image: it loses what the noise takes, and the "
        "variance stays."
    )
