"""Plots of a text encoder: captions as tokens, matrices of similarities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imagen_mini.text.encoder import Tokens

MARKS = ("▁", "Ġ", "##")  # of a word's start (T5, GPT), of its continuation (BERT)


def text_of_piece(piece: str) -> str:
    """The text of a token without the marks of its tokenizer; "▁" alone stays."""
    text = piece
    for mark in MARKS:
        text = text.removeprefix(mark)
    return text.removesuffix("</w>") or piece


def plot_token_pieces(tokens: Sequence[Tokens]):
    """Captions as rows of tokens, each in a box with its number in the vocabulary.

    Boxes of one word share a colour. The end token is dark, padding is empty.

    Args:
        tokens: The tokens of each caption.

    Returns:
        A matplotlib Figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    n, shades = max(len(t.ids) for t in tokens), ("#cfe5f5", "#fbe3bd")
    fig = Figure(figsize=(0.68 * n + 0.2, 0.62 * len(tokens) + 0.5), layout="constrained")
    ax = fig.add_subplot()
    for row, t in enumerate(tokens):
        for i in range(n):
            there = i < len(t.ids)
            word = t.word_ids[i] if there else None
            color = "white" if not there else "#555555" if word is None else shades[word % 2]
            ax.add_patch(
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
            ax.text(
                i,
                row - 0.12,
                t.pieces[i].replace("▁", "_") if there else "pad",
                ha="center",
                va="center",
                fontsize=8,
                color=ink,
            )
            if there:
                ax.text(
                    i, row + 0.24, f"{t.ids[i]}", ha="center", va="center", fontsize=6, color=ink
                )
    ax.set(
        xlim=(-0.6, n - 0.4),
        ylim=(len(tokens) - 0.45, -0.55),
        xticks=range(n),
        yticks=[],
        xlabel="position",
    )
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_title(
        'pieces, by word, with their numbers in the vocabulary; "_" begins a word', fontsize=10
    )
    return fig


def plot_matrices(
    matrices: Sequence[Tensor | Sequence[Sequence[float]]],
    titles: Sequence[str],
    row_names: Sequence[str],
    column_names: Sequence[str],
    low: float = 0.0,
    high: float = 1.0,
    marked: Sequence[tuple[int, int]] = (),
    label: str = "cosine",
):
    """Matrices side by side as heat maps, with their numbers.

    Args:
        matrices: Matrices [rows, columns].
        titles: One title for each.
        row_names: The names of the rows.
        column_names: The names of the columns.
        low: The lower end of the colours (default: 0).
        high: The upper end of the colours (default: 1).
        marked: Cells (row, column) with a border.
        label: What the numbers are (default: "cosine").

    Returns:
        A matplotlib Figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from imagen_mini.viz.style import STYLES

    rows, columns = len(row_names), len(column_names)
    width = max(0.48 * columns, 0.085 * max(map(len, titles)))
    slanted = 0.065 * max(map(len, column_names)) > width / columns
    height = 0.36 * rows + 0.7 + (0.06 * max(map(len, column_names)) if slanted else 0)
    fig = Figure(
        figsize=(width * len(matrices) + 0.075 * max(map(len, row_names)) + 1.2, height),
        layout="constrained",
    )
    axes = fig.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for ax, matrix, title in zip(axes, matrices, titles):
        values = torch.as_tensor(matrix)
        shown = ax.imshow(values.numpy(), cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for i in range(rows):
            for j in range(columns):
                ink = "black" if values[i, j] > (low + high) / 2 else "white"
                ax.text(
                    j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7, color=ink
                )
        for i, j in marked:
            ax.add_patch(
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
        ax.set_xticks(range(columns), column_names, fontsize=8, **turned)
        ax.set_yticks(range(rows), row_names, fontsize=8)
        ax.tick_params(length=0)
        ax.set_title(title, fontsize=10)
    fig.colorbar(shown, ax=list(axes), label=label, aspect=6 * rows, pad=0.02)
    return fig
