"""Denoisers that are known exactly, against which samplers can be held; mixing noises; charts of
walks, of errors, and of the times where samplers stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import Schedule, alpha_sigma, numeric_t
from imagen_mini.diffusion.timesteps import TIMESTEP_SPACINGS, spaced_timesteps
from imagen_mini.viz.denoising import posterior_mean
from imagen_mini.viz.style import STYLES, log_axis, subplots

# ---------------------------------------------------------------- data whose best denoiser is a formula


def gaussian_denoiser(mean: float, std: float, log_snr_of: Schedule) -> Denoiser:
    """The best denoiser, E[x_0 | x_t], where every value of x_0 is normal with this mean and
    deviation:

        x_0_hat = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha mean)
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(log_snr_of(t.double()))
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)

    return denoise


def gaussian_flow(x_T: Tensor, mean: float, std: float, log_snr_of: Schedule) -> Tensor:
    """Where infinitely many steps from x_T would end for this data, without fresh noise: x_t is
    normal at every t, and the walk keeps each point's standardised value,

        (x_t - alpha mean) / sqrt(alpha^2 std^2 + sigma^2)   is the same at t = 1 and at t = 0
    """
    (alpha_1, sigma_1), (alpha_0, sigma_0) = (
        alpha_sigma(log_snr_of(torch.tensor(t, dtype=torch.float64))) for t in (1.0, 0.0)
    )
    standardised = (x_T - alpha_1 * mean) / (alpha_1**2 * std**2 + sigma_1**2).sqrt()
    return alpha_0 * mean + (alpha_0**2 * std**2 + sigma_0**2).sqrt() * standardised


def mixture_denoiser(images: Tensor, log_snr_of: Schedule) -> Denoiser:
    """The best denoiser where the data are these images [n, ...], each as frequent as the others:
    `posterior_mean`, in float64.
    """
    return lambda x_t, t: posterior_mean(x_t.double(), log_snr_of(t.double()), images.double()).to(
        x_t.dtype
    )


# ---------------------------------------------------------------- numbers


def network_calls(sampler: str, steps: int) -> int:
    """How often a walk asks the denoiser: once a step, and twice for heun in every step but the
    last.
    """
    return 2 * steps - 1 if sampler == "heun" else steps


def errors(
    sampler: str, steps: Sequence[int], log_snr_of: Schedule, mean: float = 0.3, std: float = 0.5
) -> Iterator[tuple[int, float]]:
    """(calls, mean |x - true x|) at t = 0 for each number of steps, evenly spaced in log-SNR, with
    the exact denoiser of normal data.
    """
    x_T = torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = gaussian_flow(x_T, mean, std, log_snr_of)
    noisy, clean = log_snr_of(torch.tensor([1.0, 0.0], dtype=torch.float64))
    for n in steps:
        times = numeric_t(
            noisy + torch.linspace(0, 1, n + 1, dtype=torch.float64) * (clean - noisy), log_snr_of
        )
        times[0], times[-1] = 1, 0
        *_, last = sample(gaussian_denoiser(mean, std, log_snr_of), x_T, times, log_snr_of, sampler)
        yield network_calls(sampler, n), (last.x - true).abs().mean().item()


def fitted_order(calls: Sequence[float], error: Sequence[float]) -> float:
    """By which power of the calls an error falls: minus the slope of the straight line through
    log(error) over log(calls), by least squares.
    """
    x, y = (
        torch.tensor([math.log(v) for v in values], dtype=torch.float64)
        for values in (calls, error)
    )
    return -((x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum()).item()


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation of two noises of one shape, from a (share 0) to b (share 1), along
    the arc between them:

        sin((1 - share) angle) / sin(angle) a + sin(share angle) / sin(angle) b,   angle between a and b as vectors

    For independent noises the angle is almost 90 degrees, and the mix has their length, as
    `torch.lerp` has not. Source: Shoemake (1985).
    """
    angle = torch.arccos((a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1))
    if angle < 1e-4:  # so near that the arc is a straight line
        return torch.lerp(a, b, share)
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


def shares(images: Tensor, of: Tensor) -> Tensor:
    """How often each of the images `of` [n, ...] is the nearest one to `images` [b, ...]: [n], with
    sum 1.
    """
    nearest = torch.cdist(images.flatten(1).double(), of.flatten(1).double()).argmin(1)
    return nearest.bincount(minlength=len(of)) / len(images)


# ---------------------------------------------------------------- charts


def plot_trajectories(
    trajectories: dict[str, tuple[Sequence[float], Tensor]], points: Sequence[float]
) -> Figure:
    """One-dimensional walks, a panel for each sampler: the times [n + 1] and the paths [n + 1,
    walkers], from noise at the left to the data's `points`.
    """
    sheet, panels = subplots(list(trajectories), "t   (1 noise, 0 data)")
    for panel, (times, paths) in zip(panels, trajectories.values()):
        panel.plot(times, paths, color=STYLES[0]["color"], linewidth=0.9, alpha=0.7)
        panel.plot(
            [0] * len(points),
            points,
            color=STYLES[1]["color"],
            marker="s",
            linestyle="",
            label="the data",
            clip_on=False,
            zorder=3,
        )
        panel.set(xlim=(1, 0), ylim=(-3.4, 3.4), ylabel="x_t")
    panels[0].legend(frameon=False, loc="upper right")
    return sheet


def plot_errors(lines: dict[str, Sequence[tuple[int, float]]]) -> Figure:
    """(calls, error) of samplers on two logarithmic axes, with the slopes of first and second order
    to compare with.
    """
    sheet, (panel,) = subplots(["distance from the true end"], "network calls")
    for (name, found), style in zip(lines.items(), STYLES):
        panel.plot(*zip(*found), label=name, **style)
    calls = sorted(c for found in lines.values() for c, _ in found)
    first, last, top = calls[0], calls[-1], max(e for found in lines.values() for _, e in found)
    for order, dashes in ((1, ":"), (2, "--")):
        panel.plot(
            [first, last],
            [top, top * (first / last) ** order],
            color="#777777",
            linestyle=dashes,
            linewidth=1,
            label=f"slope -{order}",
        )
    log_axis(panel, [4**k for k in range(2, 6) if first <= 4**k <= last])
    panel.set_yscale("log")
    panel.set_ylabel("mean |x - true x|")
    panel.legend(frameon=False, fontsize=8)
    return sheet


def plot_spacings(steps: int, log_snr_of: Schedule) -> Figure:
    """Where a walk of so many steps stops, by spacing: in time, and in log-SNR."""
    sheet, panels = subplots(["in time", "in log-SNR"], "")
    for row, (spacing, style) in enumerate(zip(TIMESTEP_SPACINGS, STYLES)):
        times = spaced_timesteps(spacing, steps, log_snr_of).double()
        for panel, x in zip(panels, (times, log_snr_of(times))):
            panel.plot(x, [row] * len(x), **style | {"linestyle": ""})
    for panel, name, ends in zip(
        panels, ("t   (1 noise, 0 image)", "log-SNR"), ((1.03, -0.03), None)
    ):
        panel.set(
            xlabel=name,
            yticks=range(len(TIMESTEP_SPACINGS)),
            yticklabels=TIMESTEP_SPACINGS,
            ylim=(len(TIMESTEP_SPACINGS) - 0.5, -0.5),
            xlim=ends,
        )
    return sheet
