"""What a text encoder makes of captions: its pieces drawn, its vectors compared, and what can be
read off them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.evaluation.benchmark import related
from imagen_mini.scenes.captions import RARE_WORDS, article_for, training_caption
from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    OPPOSITE,
    SHAPES,
    SIZES,
    TEXTURES,
    training_scene,
)
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder, Tokens

# For each kind of words that have rare synonyms: the words, and a caption to put one in.
WORD_KINDS = {
    "color": (tuple(COLORS), "a {} circle"),
    "shape": (tuple(SHAPES), "a red {}"),
    "size": (tuple(SIZES), "a {} red circle"),
    "texture": (tuple(TEXTURES), "a {} red circle"),
    "background": (tuple(BACKGROUNDS), "a red circle on a {} background"),
}


def random_encoder_like(encoder: TextEncoder, seed: int = 0) -> TextEncoder:
    """The same T5 with the same tokenizer, but with random weights: what the architecture alone
    knows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextEncoder(
            type(encoder.model)(encoder.model.config), encoder.tokenizer, encoder.max_length
        )


# ---------------------------------------------------------------- pieces


def piece_sheet(tokens: Sequence[Tokens]):
    """Pieces as a table: a row for each caption, a box for each piece with its number in the
    vocabulary below; boxes of one word share a colour, the end token is dark, and what a batch pads
    is empty. A matplotlib Figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    n, shades = max(len(t.ids) for t in tokens), ("#cfe5f5", "#fbe3bd")
    sheet = Figure(figsize=(0.68 * n + 0.2, 0.62 * len(tokens) + 0.5), layout="constrained")
    panel = sheet.add_subplot()
    for row, t in enumerate(tokens):
        for i in range(n):
            there = i < len(t.ids)
            word = t.word_ids[i] if there else None
            color = "white" if not there else "#555555" if word is None else shades[word % 2]
            panel.add_patch(
                Rectangle(
                    (i - 0.47, row - 0.42),
                    0.94,
                    0.84,
                    facecolor=color,
                    edgecolor="#999999",
                    linestyle="-" if there else ":",
                )
            )
            ink = "#999999" if not there else "white" if word is None else "black"
            panel.text(
                i,
                row - 0.12,
                t.pieces[i].replace("▁", "_") if there else "pad",
                ha="center",
                va="center",
                fontsize=8,
                color=ink,
            )
            if there:
                panel.text(
                    i, row + 0.24, f"{t.ids[i]}", ha="center", va="center", fontsize=6, color=ink
                )
    panel.set(
        xlim=(-0.6, n - 0.4),
        ylim=(len(tokens) - 0.45, -0.55),
        xticks=range(n),
        yticks=[],
        xlabel="position",
    )
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    panel.set_title(
        'pieces, by word, with their numbers in the vocabulary; "_" begins a word', fontsize=10
    )
    return sheet


# ---------------------------------------------------------------- vectors compared


def masked_mean(text: TextEmbeddings) -> Tensor:
    """One vector for each prompt: the mean of the vectors of its real tokens, [b, d]."""
    mask = text.mask[:, :, None]
    return (text.emb * mask).sum(1) / mask.sum(1)


def common_part(text: TextEmbeddings) -> Tensor:
    """The mean vector of all real tokens, [d]. Vectors of a T5 have a large part in common, which
    says nothing; take it off before comparing them.
    """
    return text.emb[text.mask].mean(0)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each vector in a [n, d] with each in b [m, d]: [n, m], in [-1, 1]."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def matched(a: Tensor, b: Tensor) -> float:
    """How alike two captions are as sets of vectors, a [n, d] and b [m, d]: the mean cosine of each
    vector with the one most like it in the other set, of both ways the lesser. Order counts for
    nothing, as it does for cross-attention: what a vector does not say itself is not said.
    """
    similar = cosines(a, b)
    return min(similar.max(1).values.mean().item(), similar.max(0).values.mean().item())


def matched_matrix(text: TextEmbeddings, common: Tensor) -> Tensor:
    """`matched` of every two prompts, their vectors less the common part: [b, b]."""
    rows = [(emb - common)[mask] for emb, mask in zip(text.emb, text.mask)]
    return torch.tensor([[matched(a, b) for b in rows] for a in rows])


def word_vector(encoder: TextEncoder, word: str, frame: str) -> Tensor:
    """The vector [d] of a word in a caption, `frame` with {} at its place; the mean of its pieces."""
    prompt = frame.format(word)
    tokens = encoder.tokens(prompt)
    return encoder(prompt).emb[0, tokens.positions_of_word(tokens.words.index(word))].mean(0)


def synonyms(encoder: TextEncoder, common: Tensor) -> dict[str, dict[str, dict[str, float]]]:
    """For each kind of words, for each rare word of it, its cosine with each common word of the
    kind: {"color": {"crimson": {"red": 0.8, ...}}}. All stand in the same caption, and `common` is
    taken off their vectors.
    """
    out: dict[str, dict[str, dict[str, float]]] = {}
    for kind, (words, frame) in WORD_KINDS.items():
        known = torch.stack([word_vector(encoder, w, frame) for w in words]) - common
        for rare in (r for r, w in RARE_WORDS.items() if w in words):
            similar = cosines(word_vector(encoder, rare, frame)[None] - common, known)[0].tolist()
            out.setdefault(kind, {})[rare] = dict(zip(words, similar))
    return out


def nearest_is_correct(found: dict[str, dict[str, dict[str, float]]]) -> dict[str, bool]:
    """Of each rare word in `synonyms`: is the common word nearest to it the one that it stands for?"""
    return {
        rare: max(similar, key=similar.get) == RARE_WORDS[rare]
        for of_kind in found.values()
        for rare, similar in of_kind.items()
    }


def paraphrase_triples(n: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """`n` captions of two things, each with the same words in another order, which says something
    else, and with the opposite relation as well, which says the same again: ("a red circle left of
    a blue square", "a blue square left of a red circle", "a blue square right of a red circle").
    """

    def say(first: str, relation: str, second: str) -> str:
        return f"{article_for(first)} {first} {relation} {article_for(second)} {second}"

    out = []
    for i in range(n):
        d = related(random.Random(f"three ways/{seed}/{i}"))
        a, b = (f"{obj.color} {obj.shape}" for obj in d.objects)
        out.append((say(a, d.relation, b), say(b, d.relation, a), say(b, OPPOSITE[d.relation], a)))
    return out


def matrix_sheet(
    matrices: Sequence[Tensor | Sequence[Sequence[float]]],
    titles: Sequence[str],
    row_names: Sequence[str],
    column_names: Sequence[str],
    low: float = 0.0,
    high: float = 1.0,
    marked: Sequence[tuple[int, int]] = (),
    label: str = "cosine",
):
    """Matrices side by side as heat maps, with their numbers, which `label` names; `low` to `high`
    is the range of the colours, and the cells `marked` (row, column) have a frame. A matplotlib
    Figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from imagen_mini.viz.style import STYLES

    rows, columns = len(row_names), len(column_names)
    width = max(0.48 * columns, 0.085 * max(map(len, titles)))
    slanted = 0.065 * max(map(len, column_names)) > width / columns
    height = 0.36 * rows + 0.7 + (0.06 * max(map(len, column_names)) if slanted else 0)
    sheet = Figure(
        figsize=(width * len(matrices) + 0.075 * max(map(len, row_names)) + 1.2, height),
        layout="constrained",
    )
    panels = sheet.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for panel, matrix, title in zip(panels, matrices, titles):
        values = torch.as_tensor(matrix)
        shown = panel.imshow(values.numpy(), cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for i in range(rows):
            for j in range(columns):
                ink = "black" if values[i, j] > (low + high) / 2 else "white"
                panel.text(
                    j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7, color=ink
                )
        for i, j in marked:
            panel.add_patch(
                Rectangle(
                    (j - 0.48, i - 0.46),
                    0.96,
                    0.92,
                    fill=False,
                    edgecolor=STYLES[1]["color"],
                    linewidth=2,
                )
            )
        turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        panel.set_xticks(range(columns), column_names, fontsize=8, **turned)
        panel.set_yticks(range(rows), row_names, fontsize=8)
        panel.tick_params(length=0)
        panel.set_title(title, fontsize=10)
    sheet.colorbar(shown, ax=list(panels), label=label, aspect=6 * rows, pad=0.02)
    return sheet


# ---------------------------------------------------------------- what can be read off the vectors


def linear_probe(
    encoder: TextEncoder,
    captions: int = 1000,
    read: Callable[[TextEmbeddings], TextEmbeddings] | None = None,
) -> dict[str, float]:
    """Accuracy in [0, 1] of linear probes on single vectors of held-out captions of two related
    things, differently coloured.

    `color`, from the token of a thing's shape: which colour has this thing, though the other's
    colour stands in the caption too? `place`, from the same token: does the thing lie left, right,
    above or below? `relation`, from the token of 'left', 'above', ...: what shape has the thing of
    which it is said? `relation, pooled`: the same question, to the mean of all the caption's
    vectors. `read`: what vectors go through first, for example a network's own text layers.
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
        d, tokens = caption.description, encoder.tokens(caption.text)
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
        task: _linear_probe(torch.stack(features[task]), torch.tensor(answers[task]))
        for task in features
    }


def _word_start(text: str, words: tuple[str, ...], k: int) -> int:
    """Where word number k begins in the text."""
    at = 0
    for word in words[:k]:
        at = text.index(word, at) + len(word)
    return text.index(words[k], at)


def _linear_probe(x: Tensor, y: Tensor, ridge: float = 1e-2) -> float:
    """Ridge regression onto one-hot answers, fitted on 3/4, accuracy on the other 1/4."""
    x = torch.cat([(x - x.mean(0)) / (x.std(0) + 1e-6), torch.ones(len(x), 1)], 1).double()
    split = len(x) * 3 // 4
    target = F.one_hot(y).double()
    a = x[:split].T @ x[:split] + ridge * split * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(a, x[:split].T @ target[:split])
    return ((x[split:] @ weights).argmax(1) == y[split:]).double().mean().item()
