"""Tests that say when an answer cannot be right. Passing them is necessary, and not enough: the
grader compares values.

    python -m pytest tests/test_hw1.py
"""

from __future__ import annotations

import math

import torch

from imagen_mini.diffusion import gaussian, losses, samplers, schedules

LEVELS = torch.linspace(-9, 9, 7, dtype=torch.float64)


def _images(b: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(b)
    x, e = (torch.randn(b, 3, 5, 4, generator=source, dtype=torch.float64) for _ in range(2))
    return x.tanh(), e


def test_alpha_and_sigma_keep_the_variance():
    alpha, sigma = schedules.alpha_sigma(LEVELS)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(LEVELS))
    assert (alpha.diff() > 0).all() and (sigma.diff() < 0).all()


def test_the_cosine_schedule_falls_and_its_inverse_leads_back():
    u = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    log_snr = schedules._cosine(u)
    assert (log_snr.diff() < 0).all() and abs(schedules._cosine(torch.tensor(0.5))) < 1e-5
    assert torch.allclose(schedules._cosine_t(log_snr), u)


def test_without_noise_x_t_is_the_image_and_pure_noise_is_noise():
    x_0, eps = _images()
    ends = torch.tensor([math.inf, -math.inf, math.inf], dtype=torch.float64)
    x_t = gaussian.q_sample(x_0, eps, ends)
    assert torch.equal(x_t[0], x_0[0]) and torch.equal(x_t[1], eps[1])


def test_conversions_lead_back_to_where_they_came_from():
    x_0, eps = _images()
    for level in LEVELS[1:-1]:
        x_t = gaussian.q_sample(x_0, eps, level)
        assert torch.allclose(gaussian.eps_from_x_0(x_0, x_t, level), eps)
        assert torch.allclose(gaussian.x_0_from_eps(eps, x_t, level), x_0)
        v = gaussian.v_from_x_0(x_0, x_t, level)
        assert torch.allclose(gaussian.x_0_from_v(v, x_t, level), x_0)


def test_a_perfect_prediction_has_no_loss_and_a_worse_one_has_more():
    x_0, eps = _images()
    log_snr = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
    x_t = gaussian.q_sample(x_0, eps, log_snr)
    for kind in gaussian.PREDICTION_TYPES:
        target = gaussian.from_x_0(x_0, kind, x_t, log_snr)
        found = [
            losses.denoising_loss(target + off, kind, x_0, x_t, log_snr) for off in (0, 0.1, 0.2)
        ]
        assert found[0].shape == (3,) and (found[0].abs() < 1e-9).all()
        assert torch.allclose(found[2], 4 * found[1], rtol=1e-4)


def test_the_loss_is_a_mean_over_pixels_and_reaches_the_prediction():
    x_0, eps = _images()
    log_snr = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
    large = lambda x: x.repeat(1, 1, 2, 3)
    for kind in gaussian.PREDICTION_TYPES:
        x_t = gaussian.q_sample(x_0, eps, log_snr)
        prediction = (eps + x_0.flip(1)).requires_grad_()
        found = losses.denoising_loss(prediction, kind, x_0, x_t, log_snr)
        more = losses.denoising_loss(large(prediction), kind, large(x_0), large(x_t), log_snr)
        assert torch.allclose(found, more)
        assert torch.autograd.grad(found.sum(), prediction)[0].abs().min() > 0


def test_the_loss_of_one_estimate_is_the_same_in_every_parameterisation():
    x_0, eps = _images()
    log_snr = torch.tensor([-2.0, 0.3, 2.0], dtype=torch.float64)
    x_t = gaussian.q_sample(x_0, eps, log_snr)
    estimate = x_0.flip(0)
    found = [
        losses.denoising_loss(
            gaussian.from_x_0(estimate, kind, x_t, log_snr), kind, x_0, x_t, log_snr
        )
        for kind in gaussian.PREDICTION_TYPES
    ]
    assert all(torch.allclose(f, found[0]) for f in found)


