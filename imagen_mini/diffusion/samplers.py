"""Samplers: one update each, x_t -> x_s with s < t, and the generator that walks from noise to
image.

Every update goes through x_0_hat, so thresholding comes before it and eps is recomputed from what
thresholding left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.diffusion.gaussian import alpha_sigma_like, eps_from_x_0, x_0_from_eps
from imagen_mini.diffusion.guidance import Denoiser


def posterior_variance(
    log_snr_t: Tensor, log_snr_s: Tensor, like: Tensor, gamma: float = 0.0
) -> Tensor:
    """Variance of x_s given x_t and x_0, interpolated (in its logarithm) to the larger one of x_t
    given x_s by `gamma`.

        (1 - e^(log_snr_t - log_snr_s)) (sigma_s^2)^(1 - gamma) (sigma_t^2)^gamma

    Source: Imagen (2022), Appendix A.
    """
    _, sigma_t = alpha_sigma_like(log_snr_t, like)
    _, sigma_s = alpha_sigma_like(log_snr_s, like)
    noise_added = -torch.expm1(log_snr_t - log_snr_s).reshape(sigma_t.shape)
    return noise_added * sigma_s ** (2 * (1 - gamma)) * sigma_t ** (2 * gamma)


def ddpm_step(
    x_t: Tensor,
    x_0_hat: Tensor,
    log_snr_t: Tensor,
    log_snr_s: Tensor,
    noise: Tensor,
    gamma: float = 0.0,
) -> Tensor:
    """One ancestral step, in continuous time:

        x_s = (alpha_t / alpha_s) (sigma_s^2 / sigma_t^2) x_t + (1 - r) alpha_s x_0_hat + sqrt(variance) noise,   r = e^(log_snr_t - log_snr_s)

    The first factor is r alpha_s / alpha_t, written so that alpha_t may be 0. gamma in [0, 1]
    chooses the variance (see `posterior_variance`). Source: Imagen (2022), Appendix A; DDPM (2020),
    Eq. (7).
    """
    alpha_t, sigma_t = alpha_sigma_like(log_snr_t, x_t)
    alpha_s, sigma_s = alpha_sigma_like(log_snr_s, x_t)
    r = torch.exp(log_snr_t - log_snr_s).reshape(alpha_t.shape)
    mean = (alpha_t / alpha_s) * (sigma_s / sigma_t) ** 2 * x_t + (1 - r) * alpha_s * x_0_hat
    return mean + posterior_variance(log_snr_t, log_snr_s, x_t, gamma).sqrt() * noise


def ddim_step(
    x_t: Tensor,
    x_0_hat: Tensor,
    log_snr_t: Tensor,
    log_snr_s: Tensor,
    noise: Tensor | None = None,
    eta: float = 0.0,
) -> Tensor:
    """One DDIM step:

        x_s = alpha_s x_0_hat + sqrt(sigma_s^2 - eta^2 variance) eps_hat + eta sqrt(variance) noise

    eta = 0 is deterministic, eta = 1 is `ddpm_step`. Source: DDIM (2021), Eq. (12).
    """
    eps_hat = eps_from_x_0(x_0_hat, x_t, log_snr_t)
    alpha_s, sigma_s = alpha_sigma_like(log_snr_s, x_t)
    if eta == 0:
        return alpha_s * x_0_hat + sigma_s * eps_hat
    variance = eta**2 * posterior_variance(log_snr_t, log_snr_s, x_t)
    return (
        alpha_s * x_0_hat
        + (sigma_s**2 - variance).clamp(min=0).sqrt() * eps_hat
        + variance.sqrt() * noise
    )


def dpmpp_2m_step(
    x_t: Tensor,
    x_0_hat: Tensor,
    log_snr_t: Tensor,
    log_snr_s: Tensor,
    previous: tuple[Tensor, Tensor] | None = None,
    noise: Tensor | None = None,
    eta: float = 0.0,
) -> Tensor:
    """One step of DPM-Solver++ 2M: a DDIM step whose x_0_hat is extrapolated to the middle of the
    step,

        x_0_mid = x_0_hat + (x_0_hat - x_0_hat_r) h / (2 h_r),   h = log_snr_s - log_snr_t,   h_r = log_snr_t - log_snr_r

    `previous` holds x_0_hat_r and log_snr_r of the step before; without it this is a plain DDIM
    step. eta as in `ddim_step`: 0 is deterministic, 1 is the paper's SDE-DPM-Solver++ 2M, an
    ancestral step.

    Source: DPM-Solver++ (Lu et al., 2022), Algorithm 2.
    """
    if previous is None:
        return ddim_step(x_t, x_0_hat, log_snr_t, log_snr_s, noise, eta)
    x_0_hat_r, log_snr_r = previous
    ratio = ((log_snr_s - log_snr_t) / (2 * (log_snr_t - log_snr_r))).to(x_t.dtype)
    return ddim_step(x_t, x_0_hat + ratio * (x_0_hat - x_0_hat_r), log_snr_t, log_snr_s, noise, eta)


def heun_step(
    x_t: Tensor,
    x_0_hat: Tensor,
    log_snr_t: Tensor,
    log_snr_s: Tensor,
    denoise_s: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """One step of Heun's method: a DDIM step to s, a look at the noise there, and the step once
    more with the mean of both:

        x_s = DDIM step with eps_hat,   eps_hat_s = eps of denoise_s(x_s),   x_s = DDIM step with (eps_hat + eps_hat_s) / 2

    `denoise_s` is the denoiser at time s, so a step costs two calls of it. Without it, or from pure
    noise (log_snr_t = -inf), where the slope is infinite, this is the plain DDIM step. In EDM's
    variables x_t / alpha_t and sigma_t / alpha_t a DDIM step is Euler's, eps_hat is the slope, and
    this is the paper's step; its last one, to zero noise, is plain too.

    Source: EDM (Karras et al., 2022), Algorithm 1.
    """
    x_s = ddim_step(x_t, x_0_hat, log_snr_t, log_snr_s)
    if denoise_s is None or torch.isneginf(log_snr_t).any():
        return x_s
    eps_hat_s = eps_from_x_0(denoise_s(x_s), x_s, log_snr_s)
    eps_mean = (eps_from_x_0(x_0_hat, x_t, log_snr_t) + eps_hat_s) / 2
    return ddim_step(x_t, x_0_from_eps(eps_mean, x_t, log_snr_t), log_snr_t, log_snr_s)


SAMPLERS = ("ddim", "ddpm", "dpmpp_2m", "heun")
# options of `sample`, and the samplers that use each
SAMPLER_OPTIONS = {"eta": ("ddim", "dpmpp_2m"), "gamma": ("ddpm",)}


@dataclass(frozen=True)
class SamplingState:
    """What `sample` yields after each step: `x` is the image at time `s`, `x_0_hat` the estimate
    that led there.
    """

    step: int
    steps: int
    t: float
    s: float
    x: Tensor
    x_0_hat: Tensor


@torch.no_grad()
def sample(
    denoise: Denoiser,
    x_T: Tensor,
    times: Tensor,
    log_snr_of: Callable[[Tensor], Tensor],
    sampler: str = "ddim",
    noise: Callable[[int], Tensor] | None = None,
    after_step: Callable[[Tensor, int, float], Tensor] | None = None,
    eta: float = 0.0,
    gamma: float = 0.0,
) -> Iterator[SamplingState]:
    """Walk from x_T through `times` (falling, from 1 to 0) and yield a state after every step.

    `noise(step)` is asked for fresh noise by a sampler that needs it: ddpm, whose variance `gamma`
    chooses, and ddim and dpmpp_2m with `eta` > 0. `after_step(x, step, s)` may change x, as edits
    do. The last state's `x_0_hat` is the image.
    """
    validate_sampler_options(sampler, eta, gamma)
    if noise is None and (sampler == "ddpm" or eta > 0):
        raise ValueError(
            f"the {sampler} sampler{f' with eta {eta}' if eta > 0 else ''} adds fresh noise at "
            "every step: pass noise="
        )
    x, steps, previous = x_T, len(times) - 1, None
    fresh = noise if sampler == "ddpm" or eta > 0 else lambda step: None
    log_snr = log_snr_of(times.double()).to(times.dtype)
    for step in range(steps):
        x_0_hat = denoise(x, times[step])
        log_snr_t, log_snr_s = log_snr[step], log_snr[step + 1]
        # it leaps to almost no noise: too far to extrapolate or to look back from
        last = step == steps - 1
        if sampler == "ddpm":
            x = ddpm_step(x, x_0_hat, log_snr_t, log_snr_s, fresh(step), gamma)
        elif sampler == "dpmpp_2m":
            x = dpmpp_2m_step(
                x, x_0_hat, log_snr_t, log_snr_s, None if last else previous, fresh(step), eta
            )
            previous = x_0_hat, log_snr_t
        elif sampler == "heun":
            x = heun_step(
                x,
                x_0_hat,
                log_snr_t,
                log_snr_s,
                None if last else lambda x_s: denoise(x_s, times[step + 1]),
            )
        else:
            x = ddim_step(x, x_0_hat, log_snr_t, log_snr_s, fresh(step), eta)
        if after_step is not None:
            x = after_step(x, step, float(times[step + 1]))
        yield SamplingState(step, steps, float(times[step]), float(times[step + 1]), x, x_0_hat)


def validate_sampler_options(sampler: str, eta: float = 0.0, gamma: float = 0.0) -> None:
    """A ValueError for options of `sample` that do not go together."""
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r}; expected one of {', '.join(SAMPLERS)}")
    for name, value in (("eta", eta), ("gamma", gamma)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} {value}; expected a number from 0 to 1")
        if value > 0 and sampler not in SAMPLER_OPTIONS[name]:
            raise ValueError(
                f"{name} {value} with the {sampler} sampler, which does not use it: leave it "
                "at 0, or use "
                f"sampler={' or '.join(map(repr, SAMPLER_OPTIONS[name]))}"
            )


def ddim_invert(
    denoise: Denoiser, x_0: Tensor, times: Tensor, log_snr_of: Callable[[Tensor], Tensor]
) -> Iterator[SamplingState]:
    """DDIM inversion: from the image x_0 to noise from which `sample` (ddim, the same denoiser and
    times) leads back to it.

    The same step with time reversed: x_t = alpha_t x_0_hat + sigma_t eps_hat, estimated at s < t as
    if eps_hat stayed the same along the step, so the way back misses x_0 by an error that falls
    with the number of steps. The last state's `x` is x_T. Guidance and thresholding are hard to
    retrace: use guidance_scale=1 and threshold="none".

    Source: DDIM (2021), Section 4.3.
    """
    yield from sample(denoise, x_0, times.flip(0), log_snr_of)
