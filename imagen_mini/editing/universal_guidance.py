"""Universal guidance: sampling led by any loss of the estimated image.

    forward     x_0_hat follows the gradient of loss(x_0_hat) through the network, from x_t
    backward    x_0_hat itself takes a few steps of gradient descent on the loss
    recurrence  each step is taken several times: noise leads back from s to t

Forward guidance is `diffusion.guidance.guide_by_loss`. The other two are here. They go together:

    forward = guide_by_loss(stage.denoiser(text), loss, 2.0, stage.schedule)
    denoise = guide_backward(forward, loss, steps=5, rate=0.1)
    *_, last = sample_with_recurrence(denoise, x_T, times, stage.schedule, noise, rounds=4)

Reference: Universal Guidance for Diffusion Models (Bansal et al., 2023), arXiv 2302.07121,
Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.diffusion.samplers import SamplingState, sample
from imagen_mini.diffusion.schedules import ScheduleFunction, in_float64
from imagen_mini.editing.guided_sampling import renoise


def guide_backward(
    denoise: Denoiser, loss: Callable[[Tensor], Tensor], steps: int = 5, rate: float = 0.1
) -> Denoiser:
    """A denoiser whose estimate descends a loss: backward guidance.

        delta = 0;   `steps` times:   delta <- delta - rate d loss(x_0_hat + delta) / d delta
        x_0_hat + delta

    In eps this is eps_hat - (alpha / sigma) delta, as the paper writes it. The gradient does not
    pass through the network, so it costs almost nothing, and moves only what the loss looks at.

    Args:
        denoise: (x_t [b, c, h, w], t scalar) -> x_0_hat [b, c, h, w]; it may be guided itself.
        loss: x_0_hat -> the loss of each image, [b], or of all of them together, scalar.
        steps: of gradient descent, m of the paper (default: 5). 0 is off.
        rate: the length of such a step, in units of the gradient (default: 0.1).

    Returns:
        A function (x_t [b, c, h, w], t scalar) -> x_0_hat [b, c, h, w], without gradients.

    Raises:
        ValueError: a negative number of steps, or a rate that is not above 0.

    Reference:
        Universal Guidance for Diffusion Models (Bansal et al., 2023), arXiv 2302.07121: its
        backward guidance.
    """
    if steps < 0 or rate <= 0:
        raise ValueError(f"steps {steps}, rate {rate}; expected 0 or more steps of a rate above 0")

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        x_0_hat = denoise(x_t, t).detach()
        delta = torch.zeros_like(x_0_hat)
        for _ in range(steps):
            with torch.enable_grad():
                delta.requires_grad_()
                (gradient,) = torch.autograd.grad(loss(x_0_hat + delta).sum(), delta)
            delta = (delta - rate * gradient).detach()
        return x_0_hat + delta

    return guided


def sample_with_recurrence(
    denoise: Denoiser,
    x_T: Tensor,
    times: Tensor,
    schedule: ScheduleFunction,
    noise: Callable[[str, int], Tensor],
    rounds: int = 4,
    sampler: str = "ddim",
    eta: float = 0.0,
    gamma: float = 0.0,
) -> Iterator[SamplingState]:
    """Sample so that every step t -> s is taken `rounds` times: self-recurrence.

    After each of them but the last, noise leads back from s to t (`renoise`). A guided estimate
    changes too fast for one step; with every round, the image comes back to what the network takes
    for an image, and still obeys the guidance.

    Args:
        denoise: (x_t, t) -> x_0_hat, usually guided.
        x_T: noise, [b, c, h, w].
        times: timesteps, falling, [steps + 1].
        schedule: t -> log-SNR.
        noise: a function of a purpose and a number that returns fresh noise [b, c, h, w].
        rounds: k of the paper, at least 1, which is plain sampling (default: 4).
        sampler: "ddim" (the default) or "ddpm", which need no earlier step.
        eta, gamma: as for `sample` (default: 0).

    Yields:
        A state after the last round of every step.

    Raises:
        ValueError: another sampler, or no round.

    Reference:
        Universal Guidance for Diffusion Models (Bansal et al., 2023), arXiv 2302.07121,
        Algorithm 1.
    """
    if sampler not in ("ddim", "ddpm") or rounds < 1:
        raise ValueError(
            f"sampler {sampler!r}, rounds {rounds}; expected ddim or ddpm, and at least one round"
        )
    log_snr = schedule(in_float64(times)).to(x_T)
    x, last = x_T, len(times) - 1
    for step in range(last):
        for number in range(step * rounds, (step + 1) * rounds):
            # 1. a step of the sampler
            (state,) = sample(
                denoise,
                x,
                times[step : step + 2],
                schedule,
                sampler,
                partial(_of_number, noise, number),
                eta=eta,
                gamma=gamma,
            )
            x = state.x
            # 2. back to the time before it, but for the last round
            if number < (step + 1) * rounds - 1:
                x = renoise(x, log_snr[step + 1], log_snr[step], noise("again", number))
        yield replace(state, step=step, steps=last)


def _of_number(noise: Callable[[str, int], Tensor], number: int, step: int) -> Tensor:
    """The noise of one round; of its one step, whatever that is called."""
    return noise("step", number)
