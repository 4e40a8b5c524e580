"""The training loss, and its weights as functions of the log-SNR.

    loss = w(log_snr) ||x_0_hat - x_0||^2        SNR = e^log_snr

A loss weight w is the factor of the squared error of x_0, whatever the network predicts;
`convert_loss_weight` computes the factor that belongs to the squared error of eps or v. To add a
weight, write a function of (log_snr, cap) and add a row to LOSS_WEIGHTS.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from imagen_mini.diffusion.gaussian import NO_EPS, from_x_0

# ---------------------------------------------------------------- weights


def simple_weight(log_snr: Tensor) -> Tensor:
    """w = SNR, which makes it the plain squared error of eps.

    Reference:
        DDPM, arXiv 2006.11239, Eq. (14).
    """
    return torch.exp(log_snr)


def min_snr_weight(log_snr: Tensor, gamma: float = 5.0) -> Tensor:
    """w = min(SNR, gamma).

    Reference:
        Efficient Diffusion Training via Min-SNR Weighting Strategy (Hang et al., 2023), arXiv
        2303.09556.
    """
    return torch.exp(log_snr).clamp(max=gamma)


def p2_weight(log_snr: Tensor, cap: float = math.inf, gamma: float = 1.0, k: float = 1.0) -> Tensor:
    """w = min(SNR / (k + SNR)^gamma, cap): less weight on what is nearly clean, whose errors nobody
    sees.

    gamma = 0 is `simple_weight`. With gamma = k = 1 it is alpha^2, which never exceeds 1.

    Reference:
        Perception Prioritized Training of Diffusion Models (Choi et al., 2022), arXiv 2204.00227.
        Differs from the paper: the cap, which is off by default.
    """
    log_k = torch.full_like(log_snr, k).log()
    # in logarithms: SNR^gamma may overflow
    return torch.exp(log_snr - gamma * torch.logaddexp(log_k, log_snr)).clamp(max=cap)


def capped_v_weight(log_snr: Tensor, cap: float = 5.0) -> Tensor:
    """w = min(1 / sigma^2, cap).

    Uncapped, 1 / sigma^2 = SNR + 1 is the weight that the plain loss on v puts on the error of x_0.
    The cap keeps nearly clean images from dominating.
    """
    return torch.clamp(1 + torch.exp(log_snr), max=cap)


def sqrt_snr_weight(log_snr: Tensor, cap: float = 60.0, knee: float = -5.0) -> Tensor:
    """w = min(sqrt(1 + SNR / e^knee), cap): every noise level counts about the same.

    The error of x_0 that a trained network cannot avoid falls like SNR^-1/2 on the built-in world,
    from a log-SNR of about -5 (`knee`) on, where objects begin to show. A weight that grows like
    its inverse lets no noise level drown the others: neither by the size of its error nor by the
    noise of its gradient. Measured for every noise level during training, and inverted, this is the
    uncertainty weighting of EDM2.

    Reference:
        EDM2 (Karras et al., 2024), arXiv 2312.02696, for the uncertainty weighting.
    """
    return torch.sqrt(1 + torch.exp(log_snr - knee)).clamp(max=cap)


# The weights that a stage may be trained with, by name; each is called with (log_snr, cap).
LOSS_WEIGHTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "capped_v": capped_v_weight,
    "sqrt_snr": sqrt_snr_weight,
    "min_snr": min_snr_weight,
    "p2": p2_weight,
    "balanced": sqrt_snr_weight,  # the former name of sqrt_snr, which configurations on disk have
}


# ---------------------------------------------------------------- the loss


def snr_factor(prediction_type: str, log_snr: Tensor) -> Tensor:
    """By how much a squared error of x_0 grows in another space: SNR for eps, SNR + 1 for v, 1 for
    x_0.
    """
    snr = torch.exp(log_snr)
    return {"x_0": torch.ones_like(snr), "eps": snr, "v": snr + 1}[prediction_type]


def convert_loss_weight(prediction_type: str, weight: Tensor, log_snr: Tensor) -> Tensor:
    """The factor of the squared error of the prediction that equals `weight` for x_0.

    Args:
        prediction_type: what the network predicts, one of PREDICTION_TYPES.
        weight: the factor of the squared error of x_0, [b].
        log_snr: the noise level, [b].

    Returns:
        weight / `snr_factor`, [b].

    Raises:
        ValueError: the network predicts eps where SNR = 0.
    """
    growth = snr_factor(prediction_type, log_snr)
    if prediction_type == "eps" and not growth.all():
        raise ValueError(NO_EPS.format(log_snr.min()))
    return weight / growth


def denoising_loss(
    prediction: Tensor,
    prediction_type: str,
    x_0: Tensor,
    x_t: Tensor,
    log_snr: Tensor,
    weight: Callable[[Tensor], Tensor] = capped_v_weight,
) -> Tensor:
    """The training loss w(log_snr) ||x_0_hat - x_0||^2 of each example.

    The error is taken in the space of the prediction, where it is well scaled, and weighted
    accordingly.

    Args:
        prediction: the output of the network, [b, c, h, w].
        prediction_type: what it predicts, one of PREDICTION_TYPES.
        x_0: the clean images, [b, c, h, w].
        x_t: the noisy images that the network was given, [b, c, h, w].
        log_snr: their noise level, [b].
        weight: the loss weight as a function of the log-SNR (default: `capped_v_weight`).

    Returns:
        The loss per example, [b]: a mean over channels and pixels.

    Reference:
        Imagen, arXiv 2205.11487, Eq. (1). Differs from the paper: its weight is that of the error
        of eps (`simple_weight`).
    """
    # 1. What the network should have predicted.
    target = from_x_0(x_0, prediction_type, x_t, log_snr)
    # 2. The squared error of each example, in float32.
    error = (prediction.float() - target.float()).square().flatten(1).mean(1)
    # 3. Its weight, converted from the space of x_0.
    return error * convert_loss_weight(prediction_type, weight(log_snr), log_snr)
