"""Notebook 02: one step of DDIM, by hand."""

from __future__ import annotations

import torch

from imagen_mini.course.exercises import checks, expect_close
from imagen_mini.diffusion.schedules import alpha_sigma
from imagen_mini.utils.rng import randn

STEPS = ((-6.0, -4.5), (-1.0, 2.0), (3.0, 12.0))  # log-SNR at t and at s


@checks
def check(ddim) -> str:
    """`ddim(x_t, x_0_hat, log_snr_t, log_snr_s)`: the deterministic DDIM step, in float64."""
    x_0_hat, eps = (
        randn([0, 1], (3, 4, 4), "nb02", purpose, dtype=torch.float64) for purpose in ("x_0", "eps")
    )
    for pair in STEPS:
        log_snr_t, log_snr_s = (torch.tensor(value, dtype=torch.float64) for value in pair)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
        x_t, x_s = alpha_t * x_0_hat + sigma_t * eps, alpha_s * x_0_hat + sigma_s * eps
        seen = ddim(x_t.clone(), x_0_hat.clone(), log_snr_t, log_snr_s)
        mistakes = {
            "This is x_t again: mix the two parts with alpha and sigma of s": x_t,
            "The noise is missing: x_s is still noisy, with sigma_s of the noise that was "
            "in x_t": alpha_s * x_0_hat,
            "This is x_0_hat itself: a step goes to s only, where noise is left": x_0_hat,
            "x_t is not the noise. Solve x_t = alpha_t x_0_hat + sigma_t eps for eps": alpha_s
            * x_0_hat
            + sigma_s * x_t,
            "x_t holds alpha_t x_0_hat, not x_0_hat: take that away to find the noise": alpha_s
            * x_0_hat
            + sigma_s * (x_t - x_0_hat) / sigma_t,
            "What is left of x_t without the image is sigma_t eps: divide by sigma_t": alpha_s
            * x_0_hat
            + sigma_s * (x_t - alpha_t * x_0_hat),
            "alpha and sigma are deviations: alpha_sigma returns them, and they are not "
            "squared": alpha_s**2 * x_0_hat + sigma_s**2 * eps,
        }
        hint = next(
            (
                words
                for words, wrong in mistakes.items()
                if isinstance(seen, torch.Tensor)
                and seen.shape == wrong.shape
                and torch.allclose(seen.double(), wrong, rtol=0, atol=1e-8)
            ),
            "First the noise that x_0_hat leaves in x_t, then both parts as at s",
        )
        expect_close(
            seen, x_s, f"the step from log-SNR {pair[0]:g} to {pair[1]:g}", hint, tolerance=1e-9
        )
    return "The same image and the same noise, mixed as at s: nothing random is left in the step."
