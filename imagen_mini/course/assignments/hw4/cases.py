"""The inputs of the questions of assignment 4, drawn from a salt, and how the rest is graded.

Every part has generic inputs, so that no constant gets a point. Networks have weights from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from imagen_mini.course.assignment import Part
from imagen_mini.course.assignments.hw4 import measurements
from imagen_mini.course.inputs import InputSource, in_float32
from imagen_mini.course.paperwork import (
    Graded,
    given_table,
    grade_counts,
    grade_derivation,
    grade_image_table,
    grade_numbers,
    whose,
)
from imagen_mini.course.submission import Submission

WIDTH = 16  # of text embeddings


def _draw(salt: str, question: str, size: int = 8) -> InputSource:
    return InputSource("hw4", salt, question, (3, size, size))


# ---------------------------------------------------------------- augmentation


def parts_augment(salt: str) -> list[Part]:
    draw = InputSource("hw4", salt, "augment")

    def make(b: int, low: float = 0.05, high: float = 0.95) -> dict:
        level = draw.uniform(b, low=low, high=high)
        return {"low_res": draw.image(b), "aug_level": level, "noise": draw.noise(b)}

    ends = make(3)
    ends["aug_level"] = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    return [
        Part("a level for each image", 3.5, [make(3), make(2), make(4)]),
        Part("no noise and noise alone", 1.5, [ends]),
        Part("float32", 1, [in_float32(make(3))]),
    ]


def parts_augmented(salt: str) -> list[Part]:
    draw = InputSource("hw4", salt, "augmented")

    def make(name: str, b: int) -> dict:
        seeds = [draw.number(0, 10_000) for _ in range(b)]
        level = draw.uniform(low=0.1, high=0.5).item()
        case = {"name": name, "low_res": draw.image(b).float(), "seeds": seeds}
        return case | {"level": level}

    other = make("sr_256", 2) | {"base": True}
    return [
        Part("super-resolution", 3.5, [make("sr_256", 3), make("sr_1024", 2)]),
        Part("a base stage, and another one", 2.5, [other, make("sr_256", 1)]),
    ]


# ---------------------------------------------------------------- the loss and the denoiser


def _words(draw: InputSource, b: int, n: int, name: str = "") -> dict:
    mask = draw.mask(b, n)
    return {f"{name}emb": draw.normal(b, n, WIDTH), f"{name}mask": mask}


def _condition(draw: InputSource, b: int) -> dict:
    """What super-resolution is given beside the noisy image."""
    level = draw.uniform(b, low=0.1, high=0.6)
    return {"low_res": draw.normal(b, 3, 4, 4).tanh(), "aug_level": level}


def parts_stage_loss(salt: str) -> list[Part]:
    draw = _draw(salt, "stage_loss")

    def make(prediction: str, b: int = 2, **more) -> dict:
        case = {"seed": draw.number(0, 2**31), "prediction": prediction, "x_0": draw.image(b)}
        case |= {"eps": draw.noise(b), "t": draw.uniform(b, low=0.1, high=0.9)}
        return case | _words(draw, b, 4) | more

    def enlarging(b: int = 2, **more) -> dict:
        condition = _condition(draw, b) | {"low_res_noise": draw.normal(b, 3, 4, 4)}
        return make("v", b, **condition, **more)

    slope = draw.uniform(low=0.2, high=0.6).item()
    pooled = torch.tensor([1.0, 0.0], dtype=torch.float64)
    images = {"noised_image": draw.image(2), "alternative_x_0": draw.image(2)}
    incomplete = enlarging()
    del incomplete["aug_level"]
    return [
        Part("a base stage", 3.5, [make("x_0"), make("v", 3, shift=-3.0), make("eps")]),
        Part("super-resolution", 4, [enlarging(), enlarging(3, shift=-1.0)]),
        Part("another weight", 1.5, [make("v", slope=slope)]),
        Part("the pooled text left out in some rows", 1, [make("x_0", use_pooled=pooled)]),
        Part(
            "another image noised, and another one as likely",
            1.5,
            [make("x_0", **{k: images[k]}) for k in images] + [make("v", **images)],
        ),
        Part("the gradient", 1.5, [make("v", gradient=True), enlarging(gradient=True)]),
        Part("an incomplete condition is refused", 1, [incomplete, enlarging()]),
    ]


def parts_stage_denoiser(salt: str) -> list[Part]:
    draw = _draw(salt, "stage_denoiser")

    def make(prediction: str, b: int = 2, t: float = 0.5, **more) -> dict:
        case = {"seed": draw.number(0, 2**31), "prediction": prediction, "x_t": draw.noise(b)}
        case |= {"t": torch.tensor(t).double(), "w": draw.uniform(low=2, high=5).item()}
        return case | _words(draw, b, 4) | more

    def without(case: dict, *names: str) -> dict:
        return {k: v for k, v in case.items() if k not in names}

    early, late = draw.uniform(2, low=0.6, high=0.8).tolist()[0], 0.3
    own = {"own_w": draw.uniform(low=2, high=5).item(), "own_threshold": "dynamic"}
    interval = own | {"own_interval": [0.7, 20.0]}
    refused = make("v", **_condition(draw, 2), no_level=True)
    rough = {
        k: v.float() if k in ("emb", "low_res", "aug_level") else v
        for k, v in make("v", 2, early, **_condition(draw, 2)).items()
    }
    return [
        Part("a base stage", 2.5, [make("x_0", 2, early), make("v", 3, late, shift=-2.0)]),
        Part(
            "super-resolution, with guidance and without",
            4,
            [
                make("v", 3, early, **_condition(draw, 3)),
                make("x_0", 2, late, **_condition(draw, 2)),
                make("v", 2, late, **_condition(draw, 2)) | {"w": 1.0},
            ],
        ),
        Part(
            "the stage's own scale, interval and threshold",
            2,
            [without(make("x_0", 2, t, **o), "w") for t in (early, late) for o in (own, interval)],
        ),
        Part("another threshold", 0.5, [make("x_0", 2, early, threshold="static", **own)]),
        Part("a control of the words", 1.5, [make("v", 2, early, control=True)]),
        Part("negative prompts", 1, [make("v", 2, early, **_words(draw, 2, 5, "neg_"))]),
        Part("a sampler more precise than the weights", 0.5, [rough | {"float32_weights": True}]),
        Part("images without a level are refused", 1, [refused, make("v", 2, early)]),
    ]


# ---------------------------------------------------------------- training


def parts_ema_update(salt: str) -> list[Part]:
    draw = _draw(salt, "ema_update")

    def make(half_life: int, steps: int, first: int) -> dict:
        values = draw.normal(steps, 3, 2)
        case = {"values": values, "start": draw.normal(3, 2), "half_life": half_life}
        return case | {"first": first}

    return [
        Part("late in training", 3, [make(20, 6, 5000), make(3, 4, 900)]),
        Part("early, where the half-life is shorter", 3, [make(400, 8, 1), make(50, 6, 31)]),
        Part("float32", 1, [in_float32(make(20, 6, 5000))]),
    ]


def parts_learning_rate(salt: str) -> list[Part]:
    draw = _draw(salt, "learning_rate")

    def make(schedule: str, **more) -> dict:
        steps = draw.number(100, 300)
        at = [0, 1, 7, steps // 3, steps // 2, 3 * steps // 4, steps - 2, steps - 1]
        case = {"lr_schedule": schedule, "steps": steps, "at": at, "warmup": draw.number(10, 30)}
        return case | {"learning_rate": draw.uniform(low=1e-3, high=1e-1).item()} | more

    share = draw.uniform(low=0.3, high=0.6).item()
    return [
        Part("warm-up, then constant", 1, [make("constant"), make("constant", warmup=0)]),
        Part(
            "warm-up, then a line to 0",
            2,
            [make("cooldown", cooldown=share), make("cooldown", cooldown=1.0)],
        ),
        Part("warm-up, then half a cosine", 2, [make("cosine"), make("cosine", warmup=0)]),
    ]


def parts_update_weights(salt: str) -> list[Part]:
    draw = _draw(salt, "update_weights")

    def make(most: float, steps: int = 3, first: int = 0, half_life: int = 5) -> dict:
        case = {"start": draw.normal(2, 6), "gradients": draw.normal(steps, 2, 6), "most": most}
        rates = draw.uniform(steps, low=0.02, high=0.2).tolist()
        losses = draw.uniform(steps, low=0.1, high=2.0).tolist()
        return case | {"rates": rates, "losses": losses, "first": first, "half_life": half_life}

    broken = make(1e9)
    broken["gradients"][1, 0, 2] = math.inf
    loss = make(1e9)
    loss["losses"][1] = math.inf
    return [
        Part("small gradients", 2.5, [make(1e9), make(1e9, 2, 400)]),
        Part("gradients that are clipped", 2.5, [make(0.7), make(1.3, 4, 200, 50)]),
        Part("a norm that is not finite", 2, [broken]),
        Part("a loss that is not finite", 1, [loss]),
        Part("float32", 1, [in_float32(make(0.7))]),
    ]


# ---------------------------------------------------------------- figures and writing


def hw4_figure(name: str, submission: Submission, students: Collection[str]) -> Graded:
    """The share of a figure's points, and what is missing."""
    said, _ = whose(submission, students)
    if name in measurements.MEASURED:
        return grade_numbers(name, submission, said, measurements.MEASURED[name](said))
    if name == "trained":
        return grade_image_table(
            name,
            submission,
            measurements.trained_captions(said),
            64,
            measurements.TRAINED_ROWS,
            measurements.ENOUGH_TRAINED,
        )
    table = given_table(submission, "cascade", 256, measurements.IMAGES, len(measurements.ROWS))
    found = measurements.read_images(said, table)
    if name == "gap":
        return grade_counts(name, submission, found)
    correct = int(found["cascade_correct"])
    if correct >= measurements.ENOUGH_CORRECT:
        return 1.0, []
    return correct / measurements.IMAGES, [
        f"{correct} of {measurements.IMAGES} images in the first row show their caption"
    ]


def hw4_written(name: str, submission: Submission, students: Collection[str]) -> Graded:
    """The points of a written answer by the number that it ends with."""
    said, values = whose(submission, students)
    return grade_derivation(name, submission, values, hw4_written_answers(said)[name])


def hw4_written_answers(student: str) -> dict[str, float]:
    """The numbers that the derivations lead to."""
    given = measurements.given_numbers(student)
    # 1. The error sigma^2 + alpha^4 g^2 is least at sigma^2 = 1 - 1 / (2 g^2).
    level = 2 / math.pi * math.asin(math.sqrt(1 - 1 / (2 * given["g"] ** 2)))
    # 2. The variance of the average is (1 - d) / (1 + d) of that of a weight.
    k = given["k"]
    half_life = math.log(0.5) / math.log((k**2 - 1) / (k**2 + 1))
    # 3. Each of b parts adds the variance of t^2 within it.
    b = given["b"]
    parts = ((b**2 - 1) / 9 + 4 / 45) / b**5
    return {"level": level, "halflife": half_life, "strata": (4 / 45 / b) / parts}
