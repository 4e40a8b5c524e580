"""EDICT: sampling with two coupled images, which can be inverted exactly.

DDIM inversion takes the noise at s for that at t. EDICT needs no such approximation: it updates two
images in turns, each with the noise of the other one, as an affine coupling layer does. So every
step has an exact inverse, whatever the network is, and under any guidance.

    sampling, t -> s                          inversion, s -> t
    x' = a x_t + b v(y_t)                     y' = (y_s - (1 - p) x_s) / p
    y' = a y_t + b v(x')                      x' = (x_s - (1 - p) y') / p
    x_s = p x' + (1 - p) y'                   y_t = (y' - b v(x')) / a
    y_s = p y' + (1 - p) x_s                  x_t = (x' - b v(y_t)) / a

The last two lines on the left keep the two images together. Every second step exchanges their
parts.

Differs from the paper: it writes a DDIM step in eps, we write it in v = alpha eps - sigma x_0. Then
a = cos and b = -sin of the angle of the step, and no step divides by a small number, at either end
of the schedule. For x = y both are the same DDIM step.

Reference: EDICT (Wallace et al., 2022), arXiv 2211.12446, Section 4.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from imagen_mini.diffusion.gaussian import alpha_sigma_like, v_from_x_0
from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.diffusion.samplers import SamplingState
from imagen_mini.diffusion.schedules import ScheduleFunction, in_float64

MIXING = 0.93  # p of the paper


def rotation(log_snr_t: Tensor, log_snr_s: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """a and b of a DDIM step x_s = a x_t + b v.

        a = alpha_t alpha_s + sigma_t sigma_s,   b = alpha_t sigma_s - sigma_t alpha_s

    Args:
        log_snr_t, log_snr_s: The noise levels before and after the step, scalars.
        like: Images that they are shaped to multiply, [b, c, h, w].
    """
    alpha_t, sigma_t = alpha_sigma_like(log_snr_t, like)
    alpha_s, sigma_s = alpha_sigma_like(log_snr_s, like)
    return alpha_t * alpha_s + sigma_t * sigma_s, alpha_t * sigma_s - sigma_t * alpha_s


def edict_step(
    x_t: Tensor,
    y_t: Tensor,
    denoise: Denoiser,
    t: Tensor,
    log_snr_t: Tensor,
    log_snr_s: Tensor,
    p: float = MIXING,
) -> tuple[Tensor, Tensor]:
    """One step of both images from t to s; see the equations above.

    Args:
        x_t, y_t: The two noisy images, [b, c, h, w].
        denoise: (x_t, t) -> x_0_hat.
        t: The time before the step, a scalar.
        log_snr_t, log_snr_s: The noise levels before and after the step, scalars.
        p: How much of itself each image keeps, in (0, 1] (default 0.93).

    Returns:
        x_s and y_s.
    """
    a, b = rotation(log_snr_t, log_snr_s, x_t)
    x = a * x_t + b * v_from_x_0(denoise(y_t, t), y_t, log_snr_t)
    y = a * y_t + b * v_from_x_0(denoise(x, t), x, log_snr_t)
    x_s = p * x + (1 - p) * y
    return x_s, p * y + (1 - p) * x_s


def edict_step_back(
    x_s: Tensor,
    y_s: Tensor,
    denoise: Denoiser,
    t: Tensor,
    log_snr_t: Tensor,
    log_snr_s: Tensor,
    p: float = MIXING,
) -> tuple[Tensor, Tensor]:
    """The exact inverse of `edict_step`, with its arguments: from s back to t."""
    a, b = rotation(log_snr_t, log_snr_s, x_s)
    y = (y_s - (1 - p) * x_s) / p
    x = (x_s - (1 - p) * y) / p
    y_t = (y - b * v_from_x_0(denoise(x, t), x, log_snr_t)) / a
    return (x - b * v_from_x_0(denoise(y_t, t), y_t, log_snr_t)) / a, y_t


def check_mixing(p: float) -> None:
    """A ValueError for what is no mixing share of EDICT."""
    if not 0 < p <= 1:
        raise ValueError(f"p {p}; expected a share above 0 and up to 1, for example {MIXING}")


@torch.no_grad()
def edict_invert(
    denoise: Denoiser,
    x_0: Tensor,
    timesteps: Tensor,
    schedule: ScheduleFunction,
    p: float = MIXING,
) -> Iterator[tuple[Tensor, Tensor]]:
    """From an image to the pair of noisy images from which `edict_sample` leads back to it.

    Args:
        denoise: (x_t [b, c, h, w], t scalar) -> x_0_hat [b, c, h, w]; `edict_sample` has to use the
            same one. It may be guided.
        x_0: The image, [b, c, h, w]. In float64 the way back is exact to the precision of the
            denoiser.
        timesteps: Falling times from 1 to 0, [steps + 1], as for `edict_sample`.
        schedule: t -> log-SNR.
        p: How much of itself each image keeps in a step, in (0, 1] (default 0.93).

    Yields:
        x_t and y_t after every step. The last are x_T and y_T.

    Raises:
        ValueError: p is out of range.
    """
    check_mixing(p)
    log_snr = schedule(in_float64(timesteps)).to(x_0)
    x, y = x_0, x_0
    for step in reversed(range(len(timesteps) - 1)):
        levels = timesteps[step], log_snr[step], log_snr[step + 1], p
        if step % 2:
            y, x = edict_step_back(y, x, denoise, *levels)
        else:
            x, y = edict_step_back(x, y, denoise, *levels)
        yield x, y


@torch.no_grad()
def edict_sample(
    denoise: Denoiser,
    x_T: Tensor,
    y_T: Tensor,
    timesteps: Tensor,
    schedule: ScheduleFunction,
    p: float = MIXING,
) -> Iterator[SamplingState]:
    """Sample with two coupled images.

    Args:
        denoise: (x_t [b, c, h, w], t scalar) -> x_0_hat [b, c, h, w].
        x_T, y_T: The pair to start from, [b, c, h, w]: that of `edict_invert`, or one noise twice.
        timesteps: Falling times from 1 to 0, [steps + 1].
        schedule: t -> log-SNR.
        p: As for the inversion (default 0.93).

    Yields:
        A `SamplingState` after every step. Its `x` is x_s, and so is its `x_0_hat`: at s = 0 that
        is the image.

    Raises:
        ValueError: p is out of range.
    """
    check_mixing(p)
    log_snr = schedule(in_float64(timesteps)).to(x_T)
    x, y, steps = x_T, y_T, len(timesteps) - 1
    for step in range(steps):
        t, s = timesteps[step], timesteps[step + 1]
        levels = t, log_snr[step], log_snr[step + 1], p
        if step % 2:
            y, x = edict_step(y, x, denoise, *levels)
        else:
            x, y = edict_step(x, y, denoise, *levels)
        yield SamplingState(step, steps, float(t), float(s), x, x)
