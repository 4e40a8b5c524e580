"""Attention maps as images: over the generated image, by step, by layer and by head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.viz.image_grid import image_grid
from imagen_mini.viz.text_encoder import text_of_piece


def overlay_heat(image: Tensor, heat: Tensor, top: float | None = None) -> Tensor:
    """An attention map as colours over a gray image.

    Args:
        image: An image [3, H, W] in [-1, 1].
        heat: A map [h, w]; it is resized to the image.
        top: The value of the brightest colour (default: the map's highest value).

    Returns:
        An image [3, H, W].
    """
    from matplotlib import colormaps

    heat = F.interpolate(heat[None, None].float(), size=image.shape[-2:], mode="bilinear")[0, 0]
    share = (heat / (top or heat.max().clamp(min=1e-6))).clamp(0, 1)
    colors = (
        torch.from_numpy(colormaps["magma"](share.numpy())[..., :3]).float().permute(2, 0, 1) * 2
        - 1
    )
    gray = image.float().cpu().mean(0, keepdim=True).expand(3, -1, -1)
    return 0.25 * gray + 0.75 * colors


def token_labels(maps: AttentionStore, row: int = 0) -> list[str]:
    """A label for each token of a prompt: its piece, with a dash where it continues a word."""
    tokens = maps.tokens[row]
    before = (None, *tokens.word_ids)
    return [
        f"-{text}" if word is not None and word == last else text
        for text, word, last in zip(map(text_of_piece, tokens.pieces), tokens.word_ids, before)
    ]


def content_words(maps: AttentionStore, row: int = 0) -> list[str]:
    """The words of a prompt without its articles."""
    return [w for w in dict.fromkeys(maps.tokens[row].words) if w.lower() not in ("a", "an", "the")]


def token_grid(maps: AttentionStore, image: Tensor, cell: int = 96) -> Image.Image:
    """Each token's map, averaged over layers, heads and steps, with its share of all attention.

    Args:
        maps: The recorded attention of one prompt.
        image: The generated image [3, h, w] in [-1, 1].
        cell: The side of an image in pixels (default: 96).

    Returns:
        A PIL image with one row for each size of attention grid.
    """
    tiles, labels = [], []
    for size in maps.sizes:
        tiles, labels = [*tiles, image], [*labels, f"{size} x {size}"]
        for position, (name, share) in enumerate(
            zip(token_labels(maps), maps.token_shares(size=size).tolist())
        ):
            tiles.append(overlay_heat(image, maps.of_tokens([position], size=size)))
            labels.append(f"{name} {share:.0%}")
    return image_grid(tiles, labels, columns=len(tiles) // len(maps.sizes), cell=cell)


def step_rows(
    maps: AttentionStore, estimates: dict[float, Tensor], times: list[float], size: int
) -> tuple[list[list[Tensor]], list[list[str]]]:
    """The network's estimates at some times, and each word's map over them.

    Args:
        maps: The recorded attention of one prompt.
        estimates: x_0_hat [3, h, w] by time.
        times: The times.
        size: The side of the attention grid.

    Returns:
        A row of estimates and a row for each word; and the labels, row by row. A word has the same
        scale of brightness in its row.
    """
    images, labels = [[estimates[t] for t in times]], [[f"t = {t:.2f}" for t in times]]
    for word in content_words(maps):
        heats = [maps.word_map(word, times=[t], size=size) for t in times]
        top = max(h.max().item() for h in heats)
        images.append([overlay_heat(estimates[t], heat, top) for t, heat in zip(times, heats)])
        labels.append([word] * len(times))
    return images, labels


def step_grid(
    maps: AttentionStore, estimates: dict[float, Tensor], size: int, columns: int = 10
) -> Image.Image:
    """The rows of `step_rows` at evenly spaced steps, as one PIL image.

    Args:
        maps: The recorded attention of one prompt.
        estimates: x_0_hat [3, h, w] by time.
        size: The side of the attention grid.
        columns: At most so many times (default: 10).
    """
    times = maps.times
    chosen = [
        times[round(i * (len(times) - 1) / max(1, min(columns, len(times)) - 1))]
        for i in range(min(columns, len(times)))
    ]
    images, labels = step_rows(maps, estimates, chosen, size)
    return image_grid(sum(images, []), sum(labels, []), columns=len(chosen), cell=96)


def step_animation(
    maps: AttentionStore, estimates: dict[float, Tensor], size: int
) -> list[Image.Image]:
    """An image for each step: the estimate, and each word's map over it."""
    images, labels = step_rows(maps, estimates, maps.times, size)
    return [
        image_grid(
            [row[i] for row in images], [row[i] for row in labels], columns=len(images), cell=128
        )
        for i in range(len(maps.times))
    ]


def layer_grid(maps: AttentionStore, image: Tensor) -> Image.Image:
    """A row for each attention layer, a column for each word."""
    words = content_words(maps)
    tiles = [
        overlay_heat(image, maps.word_map(word, site=site.name))
        for site in maps.sites
        for word in words
    ]
    return image_grid(
        tiles,
        [f"{word}, {site.name}" for site in maps.sites for word in words],
        columns=len(words),
        cell=96,
    )


def head_grid(maps: AttentionStore, image: Tensor, word: str) -> Image.Image:
    """A row for each attention layer, a column for each of its heads: the maps of one word, each
    scaled to its highest value.
    """
    heads = {
        site.name: probs.shape[1]
        for site in maps.sites
        for probs in [maps.edited[maps.times[0]][site.name]]
    }
    cells = [
        (site.name, head, head < heads[site.name])
        for site in maps.sites
        for head in range(max(heads.values()))
    ]
    tiles = [
        overlay_heat(image, maps.word_map(word, site=name, head=head))
        if there
        else torch.ones_like(image)
        for name, head, there in cells
    ]
    labels = [f"{name} {head}" if there else "" for name, head, there in cells]
    return image_grid(
        tiles,
        labels,
        columns=max(heads.values()),
        cell=80,
        borders=[None if there else "white" for _, _, there in cells],
    )


def plot_localization(report: dict):
    """The overlap of words' maps with their objects over time.

    Args:
        report: What `measure_localization` returns.

    Returns:
        A matplotlib Figure with one axes for each role of words and one line for each layer.
    """
    from imagen_mini.viz.style import legend_below, line_style, percent_axis, subplots

    fig, axes = subplots([f"words of {role}" for role in report["overlap"]], "t   (1 is noise)")
    for ax, layers in zip(axes, report["overlap"].values()):
        for i, (name, steps) in enumerate(layers.items()):
            size = report["layers"][name]
            ax.plot(
                report["times"],
                steps,
                **line_style(i) | {"markersize": 3},
                label=f"{name}, {size} x {size}",
            )
        ax.axhline(
            max(report["chance"].values()),
            color="#777777",
            linestyle=":",
            label="chance",
        )
        ax.invert_xaxis()
        percent_axis(ax)
    axes[0].set_ylabel("intersection over union")
    legend_below(fig, axes[0], columns=3)
    return fig
