"""Sampling that starts from an image, or keeps a part of one: SDEdit and RePaint.

Neither needs training, and neither knows anything of networks: a denoiser is (x_t, t) -> x_0_hat.

References: SDEdit (Meng et al., 2022), arXiv 2108.01073; RePaint (Lugmayr et al., 2022),
arXiv 2201.09865.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from imagen_mini.diffusion.gaussian import alpha_sigma_like, q_sample
from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.diffusion.samplers import SamplingState, sample
from imagen_mini.diffusion.schedules import in_float64


def truncate_timesteps(t: float, times: Tensor) -> Tensor:
    """The timesteps of a trajectory that starts at time t.

    Args:
        t: Where to start, in [0, 1].
        times: Timesteps of a full trajectory, falling, [steps + 1].

    Returns:
        t itself, and all timesteps below it. One that is t but for rounding is left out: a
        multi-step sampler would divide by a step of no length.
    """
    below = (times < t - 1e-6) | ((times < t) & (times == times[-1]))
    return torch.cat([times.new_tensor([t]), times[below]])


def sdedit(
    denoise: Denoiser,
    drawing: Tensor,
    t: float,
    eps: Tensor,
    times: Tensor,
    schedule: Callable[[Tensor], Tensor],
    sampler: str = "ddim",
    noise: Callable[[int], Tensor] | None = None,
    after_step: Callable[[Tensor, int, float], Tensor] | None = None,
    eta: float = 0.0,
) -> Iterator[SamplingState]:
    """SDEdit: noise a drawing up to time t, and sample from there instead of from t = 1:

        x_t = alpha_t drawing + sigma_t eps,   then `sample` through the timesteps that are left

    At t = 1 the schedule leaves nothing of the drawing. At t = 0 there is no step to take: the one
    state holds the drawing.

    Args:
        denoise: (x_t, t) -> x_0_hat.
        drawing: Images [b, 3, h, w] in [-1, 1].
        t: The time, in [0, 1].
        eps: Noise [b, 3, h, w].
        times: Timesteps of a full trajectory, falling, [steps + 1].
        schedule: t -> log-SNR.
        sampler: One of SAMPLERS (default "ddim").
        noise: A function of the step that returns fresh noise, for stochastic samplers.
        after_step: As for `sample`: may change the image after each step (default: nothing does).
        eta: As for `sample` (default 0).

    Yields:
        A state after every step.

    Raises:
        ValueError: t is out of range.

    Reference: SDEdit (Meng et al., 2022), arXiv 2108.01073, Algorithm 1. Differs from the paper:
        any of the samplers, not the reverse SDE alone.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"t {t}; expected a time from 0 (the drawing) to 1 (noise)")
    if t == 0:
        yield SamplingState(0, 0, 0.0, 0.0, drawing, drawing)
        return
    # 1. the timesteps from t on
    left = truncate_timesteps(t, times)
    # 2. the drawing, noised to time t
    x_t = q_sample(drawing, eps, schedule(in_float64(left[0])).to(drawing))
    # 3. sampling from there
    yield from sample(denoise, x_t, left, schedule, sampler, noise, after_step, eta)


