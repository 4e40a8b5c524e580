"""How the charts of this project look: lines that colour-blind readers and black-and-white printers
can tell apart, one legend for all panels.
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
    """How line `number` of a panel looks; from the eighth on, as the first ones, with hollow marks."""
    return STYLES[number % len(STYLES)] | (
        {} if number < len(STYLES) else {"markerfacecolor": "white"}
    )


def subplots(titles: Sequence[str], xlabel: str, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A sheet of panels with these titles, row by row."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    sheet = Figure(figsize=(4 * columns, 3.3 * rows + 0.5), layout="constrained")
    panels = [sheet.add_subplot(rows, columns, i + 1) for i in range(len(titles))]
    for panel, title in zip(panels, titles):
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(xlabel)
        panel.grid(color="#e2e2e2")
        panel.spines[["top", "right"]].set_visible(False)
    return sheet, panels


def log_axis(panel: Axes, ticks: Sequence[float]) -> None:
    """Make x logarithmic, with these numbers on it."""
    panel.set_xscale("log")
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.minorticks_off()


def percent_axis(panel: Axes) -> None:
    """Let y be a share from 0 to 1, written in percent."""
    panel.set_ylim(-0.02, 1.02)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))


def save_figure(sheet: Figure, path: Path) -> None:
    """Write a figure, with the legend of the first panel that has labels below it; the name's
    ending says how (.png, .svg, .pdf).
    """
    lines, names = next(
        legend for axes in sheet.axes if (legend := axes.get_legend_handles_labels())[0]
    )
    sheet.legend(lines, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.savefig(path, dpi=110)
