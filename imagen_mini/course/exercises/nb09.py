"""Notebook 09: one DDIM step from a prediction of the noise, with static thresholding in it."""

from __future__ import annotations

import torch

from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.diffusion.gaussian import x_0_from_eps
from imagen_mini.diffusion.guidance import static_threshold
from imagen_mini.diffusion.samplers import ddim_step
from imagen_mini.diffusion.schedules import alpha_sigma
from imagen_mini.utils.rng import randn

LOG_SNRS = ((-3.0, -1.5), (-0.5, 1.0), (1.0, 6.0))  # of t and of s
KEPT, CHANGED = 0.05, 1.5  # by how much eps_hat is off: x_0_hat stays in range, or leaves it


@checks
def check(my_step) -> str:
    """`my_step(x_t, eps_hat, alpha_t, sigma_t, alpha_s, sigma_s)`: x_0_hat from eps_hat, clipped to
    [-1, 1]; eps anew; the DDIM step; in float64.
    """
    for off in (KEPT, CHANGED):
        for pair in LOG_SNRS:
            log_snr_t, log_snr_s = (torch.tensor(v, dtype=torch.float64) for v in pair)
            coefficients = [
                v.item() for log_snr in (log_snr_t, log_snr_s) for v in alpha_sigma(log_snr)
            ]
            x_0, eps, error = (
                randn([0, 1], (3, 4, 4), "nb09", name, dtype=torch.float64)
                for name in ("x_0", "eps", "error")
            )
            x_t = coefficients[0] * 0.9 * x_0.tanh() + coefficients[1] * eps
            eps_hat = eps + off * coefficients[0] / coefficients[1] * error.tanh()
            expected = ddim_step(
                x_t, static_threshold(x_0_from_eps(eps_hat, x_t, log_snr_t)), log_snr_t, log_snr_s
            )
            seen = my_step(x_t.clone(), eps_hat.clone(), *coefficients)
            if isinstance(seen, torch.Tensor) and seen.shape == expected.shape:
                for wrong, message in mistakes(x_t, eps_hat, *coefficients):
                    if torch.allclose(
                        seen.double(), wrong, rtol=0, atol=1e-7
                    ) and not torch.allclose(wrong, expected, rtol=0, atol=1e-7):
                        raise WrongAnswerError(message)
            expect_close(
                seen,
                expected,
                "x_s",
                "x_0_hat = (x_t - sigma_t eps_hat) / alpha_t, clipped; eps anew from it; x_s = "
                "alpha_s x_0_hat + sigma_s eps",
            )
    return "In range, clipping changes nothing; out of it, x_0_hat and eps still add up to x_t."


def mistakes(x_t, eps_hat, alpha_t, sigma_t, alpha_s, sigma_s):
    """Yield what common mistakes return, and the message for each."""
    free = (x_t - sigma_t * eps_hat) / alpha_t
    x_0_hat = free.clamp(-1, 1)
    eps = (x_t - alpha_t * x_0_hat) / sigma_t
    yield (
        alpha_s * x_0_hat + sigma_s * eps_hat,
        (
            "you clip x_0_hat and keep the network's eps_hat: alpha_t x_0_hat + sigma_t eps_hat is "
            "no longer x_t. "
            "Compute eps anew: (x_t - alpha_t "
            "x_0_hat) / sigma_t"
        ),
    )
    yield alpha_s * free + sigma_s * eps_hat, "x_0_hat leaves [-1, 1] here and you do not clip it"
    yield (
        sigma_s * x_0_hat + alpha_s * eps,
        ("alpha_s and sigma_s have changed places: alpha belongs to the image, sigma to the noise"),
    )
    yield (
        alpha_t * x_0_hat + sigma_t * eps,
        "this is x_t again: mix with the coefficients of s, not of t",
    )
    yield (
        alpha_s * x_0_hat + sigma_t * eps,
        "the noise keeps the size it had at t: it should be sigma_s of it",
    )
