"""Noise schedules: time t in [0, 1] -> log-SNR -> (alpha, sigma). t = 1 is noise.

    x_t = alpha x_0 + sigma eps,    alpha^2 + sigma^2 = 1,    log_snr = log(alpha^2 / sigma^2), falling in t
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_SNR_MAX, LOG_SNR_MIN = 12.0, -12.0                 # the cosine diverges at both ends, so it is clipped there


def cosine_log_snr(t: Tensor, shift: float = 0.0) -> Tensor:
    """The cosine schedule in continuous time: log_snr = -2 log tan(pi t / 2) + shift.

    t in [0, 1], any shape; the log-SNR stays between LOG_SNR_MIN and LOG_SNR_MAX (before the shift). A negative `shift` adds
    noise at every t, as larger pictures need. It is moved by 2 log(64 / size) in Simple Diffusion.

    Source: Improved DDPM (2021) for the cosine; Simple Diffusion (Hoogeboom et al., 2023) for its log-SNR and shift.
    """
    first = math.atan(math.exp(-LOG_SNR_MAX / 2))
    last = math.atan(math.exp(-LOG_SNR_MIN / 2))
    return -2 * torch.log(torch.tan(first + t * (last - first))) + shift


def cosine_t(log_snr: Tensor, shift: float = 0.0) -> Tensor:
    """The inverse of `cosine_log_snr`: at which time t the schedule has this log-SNR."""
    first = math.atan(math.exp(-LOG_SNR_MAX / 2))
    last = math.atan(math.exp(-LOG_SNR_MIN / 2))
    return (torch.atan(torch.exp((shift - log_snr) / 2)) - first) / (last - first)


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = sqrt(sigmoid(log_snr)), sigma = sqrt(sigmoid(-log_snr)), of the shape of `log_snr`."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def uniform_times(steps: int, device=None) -> Tensor:
    """steps + 1 times from 1 (noise) down to 0, evenly spaced: the sampler walks from each to the next."""
    if steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1; got {steps}")
    return torch.linspace(1, 0, steps + 1, device=device)
