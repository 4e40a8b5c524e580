"""Notebook 03: the training loss of one step, by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.diffusion.losses import capped_v_weight, denoising_loss
from imagen_mini.diffusion.schedules import cosine_log_snr
from imagen_mini.utils.rng import randn

TIMES = (0.1, 0.4, 0.9)
TEXT = "the caption"  # stands for an encoded one: it only has to pass through


def schedule(t: Tensor) -> Tensor:
    """The schedule of this check."""
    return cosine_log_snr(t, shift=-2.0)


@checks
def check(training_loss) -> str:
    """`training_loss(net, x_0, text, t, eps, schedule, weight)`: w(log_snr) || x_0_hat - x_0 ||^2
    per image, mean over channels and pixels; in float64.
    """
    t = torch.tensor(TIMES, dtype=torch.float64)
    x_0, eps = (
        randn(range(len(t)), (3, 4, 5), "nb03", name, dtype=torch.float64)
        for name in ("x_0", "eps")
    )
    asked = []

    def net(x_t: Tensor, log_snr: Tensor, text) -> Tensor:
        asked.append((x_t, log_snr, text))
        return 0.5 * x_t + 0.1

    seen = training_loss(net, x_0.clone(), TEXT, t.clone(), eps.clone(), schedule, capped_v_weight)
    if len(asked) != 1:
        raise WrongAnswerError(
            f"net was called {len(asked)} times, expected once: one step of training asks the "
            "network one question"
        )
    x_t, told, text = asked[0]
    log_snr = schedule(t)
    expect_close(
        x_t,
        q_sample(x_0, eps, log_snr),
        "the image shown to net",
        "It is x_t = alpha x_0 + sigma eps, with alpha = sqrt(sigmoid(log_snr)) "
        "and sigma = sqrt(sigmoid(-log_snr)), one of each for an image",
    )
    expect_close(
        told,
        log_snr,
        "the noise level that net is told",
        "The network is told the log-SNR, schedule(t), not the time",
    )
    if text is not TEXT:
        raise WrongAnswerError(
            f"net was given {text!r} as its text; expected the text itself, unchanged"
        )
    expected = denoising_loss(0.5 * x_t + 0.1, "x_0", x_0, x_t, log_snr)
    plain, against_eps = (
        denoising_loss(0.5 * x_t + 0.1, "x_0", target, x_t, log_snr, torch.ones_like)
        for target in (x_0, eps)
    )
    for name, other, hint in (
        ("a loss without its weight", plain, "Multiply by weight(log_snr)"),
        (
            "the error against eps",
            against_eps * capped_v_weight(log_snr),
            "This network predicts x_0",
        ),
        (
            "a sum over channels and pixels",
            expected * x_0[0].numel(),
            "Take the mean, so that the size of images does not matter",
        ),
    ):
        if (
            isinstance(seen, Tensor)
            and seen.shape == expected.shape
            and torch.allclose(seen.double(), other)
        ):
            raise WrongAnswerError(
                f"you return {name}: {seen[0]:.4g} for the first image, expected "
                f"{expected[0]:.4g}. {hint}"
            )
    expect_close(
        seen,
        expected,
        "the loss",
        "One number for each image: the mean of (x_0_hat - x_0)^2 over its channels and "
        "pixels, times weight(log_snr)",
    )
    return "That is all there is to training a diffusion model; the rest is patience."