def test_pure_noise_has_no_image_and_still_an_ancestral_step():
    x_0, eps = _images()
    levels = torch.tensor([1.0, -math.inf, 0.0], dtype=torch.float64)
    try:
        gaussian.x_0_from_eps(eps, eps, levels)
    except ValueError:
        pass
    else:
        raise AssertionError("x_0_from_eps accepts pure noise")
    s = torch.tensor(-1.0, dtype=torch.float64)
    assert samplers.ddpm_step(eps, x_0, levels[1], s, noise=eps.flip(0)).isfinite().all()


def test_a_noise_level_for_each_image_is_that_image_alone():
    x_0, eps = _images()
    r, t, s = torch.linspace(-3, 2, 9, dtype=torch.float64).reshape(3, 3)
    x_t = gaussian.q_sample(x_0, eps, t)
    steps = {
        "ddim": lambda i: samplers.ddim_step(x_t[i], x_0[i], t[i], s[i], eps.flip(0)[i], eta=0.4),
        "ddpm": lambda i: samplers.ddpm_step(x_t[i], x_0[i], t[i], s[i], eps.flip(0)[i]),
        "dpmpp_2m": lambda i: samplers.dpmpp_2m_step(
            x_t[i], x_0[i], t[i], s[i], previous=(-x_0[i], r[i])
        ),
    }
    for name, step in steps.items():
        each = torch.cat([step(slice(i, i + 1)) for i in range(3)])
        assert torch.allclose(step(slice(None)), each), name


def test_a_step_back_to_pure_noise_is_finite():
    x_0, eps = _images()
    t, end = torch.tensor([1.0, -math.inf], dtype=torch.float64)
    x_t = gaussian.q_sample(x_0, eps, t)
    assert torch.allclose(samplers.ddim_step(x_t, x_0, t, end), eps)


def test_the_weight_is_capped():
    weight = losses.min_snr_weight(LEVELS, gamma=3.0)
    assert weight.max() == 3 and (weight.diff() >= 0).all()


def test_a_step_to_where_it_is_changes_nothing():
    x_0, eps = _images()
    level = torch.tensor(0.5, dtype=torch.float64)
    x_t = gaussian.q_sample(x_0, eps, level)
    assert torch.allclose(samplers.ddim_step(x_t, x_0, level, level), x_t)
    assert torch.allclose(samplers.ddpm_step(x_t, x_0, level, level, noise=eps), x_t)


def test_a_step_of_ddim_with_all_noise_fresh_is_one_of_ddpm():
    x_0, eps = _images()
    t, s = torch.tensor([-1.0, 0.7], dtype=torch.float64)
    x_t = gaussian.q_sample(x_0, eps, t)
    fresh = eps.flip(0)
    ddim = samplers.ddim_step(x_t, x_0, t, s, noise=fresh, eta=1.0)
    assert torch.allclose(ddim, samplers.ddpm_step(x_t, x_0, t, s, noise=fresh))


def test_equal_estimates_leave_nothing_to_extrapolate():
    x_0, eps = _images()
    r, t, s = torch.tensor([-2.0, -1.0, 0.7], dtype=torch.float64)
    x_t = gaussian.q_sample(x_0, eps, t)
    step = samplers.dpmpp_2m_step(x_t, x_0, t, s, previous=(x_0, r))
    assert torch.allclose(step, samplers.ddim_step(x_t, x_0, t, s))
    other = samplers.dpmpp_2m_step(x_t, x_0, t, s, previous=(-x_0, r))
    assert not torch.allclose(step, other)


def test_an_estimate_that_changes_evenly_in_log_snr_is_used_as_it_is_in_the_middle():
    """Whatever the lengths of the two steps are."""
    x_0, eps = _images()
    r, t, s = torch.tensor([-3.0, -1.4, 0.7], dtype=torch.float64)
    x_t = gaussian.q_sample(x_0, eps, t)
    estimate = lambda log_snr: x_0 + 0.3 * log_snr * eps
    step = samplers.dpmpp_2m_step(x_t, estimate(t), t, s, previous=(estimate(r), r))
    assert torch.allclose(step, samplers.ddim_step(x_t, estimate((t + s) / 2), t, s))
