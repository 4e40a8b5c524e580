"""Plots of a measurement: galleries of judged images, accuracies, and the intervals around them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from imagen_mini.evaluation.error_analysis import classify_error
from imagen_mini.evaluation.parser_robustness import OUTCOMES
from imagen_mini.evaluation.scoring import Result, describe_scene, verdict_text
from imagen_mini.evaluation.statistics import (
    Interval,
    interval_coverage,
    newcombe_interval,
    wilson_interval,
)
from imagen_mini.viz.image_grid import image_grid, quantize_colors
from imagen_mini.viz.style import STYLES, percent_axis, subplots


def gallery(
    results: Sequence[Result],
    correct: int = 2,
    incorrect: int = 2,
    columns: int = 6,
    cell: int = 192,
) -> Image.Image:
    """Some images of each category, with borders by verdict and the parser's words.

    Args:
        results: Judged images.
        correct: At most so many correct images of a category (default: 2).
        incorrect: At most so many incorrect ones, labelled with their type of error and what the
            parser read (default: 2).
        columns: Images in a row (default: 6).
        cell: The side of an image in pixels (default: 192).

    Returns:
        A PIL image in 256 colours.
    """
    chosen = []
    for category in dict.fromkeys(r.category for r in results):
        of = [r for r in results if r.category == category]
        chosen += [r for r in of if r.correct][:correct] + [r for r in of if not r.correct][
            :incorrect
        ]
    return quantize_colors(
        image_grid(
            [r.image for r in chosen],
            [_label(r) for r in chosen],
            columns=columns,
            cell=cell,
            borders=[r.correct for r in chosen],
        )
    )


def _label(r: Result) -> str:
    read = describe_scene(r.parsed.scene) if r.parsed.scene else r.parsed.problems[0]
    return f"[{r.category}] {r.caption.text}" + (
        "" if r.correct else f" -> {classify_error(r.caption.description, r.parsed)}: {read}"
    )


def audit_grid(
    results: Sequence[Result], judged: bool = True, columns: int = 10, cell: int = 160
) -> Image.Image:
    """Numbered images with their captions, for a person to judge.

    Args:
        results: The images.
        judged: Whether borders and labels show the parser's verdicts (default: True).
        columns: Images in a row (default: 10).
        cell: The side of an image in pixels (default: 160).

    Returns:
        A PIL image in 256 colours.
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
            borders=[r.correct for r in results] if judged else None,
        )
    )


def plot_corruptions(found: dict[str, list[dict]]) -> Figure:
    """Shares of OUTCOMES over the strength of a corruption, with 95 % intervals, one axes for each
    corruption.

    Args:
        found: Rows of `measure_parser_robustness` by title.
    """
    fig, axes = subplots(list(found), "")
    for ax, rows in zip(axes, found.values()):
        for name, style in zip(OUTCOMES, STYLES):
            ax.plot(
                [r["strength"] for r in rows], [r[name] / r["n"] for r in rows], **style, label=name
            )
            ax.fill_between(
                [r["strength"] for r in rows],
                *zip(*(r["intervals"][name] for r in rows)),
                color=style["color"],
                alpha=0.12,
                linewidth=0,
            )
        percent_axis(ax)
    return fig


def plot_coverage(intervals: dict[str, Interval], n: int) -> Figure:
    """How often each interval contains the true accuracy, over the true accuracy.

    Args:
        intervals: Functions (successes, n) -> (low, high) by name.
        n: The number of images.
    """
    fig, (ax,) = subplots(
        [f"how often an interval from {n} images holds the true accuracy"], "true accuracy"
    )
    shares = [i / 200 for i in range(1, 200)]
    for (name, interval), style in zip(intervals.items(), STYLES):
        ax.plot(
            shares,
            [interval_coverage(interval, n, p) for p in shares],
            label=name,
            **style | {"marker": ""},
        )
    ax.axhline(0.95, color="#777777", linestyle=":", label="95 %, as promised")
    _percent(ax)
    ax.legend(frameon=False, loc="lower center")
    fig.set_size_inches(7, 3.6)
    return fig


