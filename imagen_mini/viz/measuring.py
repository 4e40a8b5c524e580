"""Measuring a model, and measuring the measure: galleries and sheets of verdicts, controls with a
known answer, intervals, the judge on spoilt images.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from imagen_mini.evaluation.error_analysis import classify_error
from imagen_mini.evaluation.scoring import Result, describe_scene, verdict_text
from imagen_mini.evaluation.statistics import newcombe_interval, wilson_interval
from imagen_mini.scenes.captions import Description
from imagen_mini.scenes.parse import ParsedScene, parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import COLORS, HELD_OUT_SEED, Scene, training_scene
from imagen_mini.viz.image_grid import image_grid, quantize_colors
from imagen_mini.viz.style import STYLES, percent_axis, subplots

OUTCOMES = ("right", "unreadable", "misread")
Interval = Callable[[int, int], tuple[float, float]]  # (successes, n) -> (low, high)


# ---------------------------------------------------------------- images with verdicts


def gallery(
    results: Sequence[Result], right: int = 2, wrong: int = 2, columns: int = 6, cell: int = 192
) -> Image.Image:
    """Of each category up to `right` images that are right and `wrong` that are not, these with the
    kind of their error and what was read.
    """
    chosen = []
    for category in dict.fromkeys(r.category for r in results):
        of = [r for r in results if r.category == category]
        chosen += [r for r in of if r.right][:right] + [r for r in of if not r.right][:wrong]
    return quantize_colors(
        image_grid(
            [r.image for r in chosen],
            [_label(r) for r in chosen],
            columns=columns,
            cell=cell,
            frames=[r.right for r in chosen],
        )
    )


def _label(r: Result) -> str:
    read = describe_scene(r.parsed.scene) if r.parsed.scene else r.parsed.problems[0]
    return f"[{r.category}] {r.caption.text}" + (
        "" if r.right else f" -> {classify_error(r.caption.description, r.parsed)}: {read}"
    )


def audit_sheet(
    results: Sequence[Result], judged: bool = True, columns: int = 10, cell: int = 160
) -> Image.Image:
    """Numbered images with their captions, for a person to judge; with `judged`, what the parser
    says of each, too.
    """
    labels = [
        f"{i}: {r.caption.text}"
        + (f" -> {verdict_text(r.caption.description, r.parsed)}" if judged else "")
        for i, r in enumerate(results)
    ]
    return quantize_colors(
        image_grid(
            [r.image for r in results],
            labels,
            columns=columns,
            cell=cell,
            frames=[r.right for r in results] if judged else None,
        )
    )


def mixed(results: Sequence[Result], n: int, wrong: int = 0, seed: int = 0) -> list[Result]:
    """`n` of the results in random order, so that a reader does not know what comes; `wrong` of
    them at least, if there are so many, are wrong ones.
    """
    rng = random.Random(seed)
    mistakes = [r for r in results if not r.right]
    chosen = rng.sample(mistakes, min(wrong, len(mistakes)))
    rest = [r for r in results if not any(r is c for c in chosen)]
    return rng.sample(chosen + rng.sample(rest, n - len(chosen)), n)


# ---------------------------------------------------------------- controls: what is known beforehand


def swap_colors(scenes: Sequence[Scene], every: int) -> list[Scene]:
    """The scenes, but in one of `every` all things have another colour: a share of mistakes that is
    known.
    """
    names = list(COLORS)
    return [
        Scene(
            tuple(
                replace(o, color=names[(names.index(o.color) + 3) % len(names)])
                for o in scene.objects
            ),
            scene.background,
        )
        if i % every == 0
        else scene
        for i, scene in enumerate(scenes)
    ]


def chance_rate(descriptions: Sequence[Description], parsed_scenes: Sequence[ParsedScene]) -> float:
    """The share right that is to be expected if captions are dealt out to images at random: the
    mean over all pairs.
    """
    return sum(d.fits(r.scene) for d in descriptions for r in parsed_scenes) / (
        len(descriptions) * len(parsed_scenes)
    )


# ---------------------------------------------------------------- the judge on spoilt images


def outcome(scene: Scene, parsed: ParsedScene, size: int) -> str:
    """One of OUTCOMES for an image of `scene` and what was read from it; at less than 256 px,
    textures cannot be seen.
    """
    if parsed.scene is None:
        return "unreadable"
    return (
        "right"
        if parsed.scene == (scene if size == 256 else scene.without_texture())
        else "misread"
    )


def measure_parser_under(
    n: int,
    size: int,
    spoil: Callable[[Tensor, float], Tensor],
    strengths: Sequence[float],
    batch: int = 64,
) -> list[dict]:
    """For each strength of one way to spoil images of `n` true scenes: how often they are right,
    unreadable and misread.
    """
    scenes, rows = [training_scene(HELD_OUT_SEED, i) for i in range(n)], []
    for strength in strengths:
        found: list[str] = []
        for at in range(0, n, batch):
            part = scenes[at : at + batch]
            found += [
                outcome(s, r, size)
                for s, r in zip(part, parse_image(spoil(render(part, size), strength)))
            ]
        counts = {name: found.count(name) for name in OUTCOMES}
        rows.append(
            {
                "strength": strength,
                "n": n,
                **counts,
                "intervals": {name: wilson_interval(k, n) for name, k in counts.items()},
            }
        )
    return rows


def plot_corruptions(found: dict[str, list[dict]]) -> Figure:
    """A panel for each way to spoil images: shares of OUTCOMES over its strength, with 95 %
    intervals. Takes rows of `measure_parser_under` by title.
    """
    sheet, panels = subplots(list(found), "")
    for panel, rows in zip(panels, found.values()):
        for name, style in zip(OUTCOMES, STYLES):
            panel.plot(
                [r["strength"] for r in rows], [r[name] / r["n"] for r in rows], **style, label=name
            )
            panel.fill_between(
                [r["strength"] for r in rows],
                *zip(*(r["intervals"][name] for r in rows)),
                color=style["color"],
                alpha=0.12,
                linewidth=0,
            )
        percent_axis(panel)
    return sheet


# ---------------------------------------------------------------- shares and their intervals


def naive_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """p +- z sqrt(p (1 - p) / n), clipped to [0, 1]: as if the deviation at the share that was seen
    were the one at the true share.
    """
    p = successes / n
    half = z * math.sqrt(p * (1 - p) / n)
    return max(0.0, p - half), min(1.0, p + half)


def coverage(interval: Interval, n: int, p: float) -> float:
    """How often the interval holds the true share p, over all outcomes of n images: exact, by the
    binomial distribution.
    """
    return sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for k in range(n + 1)
        if interval(k, n)[0] <= p <= interval(k, n)[1]
    )


def plot_coverage(intervals: dict[str, Interval], n: int) -> Figure:
    """How often each interval holds the truth, over the true share."""
    sheet, (panel,) = subplots(
        [f"how often an interval from {n} images holds the true accuracy"], "true accuracy"
    )
    shares = [i / 200 for i in range(1, 200)]
    for (name, interval), style in zip(intervals.items(), STYLES):
        panel.plot(
            shares, [coverage(interval, n, p) for p in shares], label=name, **style | {"marker": ""}
        )
    panel.axhline(0.95, color="#777777", linestyle=":", label="95 %, as promised")
    _percent(panel)
    panel.legend(frameon=False, loc="lower center")
    sheet.set_size_inches(7, 3.6)
    return sheet


def plot_shares(
    rows: dict[str, dict], title: str = "share of captions drawn rightly, with 95 % interval"
) -> Figure:
    """A bar for each row of `evaluation.table`, with its interval and its numbers."""
    sheet, (panel,) = subplots([title], "")
    for place, (name, row) in enumerate(rows.items()):
        panel.barh(place, row["accuracy"], color=STYLES[0]["color"], height=0.6, zorder=2)
        _interval(panel, place, row["accuracy"], row["low"], row["high"])
        panel.annotate(
            f"{row['right']} of {row['n']}",
            (1.04, place),
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    panel.set_yticks(range(len(rows)), list(rows))
    panel.invert_yaxis()
    panel.set_xlim(0, 1.18)
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    sheet.set_size_inches(7, 0.9 + 0.36 * len(rows))
    return sheet


def plot_groups(groups: Sequence[tuple[int, int]], intervals: dict[str, Interval]) -> Figure:
    """The share in each of several groups (right, n) with its intervals, and the share in all of
    them.
    """
    right, n = sum(k for k, _ in groups), sum(m for _, m in groups)
    sheet, (panel,) = subplots(["one model, measured again and again"], "group of images")
    for number, ((name, interval), style) in enumerate(zip(intervals.items(), STYLES)):
        for place, (k, m) in enumerate(groups):
            low, high = interval(k, m)
            x = place + 1 + 0.2 * (number - (len(intervals) - 1) / 2)
            panel.errorbar(
                [x],
                [k / m],
                [[k / m - low], [high - k / m]],
                color=style["color"],
                marker=style["marker"],
                capsize=4,
                linewidth=1.8,
                label=name if place == 0 else None,
            )
    panel.axhline(
        right / n, color="#777777", linestyle=":", label=f"all {n} images: {right / n:.0%}"
    )
    panel.set_xticks(range(1, len(groups) + 1))
    _percent(panel)
    panel.legend(frameon=False, loc="lower left", fontsize=8)
    sheet.set_size_inches(7, 3.6)
    return sheet


def plot_comparison(a: tuple[str, int, int], b: tuple[str, int, int]) -> Figure:
    """Two shares (name, right, n) with their intervals, and beside them b's less a's with the
    interval of the difference.
    """
    sheet, (shares, panel) = subplots(
        ["share right, 95 % intervals", f"{b[0]} less {a[0]}, 95 % interval"], ""
    )
    for place, (name, k, n) in enumerate((a, b)):
        shares.bar(
            place,
            k / n,
            color=STYLES[place]["color"],
            width=0.5,
            hatch=("", "//")[place],
            edgecolor="white",
            zorder=2,
        )
        low, high = wilson_interval(k, n)
        shares.errorbar(
            [place], [k / n], [[k / n - low], [high - k / n]], color="black", capsize=5, zorder=3
        )
    shares.set_xticks([0, 1], [a[0], b[0]])
    shares.set_xlim(-0.6, 1.6)
    _percent(shares)
    difference, low, high = newcombe_interval(*a[1:], *b[1:])
    panel.errorbar(
        [0],
        [difference],
        [[difference - low], [high - difference]],
        color="black",
        marker="D",
        capsize=6,
    )
    panel.axhline(0, color="#D55E00", linestyle="--", label="no difference")
    panel.set_xticks([])
    panel.set_xlim(-1, 1)
    panel.set_ylim(-1, 1)
    panel.set_yticks([-1, -0.5, 0, 0.5, 1], ["-100 %", "-50 %", "0", "+50 %", "+100 %"])
    panel.legend(frameon=False, loc="lower right")
    return sheet


def plot_widths(
    interval: Interval, shares: Sequence[float], numbers: Sequence[int], name: str
) -> Figure:
    """How wide an interval is, from its low to its high end, over the number of images, for some
    shares that are right.
    """
    sheet, (panel,) = subplots([f"how wide is the interval? ({name})"], "images")
    for share, style in zip(shares, STYLES):
        ends = [interval(round(share * n), n) for n in numbers]
        panel.plot(numbers, [high - low for low, high in ends], label=f"{share:.0%} right", **style)
    panel.set_xscale("log")
    panel.set_xticks(list(numbers), [f"{n}" for n in numbers])
    panel.minorticks_off()
    _percent(panel, high=0.7)
    panel.legend(frameon=False)
    sheet.set_size_inches(7, 3.4)
    return sheet


def plot_sets(rows: dict[str, tuple[float, float]]) -> Figure:
    """Sets of images by two measures: name -> (share right, Fréchet distance)."""
    sheet, (panel,) = subplots(
        ["two measures that see different things"],
        "Fréchet distance to true images (less is better)",
    )
    for (name, (share, distance)), style in zip(rows.items(), STYLES):
        panel.plot(
            [distance], [share], label=name, **style | {"linestyle": "none", "markersize": 9}
        )
    panel.set_xlim(0, 1.1 * max(distance for _, distance in rows.values()))
    percent_axis(panel)
    panel.set_ylim(-0.06, 1.06)
    panel.set_ylabel("share right")
    sheet.legend(*panel.get_legend_handles_labels(), loc="outside right center", frameon=False)
    sheet.set_size_inches(8, 3.6)
    return sheet


def _interval(panel, place: float, share: float, low: float, high: float) -> None:
    panel.errorbar(
        [share],
        [place],
        xerr=[[max(0.0, share - low)], [max(0.0, high - share)]],
        color="black",
        capsize=4,
        zorder=3,
    )


def _percent(panel, high: float = 1.0) -> None:
    percent_axis(panel)
    panel.set_ylim(-0.02 * high, 1.03 * high)
