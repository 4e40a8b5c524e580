"""Plots of samplers: one-dimensional trajectories, errors over network calls, and the times of the
steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from imagen_mini.diffusion.schedules import Schedule
from imagen_mini.diffusion.timesteps import TIMESTEP_SPACINGS, spaced_timesteps
from imagen_mini.viz.style import STYLES, log_axis, subplots


def plot_trajectories(
    trajectories: dict[str, tuple[Sequence[float], Tensor]], points: Sequence[float]
) -> Figure:
    """One-dimensional sampling trajectories, one axes for each sampler.

    Args:
        trajectories: By the sampler's name the times [n + 1] and the values x_t [n + 1, points],
            from noise (t = 1, left) to data (t = 0).
        points: The values that the data have.
    """
    fig, axes = subplots(list(trajectories), "t   (1 noise, 0 data)")
    for ax, (times, paths) in zip(axes, trajectories.values()):
        ax.plot(times, paths, color=STYLES[0]["color"], linewidth=0.9, alpha=0.7)
        ax.plot(
            [0] * len(points),
            points,
            color=STYLES[1]["color"],
            marker="s",
            linestyle="",
            label="the data",
            clip_on=False,
            zorder=3,
        )
        ax.set(xlim=(1, 0), ylim=(-3.4, 3.4), ylabel="x_t")
    axes[0].legend(frameon=False, loc="upper right")
    return fig


def plot_errors(lines: dict[str, Sequence[tuple[int, float]]]) -> Figure:
    """Errors of samplers over network calls on two logarithmic axes, with the slopes of first and
    second order to compare with.

    Args:
        lines: Pairs (network calls, error) by the sampler's name.
    """
    fig, (ax,) = subplots(["distance from the true end"], "network calls")
    for (name, found), style in zip(lines.items(), STYLES):
        ax.plot(*zip(*found), label=name, **style)
    calls = sorted(c for found in lines.values() for c, _ in found)
    first, last, top = calls[0], calls[-1], max(e for found in lines.values() for _, e in found)
    for order, dashes in ((1, ":"), (2, "--")):
        ax.plot(
            [first, last],
            [top, top * (first / last) ** order],
            color="#777777",
            linestyle=dashes,
            linewidth=1,
            label=f"slope -{order}",
        )
    log_axis(ax, [4**k for k in range(2, 6) if first <= 4**k <= last])
    ax.set_yscale("log")
    ax.set_ylabel("mean |x - true x|")
    ax.legend(frameon=False, fontsize=8)
    return fig


def plot_spacings(steps: int, schedule: Schedule) -> Figure:
    """The times of the steps for each timestep spacing: over t, and over log-SNR.

    Args:
        steps: The number of steps.
        schedule: The log-SNR as a function of t.
    """
    fig, axes = subplots(["in time", "in log-SNR"], "")
    for row, (spacing, style) in enumerate(zip(TIMESTEP_SPACINGS, STYLES)):
        times = spaced_timesteps(spacing, steps, schedule).double()
        for ax, x in zip(axes, (times, schedule(times))):
            ax.plot(x, [row] * len(x), **style | {"linestyle": ""})
    for ax, name, ends in zip(axes, ("t   (1 noise, 0 image)", "log-SNR"), ((1.03, -0.03), None)):
        ax.set(
            xlabel=name,
            yticks=range(len(TIMESTEP_SPACINGS)),
            yticklabels=TIMESTEP_SPACINGS,
            ylim=(len(TIMESTEP_SPACINGS) - 0.5, -0.5),
            xlim=ends,
        )
    return fig