def inpaint_denoiser(denoise: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
    """A denoiser whose x_0_hat is `known` [b, 3, h, w] where the mask [b or 1, 1, h, w] is 1, and
    that of `denoise` where it is 0.
    """
    return lambda x_t, t: mask * known + (1 - mask) * denoise(x_t, t)


def repaint_callback(
    known: Tensor,
    mask: Tensor,
    noise: Callable[[int], Tensor],
    schedule: Callable[[Tensor], Tensor],
) -> Callable[[Tensor, int, float], Tensor]:
    """An `after_step` for `sample` that puts the known part back, at the noise level of time s:

        x_s <- mask (alpha_s known + sigma_s noise) + (1 - mask) x_s

    Args:
        known: Images [b, 3, h, w] in [-1, 1].
        mask: 1 where the image is known, else 0, [b or 1, 1, h, w].
        noise: A function of the step that returns noise [b, 3, h, w].
        schedule: t -> log-SNR.

    References: Score SDE (Song et al., 2021), arXiv 2011.13456, on imputation; RePaint
        (Lugmayr et al., 2022), arXiv 2201.09865.
    """

    def after_step(x: Tensor, step: int, s: float) -> Tensor:
        log_snr = schedule(torch.tensor(s, dtype=torch.float64)).to(x)
        return mask * q_sample(known, noise(step), log_snr) + (1 - mask) * x

    return after_step


def renoise(x_s: Tensor, log_snr_s: Tensor, log_snr_t: Tensor, noise: Tensor) -> Tensor:
    """The forward process from time s up to t > s:

        x_t = r x_s + sqrt(sigma_t^2 - r^2 sigma_s^2) noise,   with r = alpha_t / alpha_s

    Args:
        x_s: Images at time s, [b, 3, h, w].
        log_snr_s: log-SNR at s, a scalar.
        log_snr_t: log-SNR at t, a scalar, not above that at s.
        noise: Standard normal noise of the shape of x_s.
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
    jump: int = 1,
    eta: float = 0.0,
) -> Iterator[SamplingState]:
    """Inpainting: generate the image where the mask is 0, so that it agrees with what is known
    where the mask is 1.

    Every `jump` steps of the sampler, t -> s, are taken `rounds` times. After each step the known
    part is put back (`repaint_callback`). After all rounds but the last, noise leads back, s -> t
    (`renoise`). In one round the new part depends on a known part that could not depend on it; with
    every round the two agree better.

    Args:
        denoise: (x_t, t) -> x_0_hat.
        known: Images [b, 3, h, w] in [-1, 1].
        mask: 1 where the image is known, else 0, [b or 1, 1, h, w].
        x_T: Noise [b, 3, h, w].
        times: Timesteps, falling, [steps + 1].
        schedule: t -> log-SNR.
        noise: A function of a purpose and a number that returns fresh noise [b, 3, h, w].
        rounds: At least 1 (the default).
        sampler: "ddim" (the default) or "ddpm", which need no earlier step.
        jump: Steps that noise leads back over, at least 1 (the default).
        eta: Fresh noise in each step of ddim, from 0 (none, the default) to 1.

    Yields:
        A state after the last round of every step.

    Raises:
        ValueError: Another sampler, no round, or no step to jump.

    Reference: RePaint (Lugmayr et al., 2022), arXiv 2201.09865, Algorithm 1; jumps of several steps
        as in its Appendix. Differs from the paper: a jump back is one step of the forward process,
        which has the distribution of several.
    """
    if sampler not in ("ddim", "ddpm") or rounds < 1:
        raise ValueError(
            f"sampler {sampler!r}, rounds {rounds}; expected ddim or ddpm, and at least one round"
        )
    if jump < 1:
        raise ValueError(f"jump {jump}; expected to jump back over at least one step")
    log_snr = schedule(in_float64(times)).to(x_T)
    partly_known = inpaint_denoiser(denoise, known, mask)
    x, number = x_T, 0  # of the round, so that each has noise of its own
    last = len(times) - 1
    for start in range(0, last, jump):
        end = min(start + jump, last)
        for again in reversed(range(rounds)):
            for step in range(start, end):
                fresh = partial(_noise_of_round, noise, number)
                # 1. a step of the sampler, and the known part put back
                (state,) = sample(
                    partly_known,
                    x,
                    times[step : step + 2],
                    schedule,
                    sampler,
                    fresh("step"),
                    repaint_callback(known, mask, fresh("known"), schedule),
                    eta=eta,
                )
                x = state.x
                if not again:
                    yield replace(state, step=step, steps=last)
                number += 1
            # 2. back to the time before these steps, but for the last round
            if again:
                x = renoise(x, log_snr[end], log_snr[start], noise("again", number - 1))


def _noise_of_round(
    noise: Callable[[str, int], Tensor], number: int, purpose: str
) -> Callable[[int], Tensor]:
    """The noise of one round for one purpose, as a function of the step, of which there is one."""
    return lambda _: noise(purpose, number)


def known_part(image: Tensor, known: Tensor) -> Tensor:
    """The known part of images as a network with `inpainting` takes it.

    Args:
        image: [b, 3, h, w] in [-1, 1].
        known: Where it is known, 0 and 1, [b or 1, 1, h, w].

    Returns:
        [b, 4, h, w]: the image, 0 where it is not known; and `known` itself.

    Reference: GLIDE (Nichol et al., 2021), arXiv 2112.10741, Section 3.
    """
    known = known.to(image).expand(len(image), 1, *image.shape[-2:])
    return torch.cat([image * known, known], dim=1)
