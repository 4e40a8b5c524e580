"""Notebook 14: the shift of an estimate by a classifier, and the energy of an attention map."""

from __future__ import annotations

import torch
from torch import Tensor

from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.diffusion.schedules import alpha_sigma
from imagen_mini.utils.rng import randn

LOG_SNR = (-4.0, -1.0, 0.5)


@checks
def check(shift) -> str:
    """`shift(x_0_hat, gradient, log_snr, s)`: x_0_hat + s sigma^2 / alpha gradient, with log_snr
    [b] for images [b, 3, h, w]; in float64.
    """
    log_snr = torch.tensor(LOG_SNR, dtype=torch.float64)
    # as many columns of pixels as images, so that a shift by column has a shape that fits
    x_0_hat, gradient = (
        randn(range(3), (3, 4, 3), "nb14", name, dtype=torch.float64)
        for name in ("x_0_hat", "gradient")
    )
    alpha, sigma = alpha_sigma(log_snr)
    expected = x_0_hat + 2.5 * (sigma.square() / alpha)[:, None, None, None] * gradient
    seen = shift(x_0_hat.clone(), gradient.clone(), log_snr.clone(), 2.5)
    if isinstance(seen, Tensor) and seen.shape == expected.shape:
        for wrong, message in _mistaken_shifts(x_0_hat, gradient, alpha, sigma, 2.5):
            if torch.allclose(seen.double(), wrong, rtol=0, atol=1e-6):
                raise WrongAnswerError(message)
    expect_close(
        seen,
        expected,
        f"the shifted estimate for log_snr = {log_snr.tolist()} and s = 2.5",
        "x_0_hat + s sigma^2 / alpha gradient, image by image: the equation at the top",
        tolerance=1e-5,
    )
    off = shift(x_0_hat[:2, :, :, :2], gradient[:2, :, :, :2], log_snr[:2], 0.0)
    expect_close(off, x_0_hat[:2, :, :, :2], "the estimate of 2 images with s = 0", tolerance=1e-5)
    return (
        "in eps the same shift is -s sigma gradient, as Dhariwal and Nichol (2021) write it; the "
        "factor sigma / alpha in front of eps makes it sigma^2 / alpha here."
    )


def _mistaken_shifts(x_0_hat: Tensor, gradient: Tensor, alpha: Tensor, sigma: Tensor, s: float):
    """Yield what common mistakes return, and the message for each."""
    wide = lambda v: v[:, None, None, None]
    yield (
        x_0_hat - s * wide(sigma.square() / alpha) * gradient,
        "the sign is wrong: the gradient points to where y is more probable, and you go away from "
        "it. It is an energy, minus the log-probability, that is descended",
    )
    yield (
        x_0_hat + s * wide(sigma) * gradient,
        "the factor is sigma, which belongs to eps: eps - s sigma gradient. For x_0_hat it is "
        "sigma^2 / alpha, since x_0_hat = (x_t - sigma eps) / alpha",
    )
    yield (
        x_0_hat + s * wide(sigma / alpha) * gradient,
        "the factor is sigma / alpha, and one sigma is missing: the score is -eps / sigma, so a "
        "gradient added to the score changes eps by -sigma, and x_0_hat by sigma^2 / alpha",
    )
    yield (
        x_0_hat + s * wide(sigma.square()) * gradient,
        "alpha is missing: x_0_hat = (x_t + sigma^2 score) / alpha",
    )
    yield (
        x_0_hat + s * (sigma.square() / alpha) * gradient,
        "log_snr [3] met the last dimension, the columns of pixels, which happen to be 3 as well. "
        "Each image should have its own noise level: give it three more dimensions of size 1",
    )
    yield (
        x_0_hat + wide(sigma.square() / alpha) * gradient,
        "the scale s is not used",
    )


@checks
def check_energy(energy) -> str:
    """`energy(maps, mask)`: (1 - inside / all)^2 for maps [b, h, w] and a mask [h, w]."""
    maps = randn(range(3), (4, 5), "nb14", "maps", dtype=torch.float64).square()
    mask = torch.zeros(4, 5, dtype=torch.float64)
    mask[1:3, :2] = 1

    def expected_of(maps: Tensor) -> Tensor:
        return (1 - (maps * mask).sum((1, 2)) / maps.sum((1, 2))).square()

    at = maps.clone().requires_grad_()
    seen, expected = energy(at, mask.clone()), expected_of(maps)
    if isinstance(seen, Tensor):
        share = (maps * mask).sum((1, 2)) / maps.sum((1, 2))
        means = (maps * mask).mean((1, 2)) / maps.mean()
        for wrong, message in [
            (
                1 - share,
                "the square is missing: without it, a word that is nearly in its box pulls as "
                "hard as one that is far from it",
            ),
            (share.square(), "this is (inside / all)^2, which grows as attention enters the box"),
            (
                (1 - means).square(),
                "all images were added up in the denominator: each image is divided by its own "
                "attention to the word. Sum over the dimensions (1, 2)",
            ),
            (
                (1 - (maps * mask).sum() / maps.sum()).square(),
                "all images share one number; expected one for each, [b]. Sum over the dimensions "
                "(1, 2), not over all",
            ),
            (
                (1 - (maps * mask).sum((1, 2)) / mask.sum()).square(),
                "inside is divided by the area of the box, expected: by all attention to the word",
            ),
            (expected.sum(), "a sum over the images; expected one number for each, [b]"),
            (expected.mean(), "a mean over the images; expected one number for each, [b]"),
        ]:
            if seen.shape == wrong.shape and torch.allclose(seen.double(), wrong, atol=1e-6):
                raise WrongAnswerError(message)
    expect_close(
        seen,
        expected,
        "the energy of three maps",
        "(1 - inside / all)^2, with sums over the dimensions (1, 2)",
        tolerance=1e-5,
    )
    # the gradient, without which nothing would move
    if not seen.requires_grad:
        raise WrongAnswerError(
            "the values are right, but no gradient passes: x_t could not follow it. Leave out "
            "detach(), item() and torch.no_grad()"
        )
    (gradient,) = torch.autograd.grad(seen.sum(), at)
    again = maps.clone().requires_grad_()
    (right,) = torch.autograd.grad(expected_of(again).sum(), again)
    expect_close(
        gradient,
        right,
        "the gradient of the energy",
        "A part of the formula was cut off from the graph, such as by detach()",
        tolerance=1e-5,
    )
    return (
        "the gradient is below 0 inside the box and above 0 outside: going against it takes "
        "attention into the box."
    )
