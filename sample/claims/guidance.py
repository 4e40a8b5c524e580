"""Claims about guidance: what large weights ask of thresholding, and what guidance costs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.sampling_options import resolve_sampling_options
from imagen_mini.diffusion.guidance import THRESHOLDS
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.metrics import precision_and_recall
from imagen_mini.evaluation.scene_features import features
from imagen_mini.evaluation.scoring import evaluate, sample_scene_matching
from imagen_mini.scenes.captions import Caption
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.render import render
from imagen_mini.viz.guidance import TRUE_IMAGE_STYLE, plot_scales, saturation
from imagen_mini.viz.image_grid import image_grid
from imagen_mini.viz.style import STYLES, log_axis, percent_axis, save_figure, subplots
from sample.claims.claim import (
    UNCLEAR,
    Claim,
    Experiment,
    Verdict,
    all_of,
    beats,
    difference_of_means,
    gain,
    is_above,
    is_enough,
    paired_agresti_min,
    percent,
    tally,
)
from sample.sweep import BASE_CATEGORIES

BATCH = 16
SHOWN = 8  # examples in a row


def base_of(pipe: ImagenPipeline) -> str:
    return next(iter(pipe.stages))


def sheet(
    shown: Sequence[tuple[Tensor, bool | None, str]], columns: int, cell: int = 128
) -> Image.Image:
    """Example images with their labels; a frame says whether they are right (None: not judged)."""
    return image_grid(
        [p for p, _, _ in shown],
        [label for _, _, label in shown],
        columns,
        cell,
        [right for _, right, _ in shown],
    )


def evenly_spaced(objects: Sequence, n: int) -> list:
    """n of them (all, if they are fewer), from first to last."""
    n = min(n, len(objects))
    return [objects[i * len(objects) // n] for i in range(n)]


# ---------------------------------------------------------------- thresholding

SCALES = (2.0, 5.0, 10.0)
LARGE = SCALES[-1]  # the largest in the paper's sweep of the base stage (Figs. A.8, A.11)


def measure_thresholds(pipe: ImagenPipeline, n: int) -> tuple[dict, Image.Image]:
    """Each threshold at each w, on the same prompts and seeds."""
    base, prompts = base_of(pipe), benchmark(n, categories=BASE_CATEGORIES)
    truth = render(
        [sample_scene_matching(c.description, random.Random(c.text)) for _, _, c in prompts],
        pipe.stages[base].config.unet.image_size,
    )
    found, shown = (
        {
            "categories": BASE_CATEGORIES,
            "true_pictures": saturation(truth),
            "lines": {name: [] for name in THRESHOLDS},
        },
        [],
    )
    with tqdm(total=len(prompts) * len(THRESHOLDS) * len(SCALES), desc="thresholding") as bar:
        for threshold in THRESHOLDS:
            for w in SCALES:
                plan, x_0_hats, results = (
                    replace(
                        resolve_sampling_options(pipe.stages[base]),
                        guidance_scale=w,
                        threshold=threshold,
                    ),
                    [],
                    [],
                )

                def generate(captions: list[str], seeds: list[int]) -> Tensor:
                    x_0_hats.append(
                        pipe.sample_stage(
                            base,
                            plan,
                            captions,
                            pipe.text_encoder(captions),
                            None,
                            seeds,
                            None,
                            progress=False,
                        )
                    )
                    return x_0_hats[-1].clamp(-1, 1)

                for result in evaluate(generate, prompts, BATCH):
                    results.append(result)
                    bar.update()
                found["lines"][threshold].append(
                    {"w": w, **tally([r.right for r in results]), **saturation(torch.cat(x_0_hats))}
                )
                shown += [
                    (r.image, r.right, f"{threshold}, w = {w:g}: {r.caption.text}")
                    for r in evenly_spaced(results, SHOWN)
                    if w == LARGE
                ]
    return found, sheet(shown, columns=len(shown) // len(THRESHOLDS))


def plot_thresholds(numbers: dict, path: Path) -> None:
    save_figure(
        plot_scales(
            {f"threshold: {name}": rows for name, rows in numbers["lines"].items()},
            numbers["true_pictures"],
        ),
        path,
    )


def judge_thresholds(numbers: dict, worse: str, better: str) -> Verdict:
    """At the largest w: by the parser. Saturation stands beside it, for an image may be right and
    gray.
    """
    rows = {name: numbers["lines"][name][-1] for name in (worse, better)}
    d, w, true = gain(rows[worse], rows[better]), rows[better]["w"], numbers["true_pictures"]
    return Verdict(
        beats(rows[worse], rows[better]),
        f"At w = {w:g} {better} is right {percent(rows[better])}, {worse} "
        f"{percent(rows[worse])}, of {d.n}: {d}. Mean |x| "
        f"{rows[better]['mean_abs']:.2f} ({better}) and "
        f"{rows[worse]['mean_abs']:.2f} ({worse}), of true images "
        f"{true['mean_abs']:.2f}; values at "
        f"|x| >= 0.99: {rows[better]['saturated']:.0%} and "
        f"{rows[worse]['saturated']:.0%}, of true images "
        f"{true['saturated']:.0%}.",
    )


THRESHOLDING = Experiment(
    "thresholding",
    f"The base stage draws n captions of each of {len(BASE_CATEGORIES)} categories at w = "
    f"{', '.join(f'{w:g}' for w in SCALES)}, with each way of "
    f"keeping x_0_hat in range. The verdict is of the parser's score at w = {LARGE:g}.",
    20,
    (
        Claim(
            "At large w, dynamic thresholding beats static thresholding.",
            "Imagen (2022), Section 2.3",
            lambda numbers: judge_thresholds(numbers, "static", "dynamic"),
        ),
        Claim(
            "At large w, static thresholding beats none.",
            "Imagen (2022), Section 2.3",
            lambda numbers: judge_thresholds(numbers, "none", "static"),
        ),
    ),
    measure_thresholds,
    plot_thresholds,
)


# ---------------------------------------------------------------- diversity against alignment

WEIGHTS = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
SEEDS = 6  # images of each caption


def spread(found: Tensor) -> float | None:
    """The mean distance between two of these images, by their features [m, d]; None if there are
    not two.
    """
    return round(torch.pdist(found).mean().item(), 4) if len(found) > 1 else None


def spreads(found: Tensor, right: Sequence[bool]) -> list[float | None]:
    """By caption: how far its right images are from one another."""
    return [
        spread(part[keep])
        for part, keep in zip(found.split(SEEDS), torch.tensor(right).split(SEEDS))
    ]


def measure_diversity(pipe: ImagenPipeline, n: int) -> tuple[dict, Image.Image]:
    """SEEDS images of each caption, at each w: how many are right, and how different they are."""
    base = base_of(pipe)
    captions = [caption for _, _, caption in benchmark(n, categories=BASE_CATEGORIES)]
    generated = [
        (caption, 100_000 * k + i) for i, caption in enumerate(captions) for k in range(SEEDS)
    ]
    scenes = [
        sample_scene_matching(caption.description, random.Random(f"{caption.text}/{seed}"))
        for caption, seed in generated
    ]
    true = features(render(scenes, pipe.stages[base].config.unet.image_size))
    found = {
        "own_w": pipe.stages[base].config.guidance_scale,
        "seeds": SEEDS,
        "true_pictures": {"spread": spreads(true, [True] * len(true))},
        "rows": [],
    }
    shown: list[tuple[Tensor, bool, str]] = []
    with tqdm(total=len(generated) * len(WEIGHTS), desc="diversity") as bar:
        for w in sorted({*WEIGHTS, judged_w(found)}):
            images, right = _sample_at(pipe, base, generated, w, bar)
            made = features(images)
            precision, recall = precision_and_recall(true, made)
            found["rows"].append(
                {
                    "w": w,
                    **tally(right),
                    "spread": spreads(made, right),
                    "precision": round(precision, 4),
                    "recall": round(recall, 4),
                }
            )
            if w in (1, judged_w(found), WEIGHTS[-1]):
                shown += [
                    (images[i], right[i], f"w = {w:g}: {generated[i][0].text}")
                    for i in range(SEEDS)
                ]
    return found, sheet(shown, columns=SEEDS)


def _sample_at(
    pipe: ImagenPipeline, base: str, generated: list[tuple[Caption, int]], w: float, bar: tqdm
) -> tuple[Tensor, list[bool]]:
    images, right = [], []
    for at in range(0, len(generated), BATCH):
        part = generated[at : at + BATCH]
        images.append(
            pipe(
                [c.text for c, _ in part],
                seed=[s for _, s in part],
                stages=(base,),
                guidance_scale={base: w},
                output_type="pt",
                progress=False,
            )
            .stages[base]
            .float()
            .cpu()
        )
        right += [
            c.description.fits(parsed.scene)
            for (c, _), parsed in zip(part, parse_image(images[-1]))
        ]
        bar.update(len(part))
    return torch.cat(images), right


def judged_w(numbers: dict) -> float:
    """The w that is held against w = 1: the stage's own, for which it was found good."""
    return numbers["own_w"] if numbers["own_w"] > 1 else 2.0


