"""Claims about guidance: what large weights require of thresholding, and what guidance costs."""

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
from imagen_mini.evaluation.guidance_measures import saturation
from imagen_mini.evaluation.metrics import precision_and_recall
from imagen_mini.evaluation.scene_features import features
from imagen_mini.evaluation.scoring import Result, evaluate
from imagen_mini.evaluation.statistics import difference_of_means, paired_agresti_min
from imagen_mini.scenes.captions import Caption
from imagen_mini.viz.guidance import TRUE_IMAGE_STYLE, plot_scales
from imagen_mini.viz.image_grid import image_grid
from imagen_mini.viz.style import STYLES, log_axis, percent_axis, save_figure, subplots
from sample.claims.claim import (
    UNCLEAR,
    Claim,
    Experiment,
    Verdict,
    all_of,
    beats,
    gain,
    gain_line,
    has_room,
    is_above,
    is_enough,
    percent,
    tally,
)
from sample.sweep import BASE_CATEGORIES

BATCH = 16
SHOWN = 8  # examples in a row


def base_of(pipe: ImagenPipeline) -> str:
    """Return the name of the first stage."""
    return next(iter(pipe.stages))


def example_grid(
    shown: Sequence[tuple[Tensor, bool | None, str]], columns: int, cell: int = 128
) -> Image.Image:
    """Arrange example images with labels; a frame says if they are correct (None: not judged)."""
    return image_grid(
        [p for p, _, _ in shown],
        [label for _, _, label in shown],
        columns,
        cell,
        [correct for _, correct, _ in shown],
    )


