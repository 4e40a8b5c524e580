"""The inputs of the questions of assignment 3, drawn from a salt, and how the rest is graded.

Every part has generic inputs, so that no constant gets a point.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from imagen_mini.course.assignment import Part
from imagen_mini.course.assignments.hw3 import measurements
from imagen_mini.course.inputs import InputSource, in_float32
from imagen_mini.course.paperwork import (
    Graded,
    given_table,
    grade_counts,
    grade_derivation,
    grade_numbers,
    whose,
)
from imagen_mini.course.submission import Submission

WIDTH = 4  # of text embeddings


def _draw(salt: str, question: str) -> InputSource:
    return InputSource("hw3", salt, question)


# ---------------------------------------------------------------- guidance


def parts_guide(salt: str) -> list[Part]:
    draw = _draw(salt, "guide")

    def make(low: float, high: float) -> dict:
        w = draw.uniform(low=low, high=high).item()
        return {"cond": draw.noise(3), "uncond": draw.noise(3), "w": w}

    flat = {"cond": draw.normal(7), "uncond": draw.normal(7), "w": 3.0}
    return [
        Part("scales above 1", 2.5, [make(1.5, 9), make(1.5, 9), flat]),
        Part("scales below 1", 1.5, [make(0.1, 0.9), make(-2, -0.5)]),
        Part("float32", 1, [in_float32(make(1.5, 9))]),
    ]


def parts_interval(salt: str) -> list[Part]:
    draw = _draw(salt, "interval")

    def make(shift: float, low: float, high: float) -> dict:
        case = {"w": draw.uniform(low=2, high=8).item(), "shift": shift, "low": low, "high": high}
        return case | {"times": torch.linspace(0.01, 0.99, 41, dtype=torch.float64)}

    low = draw.uniform(2, low=0.2, high=0.6).tolist()
    high = draw.uniform(2, low=2.0, high=9.0).tolist()
    ends = {"w": 3.0, "straight": True, "times": torch.tensor([0.1, 0.5, 0.9]).double()}
    shifted = draw.uniform(low=-4.0, high=-1.0).item()
    return [
        Part("the cosine schedule", 3, [make(0.0, *pair) for pair in zip(low, high)]),
        Part("a shifted schedule", 2, [make(shifted, low[0], high[0])]),
        Part(
            "the ends of the interval",
            2,
            [ends | {"low": 0.5, "high": 1.0}, ends | {"low": 1.0, "high": 50.0}],
        ),
        Part(
            "no interval is refused",
            1,
            [make(0.0, 3.0, 0.5), make(0.0, -1.0, 2.0), make(0.0, low[1], high[1])],
        ),
    ]


# ---------------------------------------------------------------- thresholding


def _estimates(draw: InputSource, *sizes: float) -> dict:
    """Images whose values are about as large as `sizes`, with more light than dark."""
    scale = torch.tensor(sizes, dtype=torch.float64).reshape(-1, 1, 1, 1)
    return {"x_0_hat": scale * (draw.noise(len(sizes)) + 0.4)}


def parts_static(salt: str) -> list[Part]:
    draw = _draw(salt, "static")
    return [
        Part("values", 2, [_estimates(draw, 0.5, 1.0, 3.0), _estimates(draw, 2.0)]),
        Part("float32", 1, [in_float32(_estimates(draw, 0.5, 2.0))]),
    ]


def parts_dynamic(salt: str) -> list[Part]:
    draw = _draw(salt, "dynamic")
    percentiles = draw.uniform(3, low=0.7, high=0.97).tolist()
    outlier = _estimates(draw, 0.3, 0.3, 2.0)
    outlier["x_0_hat"] = outlier["x_0_hat"].clamp(-0.9, 0.9)
    outlier["x_0_hat"][:, 1, 2, 3] = torch.tensor([7.0, -5.0, 6.0], dtype=torch.float64)
    dark = _estimates(draw, 2.0, 4.0)
    dark["x_0_hat"] = -dark["x_0_hat"].abs()
    return [
        Part("images out of range", 4, [_estimates(draw, 2.0, 3.0, 5.0), _estimates(draw, 4.0)]),
        Part(
            "images in range beside others",
            3,
            [_estimates(draw, 0.1, 3.0), _estimates(draw, 5.0, 0.2, 0.1)],
        ),
        Part(
            "another percentile",
            3,
            [_estimates(draw, 1.5, 3.0) | {"percentile": p} for p in percentiles],
        ),
        Part("one outlier, and images that are dark", 1.5, [outlier | {"percentile": 0.9}, dark]),
        Part("float32", 1.5, [in_float32(_estimates(draw, 0.2, 2.0, 3.0))]),
    ]


# ---------------------------------------------------------------- the denoiser


def _words(draw: InputSource, b: int, n: int, name: str = "") -> dict:
    """Embeddings whose padding is large: whoever reads it goes far wrong."""
    mask = draw.mask(b, n)
    emb = draw.normal(b, n, WIDTH)
    return {f"{name}emb": torch.where(mask[..., None], emb, 5 + emb), f"{name}mask": mask}


def parts_denoiser(salt: str) -> list[Part]:
    draw = _draw(salt, "denoiser")

    def make(kind: str, b: int, t: float, threshold: str = "none", **more) -> dict:
        case = {"kind": kind, "x_t": draw.noise(b), "t": torch.tensor(t).double()}
        return case | _words(draw, b, 4) | {"threshold": threshold} | more

    def scale() -> float:
        return draw.uniform(low=2, high=7).item()

    def control(b: int) -> dict:
        return {"control": draw.noise(b)}

    shorter, longer = _words(draw, 3, 3, "neg_"), _words(draw, 3, 6, "neg_")
    late, early = (draw.uniform(low=a, high=a + 0.1).item() for a in (0.2, 0.6))
    refused = [
        make("v", 3, early, w=3.0) | _words(draw, 2, 4, "neg_"),
        make("v", 3, early, w=1.0) | _words(draw, 3, 4, "neg_"),
        make("v", 3, early, w=3.0) | longer,
    ]
    default = make("v", 2, early, w=4.0)
    del default["threshold"]
    return [
        Part(
            "without guidance: one image for each prompt",
            3,
            [make("x_0", 3, early, w=1.0), make("v", 2, late, w=1.0, shift=-2.0)],
        ),
        Part(
            "with guidance, whatever the network predicts",
            5,
            [make(kind, 3, t, w=scale()) for kind in ("x_0", "eps", "v") for t in (late, early)],
        ),
        Part(
            "with a threshold",
            3,
            [
                make("v", 3, early, "dynamic", w=scale()),
                make("eps", 2, late, "static", w=scale()),
                default,
            ],
        ),
        Part(
            "a scale that depends on t",
            2,
            [make("x_0", 3, t, slope=scale()) for t in (late, early)],
        ),
        Part(
            "a control of the prompts alone",
            2.5,
            [make("x_0", 3, t, w=scale(), **control(3)) for t in (late, early)]
            + [make("v", 2, early, w=1.0, **control(2))],
        ),
        Part(
            "negative prompts",
            1.5,
            [make("v", 3, early, w=scale()) | shorter, make("x_0", 3, late, w=scale()) | longer],
        ),
        Part("negative prompts that do not fit are refused", 1, refused),
    ]


# ---------------------------------------------------------------- text without words


def parts_null_text(salt: str) -> list[Part]:
    draw = _draw(salt, "null_text")
    return [
        Part("values", 3, [_words(draw, 3, 5), _words(draw, 2, 4)]),
        Part("float32", 1, [in_float32(_words(draw, 3, 6))]),
    ]


def parts_drop_text(salt: str) -> list[Part]:
    draw = _draw(salt, "drop_text")

    def make(*dropped: bool) -> dict:
        b = len(dropped)
        return _words(draw, b, 4 if b == 3 else b) | {"dropped": torch.tensor(dropped)}

    return [
        Part("some rows", 2.5, [make(True, False, False), make(False, True, True, False)]),
        Part(  # as many rows as words: a mask that meets the words fits, too
            "as many rows as words", 1, [make(True, False), make(False, True, False, False, True)]
        ),
        Part("float32", 0.5, [in_float32(make(False, True, False))]),
    ]


def parts_concatenate(salt: str) -> list[Part]:
    draw = _draw(salt, "concatenate")

    def make(*sizes: tuple[int, int]) -> dict:
        case: dict[str, Tensor] = {}
        for name, (b, n) in zip(("a_", "b_", "c_"), sizes):
            case |= _words(draw, b, n, name)
        return case

    return [
        Part("texts of one length", 2, [make((2, 4), (3, 4))]),
        Part("texts of several lengths", 2, [make((2, 3), (3, 6)), make((1, 5), (2, 2), (1, 4))]),
        Part("float32", 1, [in_float32(make((1, 3), (2, 5)))]),
    ]


# ---------------------------------------------------------------- figures and writing


def hw3_figure(name: str, submission: Submission, students: Collection[str]) -> Graded:
    """The share of a figure's points, and what is missing."""
    said, _ = whose(submission, students)
    if name in measurements.MEASURED:
        return grade_numbers(name, submission, said, measurements.MEASURED[name](said))
    # 1. The images, as the judge reads them.
    rows = len(measurements.ROWS)
    table = given_table(submission, "images", measurements.IMAGE_SIZE, measurements.IMAGES, rows)
    found = measurements.read_images(said, table)
    if name == "curve":
        return grade_counts(name, submission, found)
    # 2. How many are as captioned where all of them could be.
    correct = int(found["alignment_2"])
    if correct >= measurements.ENOUGH_CORRECT:
        return 1.0, []
    return correct / measurements.IMAGES, [
        f"{correct} of {measurements.IMAGES} images in the row of w = 2 show their caption"
    ]


