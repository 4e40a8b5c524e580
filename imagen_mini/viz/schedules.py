"""Plots of noise schedules: their curves, how times spread over the noise levels, histograms of
noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor

from imagen_mini.diffusion.schedules import (
    alpha_sigma,
    cosine_log_snr,
    interpolated_log_snr,
    linear_log_snr,
    resolution_shift,
    sigmoid_log_snr,
    zero_terminal_snr,
)
from imagen_mini.viz.style import STYLES, legend_below, subplots

ScheduleTable = dict[str, Callable[[Tensor], Tensor]]  # name -> log-SNR at t

SCHEDULES: ScheduleTable = {
    "cosine": cosine_log_snr,
    "linear": linear_log_snr,
    "sigmoid": sigmoid_log_snr,
    "cosine, shifted for 256 px": partial(cosine_log_snr, shift=resolution_shift(256)),
    "cosine, interpolated 32 to 256 px": partial(interpolated_log_snr, size=256, low=32, high=256),
    "linear, zero terminal SNR": zero_terminal_snr(linear_log_snr),
}


def plot_schedule_curves(schedules: ScheduleTable) -> Figure:
    """Log-SNR, alpha and sigma over t, from 0 (image) to 1 (noise), one axes each."""
    fig, axes = subplots(
        ["log-SNR", "alpha, of the image", "sigma, of the noise"], "t   (0 image, 1 noise)"
    )
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    for (name, schedule), style in zip(schedules.items(), STYLES):
        log_snr = schedule(t)
        for ax, values in zip(axes, (log_snr, *alpha_sigma(log_snr))):
            ax.plot(t, values, label=name, **style | {"marker": ""})
    axes[0].set_ylim(-16, 16)
    legend_below(fig, axes[0], _legend_columns(fig))
    return fig


def plot_noise_level_density(schedules: ScheduleTable, width: float = 0.5) -> Figure:
    """The density of uniformly spaced times over log-SNR, for each schedule.

    Args:
        schedules: Functions of t by name.
        width: The width of a bin in log-SNR (default: 0.5). The area under each curve is 1.
    """
    fig, (ax,) = subplots(
        ["how times spread over levels of noise"], "log-SNR   (high: image, low: noise)"
    )
    fig.set_size_inches(7, 3.8)
    edges = torch.arange(-16, 16 + width, width, dtype=torch.float64)
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    for (name, schedule), style in zip(schedules.items(), STYLES):
        share = torch.histogram(schedule(t), edges).hist / len(t) / width
        ax.plot((edges[1:] + edges[:-1]) / 2, share, label=name, **style | {"marker": ""})
    ax.set_ylabel("share of times per unit")
    ax.invert_xaxis()
    legend_below(fig, ax, _legend_columns(fig))
    return fig


def plot_against_normal(values: dict[str, Tensor], limit: float = 3.5) -> Figure:
    """Histograms of the values of tensors, with the density of N(0, 1) over them.

    Args:
        values: Tensors of any shape by the title of their axes.
        limit: Values beyond +-limit are clamped to it (default: 3.5).
    """
    fig, axes = subplots(list(values), "value", columns=len(values))
    fig.set_size_inches(3.1 * len(values), 3.3)
    x = torch.linspace(-limit, limit, 201)
    for ax, numbers in zip(axes, values.values()):
        bins = 70 if numbers.numel() > 5000 else 28
        height, edges = torch.histogram(
            numbers.flatten().clamp(-limit, limit), bins, range=(-limit, limit), density=True
        )
        ax.stairs(
            height.numpy(),
            edges.numpy(),
            fill=True,
            color=STYLES[0]["color"],
            alpha=0.6,
            label="seen",
        )
        ax.plot(x, torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), color="black", label="N(0, 1)")
    axes[0].set_ylabel("density")
    legend_below(fig, axes[0], _legend_columns(fig))
    return fig


def _legend_columns(fig: Figure) -> int:
    """As many columns as the long names of schedules leave room for."""
    return min(4, int(fig.get_figwidth() / 2.3))
