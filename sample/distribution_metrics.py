"""Do the images come from the right distribution? Fréchet distance, precision and recall, and
whether images were memorised.

    python -m sample.distribution_metrics --out outputs/distances
    # other ways to a large guidance scale, beside the ways of thresholding
    python -m sample.distribution_metrics --out outputs/rules --rules interval rescaled projected
    # the same for two worlds, side by side
    python -m sample.distribution_metrics --out outputs/rules --rules interval cfg++ \\
        --pipeline scenes --beside studio

Captions of unseen scenes are generated at each guidance scale w, for each way of thresholding, and
compared with true images by the features of `imagen_mini.evaluation.scene_features` (of 64 px
images; with `--stage sr_256`, of 256 px). The figure shows text alignment over distance, as in the
papers, with w along the lines. For reference, as many true images of other scenes are compared,
too: no model can be expected to do better.

Every point is kept in --out as soon as it is measured. The same command resumes where it was
interrupted, and one with more scales or rules adds them.

These distances can be compared with one another, for one size and one n. They are not FID as
published for photographs. `--features inception` and `--features clip:NAME` use the features of
published papers instead; their weights are not part of this package. CLIP also scores captions.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.cascade.sampling_options import resolve_sampling_options
from imagen_mini.cascade.serialization import load_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.guidance import THRESHOLDS
from imagen_mini.evaluation.guidance_comparison import RULES, sample_by_rule
from imagen_mini.evaluation.metrics import (
    frechet_distance,
    gaussian_statistics,
    nearest_neighbours,
    precision_and_recall,
)
from imagen_mini.evaluation.pretrained_features import (
    FEATURE_EXTRACTORS,
    Clip,
    make_feature_extractor,
)
from imagen_mini.evaluation.scoring import Result
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.captions import Caption
from imagen_mini.scenes.scene import HELD_OUT_SEED
from imagen_mini.scenes.world import SCENES, World
from imagen_mini.utils.records import Records
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.style import line_style, log_axis, percent_axis, save_figure, subplots
from sample.claims.report import pipeline_identity
from sample.cli import add_model_options, load_pipeline

RULES_ONLY = tuple(name for name in RULES if name not in THRESHOLDS)
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)  # of CFG++, in place of w
TRAINED = 0  # seed of the scenes used in training


def true_images(seed: int, numbers: range, size: int, world: World = SCENES) -> Tensor:
    """Render scenes of a training set."""
    return world.render([world.training_scene(seed, i) for i in numbers], size)


def captions_of(seed: int, numbers: range, world: World = SCENES) -> list[Caption]:
    """Return the training captions of these scenes."""
    return [world.training_caption(world.training_scene(seed, i), seed, i) for i in numbers]


def compare(images: Tensor, true: Tensor) -> dict[str, float]:
    """Compare images with true ones, both as features: Fréchet distance, precision, recall."""
    precision, recall = precision_and_recall(true, images)
    return {
        "frechet": round(
            frechet_distance(*gaussian_statistics(true), *gaussian_statistics(images)), 4
        ),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
    }


def alignment(images: Tensor, captions: list[Caption], world: World = SCENES) -> dict:
    """Count the images that show their captions, by the world's parser."""
    images = images.cpu()
    results = [
        Result("", 0, caption, image, parsed)
        for caption, image, parsed in zip(captions, images, world.parse_image(images))
    ]
    correct = sum(result.correct for result in results)
    low, high = wilson_interval(correct, len(captions))
    return {
        "n": len(captions),
        "right": correct,
        "accuracy": round(correct / len(captions), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def scales_of(rule: str, scales: Sequence[float]) -> Sequence[float]:
    """Return the guidance scales of a rule: those asked for, or the strengths of CFG++."""
    return STRENGTHS if rule == "cfg++" else scales


def median_distance(images: Tensor, among: Tensor) -> float:
    """Return the median distance to the nearest neighbour, both as features."""
    return round(nearest_neighbours(images, among)[0].median().item(), 4)


def plot_distances(reports: Sequence[dict], path: Path) -> None:
    """Plot text alignment over Fréchet distance, and precision over recall: a row for each
    pipeline.
    """
    names = [f"{report['stage']} of {Path(report['pipeline']).name}" for report in reports]
    fig, axes = subplots(
        [
            title
            for report, name in zip(reports, names)
            for title in (
                f"{name}, {report['n']} images: numbers are w",
                f"{name}: precision over recall",
            )
        ],
        "",
        columns=2,
    )
    for report, pareto, recall in zip(reports, axes[::2], axes[1::2]):
        _plot_report(report, pareto, recall)
    save_figure(fig, path)


def _plot_report(report: dict, pareto: Axes, recall: Axes) -> None:
    """Plot the points of one pipeline."""
    for which, (threshold, rows) in enumerate(report["lines"].items()):
        style = line_style(which)
        pareto.plot(
            [r["frechet"] for r in rows],
            [r["accuracy"] for r in rows],
            **style,
            label=threshold if threshold in RULES_ONLY else f"threshold: {threshold}",
        )
        recall.plot([r["recall"] for r in rows], [r["precision"] for r in rows], **style)
        for r in (rows[0], rows[-1]) if len(rows) > 1 else rows:
            for ax, place in (
                (pareto, (r["frechet"], r["accuracy"])),
                (recall, (r["recall"], r["precision"])),
            ):
                ax.annotate(
                    f"{r['w']:g}",
                    place,
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=7,
                )
    true, own = report["true_pictures"], report["own"]
    by_default = {"color": "black", "marker": "D", "linestyle": "none"}
    pareto.plot(own["frechet"], own["accuracy"], **by_default, label="by default")
    recall.plot(own["recall"], own["precision"], **by_default)
    pareto.axvline(true["frechet"], color="#777777", linestyle=":", label="other true images")
    star = {"color": "#777777", "marker": "*", "linestyle": "none", "markersize": 10}
    recall.plot(true["recall"], true["precision"], **star)
    distances = [r["frechet"] for rows in report["lines"].values() for r in rows]
    low, high = min(distances) / 1.5, max(distances)
    pareto.set_xlabel("Fréchet distance to true images")
    pareto.set_ylabel("share of captions generated correctly")
    log_axis(pareto, [t for t in (1, 2, 3, 5, 10, 20, 50) if low <= t <= 1.1 * high])
    recall.set_xlabel("recall")
    recall.set_ylabel("precision")
    percent_axis(pareto)
    for axis in (recall.xaxis, recall.yaxis):
        axis.set_major_formatter(pareto.yaxis.get_major_formatter())


@dataclass(frozen=True)
class Measured:
    """A pipeline whose images are compared, and with what.

    Args:
        name: As the user calls it.
        pipe: The pipeline.
        stage: The name of the stage that varies.
        features: Images -> features.
        features_name: What these are.
    """

    name: str
    pipe: ImagenPipeline
    stage: str
    features: Callable[[Tensor], Tensor]
    features_name: str


def open_pipeline(name: str, args: argparse.Namespace, parser: argparse.ArgumentParser) -> Measured:
    """Load a pipeline; an error of the parser where the options do not fit it."""
    pipe = load_pipeline(argparse.Namespace(**vars(args) | {"pipeline": name}))
    stage = args.stage or next(iter(pipe.stages))
    if stage not in pipe.stages:
        parser.error(f"--stage {stage}: {name} has {', '.join(pipe.stages)}")
    if args.rules and stage != next(iter(pipe.stages)):
        parser.error(f"--rules {' '.join(args.rules)}: only for the first stage, and not {stage}")
    which = args.features or pipe.world.name
    try:
        return Measured(name, pipe, stage, make_feature_extractor(which), which)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        parser.error(f"--features {which}: {error}")


def measure(
    of: Measured, args: argparse.Namespace, weaker: DiffusionStage | None, records: Records
) -> dict:
    """Generate and compare, for each threshold, rule and w. What the records hold is not measured
    again.
    """
    pipe, name, world, features = of.pipe, of.stage, of.pipe.world, of.features
    stages, size = (
        list(pipe.stages)[: list(pipe.stages).index(name) + 1],
        pipe.stages[name].config.unet.image_size,
    )
    # 1. Features of true images: unseen ones, others for reference, and those of training.
    numbers = range(args.n)
    captions = captions_of(HELD_OUT_SEED, numbers, world)
    true = features(true_images(HELD_OUT_SEED, range(args.n, args.n + args.true), size, world))
    others = features(
        true_images(HELD_OUT_SEED, range(args.n + args.true, 2 * args.n + args.true), size, world)
    )
    trained = features(true_images(TRAINED, range(args.true), size, world))
    settings = {
        "pipeline": pipeline_identity(pipe),
        "stage": name,
        "features": of.features_name,
        "n": args.n,
        "true": args.true,
        "steps": args.steps,
    }
    report = {
        "pipeline": of.name,
        "stage": name,
        "features": of.features_name,
        "n": args.n,
        "true": args.true,
        "lines": {},
        "true_pictures": {
            **compare(others, true),
            "nearest_trained": median_distance(others, trained),
        },
    }
    if args.steps is not None:
        report["steps"] = args.steps

    # 2. How images are generated: by the pipeline itself, or by a rule of guidance.
    def by_pipeline(captions: list[str], seeds: list[int], **options) -> Tensor:
        return pipe(
            captions,
            seed=seeds,
            stages=stages,
            output_type="pt",
            progress=False,
            **{
                option: {name: value}
                for option, value in {"num_inference_steps": args.steps, **options}.items()
                if value is not None
            },
        ).stages[name]

    def by_rule(captions: list[str], seeds: list[int], rule: str, w: float) -> Tensor:
        text = pipe.text_encoder(captions)
        options = resolve_sampling_options(pipe.stages[name], num_inference_steps=args.steps)
        other = weaker if rule == "autoguidance" else None
        return sample_by_rule(pipe.stages[name], text, seeds, options, rule, w, other)

    points = 1 + len(args.thresholds) * len(args.scales)
    points += sum(len(scales_of(rule, args.scales)) for rule in args.rules)
    bar = tqdm(total=args.n * points, desc=f"images of {Path(of.name).name}")

    def measured(generate=by_pipeline, **options) -> dict:
        key = settings | options
        if options.get("rule") == "autoguidance":
            key["weaker"] = str(args.weaker)
        if key in records:
            bar.update(args.n)
            return records[key]
        generated = []
        for at in range(0, args.n, args.batch):
            part = numbers[at : at + args.batch]
            texts = [captions[i].text for i in part]
            generated.append(generate(texts, list(part), **options).float().cpu())
            bar.update(len(part))
        images = torch.cat(generated)
        found = features(images)
        row = {
            **alignment(images, captions, world),
            **compare(found, true),
            "nearest_trained": median_distance(found, trained),
        }
        if isinstance(features, Clip):
            scores = features.score_of(found, [c.text for c in captions])
            row["clip_score"] = round(scores.mean().item(), 2)
        records.add(key, **row)
        return row

    # 3. Point by point.
    with bar:
        own = pipe.stages[name].config
        report["own"] = {
            option: getattr(own, option)
            for option in ("guidance_scale", "guidance_interval", "threshold")
        } | measured()
        for threshold in args.thresholds:
            report["lines"][threshold] = [
                {"w": w, **measured(guidance_scale=w, threshold=threshold)} for w in args.scales
            ]
        for rule in args.rules:
            report["lines"][rule] = [
                {"w": w, **measured(by_rule, rule=rule, w=w)} for w in scales_of(rule, args.scales)
            ]
    return report


def print_report(report: dict) -> None:
    """Print the points of one pipeline as a table."""
    print(f"{report['stage']} of {report['pipeline']}")
    print(
        f"{'guidance':18}{'w':>5}{'correct':>8}{'Fréchet':>9}{'precision':>11}{'recall':>8}"
        f"{'to the nearest trained scene':>30}"
    )
    rows = [
        ("by default", report["own"]),
        *(
            (f"{threshold:18}{r['w']:>5g}", r)
            for threshold, line in report["lines"].items()
            for r in line
        ),
    ]
    for label, r in rows:
        print(
            f"{label:23}{r['accuracy']:>8.0%}{r['frechet']:>9.3f}{r['precision']:>11.0%}"
            f"{r['recall']:>8.0%}{r['nearest_trained']:>30.3f}"
            + (f"   CLIP score {r['clip_score']:.1f}" if "clip_score" in r else "")
        )
    true_row = report["true_pictures"]
    print(
        f"{'true images of other scenes':31}{true_row['frechet']:>9.3f}"
        f"{true_row['precision']:>11.0%}{true_row['recall']:>8.0%}"
        f"{true_row['nearest_trained']:>30.3f}"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--stage", help="stage whose images are compared and whose w varies (default: the first)"
    )
    parser.add_argument("--n", type=int, default=300, help="number of captions (default: 300)")
    parser.add_argument(
        "--true",
        type=int,
        default=2000,
        help="number of true images to compare with (default: 2000)",
    )
    parser.add_argument(
        "--scales",
        type=number(),
        nargs="+",
        default=[1, 1.5, 2, 3, 5, 8],
        help="guidance scales w (default: 1 1.5 2 3 5 8)",
    )
    parser.add_argument(
        "--thresholds",
        nargs="+",
        choices=THRESHOLDS,
        default=list(THRESHOLDS),
        help="ways of thresholding (default: all)",
    )
    parser.add_argument(
        "--rules",
        nargs="+",
        choices=RULES_ONLY,
        default=[],
        help="other rules of guidance, for the first stage (default: none); the w of cfg++ is its "
        f"strength, {STRENGTHS[0]} to {STRENGTHS[-1]}",
    )
    parser.add_argument(
        "--weaker",
        type=Path,
        metavar="STAGE",
        help="folder of a younger or smaller stage, for --rules autoguidance",
    )
    parser.add_argument(
        "--features",
        metavar="WHICH",
        help=f"{FEATURE_EXTRACTORS} (default: the shipped classifier of the pipeline's world)",
    )
    parser.add_argument(
        "--beside",
        nargs="+",
        default=[],
        metavar="PIPELINE",
        help="further pipelines, a row of the figure each (default: none)",
    )
    parser.add_argument(
        "--steps", type=integer(low=1), help="of the sampler (default: the stage's)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="measure again what --out holds already"
    )
    parser.add_argument(
        "--batch", type=integer(low=1), default=25, help="images per batch (default: 25)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/distances"),
        help="output folder (default: outputs/distances)",
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)
    if min(args.n, args.true) < 4 or min(args.scales) <= 0:
        parser.error(
            f"--n {args.n}, --true {args.true}, --scales {args.scales}: expected at least 4 "
            "images of each, and scales above 0"
        )
    if args.weaker is not None and args.beside:
        parser.error("--weaker is a stage of one pipeline: leave out --beside")
    if ("autoguidance" in args.rules) != (args.weaker is not None):
        parser.error(
            "--rules autoguidance and --weaker STAGE belong together: pass both or neither"
        )
    check_output_folder(args.out)
    start = time.perf_counter()
    opened = [open_pipeline(name, args, parser) for name in (args.pipeline, *args.beside)]
    weaker = None
    if args.weaker is not None:
        try:
            weaker = load_stage(args.weaker).to(opened[0].pipe.device)
        except (FileNotFoundError, ValueError) as error:
            parser.error(f"--weaker {args.weaker}: {error}")
    if args.fresh:
        (args.out / "points.jsonl").unlink(missing_ok=True)
    records = Records(args.out / "points.jsonl")
    reports = [measure(of, args, weaker, records) for of in opened]
    # write and print
    seconds = round(time.perf_counter() - start, 1)
    whole = reports[0] | {"seconds": seconds}
    if args.beside:
        whole["beside"] = reports[1:]
    (args.out / "distances.json").write_text(json.dumps(whole, indent=1) + "\n")
    plot_distances(reports, args.out / "distances.png")
    for report in reports:
        print_report(report)
    print(f"{seconds:.0f} s; {args.out}/distances.png, distances.json, points.jsonl")


if __name__ == "__main__":
    run_script(main)
