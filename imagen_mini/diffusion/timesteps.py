"""Timesteps: at which times a sampler stops on its way from noise (t = 1) to the image (t = 0)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imagen_mini.diffusion.schedules import Schedule, numeric_t


def uniform_timesteps(steps: int, device=None) -> Tensor:
    """steps + 1 times from 1 (noise) down to 0, evenly spaced: the sampler walks from each to the
    next.
    """
    if steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1; got {steps}")
    return torch.linspace(1, 0, steps + 1, device=device)


def log_snr_timesteps(steps: int, log_snr_of: Schedule, t_of: Schedule, device=None) -> Tensor:
    """As `uniform_timesteps`, but evenly spaced in log-SNR, for a schedule `log_snr_of` with
    inverse `t_of`.
    """
    noisy, clean = _finite_ends(log_snr_of)
    return _times_at(
        noisy + (1 - uniform_timesteps(steps).double()) * (clean - noisy), t_of, device
    )


def karras_timesteps(
    steps: int, log_snr_of: Schedule, t_of: Schedule, rho: float = 7.0, device=None
) -> Tensor:
    """As `uniform_timesteps`, but evenly spaced in (sigma / alpha)^(1 / rho): a larger `rho` takes
    shorter steps where there is little noise.

        (sigma / alpha)_i = (noisy^(1 / rho) + i / steps (clean^(1 / rho) - noisy^(1 / rho)))^rho,   i = 0 ... steps

    with the schedule's own sigma / alpha at t = 1 and t = 0 for `noisy` and `clean`.

    Source: EDM (Karras et al., 2022), Eq. (5). Differs from the paper: it reaches `clean` one step
    earlier and 0 with the last.
    """
    noisy, clean = (math.exp(-log_snr / (2 * rho)) for log_snr in _finite_ends(log_snr_of))
    root = noisy + (1 - uniform_timesteps(steps).double()) * (clean - noisy)
    return _times_at(-2 * rho * torch.log(root), t_of, device)


def mixed_timesteps(
    steps: int, log_snr_of: Schedule, t_of: Schedule, share: float = 0.3, device=None
) -> Tensor:
    """As `uniform_timesteps`, but each time's log-SNR is a mean: `share` of that of
    `log_snr_timesteps` and the rest of that of `uniform_timesteps`.

    Steps even in t leap over the noisiest part, where what all pixels share is decided; steps even
    in log-SNR are long where shapes are. This does neither.
    """
    noisy, clean = _finite_ends(log_snr_of)
    t = uniform_timesteps(steps).double()
    return _times_at(
        (1 - share) * log_snr_of(t) + share * (noisy + (1 - t) * (clean - noisy)), t_of, device
    )


TIMESTEP_SPACINGS = ("uniform", "log_snr", "karras", "mixed")


def spaced_timesteps(spacing: str, steps: int, log_snr_of: Schedule, device=None) -> Tensor:
    """`steps` + 1 times from 1 to 0 for any schedule; `spacing` is one of SPACINGS."""
    if spacing not in TIMESTEP_SPACINGS:
        raise ValueError(f"spacing {spacing!r}; expected one of {', '.join(TIMESTEP_SPACINGS)}")
    if spacing == "uniform":
        return uniform_timesteps(steps, device)
    times = {"log_snr": log_snr_timesteps, "karras": karras_timesteps, "mixed": mixed_timesteps}[
        spacing
    ]
    return times(steps, log_snr_of, lambda log_snr: numeric_t(log_snr, log_snr_of), device=device)


def _finite_ends(log_snr_of: Schedule) -> tuple[float, float]:
    noisy, clean = log_snr_of(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    if not math.isfinite(noisy) or not math.isfinite(clean):
        raise ValueError(
            f"the schedule goes from log_snr {noisy} to {clean}, and infinity cannot be "
            "divided into steps: use uniform_times"
        )
    return noisy, clean


def _times_at(log_snr: Tensor, t_of: Schedule, device) -> Tensor:
    times = t_of(log_snr)
    times[0], times[-1] = 1, 0  # exactly, whatever the inverse rounds to
    return times.float().to(device)
