"""Denoisers that are known exactly: the best blur, posterior means, normal data."""

import random

import pytest
import torch
from support.scenes import one

from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.diffusion.schedules import alpha_sigma, cosine_log_snr
from imagen_mini.evaluation.analytic_denoisers import (
    best_gaussian_blur,
    gaussian_denoiser,
    gaussian_flow,
    mixture_denoiser,
    posterior_mean,
    posterior_weights,
    scenes_at_all_positions,
)
from imagen_mini.evaluation.metrics import pooled_psnr
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import HELD_OUT_SEED, sample_free_position, training_scene
from imagen_mini.utils.rng import generator, randn

IMAGES = render([training_scene(HELD_OUT_SEED, i) for i in range(12)])
NOISE = randn(range(12), (3, 64, 64), "eps")


def test_mean_psnr_is_of_the_mean_squared_error_over_all_images():
    apart = torch.tensor([0.0, 0.4]).view(2, 1, 1, 1)
    assert pooled_psnr(IMAGES[:2] + apart, IMAGES[:2]) == pytest.approx(
        20 - 10 * torch.log10(torch.tensor(2.0)).item(), abs=1e-3
    )


def test_more_noise_asks_for_a_wider_blur_and_none_for_none():
    widths = [
        best_gaussian_blur(IMAGES, q_sample(IMAGES, NOISE, torch.tensor(level)))[1]
        for level in (9.0, 0.0, -5.0)
    ]
    assert widths[0] == 0 and widths == sorted(widths) and widths[2] > 4
    estimate, _ = best_gaussian_blur(
        IMAGES, q_sample(IMAGES, NOISE, torch.tensor(-3.0)), widths=(2,)
    )
    assert all(
        (factor * estimate - IMAGES).square().mean() > (estimate - IMAGES).square().mean()
        for factor in (0.95, 1.05)
    )


def test_the_posterior_is_bayes_rule():
    log_snr = torch.tensor(-8.0, dtype=torch.float64)
    known, x_t = IMAGES.double(), q_sample(IMAGES[:3], NOISE[:3], torch.tensor(-8.0)).double()
    alpha, sigma = alpha_sigma(log_snr)
    likely = (
        torch.distributions.Normal(alpha * known[None], sigma)
        .log_prob(x_t[:, None])
        .flatten(2)
        .sum(2)
        .softmax(1)
    )
    assert (
        torch.allclose(posterior_weights(x_t, log_snr, known), likely, rtol=1e-6)
        and likely.max() < 0.9
    )
    assert torch.allclose(
        posterior_mean(x_t, log_snr, known), torch.einsum("bn,nchw->bchw", likely, known), atol=1e-6
    )


@pytest.mark.parametrize("level, close", [(0.0, True), (-14.0, False)])
def test_little_noise_leaves_one_image_and_pure_noise_all(level, close):
    log_snr = torch.tensor(level)
    mean = posterior_mean(q_sample(IMAGES, NOISE, log_snr), log_snr, IMAGES)
    assert torch.allclose(
        mean, IMAGES if close else IMAGES.mean(0, keepdim=True), atol=1e-4 if close else 0.2
    )


@pytest.mark.slow
def test_no_other_answer_has_a_smaller_error_on_average():
    log_snr = torch.tensor(-7.0)
    x_0 = IMAGES.repeat(20, 1, 1, 1)
    x_t = q_sample(x_0, randn(range(240), (3, 64, 64), "many"), log_snr)
    best = posterior_mean(x_t, log_snr, IMAGES)
    likeliest = IMAGES[posterior_weights(x_t, log_snr, IMAGES).argmax(1)]
    error = (best - x_0).square().mean()
    for other in (
        likeliest,
        best_gaussian_blur(x_0, x_t)[0],
        IMAGES.mean(0),
        0.9 * best,
        posterior_mean(x_t, log_snr + 1, IMAGES),
    ):
        assert (other - x_0).square().mean() > error


def test_all_positions_are_where_the_world_places_one_object():
    for obj in (one(), one(shape="star", size="small")):
        rng = random.Random(0)
        generated = {sample_free_position(rng, obj.radius, []) for _ in range(20_000)}
        assert {
            (o.x, o.y) for scene in scenes_at_all_positions(obj, "white") for o in scene.objects
        } == generated


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
