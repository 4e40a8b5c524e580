"""The inputs of the questions of assignment 2, drawn from a salt, and how the rest is graded.

Every part has generic inputs, so that no constant gets a point. Modules have weights from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from imagen_mini.course.assignment import Part
from imagen_mini.course.assignments.hw2 import measurements
from imagen_mini.course.inputs import InputSource, in_float32
from imagen_mini.course.paperwork import (
    Graded,
    grade_derivation,
    grade_image_table,
    grade_numbers,
    whose,
)
from imagen_mini.course.submission import Submission

WIDTH = 8  # of text embeddings outside of the U-Net


def _draw(salt: str, question: str) -> InputSource:
    return InputSource("hw2", salt, question)


def _words(draw: InputSource, b: int, n: int, width: int = WIDTH) -> dict:
    """Embeddings whose padding is large: whoever reads it goes far wrong."""
    mask = draw.mask(b, n)
    emb = draw.normal(b, n, width)
    return {"emb": torch.where(mask[..., None], emb, 3 + emb), "mask": mask}


def _seeded(draw: InputSource, **more) -> dict:
    return {"seed": draw.number(0, 2**31)} | more


# ---------------------------------------------------------------- attention


def parts_attention_probs(salt: str) -> list[Part]:
    draw = _draw(salt, "attention_probs")

    def make(b: int, queries: int, keys: int, d: int, scale: float = 1.0) -> dict:
        return {"q": scale * draw.normal(b, 2, queries, d), "k": draw.normal(b, 2, keys, d)}

    def masked(b: int, queries: int, keys: int, d: int) -> dict:
        return make(b, queries, keys, d) | {"mask": draw.mask(b, keys)[:, None, None, :]}

    large = make(2, 5, 7, 16, scale=60.0)
    half = {k: v.bfloat16() for k, v in make(2, 6, 5, 16).items()}
    return [
        Part("all keys are there", 3, [make(2, 5, 7, 16), make(1, 3, 4, 9)]),
        Part("some keys are masked", 4, [masked(3, 5, 7, 16), masked(2, 4, 6, 8)]),
        Part("float32, and large scores", 1.5, [in_float32(make(2, 4, 9, 32)), in_float32(large)]),
        Part("queries and keys in bfloat16", 1.5, [half]),
    ]


def parts_keys_and_values(salt: str) -> list[Part]:
    draw = _draw(salt, "keys_and_values")

    def make(kind: str, b: int, words: bool, channels: int = 32) -> dict:
        case = _seeded(draw, kind=kind, size=3, channels=channels, width=WIDTH)
        case["pixels"] = draw.normal(b, 9, channels)
        return case | (_words(draw, b, 5) if words else {})

    prepared = make("cross", 2, True) | {"kv": draw.normal(2, 5, 64)}
    return [
        Part("self-attention", 2, [make("self", 2, False), make("self", 3, False, 16)]),
        Part("words", 2, [make("cross", 2, True), make("cross", 3, True, 48)]),
        Part("words and pixels", 3, [make("hybrid", 2, True), make("hybrid", 3, True)]),
        Part("words whose keys are there already", 1, [prepared]),
    ]


def parts_attention_layer(salt: str) -> list[Part]:
    draw = _draw(salt, "attention_layer")

    def make(kind: str, b: int, **more) -> dict:
        case = _seeded(draw, kind=kind, size=4, channels=32, width=WIDTH, **more)
        case["x"] = draw.normal(b, 32, 4, 4)
        return case | ({} if kind == "self" else _words(draw, b, 6))

    controlled = [make("cross", 2, control=True), make("hybrid", 2, control=True)]
    return [
        Part("self-attention", 2, [make("self", 2), make("self", 1)]),
        Part("attention to words", 2.5, [make("cross", 2), make("cross", 3)]),
        Part("attention to words and pixels", 2, [make("hybrid", 2)]),
        Part("with a control", 2.5, controlled),
        Part("float32", 1, [in_float32(make("cross", 2))]),
    ]


# ---------------------------------------------------------------- blocks


def parts_res_block(salt: str) -> list[Part]:
    draw = _draw(salt, "res_block")

    def make(channels_in: int, channels: int, b: int = 2, **more) -> dict:
        x, emb = draw.normal(b, channels_in, 5, 4), draw.normal(b, 12)
        return _seeded(draw, x=x, emb=emb, channels=channels, **more)

    scale = draw.uniform(low=0.5, high=0.9).item()
    return [
        Part("as many channels as before", 4, [make(32, 32), make(16, 16, 3)]),
        Part("another number of channels", 3, [make(16, 48), make(48, 16)]),
        Part("a factor on the sum", 2, [make(32, 32, skip_scale=scale)]),
        Part("float32", 1, [in_float32(make(32, 32))]),
    ]


def parts_pooled_text(salt: str) -> list[Part]:
    draw = _draw(salt, "pooled_text")

    def make(b: int, n: int, width: int) -> dict:
        return _seeded(draw, width=width, **_words(draw, b, n))

    whole = make(2, 5, 12)
    whole["mask"] = torch.ones_like(whole["mask"])
    return [
        Part("prompts without padding", 2.5, [whole]),
        Part("prompts with padding", 3.5, [make(3, 6, 12), make(2, 4, 20)]),
        Part("float32", 1, [in_float32(make(3, 6, 12))]),
    ]


def parts_unet_forward(salt: str) -> list[Part]:
    draw = _draw(salt, "unet_forward")

    def make(skip: str, **more) -> dict:
        case = _seeded(draw, skip=skip, channels=[16, 32], attention=["", "cross"])
        case |= _words(draw, 2, 4, 16)
        case["x_t"], case["log_snr"] = draw.normal(2, 3, 8, 8), draw.uniform(2, low=-5, high=5)
        return case | more

    deep = make("concat", channels=[16, 32, 48], attention=["", "", "self"])
    enlarged = {"low_res": draw.image(2)[:, :, :4, :4], "aug_level": draw.uniform(2, low=0, high=1)}
    pooled = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return [
        Part("two and three levels", 4, [make("concat"), deep]),
        Part("sums in place of concatenation", 2, [make("sum")]),
        Part("super-resolution", 2, [make("concat", **enlarged)]),
        Part(
            "prepared text, a control, and the pooled text left out",
            2,
            [make("concat", prepared=True), make("sum", control=True, use_pooled=pooled)],
        ),
    ]


# ---------------------------------------------------------------- words and tokens

_COLORS = {"red": ["▁red"], "turquoise": ["▁tur", "quo", "ise"], "Purple": ["▁Pur", "ple"]}
_THINGS = {"circle": ["▁circle"], "pentagon": ["▁pent", "agon"], "rhombus": ["▁r", "hom", "bus"]}


def _prompt(words: list[str]) -> dict:
    """A prompt as a tokenizer cuts it, with an end token that belongs to no word."""
    known = {**_COLORS, **_THINGS}
    pieces: list[str] = []
    of_word: list[int | None] = []
    for number, word in enumerate(words):
        cut = known.get(word, ["▁" + word])
        pieces += cut
        of_word += [number] * len(cut)
    return {"pieces": [*pieces, "</s>"], "word_ids": [*of_word, None], "words": words}


def parts_token_positions(salt: str) -> list[Part]:
    draw = _draw(salt, "token_positions")

    def pick(names: dict) -> str:
        return sorted(names)[draw.number(0, len(names))]

    once = _prompt(["a", "turquoise", pick(_THINGS), "above", "a", "red", "rhombus"])
    first, second = pick(_COLORS), pick(_THINGS)
    twice = _prompt(["a", first, "pentagon", "and", "a", first, second])
    other = {"Purple": "purple", "red": "RED", "turquoise": "Turquoise"}[first]
    return [
        Part("a word of several pieces", 2, [once | {"word": w} for w in ("rhombus", "turquoise")]),
        Part("a word that stands there twice, in other letters", 1.5, [twice | {"word": other}]),
        Part("the number of a word", 0.5, [once | {"word": 6}, twice | {"word": 2}]),
        Part("no such word", 1, [once | {"word": "blue"}, once | {"word": "red"}]),
    ]


# ---------------------------------------------------------------- figures and writing


def hw2_figure(name: str, submission: Submission, students: Collection[str]) -> Graded:
    """The share of a figure's points, and what is missing."""
    said, _ = whose(submission, students)
    if name in measurements.MEASURED:
        return grade_numbers(name, submission, said, measurements.MEASURED[name](said))
    captions = [caption for caption, _ in measurements.captions_for(said)]
    return grade_image_table(
        name, submission, captions, measurements.IMAGE_SIZE, 2, measurements.ENOUGH_CORRECT
    )


def hw2_written(name: str, submission: Submission, students: Collection[str]) -> Graded:
    """The points of a written answer by the number that it ends with."""
    said, values = whose(submission, students)
    return grade_derivation(name, submission, values, hw2_written_answers(said)[name])


def hw2_written_answers(student: str) -> dict[str, float]:
    """The numbers that the derivations lead to."""
    given = measurements.given_numbers(student)
    # 1. 9 c^2 n^2 of the convolution = 4 c^2 n^2 + 2 c n^4 of attention.
    crossing = math.sqrt(5 * given["c"] / 2)
    # 2. Each block multiplies the variance by s^2 (1 + g).
    variance = (given["s"] ** 2 * (1 + given["g"])) ** given["blocks"]
    # 3. The share of one key, with and without the padding in the sum.
    top, n, m = math.exp(given["delta"]), given["n"], given["m"]
    share = top / (top + n - 1) - top / (top + n - 1 + m)
    return {"flops": crossing, "variance": variance, "softmax": share}
