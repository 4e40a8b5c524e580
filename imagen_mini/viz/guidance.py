"""Plots of guidance and thresholding: accuracy and saturation over the guidance scale, positions of
objects.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from imagen_mini.evaluation.guidance_measures import RANGE_LIMIT, SATURATED
from imagen_mini.scenes.scene import SIZES, Scene
from imagen_mini.viz.style import STYLES, log_axis, percent_axis, subplots

TRUE_IMAGE_STYLE = {"color": "#777777", "linestyle": ":"}
SCALE_AXIS = "guidance scale w   (1 is off)"
MEASURES = {
    "saturated": f"share of values at |x| >= {SATURATED}",
    "mean_abs": "mean |x|",
    "outside": f"share beyond |x| = {RANGE_LIMIT}, at the worst step",
}


def plot_accuracy(
    ax: Axes, xs: Sequence[float], rates: Sequence[dict], name: str, style: dict
) -> None:
    """Plot accuracies as a line, with their 95 % intervals as a band.

    Args:
        ax: The axes to plot into.
        xs: The x of each point.
        rates: For each point a dictionary with the keys accuracy, low and high, in [0, 1].
        name: The label of the line.
        style: Keyword arguments of `Axes.plot`.
    """
    ax.plot(xs, [r["accuracy"] for r in rates], label=name, **style)
    ax.fill_between(
        xs,
        [r["low"] for r in rates],
        [r["high"] for r in rates],
        color=style["color"],
        alpha=0.1,
        linewidth=0,
    )


def plot_scales(
    lines: dict[str, Sequence[dict]],
    true: dict[str, float] | None = None,
    measures: Sequence[str] = ("saturated", "mean_abs"),
) -> Figure:
    """Accuracy and some of MEASURES over the guidance scale w.

    Args:
        lines: For each line, by its name, the rows of `measure_at_scale`.
        true: The measures of true images, plotted as dotted lines (default: none).
        measures: Keys of MEASURES, one axes for each.
    """
    scales = [row["w"] for row in next(iter(lines.values()))]
    n = next(iter(lines.values()))[0]["n"]
    fig, (accuracy_ax, *axes) = subplots(
        [f"share correct of {n}, with 95 % intervals", *(MEASURES[name] for name in measures)],
        SCALE_AXIS,
    )
    for (name, rows), style in zip(lines.items(), STYLES):
        plot_accuracy(accuracy_ax, scales, rows, name, style)
        for ax, measure in zip(axes, measures):
            ax.plot(scales, [row[measure] for row in rows], **style)
    if true is not None:
        accuracy_ax.plot([], [], label="true images", **TRUE_IMAGE_STYLE)
    for ax, measure in zip(axes, measures):
        if true is not None:
            ax.axhline(true[measure], **TRUE_IMAGE_STYLE)
        if MEASURES[measure].startswith("share"):
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set_ylim(0, None)
    for ax in (accuracy_ax, *axes):
        log_axis(ax, scales)
    percent_axis(accuracy_ax)
    return fig


def plot_positions(scenes: dict[str, Sequence[Scene]], shapes: Sequence[str]) -> Figure:
    """The positions of objects of some shapes, one axes for each list of scenes.

    Args:
        scenes: Lists of scenes by name.
        shapes: The shapes to plot. Small objects have small markers, large ones large markers.
    """
    fig, axes = subplots(list(scenes), "x, in 1/64 of the width", columns=4)
    for ax, found in zip(axes, scenes.values()):
        for shape, style in zip(shapes, STYLES):
            objects = [o for scene in found for o in scene.objects if o.shape == shape]
            ax.scatter(
                [o.x for o in objects],
                [o.y for o in objects],
                s=[SIZES[o.size] ** 2 / 1.5 for o in objects],
                facecolors="none",
                edgecolors=style["color"],
                marker=style["marker"],
                label=shape,
            )
        ax.set(xlim=(0, 64), ylim=(64, 0), aspect="equal")
        ax.set_ylabel("y, in 1/64")
    axes[0].legend(frameon=False, loc="upper left", fontsize=8)
    return fig
