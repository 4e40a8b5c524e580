"""Plots of samplers."""

import pytest
import torch

from imagen_mini.diffusion.schedules import cosine_log_snr
from imagen_mini.viz.samplers import plot_errors, plot_spacings, plot_trajectories


def test_charts_show_every_line():
    trajectories = {"ddim": ([1.0, 0.5, 0.0], torch.zeros(3, 4))}
    assert len(plot_trajectories(trajectories, [0.5]).axes[0].get_lines()) == 5
    (ax,) = plot_errors({"ddim": [(16, 0.1), (64, 0.02)], "heun": [(31, 0.01), (127, 0.001)]}).axes
    assert [line.get_label() for line in ax.get_lines()] == [
        "ddim",
        "heun",
        "slope -1",
        "slope -2",
    ] and ax.get_yscale() == "log"
    in_time, in_log_snr = plot_spacings(10, cosine_log_snr).axes
    assert [len(line.get_xdata()) for line in in_time.get_lines()] == [
        11
    ] * 4 and in_log_snr.get_lines()[0].get_xdata()[0] == pytest.approx(-12)
