"""Timesteps: at which times a sampler stops on its way from noise (t = 1) to the image (t = 0).

Every function returns steps + 1 falling times; one step leads from each to the next. All of them
start at exactly 1 and end at exactly 0, and differ in where the steps between are short. A noise
schedule, t -> log_snr with sigma / alpha = e^(-log_snr / 2), may be a `Schedule` or any function.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from imagen_mini.diffusion.schedules import (
    InverseFunction,
    Schedule,
    ScheduleFunction,
    as_schedule,
)

Device = torch.device | str | None


def uniform_timesteps(steps: int, device: Device = None) -> Tensor:
    """Times evenly spaced in t.

    Args:
        steps: the number of steps, at least 1.
        device: where the result lies (default: the CPU).

    Returns:
        Times from 1 (noise) down to 0, [steps + 1].

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1; got {steps}")
    return torch.linspace(1, 0, steps + 1, device=device)


def log_snr_timesteps(steps: int, schedule: ScheduleFunction, device: Device = None) -> Tensor:
    """Times evenly spaced in the log-SNR of `schedule`; the rest as in `uniform_timesteps`."""
    schedule = as_schedule(schedule)
    noisy, clean = _finite_ends(schedule)
    log_snr = noisy + (1 - uniform_timesteps(steps).double()) * (clean - noisy)
    return _timesteps_at(log_snr, schedule.inverse, device)


def karras_timesteps(
    steps: int, schedule: ScheduleFunction, rho: float = 7.0, device: Device = None
) -> Tensor:
    """Times evenly spaced in (sigma / alpha)^(1 / rho); the rest as in `uniform_timesteps`.

        (sigma / alpha)_i = (noisy^(1 / rho) + i / steps (clean^(1 / rho) - noisy^(1 / rho)))^rho

    for i = 0 ... steps, with the schedule's sigma / alpha at t = 1 and t = 0 for `noisy` and
    `clean`.

    Args:
        steps: the number of steps, at least 1.
        schedule: the noise schedule.
        rho: a larger one takes shorter steps where there is little noise (default: 7).
        device: where the result lies (default: the CPU).

    Returns:
        Times from 1 (noise) down to 0, [steps + 1].

    Raises:
        ValueError: fewer than one step, or a schedule with an infinite end.

    Reference:
        EDM (Karras et al., 2022), arXiv 2206.00364, Eq. (5). Differs from the paper: it reaches
        `clean` one step earlier and 0 with the last.
    """
    schedule = as_schedule(schedule)
    noisy, clean = (math.exp(-log_snr / (2 * rho)) for log_snr in _finite_ends(schedule))
    root = noisy + (1 - uniform_timesteps(steps).double()) * (clean - noisy)
    return _timesteps_at(-2 * rho * torch.log(root), schedule.inverse, device)


def mixed_timesteps(
    steps: int, schedule: ScheduleFunction, share: float = 0.3, device: Device = None
) -> Tensor:
    """Times between those of `uniform_timesteps` and of `log_snr_timesteps`: the log-SNR of each is
    a mean of both.

        log_snr_i = (1 - share) uniform_i + share log_snr_i

    Steps even in t leap over the noisiest part, where what all pixels share is decided; steps even
    in log-SNR are long where shapes are decided. This does neither.

    Args:
        steps: the number of steps, at least 1.
        schedule: the noise schedule.
        share: the part of the even log-SNR, in [0, 1] (default: 0.3).
        device: where the result lies (default: the CPU).

    Returns:
        Times from 1 (noise) down to 0, [steps + 1].

    Raises:
        ValueError: fewer than one step, or a schedule with an infinite end.
    """
    schedule = as_schedule(schedule)
    noisy, clean = _finite_ends(schedule)
    t = uniform_timesteps(steps).double()
    log_snr = (1 - share) * schedule(t) + share * (noisy + (1 - t) * (clean - noisy))
    return _timesteps_at(log_snr, schedule.inverse, device)


TIMESTEP_SPACINGS = ("uniform", "log_snr", "karras", "mixed")


def spaced_timesteps(
    timestep_spacing: str, steps: int, schedule: ScheduleFunction, device: Device = None
) -> Tensor:
    """The timesteps of a spacing by its name.

    Args:
        timestep_spacing: one of TIMESTEP_SPACINGS.
        steps: the number of steps, at least 1.
        schedule: the noise schedule.
        device: where the result lies (default: the CPU).

    Returns:
        Times from 1 (noise) down to 0, [steps + 1].

    Raises:
        ValueError: an unknown spacing, fewer than one step, or a schedule with an infinite end and
            a spacing other than "uniform".
    """
    if timestep_spacing not in TIMESTEP_SPACINGS:
        raise ValueError(
            f"timestep_spacing {timestep_spacing!r}; expected one of {', '.join(TIMESTEP_SPACINGS)}"
        )
    if timestep_spacing == "uniform":
        return uniform_timesteps(steps, device)
    spaced: dict[str, Callable[..., Tensor]] = {
        "log_snr": log_snr_timesteps,
        "karras": karras_timesteps,
        "mixed": mixed_timesteps,
    }
    # Inverted by bisection, always: a closed inverse may round the last bit of a time differently,
    # and the same schedule has to lead to the same images however it is written.
    numeric = Schedule(as_schedule(schedule).log_snr)
    return spaced[timestep_spacing](steps, numeric, device=device)


def _finite_ends(schedule: ScheduleFunction) -> tuple[float, float]:
    """The log-SNR at t = 1 and at t = 0."""
    noisy, clean = schedule(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    if not math.isfinite(noisy) or not math.isfinite(clean):
        raise ValueError(
            f"the schedule goes from log_snr {noisy} to {clean}, and infinity cannot be "
            "divided into steps: use uniform_timesteps"
        )
    return noisy, clean


def _timesteps_at(log_snr: Tensor, inverse: InverseFunction, device: Device) -> Tensor:
    """The times at which the schedule has these log-SNRs, in float32."""
    timesteps = inverse(log_snr)
    timesteps[0], timesteps[-1] = 1, 0  # exactly, whatever the inverse rounds to
    return timesteps.float().to(device)
