"""Denoisers to hold a trained network against: the best blur, and the best answer that there can
be, where the world is small enough to list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from imagen_mini.diffusion.schedules import alpha_sigma
from imagen_mini.evaluation.metrics import psnr
from imagen_mini.scenes.scene import GRID, Scene, SceneObject
from imagen_mini.utils.images import blur

WIDTHS = (0, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)


def mean_psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1] taken together, as one: what has the
    least squared error has the highest PSNR.
    """
    return psnr(a.flatten()[None], b.flatten()[None]).item()


def best_blur(x_0: Tensor, x_t: Tensor, widths: Sequence[float] = WIDTHS) -> tuple[Tensor, float]:
    """The classical denoiser with every advantage: of Gaussian blurs of x_t [b, 3, h, w], each
    times the factor that suits it best, the one that comes nearest to the true images x_0. Returns
    the estimate and the blur's width, in 1/64 of the image's.

        x_0_hat = factor blur(x_t, width),   factor = <blur, x_0> / <blur, blur>
    """
    estimates = []
    for width in widths:
        blurred = blur(x_t, width)
        estimates.append((blurred * x_0).sum() / blurred.square().sum() * blurred)
    errors = [(estimate - x_0).square().mean().item() for estimate in estimates]
    best = errors.index(min(errors))
    return estimates[best], widths[best]


def posterior(x_t: Tensor, log_snr: Tensor, images: Tensor) -> Tensor:
    """If x_0 is one of n images, each as likely as the others: how likely is each, once x_t is
    seen? (Bayes' rule, with normal noise.)

        p_i = softmax over i of  -|| x_t - alpha x_i ||^2 / (2 sigma^2)

    x_t [b, c, h, w], one log_snr, images [n, c, h, w]; returns [b, n]. What is the same for all i
    is left out of the softmax: || x_t ||^2.
    """
    alpha, sigma = alpha_sigma(log_snr)
    seen, known = x_t.flatten(1), images.flatten(1)
    closeness = alpha * seen @ known.T - alpha**2 * known.square().sum(1) / 2
    return (closeness / sigma**2).softmax(1)


def posterior_mean(x_t: Tensor, log_snr: Tensor, images: Tensor) -> Tensor:
    """The best denoiser there can be, in squared error: E[x_0 | x_t] = sum over i of p_i x_i, with
    p of `posterior`. Returns [b, c, h, w].
    """
    p = posterior(x_t, log_snr, images)
    return (p @ images.flatten(1)).view(x_t.shape)


def everywhere(obj: SceneObject, background: str) -> list[Scene]:
    """All scenes of this one thing on this background: at every place where the world puts one of
    its kind, each of them equally often.
    """
    low, high = int(obj.reach + 1.5), int(GRID - obj.reach - 0.5)
    return [
        Scene((replace(obj, x=x, y=y),), background)
        for y in range(low, high + 1)
        for x in range(low, high + 1)
    ]
