"""Edits as one sees them: beside their baselines, over the injection window, over the weight of a
word; how prompts are aligned, and what became of maps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from imagen_mini.editing.alignment import refinement_mapper
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.base import Edit
from imagen_mini.editing.prompt_to_prompt import AttentionInjection
from imagen_mini.evaluation.benchmark import random_object
from imagen_mini.evaluation.edit_benchmark import EditScore, EditTask, evaluate_edits
from imagen_mini.evaluation.statistics import format_share, wilson_interval
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.captions import article_for
from imagen_mini.text.encoder import Tokens
from imagen_mini.viz.attention_maps import heat_over, names_of
from imagen_mini.viz.style import STYLES, percent_axis, subplots

SWEEPS: dict[str, Callable[[type[AttentionInjection], float], AttentionInjection]] = {
    "attention injected": lambda kind, share: kind(share, share, shared_prompt_steps=0.0),
    "source's prompt read": lambda kind, share: kind(1.0, 1.0, shared_prompt_steps=share),
}


# ---------------------------------------------------------------- one edit


def compare_to_same_seed(
    pipe: ImagenPipeline, source: str, target: str, seed: int, *edits: Edit | None
) -> Tensor:
    """The first stage's images [1 + edits, 3, h, w] in [-1, 1], all from one noise: of the source,
    and of the target by each edit; None is no edit at all: the same seed, and the new prompt alone.
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


def difference(source: Tensor, edited: Tensor) -> Tensor:
    """Where two images [3, h, w] differ, and by how much: black is nowhere, white is from one end
    of the range to the other in some colour.
    """
    return ((edited - source).abs().amax(0, keepdim=True) - 1).expand(3, -1, -1)


def changed_tokens(source: Tokens, target: Tokens) -> tuple[list[int], list[int]]:
    """Positions of the tokens of each prompt that the other does not have."""
    matrix = refinement_mapper(source, target)
    return [i for i, row in enumerate(matrix) if not row.any()], [
        i for i, column in enumerate(matrix.T) if not column.any()
    ]


def map_tiles(
    maps: AttentionStore, base: Sequence[Tensor], word: str | None
) -> tuple[list[Tensor], list[str]]:
    """Attention maps on the largest grid over the base stage's images [3, h, w]: of `word`, in each
    image; without it of the words that changed, in the source and in the target before and after
    the edit. A row's brightness can be compared.
    """
    if word is not None:
        heats = [maps.positions_of_word(word, row) for row in range(len(base))]
        top = max(h.max().item() for h in heats)
        return [heat_over(image, heat, top) for image, heat in zip(base, heats)], [
            f"where {word!r} is looked at"
        ] * len(heats)
    tiles, labels = [], []
    for row, positions in enumerate(changed_tokens(*maps.tokens[:2])):
        for position in positions:
            name, heat, own = (
                names_of(maps, row)[position],
                maps.of_tokens([position], row),
                maps.of_tokens([position], row, edited=False),
            )
            top = max(heat.max().item(), own.max().item())
            tiles += [heat_over(base[row], h, top) for h in ([heat] if row == 0 else [own, heat])]
            labels += (
                [f"{name!r} in the source"]
                if row == 0
                else [f"{name!r} by itself", f"{name!r} as edited"]
            )
    return tiles, labels


# ---------------------------------------------------------------- alignment


def alignment_sheet(source: Tokens, target: Tokens, matrices: dict[str, Tensor]) -> Figure:
    """Matrices [source tokens, target tokens] that lay the source's attention on the target's
    tokens, by title: a row a token of the source, a column one of the target.
    """
    sheet, panels = subplots(list(matrices), "target", columns=len(matrices))
    for panel, matrix in zip(panels, matrices.values()):
        panel.imshow(matrix.numpy(), cmap="Blues", vmin=0, vmax=1.4)
        for i, j in matrix.nonzero().tolist():
            panel.text(j, i, f"{matrix[i, j]:.2g}", ha="center", va="center", fontsize=8)
        panel.set_xticks(
            range(len(target.pieces)),
            [piece.replace("▁", "") or "▁" for piece in target.pieces],
            rotation=60,
        )
        panel.set_yticks(
            range(len(source.pieces)), [piece.replace("▁", "") or "▁" for piece in source.pieces]
        )
        panel.set_ylabel("source")
        panel.grid(False)
    sheet.set_size_inches(
        (2.5 + 0.4 * len(target.pieces)) * len(matrices), 2 + 0.4 * len(source.pieces)
    )
    return sheet