def evenly_spaced(objects: Sequence, n: int) -> list:
    """Return n of them (all, if there are fewer), from first to last."""
    n = min(n, len(objects))
    return [objects[i * len(objects) // n] for i in range(n)]


# ---------------------------------------------------------------- thresholding

SCALES = (2.0, 5.0, 10.0)
LARGE = SCALES[-1]  # the largest in the paper's sweep of the base stage (Figs. A.8, A.11)


def measure_thresholds(pipe: ImagenPipeline, n: int) -> tuple[dict, Image.Image]:
    """Measure each threshold at each w, on the same prompts and seeds."""
    base, world = base_of(pipe), pipe.world
    prompts = benchmark(n, categories=BASE_CATEGORIES, world=world)
    truth = world.render(
        [world.scene_matching(c.description, random.Random(c.text)) for _, _, c in prompts],
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
                options, x_0_hats, results = (
                    replace(
                        resolve_sampling_options(pipe.stages[base]),
                        guidance_scale=w,
                        threshold=threshold,
                    ),
                    [],
                    [],
                )

                def generate(
                    captions: list[str], seeds: list[int], x_0_hats=x_0_hats, options=options
                ) -> Tensor:
                    x_0_hats.append(
                        pipe.sample_stage(
                            base, pipe.make_request(captions, seeds), options, progress=False
                        )
                    )
                    return x_0_hats[-1].clamp(-1, 1)

                for result in evaluate(generate, prompts, BATCH, world):
                    results.append(result)
                    bar.update()
                found["lines"][threshold].append(
                    {
                        "w": w,
                        **tally([r.correct for r in results]),
                        **saturation(torch.cat(x_0_hats)),
                    }
                )
                shown += [
                    (r.image, r.correct, f"{threshold}, w = {w:g}: {r.caption.text}")
                    for r in evenly_spaced(results, SHOWN)
                    if w == LARGE
                ]
    return found, example_grid(shown, columns=len(shown) // len(THRESHOLDS))


def plot_thresholds(numbers: dict, path: Path) -> None:
    save_figure(
        plot_scales(
            {f"threshold: {name}": rows for name, rows in numbers["lines"].items()},
            numbers["true_pictures"],
        ),
        path,
    )


def judge_thresholds(numbers: dict, worse: str, better: str) -> Verdict:
    """Judge at the largest w, by the parser.

    Saturation is reported, too: an image may be correct and gray.
    """
    rows = {name: numbers["lines"][name][-1] for name in (worse, better)}
    d, w, true = gain(rows[worse], rows[better]), rows[better]["w"], numbers["true_pictures"]
    return Verdict(
        beats(rows[worse], rows[better]),
        f"At w = {w:g} {better} is correct in {percent(rows[better])}, {worse} "
        f"{percent(rows[worse])}, of {d.n}: {gain_line(rows[worse], rows[better])}. Mean |x| "
        f"{rows[better]['mean_abs']:.2f} ({better}) and "
        f"{rows[worse]['mean_abs']:.2f} ({worse}), of true images "
        f"{true['mean_abs']:.2f}; values at "
        f"|x| >= 0.99: {rows[better]['saturated']:.0%} and "
        f"{rows[worse]['saturated']:.0%}, of true images "
        f"{true['saturated']:.0%}.",
    )


THRESHOLDING = Experiment(
    "thresholding",
    f"The base stage generates n captions of each of {len(BASE_CATEGORIES)} categories at w = "
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
    """Return the mean distance between two of the images with these features [m, d].

    None if there are fewer than two.
    """
    return round(torch.pdist(found).mean().item(), 4) if len(found) > 1 else None


def spreads(found: Tensor, correct: Sequence[bool]) -> list[float | None]:
    """Return for each caption the mean distance between two of its correct images."""
    return [
        spread(part[keep])
        for part, keep in zip(found.split(SEEDS), torch.tensor(correct).split(SEEDS))
    ]


def measure_diversity(pipe: ImagenPipeline, n: int) -> tuple[dict, Image.Image]:
    """Generate SEEDS images of each caption at each w; measure accuracy and diversity."""
    base, world = base_of(pipe), pipe.world
    prompts = benchmark(n, categories=BASE_CATEGORIES, world=world)
    captions = [caption for _, _, caption in prompts]
    generated = [
        (caption, 100_000 * k + i) for i, caption in enumerate(captions) for k in range(SEEDS)
    ]
    scenes = [
        world.scene_matching(caption.description, random.Random(f"{caption.text}/{seed}"))
        for caption, seed in generated
    ]
    size = pipe.stages[base].config.unet.image_size
    true = features(world.render(scenes, size), world=world)
    found = {
        "own_w": pipe.stages[base].config.guidance_scale,
        "seeds": SEEDS,
        "true_pictures": {"spread": spreads(true, [True] * len(true))},
        "rows": [],
    }
    shown: list[tuple[Tensor, bool, str]] = []
    with tqdm(total=len(generated) * len(WEIGHTS), desc="diversity") as bar:
        for w in sorted({*WEIGHTS, judged_w(found)}):
            images, correct = _sample_at(pipe, base, generated, w, bar)
            generated_features = features(images, world=world)
            precision, recall = precision_and_recall(true, generated_features)
            found["rows"].append(
                {
                    "w": w,
                    **tally(correct),
                    "spread": spreads(generated_features, correct),
                    "precision": round(precision, 4),
                    "recall": round(recall, 4),
                }
            )
            if w in (1, judged_w(found), WEIGHTS[-1]):
                shown += [
                    (images[i], correct[i], f"w = {w:g}: {generated[i][0].text}")
                    for i in range(SEEDS)
                ]
    return found, example_grid(shown, columns=SEEDS)


def _sample_at(
    pipe: ImagenPipeline, base: str, generated: list[tuple[Caption, int]], w: float, bar: tqdm
) -> tuple[Tensor, list[bool]]:
    """Generate and judge images of (caption, seed) at one w."""
    images, correct = [], []
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
        correct += [
            Result("", seed, caption, image, parsed).correct
            for (caption, seed), image, parsed in zip(
                part, images[-1], pipe.world.parse_image(images[-1])
            )
        ]
        bar.update(len(part))
    return torch.cat(images), correct


def judged_w(numbers: dict) -> float:
    """Return the w that is compared with w = 1: the stage's default."""
    return numbers["own_w"] if numbers["own_w"] > 1 else 2.0


def by_caption(row: dict, seeds: int) -> list[float]:
    """Return the share of correct images of each caption."""
    return [row["each"][i : i + seeds].count("1") / seeds for i in range(0, row["n"], seeds)]


def judge_diversity(numbers: dict) -> Verdict:
    """Judge both parts: more images are correct, and the correct ones are more alike.

    Incorrect images differ, too, and would pass for diversity: they are left out.
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
    # where nearly all images are correct without guidance, it can add nothing
    aligned = is_above(alignment) if is_enough(off, on) and has_room(off) else UNCLEAR
    return Verdict(
        all_of(aligned, is_above(loss, meaningful=0.05 * without)),
        f"From w = 1 to w = {w:g} the share of correct images goes from {percent(off)} to "
        f"{percent(on)}: {alignment}, {alignment.n} captions. The mean distance "
        f"between correct images of a caption goes from {without:.2f} to "
        f"{with_w:.2f}: {-loss.mean:+.2f} ({-loss.high:+.2f} to "
        f"{-loss.low:+.2f}), "
        f"{loss.n} captions; recall from {off['recall']:.0%} to "
        f"{on['recall']:.0%}. At w = {last['w']:g}: {percent(last)} correct, "
        f"recall {last['recall']:.0%}.",
    )


def mean_of(values: Sequence[float | None]) -> float:
    """Return the mean of the values that are not None."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else float("nan")


def plot_diversity(numbers: dict, path: Path) -> None:
    rows = numbers["rows"]
    scales = [row["w"] for row in rows]
    fig, (accuracy, alike, manifold) = subplots(
        [
            f"share correct of {rows[0]['n']}",
            "distance between correct images of a caption",
            "precision and recall",
        ],
        "guidance scale w   (1 is off)",
    )
    accuracy.plot(scales, [row["accuracy"] for row in rows], label="generated", **STYLES[0])
    accuracy.fill_between(
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
    accuracy.plot([], [], label="true images of the same captions", **TRUE_IMAGE_STYLE)
    for name, style in (("precision", STYLES[1]), ("recall", STYLES[2])):
        manifold.plot(scales, [row[name] for row in rows], **style)
        accuracy.plot([], [], label=name, **style)
    for ax in (accuracy, alike, manifold):
        log_axis(ax, scales)
    percent_axis(accuracy)
    percent_axis(manifold)
    save_figure(fig, path)


DIVERSITY = Experiment(
    "guidance",
    f"The base stage generates {SEEDS} images of each of n captions of {len(BASE_CATEGORIES)} "
    "categories at each w. Diversity is the mean distance between two "
    "correct images of one caption, by the features of the shipped classifier of scenes; "
    "precision and recall are against true images of the same captions. The "
    "verdict compares w = 1 with the stage's default w; a fall of less than 5 % of the "
    "distance counts as none.",
    8,
    (
        Claim(
            "Guidance trades diversity for alignment.",
            "Classifier-free diffusion guidance (Ho and Salimans, 2022); Imagen (2022), Figs. A.8, "
            "A.11 and A.13: alignment against distance, over w",
            judge_diversity,
        ),
    ),
    measure_diversity,
    plot_diversity,
)
