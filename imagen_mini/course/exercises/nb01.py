"""Notebook 01: at which time does a larger image look as noisy as a small one?"""

from __future__ import annotations

import math

import torch

from imagen_mini.course.exercises import WrongAnswerError, checks
from imagen_mini.diffusion.schedules import cosine_log_snr, cosine_t

TIMES = (0.1, 0.35, 0.6, 0.75)
SIZES = (64, 128, 256, 1024)


@checks
def check(time_for) -> str:
    """`time_for(size, t)`, t a float64 tensor: when an image of `size`, averaged down to 64 px, is
    as noisy as one of 64 px at t; cosine schedule.
    """
    t = torch.tensor(TIMES, dtype=torch.float64)
    for size in SIZES:
        seen, averages = time_for(size, t.clone()), 2 * math.log(size / 64)
        expected = cosine_t(cosine_log_snr(t) - averages)
        said = f"for size {size} and t {t.tolist()}"
        if not isinstance(seen, torch.Tensor) or seen.shape != t.shape:
            raise WrongAnswerError(
                f"{said} you return {seen!r}, expected a tensor with one time for each t"
            )
        words = (
            f"{said} you say {[round(x, 3) for x in seen.tolist()]}, expected "
            f"{[round(x, 3) for x in expected.tolist()]}"
        )
        if (seen.double() - expected).abs().max() < 1e-6:
            continue
        if (seen.double() - (cosine_log_snr(t) - averages)).abs().max() < 1e-3:
            raise WrongAnswerError(
                f"{words}. These are log-SNRs; the time at which the schedule has them is "
                "asked for: cosine_t finds it"
            )
        if size == 64:
            raise WrongAnswerError(
                f"{words}. An image of 64 px has nothing to average: its time is t"
            )
        if (seen.double() < t).any():
            raise WrongAnswerError(
                f"{words}. Yours is earlier than t, so less noisy. Averaging takes noise away, "
                "so a larger image needs more of it: a later time"
            )
        if (seen.double() - cosine_t(cosine_log_snr(t) - averages / 2)).abs().max() < 1e-3:
            raise WrongAnswerError(
                f"{words}. Averaging divides the noise's deviation by size / 64, and the "
                "log-SNR has its square: twice as much in the logarithm"
            )
        raise WrongAnswerError(
            f"{words}. Go by way of the log-SNR: from t to it, add the shift, and back to a time"
        )
    return "An image twice as wide needs a log-SNR lower by 2 log 2 = 1.39."