def by_caption(row: dict, seeds: int) -> list[float]:
    """The share right of each caption's images."""
    return [row["each"][i : i + seeds].count("1") / seeds for i in range(0, row["n"], seeds)]


def judge_diversity(numbers: dict) -> Verdict:
    """Both must be seen: more images right, and the right ones more alike. Images that are wrong
    differ, too; they would pass for diversity.
    """
    rows, w, seeds = {row["w"]: row for row in numbers["rows"]}, judged_w(numbers), numbers["seeds"]
    off, on, last = rows[1.0], rows[w], numbers["rows"][-1]
    alignment = paired_agresti_min(
        [b - a for a, b in zip(by_caption(off, seeds), by_caption(on, seeds))]
    )
    pairs = [(a, b) for a, b in zip(off["spread"], on["spread"]) if a is not None and b is not None]
    loss = difference_of_means([a - b for a, b in pairs])
    without, with_w = (
        sum(column) / max(1, len(pairs)) for column in (zip(*pairs) if pairs else ((), ()))
    )
    aligned = is_above(alignment) if is_enough(off, on) else UNCLEAR
    return Verdict(
        all_of(aligned, is_above(loss, meaningful=0.05 * without)),
        f"From w = 1 to w = {w:g} the share right goes from {percent(off)} to "
        f"{percent(on)}: {alignment}, {alignment.n} captions. The mean distance "
        f"between right images of a caption goes from {without:.2f} to "
        f"{with_w:.2f}: {-loss.mean:+.2f} ({-loss.high:+.2f} to "
        f"{-loss.low:+.2f}), "
        f"{loss.n} captions; recall from {off['recall']:.0%} to "
        f"{on['recall']:.0%}. At w = {last['w']:g}: {percent(last)} right, "
        f"recall {last['recall']:.0%}.",
    )


