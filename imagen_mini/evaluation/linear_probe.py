"""Linear probes on the vectors of a text encoder: what can be read off a single one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.evaluation.text_probes import masked_mean
from imagen_mini.scenes.captions import training_caption
from imagen_mini.scenes.scene import (
    COLORS,
    OPPOSITE,
    SHAPES,
    training_scene,
)
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder


def linear_probe(
    encoder: TextEncoder,
    captions: int = 1000,
    read: Callable[[TextEmbeddings], TextEmbeddings] | None = None,
) -> dict[str, float]:
    """Measure the accuracy of linear probes on single vectors of held-out captions.

    Each caption is of two related objects with different colours. The tasks are:

        color             from the token of an object's shape: which colour has this object?
        place             from the same token: does it lie left, right, above or below?
        relation          from the token of 'left', 'above', ...: what shape has its subject?
        relation, pooled  the same question to the mean of all the caption's vectors

    Args:
        encoder: The text encoder.
        captions: How many captions (default: 1000).
        read: What vectors pass through first, for example a network's text layers (default: none).

    Returns:
        The accuracy of each task in [0, 1].
    """
    chosen, index = [], 0
    while len(chosen) < captions:
        caption = training_caption(training_scene(10_001, index), 10_001, index)
        index += 1
        d = caption.description
        if (
            d.relation is not None
            and None not in (colors := [t.color for t in d.objects])
            and colors[0] != colors[1]
        ):
            chosen.append(caption)
    text = encoder([caption.text for caption in chosen])
    with torch.no_grad():
        text = text if read is None else read(text)
    pooled = masked_mean(text)
    features: dict[str, list[Tensor]] = {
        "color": [],
        "place": [],
        "relation": [],
        "relation, pooled": [],
    }
    answers: dict[str, list[int]] = {task: [] for task in features}

    def ask(task: str, vector: Tensor, answer: int) -> None:
        features[task].append(vector)
        answers[task].append(answer)

    for row, caption in enumerate(chosen):
        d, tokens = caption.description, encoder.tokenize_prompt(caption.text)
        starts = [_word_start(caption.text, tokens.words, k) for k in range(len(tokens.words))]
        for word in caption.words:
            if word.start not in starts:
                continue
            vector = text.emb[row, tokens.positions_of_word(starts.index(word.start))[-1]]
            if word.role == "shape":
                (which,) = word.objects
                ask("color", vector, list(COLORS).index(d.objects[which].color))
                ask(
                    "place",
                    vector,
                    list(OPPOSITE).index(OPPOSITE[d.relation] if which else d.relation),
                )
            elif word.text in ("left", "right", "above", "over", "below", "under"):
                ask("relation", vector, list(SHAPES).index(d.objects[0].shape))
                ask("relation, pooled", pooled[row], list(SHAPES).index(d.objects[0].shape))
    return {
        task: _ridge_probe_accuracy(torch.stack(features[task]), torch.tensor(answers[task]))
        for task in features
    }


def _word_start(text: str, words: tuple[str, ...], k: int) -> int:
    """Return where word number k begins in the text."""
    at = 0
    for word in words[:k]:
        at = text.index(word, at) + len(word)
    return text.index(words[k], at)


def _ridge_probe_accuracy(x: Tensor, y: Tensor, ridge: float = 1e-2) -> float:
    """Return the accuracy of ridge regression onto one-hot answers, tested on the last 1/4."""
    split = len(x) * 3 // 4
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    predict = ridge_probe(x[:split], y[:split], int(y.max()) + 1, ridge)
    return (predict(x[split:]) == y[split:]).double().mean().item()


def ridge_probe(
    x: Tensor, y: Tensor, classes: int, ridge: float = 1e-2
) -> Callable[[Tensor], Tensor]:
    """Fit ridge regression from vectors onto one-hot answers.

    Args:
        x: Vectors [n, d].
        y: Answers [n], integers below `classes`.
        classes: Number of possible answers.
        ridge: Weight of the penalty on the squared weights, for each sample (default: 0.01).

    Returns:
        A function from vectors [m, d] to the most likely answers [m].
    """

    def with_bias(x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones(len(x), 1)], 1).double()

    inputs, target = with_bias(x), F.one_hot(y, classes).double()
    gram = inputs.T @ inputs
    a = gram + ridge * len(x) * torch.eye(inputs.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(a, inputs.T @ target)
    return lambda x: (with_bias(x) @ weights).argmax(1)