def plot_shares(
    rows: dict[str, dict], title: str = "share of correct images, with 95 % interval"
) -> Figure:
    """A bar for each row of `scoring.table`, with its interval and its counts.

    Args:
        rows: Dictionaries with the keys accuracy, low, high, right and n, by name.
        title: The title of the axes.
    """
    fig, (ax,) = subplots([title], "")
    for place, row in enumerate(rows.values()):
        ax.barh(place, row["accuracy"], color=STYLES[0]["color"], height=0.6, zorder=2)
        _interval(ax, place, row["accuracy"], row["low"], row["high"])
        ax.annotate(
            f"{row['right']} of {row['n']}",
            (1.04, place),
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.set_xlim(0, 1.18)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    fig.set_size_inches(7, 0.9 + 0.36 * len(rows))
    return fig


def plot_groups(groups: Sequence[tuple[int, int]], intervals: dict[str, Interval]) -> Figure:
    """The accuracy in each of several groups with its intervals, and the accuracy in all of them.

    Args:
        groups: Pairs (correct, n).
        intervals: Functions (successes, n) -> (low, high) by name.
    """
    correct, n = sum(k for k, _ in groups), sum(m for _, m in groups)
    fig, (ax,) = subplots(["one model, measured again and again"], "group of images")
    for number, ((name, interval), style) in enumerate(zip(intervals.items(), STYLES)):
        for place, (k, m) in enumerate(groups):
            low, high = interval(k, m)
            x = place + 1 + 0.2 * (number - (len(intervals) - 1) / 2)
            ax.errorbar(
                [x],
                [k / m],
                [[k / m - low], [high - k / m]],
                color=style["color"],
                marker=style["marker"],
                capsize=4,
                linewidth=1.8,
                label=name if place == 0 else None,
            )
    ax.axhline(
        correct / n, color="#777777", linestyle=":", label=f"all {n} images: {correct / n:.0%}"
    )
    ax.set_xticks(range(1, len(groups) + 1))
    _percent(ax)
    ax.legend(frameon=False, loc="lower left", fontsize=8)
    fig.set_size_inches(7, 3.6)
    return fig


def plot_comparison(a: tuple[str, int, int], b: tuple[str, int, int]) -> Figure:
    """Two accuracies with their intervals, and beside them b minus a with the interval of the
    difference.

    Args:
        a: The name, the number of correct images, and the number of images.
        b: The same of the other.
    """
    fig, (shares, ax) = subplots(
        ["share correct, 95 % intervals", f"{b[0]} minus {a[0]}, 95 % interval"], ""
    )
    for place, (_, k, n) in enumerate((a, b)):
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
    ax.errorbar(
        [0],
        [difference],
        [[difference - low], [high - difference]],
        color="black",
        marker="D",
        capsize=6,
    )
    ax.axhline(0, color="#D55E00", linestyle="--", label="no difference")
    ax.set_xticks([])
    ax.set_xlim(-1, 1)
    ax.set_ylim(-1, 1)
    ax.set_yticks([-1, -0.5, 0, 0.5, 1], ["-100 %", "-50 %", "0", "+50 %", "+100 %"])
    ax.legend(frameon=False, loc="lower right")
    return fig


def plot_interval_widths(
    interval: Interval, shares: Sequence[float], numbers: Sequence[int], name: str
) -> Figure:
    """The width of an interval over the number of images, for some accuracies.

    Args:
        interval: The function (successes, n) -> (low, high).
        shares: Accuracies, one line each.
        numbers: Numbers of images.
        name: The interval's name in the title.
    """
    fig, (ax,) = subplots([f"how wide is the interval? ({name})"], "images")
    for share, style in zip(shares, STYLES):
        ends = [interval(round(share * n), n) for n in numbers]
        ax.plot(numbers, [high - low for low, high in ends], label=f"{share:.0%} correct", **style)
    ax.set_xscale("log")
    ax.set_xticks(list(numbers), [f"{n}" for n in numbers])
    ax.minorticks_off()
    _percent(ax, high=0.7)
    ax.legend(frameon=False)
    fig.set_size_inches(7, 3.4)
    return fig


def plot_image_sets(rows: dict[str, tuple[float, float]]) -> Figure:
    """Sets of images as points: accuracy over the Fréchet distance to true images.

    Args:
        rows: Pairs (accuracy, Fréchet distance) by name.
    """
    fig, (ax,) = subplots(
        ["two measures that see different things"],
        "Fréchet distance to true images (less is better)",
    )
    for (name, (share, distance)), style in zip(rows.items(), STYLES):
        ax.plot([distance], [share], label=name, **style | {"linestyle": "none", "markersize": 9})
    ax.set_xlim(0, 1.1 * max(distance for _, distance in rows.values()))
    percent_axis(ax)
    ax.set_ylim(-0.06, 1.06)
    ax.set_ylabel("share correct")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)
    fig.set_size_inches(8, 3.6)
    return fig


def _interval(ax, place: float, share: float, low: float, high: float) -> None:
    """A horizontal error bar."""
    ax.errorbar(
        [share],
        [place],
        xerr=[[max(0.0, share - low)], [max(0.0, high - share)]],
        color="black",
        capsize=4,
        zorder=3,
    )


def _percent(ax, high: float = 1.0) -> None:
    """An axis in percent with a margin around 0 and `high`."""
    percent_axis(ax)
    ax.set_ylim(-0.02 * high, 1.03 * high)
