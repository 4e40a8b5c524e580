"""What guidance and thresholding do to images, in numbers and in charts: how many are right, how
saturated they are, how much alike.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from imagen_mini.evaluation.scoring import judge_images, sample_scene_matching
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.captions import parse_caption
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import SIZES, Scene
from imagen_mini.viz.style import STYLES, log_axis, percent_axis, subplots

SATURATED = 0.99
TRUE_IMAGE_STYLE = {"color": "#777777", "linestyle": ":"}
SCALE_AXIS = "guidance scale w   (1 is off)"
RIM = 1.05  # a little beyond 1: an honest estimate rings around the ends of the range, too
MEASURES = {
    "saturated": f"share of values at |x| >= {SATURATED}",
    "mean_abs": "mean |x|",
    "outside": f"share beyond |x| = {RIM}, at the worst step",
}


# ---------------------------------------------------------------- numbers


def saturation(x_0_hat: Tensor) -> dict[str, float]:
    """The share of values with |x| >= SATURATED, and the mean of |x|, of images of any shape, not
    clamped.
    """
    magnitude = x_0_hat.float().abs()
    return {
        "saturated": round((magnitude >= SATURATED).float().mean().item(), 4),
        "mean_abs": round(magnitude.mean().item(), 4),
    }


def outside(x_0_hat: Tensor) -> float:
    """The share of values that no image has: beyond RIM."""
    return (x_0_hat.float().abs() > RIM).float().mean().item()


def estimates(
    pipe: ImagenPipeline, prompts: Sequence[str], seeds: Sequence[int], **options
) -> list[Tensor]:
    """The base stage's x_0_hat [b, 3, h, w] after each step, as thresholding left them and not
    clamped; `options` are those of the pipeline's call.

    The last one is the image.
    """
    found: list[Tensor] = []
    base = next(iter(pipe.stages))
    pipe(
        list(prompts),
        seed=list(seeds),
        stages=(base,),
        progress=False,
        on_step=lambda _, state: found.append(state.x_0_hat),
        **options,
    )
    return found


def rate(found: Sequence[bool]) -> dict[str, float]:
    """How many of these verdicts are right, as `accuracy_line` takes it: with the 95 % interval."""
    right, n = sum(found), len(found)
    low, high = wilson_interval(right, n)
    return {"n": n, "right": right, "accuracy": right / n, "low": low, "high": high}


def at_scale(
    pipe: ImagenPipeline, prompts: Sequence[str], seeds: Sequence[int], w: float, **options
) -> dict[str, float]:
    """One point of a curve over w: how many images are right (by the parser, with the 95 %
    interval), how saturated they are, and what lies outside the range at the step where most does.
    """
    trajectory = estimates(pipe, prompts, seeds, guidance_scale=w, **options)
    image = trajectory[-1]
    return {
        "w": w,
        **rate(judge_images(prompts, image.clamp(-1, 1))),
        **saturation(image),
        "outside": max(map(outside, trajectory)),
    }


def true_images(prompts: Sequence[str], size: int = 64) -> Tensor:
    """Rendered images [b, 3, size, size] in [-1, 1], one that each prompt fits: what a perfect
    model could draw.
    """
    return render(
        [sample_scene_matching(parse_caption(prompt), random.Random(prompt)) for prompt in prompts],
        size,
    )


def scatter(scenes: Sequence[Scene], shape: str) -> tuple[float, float]:
    """The standard deviation of x and of y, in 1/64 of the width, of all things of one shape. nan
    for fewer than two.
    """
    places = torch.tensor(
        [(o.x, o.y) for scene in scenes for o in scene.objects if o.shape == shape],
        dtype=torch.float64,
    ).reshape(-1, 2)
    x, y = places.std(0).tolist() if len(places) > 1 else (float("nan"),) * 2
    return x, y


def share_of_large_objects(scenes: Sequence[Scene]) -> float:
    """The share of things that are large; nan where there is nothing."""
    sizes = [o.size for scene in scenes for o in scene.objects]
    return sizes.count("large") / len(sizes) if sizes else float("nan")


# ---------------------------------------------------------------- charts


def accuracy_line(
    panel: Axes, xs: Sequence[float], rates: Sequence[dict], name: str, style: dict
) -> None:
    """Accuracies (keys accuracy, low, high), and their 95 % intervals as a band."""
    panel.plot(xs, [r["accuracy"] for r in rates], label=name, **style)
    panel.fill_between(
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
    """Accuracy and some of MEASURES against w: rows as `at_scale` gives them by the line's name,
    and the measures of true images, dotted.
    """
    scales = [row["w"] for row in next(iter(lines.values()))]
    n = next(iter(lines.values()))[0]["n"]
    sheet, (accuracy, *panels) = subplots(
        [f"share right of {n}, with 95 % intervals", *(MEASURES[name] for name in measures)],
        SCALE_AXIS,
    )
    for (name, rows), style in zip(lines.items(), STYLES):
        accuracy_line(accuracy, scales, rows, name, style)
        for panel, measure in zip(panels, measures):
            panel.plot(scales, [row[measure] for row in rows], **style)
    if true is not None:
        accuracy.plot([], [], label="true images", **TRUE_IMAGE_STYLE)
    for panel, measure in zip(panels, measures):
        if true is not None:
            panel.axhline(true[measure], **TRUE_IMAGE_STYLE)
        if MEASURES[measure].startswith("share"):
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_ylim(0, None)
    for panel in (accuracy, *panels):
        log_axis(panel, scales)
    percent_axis(accuracy)
    return sheet


def plot_positions(scenes: dict[str, Sequence[Scene]], shapes: Sequence[str]) -> Figure:
    """Where the things of these shapes lie: a panel for each list of scenes, by its name; small
    things are small marks, large ones large.
    """
    sheet, panels = subplots(list(scenes), "x, in 1/64 of the width", columns=4)
    for panel, found in zip(panels, scenes.values()):
        for shape, style in zip(shapes, STYLES):
            objects = [o for scene in found for o in scene.objects if o.shape == shape]
            panel.scatter(
                [o.x for o in objects],
                [o.y for o in objects],
                s=[SIZES[o.size] ** 2 / 1.5 for o in objects],
                facecolors="none",
                edgecolors=style["color"],
                marker=style["marker"],
                label=shape,
            )
        panel.set(xlim=(0, 64), ylim=(64, 0), aspect="equal")
        panel.set_ylabel("y, in 1/64")
    panels[0].legend(frameon=False, loc="upper left", fontsize=8)
    return sheet
