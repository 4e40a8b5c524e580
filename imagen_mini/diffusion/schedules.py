"""Noise schedules: time t in [0, 1] -> log-SNR -> (alpha, sigma). t = 1 is noise.

    x_t = alpha x_0 + sigma eps,    alpha^2 + sigma^2 = 1,    log_snr = log(alpha^2 / sigma^2), falling in t

A schedule is a function of t; next to it stands its inverse. All of them are clipped in the same
way (`clipped`), and all take a `shift` that is added to the log-SNR: negative for more noise at
every t, as larger images need.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Schedule = Callable[[Tensor], Tensor]  # t -> log_snr, or the inverse of one, elementwise
# schedules that leave this range are clipped to it, before the shift
LOG_SNR_MAX, LOG_SNR_MIN = 12.0, -12.0


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = sqrt(sigmoid(log_snr)), sigma = sqrt(sigmoid(-log_snr)), of the shape of `log_snr`.
    -inf gives (0, 1).
    """
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


# ---------------------------------------------------------------- clipping


def _visible(raw_t: Schedule) -> tuple[float, float]:
    """The part of a raw schedule's own time u in [0, 1] in which its log-SNR is between LOG_SNR_MAX
    and LOG_SNR_MIN.
    """
    first, last = (
        raw_t(torch.tensor([LOG_SNR_MAX, LOG_SNR_MIN], dtype=torch.float64)).clamp(0, 1).tolist()
    )
    return first, last


def clipped(raw: Schedule, raw_t: Schedule, t: Tensor) -> Tensor:
    """The log-SNR at t of a schedule `raw` (with inverse `raw_t`), clipped at both ends by walking
    through a part of it only:

        log_snr(t) = raw(first + t (last - first)),   raw(first) = LOG_SNR_MAX, raw(last) = LOG_SNR_MIN

    Where the raw schedule stays inside the range, its own end is kept. Unlike a clamp, this leaves
    it strictly falling.
    """
    first, last = _visible(raw_t)
    return raw(first + t * (last - first))


def clipped_t(raw_t: Schedule, log_snr: Tensor) -> Tensor:
    """The inverse of `clipped`."""
    first, last = _visible(raw_t)
    return (raw_t(log_snr) - first) / (last - first)


# ---------------------------------------------------------------- the schedules


def cosine_log_snr(t: Tensor, shift: float = 0.0) -> Tensor:
    """The cosine schedule: alpha = cos(pi t / 2), so log_snr = -2 log tan(pi t / 2) + shift;
    clipped at both ends.

    t in [0, 1], any shape.

    Source: Improved DDPM (2021) for the cosine; Simple Diffusion (Hoogeboom et al., 2023) for its
    log-SNR and shift.
    """
    return clipped(_cosine, _cosine_t, t) + shift


def cosine_t(log_snr: Tensor, shift: float = 0.0) -> Tensor:
    """The inverse of `cosine_log_snr`: at which time t the schedule has this log-SNR."""
    return clipped_t(_cosine_t, log_snr - shift)


def _cosine(u: Tensor) -> Tensor:
    return -2 * torch.log(torch.tan(math.pi / 2 * u))


def _cosine_t(log_snr: Tensor) -> Tensor:
    return 2 / math.pi * torch.atan(torch.exp(-log_snr / 2))


# 1000 steps of beta = 1e-4 ... 0.02, as noise per unit of time
LINEAR_FIRST, LINEAR_LAST = 0.1, 20.0


def linear_log_snr(t: Tensor, shift: float = 0.0) -> Tensor:
    """The linear schedule in continuous time: noise arrives at a rate beta(t) = 0.1 + 19.9 t, so

        alpha^2 = e^-B,   B = 0.1 t + 19.9 t^2 / 2,   log_snr = -log(e^B - 1) + shift

    It starts at LOG_SNR_MAX, where it is clipped, and ends at -10.05. DDPM's 1000 discrete betas
    differ from it by less than 0.16 in log-SNR (see `log_snr_from_betas`), and by less than 0.1
    after the first few. Imagen's 256 -> 1024 stage uses it.

    Source: DDPM (2020), Section 4, for the betas; Score-based SDEs (Song et al., 2021) for
    continuous time.
    """
    return clipped(_linear, _linear_t, t) + shift


def linear_t(log_snr: Tensor, shift: float = 0.0) -> Tensor:
    """The inverse of `linear_log_snr`."""
    return clipped_t(_linear_t, log_snr - shift)


def _linear(u: Tensor) -> Tensor:
    b = LINEAR_FIRST * u + (LINEAR_LAST - LINEAR_FIRST) / 2 * u**2
    return -torch.log(torch.expm1(b))


def _linear_t(log_snr: Tensor) -> Tensor:
    b = -F.logsigmoid(log_snr)  # then the root of B(u) = b, in the form that does not cancel
    return 2 * b / (LINEAR_FIRST + (LINEAR_FIRST**2 + 2 * (LINEAR_LAST - LINEAR_FIRST) * b).sqrt())


def sigmoid_log_snr(
    t: Tensor, shift: float = 0.0, start: float = -3.0, end: float = 3.0, tau: float = 1.0
) -> Tensor:
    """The sigmoid schedule: alpha^2 falls from 1 to 0 along a piece of a sigmoid,

        alpha^2 = (g(end) - g(z)) / (g(end) - g(start)),   z = start + t (end - start),   g(z) = sigmoid(z / tau)

    and is clipped at both ends. A larger `tau` brings it closer to a straight line.

    Source: Jabri et al. (2022), "Scalable Adaptive Computation for Iterative Generation"; Chen
    (2023), "On the Importance of Noise Scheduling for Diffusion Models".
    """
    return (
        clipped(lambda u: _sigmoid(u, start, end, tau), lambda l: _sigmoid_t(l, start, end, tau), t)
        + shift
    )