def mean_of(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else float("nan")


def plot_diversity(numbers: dict, path: Path) -> None:
    rows = numbers["rows"]
    scales = [row["w"] for row in rows]
    chart, (right, alike, manifold) = subplots(
        [
            f"share right of {rows[0]['n']}",
            "distance between right images of a caption",
            "precision and recall",
        ],
        "guidance scale w   (1 is off)",
    )
    right.plot(scales, [row["accuracy"] for row in rows], label="drawn", **STYLES[0])
    right.fill_between(
        scales,
        [row["low"] for row in rows],
        [row["high"] for row in rows],
        color=STYLES[0]["color"],
        alpha=0.1,
        linewidth=0,
    )
    distances, true = (
        [mean_of(row["spread"]) for row in rows],
        mean_of(numbers["true_pictures"]["spread"]),
    )
    alike.plot(scales, distances, **STYLES[0])
    alike.axhline(true, **TRUE_IMAGE_STYLE)
    alike.set_ylim(0, 1.1 * max([true, *(d for d in distances if d == d)]))
    right.plot([], [], label="true images of the same captions", **TRUE_IMAGE_STYLE)
    for name, style in (("precision", STYLES[1]), ("recall", STYLES[2])):
        manifold.plot(scales, [row[name] for row in rows], **style)
        right.plot([], [], label=name, **style)
    for panel in (right, alike, manifold):
        log_axis(panel, scales)
    percent_axis(right)
    percent_axis(manifold)
    save_figure(chart, path)


DIVERSITY = Experiment(
    "guidance",
    f"The base stage draws {SEEDS} images of each of n captions of {len(BASE_CATEGORIES)} "
    "categories at each w. Diversity is the mean distance between two "
    "right images of one caption, by the features of the shipped classifier of scenes; "
    "precision and recall are against true images of the same captions. The "
    "verdict compares w = 1 with the stage's own w; a fall of less than 5 % of the "
    "distance counts as none.",
    8,
    (
        Claim(
            "Guidance trades diversity for alignment.",
            "Imagen (2022), Figs. A.8, A.11 and A.13: alignment against distance, over w",
            judge_diversity,
        ),
    ),
    measure_diversity,
    plot_diversity,
)
