"""The inputs of the questions of assignment 1, drawn from a salt, and how the rest is graded.

Every part has generic inputs, so that no constant gets a point. Images have a height that is not
their width; batches of 3 are there on purpose: coefficients that meet the channels by mistake fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from imagen_mini.course.assignment import Part
from imagen_mini.course.assignments.hw1 import measurements
from imagen_mini.course.inputs import InputSource, in_float32
from imagen_mini.course.paperwork import (
    Graded,
    grade_derivation,
    grade_image_table,
    grade_numbers,
    whose,
)
from imagen_mini.course.submission import Submission

# ---------------------------------------------------------------- schedules


def parts_alpha_sigma(salt: str) -> list[Part]:
    draw = InputSource("hw1", salt, "alpha_sigma")
    ends = torch.tensor([math.inf, -math.inf, 60.0, -60.0], dtype=torch.float64)
    high = draw.uniform(40, low=8.0, high=16.0).float()
    return [
        Part("values", 2.5, [{"log_snr": draw.uniform(7, 5)}, {"log_snr": draw.uniform()}]),
        Part(
            "very large, very small and infinite",
            1,
            [{"log_snr": torch.cat((ends, draw.uniform(9)))}],
        ),
        Part("float32 where there is almost no noise", 1.5, [{"log_snr": high}], relative=True),
    ]


def parts_cosine(salt: str) -> list[Part]:
    draw = InputSource("hw1", salt, "cosine")
    inner = {"low": 0.05, "high": 0.95}
    return [
        Part("values", 2, [{"u": draw.uniform(30, **inner)}]),
        Part("any shape", 1, [{"u": draw.uniform(**inner)}, {"u": draw.uniform(3, 1, 2, **inner)}]),
        Part("float32", 1, [{"u": draw.uniform(30, **inner).float()}]),
    ]


def parts_cosine_inverse(salt: str) -> list[Part]:
    draw = InputSource("hw1", salt, "cosine_inverse")
    shapes = [{"log_snr": draw.uniform()}, {"log_snr": draw.uniform(3, 1, 2)}]
    return [
        Part("values", 1.5, [{"log_snr": draw.uniform(30)}]),
        Part("any shape", 1, shapes),
        Part("float32", 0.5, [{"log_snr": draw.uniform(30).float()}]),
    ]


# ---------------------------------------------------------------- the forward process


def _image_parts(
    points: tuple[float, float, float], make: Callable[[int, Tensor], dict]
) -> list[Part]:
    """Parts of a function of images and a noise level: one level for each image, one for all, and
    float32. `make(b, log_snr)` draws a case.
    """
    each, one, single = points
    empty = torch.empty(0)
    return [
        Part(
            "a noise level for each image", each, [make(3, empty), make(2, empty), make(4, empty)]
        ),
        Part(
            "one noise level for all images",
            one,
            [make(4, torch.tensor(0.0)), make(3, torch.tensor(0.0))],
        ),
        Part("float32", single, [in_float32(make(3, empty))]),
    ]


def _levels(draw: InputSource, b: int, like: Tensor, most: float = 6.0) -> Tensor:
    """Log-SNRs, one for all where `like` is a scalar."""
    return draw.uniform(*(() if like.ndim == 0 else (b,)), low=-most, high=most)


def parts_q_sample(salt: str) -> list[Part]:
    draw = InputSource("hw1", salt, "q_sample")

    def make(b: int, like: Tensor) -> dict:
        return {"x_0": draw.image(b), "eps": draw.noise(b), "log_snr": _levels(draw, b, like)}

    ends = make(4, torch.empty(0))
    ends["log_snr"] = torch.tensor([math.inf, -math.inf, 1.0, 25.0], dtype=torch.float64)
    return [*_image_parts((2, 1, 1), make), Part("no noise and pure noise", 1, [ends])]


def _noisy(draw: InputSource, name: str):
    def make(b: int, like: Tensor) -> dict:
        # not a noisy image of the first one: both are free, as an estimate is
        return {name: draw.image(b), "x_t": draw.noise(b), "log_snr": _levels(draw, b, like, 4.0)}

    return make


def parts_eps_from_x_0(salt: str) -> list[Part]:
    return _image_parts((1.5, 1, 0.5), _noisy(InputSource("hw1", salt, "eps_from_x_0"), "x_0"))


def parts_x_0_from_eps(salt: str) -> list[Part]:
    draw = InputSource("hw1", salt, "x_0_from_eps")
    make = _noisy(draw, "eps")
    pure = make(2, torch.empty(0))
    pure["log_snr"] = torch.tensor([0.5, -math.inf], dtype=torch.float64)
    cases = [pure, make(3, torch.empty(0))]
    return [*_image_parts((1, 0.5, 0.5), make), Part("pure noise is refused", 1, cases)]


def parts_v_from_x_0(salt: str) -> list[Part]:
    return _image_parts((2, 1, 1), _noisy(InputSource("hw1", salt, "v_from_x_0"), "x_0"))


def parts_x_0_from_v(salt: str) -> list[Part]:
    return _image_parts((2, 1, 1), _noisy(InputSource("hw1", salt, "x_0_from_v"), "v"))


# ---------------------------------------------------------------- the loss


def parts_min_snr_weight(salt: str) -> list[Part]:
    draw = InputSource("hw1", salt, "min_snr_weight")
    gammas = draw.uniform(3, low=1.5, high=20.0).tolist()
    return [
        Part("values", 1.5, [{"log_snr": draw.uniform(40, low=-6.0, high=6.0)}]),
        Part(
            "another gamma",
            1.5,
            [{"log_snr": draw.uniform(40, low=-6.0, high=6.0), "gamma": g} for g in gammas],
        ),
    ]


def parts_denoising_loss(salt: str) -> list[Part]:
    draw = InputSource("hw1", salt, "denoising_loss")

    def make(kind: str, b: int, **options) -> dict:
        x_0, eps, log_snr = draw.image(b), draw.noise(b), draw.uniform(b, low=-5.0, high=5.0)
        level = log_snr.reshape(-1, 1, 1, 1)
        x_t = torch.sigmoid(level).sqrt() * x_0 + torch.sigmoid(-level).sqrt() * eps
        case = {"prediction": draw.noise(b), "kind": kind, "x_0": x_0, "x_t": x_t}
        return case | {"log_snr": log_snr} | options

    slope = draw.uniform(low=0.2, high=0.6).item()
    return [
        Part("a network that predicts v", 1.5, [make("v", 3), make("v", 4)]),
        Part("a network that predicts eps", 1, [make("eps", 3), make("eps", 4)]),
        Part("a network that predicts x_0", 1, [make("x_0", 3), make("x_0", 4)]),
        Part("another weight", 1.5, [make(k, 3, slope=slope) for k in ("x_0", "eps", "v")]),
        Part("the gradient", 2, [make(k, 2, gradient=True) for k in ("v", "x_0")]),
    ]


# ---------------------------------------------------------------- samplers


def _steps(draw: InputSource, b: int, each: bool, **more) -> dict:
    """A step from more noise to less, with inputs that are free of one another."""
    shape = (b,) if each else ()
    log_snr_t = draw.uniform(*shape, low=-6.0, high=3.0)
    case = {"x_t": draw.noise(b), "x_0_hat": draw.image(b), "log_snr_t": log_snr_t}
    return case | {"log_snr_s": log_snr_t + draw.uniform(*shape, low=0.3, high=4.0)} | more


def parts_ddim_step(salt: str) -> list[Part]:
    draw = InputSource("hw1", salt, "ddim_step")
    plain = [_steps(draw, 3, True), _steps(draw, 4, True), _steps(draw, 2, True)]
    one = [_steps(draw, 3, False), _steps(draw, 4, False)]
    etas = draw.uniform(2, low=0.2, high=0.9).tolist()
    some = [
        _steps(draw, 3, each, noise=draw.noise(3), eta=e) for e in etas for each in (True, False)
    ]
    full = [_steps(draw, 3, True, noise=draw.noise(3), eta=1.0)]
    return [
        Part("no fresh noise, a noise level for each image", 3, plain),
        Part("no fresh noise, one noise level for all", 1, one),
        Part("a share eta of fresh noise", 2, some),
        Part("eta = 1", 1, full),
        Part("float32", 1, [in_float32(plain[0]), in_float32(some[0])]),
    ]


def parts_ddpm_step(salt: str) -> list[Part]:
    draw = InputSource("hw1", salt, "ddpm_step")
    small = [_steps(draw, b, True, noise=draw.noise(b)) for b in (3, 4)]
    one = [_steps(draw, b, False, noise=draw.noise(b)) for b in (3, 4)]
    gammas = draw.uniform(2, low=0.2, high=1.0).tolist()
    larger = [_steps(draw, 3, True, noise=draw.noise(3), gamma=g) for g in gammas]
    pure = _steps(draw, 3, False, noise=draw.noise(3))
    pure["log_snr_s"], pure["log_snr_t"] = pure["log_snr_t"], torch.tensor(-math.inf).double()
    return [
        Part("a noise level for each image", 2, small),
        Part("one noise level for all", 1, one),
        Part("a larger variance, gamma > 0", 1.5, larger),
        Part("from pure noise, where alpha is 0", 1, [pure]),
        Part("float32", 0.5, [in_float32(small[0])]),
    ]


def parts_dpmpp_2m_step(salt: str) -> list[Part]:
    draw = InputSource("hw1", salt, "dpmpp_2m_step")

    def make(b: int, **more) -> dict:
        case = _steps(draw, b, False, x_0_hat_r=draw.image(b), **more)
        return case | {"log_snr_r": case["log_snr_t"] - draw.uniform(low=0.3, high=3.0)}

    first = _steps(draw, 3, False)
    noisy = [make(3, noise=draw.noise(3), eta=e) for e in (1.0, 0.6)]
    return [
        Part("a step with the one before, and the first step", 3, [make(3), make(4), first]),
        Part("with fresh noise", 1.5, noisy),
        Part("float32", 0.5, [in_float32(make(3))]),
    ]


# ---------------------------------------------------------------- figures and writing


def hw1_figure(name: str, submission: Submission, students: Collection[str]) -> Graded:
    """The share of a figure's points, and what is missing."""
    said, _ = whose(submission, students)
    if name in measurements.MEASURED:
        return grade_numbers(name, submission, said, measurements.MEASURED[name](said))
    return grade_image_table(
        name,
        submission,
        [caption for caption, _ in measurements.captions_of(said)],
        measurements.IMAGE_SIZE,
        len(measurements.IMAGE_SAMPLERS),
        measurements.ENOUGH_CORRECT,
    )


