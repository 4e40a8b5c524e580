"""The page that compares methods which edit given images: measurements to tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from imagen_mini.evaluation.edit_benchmark import EditScore, edit_table
from imagen_mini.evaluation.image_edits import ImageEditRow, ImageEditScore

MEASURES = ("structure", "outside", "seam")
NEEDS = ("caption", "mask", "inversion", "optimisation", "trained network")


def as_values(score: ImageEditScore, seconds: float) -> dict[str, Any]:
    """A score as JSON, with the seconds of the edit."""
    values = asdict(score)
    edit = values.pop("edit")
    edit["moved"] = None if math.isinf(edit["moved"]) else edit["moved"]  # JSON has no infinity
    return edit | values | {"seconds": round(seconds, 3)}


def as_score(values: dict[str, Any]) -> EditScore:
    """The judge's score, from `as_values`."""
    moved = math.inf if values["moved"] is None else values["moved"]
    rest = set(MEASURES) | {"seconds", "moved"}
    return EditScore(**{k: v for k, v in values.items() if k not in rest}, moved=moved)


def summarize(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of a table.

    Args:
        measured: Of each edit the `as_values`.

    Returns:
        `edit_table`; "structure", "outside" and "seam" as means over the edits that count and can
        be measured, or None; "seconds", the mean over all edits.
    """
    scores = [as_score(values) for values in measured]
    counted = [values for values, score in zip(measured, scores) if score.counts]

    def mean(name: str, of: Iterable[dict[str, Any]]) -> float | None:
        found = [values[name] for values in of if values[name] is not None]
        return round(sum(found) / len(found), 4) if found else None

    return (
        edit_table(scores)
        | {name: mean(name, counted) for name in MEASURES}
        | {"seconds": mean("seconds", measured)}
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)


def _count(row: dict[str, Any], name: str) -> str:
    return f"{round(row[name] * row['asked'])} of {row['asked']}"


def methods_table(
    rows: Sequence[ImageEditRow], summaries: dict[str, dict[str, Any]], memory: dict[str, int]
) -> str:
    """Every method over all kinds of edits, with what it costs and needs.

    Args:
        rows: The methods, in their order.
        summaries: By name of the row, `summarize` of all of its edits.
        memory: By name of the row, the peak of its tensors in bytes, where it is known.
    """
    head = ["method", "shows the new prompt", "keeps the layout", "good", "rest of the image"]
    head += ["structure", "changed outside", "seam", "seconds", "memory", *NEEDS]
    lines = []
    for row in rows:
        of = summaries[row.name]
        lines.append(
            [
                row.name,
                *(_count(of, name) for name in ("success", "layout", "good")),
                _text(of["psnr"], lambda x: f"{x:.1f} dB"),
                _text(of["structure"], lambda x: f"{x:.3f}"),
                _text(of["outside"], lambda x: f"{x:.1%}"),
                _text(of["seam"], lambda x: f"{x:+.3f}"),
                _text(of["seconds"], lambda x: f"{x:.1f}"),
                _text(memory.get(row.name), lambda x: f"{x / 1e6:.0f} MB"),
                *("x" if need in row.needs else "" for need in NEEDS),
            ]
        )
    return markdown_table(head, lines)


def kinds_table(rows: Sequence[ImageEditRow], by_kind: dict[str, dict[str, dict]]) -> str:
    """How many edits of each kind are good.

    Args:
        rows: The methods, in their order.
        by_kind: By kind and name of the row, `summarize` of these edits.
    """
    return markdown_table(
        ["good edits by", *by_kind],
        [[row.name, *(_count(of[row.name], "good") for of in by_kind.values())] for row in rows],
    )


def best_by_needs(
    rows: Sequence[ImageEditRow], summaries: dict[str, dict[str, Any]]
) -> dict[tuple[str, ...], list[str]]:
    """Which method to take, given what one has: for every set of needs that a method has, the
    methods with the largest share of good edits among those that need no more.

    Args:
        rows: The methods; controls, which have no given image, are left out.
        summaries: By name of the row, `summarize` of its edits.
    """
    methods = [row for row in rows if row.keeps_image]
    found = {}
    for needs in sorted({row.needs for row in methods}, key=lambda n: (len(n), n)):
        possible = [row.name for row in methods if set(row.needs) <= set(needs)]
        best = max(summaries[name]["good"] for name in possible)
        found[needs] = [name for name in possible if summaries[name]["good"] == best]
    return found


def which_table(rows: Sequence[ImageEditRow], summaries: dict[str, dict[str, Any]]) -> str:
    """`best_by_needs` as a table, with 95 % intervals of the share of good edits."""
    lines = []
    for needs, names in best_by_needs(rows, summaries).items():
        of = summaries[names[0]]
        lines.append(
            [
                ", ".join(needs) or "nothing",
                "; ".join(names) if of["good"] else "none",
                _count(of, "good"),
                f"{of['good_low']:.0%} to {of['good_high']:.0%}",
            ]
        )
    return markdown_table(["you have or can afford", "most good edits", "good", "interval"], lines)


def reconstruction_table(rows: Sequence[dict[str, Any]]) -> str:
    """How well images are reconstructed.

    Args:
        rows: Of each way to do it: "method", "steps", "w", "strength", "n", "psnr", "lowest_psnr"
            and "right".
    """
    return markdown_table(
        ["method", "steps", "w", "up to t", "mean PSNR", "lowest PSNR", "reads the same"],
        [
            [
                f"`{row['method']}`",
                f"{row['steps']}",
                f"{row['w']:g}",
                f"{row['strength']:g}",
                f"{row['psnr']:.1f} dB",
                f"{row['lowest_psnr']:.1f} dB",
                f"{row['right']} of {row['n']}",
            ]
            for row in rows
        ],
    )


LEGEND = """\
- *Good*: the judge reads the new prompt, and the layout is kept. Edits count whose source is
  correct and does not show the target already.
- *Rest of the image*: PSNR of the pixels that the edit should not change.
- *Structure*: self-similarity distance; 0 is the structure of the given image.
- *Changed outside*: share of the pixels outside of the place of the edit that changed, in 256
  levels. *Seam*: how much more than before colours jump across the rim of that place.
- *Memory*: the largest size of all tensors of an edit at once, weights not counted.
- An x says what a method needs beside the image and the target's prompt.
"""
