"""The accuracy of samplers: network calls, errors against exact solutions, and the order at which
the errors fall.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import Schedule, numeric_t
from imagen_mini.evaluation.analytic_denoisers import (
    gaussian_denoiser,
    gaussian_flow,
)


def network_calls(sampler: str, steps: int) -> int:
    """Return the network calls of so many steps: one a step; for heun two in every step but the
    last.
    """
    return 2 * steps - 1 if sampler == "heun" else steps


def integration_errors(
    sampler: str, steps: Sequence[int], schedule: Schedule, mean: float = 0.3, std: float = 0.5
) -> Iterator[tuple[int, float]]:
    """Measure the error of a sampler against the exact solution for normally distributed data.

    Args:
        sampler: The name of a sampler.
        steps: Numbers of steps, spaced evenly in log-SNR.
        schedule: The log-SNR as a function of t.
        mean: The mean of the data (default: 0.3).
        std: Their standard deviation (default: 0.5).

    Yields:
        (network calls, mean |x - exact x| at t = 0) for each number of steps.
    """
    x_T = torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = gaussian_flow(x_T, mean, std, schedule)
    noisy, clean = schedule(torch.tensor([1.0, 0.0], dtype=torch.float64))
    for n in steps:
        times = numeric_t(
            noisy + torch.linspace(0, 1, n + 1, dtype=torch.float64) * (clean - noisy), schedule
        )
        times[0], times[-1] = 1, 0
        *_, last = sample(gaussian_denoiser(mean, std, schedule), x_T, times, schedule, sampler)
        yield network_calls(sampler, n), (last.x - true).abs().mean().item()


def fitted_order(calls: Sequence[float], error: Sequence[float]) -> float:
    """Return the power of the network calls at which an error falls.

    It is minus the slope of a straight line fitted by least squares to log(error) over log(calls).
    """
    x, y = (
        torch.tensor([math.log(v) for v in values], dtype=torch.float64)
        for values in (calls, error)
    )
    return -((x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum()).item()


def nearest_shares(images: Tensor, of: Tensor) -> Tensor:
    """Return how often each reference image is the nearest one.

    Args:
        images: Images [b, ...].
        of: Reference images [n, ...].

    Returns:
        [n], with sum 1.
    """
    nearest = torch.cdist(images.flatten(1).double(), of.flatten(1).double()).argmin(1)
    return nearest.bincount(minlength=len(of)) / len(images)
