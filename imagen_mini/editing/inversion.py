"""Null-text inversion: the null text is optimised until guided sampling leads back to an image.

DDIM inversion retraces a trajectory without guidance. With guidance, sampling leaves it. Two ways
keep it there, and both change only what guidance leads away from:

    null-text inversion         a null embedding of its own for every step, optimised
    negative-prompt inversion   the source's prompt itself: then w cond + (1 - w) cond = cond

References: Null-text Inversion (Mokady et al., 2022), arXiv 2211.09794, Algorithm 1;
Negative-prompt Inversion (Miyake et al., 2023), arXiv 2305.16807.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from imagen_mini.diffusion.guidance import (
    Denoiser,
    GuidanceScale,
    classifier_free_guidance,
    scale_at,
)
from imagen_mini.diffusion.samplers import ddim_step
from imagen_mini.diffusion.schedules import ScheduleFunction, in_float64
from imagen_mini.text.encoder import TextEmbeddings


def null_text_optimization(
    denoise: Denoiser,
    denoise_null: Callable[[TextEmbeddings], Denoiser],
    null: TextEmbeddings,
    pivots: Sequence[Tensor],
    timesteps: Tensor,
    schedule: ScheduleFunction,
    guidance_scale: GuidanceScale,
    inner_steps: int = 10,
    learning_rate: float = 3e-3,
    tolerance: tuple[float, float] = (1e-5, 2e-5),
) -> Iterator[TextEmbeddings]:
    """Find, step by step, a null text with which a guided DDIM step lands on the pivot.

        null_t = argmin || pivot_s - DDIM step of w cond + (1 - w) uncond(null_t) ||^2

    Each step starts from where the last one landed, and from its null text. Adam with a learning
    rate that falls to half; a step ends early at a mean squared error below
    tolerance[0] + step * tolerance[1]. Where w is 1, the null text has no effect and stays.

    Args:
        denoise: (x_t, t) -> x_0_hat with the source's prompt, without guidance and threshold.
        denoise_null: From a null text to such a denoiser, differentiable in the text.
        null: The null text to begin with, as many rows as the pivots have.
        pivots: The trajectory to keep to, from x_T to the image: [b, c, h, w] at each timestep.
        timesteps: Falling times, [steps + 1].
        schedule: t -> log-SNR.
        guidance_scale: w, or a function of t that returns it.
        inner_steps: Steps of Adam for each step of the sampler, at least 0 (default 10).
        learning_rate: Of the first step (default 3e-3).
        tolerance: When a step ends early, and by how much this grows with every step.

    Yields:
        The null text of every step, in the order of sampling.

    Reference: Null-text Inversion (Mokady et al., 2022), arXiv 2211.09794, Algorithm 1; the
        tolerance is that of the authors' code, with 50 steps. Its learning rate is 1e-2. With that
        the null text of the shipped network, which is 0, moves so far in few steps that it can end
        worse than without.
    """
    log_snr = schedule(in_float64(timesteps)).to(pivots[0])
    x, steps = pivots[0], len(timesteps) - 1
    for step, (t, pivot) in enumerate(zip(timesteps[:-1], pivots[1:], strict=True)):
        w, levels = scale_at(guidance_scale, t), (log_snr[step], log_snr[step + 1])
        with torch.no_grad():
            cond = denoise(x, t)
        if w == 1:
            x = ddim_step(x, cond, *levels)
            yield null
            continue

        def guided_step(text: TextEmbeddings, x=x, t=t, w=w, cond=cond, levels=levels) -> Tensor:
            uncond = denoise_null(text)(x, t)
            return ddim_step(x, classifier_free_guidance(cond, uncond, w), *levels)

        # 1. the null text of this step
        emb = null.emb.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([emb], lr=learning_rate * (1 - step / (2 * steps)))
        for _ in range(inner_steps):
            with torch.enable_grad():
                # a text of its own in each round: denoisers remember what they made of a text
                loss = (guided_step(TextEmbeddings(emb + 0, null.mask)) - pivot).square().mean()
            if loss < tolerance[0] + step * tolerance[1]:
                break
            (emb.grad,) = torch.autograd.grad(loss, emb)
            optimizer.step()
        null = TextEmbeddings(emb.detach(), null.mask)
        # 2. the step with it
        with torch.no_grad():
            x = guided_step(null)
        yield null


def by_step(denoisers: Sequence[Denoiser], timesteps: Tensor) -> Denoiser:
    """One denoiser made of several: number i acts at timesteps[i].

    Args:
        denoisers: One for each step.
        timesteps: Falling times, [steps + 1].

    Returns:
        A denoiser for the times of `timesteps`, and for no others.
    """
    of_time = dict(zip(timesteps[:-1].tolist(), denoisers, strict=True))
    return lambda x_t, t: of_time[float(t)](x_t, t)