# ---------------------------------------------------------------- many edits


@dataclass(frozen=True)
class Compared:
    """Edits whose source image was right, by several methods: `images` [1 + methods, 3, h, w] of
    each task, the source first, and of each method by its name the score of each task.
    """

    tasks: list[EditTask]
    images: list[Tensor]
    scores: dict[str, list[EditScore]]


def compare(
    pipe: ImagenPipeline, tasks: Sequence[EditTask], methods: dict[str, Edit | None]
) -> Compared:
    """Make each edit by each method (None: the same seed and the new prompt) and judge it; those
    whose source is wrong are left out.
    """

    def generate(prompts: list[str], seed: int) -> Tensor:
        return compare_to_same_seed(pipe, *prompts, seed, *methods.values())

    kept = [found for found in evaluate_edits(generate, list(tasks)) if found[2][0].source_right]
    return Compared(
        [task for task, _, _ in kept],
        [images for _, images, _ in kept],
        {name: [scores[i] for _, _, scores in kept] for i, name in enumerate(methods)},
    )


def compared_lines(scores: dict[str, list[EditScore]]) -> str:
    """A line for each method: how often the new prompt is shown, the layout is kept, both; and how
    alike the rest of the image is, in dB.
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


def window_sheet(panels: dict[str, dict[float, list[EditScore]]]) -> Figure:
    """Scores over the length of a window, by the title of the panel and the share of the walk: how
    often the new prompt is shown and the layout is kept, with 95 % intervals.
    """
    sheet, axes = subplots(
        list(panels), "share of the walk, from the noise on", columns=len(panels)
    )
    for panel, by_length in zip(axes, panels.values()):
        for (key, label), style, aside in zip(
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
            panel.errorbar(
                [length + aside for length in by_length],
                rates,
                bars,
                capsize=3,
                label=label,
                **style,
            )
        percent_axis(panel)
        panel.set_ylim(-0.03, 1.05)
    lines, names = axes[0].get_legend_handles_labels()
    sheet.legend(lines, names, loc="outside lower center", ncols=2, frameon=False)
    return sheet


# ---------------------------------------------------------------- fading a word

DIFFERS = 0.3  # from the background, in some channel of [-1, 1]


def covered(image: Tensor) -> float:
    """The share of an image [3, h, w] in [-1, 1] that is not background, whose colour is the
    median.
    """
    background = image.flatten(1).median(1).values[:, None, None]
    return ((image - background).abs().amax(0) > DIFFERS).float().mean().item()


def sized_captions(n: int, word: str) -> list[str]:
    """`n` captions of one thing that say its colour and that it is `word`: small or large."""
    rng = random.Random(f"reweight/{word}")
    objects = [random_object(rng, "color") for _ in range(n)]
    return [f"{article_for(word)} {word} {t.color} {t.shape}" for t in objects]


def monotone(values: Tensor) -> Tensor:
    """Spearman's rank correlation with the order they stand in: 1 rises all the way, -1 falls."""
    ranks = values.argsort().argsort().double()
    order = torch.arange(len(values), dtype=torch.float64)
    return torch.corrcoef(torch.stack([ranks, order]))[0, 1]


def fading_sheet(
    word: str, weights: Sequence[float], areas: Tensor, captions: Sequence[str]
) -> Figure:
    """What things cover of their images, areas [captions, weights] in [0, 1], over the weight of a
    word: a line for each caption.
    """
    sheet, (panel,) = subplots(
        [f'what the thing covers, over the weight of "{word}"'],
        "weight c of the word   (1 changes nothing)",
    )
    for row, caption, style in zip(areas.tolist(), captions, STYLES):
        panel.plot(weights, row, label=caption, **style)
    percent_axis(panel)
    panel.set_ylim(0, 1.15 * areas.max().item())
    panel.set_ylabel("share of the image")
    sheet.set_size_inches(6.5, 3.8)
    lines, names = panel.get_legend_handles_labels()
    sheet.legend(lines, names, loc="outside right upper", frameon=False)
    return sheet
