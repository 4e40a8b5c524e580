"""The noise schedule, in float64."""

import math

import pytest
import torch

from imagen_mini.schedule import LOG_SNR_MAX, LOG_SNR_MIN, alpha_sigma, cosine_log_snr, cosine_t, uniform_times

T = torch.linspace(0, 1, 1001, dtype=torch.float64)


@pytest.mark.parametrize("shift", [0.0, -1.0, 2.5])
def test_alpha_squared_and_sigma_squared_add_up_to_one(shift):
    alpha, sigma = alpha_sigma(cosine_log_snr(T, shift))
    assert torch.allclose(alpha ** 2 + sigma ** 2, torch.ones_like(T), rtol=0, atol=1e-14)


def test_alpha_and_sigma_have_the_log_snr_they_were_made_from():
    log_snr = torch.linspace(-12, 12, 97, dtype=torch.float64)
    alpha, sigma = alpha_sigma(log_snr)
    assert torch.allclose(torch.log(alpha ** 2 / sigma ** 2), log_snr, rtol=0, atol=1e-9)


def test_log_snr_falls_strictly_in_t():
    assert (cosine_log_snr(T).diff() < 0).all()


def test_the_ends_are_clipped_and_finite_in_float32_too():
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-2)):
        ends = cosine_log_snr(torch.tensor([0.0, 1.0], dtype=dtype))
        assert ends.tolist() == pytest.approx([LOG_SNR_MAX, LOG_SNR_MIN], abs=tolerance)


def test_between_the_ends_it_is_the_cosine_up_to_the_clipping():
    # alpha = cos(pi t / 2) in the papers; clipping squeezes t by less than 0.4 % at either end
    alpha, _ = alpha_sigma(cosine_log_snr(T))
    assert (alpha - torch.cos(math.pi * T / 2)).abs().max() < 0.004


def test_it_is_symmetric_alpha_at_t_is_sigma_at_one_minus_t():
    alpha, sigma = alpha_sigma(cosine_log_snr(T))
    assert torch.allclose(alpha, sigma.flip(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [0.0, -2.0, 1.5])
def test_cosine_t_inverts_cosine_log_snr(shift):
    assert torch.allclose(cosine_t(cosine_log_snr(T, shift), shift), T, rtol=0, atol=1e-10)


def test_the_shift_is_added_to_the_log_snr():
    assert torch.allclose(cosine_log_snr(T, -1.25), cosine_log_snr(T) - 1.25, rtol=0, atol=1e-12)


def test_a_negative_shift_is_noisier_at_every_t():
    assert (alpha_sigma(cosine_log_snr(T, -1.0))[1] > alpha_sigma(cosine_log_snr(T))[1]).all()


def test_uniform_times_walk_from_one_to_zero_in_equal_steps():
    times = uniform_times(8)
    assert times.tolist() == [1 - i / 8 for i in range(9)]
    assert uniform_times(1).tolist() == [1, 0]


@pytest.mark.parametrize("steps", [0, -3])
def test_fewer_than_one_step_is_refused(steps):
    with pytest.raises(ValueError, match=f"at least 1; got {steps}"):
        uniform_times(steps)
