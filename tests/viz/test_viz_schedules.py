"""Plots of noise schedules."""

import math

import pytest
import torch

from imagen_mini.diffusion.schedules import cosine_log_snr
from imagen_mini.utils.rng import randn
from imagen_mini.viz.schedules import (
    SCHEDULES,
    plot_against_normal,
    plot_noise_level_density,
    plot_schedule_curves,
)


def legend_of(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()]


def test_curves_and_their_legend():
    fig = plot_schedule_curves(SCHEDULES)
    assert legend_of(fig) == list(SCHEDULES) and len(fig.axes) == 3
    assert all(line.get_ydata()[0] > line.get_ydata()[-1] for line in fig.axes[0].lines)


def test_the_spread_has_an_area_of_one_and_moves_with_the_shift():
    fig = plot_noise_level_density(
        {"cosine": cosine_log_snr, "shifted": lambda t: cosine_log_snr(t, -4.0)}
    )
    middles, areas = [], []
    for line in fig.axes[0].lines:
        x, y = (torch.as_tensor(values) for values in (line.get_xdata(), line.get_ydata()))
        areas.append(y.sum().item() * 0.5)
        middles.append((x * y).sum().item() * 0.5)
    assert areas == pytest.approx([1, 1], abs=1e-3) and legend_of(fig) == ["cosine", "shifted"]
    assert middles == pytest.approx([0, -4], abs=0.05)


def test_values_are_plotted_with_the_normal_curve_over_them():
    fig = plot_against_normal({"noise": randn([0], (40_000,)), "none": torch.zeros(2, 50)})
    for ax, close in zip(fig.axes, (True, False)):
        height, edges = (torch.as_tensor(values) for values in ax.patches[0].get_data()[:2])
        normal = torch.exp(-(((edges[1:] + edges[:-1]) / 2) ** 2) / 2) / math.sqrt(2 * math.pi)
        assert ((height - normal).abs().max().item() < 0.06) == close and (
            height * edges.diff()
        ).sum().item() == pytest.approx(1, abs=1e-4)
    assert sorted(legend_of(fig)) == ["N(0, 1)", "seen"]
