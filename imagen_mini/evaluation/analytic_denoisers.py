"""Denoisers that are known exactly, to compare networks and samplers with: the best Gaussian blur,
the posterior mean over a list of images, and the best denoiser of normally distributed data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.diffusion.schedules import Schedule, alpha_sigma
from imagen_mini.scenes.scene import GRID, Scene, SceneObject
from imagen_mini.utils.images import blur


def gaussian_denoiser(mean: float, std: float, schedule: Schedule) -> Denoiser:
    """Return the best denoiser of data whose values are normally distributed.

        x_0_hat = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha mean)

    Args:
        mean: The mean of every value of x_0.
        std: Its standard deviation.
        schedule: The log-SNR as a function of t.

    Returns:
        A function (x_t, t) -> E[x_0 | x_t].
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(schedule(t.double()))
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)

    return denoise


def gaussian_flow(x_T: Tensor, mean: float, std: float, schedule: Schedule) -> Tensor:
    """Return where infinitely many deterministic steps from x_T end for normally distributed data.

    x_t is normally distributed at every t, and the trajectory keeps each point's standardised
    value:

        (x_t - alpha mean) / sqrt(alpha^2 std^2 + sigma^2)   is the same at t = 1 and at t = 0

    Args:
        x_T: Noise of any shape.
        mean: The mean of every value of x_0.
        std: Its standard deviation.
        schedule: The log-SNR as a function of t.
    """
    (alpha_1, sigma_1), (alpha_0, sigma_0) = (
        alpha_sigma(schedule(torch.tensor(t, dtype=torch.float64))) for t in (1.0, 0.0)
    )
    standardised = (x_T - alpha_1 * mean) / (alpha_1**2 * std**2 + sigma_1**2).sqrt()
    return alpha_0 * mean + (alpha_0**2 * std**2 + sigma_0**2).sqrt() * standardised


def mixture_denoiser(images: Tensor, schedule: Schedule) -> Denoiser:
    """Return the best denoiser of data that are a few images, each equally frequent.

    Args:
        images: The images [n, ...].
        schedule: The log-SNR as a function of t.

    Returns:
        A function (x_t, t) -> `posterior_mean`, computed in float64.
    """
    return lambda x_t, t: posterior_mean(x_t.double(), schedule(t.double()), images.double()).to(
        x_t.dtype
    )


BLUR_WIDTHS = (0, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)


def best_gaussian_blur(
    x_0: Tensor, x_t: Tensor, widths: Sequence[float] = BLUR_WIDTHS
) -> tuple[Tensor, float]:
    """Return the best estimate of x_0 by a blur, chosen with knowledge of x_0.

        x_0_hat = factor blur(x_t, width),   factor = <blur, x_0> / <blur, blur>

    Args:
        x_0: Clean images [b, 3, h, w].
        x_t: Noisy images of the same shape.
        widths: Standard deviations to try, in 1/64 of the image's width (default: BLUR_WIDTHS).

    Returns:
        The estimate with the least squared error, and its width.
    """
    estimates = []
    for width in widths:
        blurred = blur(x_t, width)
        estimates.append((blurred * x_0).sum() / blurred.square().sum() * blurred)
    errors = [(estimate - x_0).square().mean().item() for estimate in estimates]
    best = errors.index(min(errors))
    return estimates[best], widths[best]


def posterior_weights(x_t: Tensor, log_snr: Tensor, images: Tensor) -> Tensor:
    """Return the probability of each image, given x_t, if x_0 is one of n equally likely images.

        p_i = softmax over i of  -|| x_t - alpha x_i ||^2 / (2 sigma^2)

    This is Bayes' rule with normally distributed noise. || x_t ||^2 is the same for all i and left
    out.

    Args:
        x_t: Noisy images [b, c, h, w].
        log_snr: One noise level.
        images: The images [n, c, h, w].

    Returns:
        [b, n], with rows that add up to 1.
    """
    alpha, sigma = alpha_sigma(log_snr)
    seen, known = x_t.flatten(1), images.flatten(1)
    closeness = alpha * seen @ known.T - alpha**2 * known.square().sum(1) / 2
    return (closeness / sigma**2).softmax(1)


def posterior_mean(x_t: Tensor, log_snr: Tensor, images: Tensor) -> Tensor:
    """Return E[x_0 | x_t] = sum over i of p_i x_i, the best denoiser in squared error.

    Args:
        x_t: Noisy images [b, c, h, w].
        log_snr: One noise level.
        images: The images [n, c, h, w], each equally likely.

    Returns:
        [b, c, h, w], with p of `posterior_weights`.
    """
    p = posterior_weights(x_t, log_snr, images)
    return (p @ images.flatten(1)).view(x_t.shape)


def scenes_at_all_positions(obj: SceneObject, background: str) -> list[Scene]:
    """Return all scenes of one object on a background: one for each position where the world places
    it.

    Args:
        obj: The object; its own position is ignored.
        background: The colour of the background.
    """
    low, high = int(obj.radius + 1.5), int(GRID - obj.radius - 0.5)
    return [
        Scene((replace(obj, x=x, y=y),), background)
        for y in range(low, high + 1)
        for x in range(low, high + 1)
    ]