def hw3_written(name: str, submission: Submission, students: Collection[str]) -> Graded:
    """The points of a written answer by the number that it ends with."""
    said, values = whose(submission, students)
    return grade_derivation(name, submission, values, hw3_written_answers(said)[name])


def hw3_written_answers(student: str) -> dict[str, float]:
    """The numbers that the derivations lead to."""
    given = measurements.given_numbers(student)
    # 1. p_c^w p^(1 - w) of two Gaussians: precisions add up with these weights.
    w, s_c, s = given["w"], given["s_c"], given["s"]
    narrow = (w / s_c**2 + (1 - w) / s**2) ** -0.5
    # 2. Guidance of eps in the convention of Ho and Salimans, then x_0_hat from eps.
    scale = given["w_hs"] + 1
    eps = scale * given["eps_c"] + (1 - scale) * given["eps_u"]
    snr = given["snr"]
    alpha, sigma = math.sqrt(snr / (1 + snr)), math.sqrt(1 / (1 + snr))
    convert = (given["x_t"] - sigma * eps) / alpha
    # 3. sigma / alpha = tan(pi t / 2) for the cosine schedule.
    share = 2 / math.pi * (math.atan(given["high"]) - math.atan(given["low"]))
    return {"narrow": narrow, "convert": convert, "calls": 1 + share}
