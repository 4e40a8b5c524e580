"""Notebook 16: DDIM inversion as a loop, and what went wrong in four reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.diffusion.samplers import ddim_invert, sample
from imagen_mini.diffusion.schedules import alpha_sigma, cosine_log_snr
from imagen_mini.diffusion.timesteps import uniform_timesteps
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.utils.rng import randn

STEPS = 5


@checks
def check(invert) -> str:
    """`invert(denoise, x_0, times, schedule)`: the noise x_T that belongs to an image, by DDIM
    steps from time 0 up to time 1; `times` fall.
    """
    times = uniform_timesteps(STEPS).double()
    x_0 = randn([0, 1], (3, 4, 4), "nb16", dtype=torch.float64).tanh()
    asked: list[float] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        asked.append(float(t))
        return (x * (0.9 - 0.5 * float(t)) + 0.1).tanh()

    seen = invert(denoise, x_0.clone(), times.clone(), cosine_log_snr)
    rising, first = times.flip(0).tolist(), list(asked)
    if isinstance(seen, Tensor) and not torch.equal(
        seen, invert(denoise, x_0.clone(), times.clone(), cosine_log_snr)
    ):
        raise WrongAnswerError(
            "two calls return two results: there is fresh noise in it. The noise of an inversion "
            "is not sampled, it is computed from x and x_0_hat"
        )
    if first and first == times[:-1].tolist():
        raise WrongAnswerError(
            "the denoiser was asked at falling times, from 1 on: that is sampling. Inversion "
            "begins with the image, at time 0, and goes up"
        )
    if first and _same(first, rising[1:]):
        raise WrongAnswerError(
            f"in the first step the denoiser was asked at t = {first[0]:.2g}, expected "
            f"{rising[0]:.2g}: ask it at the time that x is at, not at the one it goes to"
        )
    if first and not _same(first, rising[:-1]):
        raise WrongAnswerError(
            f"the denoiser was asked at {[round(t, 3) for t in first]}, expected "
            f"{[round(t, 3) for t in rising[:-1]]}: once a step, from 0 up to the last time but 1"
        )
    (*_, last) = ddim_invert(denoise, x_0, times, cosine_log_snr)
    if isinstance(seen, Tensor) and seen.shape == x_0.shape:
        for wrong, message in _mistakes(denoise, x_0, rising):
            if torch.allclose(seen.double(), wrong, atol=1e-5):
                raise WrongAnswerError(message)
    expect_close(
        seen,
        last.x,
        "x_T",
        "In a step from s up to t: eps_hat = (x_s - alpha_s x_0_hat) / sigma_s, then "
        "x_t = alpha_t x_0_hat + sigma_t eps_hat",
        1e-4,
    )
    return (
        "One and the same step, with its two times exchanged, leads from noise to image and back."
    )


def _same(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) < 1e-6 for x, y in zip(a, b))


def _mistakes(
    denoise: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, rising: list[float]
) -> Iterator[tuple[Tensor, str]]:
    """Results of mistakes that keep the order of times, each with a message."""

    def run(step: Callable) -> Tensor:
        x = x_0
        for s, t in zip(rising, rising[1:]):
            levels = (torch.tensor(v, dtype=torch.float64) for v in (s, t))
            (alpha_s, sigma_s), (alpha_t, sigma_t) = (
                alpha_sigma(cosine_log_snr(v)) for v in levels
            )
            x_0_hat = denoise(x, torch.tensor(s))
            eps = (x - alpha_s * x_0_hat) / sigma_s
            x = step(x, x_0_hat, eps, alpha_s, sigma_s, alpha_t, sigma_t)
        return x

    yield (
        run(lambda x, x_0_hat, eps, a_s, s_s, a_t, s_t: a_t * x_0 + s_t * eps),
        "the estimate x_0_hat of each step is what goes on, not the given image: with the image "
        "itself the way back, which does not know it, ends elsewhere",
    )
    yield (
        run(lambda x, x_0_hat, eps, a_s, s_s, a_t, s_t: a_t * x_0_hat + s_t * (x - x_0_hat) / s_s),
        "eps_hat is (x_s - alpha_s x_0_hat) / sigma_s: the alpha is missing",
    )
    yield (
        run(lambda x, x_0_hat, eps, a_s, s_s, a_t, s_t: x + (s_t - s_s) * eps),
        "noise was added, and the image did not fade: x_t = alpha_t x_0_hat + sigma_t eps_hat has "
        "less of x_0_hat than x_s has",
    )


# ---------------------------------------------------------------- what went wrong?

CAUSES = ("guidance", "another caption", "fresh noise", "few steps")
_BROKEN = dict(zip("ABCD", ("fresh noise", "few steps", "guidance", "another caption")))


@torch.no_grad()
def broken_reconstructions(
    stage: DiffusionStage,
    encoder: TextEncoder,
    image: Tensor,
    caption: str,
    other: str,
    steps: int,
) -> dict[str, Tensor]:
    """Four reconstructions of an image, each with one mistake: "A" to "D", [1, 3, h, w] each.

    Args:
        stage: A base stage.
        encoder: Its text encoder.
        image: [1, 3, h, w].
        caption: Its caption.
        other: Another caption.
        steps: Steps of those that have enough of them.
    """
    text = encoder([caption])

    def back(cause: str) -> Tensor:
        times = stage.timesteps(3 if cause == "few steps" else steps)
        plain = stage.denoiser(text, guidance_scale=1.0, threshold="none")
        (*_, noisy) = ddim_invert(plain, image, times, stage.schedule)
        read = encoder([other]) if cause == "another caption" else text
        w = 6.0 if cause == "guidance" else 1.0
        (*_, last) = sample(
            stage.denoiser(read, guidance_scale=w, threshold="none"),
            noisy.x,
            times,
            stage.schedule,
            noise=lambda step: randn([0], image.shape[1:], "nb16", step),
            eta=1.0 if cause == "fresh noise" else 0.0,
        )
        return last.x_0_hat.clamp(-1, 1)

    return {name: back(cause) for name, cause in _BROKEN.items()}


@checks
def check_diagnosis(which) -> str:
    """`which()`: for "A" to "D" one of CAUSES."""
    seen = which()
    if not isinstance(seen, dict) or set(seen) != set(_BROKEN):
        raise WrongAnswerError(
            f"got {seen!r}; expected a dictionary with the keys {', '.join(map(repr, _BROKEN))}"
        )
    if unknown := sorted({str(v) for v in seen.values()} - set(CAUSES)):
        raise WrongAnswerError(f"{unknown} is none of the causes, which are {list(CAUSES)}")
    if len(set(seen.values())) < len(CAUSES):
        raise WrongAnswerError("each cause belongs to one image; yours names one of them twice")
    right = [name for name, cause in _BROKEN.items() if seen[name] == cause]
    if len(right) < len(_BROKEN):
        raise WrongAnswerError(
            f"{len(right)} of 4 are correct. Make each mistake yourself, with the lines of section "
            "1, and compare"
        )
    return "What a reconstruction looks like tells which assumption of the inversion was broken."
