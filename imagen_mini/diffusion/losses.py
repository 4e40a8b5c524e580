"""The training loss, and its weights as functions of the log-SNR."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from imagen_mini.diffusion.gaussian import NO_EPS, from_x_0


def simple_weight(log_snr: Tensor) -> Tensor:
    """w = SNR, which makes it the plain squared error of eps. Source: DDPM (2020), Eq. (14)."""
    return torch.exp(log_snr)


def min_snr_weight(log_snr: Tensor, gamma: float = 5.0) -> Tensor:
    """w = min(SNR, gamma). Source: Hang et al. (2023), "Efficient Diffusion Training via Min-SNR
    Weighting Strategy".
    """
    return torch.exp(log_snr).clamp(max=gamma)


def p2_weight(log_snr: Tensor, gamma: float = 1.0, k: float = 1.0) -> Tensor:
    """w = SNR / (k + SNR)^gamma: less of what is nearly clean, whose errors nobody sees. gamma = 0
    is `simple_weight`.

    Source: Choi et al. (2022), "Perception Prioritized Training of Diffusion Models".
    """
    log_k = torch.full_like(log_snr, k).log()
    # in logarithms: SNR^gamma may overflow
    return torch.exp(log_snr - gamma * torch.logaddexp(log_k, log_snr))


def capped_v_weight(log_snr: Tensor, cap: float = 5.0) -> Tensor:
    """w = min(1 / sigma^2, cap), the weight of the squared error of x_0.

    Uncapped, 1 / sigma^2 = SNR + 1 is the weight that the plain loss on v gives to the error of
    x_0. The cap keeps nearly clean images from taking over.
    """
    return torch.clamp(1 + torch.exp(log_snr), max=cap)


def sqrt_snr_weight(log_snr: Tensor, cap: float = 60.0, knee: float = -5.0) -> Tensor:
    """w = min(sqrt(1 + SNR / e^knee), cap): every level of noise counts about the same.

    The error of x_0 that a trained network cannot avoid falls like SNR^-1/2 on the built-in world,
    from a log-SNR of about -5 (`knee`) on, where things begin to show. A weight that grows like its
    inverse leaves no level to drown the others: neither by its size nor by its noise. Measured for
    every level during training, and inverted, this is the uncertainty weighting of EDM2 (Karras et
    al., 2024).
    """
    return torch.sqrt(1 + torch.exp(log_snr - knee)).clamp(max=cap)


# what a stage may be trained with, by the name in its recipe; each is called with (log_snr, cap)
LOSS_WEIGHTS = {"capped_v": capped_v_weight, "balanced": sqrt_snr_weight, "min_snr": min_snr_weight}


def snr_factor(kind: str, log_snr: Tensor) -> Tensor:
    """By how much a squared error of x_0 grows in another space: SNR for eps, SNR + 1 for v, 1 for
    x_0.
    """
    snr = torch.exp(log_snr)
    return {"x_0": torch.ones_like(snr), "eps": snr, "v": snr + 1}[kind]


def convert_loss_weight(kind: str, weight: Tensor, log_snr: Tensor) -> Tensor:
    """The weight of the squared error of what the network predicts that is `weight` for the squared
    error of x_0.
    """
    growth = snr_factor(kind, log_snr)
    if kind == "eps" and not growth.all():
        raise ValueError(NO_EPS.format(log_snr.min()))
    return weight / growth


def denoising_loss(
    prediction: Tensor,
    kind: str,
    x_0: Tensor,
    x_t: Tensor,
    log_snr: Tensor,
    weight: Callable[[Tensor], Tensor] = capped_v_weight,
) -> Tensor:
    """w_t || x_0_hat - x_0 ||^2 per example, [b]: mean over pixels, w_t = weight(log_snr).

    The error is taken in the space of the prediction, where it is well scaled, and weighted
    accordingly.

    Source: Imagen (2022), Eq. (1). Differs from the paper: its weight is that of the error in eps
    (`simple_weight`).
    """
    target = from_x_0(x_0, kind, x_t, log_snr)
    error = (prediction.float() - target.float()).square().flatten(1).mean(1)
    return error * convert_loss_weight(kind, weight(log_snr), log_snr)
