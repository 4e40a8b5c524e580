"""Toys on trained denoisers, none of which needs training: SDEdit, inpainting, visual anagrams,
hybrid images.

Two of them are walks that begin elsewhere or are held on to (`sdedit`, `repaint`), two are
denoisers made of denoisers (`anagram`, `factorized_diffusion`), to be handed to `sample`. None
knows anything of networks: a denoiser is (x_t, t) -> x_0_hat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from imagen_mini.diffusion.gaussian import alpha_sigma_like, q_sample
from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.diffusion.samplers import SamplingState, sample

# ---------------------------------------------------------------- from a drawing


def truncate_timesteps(t: float, times: Tensor) -> Tensor:
    """The rest of a walk through `times` (falling) for one who joins it at t: t itself, and all
    times below it.
    """
    return torch.cat([times.new_tensor([t]), times[times < t]])


def sdedit(
    denoise: Denoiser,
    drawing: Tensor,
    t: float,
    eps: Tensor,
    times: Tensor,
    schedule: Callable[[Tensor], Tensor],
    sampler: str = "ddim",
    noise: Callable[[int], Tensor] | None = None,
) -> Iterator[SamplingState]:
    """SDEdit: noise a drawing up to time t, and walk from there instead of from t = 1:

        x_t = alpha_t drawing + sigma_t eps,   then `sample` through the times that are left

    `drawing` and `eps` are [b, 3, h, w]. At t = 1 nothing of the drawing is left (as far as the
    schedule leaves nothing), at t = 0 there is no step to take: the one state holds the drawing as
    it is.

    Source: SDEdit (Meng et al., 2022), Algorithm 1. Differs from the paper: any of the samplers,
    not the reverse SDE alone.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"t {t}; expected a time from 0 (the drawing) to 1 (noise)")
    if t == 0:
        yield SamplingState(0, 0, 0.0, 0.0, drawing, drawing)
        return
    left = truncate_timesteps(t, times)
    x_t = q_sample(drawing, eps, schedule(left[0].double()).to(drawing.dtype))
    yield from sample(denoise, x_t, left, schedule, sampler, noise)


# ---------------------------------------------------------------- what is known stays


def inpaint_denoiser(denoise: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
    """A denoiser that need not guess what is known: x_0_hat is `known` where the mask [b or 1, 1,
    h, w] is 1, and the denoiser's where it is 0.
    """
    return lambda x_t, t: mask * known + (1 - mask) * denoise(x_t, t)


def repaint_callback(
    known: Tensor,
    mask: Tensor,
    noise: Callable[[int], Tensor],
    schedule: Callable[[Tensor], Tensor],
) -> Callable[[Tensor, int, float], Tensor]:
    """An `after_step` for `sample` that paints over what the step did where the image is known,
    with as much noise as there should be at time s:

        x_s = mask (alpha_s known + sigma_s noise) + (1 - mask) x_s

    Source: Song et al. (2021), "Score-Based Generative Modeling through Stochastic Differential
    Equations", on imputation; RePaint (Lugmayr et al., 2022).
    """

    def after_step(x: Tensor, step: int, s: float) -> Tensor:
        log_snr = schedule(torch.tensor(s, dtype=torch.float64)).to(x)
        return mask * q_sample(known, noise(step), log_snr) + (1 - mask) * x

    return after_step


def renoise(x_s: Tensor, log_snr_s: Tensor, log_snr_t: Tensor, noise: Tensor) -> Tensor:
    """The forward process from s up to t > s:  x_t = (alpha_t / alpha_s) x_s + sqrt(sigma_t^2 -
    (alpha_t / alpha_s)^2 sigma_s^2) noise.
    """
    alpha_t, sigma_t = alpha_sigma_like(log_snr_t, x_s)
    alpha_s, sigma_s = alpha_sigma_like(log_snr_s, x_s)
    ratio = alpha_t / alpha_s
    return ratio * x_s + (sigma_t**2 - (ratio * sigma_s) ** 2).clamp(min=0).sqrt() * noise


def repaint(
    denoise: Denoiser,
    known: Tensor,
    mask: Tensor,
    x_T: Tensor,
    times: Tensor,
    schedule: Callable[[Tensor], Tensor],
    noise: Callable[[str, int], Tensor],
    rounds: int = 1,
    sampler: str = "ddim",
) -> Iterator[SamplingState]:
    """Inpainting: paint where the mask is 0, so that it goes with what is known where it is 1.
    Every step is taken `rounds` times:

        a step of the sampler, t -> s;   what is known is put in (`repaint_callback`);   but for the last round, noise leads back, s -> t (`renoise`)

    Why again? In a step the new part saw a known part that it could not influence and that did not
    yet go with it; with every round the two agree better. A state is yielded after a step's last
    round. `noise(purpose, number)` gives fresh noise [b, 3, h, w]. The sampler is ddim or ddpm,
    which need no step before.

    Source: RePaint (Lugmayr et al., 2022), Algorithm 1, with jumps of one step.
    """
    if sampler not in ("ddim", "ddpm") or rounds < 1:
        raise ValueError(
            f"sampler {sampler!r}, rounds {rounds}; expected ddim or ddpm, and at least one round"
        )
    x, number, log_snr = x_T, 0, schedule(times.double()).to(x_T.dtype)
    partly_known = inpaint_denoiser(denoise, known, mask)
    for step in range(len(times) - 1):
        for again in reversed(range(rounds)):
            (state,) = sample(
                partly_known,
                x,
                times[step : step + 2],
                schedule,
                sampler,
                lambda _: noise("step", number),
                repaint_callback(known, mask, lambda _: noise("known", number), schedule),
            )
            x = state.x
            if again:
                x = renoise(x, log_snr[step + 1], log_snr[step], noise("again", number))
            number += 1
        yield replace(state, step=step, steps=len(times) - 1)


# ---------------------------------------------------------------- several views of one image


# ---------------------------------------------------------------- several parts of one image