def sigmoid_t(
    log_snr: Tensor, shift: float = 0.0, start: float = -3.0, end: float = 3.0, tau: float = 1.0
) -> Tensor:
    """The inverse of `sigmoid_log_snr`."""
    return clipped_t(lambda l: _sigmoid_t(l, start, end, tau), log_snr - shift)


def _sigmoid(u: Tensor, start: float, end: float, tau: float) -> Tensor:
    g_start, g_end = _logistic(start / tau), _logistic(end / tau)
    g = torch.sigmoid((start + u * (end - start)) / tau)
    return torch.log((g_end - g) / (g - g_start))


def _sigmoid_t(log_snr: Tensor, start: float, end: float, tau: float) -> Tensor:
    g_start, g_end = _logistic(start / tau), _logistic(end / tau)
    g = g_end - torch.sigmoid(log_snr) * (g_end - g_start)
    return (tau * torch.logit(g) - start) / (end - start)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# what a stage may be trained with, by the name in its configuration; each is called with (t, shift)
SCHEDULES = {"cosine": cosine_log_snr, "linear": linear_log_snr, "sigmoid": sigmoid_log_snr}


# ---------------------------------------------------------------- larger images, pure noise


def resolution_shift(size: int, reference: int = 64) -> float:
    """2 log(reference / size): the shift that gives images of `size` the log-SNR at `reference`
    when averaged down to it.

    Averaging k x k pixels divides the noise's deviation by k. Source: Simple Diffusion (Hoogeboom
    et al., 2023).
    """
    return 2 * math.log(reference / size)


def interpolated_log_snr(
    t: Tensor, size: int, low: int, high: int, log_snr_of: Schedule = cosine_log_snr
) -> Tensor:
    """A schedule shifted as for `low` where there is much noise and as for `high` where there is
    little:

        log_snr(t) = t (log_snr_of(t) + resolution_shift(size, low)) + (1 - t) (log_snr_of(t) + resolution_shift(size, high))

    low <= high, or it need not fall in t. It has no closed inverse: use `numeric_t`. Source: Simple
    Diffusion (Hoogeboom et al., 2023).
    """
    if low > high:
        raise ValueError(
            f"low {low} is larger than high {high}; noise at t = 1 is that of the smaller "
            "image: swap them"
        )
    return log_snr_of(t) + t * resolution_shift(size, low) + (1 - t) * resolution_shift(size, high)


def rescale_terminal_snr(log_snr: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """alpha -> alpha_first (alpha - alpha_last) / (alpha_first - alpha_last): `last` becomes -inf,
    `first` stays.

    `first` and `last` are the schedule's log-SNR at its two ends. Source: Lin et al. (2023),
    Algorithm 1.
    """
    alpha, alpha_first, alpha_last = (alpha_sigma(x.double())[0] for x in (log_snr, first, last))
    alpha = alpha_first * (alpha - alpha_last) / (alpha_first - alpha_last)
    # what rounding leaves of alpha_last - alpha_last
    alpha = torch.where(alpha > 1e-12, alpha, 0.0)
    return torch.logit(alpha**2).to(log_snr.dtype)


def zero_terminal_snr(log_snr_of: Schedule) -> Schedule:
    """The schedule `log_snr_of`, made to end in pure noise: log_snr(1) = -inf, log_snr(0) as
    before. Inverse: `numeric_t`.

    At t = 1 nothing of x_0 is left, so a prediction of eps says nothing there: predict x_0 or v. A
    network that embeds the log-SNR needs a finite number in its place.

    Source: Lin et al. (2023), "Common Diffusion Noise Schedules and Sample Steps are Flawed".
    """

    def rescaled(t: Tensor) -> Tensor:
        first, last = log_snr_of(torch.tensor([0.0, 1.0], dtype=torch.float64, device=t.device))
        return rescale_terminal_snr(log_snr_of(t.double()), first, last).to(t.dtype)

    return rescaled


def numeric_t(log_snr: Tensor, log_snr_of: Schedule) -> Tensor:
    """The inverse of any falling schedule, by bisection in float64: at which t in [0, 1] it has
    this log-SNR.
    """
    low = torch.zeros_like(log_snr, dtype=torch.float64)
    high = torch.ones_like(low)
    for _ in range(60):
        middle = (low + high) / 2
        too_clean = log_snr_of(middle) > log_snr
        low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
    return ((low + high) / 2).to(torch.promote_types(log_snr.dtype, torch.float32))


# ---------------------------------------------------------------- DDPM's discrete steps


def log_snr_from_betas(betas: Tensor) -> Tensor:
    """DDPM's betas [n] -> log-SNR [n]: alpha_bar_i = (1 - beta_1) ... (1 - beta_i),  log_snr_i =
    log(alpha_bar_i / (1 - alpha_bar_i)).

    Entry 0 belongs to DDPM's first step, t = 1 / n in our time, and the last one to t = 1.
    alpha_bar is our alpha^2, that is sigmoid(log_snr). Source: DDPM (2020), Eq. (4).
    """
    log_alpha_bar = torch.log1p(-betas).cumsum(0)
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


def betas_from_log_snr(log_snr: Tensor) -> Tensor:
    """log-SNR [n], falling, at DDPM's n steps -> its betas [n]: beta_i = 1 - alpha_bar_i /
    alpha_bar_(i - 1), alpha_bar_0 = 1.
    """
    log_alpha_bar = F.logsigmoid(log_snr)
    return -torch.expm1(torch.diff(log_alpha_bar, prepend=torch.zeros_like(log_alpha_bar[:1])))


# ---------------------------------------------------------------- where the sampler stops
