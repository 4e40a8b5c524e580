"""The inputs of the questions of assignment 5, drawn from a salt, and how the rest is graded.

Every part has generic inputs, so that no constant gets a point.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from imagen_mini.course.assignment import Part
from imagen_mini.course.assignments.hw5 import measurements
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
from imagen_mini.evaluation.statistics import wilson_interval


def _draw(salt: str, question: str) -> InputSource:
    return InputSource("hw5", salt, question)


# ---------------------------------------------------------------- words

# words of one, two and three pieces
PIECES = {
    "turquoise": ["▁tur", "quo", "ise"],
    "purple": ["▁pur", "ple"],
    "pentagon": ["▁pent", "agon"],
    "rhombus": ["▁r", "hom", "bus"],
}


def prompt(text: str) -> dict:
    """A prompt as a tokenizer cuts it, with an end token that belongs to no word."""
    words = text.split()
    pieces: list[str] = []
    of_word: list[int | None] = []
    for number, word in enumerate(words):
        cut = PIECES.get(word.lower(), ["▁" + word])
        pieces += cut
        of_word += [number] * len(cut)
    return {"pieces": [*pieces, "</s>"], "word_ids": [*of_word, None], "words": words}


def _color(draw: InputSource) -> str:
    return ["red", "blue", "green", "black"][draw.number(0, 4)]


def parts_mapper(salt: str) -> list[Part]:
    draw = _draw(salt, "mapper")

    def make(source: str, target: str, pairs=None) -> dict:
        pairs = [(i, i) for i in range(len(source.split()))] if pairs is None else pairs
        pairs = [list(pair) for pair in pairs]
        return {"source": prompt(source), "target": prompt(target), "pairs": pairs}

    a, b = _color(draw), _color(draw)
    return [
        Part(
            "words of as many pieces",
            3.5,
            [
                make(f"a {a} ring", f"a {b} star"),
                make(f"a purple {a} rhombus", f"a pentagon {b} turquoise"),
                make(f"a {a} ring here", f"a here ring {b}", [(0, 0), (3, 1), (2, 2)]),
            ],
        ),
        Part(
            "one piece and several",
            4,
            [
                make(f"a {a} rhombus", f"a turquoise {b}"),
                make("a turquoise ring here", f"a {b} ring here"),
                make(f"a rhombus {a}", "a purple turquoise"),
            ],
        ),
        Part(
            "the same word twice",
            2,
            [make(f"a {a} ring and a {a} star", f"a {a} ring and a turquoise star")],
        ),
        Part(
            "some words only, at other places",
            2.5,
            [
                make("a purple ring", f"a {a} purple ring", [(0, 0), (1, 2), (2, 3)]),
                make(f"a large {b} rhombus", f"a rhombus here {b}", [(0, 0), (3, 1)]),
            ],
        ),
    ]


def parts_common(salt: str) -> list[Part]:
    draw = _draw(salt, "common")

    def make(source: str, target: str) -> dict:
        return {"source": prompt(source), "target": prompt(target)}

    a, b = _color(draw), "yellow"
    return [
        Part(
            "words added",
            2,
            [
                make(f"a {a} ring", f"a large {a} ring on sand"),
                make(f"ring above {a}", f"a ring far above {a}"),
            ],
        ),
        Part(
            "words removed or swapped",
            1.5,
            [
                make(f"a large {a} ring on gray", f"a {a} ring"),
                make(f"one {a} small ring here", f"one {b} small star here"),
            ],
        ),
        Part(
            "words that stand there twice",
            1.5,
            [
                make(f"a {a} ring above a {b} star", f"a {a} ring above a large {b} star"),
                make(f"a ring and a {a} star", f"a {b} ring and a {a} star"),
            ],
        ),
        Part("capital letters", 1, [make(f"A {a.upper()} ring", f"a large {a} Ring")]),
    ]


# ---------------------------------------------------------------- injection


def parts_wants(salt: str) -> list[Part]:
    draw = _draw(salt, "wants")
    sizes = [4, 8, 16]
    size = sizes[draw.number(0, 3)]

    def make(cross: bool, self_: bool, most: int = 16) -> dict:
        return {"inject_cross": cross, "inject_self": self_, "self_size": most}

    return [
        Part("both", 2, [make(True, True), make(True, True, size)]),
        Part("one of them", 1.5, [make(True, False), make(False, True, 8)]),
        Part("none", 0.5, [make(False, False), make(True, True, 4)]),
    ]


def _injection(draw: InputSource, targets: int, n_text: int, pixels: int = 0) -> dict:
    """Probabilities and a control whose numbers are free of one another."""
    shape = (1 + targets, 2, 5, n_text + pixels)
    return {
        "kind": "hybrid" if pixels else "cross",
        "probs": draw.normal(*shape).softmax(-1),
        "n_text": n_text,
        "mappers": draw.uniform(targets, n_text, n_text, low=0.0, high=1.0),
        "injected": draw.normal(targets, n_text) > 0,
        "equalizer": torch.ones(targets, n_text, dtype=torch.float64),
    }


def parts_inject(salt: str) -> list[Part]:
    draw = _draw(salt, "inject")

    def weighted(targets: int, n_text: int, pixels: int = 0) -> dict:
        factors = draw.uniform(targets, n_text, low=-2.0, high=2.0)
        return _injection(draw, targets, n_text, pixels) | {"equalizer": factors}

    everything = _injection(draw, 1, 4)
    everything["injected"] = torch.ones_like(everything["injected"])
    of_pixels = _injection(draw, 2, 5) | {"kind": "self", "n_text": 0}
    return [
        Part("one target", 4, [everything, _injection(draw, 1, 6)]),
        Part("several targets", 3, [_injection(draw, 2, 4), _injection(draw, 3, 6)]),
        Part("factors of columns", 3.5, [weighted(1, 5), weighted(2, 4)]),
        Part("words and pixels in one softmax", 2, [weighted(2, 4, pixels=5)]),
        Part("self-attention, beside words", 1.5, [of_pixels, _injection(draw, 1, 3)]),
        Part("float32", 1, [in_float32(weighted(2, 5))]),
    ]


def parts_equalizer(salt: str) -> list[Part]:
    draw = _draw(salt, "equalizer")

    def c() -> float:
        return draw.uniform(low=-1.9, high=1.9).item()

    def make(weights: dict, *texts: str, more: int = 2) -> dict:
        targets = [prompt(t) for t in texts]
        n = max(len(t["pieces"]) for t in targets) + more
        return {"weights": weights, "targets": targets, "batch_tokens": n}

    a = _color(draw)
    many = [f"a purple {a} rhombus", "a large purple star here"]
    return [
        Part(
            "a word of one piece, and of several",
            2.5,
            [make({a: c()}, f"a {a} ring"), make({"purple": c(), "a": c()}, *many)],
        ),
        Part(
            "a word that stands there twice, and the number of a word",
            1.5,
            [
                make({a.upper(): c()}, f"a {a} ring and a {a} rhombus"),
                make({"3": c()}, f"a turquoise ring {a}"),
            ],
        ),
        Part("a weight for each target", 1, [make({"purple": [c(), c()]}, *many)]),
        Part(
            "several weights of one word",
            1,
            [make({"purple": c(), "1": c()}, f"a purple {a} ring")],
        ),
        Part(
            "what does not fit is refused",
            1,
            [
                make({"purple": [c(), c(), c()]}, *many),
                make({"yellow": c()}, *many),
                make({"purple": [c(), c()]}, *many),
            ],
        ),
    ]


def parts_control(salt: str) -> list[Part]:
    draw = _draw(salt, "control")

    def make(
        targets: int,
        n: int,
        self_window=(0.0, 0.0),
        weight_windows=(),
        done=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
    ) -> dict:
        mappers = draw.uniform(targets, n, n, low=0.0, high=1.0)
        without = draw.number(0, n)
        mappers[:, :, without] = 0  # a word without a source
        mappers[:, without - 1] = 0  # and a word of the source that nobody takes
        starts = (draw.uniform(targets, n, low=0.0, high=0.5) * 10).round() / 10
        ends = starts + (draw.uniform(targets, n, low=0.0, high=0.5) * 10).round() / 10
        case = {"mappers": mappers.float(), "windows": torch.stack([starts, ends]).float()}
        for i in range(len(weight_windows)):
            case[f"factors_{i}"] = draw.uniform(targets, n, low=-2.0, high=2.0).float()
        return case | {
            "self_window": list(self_window),
            "self_size": 8,
            "weight_windows": [list(w) for w in weight_windows],
            "done": list(done),
        }

    idle = make(1, 4, (0.0, 0.5))
    idle["windows"] = torch.zeros_like(idle["windows"])
    factor_only = make(1, 4, weight_windows=[(0.2, 0.6)])
    factor_only["windows"] = torch.zeros_like(factor_only["windows"])
    return [
        Part("windows of columns", 3, [make(1, 5), make(2, 4)]),
        Part("self-attention, and nothing to do", 2, [make(2, 4, (0.2, 0.7)), idle]),
        Part(
            "factors in their windows",
            3,
            [make(1, 5, weight_windows=[(0.0, 0.5), (0.3, 1.0)]), factor_only],
        ),
    ]


# ---------------------------------------------------------------- blending


def parts_blend(salt: str) -> list[Part]:
    draw = _draw(salt, "blend")

    def make(texts: list[str], words: list, **more) -> dict:
        case: dict = {"prompts": [prompt(t) for t in texts], "words": words}
        for row, p in enumerate(case["prompts"]):
            # a few places are attended to, each token other ones
            heat: Tensor = draw.uniform(len(p["pieces"]), 6, 6, low=0.0, high=1.0) ** 12
            case[f"heat_{row}"] = 0.2 * heat
        threshold = draw.uniform(low=0.3, high=0.5).item()
        return case | {"threshold": threshold} | more

    a, b = "red", "blue"
    swap = [f"a {a} ring", f"a {a} rhombus"]
    three = [f"a {a} ring", f"a {b} ring", f"a {a} star"]
    repeated = [f"a {a} ring above a {a} purple ring", f"a {b} ring above a {b} star"]
    return [
        Part("words of source and target", 3, [make(swap, ["ring", "rhombus"]), make(swap, [a])]),
        Part(
            "several targets, and words that one of them lacks",
            2,
            [make(three, ["ring", "star"]), make(three, [["ring"], ["ring"], ["star"]])],
        ),
        Part("words that stand there twice", 1.5, [make(repeated, ["ring", "purple"])]),
        Part(
            "words whose places stay",
            1.5,
            [make(swap, ["ring", "rhombus"], exclude=[a]), make(three, [a, b], exclude=["ring"])],
        ),
    ]


# ---------------------------------------------------------------- figures and writing


def hw5_figure(name: str, submission: Submission, students: Collection[str]) -> Graded:
    """The share of a figure's points, and what is missing."""
    said, _ = whose(submission, students)
    if name in measurements.MEASURED:
        return grade_numbers(name, submission, said, measurements.MEASURED[name](said))
    # 1. The images of all edits, as the parser reads them.
    side, rows = measurements.IMAGE_SIZE, len(measurements.ROWS)
    table = given_table(submission, "edits", side, measurements.EDITS, rows)
    found = measurements.read_edits(said, table)
    if name == "edits":
        good = found["attention_both"]
        if good >= measurements.ENOUGH_EDITS:
            return 1.0, []
        return good / measurements.EDITS, [
            f"{good} of {measurements.EDITS} images in the row of attention show the new prompt "
            "and keep the layout of a source that is as captioned"
        ]
    # 2. What the student counted.
    return grade_counts(name, submission, found)


def hw5_written(name: str, submission: Submission, students: Collection[str]) -> Graded:
    """The points of a written answer by the number that it ends with."""
    said, values = whose(submission, students)
    return grade_derivation(name, submission, values, hw5_written_answers(said)[name])


def hw5_written_answers(student: str) -> dict[str, float]:
    """The numbers that the derivations lead to."""
    given = measurements.given_numbers(student)
    # 1. What the target's word gets: the pieces of the source's word, over those of the target's.
    p, k, m = given["p"], given["k"], given["m"]
    columns = k * p / m
    # 2. A column times c, and the same as a change of the score: log of the odds.
    q, c = given["q"], given["c"]
    weights = math.log(c * (1 - q) / (1 - c * q))
    # 3. The lower end of Wilson's interval.
    return {
        "columns": columns,
        "weights": weights,
        "wilson": wilson_interval(given["kept"], given["n"])[0],
    }
