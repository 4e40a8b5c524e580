"""Plots of super-resolution by itself, over the augmentation level."""

from __future__ import annotations

from matplotlib.figure import Figure

from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.evaluation.super_resolution import SuperResolutionResult
from imagen_mini.viz.style import STYLES, legend_below, percent_axis, subplots


def plot_augmentation_levels(found: dict[str, list[SuperResolutionResult]]) -> Figure:
    """Accuracy and PSNR over the augmentation level, with 95 % intervals.

    The intervals of PSNR are of its mean over images. Kinds of inputs stand side by side at each
    level, so that their error bars do not overlap.

    Args:
        found: For each kind of low-resolution image the results of `super_resolve`, one a level.
    """
    fig, (shares, likeness) = subplots(
        ["correct by the parser, textures too", "PSNR against the true image (dB)"],
        "aug_level",
        columns=2,
    )
    levels = sorted({r.level for rows in found.values() for r in rows})
    for i, ((kind, rows), style) in enumerate(zip(found.items(), STYLES)):
        x = [levels.index(r.level) + 0.12 * (i - (len(found) - 1) / 2) for r in rows]
        values = [sum(r.correct) / len(r.correct) for r in rows]
        ends = [wilson_interval(sum(r.correct), len(r.correct)) for r in rows]
        below, above = (
            [v - low for v, (low, _) in zip(values, ends)],
            [high - v for v, (_, high) in zip(values, ends)],
        )
        shares.errorbar(x, values, [below, above], capsize=3, label=kind, **style)
        half = [1.96 * r.psnr.std().item() / len(r.psnr) ** 0.5 for r in rows]
        likeness.errorbar(
            x, [r.psnr.mean().item() for r in rows], half, capsize=3, label=kind, **style
        )
    for ax in (shares, likeness):
        ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    percent_axis(shares)
    shares.set_ylim(-0.02, 1.06)
    legend_below(fig, shares)
    return fig
