"""The numbers of assignment 1: drawn by the student's id, and measured with the student's code.

Students get this file as it is, and `figures.py` calls it. The grader calls it with the reference.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import make_schedule
from imagen_mini.diffusion.timesteps import log_snr_timesteps
from imagen_mini.evaluation.analytic_denoisers import mixture_denoiser
from imagen_mini.evaluation.sampler_accuracy import fitted_order, integration_errors
from imagen_mini.utils.rng import randn

STEPS = (16, 32, 64, 128)
IMAGE_SIZE = 64
IMAGE_SAMPLERS = ("ddim", "dpmpp_2m")
ENOUGH_CORRECT = 6  # of 8 images, for all points


def drawn(student: str, purpose: str) -> random.Random:
    """A source of random choices for a student and a purpose."""
    return random.Random(f"hw1/{student.strip()}/{purpose}")


# ---------------------------------------------------------------- figure 1: error against steps


def gaussian_of(student: str) -> tuple[float, float]:
    """Mean and standard deviation of the student's normally distributed data."""
    source = drawn(student, "error")
    return round(source.uniform(-0.6, 0.6), 2), round(source.uniform(0.3, 0.9), 2)


def sampler_errors(student: str, sampler: str) -> list[tuple[int, float]]:
    """Pairs (network calls, mean error at t = 0) of a sampler on the student's data."""
    mean, std = gaussian_of(student)
    return list(integration_errors(sampler, STEPS, make_schedule("cosine"), mean, std))


def measure_error(student: str) -> dict[str, float]:
    """The errors of DDIM and DPM-Solver++ 2M, and the orders at which they fall."""
    found = {}
    for sampler in ("ddim", "dpmpp_2m"):
        pairs = sampler_errors(student, sampler)
        found |= {f"{sampler}_{calls}": error for calls, error in pairs}
        found[f"{sampler}_order"] = fitted_order(*zip(*pairs))
    return found


# ---------------------------------------------------------------- figure 2: with and without noise


def values_of(student: str) -> list[float]:
    """The three values that the student's data have, each equally often."""
    source = drawn(student, "noise")
    low, middle, high = (source.uniform(a, a + 0.4) for a in (-1.4, -0.2, 1.0))
    return [round(low, 2), round(middle, 2), round(high, 2)]


def trajectories(student: str, sampler: str, **options) -> tuple[list[float], Tensor]:
    """Times and values [steps + 1, 12] of twelve trajectories to the student's three values."""
    schedule = make_schedule("cosine")
    data = torch.tensor(values_of(student), dtype=torch.float64).reshape(-1, 1, 1, 1)
    times = log_snr_timesteps(40, schedule).double()
    seeds = range(12)
    x_T = randn(seeds, (1, 1, 1), "hw1", student.strip(), "x_T", dtype=torch.float64)

    def noise(step: int) -> Tensor:
        whose = ("hw1", student.strip(), "step", step)
        return randn(seeds, (1, 1, 1), *whose, dtype=torch.float64)

    states = sample(
        mixture_denoiser(data, schedule), x_T, times, schedule, sampler, noise, **options
    )
    values = torch.stack([x_T, *(state.x for state in states)])
    return times.tolist(), values.flatten(1)


def roughness(paths: Tensor) -> float:
    """The mean length of the steps of trajectories [steps + 1, n]."""
    return paths.diff(dim=0).abs().mean().item()


def measure_noise(student: str) -> dict[str, float]:
    """How rough the trajectories are, with no fresh noise, with half of it and with all of it."""
    return {
        "ddim": roughness(trajectories(student, "ddim")[1]),
        "ddim_half": roughness(trajectories(student, "ddim", eta=0.5)[1]),
        "ddpm": roughness(trajectories(student, "ddpm")[1]),
        "dpmpp_2m_all": roughness(trajectories(student, "dpmpp_2m", eta=1.0)[1]),
    }


MEASURED: dict[str, Callable[[str], dict[str, float]]] = {
    "error": measure_error,
    "noise": measure_noise,
}


# ---------------------------------------------------------------- figure 3: the shipped cascade


def captions_of(student: str) -> list[tuple[str, int]]:
    """Four captions with the seeds of their images."""
    source = drawn(student, "images")
    colors = source.sample(["red", "blue", "green", "yellow", "purple"], 4)
    shapes = source.sample(["circle", "square", "star", "ring", "cross"], 4)
    captions = [
        f"a large {colors[0]} {shapes[0]}",
        f"a {colors[1]} {shapes[1]}",
        f"a {colors[2]} {shapes[2]} to the left of a {colors[3]} {shapes[3]}",
        f"a {colors[0]} {shapes[3]} above a {colors[2]} {shapes[1]}",
    ]
    return [(caption, source.randrange(1000)) for caption in captions]


# ---------------------------------------------------------------- written answers


def written_numbers(student: str) -> dict[str, float]:
    """What is given in the written questions."""
    source = drawn(student, "written")
    r_t = round(source.uniform(2.0, 6.0), 2)
    snr_t = round(source.uniform(0.05, 0.5), 3)
    return {
        "y_t": round(source.uniform(1.0, 5.0), 2),
        "r_t": r_t,
        "r_s": round(r_t * source.uniform(0.3, 0.7), 2),
        "mean": round(source.uniform(-0.5, 0.5), 2),
        "std": round(source.uniform(0.3, 0.9), 2),
        "snr_t": snr_t,
        "snr_s": round(snr_t * source.uniform(2.0, 6.0), 3),
        "k": source.choice([2, 4, 8]),
        "rho": round(source.uniform(0.05, 0.4), 2),
    }
