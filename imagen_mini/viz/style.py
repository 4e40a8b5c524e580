"""How the plots of this project look: lines that colour-blind readers and black-and-white printers
can tell apart, axes in percent and on a logarithmic scale, one legend for all axes of a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

# Colours: Okabe and Ito (2008).
STYLES = tuple(
    {"color": color, "linestyle": dashes, "marker": mark, "markersize": 5}
    for color, dashes, mark in (
        ("#0072B2", "-", "o"),
        ("#D55E00", "--", "s"),
        ("#009E73", "-.", "^"),
        ("#CC79A7", (0, (1, 1)), "D"),
        ("#000000", (0, (5, 1, 1, 1)), "v"),
        ("#E69F00", (0, (3, 3)), "P"),
        ("#56B4E9", (0, (4, 1, 1, 1, 1, 1)), "X"),
    )
)


def line_style(number: int) -> dict:
    """The keyword arguments of `Axes.plot` for one line of a plot.

    Args:
        number: Which line, from 0. From the eighth on the styles repeat, with hollow markers.
    """
    return STYLES[number % len(STYLES)] | (
        {} if number < len(STYLES) else {"markerfacecolor": "white"}
    )


def subplots(titles: Sequence[str], xlabel: str, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure with one `Axes` for each title, row by row.

    Args:
        titles: The titles of the axes.
        xlabel: The label of every x axis.
        columns: The most axes in a row (default: 3).

    Returns:
        The figure, and its axes as a flat list in the order of the titles.
    """
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    fig = Figure(figsize=(4 * columns, 3.3 * rows + 0.5), layout="constrained")
    axes = [fig.add_subplot(rows, columns, i + 1) for i in range(len(titles))]
    for ax, title in zip(axes, titles):
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(xlabel)
        ax.grid(color="#e2e2e2")
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes


def log_axis(ax: Axes, ticks: Sequence[float]) -> None:
    """Make the x axis logarithmic, with these numbers as its ticks."""
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.minorticks_off()


def percent_axis(ax: Axes) -> None:
    """Scale the y axis from 0 to 1 and label it in percent."""
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def legend_below(fig: Figure, ax: Axes, columns: int = 4) -> None:
    """Put one legend for all axes below the figure.

    Args:
        fig: The figure.
        ax: The axes whose labelled lines make the legend.
        columns: The most columns of the legend (default: 4).
    """
    lines, names = ax.get_legend_handles_labels()
    columns = min(columns, len(names))
    fig.legend(lines, names, loc="outside lower center", ncols=columns, frameon=False)


def save_figure(fig: Figure, path: Path) -> None:
    """Write a figure with one legend below it, made of the first axes that have labels.

    Args:
        fig: The figure.
        path: The file; its ending is the format (.png, .svg, .pdf). Its folder is created.
    """
    legend_below(fig, next(ax for ax in fig.axes if ax.get_legend_handles_labels()[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
