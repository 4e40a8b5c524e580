"""Noise schedules: how much noise there is at each time t.

    t            time in [0, 1]: 0 is the image, 1 is noise
    x_t          = alpha x_0 + sigma eps, with alpha^2 + sigma^2 = 1
    log_snr      = log(alpha^2 / sigma^2), a falling function of t

A schedule is a function t -> log_snr. Its inverse, log_snr -> t, stands next to it and is named
`..._t`. All schedules are clipped to the same range in the same way (`clipped`). All take a `shift`
that is added to the log-SNR: negative for more noise at every t, as larger images need.

Code that needs a schedule takes a `Schedule` object, which keeps a schedule and its inverse
together, or any function t -> log_snr. To add a schedule, write the function and add a row to
SCHEDULES, and its inverse, if there is a closed form, to SCHEDULE_INVERSES.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

ScheduleFunction = Callable[[Tensor], Tensor]  # t -> log_snr, elementwise; a Schedule is one
InverseFunction = Callable[[Tensor], Tensor]  # log_snr -> t, elementwise
# schedules that leave this range are clipped to it, before the shift
LOG_SNR_MAX, LOG_SNR_MIN = 12.0, -12.0


def in_float64(t: Tensor) -> Tensor:
    """Times or log-SNRs in float64, on the CPU.

    Apple's GPUs have no float64, and on the CPU a schedule is the same for every device.
    """
    return t.cpu().double()


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = sqrt(sigmoid(log_snr)) and sigma = sqrt(sigmoid(-log_snr)).

    Args:
        log_snr: any shape; -inf yields (0, 1), and inf yields (1, 0).

    Returns:
        alpha and sigma, both of the shape of `log_snr`.
    """
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


class Schedule:
    """A noise schedule: the log-SNR as a function of t, its inverse, and alpha and sigma.

    `schedule(t)` is `schedule.log_snr(t)`, so a schedule may be passed wherever a function of t is
    expected. All methods are elementwise and keep the shape and the precision of their argument.

    Args:
        log_snr: t in [0, 1] -> log-SNR, strictly falling.
        inverse: log-SNR -> t (default: by bisection, see `numeric_t`).
    """

    def __init__(self, log_snr: ScheduleFunction, inverse: InverseFunction | None = None):
        self._log_snr = log_snr
        self._inverse = partial(numeric_t, schedule=log_snr) if inverse is None else inverse

    def log_snr(self, t: Tensor) -> Tensor:
        """The log-SNR at time t."""
        return self._log_snr(t)

    def inverse(self, log_snr: Tensor) -> Tensor:
        """The time t at which the schedule has this log-SNR."""
        return self._inverse(log_snr)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at time t, each of the shape of `t`."""
        return alpha_sigma(self.log_snr(t))

    __call__ = log_snr


def as_schedule(schedule: ScheduleFunction) -> Schedule:
    """The schedule itself, or a function t -> log_snr as a `Schedule` with a numeric inverse."""
    return schedule if isinstance(schedule, Schedule) else Schedule(schedule)


def make_schedule(name: str, shift: float = 0.0) -> Schedule:
    """The schedule of this name, with its inverse.

    Args:
        name: a key of SCHEDULES: "cosine", "linear" or "sigmoid".
        shift: added to the log-SNR; negative for more noise (default: 0).

    Returns:
        A `Schedule`.

    Raises:
        ValueError: an unknown name.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r}; expected one of {', '.join(SCHEDULES)}")
    inverse = SCHEDULE_INVERSES.get(name)
    return Schedule(
        partial(SCHEDULES[name], shift=shift),
        None if inverse is None else partial(inverse, shift=shift),
    )


# ---------------------------------------------------------------- clipping


def _visible(raw_t: InverseFunction) -> tuple[float, float]:
    """The part of a raw schedule's time u in [0, 1] in which its log-SNR is between LOG_SNR_MAX and
    LOG_SNR_MIN.
    """
    first, last = (
        raw_t(torch.tensor([LOG_SNR_MAX, LOG_SNR_MIN], dtype=torch.float64)).clamp(0, 1).tolist()
    )
    return first, last


def clipped(raw: ScheduleFunction, raw_t: InverseFunction, t: Tensor) -> Tensor:
    """The log-SNR at t of a schedule `raw` (with inverse `raw_t`), clipped at both ends.

        log_snr(t) = raw(first + t (last - first))
        raw(first) = LOG_SNR_MAX,   raw(last) = LOG_SNR_MIN

    So t passes through a part of the raw schedule only. Where the raw schedule stays inside the
    range, its end is kept. Unlike a clamp, this leaves the schedule strictly falling.
    """
    first, last = _visible(raw_t)
    return raw(first + t * (last - first))


