"""Samplers: from noise to an image, one step x_t -> x_s after the other.

    t, s         times in [0, 1], s < t; t = 1 is noise, t = 0 is the image
    x_t          = alpha_t x_0 + sigma_t eps, with alpha_t^2 + sigma_t^2 = 1
    log_snr_t    = log(alpha_t^2 / sigma_t^2)
    x_0_hat      the denoiser's estimate of the image x_0 from x_t
    eps_hat      = (x_t - alpha_t x_0_hat) / sigma_t, the noise that belongs to x_0_hat

Every update is written for x_0_hat: thresholding comes before it, and eps_hat is recomputed from
what thresholding left.

A sampler is one update function and one row in the table SAMPLERS:

    def my_step(x_t, x_0_hat, log_snr_t, log_snr_s, *, noise): ...

    SAMPLERS["mine"] = Sampler(my_step, inputs=("noise",), always_noisy=True)

`sample` passes every update x_t, x_0_hat, log_snr_t and log_snr_s, and by keyword those of its
further inputs that the row names (see `Sampler`). The pipeline, the configurations and the scripts
offer whatever the table holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.diffusion.gaussian import alpha_sigma_like, eps_from_x_0, x_0_from_eps
from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.diffusion.schedules import ScheduleFunction, in_float64

# ---------------------------------------------------------------- updates
#
# Images are [b, c, h, w]; log_snr_t and log_snr_s are scalars, or [b].


def posterior_variance(
    log_snr_t: Tensor, log_snr_s: Tensor, like: Tensor, gamma: float = 0.0
) -> Tensor:
    """The variance of x_s given x_t and x_0, or a larger one.

        variance = (1 - e^(log_snr_t - log_snr_s)) (sigma_s^2)^(1 - gamma) (sigma_t^2)^gamma

    gamma = 0 is the variance of x_s given x_t and x_0; gamma = 1 is that of x_t given x_s, which is
    larger. Between them the logarithm of the variance is interpolated.

    Args:
        log_snr_t, log_snr_s: the noise levels before and after the step, scalar or [b].
        like: images that the result is shaped to multiply, [b, c, h, w].
        gamma: from 0 to 1 (default: 0).

    Returns:
        The variance, [1, 1, 1, 1] or [b, 1, 1, 1].

    Reference:
        Imagen, arXiv 2205.11487, Appendix A.
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
    """One ancestral step, in continuous time.

        r = e^(log_snr_t - log_snr_s)
        mean = (alpha_t / alpha_s) (sigma_s^2 / sigma_t^2) x_t + (1 - r) alpha_s x_0_hat
        x_s = mean + sqrt(variance) noise

    The factor of x_t is r alpha_s / alpha_t, written so that alpha_t may be 0.

    Args:
        x_t: noisy images, [b, c, h, w].
        x_0_hat: the denoiser's estimate from them, [b, c, h, w].
        log_snr_t, log_snr_s: the noise levels before and after the step, scalar or [b].
        noise: fresh standard normal noise, [b, c, h, w].
        gamma: chooses the variance, from 0 to 1 (default: 0); see `posterior_variance`.

    Returns:
        x_s, [b, c, h, w].

    Reference:
        Imagen, arXiv 2205.11487, Appendix A; DDPM, arXiv 2006.11239, Eq. (7).
    """
    # 1. alpha and sigma before and after the step, and the ratio of the two SNRs.
    alpha_t, sigma_t = alpha_sigma_like(log_snr_t, x_t)
    alpha_s, sigma_s = alpha_sigma_like(log_snr_s, x_t)
    r = torch.exp(log_snr_t - log_snr_s).reshape(alpha_t.shape)
    # 2. The mean of x_s given x_t and x_0 = x_0_hat.
    mean = (alpha_t / alpha_s) * (sigma_s / sigma_t) ** 2 * x_t + (1 - r) * alpha_s * x_0_hat
    # 3. A sample around it.
    return mean + posterior_variance(log_snr_t, log_snr_s, x_t, gamma).sqrt() * noise


