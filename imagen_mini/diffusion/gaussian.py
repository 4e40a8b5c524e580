"""The forward process, and the three targets that a network may predict.

Notation, here and in the rest of `imagen_mini.diffusion`:

    x_0          the clean image, values in [-1, 1]
    eps          standard normal noise of the same shape
    log_snr      the log signal-to-noise ratio, log(alpha^2 / sigma^2)
    alpha^2      = sigmoid(log_snr),    sigma^2 = sigmoid(-log_snr),    alpha^2 + sigma^2 = 1
    x_t          = alpha x_0 + sigma eps, the noisy image
    v            = alpha eps - sigma x_0
    x_0_hat      an estimate of x_0 from x_t

x_t together with one of eps, x_0 and v determines the other two. So a network may predict any of
them, and everything else is written for x_0_hat.

Images are [b, c, h, w]; `log_snr` is [b], or a scalar for the whole batch.
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
    """alpha and sigma at `log_snr` [b] or scalar, shaped to multiply the images `like`."""
    alpha, sigma = alpha_sigma(log_snr)
    shape = (-1,) + (1,) * (like.ndim - 1)
    return alpha.reshape(shape), sigma.reshape(shape)


def q_sample(x_0: Tensor, eps: Tensor, log_snr: Tensor) -> Tensor:
    """The forward process: x_t = alpha x_0 + sigma eps.

    Args:
        x_0: clean images, [b, c, h, w].
        eps: standard normal noise of the same shape.
        log_snr: the noise level, [b] or scalar.

    Returns:
        The noisy images x_t, [b, c, h, w].

    Reference:
        Imagen, arXiv 2205.11487, Section 2.2; DDPM, arXiv 2006.11239, Eq. (4).
    """
    alpha, sigma = alpha_sigma_like(log_snr, x_0)
    return alpha * x_0 + sigma * eps


# ---------------------------------------------------------------- one target from another


def eps_from_x_0(x_0: Tensor, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """eps = (x_t - alpha x_0) / sigma."""
    alpha, sigma = alpha_sigma_like(log_snr, x_t)
    return (x_t - alpha * x_0) / sigma


def x_0_from_eps(eps: Tensor, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """x_0 = (x_t - sigma eps) / alpha.

    Raises:
        ValueError: alpha is 0: pure noise minus noise leaves no image.
    """
    alpha, sigma = alpha_sigma_like(log_snr, x_t)
    if not alpha.all():
        raise ValueError(NO_EPS.format(log_snr.min()))
    return (x_t - sigma * eps) / alpha


def v_from_x_0(x_0: Tensor, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """v = alpha eps - sigma x_0 = (alpha x_t - x_0) / sigma.

    Reference:
        Progressive Distillation, arXiv 2202.00512, Appendix D.
    """
    alpha, sigma = alpha_sigma_like(log_snr, x_t)
    return (alpha * x_t - x_0) / sigma


def x_0_from_v(v: Tensor, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """x_0 = alpha x_t - sigma v."""
    alpha, sigma = alpha_sigma_like(log_snr, x_t)
    return alpha * x_t - sigma * v


def to_x_0(prediction: Tensor, prediction_type: str, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """What a network predicted, as an estimate of the clean image.

    Args:
        prediction: the output of the network, [b, c, h, w].
        prediction_type: what it is, one of PREDICTION_TYPES.
        x_t: the noisy images that it was predicted from, [b, c, h, w].
        log_snr: their noise level, [b] or scalar.

    Returns:
        x_0_hat, [b, c, h, w].

    Raises:
        ValueError: an unknown `prediction_type`, or "eps" where alpha is 0.
    """
    if prediction_type == "x_0":
        return prediction
    if prediction_type == "eps":
        return x_0_from_eps(prediction, x_t, log_snr)
    if prediction_type == "v":
        return x_0_from_v(prediction, x_t, log_snr)
    raise ValueError(f"prediction {prediction_type!r}; expected one of {PREDICTION_TYPES}")


def from_x_0(x_0: Tensor, prediction_type: str, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """The clean image as what the network predicts: the inverse of `to_x_0`, and the target in
    training.

    Args:
        x_0: clean images, or estimates of them, [b, c, h, w].
        prediction_type: what to convert to, one of PREDICTION_TYPES.
        x_t: the noisy images, [b, c, h, w].
        log_snr: their noise level, [b] or scalar.

    Returns:
        eps, x_0 or v, [b, c, h, w].

    Raises:
        ValueError: an unknown `prediction_type`.
    """
    if prediction_type == "x_0":
        return x_0
    if prediction_type == "eps":
        return eps_from_x_0(x_0, x_t, log_snr)
    if prediction_type == "v":
        return v_from_x_0(x_0, x_t, log_snr)
    raise ValueError(f"prediction {prediction_type!r}; expected one of {PREDICTION_TYPES}")


# ---------------------------------------------------------------- two candidate images


def two_candidate_posterior_mean(
    x_0: Tensor, other: Tensor, x_t: Tensor, log_snr: Tensor
) -> Tensor:
    """E[x_0 | x_t] if the clean image was one of two, each as likely before x_t was seen.

        E = p x_0 + (1 - p) other
        p = sigmoid((||x_t - alpha other||^2 - ||x_t - alpha x_0||^2) / (2 sigma^2))

    As a target of training it has the same mean as x_0 itself, and less variance: the stable target
    field with a reference batch of two.

    Args:
        x_0, other: the two candidates, [b, c, h, w] each.
        x_t: noisy images made from one of them, [b, c, h, w].
        log_snr: their noise level, [b] or scalar.

    Returns:
        The posterior mean, [b, c, h, w].

    Reference:
        Stable Target Field (Xu et al., 2023), arXiv 2302.00670.
    """
    alpha, sigma = alpha_sigma_like(log_snr, x_t)
    far, near = ((x_t - alpha * x).square().sum((1, 2, 3), keepdim=True) for x in (other, x_0))
    return torch.lerp(other, x_0, torch.sigmoid((far - near) / (2 * sigma**2)))
