"""Exact denoisers, mixed noises and the charts of samplers."""

import math

import pytest
import torch

from imagen_mini.diffusion.samplers import SAMPLERS, sample
from imagen_mini.diffusion.schedules import alpha_sigma, cosine_log_snr
from imagen_mini.diffusion.timesteps import uniform_timesteps
from imagen_mini.utils.rng import generator, randn
from imagen_mini.viz.samplers import (
    errors,
    fitted_order,
    gaussian_denoiser,
    gaussian_flow,
    mixture_denoiser,
    network_calls,
    plot_errors,
    plot_spacings,
    plot_trajectories,
    shares,
    slerp,
)


def test_the_gaussian_denoiser_is_the_best_linear_guess():
    g, t = generator(0), torch.tensor(0.4, dtype=torch.float64)
    x_0 = 0.3 + 0.5 * torch.randn(200_000, generator=g, dtype=torch.float64)
    alpha, sigma = alpha_sigma(cosine_log_snr(t))
    x_t = alpha * x_0 + sigma * torch.randn(200_000, generator=g, dtype=torch.float64)
    slope = torch.stack([x_t, x_0]).cov()[0, 1] / x_t.var()
    expected = x_0.mean() + slope * (x_t - x_t.mean())
    assert (gaussian_denoiser(0.3, 0.5, cosine_log_snr)(x_t, t) - expected).abs().mean() < 0.005


def test_the_flow_makes_data_of_noise():
    end = gaussian_flow(
        torch.randn(100_000, generator=generator(1), dtype=torch.float64), 0.3, 0.5, cosine_log_snr
    )
    assert abs(end.mean() - 0.3) < 0.01 and abs(end.std() - 0.5) < 0.01


def test_the_mixture_denoiser_is_the_mean_weighted_by_likelihood():
    images, x_t = (
        randn(range(3), (2, 4, 4), "pictures", dtype=torch.float64) * 0.3,
        randn([7, 8], (2, 4, 4), "x", dtype=torch.float64),
    )
    t = torch.tensor(0.8, dtype=torch.float64)
    alpha, sigma = alpha_sigma(cosine_log_snr(t))
    likelihood = (
        torch.distributions.Normal(alpha * images, sigma)
        .log_prob(x_t[:, None])
        .flatten(2)
        .sum(2)
        .softmax(1)
    )
    expected = torch.einsum("bn, nchw -> bchw", likelihood, images)
    assert torch.allclose(
        mixture_denoiser(images, cosine_log_snr)(x_t, t), expected, rtol=0, atol=1e-10
    )
    assert mixture_denoiser(images, cosine_log_snr)(x_t.float(), t).dtype == torch.float32


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_network_calls_are_as_many_as_are_made(sampler):
    asked = []
    list(
        sample(
            lambda x, t: asked.append(t) or x,
            torch.zeros(1, 3, 2, 2),
            uniform_timesteps(5),
            cosine_log_snr,
            sampler,
            lambda step: torch.zeros(1, 3, 2, 2),
        )
    )
    assert len(asked) == network_calls(sampler, 5)


@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_errors_fall_at_the_order_of_the_method(sampler, order):
    calls, error = zip(*errors(sampler, [32, 64, 128], cosine_log_snr))
    assert calls == tuple(network_calls(sampler, n) for n in (32, 64, 128))
    assert fitted_order(calls, error) == pytest.approx(order, abs=0.3), error


def test_the_fitted_order_of_a_power_is_its_exponent():
    assert fitted_order([2, 4, 8], [5 * n**-1.5 for n in (2, 4, 8)]) == pytest.approx(1.5)


def test_spherical_interpolation_keeps_the_length_and_meets_both_ends():
    a, b = randn([0, 1], (3, 64, 64), "noise", dtype=torch.float64)
    assert torch.allclose(slerp(a, b, 0.0), a) and torch.allclose(slerp(a, b, 1.0), b)
    assert slerp(a, b, 0.5).std() == pytest.approx(1, abs=0.02) and torch.lerp(
        a, b, 0.5
    ).std() == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert torch.allclose(slerp(a, a, 0.3), a)


def test_shares_count_the_nearest():
    of = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert shares(torch.tensor([[0.1, 0.0], [0.9, 1.0], [1.2, 1.0], [0.0, -3.0]]), of).tolist() == [
        0.5,
        0.5,
        0,
    ]


def test_charts_show_every_line():
    trajectories = {"ddim": ([1.0, 0.5, 0.0], torch.zeros(3, 4))}
    assert len(plot_trajectories(trajectories, [0.5]).axes[0].get_lines()) == 5
    (panel,) = plot_errors(
        {"ddim": [(16, 0.1), (64, 0.02)], "heun": [(31, 0.01), (127, 0.001)]}
    ).axes
    assert [line.get_label() for line in panel.get_lines()] == [
        "ddim",
        "heun",
        "slope -1",
        "slope -2",
    ] and panel.get_yscale() == "log"
    in_time, in_log_snr = plot_spacings(10, cosine_log_snr).axes
    assert [len(line.get_xdata()) for line in in_time.get_lines()] == [
        11
    ] * 4 and in_log_snr.get_lines()[0].get_xdata()[0] == pytest.approx(-12)
