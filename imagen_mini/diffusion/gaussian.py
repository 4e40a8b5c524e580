"""The forward process, the three things a network can predict, how they convert, and the training
loss.

    eps  the noise,    x_0  the clean image,    v = alpha eps - sigma x_0

Images are [b, c, h, w]; `log_snr` is [b] (or a scalar).
"""

from __future__ import annotations

import torch
from torch import Tensor

from imagen_mini.diffusion.schedules import alpha_sigma

PREDICTION_TYPES = ("eps", "x_0", "v")
NO_EPS = (
    "log_snr {}: there x_t is pure noise, and eps says nothing of x_0. With zero terminal SNR, "
    "predict 'x_0' or 'v'"
)


def alpha_sigma_like(log_snr: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma, shaped to multiply the images `like`."""
    alpha, sigma = alpha_sigma(log_snr)
    shape = (-1,) + (1,) * (like.ndim - 1)
    return alpha.reshape(shape), sigma.reshape(shape)


def q_sample(x_0: Tensor, eps: Tensor, log_snr: Tensor) -> Tensor:
    """The forward process: x_t = alpha x_0 + sigma eps. Source: Imagen (2022), Section 2.1; DDPM
    (2020), Eq. (4).
    """
    alpha, sigma = alpha_sigma_like(log_snr, x_0)
    return alpha * x_0 + sigma * eps


def eps_from_x_0(x_0: Tensor, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """eps = (x_t - alpha x_0) / sigma."""
    alpha, sigma = alpha_sigma_like(log_snr, x_t)
    return (x_t - alpha * x_0) / sigma


def x_0_from_eps(eps: Tensor, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """x_0 = (x_t - sigma eps) / alpha. An error where alpha = 0: pure noise minus noise leaves no
    image.
    """
    alpha, sigma = alpha_sigma_like(log_snr, x_t)
    if not alpha.all():
        raise ValueError(NO_EPS.format(log_snr.min()))
    return (x_t - sigma * eps) / alpha


def v_from_x_0(x_0: Tensor, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """v = alpha eps - sigma x_0 = (alpha x_t - x_0) / sigma. Source: Progressive Distillation
    (2022), Appendix D.
    """
    alpha, sigma = alpha_sigma_like(log_snr, x_t)
    return (alpha * x_t - x_0) / sigma


def x_0_from_v(v: Tensor, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """x_0 = alpha x_t - sigma v."""
    alpha, sigma = alpha_sigma_like(log_snr, x_t)
    return alpha * x_t - sigma * v


def to_x_0(prediction: Tensor, kind: str, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """What the network predicted, as an estimate of the clean image. `kind` is one of PREDICTIONS."""
    if kind == "x_0":
        return prediction
    if kind == "eps":
        return x_0_from_eps(prediction, x_t, log_snr)
    if kind == "v":
        return x_0_from_v(prediction, x_t, log_snr)
    raise ValueError(f"prediction {kind!r}; expected one of {PREDICTION_TYPES}")


def from_x_0(x_0: Tensor, kind: str, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """The clean image as what the network predicts: the inverse of `to_x_0`, and the target in
    training.
    """
    if kind == "x_0":
        return x_0
    if kind == "eps":
        return eps_from_x_0(x_0, x_t, log_snr)
    if kind == "v":
        return v_from_x_0(x_0, x_t, log_snr)
    raise ValueError(f"prediction {kind!r}; expected one of {PREDICTION_TYPES}")


def two_candidate_posterior_mean(
    x_0: Tensor, other: Tensor, x_t: Tensor, log_snr: Tensor
) -> Tensor:
    """E[x_0 | x_t] if it was one of two images, each as likely before x_t was seen:

        p x_0 + (1 - p) other,   p = sigmoid((||x_t - alpha other||^2 - ||x_t - alpha x_0||^2) / (2 sigma^2))

    As a target of training it has the mean of x_0 itself, and less variance: the stable target
    field (Xu et al., 2023) with a reference batch of two.
    """
    alpha, sigma = alpha_sigma_like(log_snr, x_t)
    far, near = ((x_t - alpha * x).square().sum((1, 2, 3), keepdim=True) for x in (other, x_0))
    return torch.lerp(other, x_0, torch.sigmoid((far - near) / (2 * sigma**2)))


# ---------------------------------------------------------------- loss
#
# A loss weight is a function of the log-SNR: the factor of || x_0_hat - x_0 ||^2.
# `convert_loss_weight` says what it is for eps or v.
