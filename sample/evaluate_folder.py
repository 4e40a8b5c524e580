"""`sample.evaluate --data FOLDER`: the scores of a pipeline on images that no parser can read."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.data.datasets import open_dataset, remembered_options
from imagen_mini.data.folder import ImageFolderDataset
from imagen_mini.data.prepared import FITS
from imagen_mini.evaluation.folder_classifier import (
    FolderClassifier,
    confusions,
    load_folder_classifier,
    score_labels,
)
from imagen_mini.evaluation.folder_score import (
    caption_use,
    compare_with_true,
    memorised,
    small_pixels,
)
from imagen_mini.evaluation.pretrained_features import make_feature_extractor
from imagen_mini.pipeline_folder import find_folder
from imagen_mini.training.checkpoint import age_on_last_data, training_phases
from imagen_mini.utils.devices import available_device
from imagen_mini.utils.precision import compute_dtype
from imagen_mini.utils.scripts import color, current_commit, number
from imagen_mini.viz.image_grid import image_grid
from sample.cli import sampling_options

N = 64  # images, unless --n says another number
SHOWN = 8  # of them in the image
CONFUSED = 5  # pairs of values that the report names, for each column


def evaluate_folder(args: argparse.Namespace, image: Path) -> None:
    """Score a pipeline on a folder, and write the report to `args.out` and an image beside it."""
    # 1. the pipeline, and the images: held out of its training if there are such
    started = time.perf_counter()
    extractor = make_feature_extractor(args.features) if args.features else None
    judge, known = load_folder_classifier(args.classifier) if args.classifier else (None, {})
    device = available_device(args.device)
    pipe = ImagenPipeline.from_pretrained(args.pipeline).to(device)
    args.first_stage = next(iter(pipe.stages))  # what --base-only stops after
    names = list(pipe.stages)[: 1 if args.base_only else None]
    trained, apart = open_parts(args, pipe, names, () if judge is None else tuple(judge.classes))
    data = trained if apart is None else apart
    n = min(args.n or N, len(data))
    if n < 2:
        raise ValueError(f"{args.data}: {len(data)} images to score; expected at least 2")
    report = {
        "pipeline": str(args.pipeline),
        "commit": current_commit(),
        "options": sampling_options(args),
        "data": data.describe(),
        "folder": str(args.data),
        "held_out": apart is not None,
        "images": n,
        "training": {name: age_of(find_folder(args.pipeline) / name) for name in names},
    }
    kind = "held out of training" if apart is not None else "that it may be trained on"
    print(f"{n} of {len(data):,} images of {args.data} {kind}")
    # 2. what captions are worth, for each reason that images are held out for as well
    report["caption_use"] = {}
    for reason, indices in groups(data, n).items():
        for name in names:
            found = caption_use(pipe.stages[name], pipe.text_encoder, data, indices)
            report["caption_use"].setdefault(reason, {})[name] = {"images": len(indices), **found}
            print(
                f"{name}, {reason} ({len(indices)} images): loss {found['loss']:.4f}; with another "
                f"caption {found['another']:+.1%} (standard error {found['another_se']:.1%}), with "
                f"none {found['none']:+.1%}"
            )
    # 3. images of the same captions
    pipe.stages.to(compute_dtype(args.precision, device))
    size = pipe.stages[names[-1]].config.unet.image_size
    true, _, captions = data.batch(range(n), size)
    made = generate(pipe, captions, args)
    if extractor is not None:
        found = compare_with_true(made, true, extractor)
        report["distribution"] = {"features": args.features, **found}
        if apart is not None and len(trained) >= n:  # how near true images come
            others = trained.batch(range(n), size).images
            report["distribution"]["training"] = compare_with_true(others, true, extractor)
        print(
            f"Fréchet distance {found['frechet']:.3f}, precision {found['precision']:.1%}, recall "
            f"{found['recall']:.1%} by {args.features}, {n} images of each"
        )
        if reference := report["distribution"].get("training"):
            print(
                f"as many training images: Fréchet distance {reference['frechet']:.3f}, precision "
                f"{reference['precision']:.1%}, recall {reference['recall']:.1%}"
            )
    if judge is not None:
        report["labels"] = {
            "classifier": str(args.classifier),
            "its_accuracy": known.get("accuracy"),
            **compare_labels(judge, made, true, data),
        }
        print_labels(report["labels"])
    # 4. does it repeat what it has seen?
    copies, nearest = memorised(small_pixels(made), small_pixels(true), all_pixels(trained, size))
    if apart is not None:
        report["nearest"] = copies
        print(
            f"distance to the nearest training image: {copies['generated']:.3f}, of held-out "
            f"images {copies['unseen']:.3f}; nearer than 95 % of these: {copies['nearer']:.1%} "
            "(about 5 % if nothing is repeated)"
        )
    # 5. the report, and an image: generated, true, and the nearest in training
    rows = range(min(n, SHOWN))
    seen = trained.batch(nearest[: len(rows)].tolist(), size).images
    tiles = [*made[: len(rows)], *true[: len(rows)], *seen]
    labels = (
        [captions[i] for i in rows] + ["true"] * len(rows) + ["nearest in training"] * len(rows)
    )
    image_grid(tiles, labels, columns=len(rows), cell=128).save(image)
    report["seconds"] = round(time.perf_counter() - started, 1)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{report['seconds']:.0f} s; {args.out}, {image}")


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a folder, and of a classifier that reads its images."""
    parser.add_argument(
        "--data", type=Path, help="score on this folder of images with captions instead"
    )
    parser.add_argument(
        "--classifier",
        type=Path,
        metavar="FOLDER",
        help="of --data: a classifier of python -m train.folder_classifier, to say whether images "
        "have the style, tone and the like that their captions name",
    )
    parser.add_argument(
        "--held-out",
        type=number(0, 0.9),
        metavar="SHARE",
        help="of --data: the share that was held out of training (default: the pipeline's)",
    )
    parser.add_argument(
        "--fit", choices=FITS, help="of --data: as in training (default: the pipeline's)"
    )
    parser.add_argument(
        "--background", type=color, help="of --data: as in training (default: the pipeline's)"
    )
    parser.add_argument("--data-cache", type=Path, help="of --data: as in training")
    parser.add_argument("--caption-column", metavar="NAME", help="of --data: as in training")