def ddim_step(
    x_t: Tensor,
    x_0_hat: Tensor,
    log_snr_t: Tensor,
    log_snr_s: Tensor,
    noise: Tensor | None = None,
    eta: float = 0.0,
) -> Tensor:
    """One DDIM step: back to x_0_hat, and forward to s with the same noise.

        x_s = alpha_s x_0_hat + sqrt(sigma_s^2 - eta^2 variance) eps_hat + eta sqrt(variance) noise

    With eta = 0 it is deterministic: x_s = alpha_s x_0_hat + sigma_s eps_hat. With eta = 1 it is
    `ddpm_step`.

    Args:
        x_t: noisy images, [b, c, h, w].
        x_0_hat: the denoiser's estimate from them, [b, c, h, w].
        log_snr_t, log_snr_s: the noise levels before and after the step, scalar or [b].
        noise: fresh standard normal noise, [b, c, h, w]; needed if eta > 0.
        eta: the share of fresh noise, from 0 to 1 (default: 0).

    Returns:
        x_s, [b, c, h, w].

    Reference:
        DDIM, arXiv 2010.02502, Eq. (12).
    """
    # 1. The noise that belongs to the estimate.
    eps_hat = eps_from_x_0(x_0_hat, x_t, log_snr_t)
    # 2. Without fresh noise: the forward process to s.
    alpha_s, sigma_s = alpha_sigma_like(log_snr_s, x_t)
    if eta == 0:
        return alpha_s * x_0_hat + sigma_s * eps_hat
    if noise is None:
        raise ValueError(f"eta {eta} adds fresh noise: pass noise=")
    # 3. With it: a part of the variance is replaced.
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
    step.

        h = log_snr_s - log_snr_t,   h_r = log_snr_t - log_snr_r
        x_0_mid = x_0_hat + (x_0_hat - x_0_hat_r) h / (2 h_r)
        x_s = DDIM step with x_0_mid

    Args:
        x_t: noisy images, [b, c, h, w].
        x_0_hat: the denoiser's estimate from them, [b, c, h, w].
        log_snr_t, log_snr_s: the noise levels before and after the step, scalar or [b].
        previous: x_0_hat_r and log_snr_r of the step before (default: None, a plain DDIM step).
        noise: fresh standard normal noise, [b, c, h, w]; needed if eta > 0.
        eta: as in `ddim_step` (default: 0). 1 is the paper's SDE-DPM-Solver++ 2M, an ancestral
            step.

    Returns:
        x_s, [b, c, h, w].

    Reference:
        DPM-Solver++ (Lu et al., 2022), arXiv 2211.01095, Algorithm 2.
    """
    if previous is None:
        return ddim_step(x_t, x_0_hat, log_snr_t, log_snr_s, noise, eta)
    # 1. How far the middle of this step is, in units of the step before.
    x_0_hat_r, log_snr_r = previous
    ratio = ((log_snr_s - log_snr_t) / (2 * (log_snr_t - log_snr_r))).to(x_t.dtype)
    ratio = ratio.reshape((-1,) + (1,) * (x_t.ndim - 1))
    # 2. The estimate there, and the DDIM step with it.
    x_0_mid = x_0_hat + ratio * (x_0_hat - x_0_hat_r)
    return ddim_step(x_t, x_0_mid, log_snr_t, log_snr_s, noise, eta)


def heun_step(
    x_t: Tensor,
    x_0_hat: Tensor,
    log_snr_t: Tensor,
    log_snr_s: Tensor,
    denoise_s: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """One step of Heun's method: a DDIM step to s, the noise there, and the step once more with the
    mean of both.

        x_s = DDIM step with eps_hat
        eps_hat_s = eps of denoise_s(x_s)
        x_s = DDIM step with (eps_hat + eps_hat_s) / 2

    In EDM's variables x_t / alpha_t and sigma_t / alpha_t, a DDIM step is Euler's, eps_hat is the
    slope, and this is the paper's step; its last one, to zero noise, is plain too.

    Args:
        x_t: noisy images, [b, c, h, w].
        x_0_hat: the denoiser's estimate from them, [b, c, h, w].
        log_snr_t, log_snr_s: the noise levels before and after the step, scalar or [b].
        denoise_s: the denoiser at time s, x_s -> x_0_hat, so that a step costs two calls of it.
            Without it, or from pure noise (log_snr_t = -inf), where the slope is infinite, this is
            the plain DDIM step.

    Returns:
        x_s, [b, c, h, w].

    Reference:
        EDM (Karras et al., 2022), arXiv 2206.00364, Algorithm 1.
    """
    # 1. Euler's step.
    x_s = ddim_step(x_t, x_0_hat, log_snr_t, log_snr_s)
    if denoise_s is None or torch.isneginf(log_snr_t).any():
        return x_s
    # 2. The noise where it ends.
    eps_hat_s = eps_from_x_0(denoise_s(x_s), x_s, log_snr_s)
    # 3. The step once more, with the mean of the noise at both ends.
    eps_mean = (eps_from_x_0(x_0_hat, x_t, log_snr_t) + eps_hat_s) / 2
    return ddim_step(x_t, x_0_from_eps(eps_mean, x_t, log_snr_t), log_snr_t, log_snr_s)


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Sampler:
    """One row of SAMPLERS.

    Args:
        step: the update (x_t, x_0_hat, log_snr_t, log_snr_s, **inputs) -> x_s.
        inputs: which of the following `sample` passes to it by keyword (default: none).
            "noise": fresh standard normal noise, if the sampler adds some in this trajectory, else
            None. "previous": x_0_hat and log_snr_t of the step before; None in the first step.
            "denoise_s": the denoiser at time s. "eta", "gamma": the options of `sample`.
            `previous` and `denoise_s` are None in the last step, which leaps to almost no noise:
            too far to extrapolate to or to return from.
        always_noisy: it adds fresh noise even where eta is 0 (default: False).
    """

    step: Callable[..., Tensor]
    inputs: tuple[str, ...] = ()
    always_noisy: bool = False


SAMPLERS = {
    "ddim": Sampler(ddim_step, inputs=("noise", "eta")),
    "ddpm": Sampler(ddpm_step, inputs=("noise", "gamma"), always_noisy=True),
    "dpmpp_2m": Sampler(dpmpp_2m_step, inputs=("previous", "noise", "eta")),
    "heun": Sampler(heun_step, inputs=("denoise_s",)),
}


def samplers_with(option: str) -> tuple[str, ...]:
    """The names of the samplers that use an option of `sample`: "eta" or "gamma"."""
    return tuple(name for name, sampler in SAMPLERS.items() if option in sampler.inputs)


def validate_sampler_options(sampler: str, eta: float = 0.0, gamma: float = 0.0) -> None:
    """A ValueError for options of `sample` that do not go together."""
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r}; expected one of {', '.join(SAMPLERS)}")
    for name, value in (("eta", eta), ("gamma", gamma)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} {value}; expected a number from 0 to 1")
        if value > 0 and sampler not in samplers_with(name):
            raise ValueError(
                f"{name} {value} with the {sampler} sampler, which does not use it: leave it "
                f"at 0, or use sampler={' or '.join(map(repr, samplers_with(name)))}"
            )


# ---------------------------------------------------------------- the sampling loop


@dataclass(frozen=True)
class SamplingState:
    """What `sample` yields after each step, from time `t` to time `s`.

    `step` counts from 0, of `steps` in all. `x` [b, c, h, w] is the image at time `s`, and
    `x_0_hat` [b, c, h, w] the estimate that led there.
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
    timesteps: Tensor,
    schedule: ScheduleFunction,
    sampler: str = "ddim",
    noise: Callable[[int], Tensor] | None = None,
    after_step: Callable[[Tensor, int, float], Tensor] | None = None,
    eta: float = 0.0,
    gamma: float = 0.0,
) -> Iterator[SamplingState]:
    """Sample step by step from the noise x_T, and yield a state after every step.

    Args:
        denoise: (x_t [b, c, h, w], t scalar) -> x_0_hat [b, c, h, w].
        x_T: standard normal noise, [b, c, h, w].
        timesteps: falling times from 1 to 0, [steps + 1].
        schedule: t -> log-SNR.
        sampler: a key of SAMPLERS (default: "ddim").
        noise: step -> fresh standard normal noise [b, c, h, w]. It is asked once a step by a
            sampler that needs it: ddpm, and ddim and dpmpp_2m with eta > 0.
        after_step: (x, step, s) -> x: may change the image after each step, as edits do.
        eta: the share of fresh noise of ddim and dpmpp_2m, from 0 to 1 (default: 0).
        gamma: the variance of ddpm, from 0 to 1 (default: 0); see `posterior_variance`.

    Yields:
        A `SamplingState` after every step. The image is the last state's `x_0_hat`.

    Raises:
        ValueError: an unknown sampler, an option that it does not use, or noise that it misses.
    """
    validate_sampler_options(sampler, eta, gamma)
    row = SAMPLERS[sampler]
    noisy = row.always_noisy or eta > 0
    if noise is None and noisy:
        raise ValueError(
            f"the {sampler} sampler{f' with eta {eta}' if eta > 0 else ''} adds fresh noise at "
            "every step: pass noise="
        )
    x, steps, previous = x_T, len(timesteps) - 1, None
    log_snr = schedule(in_float64(timesteps)).to(timesteps)
    for step in range(steps):
        t, s = timesteps[step], timesteps[step + 1]
        log_snr_t, log_snr_s = log_snr[step], log_snr[step + 1]
        last = step == steps - 1
        # 1. What the denoiser takes x_t for.
        x_0_hat = denoise(x, t)
        # 2. The update of this sampler, with those of the further inputs that it uses.
        inputs = {
            "noise": noise(step) if noise is not None and noisy else None,
            "previous": None if last else previous,
            "denoise_s": None if last else (lambda x_s, s=s: denoise(x_s, s)),
            "eta": eta,
            "gamma": gamma,
        }
        x = row.step(
            x, x_0_hat, log_snr_t, log_snr_s, **{name: inputs[name] for name in row.inputs}
        )
        previous = x_0_hat, log_snr_t
        # 3. The caller may change the image.
        if after_step is not None:
            x = after_step(x, step, float(s))
        yield SamplingState(step, steps, float(t), float(s), x, x_0_hat)


def ddim_invert(
    denoise: Denoiser, x_0: Tensor, timesteps: Tensor, schedule: ScheduleFunction
) -> Iterator[SamplingState]:
    """DDIM inversion: from an image to the noise from which `sample` leads back to it.

        x_t = alpha_t x_0_hat + sigma_t eps_hat

    The DDIM step with time reversed. The estimate is made at s < t, as if eps_hat stayed the same
    along the step, so the way back misses x_0 by an error that falls with the number of steps.
    Guidance and thresholding are hard to retrace: use guidance_scale=1 and threshold="none".

    Args:
        denoise: (x_t [b, c, h, w], t scalar) -> x_0_hat [b, c, h, w]; `sample` has to use the same.
        x_0: the image, [b, c, h, w].
        timesteps: falling times from 1 to 0, [steps + 1], as for `sample`.
        schedule: t -> log-SNR.

    Yields:
        A `SamplingState` after every step. The last state's `x` is x_T.

    Reference:
        DDIM, arXiv 2010.02502, Section 4.3.
    """
    yield from sample(denoise, x_0, timesteps.flip(0), schedule)
