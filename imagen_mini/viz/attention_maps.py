"""Attention maps as images, held against the things that words speak of, and two controls: one that
catches q, k, v and one that exchanges columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.editing.alignment import token_positions
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.evaluation.localization import attention_iou, chance_iou
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.captions import Caption
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.render import masks
from imagen_mini.text.encoder import Tokens
from imagen_mini.viz.image_grid import image_grid

ROLES = ("color", "shape", "size")  # words that speak of one thing


def heat_over(image: Tensor, heat: Tensor, top: float | None = None) -> Tensor:
    """A map [h, w] as colours over an image [3, H, W] in [-1, 1]; its highest value, or `top`, is
    brightest.
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


def names_of(maps: AttentionStore, row: int = 0) -> list[str]:
    """What each token is called: its piece, with a dash where it goes on with a word."""
    return [
        piece.replace("▁", "") if piece.startswith("▁") or word is None else f"-{piece}"
        for piece, word in zip(maps.tokens[row].pieces, maps.tokens[row].word_ids)
    ]


def words_of(maps: AttentionStore, row: int = 0) -> list[str]:
    """The words that mean something: all but the articles."""
    return [w for w in dict.fromkeys(maps.tokens[row].words) if w.lower() not in ("a", "an", "the")]


# ---------------------------------------------------------------- images of one prompt