def clipped_t(raw_t: InverseFunction, log_snr: Tensor) -> Tensor:
    """The inverse of `clipped`."""
    first, last = _visible(raw_t)
    return (raw_t(log_snr) - first) / (last - first)


# ---------------------------------------------------------------- the schedules


def cosine_log_snr(t: Tensor, shift: float = 0.0) -> Tensor:
    """The cosine schedule: alpha = cos(pi t / 2), clipped at both ends.

        log_snr = -2 log tan(pi t / 2) + shift

    Args:
        t: times in [0, 1], any shape.
        shift: added to the log-SNR (default: 0).

    Returns:
        The log-SNR, of the shape of `t`.

    Reference:
        Improved DDPM, arXiv 2102.09672, for the cosine, here without its offset s = 0.008: both
        ends are clipped in log-SNR instead. Simple Diffusion (Hoogeboom et al., 2023), arXiv
        2301.11093, for its log-SNR and shift.
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
    """The linear schedule in continuous time: noise arrives at the rate beta(t) = 0.1 + 19.9 t.

        B = 0.1 t + 19.9 t^2 / 2
        alpha^2 = e^-B
        log_snr = -log(e^B - 1) + shift

    It starts at LOG_SNR_MAX, where it is clipped, and ends at -10.05. DDPM's 1000 discrete betas
    differ from it by less than 0.16 in log-SNR (see `log_snr_from_betas`), and by less than 0.1
    after the first few. Imagen's 256 -> 1024 stage uses it.

    Args:
        t: times in [0, 1], any shape.
        shift: added to the log-SNR (default: 0).

    Returns:
        The log-SNR, of the shape of `t`.

    Reference:
        DDPM, arXiv 2006.11239, Section 4, for the betas; Score-based SDEs (Song et al., 2021),
        arXiv 2011.13456, for continuous time.
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
    """The sigmoid schedule: alpha^2 falls from 1 to 0 along a piece of a sigmoid, clipped at both
    ends.

        g(z) = sigmoid(z / tau),   z = start + t (end - start)
        alpha^2 = (g(end) - g(z)) / (g(end) - g(start))

    Args:
        t: times in [0, 1], any shape.
        shift: added to the log-SNR (default: 0).
        start, end: which piece of the sigmoid (default: -3 to 3).
        tau: a larger one brings alpha^2 closer to a straight line (default: 1).

    Returns:
        The log-SNR, of the shape of `t`.

    Reference:
        Scalable Adaptive Computation for Iterative Generation (Jabri et al., 2022), arXiv
        2212.11972; On the Importance of Noise Scheduling for Diffusion Models (Chen, 2023), arXiv
        2301.10972.
    """
    raw = partial(_sigmoid, start=start, end=end, tau=tau)
    raw_t = partial(_sigmoid_t, start=start, end=end, tau=tau)
    return clipped(raw, raw_t, t) + shift


def sigmoid_t(
    log_snr: Tensor, shift: float = 0.0, start: float = -3.0, end: float = 3.0, tau: float = 1.0
) -> Tensor:
    """The inverse of `sigmoid_log_snr`."""
    return clipped_t(partial(_sigmoid_t, start=start, end=end, tau=tau), log_snr - shift)


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


# The schedules that a stage may be trained with, by name; each is called with (t, shift).
SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "cosine": cosine_log_snr,
    "linear": linear_log_snr,
    "sigmoid": sigmoid_log_snr,
}
# Their inverses, each called with (log_snr, shift). A schedule without a row here is inverted by
# bisection.
SCHEDULE_INVERSES: dict[str, Callable[..., Tensor]] = {
    "cosine": cosine_t,
    "linear": linear_t,
    "sigmoid": sigmoid_t,
}


# ---------------------------------------------------------------- any falling function of t


def numeric_t(log_snr: Tensor, schedule: ScheduleFunction) -> Tensor:
    """The inverse of any falling schedule, by bisection in float64.

    Args:
        log_snr: any shape.
        schedule: t -> log-SNR, falling.

    Returns:
        The times t in [0, 1] at which the schedule has this log-SNR, at least in float32.
    """
    target = in_float64(log_snr)
    low = torch.zeros_like(target)
    high = torch.ones_like(target)
    for _ in range(60):
        middle = (low + high) / 2
        too_clean = schedule(middle) > target
        low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
    t = ((low + high) / 2).to(torch.promote_types(log_snr.dtype, torch.float32))
    return t.to(log_snr.device)


