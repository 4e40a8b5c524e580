"""The log-SNR of noisy images, measured."""

import pytest
import torch
import torch.nn.functional as F

from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.diffusion.schedules import resolution_shift
from imagen_mini.evaluation.metrics import measure_log_snr
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import HELD_OUT_SEED, training_scene
from imagen_mini.utils.rng import randn

SCENES = [training_scene(HELD_OUT_SEED, i) for i in range(6)]


@pytest.mark.parametrize("log_snr, tolerance", [(-4.0, 0.2), (0.0, 0.03), (5.0, 0.03)])
def test_the_log_snr_that_is_measured_is_the_one_that_was_put_in(log_snr, tolerance):
    x_0 = render(SCENES)
    x_t = q_sample(x_0, randn(range(6), (3, 64, 64), "eps"), torch.tensor(log_snr))
    assert (
        measure_log_snr(x_t, x_0)
        == pytest.approx(log_snr, abs=tolerance)
        == measure_log_snr(7 * x_t, x_0)
    )


def test_averaging_4_by_4_pixels_raises_it_by_what_the_resolution_shift_takes():
    x_0, log_snr = render(SCENES, 256), torch.tensor(-1.0)
    x_t = q_sample(x_0, randn(range(6), (3, 256, 256), "eps"), log_snr)
    risen = measure_log_snr(F.avg_pool2d(x_t, 4), F.avg_pool2d(x_0, 4)) - measure_log_snr(x_t, x_0)
    assert risen == pytest.approx(-resolution_shift(256), abs=0.05)