def hw1_written(name: str, submission: Submission, students: Collection[str]) -> Graded:
    """The points of a written answer by the number that it ends with."""
    said, values = whose(submission, students)
    return grade_derivation(name, submission, values, hw1_written_answers(said)[name])


def hw1_written_answers(student: str) -> dict[str, float]:
    """The numbers that the derivations lead to."""
    given = measurements.written_numbers(student)
    # 1. One Euler step in y = x / alpha over r = sigma / alpha: y_s = y_t + (r_s - r_t) eps_hat.
    y_t, r_t, r_s = given["y_t"], given["r_t"], given["r_s"]
    mean, std = given["mean"], given["std"]
    slope = r_t * (y_t - mean) / (std**2 + r_t**2)
    # 2. The factor of x_0_hat in the posterior's mean over its standard deviation.
    snr_t, snr_s = given["snr_t"], given["snr_s"]
    alpha_s, sigma_s = math.sqrt(snr_s / (1 + snr_s)), math.sqrt(1 / (1 + snr_s))
    factor = (1 - snr_t / snr_s) * alpha_s
    deviation = math.sqrt(1 - snr_t / snr_s) * sigma_s
    # 3. The log-SNR that averaging adds, with a correlation rho between any two pixels' noise.
    k, rho = given["k"], given["rho"]
    return {
        "euler": y_t + (r_s - r_t) * slope,
        "posterior": factor / deviation,
        "shift": math.log(k**2 / (1 + (k**2 - 1) * rho)),
    }