def open_parts(
    args: argparse.Namespace,
    pipe: ImagenPipeline,
    names: list[str],
    label_columns: tuple[str, ...] = (),
) -> tuple[ImageFolderDataset, ImageFolderDataset | None]:
    """The images that were trained on, and those held out: the share that training kept out, or
    the folder's split of its own. None: all of them may have been trained on.
    """
    stage = find_folder(args.pipeline) / names[0]
    phases = training_phases(stage) if (stage / "config.json").is_file() else []
    options = remembered_options(phases[-1].get("data") if phases else None)
    named = {
        "held_out": args.held_out,
        "fit": args.fit,
        "background": args.background,
        "cache": args.data_cache,
        "caption_column": args.caption_column,
    }
    options |= {name: value for name, value in named.items() if value is not None}
    options["label_columns"] = label_columns
    unets = [pipe.stages[name].config.unet for name in names]
    sizes = sorted({size for u in unets for size in (u.image_size, u.low_res_size) if size})
    trained = open_dataset(args.data, sizes, **options, skip_broken=True)
    try:
        apart = open_dataset(args.data, sizes, **options, skip_broken=True, part="held_out")
    except FileNotFoundError:  # neither a share nor a split
        apart = None
    assert isinstance(trained, ImageFolderDataset)
    assert apart is None or isinstance(apart, ImageFolderDataset)
    return trained, apart


def age_of(stage: Path) -> dict:
    """How long a stage was trained on the data that it was trained on last."""
    phases = training_phases(stage) if (stage / "config.json").is_file() else []
    steps, seconds = age_on_last_data(phases)
    return {"steps": steps, "seconds": round(seconds, 1)}


def groups(data: ImageFolderDataset, n: int) -> dict[str, list[int]]:
    """Indices of the first n images: of all of them, and by the reason that they are held out for,
    if the folder says it.
    """
    found = {"all": list(range(n))}
    for i in range(n):
        if (reason := data.reason(i)) is not None:
            found.setdefault(reason, []).append(i)
    return {reason: of for reason, of in found.items() if len(of) > 1}


def compare_labels(
    judge: FolderClassifier, made: Tensor, true: Tensor, data: ImageFolderDataset
) -> dict[str, dict]:
    """How often a classifier recognises what the metadata names, in generated images and in the
    true ones of the same captions, for all images and by the reason that they are held out for;
    and what it most often takes in generated images for what, by column: (named, read, images).

    Raises:
        ValueError: The metadata has none of the classifier's columns.
    """
    labels = [data.labels(i) for i in range(len(made))]
    if not any(labels):
        raise ValueError(
            f"{data.path} has none of the columns that the classifier tells: "
            f"{', '.join(judge.classes)}; expected the folder that it was trained on"
        )
    told = {"generated": judge.recognize(made), "true": judge.recognize(true)}
    found: dict[str, dict] = {
        reason: {
            which: score_labels([of[i] for i in some], [labels[i] for i in some], judge.classes)
            for which, of in told.items()
        }
        for reason, some in groups(data, len(made)).items()
    }
    found["all"]["confused"] = {
        column: [c for c in confusions(told["generated"], labels, column) if c[0] in of][:CONFUSED]
        for column, of in judge.classes.items()
    }
    return found


def print_labels(found: dict[str, dict]) -> None:
    """Print a line for each column and reason."""
    for reason, of in found.items():
        if isinstance(of, dict) and "generated" in of:
            for name, row in of["generated"].items():
                if row["n"]:
                    print(
                        f"{name}, {reason}: {row['right']} of {row['n']} generated images correct "
                        f"({row['share']:.1%}, 95 % interval {row['low']:.1%} to "
                        f"{row['high']:.1%}); of true images {of['true'][name]['share']:.1%}"
                    )


def generate(pipe: ImagenPipeline, captions: list[str], args: argparse.Namespace) -> Tensor:
    """An image of each caption, from the last stage, [n, 3, size, size] on the CPU."""
    made = []
    for at in tqdm(range(0, len(captions), args.batch), desc="images", unit="batch"):
        some = captions[at : at + args.batch]
        seeds = [args.seed + at + i for i in range(len(some))]
        out = pipe(some, seed=seeds, progress=False, **sampling_options(args))
        made.append(list(out.stages.values())[-1].float().cpu())
    return torch.cat(made).clamp(-1, 1)


def all_pixels(data: ImageFolderDataset, size: int) -> Tensor:
    """`small_pixels` of every image of a data set, [n, d], by its index in the first epoch."""
    starts = range(0, len(data), 256)
    return torch.cat(
        [
            small_pixels(data.batch(range(at, min(at + 256, len(data))), size).images)
            for at in tqdm(starts, desc="training images", unit="batch")
        ]
    )
