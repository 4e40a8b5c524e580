"""Plots of edits: attention maps before and after, token mappers, and scores over the injection
window and over the weight of a word.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from imagen_mini.editing.alignment import changed_token_positions
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.evaluation.edit_benchmark import EditScore
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.text.encoder import Tokens
from imagen_mini.viz.attention_maps import overlay_heat, token_labels
from imagen_mini.viz.style import STYLES, legend_below, percent_axis, subplots
from imagen_mini.viz.text_encoder import text_of_piece


def difference_image(source: Tensor, edited: Tensor) -> Tensor:
    """Where two images differ.

    Args:
        source: An image [3, h, w] in [-1, 1].
        edited: Another one.

    Returns:
        The largest difference over the channels as a gray image [3, h, w]: black is none, white is
        the whole range.
    """
    return ((edited - source).abs().amax(0, keepdim=True) - 1).expand(3, -1, -1)


def attention_map_images(
    maps: AttentionStore, base: Sequence[Tensor], word: str | None
) -> tuple[list[Tensor], list[str]]:
    """Attention maps on the largest grid, over the base stage's images.

    Args:
        maps: The attention of a source and its targets.
        base: The base stage's images [3, h, w].
        word: A word whose map is shown in each image. None: the words that changed, in the source,
            and in the target before and after the edit.

    Returns:
        The images, and their labels. Within a row brightness can be compared.
    """
    if word is not None:
        heats = [maps.word_map(word, row) for row in range(len(base))]
        top = max(h.max().item() for h in heats)
        return [overlay_heat(image, heat, top) for image, heat in zip(base, heats)], [
            f"attention to {word!r}"
        ] * len(heats)
    tiles, labels = [], []
    for row, positions in enumerate(changed_token_positions(*maps.tokens[:2])):
        for position in positions:
            name, heat, own = (
                token_labels(maps, row)[position],
                maps.of_tokens([position], row),
                maps.of_tokens([position], row, edited=False),
            )
            top = max(heat.max().item(), own.max().item())
            tiles += [
                overlay_heat(base[row], h, top) for h in ([heat] if row == 0 else [own, heat])
            ]
            labels += (
                [f"{name!r} in the source"]
                if row == 0
                else [f"{name!r} by itself", f"{name!r} as edited"]
            )
    return tiles, labels


def plot_token_mappers(source: Tokens, target: Tokens, matrices: dict[str, Tensor]) -> Figure:
    """Token mappers as heat maps, with their numbers that are not zero.

    Args:
        source: The source's tokens, one row each.
        target: The target's tokens, one column each.
        matrices: Mappers [source tokens, target tokens] by title.
    """
    fig, axes = subplots(list(matrices), "target", columns=len(matrices))
    for ax, matrix in zip(axes, matrices.values()):
        ax.imshow(matrix.numpy(), cmap="Blues", vmin=0, vmax=1.4)
        for i, j in matrix.nonzero().tolist():
            ax.text(j, i, f"{matrix[i, j]:.2g}", ha="center", va="center", fontsize=8)
        ax.set_xticks(
            range(len(target.pieces)),
            [text_of_piece(piece) for piece in target.pieces],
            rotation=60,
        )
        ax.set_yticks(range(len(source.pieces)), [text_of_piece(piece) for piece in source.pieces])
        ax.set_ylabel("source")
        ax.grid(False)
    fig.set_size_inches(
        (2.5 + 0.4 * len(target.pieces)) * len(matrices), 2 + 0.4 * len(source.pieces)
    )
    return fig


def plot_window_sweep(sweeps: dict[str, dict[float, list[EditScore]]]) -> Figure:
    """How often the new prompt is shown and the layout is kept, over the length of the injection
    window, with 95 % intervals.

    Args:
        sweeps: By title, for each share of the steps (from pure noise on) the scores of the edits.
    """
    fig, axes = subplots(
        list(sweeps), "share of the steps, from pure noise on", columns=len(sweeps)
    )
    for ax, by_length in zip(axes, sweeps.values()):
        for (key, label), style, offset in zip(
            {"success": "shows the new prompt", "layout": "keeps the layout"}.items(),
            STYLES,
            (-0.008, 0.008),
        ):
            rates = [
                sum(getattr(s, key) for s in of) / max(1, len(of)) for of in by_length.values()
            ]
            ends = [
                wilson_interval(sum(getattr(s, key) for s in of), len(of))
                for of in by_length.values()
            ]
            bars = [
                [rate - low for rate, (low, _) in zip(rates, ends)],
                [high - rate for rate, (_, high) in zip(rates, ends)],
            ]
            ax.errorbar(
                [length + offset for length in by_length],
                rates,
                bars,
                capsize=3,
                label=label,
                **style,
            )
        percent_axis(ax)
        ax.set_ylim(-0.03, 1.05)
    legend_below(fig, axes[0], columns=2)
    return fig


def plot_word_weights(
    word: str, weights: Sequence[float], areas: Tensor, captions: Sequence[str]
) -> Figure:
    """How much of the image objects cover, over the weight of a word, one line for each caption.

    Args:
        word: The word.
        weights: Its weights.
        areas: Shares of the image in [0, 1], [captions, weights].
        captions: The label of each line.
    """
    fig, (ax,) = subplots(
        [f'what the object covers, over the weight of "{word}"'],
        "weight c of the word   (1 changes nothing)",
    )
    for row, caption, style in zip(areas.tolist(), captions, STYLES):
        ax.plot(weights, row, label=caption, **style)
    percent_axis(ax)
    ax.set_ylim(0, 1.15 * areas.max().item())
    ax.set_ylabel("share of the image")
    fig.set_size_inches(6.5, 3.8)
    lines, names = ax.get_legend_handles_labels()
    fig.legend(lines, names, loc="outside right upper", frameon=False)
    return fig
