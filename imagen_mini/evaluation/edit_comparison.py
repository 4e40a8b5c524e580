"""Edits compared with each other and with the same seed without an edit: images, scores, tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.editing.base import Edit
from imagen_mini.editing.blending import DiffEditMask
from imagen_mini.editing.feature_injection import FeatureInjection
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import (
    DEFAULT_SELF_STEPS,
    AttentionInjection,
    Chain,
    Refine,
    Replace,
)
from imagen_mini.evaluation.edit_benchmark import EditScore, EditTask, evaluate_edits
from imagen_mini.evaluation.statistics import format_share
from imagen_mini.pipeline import ImagenPipeline

# the four rows of every table of edits
METHODS = SAME_SEED, SWITCHING, ATTENTION, BOTH = (
    "same seed",
    "prompt switching",
    "attention",
    "switching, then attention",
)

# attention with features, each after the row without attention
FEATURES_ALONE, FEATURES = "features", "attention and features"
FEATURES_ALONE_MASKED, FEATURES_MASKED = "features and mask", "attention, features and mask"
SELF_ATTENTION = "attention, by the window of self-attention"
WINDOW_SWEEPS: dict[str, Callable[[type[AttentionInjection], float], Edit]] = {
    SWITCHING: lambda kind, share: PromptSwitching(share),
    ATTENTION: lambda kind, share: kind(share, min(share, DEFAULT_SELF_STEPS)),
    SELF_ATTENTION: lambda kind, share: kind(1.0, share),
    FEATURES: lambda kind, share: Chain(
        kind(share, min(share, DEFAULT_SELF_STEPS)), FeatureInjection()
    ),
    BOTH: lambda kind, share: Chain(PromptSwitching(share), kind(1.0)),
}


def injection_of(name: str) -> type[AttentionInjection]:
    """The attention injection for a kind of task, a key of `edit_tasks`: Replace for swaps, Refine
    for added words.
    """
    return Replace if name.endswith("swap") else Refine


def with_features(kind: type[AttentionInjection], mask: bool = False) -> Chain:
    """Attention and features of the source; with a mask, the image changes only where the prompts
    disagree about the source.
    """
    return Chain(kind(), FeatureInjection(), *([DiffEditMask()] if mask else []))


def edit_methods(kind: type[AttentionInjection]) -> dict[str, Edit | None]:
    """The edits of METHODS, by name; None is the target prompt with the source's seed.

    An edit is due to attention only as far as the row of attention exceeds those of the same seed
    and of prompt switching, which inject none.
    """
    return {
        SAME_SEED: None,
        SWITCHING: PromptSwitching(),
        ATTENTION: kind(),
        BOTH: Chain(PromptSwitching(), kind(1.0)),  # to the last step
    }


def compare_to_same_seed(
    pipe: ImagenPipeline, source: str, target: str, seed: int, *edits: Edit | None
) -> Tensor:
    """Return a source image and its target by several edits, all from one noise.

    Args:
        pipe: The pipeline; only its first stage is sampled.
        source: The source prompt.
        target: The target prompt.
        seed: The seed of all images.
        *edits: Edits; None is the target prompt with the same seed and no edit.

    Returns:
        Images [1 + edits, 3, h, w] in [-1, 1], the source first.
    """
    name = next(iter(pipe.stages))
    options = {"seed": seed, "stages": (name,), "output_type": "pt", "progress": False}
    generated = {
        i: pipe([source, target], edit=edit, **options).stages[name]
        for i, edit in enumerate(edits)
        if edit is not None
    }
    first = next((pair[:1] for pair in generated.values()), None)
    if first is None:
        first = pipe([source], **options).stages[name]
    return (
        torch.cat(
            [
                first,
                *(
                    generated[i][1:] if i in generated else pipe([target], **options).stages[name]
                    for i in range(len(edits))
                ),
            ]
        )
        .float()
        .cpu()
    )


@dataclass(frozen=True)
class EditComparison:
    """Edits by several methods, of those tasks whose source image is correct.

    Attributes:
        tasks: The tasks.
        images: For each task [1 + methods, 3, h, w], the source first.
        scores: For each method, by name, the score of each task.
    """

    tasks: list[EditTask]
    images: list[Tensor]
    scores: dict[str, list[EditScore]]


def compare_edits(
    pipe: ImagenPipeline, tasks: Sequence[EditTask], methods: dict[str, Edit | None]
) -> EditComparison:
    """Make each edit by each method and score it.

    Args:
        pipe: The pipeline.
        tasks: The edits to make.
        methods: Edits by name; None is the target prompt with the same seed and no edit.

    Returns:
        Images and scores of the tasks that count: the source image is correct, and not yet what
        the target asks for.
    """

    def generate(prompts: list[str], seed: int) -> Tensor:
        return compare_to_same_seed(pipe, *prompts, seed, *methods.values())

    kept = [
        found for found in evaluate_edits(generate, list(tasks), pipe.world) if found[2][0].counts
    ]
    return EditComparison(
        [task for task, _, _ in kept],
        [images for _, images, _ in kept],
        {name: [scores[i] for _, _, scores in kept] for i, name in enumerate(methods)},
    )


def edit_comparison_table(scores: dict[str, list[EditScore]]) -> str:
    """Return a line of text for each method.

    It says how often the new prompt is shown, how often the layout is kept, how often both, and the
    PSNR of the rest of the image.
    """
    width = max(map(len, scores)) + 2
    lines = [
        " " * width
        + f"{'shows the new prompt':24}{'keeps the layout':24}{'both':24}rest of the image"
    ]
    for name, of in scores.items():
        pixels = [s.psnr for s in of if s.psnr is not None]
        rates = "".join(
            f"{format_share([getattr(s, key) for s in of]):24}"
            for key in ("success", "layout", "good")
        )
        lines.append(
            f"{name:{width}}{rates}"
            + (f"{sum(pixels) / len(pixels):.0f} dB" if pixels else "unreadable")
        )
    return "\n".join(lines)
