"""Noise schedules as one sees them: their curves, how their times are spread over the levels of
noise, and how much of an image is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from matplotlib.axes import Axes
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
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.scene import Scene
from imagen_mini.viz.style import STYLES, subplots

Schedules = dict[str, Callable[[Tensor], Tensor]]  # name -> log-SNR at t

SCHEDULES: Schedules = {
    "cosine": cosine_log_snr,
    "linear": linear_log_snr,
    "sigmoid": sigmoid_log_snr,
    "cosine, shifted for 256 px": partial(cosine_log_snr, shift=resolution_shift(256)),
    "cosine, interpolated 32 to 256 px": partial(interpolated_log_snr, size=256, low=32, high=256),
    "linear, zero terminal SNR": zero_terminal_snr(linear_log_snr),
}


def curves(schedules: Schedules) -> Figure:
    """Three panels, over t from 0 (image) to 1 (noise): log-SNR, alpha and sigma."""
    sheet, panels = subplots(
        ["log-SNR", "alpha, of the image", "sigma, of the noise"], "t   (0 image, 1 noise)"
    )
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    for (name, log_snr_of), style in zip(schedules.items(), STYLES):
        log_snr = log_snr_of(t)
        for panel, values in zip(panels, (log_snr, *alpha_sigma(log_snr))):
            panel.plot(t, values, label=name, **style | {"marker": ""})
    panels[0].set_ylim(-16, 16)
    legend_below(sheet, panels[0])
    return sheet


def spread(schedules: Schedules, width: float = 0.5) -> Figure:
    """Which share of the times from 0 to 1 falls on each level of noise: a curve over log-SNR, in
    bins of `width`. Its area is 1.
    """
    sheet, (panel,) = subplots(
        ["how times spread over levels of noise"], "log-SNR   (high: image, low: noise)"
    )
    sheet.set_size_inches(7, 3.8)
    edges = torch.arange(-16, 16 + width, width, dtype=torch.float64)
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    for (name, log_snr_of), style in zip(schedules.items(), STYLES):
        share = torch.histogram(log_snr_of(t), edges).hist / len(t) / width
        panel.plot((edges[1:] + edges[:-1]) / 2, share, label=name, **style | {"marker": ""})
    panel.set_ylabel("share of times per unit")
    panel.invert_xaxis()
    legend_below(sheet, panel)
    return sheet


def against_normal(values: dict[str, Tensor], reach: float = 3.5) -> Figure:
    """A histogram of the numbers in each tensor, of any shape, with N(0, 1) over it."""
    sheet, panels = subplots(list(values), "value", columns=len(values))
    sheet.set_size_inches(3.1 * len(values), 3.3)
    x = torch.linspace(-reach, reach, 201)
    for panel, numbers in zip(panels, values.values()):
        bins = 70 if numbers.numel() > 5000 else 28
        height, edges = torch.histogram(
            numbers.flatten().clamp(-reach, reach), bins, range=(-reach, reach), density=True
        )
        panel.stairs(
            height.numpy(),
            edges.numpy(),
            fill=True,
            color=STYLES[0]["color"],
            alpha=0.6,
            label="seen",
        )
        panel.plot(
            x, torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), color="black", label="N(0, 1)"
        )
    panels[0].set_ylabel("density")
    legend_below(sheet, panels[0])
    return sheet


def legend_below(sheet: Figure, panel: Axes) -> None:
    """One legend for all panels, with the lines of this one."""
    lines, names = panel.get_legend_handles_labels()
    sheet.legend(
        lines,
        names,
        loc="outside lower center",
        ncols=min(4, len(names), int(sheet.get_figwidth() / 2.3)),
        frameon=False,
    )


def measured_log_snr(x_t: Tensor, x_0: Tensor) -> float:
    """The log-SNR of noisy images x_t, measured with the clean ones x_0, both [b, c, h, w]: what of
    x_t is along x_0 is image, the rest is noise.

        alpha = <x_t, x_0> / <x_0, x_0>,   sigma = rms(x_t - alpha x_0),   log_snr = log(alpha^2 / sigma^2)

    The scale of x_t does not matter.
    """
    x_t, x_0 = x_t.double(), x_0.double()
    alpha = (x_t * x_0).sum() / (x_0 * x_0).sum()
    return torch.log(alpha**2 / (x_t - alpha * x_0).square().mean()).item()


def read_correctly(scenes: Sequence[Scene], images: Tensor) -> list[bool]:
    """Does the parser read each scene, but for textures, from its image [b, 3, 64, 64] in [-1, 1]?"""
    return [
        parsed.scene == scene.without_texture()
        for parsed, scene in zip(parse_image(images.float()), scenes, strict=True)
    ]
