"""Do guides make images follow their prompts better? Every guide samples the same captions from the
same noise as the pipeline without one, and an exact parser judges both.

The captions are of kinds that cascades fail at, and of one that they do not, to see what a guide
costs elsewhere.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.editing.guides import Guide
from imagen_mini.evaluation.benchmark import caption_of
from imagen_mini.evaluation.scoring import evaluate
from imagen_mini.evaluation.statistics import Difference, paired_agresti_min
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.captions import Caption, article_for
from imagen_mini.scenes.scene import COLORS, SHAPES
from imagen_mini.scenes.world import World

CONTROL = "plain"  # the row without a guide


def _open_colors(rng: random.Random, world: World) -> str:
    a, b = rng.sample(tuple(SHAPES), 2)
    return f"{article_for(a)} {a} and {article_for(b)} {b}"


def _one(rng: random.Random, world: World) -> str:
    return f"one {rng.choice(tuple(COLORS))} {rng.choice(tuple(SHAPES))}"


def _different_shapes(n: int) -> Callable[[random.Random, World], str]:
    def caption(rng: random.Random, world: World) -> str:
        *others, last = (f"{article_for(shape)} {shape}" for shape in rng.sample(tuple(SHAPES), n))
        return f"{', '.join(others)} and {last}"

    return caption


def _from_benchmark(category: str) -> Callable[[random.Random, World], str]:
    return lambda rng, world: caption_of(category, rng, world).text


# By name: a function of a source of randomness and a world that returns a caption.
KINDS: dict[str, Callable[[random.Random, World], str]] = {
    "two open colors": _open_colors,
    "the number one": _one,
    "three shapes": _different_shapes(3),
    "four shapes": _different_shapes(4),
    "negation": _from_benchmark("negation"),
    "five objects": _from_benchmark("held-out count"),
    "binding": _from_benchmark("binding"),
}


def captions_of_kind(kind: str, n: int, world: World, seed: int = 0) -> list[Caption]:
    """Return captions of a kind: the same for the same seed.

    Args:
        kind: A key of KINDS.
        n: How many.
        world: The world that they are of.
        seed: Which list (default: 0).

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}; expected one of {', '.join(KINDS)}")
    texts = [KINDS[kind](random.Random(f"guides/{seed}/{kind}/{i}"), world) for i in range(n)]
    return [Caption(text, (), world.parse_caption(text)) for text in texts]


@dataclass(frozen=True)
class GuideRow:
    """What one guide made of the captions of one kind."""

    kind: str
    guide: str
    verdicts: list[bool]
    images: Tensor  # [n, 3, size, size]
    difference: Difference | None  # to the control; None: it is the control
    seconds: float  # for an image


def compare_guides(
    pipe: ImagenPipeline,
    captions: Mapping[str, Sequence[Caption]],
    guides: Mapping[str, Callable[[Sequence[str]], Guide | None]],
    batch: int = 16,
    on_row: Callable[[GuideRow], None] | None = None,
    **options,
) -> list[GuideRow]:
    """Sample captions with each guide and without, from the same noise.

    Args:
        pipe: The pipeline; its first stage is sampled.
        captions: By kind. Image i of a kind has the seed i.
        guides: By name: the captions of a batch -> their guide. The control is added in front.
        batch: Images at a time (default: 16).
        on_row: Called with every row once it is there.
        **options: Of the pipeline's call, such as `num_inference_steps`.

    Returns:
        A row for each kind and guide, the control first.
    """
    first = next(iter(pipe.stages))
    rows: list[GuideRow] = []
    for kind, of_kind in captions.items():
        control: list[bool] = []
        for name, guide_of in {CONTROL: lambda texts: None, **guides}.items():
            start = time.perf_counter()

            def generate(texts: list[str], seeds: list[int], guide_of=guide_of) -> Tensor:
                return pipe(
                    texts,
                    seed=seeds,
                    stages=(first,),
                    guide=guide_of(texts),
                    output_type="pt",
                    progress=False,
                    **options,
                ).images

            prompts = [(kind, i, caption) for i, caption in enumerate(of_kind)]
            results = list(evaluate(generate, prompts, batch, pipe.world))
            verdicts = [result.correct for result in results]
            if name == CONTROL:
                control = verdicts
            row = GuideRow(
                kind,
                name,
                verdicts,
                torch.stack([result.image for result in results]).cpu(),
                None
                if name == CONTROL
                else paired_agresti_min([a - b for a, b in zip(verdicts, control)]),
                (time.perf_counter() - start) / len(prompts),
            )
            rows.append(row)
            if on_row is not None:
                on_row(row)
    return rows