def token_sheet(maps: AttentionStore, image: Tensor, cell: int = 96) -> Image.Image:
    """A row for each grid: the image, then each token's map, averaged over layers, heads and steps,
    with its share of all attention.
    """
    tiles, labels = [], []
    for size in maps.sizes:
        tiles, labels = [*tiles, image], [*labels, f"{size} x {size}"]
        for position, (name, share) in enumerate(
            zip(names_of(maps), maps.shares(size=size).tolist())
        ):
            tiles.append(heat_over(image, maps.of_tokens([position], size=size)))
            labels.append(f"{name} {share:.0%}")
    return image_grid(tiles, labels, columns=len(tiles) // len(maps.sizes), cell=cell)


def step_rows(
    maps: AttentionStore, estimates: dict[float, Tensor], times: list[float], size: int
) -> tuple[list[list[Tensor]], list[list[str]]]:
    """A row for what the network estimates at these times, and one for each word's map there. A
    word's brightness is the same in all its row.
    """
    images, labels = [[estimates[t] for t in times]], [[f"t = {t:.2f}" for t in times]]
    for word in words_of(maps):
        heats = [maps.positions_of_word(word, times=[t], size=size) for t in times]
        top = max(h.max().item() for h in heats)
        images.append([heat_over(estimates[t], heat, top) for t, heat in zip(times, heats)])
        labels.append([word] * len(times))
    return images, labels


def step_sheet(
    maps: AttentionStore, estimates: dict[float, Tensor], size: int, columns: int = 10
) -> Image.Image:
    """The rows of `step_rows` at so many of the times, evenly spaced over the steps."""
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


def layer_sheet(maps: AttentionStore, image: Tensor) -> Image.Image:
    """A row for each layer, a column for each word."""
    words = words_of(maps)
    tiles = [
        heat_over(image, maps.positions_of_word(word, site=site.name))
        for site in maps.sites
        for word in words
    ]
    return image_grid(
        tiles,
        [f"{word}, {site.name}" for site in maps.sites for word in words],
        columns=len(words),
        cell=96,
    )


def head_sheet(maps: AttentionStore, image: Tensor, word: str) -> Image.Image:
    """A row for each layer, a column for each of its heads: the maps of one word, each as bright as
    its highest place.
    """
    heads = {
        site.name: probs.shape[1]
        for site in maps.sites
        for probs in [maps.after[maps.times[0]][site.name]]
    }
    cells = [
        (site.name, head, head < heads[site.name])
        for site in maps.sites
        for head in range(max(heads.values()))
    ]
    tiles = [
        heat_over(image, maps.positions_of_word(word, site=name, head=head))
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
        frames=[None if there else "white" for _, _, there in cells],
    )


# ---------------------------------------------------------------- do the words find their things?


def find(
    pipe: ImagenPipeline,
    prompts: list[tuple[str, int, Caption]],
    options: dict,
    batch: int = 10,
    progress: bool = True,
) -> dict:
    """Overlap of words' maps with their things, by role of the word, by layer and by step; only
    images that show what was said can be judged.

    `prompts`: as `benchmark` has them; `options`: of the pipeline's call. Returns how many
    `captions` there were and how many were `judged`, the `times`, the grid of each of the `layers`,
    the overlap by `chance` for each layer, and `overlap`[role][layer]: its mean at each time, in
    [0, 1].
    """
    maps, found, chance, judged = AttentionStore(), {}, {}, 0
    for at in tqdm(range(0, len(prompts), batch), desc="find", unit="batch", disable=not progress):
        part = prompts[at : at + batch]
        images = pipe(
            [c.text for _, _, c in part],
            seed=[seed for _, seed, _ in part],
            record=maps,
            progress=False,
            **options,
        ).stages
        for row, ((_, _, caption), parsed) in enumerate(
            zip(part, parse_image(next(iter(images.values())).float().cpu()))
        ):
            objects = caption.description.assign(parsed.scene) if parsed.scene is not None else None
            if objects is None:
                continue
            judged += 1
            truth = dict(zip(parsed.scene.objects, masks(parsed.scene)))
            for number, word in enumerate(caption.words):
                if word.role not in ROLES or len(word.objects) != 1:
                    continue
                mask = truth[objects[word.objects[0]]]
                for site in maps.sites:
                    rows = found.setdefault(word.role, {}).setdefault(
                        site.name, [[] for _ in maps.times]
                    )
                    for step, t in enumerate(maps.times):
                        rows[step].append(
                            attention_iou(
                                maps.positions_of_word(
                                    number, row, site=site.name, times=[t]
                                ).cpu(),
                                mask,
                            )
                        )
                    chance.setdefault(site.name, []).append(chance_iou(mask, site.size))
    return {
        "captions": len(prompts),
        "judged": judged,
        "times": [round(t, 4) for t in maps.times],
        "layers": {s.name: s.size for s in maps.sites},
        "chance": {name: mean(values) for name, values in chance.items()},
        "overlap": {
            role: {name: [mean(step) for step in steps] for name, steps in layers.items()}
            for role, layers in found.items()
        },
    }


def mean(values: list[float]) -> float:
    return round(sum(values) / max(1, len(values)), 4)


def find_lines(report: dict) -> str:
    """The report of `find` as a table: mean overlap over the steps, a line for each layer, a column
    for each role.
    """
    lines = [
        f"{'layer':14}{'grid':>6}"
        + "".join(f"{role:>8}" for role in report["overlap"])
        + f"{'chance':>8}"
    ]
    for name, size in report["layers"].items():
        cells = [mean(layers[name]) for layers in report["overlap"].values()] + [
            report["chance"][name]
        ]
        lines.append(f"{name:14}{size:>6}" + "".join(f"{value:>8.0%}" for value in cells))
    return "\n".join(lines)


def find_sheet(report: dict):
    """The report of `find` as a chart: overlap against time, a panel for each role of words, a line
    for each layer. A matplotlib Figure.
    """
    from imagen_mini.viz.style import line_style, percent_axis, subplots

    sheet, panels = subplots([f"words of {role}" for role in report["overlap"]], "t   (1 is noise)")
    for panel, layers in zip(panels, report["overlap"].values()):
        for i, (name, steps) in enumerate(layers.items()):
            size = report["layers"][name]
            panel.plot(
                report["times"],
                steps,
                **line_style(i) | {"markersize": 3},
                label=f"{name}, {size} x {size}",
            )
        panel.axhline(
            max(report["chance"].values()),
            color="#777777",
            linestyle=":",
            label="a map that knows nothing",
        )
        panel.invert_xaxis()
        percent_axis(panel)
    panels[0].set_ylabel("intersection over union")
    lines, names = panels[0].get_legend_handles_labels()
    sheet.legend(lines, names, loc="outside lower center", ncols=3, frameon=False)
    return sheet


# ---------------------------------------------------------------- controls


@dataclass(frozen=True)
class Catch(AttentionControl):
    """Changes nothing, and keeps what goes into each attention layer: `caught[site.name]` is (q, k,
    v), each [b, heads, tokens, d], of the latest call.
    """

    caught: dict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def qkv(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.caught[site.name] = (q, k, v)
        return q, k, v


@dataclass(frozen=True)
class Columns(AttentionControl):
    """Mixes the columns of attention to words, in every layer that has any: probs <- probs @
    matrix, with a matrix [tokens, tokens] for each prompt.

    The identity changes nothing; a permutation lets words be looked at in each other's place; a
    zero on the diagonal silences a word. `held`, by the site's name, are probabilities [b, heads,
    queries, tokens] that take the place of the network's own first: `maps.after[t]` of an earlier
    walk.
    """

    matrix: Tensor  # [b, n_text, n_text]
    held: dict[str, Tensor] | None = None

    def needs_probs(self, site: AttentionSite) -> bool:
        return site.kind != "self"

    def probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        words = probs[..., :n_text] if self.held is None else self.held[site.name].to(probs)
        return torch.cat([words @ self.matrix[:, None].to(probs), probs[..., n_text:]], dim=-1)


def swapped_columns(
    tokens: Sequence[Tokens], words: Sequence[tuple[str, str]], n_text: int
) -> Tensor:
    """For each prompt the matrix [n_text, n_text] that exchanges the columns of two of its words.
    ValueError if these are not of as many pieces.
    """
    out = torch.eye(n_text).repeat(len(tokens), 1, 1)
    for matrix, of_prompt, (a, b) in zip(out, tokens, words):
        first, second = token_positions(of_prompt, a), token_positions(of_prompt, b)
        if len(first) != len(second):
            raise ValueError(
                f"{a!r} has {len(first)} pieces and {b!r} has {len(second)}; expected words of "
                "as many pieces"
            )
        matrix[first + second] = matrix[second + first]
    return out


def silenced_columns(tokens: Sequence[Tokens], words: Sequence[str], n_text: int) -> Tensor:
    """For each prompt the matrix [n_text, n_text] that sets the columns of one of its words to
    zero. What is left is not renormalised.
    """
    out = torch.eye(n_text).repeat(len(tokens), 1, 1)
    for matrix, of_prompt, word in zip(out, tokens, words):
        matrix[token_positions(of_prompt, word)] = 0
    return out


def with_words(prompt: str, new: dict[str, str]) -> str:
    """The prompt with each word that is a key of `new` replaced by its value, all at once: {"red":
    "blue", "blue": "red"} exchanges two.
    """
    return " ".join(new.get(word, word) for word in prompt.split())
