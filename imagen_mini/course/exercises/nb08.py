"""Notebook 08: dynamic thresholding."""

from __future__ import annotations

import torch
from torch import Tensor

from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.diffusion.guidance import dynamic_threshold, static_threshold
from imagen_mini.utils.rng import randn

SHAPE = (3, 3, 89)  # 801 values: their 99.5 % is one of them, however one interpolates


def images() -> Tensor:
    """Four images [4, *SHAPE] in float64: within the range; far out of it; farther; out of it on
    the dark side only.
    """
    x = randn(range(4), SHAPE, "nb08", dtype=torch.float64)
    return torch.stack(
        [0.2 * x[0], 1.5 * x[1], 3 * x[2], torch.where(x[3] < 0, 4 * x[3], 0.3 * x[3])]
    )


@checks
def check(threshold) -> str:
    """`threshold(x_0_hat, percentile)`: s = percentile of |x_0_hat|, per image, at least 1; clipped
    to [-s, s] and divided by s; in float64.
    """
    x = images()
    for percentile in (0.995, 0.9):
        expected, seen = dynamic_threshold(x, percentile), threshold(x.clone(), percentile)
        if isinstance(seen, Tensor) and seen.shape == expected.shape:
            for wrong, message in mistakes(x, percentile):
                if torch.allclose(seen.double(), wrong, rtol=0, atol=1e-6):
                    raise WrongAnswerError(message)
        expect_close(
            seen,
            expected,
            f"the image thresholded at {percentile:.1%}",
            "s = max(1, percentile of |x_0_hat|) of each image; clip(x_0_hat, -s, s) / s",
        )
    return "An image in range is left alone; any other is divided by its own s."


def mistakes(x: Tensor, percentile: float):
    """Yield what common mistakes return, and the message for each."""

    def by(s: Tensor) -> Tensor:
        return x.clamp(-s, s) / s

    s = x.abs().flatten(1).quantile(percentile, dim=1)[:, None, None, None]
    yield static_threshold(x), "this is static thresholding: s should depend on the image"
    yield (
        by(x.abs().flatten().quantile(percentile).clamp(min=1)),
        (
            "all images have one s: it should be the percentile of each image's own values, "
            "not over the batch"
        ),
    )
    yield (
        by(s),
        (
            "image 0 was in range, and you made it larger: there should be no s below 1, or every "
            "flat image is stretched until it is black and white"
        ),
    )
    yield (
        by(x.flatten(1).quantile(percentile, dim=1).clamp(min=1)[:, None, None, None]),
        (
            "image 3 goes out of range on the dark side only, and you did not see it: take the "
            "percentile of |x_0_hat|, not of x_0_hat"
        ),
    )
    yield (
        x.clamp(-s.clamp(min=1), s.clamp(min=1)),
        "you clip to [-s, s] and do not divide by s: the image is still out of range",
    )
    yield (
        x / s.clamp(min=1),
        "you divide by s and do not clip: the largest values are still out of range",
    )
