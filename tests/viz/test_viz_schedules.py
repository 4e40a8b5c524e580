"""What is drawn and measured of noise schedules."""

import math

import pytest
import torch
import torch.nn.functional as F

from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.diffusion.schedules import cosine_log_snr, resolution_shift
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import HELD_OUT_SEED, training_scene
from imagen_mini.utils.rng import randn
from imagen_mini.viz.schedules import (
    SCHEDULES,
    against_normal,
    curves,
    measured_log_snr,
    read_correctly,
    spread,
)

SCENES = [training_scene(HELD_OUT_SEED, i) for i in range(6)]


def legend_of(sheet):
    return [text.get_text() for text in sheet.legends[0].get_texts()]


def test_curves_and_their_legend():
    sheet = curves(SCHEDULES)
    assert legend_of(sheet) == list(SCHEDULES) and len(sheet.axes) == 3
    assert all(line.get_ydata()[0] > line.get_ydata()[-1] for line in sheet.axes[0].lines)


def test_the_spread_has_an_area_of_one_and_moves_with_the_shift():
    sheet = spread({"cosine": cosine_log_snr, "shifted": lambda t: cosine_log_snr(t, -4.0)})
    middles, areas = [], []
    for line in sheet.axes[0].lines:
        x, y = (torch.as_tensor(values) for values in (line.get_xdata(), line.get_ydata()))
        areas.append(y.sum().item() * 0.5)
        middles.append((x * y).sum().item() * 0.5)
    assert areas == pytest.approx([1, 1], abs=1e-3) and legend_of(sheet) == ["cosine", "shifted"]
    assert middles == pytest.approx([0, -4], abs=0.05)


def test_values_are_generated_with_the_normal_curve_over_them():
    sheet = against_normal({"noise": randn([0], (40_000,)), "none": torch.zeros(2, 50)})
    for panel, close in zip(sheet.axes, (True, False)):
        height, edges = (torch.as_tensor(values) for values in panel.patches[0].get_data()[:2])
        normal = torch.exp(-(((edges[1:] + edges[:-1]) / 2) ** 2) / 2) / math.sqrt(2 * math.pi)
        assert ((height - normal).abs().max().item() < 0.06) == close and (
            height * edges.diff()
        ).sum().item() == pytest.approx(1, abs=1e-4)
    assert sorted(legend_of(sheet)) == ["N(0, 1)", "seen"]


@pytest.mark.parametrize("log_snr, tolerance", [(-4.0, 0.2), (0.0, 0.03), (5.0, 0.03)])
def test_the_log_snr_that_is_measured_is_the_one_that_was_put_in(log_snr, tolerance):
    x_0 = render(SCENES)
    x_t = q_sample(x_0, randn(range(6), (3, 64, 64), "eps"), torch.tensor(log_snr))
    assert (
        measured_log_snr(x_t, x_0)
        == pytest.approx(log_snr, abs=tolerance)
        == measured_log_snr(7 * x_t, x_0)
    )


def test_averaging_4_by_4_pixels_raises_it_by_what_the_resolution_shift_takes():
    x_0, log_snr = render(SCENES, 256), torch.tensor(-1.0)
    x_t = q_sample(x_0, randn(range(6), (3, 256, 256), "eps"), log_snr)
    risen = measured_log_snr(F.avg_pool2d(x_t, 4), F.avg_pool2d(x_0, 4)) - measured_log_snr(
        x_t, x_0
    )
    assert risen == pytest.approx(-resolution_shift(256), abs=0.05)


def test_scenes_are_read_from_clean_images_and_not_from_each_other_s():
    images = render(SCENES)
    assert read_correctly(SCENES, images) == [True] * 6 and not any(
        read_correctly(SCENES, images.roll(1, 0))
    )
    with pytest.raises(ValueError):
        read_correctly(SCENES[:2], images)