# ---------------------------------------------------------------- larger images


def resolution_shift(size: int, reference: int = 64) -> float:
    """The shift that makes images of `size` as noisy as images of `reference` px are unshifted.

        shift = 2 log(reference / size)

    Averaging k x k pixels divides the standard deviation of the noise by k. With the shift, an
    image averaged down to `reference` has the log-SNR of the unshifted schedule.

    Reference:
        Simple Diffusion (Hoogeboom et al., 2023), arXiv 2301.11093.
    """
    return 2 * math.log(reference / size)


def interpolated_log_snr(
    t: Tensor, size: int, low: int, high: int, schedule: ScheduleFunction = cosine_log_snr
) -> Tensor:
    """A schedule shifted as for `low` where there is much noise and as for `high` where there is
    little.

        log_snr(t) = schedule(t) + t shift_low + (1 - t) shift_high
        shift_low = resolution_shift(size, low),   shift_high = resolution_shift(size, high)

    It has no closed inverse: use `numeric_t`.

    Args:
        t: times in [0, 1], any shape.
        size: the side of the images, in pixels.
        low, high: reference sides; low <= high, or the log-SNR need not fall in t.
        schedule: the schedule that is shifted (default: `cosine_log_snr`).

    Returns:
        The log-SNR, of the shape of `t`.

    Raises:
        ValueError: low > high.

    Reference:
        Simple Diffusion (Hoogeboom et al., 2023), arXiv 2301.11093.
    """
    if low > high:
        raise ValueError(
            f"low {low} is larger than high {high}; noise at t = 1 is that of the smaller "
            "image: swap them"
        )
    return schedule(t) + t * resolution_shift(size, low) + (1 - t) * resolution_shift(size, high)


# ---------------------------------------------------------------- pure noise at t = 1


def rescale_terminal_snr(log_snr: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Rescale alpha linearly, so that `last` becomes pure noise and `first` stays.

        alpha -> alpha_first (alpha - alpha_last) / (alpha_first - alpha_last)

    Args:
        log_snr: any shape.
        first, last: the log-SNR of the schedule at t = 0 and t = 1, scalars.

    Returns:
        The rescaled log-SNR; -inf where it was `last`.

    Reference:
        Lin et al. (2023), arXiv 2305.08891, Algorithm 1.
    """
    # 1. alpha of the schedule and of its two ends, in float64.
    alpha, alpha_first, alpha_last = (alpha_sigma(in_float64(x))[0] for x in (log_snr, first, last))
    # 2. The straight line that takes alpha_last to 0 and keeps alpha_first.
    alpha = alpha_first * (alpha - alpha_last) / (alpha_first - alpha_last)
    # 3. What rounding leaves of alpha_last - alpha_last is 0.
    alpha = torch.where(alpha > 1e-12, alpha, 0.0)
    # 4. Back to the log-SNR: logit(alpha^2).
    return torch.logit(alpha**2).to(log_snr)


def zero_terminal_snr(schedule: ScheduleFunction) -> Schedule:
    """The same schedule, made to end in pure noise: log_snr(1) = -inf, and log_snr(0) as before.

    At t = 1 nothing of x_0 is left, so a prediction of eps says nothing there: predict x_0 or v. A
    network that embeds the log-SNR needs a finite number instead of -inf.

    Args:
        schedule: t -> log-SNR, falling.

    Returns:
        A `Schedule` with a numeric inverse.

    Reference:
        Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2023), arXiv
        2305.08891.
    """

    def rescaled(t: Tensor) -> Tensor:
        first, last = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return rescale_terminal_snr(schedule(in_float64(t)), first, last).to(t)

    return Schedule(rescaled)


# ---------------------------------------------------------------- DDPM's discrete steps


def log_snr_from_betas(betas: Tensor) -> Tensor:
    """DDPM's betas as log-SNRs.

        alpha_bar_i = (1 - beta_1) ... (1 - beta_i) = alpha^2
        log_snr_i = log(alpha_bar_i / (1 - alpha_bar_i))

    Args:
        betas: the variances of DDPM's n steps, [n], each in (0, 1].

    Returns:
        The log-SNR after each step, [n]. Entry 0 belongs to DDPM's first step, t = 1 / n in our
        time, and the last one to t = 1.

    Reference:
        DDPM, arXiv 2006.11239, Eq. (4).
    """
    log_alpha_bar = torch.log1p(-betas).cumsum(0)
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))
