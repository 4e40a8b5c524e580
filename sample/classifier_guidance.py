"""Classifier-free against classifier guidance, at equal accuracy.

    python -m train.noisy_classifier --out outputs/noisy.safetensors
    python -m sample.classifier_guidance --classifier outputs/noisy.safetensors

Classifier-free guidance is swept over w, classifier guidance over s; the network reads the caption
in both, and w is 1 in the second. Both start from the same noise, with both samplers that
Dhariwal and Nichol (2021) give a form for: DDIM without fresh noise, and ancestral DDPM. Captions
are of unseen scenes. The judge counts the correct images, and the Fréchet distance says how far all
of them are from true ones.

Where both methods are equally accurate is found by linear interpolation between the scales. There
the distances can be compared. The classifier reads count, colours, shapes and relations; of sizes,
textures and backgrounds it knows nothing.

Every point is kept in --out as soon as it is measured, and the same command resumes. Files:

    equal_accuracy.png    accuracy over distance, with the points of equal accuracy
    equal_accuracy.json   all numbers
    points.jsonl          the points as they were measured
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.editing.guides import ClassifierGuide
from imagen_mini.evaluation.equal_accuracy import at_accuracy, common_accuracy
from imagen_mini.evaluation.noisy_classifier import NoisyClassifier, load_noisy_classifier
from imagen_mini.evaluation.pretrained_features import make_feature_extractor
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.scene import HELD_OUT_SEED
from imagen_mini.utils.records import Records
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.style import STYLES, percent_axis, save_figure, subplots
from sample.claims.report import pipeline_identity
from sample.cli import add_model_options, check_judged, load_pipeline
from sample.distribution_metrics import alignment, captions_of, compare, true_images

FREE, CLASSIFIER = "classifier-free", "classifier"
SAMPLERS = ("ddim", "ddpm")


def sample_images(
    pipe: ImagenPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: str,
    steps: int | None,
    w: float,
    net: NoisyClassifier | None = None,
    s: float = 0.0,
) -> Tensor:
    """Images of the first stage, guided by w and by a classifier with the scale s.

    Args:
        pipe: The pipeline.
        prompts: b captions.
        seeds: One for each.
        sampler: "ddim", without fresh noise, or "ddpm".
        steps: None: the stage's.
        w: Of classifier-free guidance, at all noise levels; 1 is off.
        net: The classifier; None: there is none.
        s: Its scale.

    Returns:
        [b, 3, size, size] in [-1, 1].
    """
    return pipe(
        list(prompts),
        seed=list(seeds),
        stages=(next(iter(pipe.stages)),),
        num_inference_steps=steps,
        sampler=sampler,
        eta=0.0,
        guidance_scale=w,
        guide=None if net is None else ClassifierGuide(net.log_probability, s),
        output_type="pt",
        progress=False,
    ).images


def equal_points(lines: dict[str, list[dict]]) -> dict[str, dict | None]:
    """The points of both methods at the largest accuracy that both reach."""
    accuracy = common_accuracy(list(lines.values()))
    found = {name: at_accuracy(rows, accuracy) for name, rows in lines.items()}
    return {name: None if point is None else asdict(point) for name, point in found.items()}


def plot(report: dict, path: Path) -> None:
    """Accuracy over Fréchet distance: axes for each sampler, a line for each method."""
    fig, axes = subplots(
        [f"{sampler.upper()}, {report['n']} images" for sampler in report["lines"]],
        "Fréchet distance to true images",
        columns=2,
    )
    names = {FREE: "classifier-free, by w", CLASSIFIER: "classifier, by s"}
    for ax, (sampler, lines) in zip(axes, report["lines"].items()):
        for (name, rows), style in zip(lines.items(), STYLES):
            x, y = ([row[key] for row in rows] for key in ("frechet", "accuracy"))
            errors = [[abs(r["accuracy"] - r[end]) for r in rows] for end in ("low", "high")]
            ax.plot(x, y, label=names[name], **style)
            ax.errorbar(x, y, errors, color=style["color"], alpha=0.3, fmt="none")
            for row in rows:
                ax.annotate(
                    f"{row['scale']:g}",
                    (row["frechet"], row["accuracy"]),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=7,
                )
            if point := report["equal"][sampler][name]:
                ax.plot(
                    point["frechet"],
                    point["accuracy"],
                    color=style["color"],
                    marker="*",
                    markersize=14,
                    markerfacecolor="none",
                    linestyle="none",
                )
        ax.plot([], [], "k*", markersize=12, markerfacecolor="none", label="equally accurate")
        ax.axvline(
            report["true_images"]["frechet"], color="#777777", linestyle=":", label="true images"
        )
        ax.set_ylabel("share of captions generated correctly")
        percent_axis(ax)
    save_figure(fig, path)


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--classifier", type=Path, required=True, help="of train.noisy_classifier, for this world"
    )
    parser.add_argument(
        "--w",
        type=number(),
        nargs="+",
        default=[1, 1.5, 2, 3, 5],
        help="scales of classifier-free guidance; 1 is off (default: 1 1.5 2 3 5)",
    )
    parser.add_argument(
        "--s",
        type=number(low=0),
        nargs="+",
        default=[0, 0.5, 1, 2, 4, 8],
        help="scales of classifier guidance; 0 is off (default: 0 0.5 1 2 4 8)",
    )
    parser.add_argument(
        "--samplers",
        nargs="+",
        choices=SAMPLERS,
        default=list(SAMPLERS),
        help="(default: both)",
    )
    parser.add_argument("--n", type=integer(low=4), default=200, help="captions (default: 200)")
    parser.add_argument(
        "--true", type=integer(low=4), default=2000, help="true images (default: 2000)"
    )
    parser.add_argument("--steps", type=integer(low=1), help="(default: the stage's)")
    parser.add_argument("--features", help="(default: the classifier of the pipeline's world)")
    parser.add_argument("--batch", type=integer(low=1), default=25, help="(default: 25)")
    parser.add_argument("--fresh", action="store_true", help="measure again what --out holds")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/classifier_guidance"),
        help="folder (default: outputs/classifier_guidance)",
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)

    # 1. What is compared, checked before anything is sampled.
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    stage = pipe.stages[next(iter(pipe.stages))]
    size = stage.config.unet.image_size
    check_judged(pipe, [stage.config.name])
    net = load_noisy_classifier(args.classifier).to(pipe.device)
    if net.size != size or net.world.name != pipe.world.name:
        raise ValueError(
            f"{args.classifier} reads images of {net.size} px of the world {net.world.name}, and "
            f"the first stage of {args.pipeline} has {size} px of the world {pipe.world.name}; "
            f"train one with python -m train.noisy_classifier --world {pipe.world.name} --size "
            f"{size}"
        )
    which = args.features or pipe.world.name
    features = make_feature_extractor(which)
    if args.fresh:
        (args.out / "points.jsonl").unlink(missing_ok=True)
    records = Records(args.out / "points.jsonl")
    settings = {
        "pipeline": pipeline_identity(pipe),
        "classifier": hashlib.sha256(args.classifier.read_bytes()).hexdigest()[:16],
        "features": which,
        "n": args.n,
        "true": args.true,
        "steps": args.steps,
    }

    # 2. Captions of unseen scenes, and true images of others.
    captions = captions_of(HELD_OUT_SEED, range(args.n), pipe.world)
    images_of = lambda start, n: features(
        true_images(HELD_OUT_SEED, range(start, start + n), size, pipe.world)
    )
    true = images_of(args.n, args.true)
    reference = compare(images_of(args.n + args.true, args.n), true)

    # 3. Point by point.
    methods = {FREE: args.w, CLASSIFIER: args.s}
    points = args.n * len(args.samplers) * sum(map(len, methods.values()))
    lines: dict[str, dict[str, list[dict]]] = {}
    with tqdm(total=points, desc="images") as bar:
        for sampler in args.samplers:
            lines[sampler] = {}
            for method, scales in methods.items():
                rows = []
                for scale in scales:
                    key = settings | {"sampler": sampler, "method": method, "scale": scale}
                    if key not in records:
                        guided = (scale,) if method == FREE else (1.0, net, scale)
                        generated = []
                        for at in range(0, args.n, args.batch):
                            numbers = range(args.n)[at : at + args.batch]
                            texts = [captions[i].text for i in numbers]
                            generated.append(
                                sample_images(pipe, texts, numbers, sampler, args.steps, *guided)
                                .float()
                                .cpu()
                            )
                        images = torch.cat(generated)
                        found = alignment(images, captions, pipe.world)
                        records.add(key, **found, **compare(features(images), true))
                    rows.append({"scale": scale, **records[key]})
                    bar.update(args.n)
                lines[sampler][method] = rows

    # 4. Where they are equal; figure and table.
    report = {
        "pipeline": args.pipeline,
        "features": which,
        "n": args.n,
        "true": args.true,
        "steps": args.steps,
        "true_images": reference,
        "lines": lines,
        "equal": {sampler: equal_points(of) for sampler, of in lines.items()},
    }
    (args.out / "equal_accuracy.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(report, args.out / "equal_accuracy.png")
    head = f"{'scale':>8}{'correct':>9}{'Fréchet':>9}{'precision':>11}{'recall':>8}"
    print(f"{'sampler':9}{'guidance':17}{head}")
    for sampler, of in lines.items():
        for method, rows in of.items():
            for r in rows:
                print(
                    f"{sampler:9}{method:17}{r['scale']:>8g}{r['accuracy']:>9.0%}"
                    f"{r['frechet']:>9.3f}{r['precision']:>11.0%}{r['recall']:>8.0%}"
                )
    for sampler, equal in report["equal"].items():
        told = [
            f"{name}: scale {point['scale']:.2g}, Fréchet distance {point['frechet']:.3f}"
            for name, point in equal.items()
            if point is not None
        ]
        accuracy = common_accuracy(list(lines[sampler].values()))
        print(f"{sampler}, at equal accuracy of {accuracy:.0%}: {'; '.join(told)}")
    print(f"{args.out}/equal_accuracy.png, equal_accuracy.json, points.jsonl")


if __name__ == "__main__":
    run_script(main)
