"""Train a small classifier of what a folder's metadata says of its images.

    python -m train.folder_classifier --data data/emoji --columns style tone group \\
        --out runs/emoji_classifier
    python -m sample.evaluate --pipeline my_pipeline --data data/emoji \\
        --classifier runs/emoji_classifier

`sample.evaluate` then says how often a generated image has the style and the tone that its caption
names. COLUMNS are those of metadata.jsonl. Values that fewer than 1 % of the images have, or
fewer than 10 of them, are left out. So is an image with several values.

It is trained on the images that training uses. It is tested on those held out: the folder's split
of its own, or the share of --held-out. Its accuracy on them stands in OUT/README.md, with what it
confuses. Images are mirrored, moved, blurred and made noisy at random, so that what a generator
does to an image disturbs it less.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.data.datasets import open_dataset
from imagen_mini.data.folder import ImageFolderDataset
from imagen_mini.data.prepared import FITS
from imagen_mini.evaluation.folder_classifier import (
    FolderClassifier,
    confusions,
    find_classes,
    label_loss,
    label_targets,
    save_folder_classifier,
    score_labels,
)
from imagen_mini.training.checkpoint import atomic_directory
from imagen_mini.training.optimizers import one_cycle
from imagen_mini.utils.devices import available_device, device_name
from imagen_mini.utils.rng import generator
from imagen_mini.utils.scripts import (
    check_output_folder,
    check_replaceable,
    color,
    integer,
    number,
    run_script,
    script_parser,
)

MOVED = 0.06  # of the width: how far an image is moved at most
NOISE = 0.06  # the largest standard deviation
CONFUSED = 5  # pairs that the card names, for each column


def augment(images: Tensor, step: int) -> Tensor:
    """Mirror, move, blur and add noise, each image in its own way, a function of the step.

    Args:
        images: [b, 3, size, size] in [-1, 1].
        step: Number of the batch.
    """
    n, _, size, _ = images.shape
    g = generator(step, "folder classifier", "augment")
    flip, blur = torch.rand(2, n, 1, 1, 1, generator=g) < 0.5
    shift = torch.randint(-round(MOVED * size), round(MOVED * size) + 1, (n, 2), generator=g)
    noise = torch.randn(images.shape, generator=g) * torch.rand(n, 1, 1, 1, generator=g) * NOISE
    flip, blur, noise = (x.to(images.device) for x in (flip, blur, noise))
    images = torch.where(flip, images.flip(3), images)
    reach = round(MOVED * size)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    rows = (reach + shift[:, 0]).tolist(), (reach + shift[:, 1]).tolist()
    images = torch.stack(
        [padded[i, :, y : y + size, x : x + size] for i, (y, x) in enumerate(zip(*rows))]
    )
    soft = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    return (torch.where(blur, soft, images) + noise).clamp(-1, 1)


def labels_of(data: ImageFolderDataset) -> list[dict[str, tuple[str, ...]]]:
    """The labels of all images, by their index in the first epoch."""
    return [data.labels(i) for i in range(len(data))]


def train_classifier(
    data: ImageFolderDataset,
    columns: Sequence[str],
    size: int,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    device: str,
) -> FolderClassifier:
    """Train a classifier.

    Args:
        data: Opened with these `label_columns`.
        columns: What it tells.
        size: Pixels of a side.
        steps: Steps of training.
        batch: Images a step.
        rate: The highest learning rate.
        seed: Of the weights.
        device: Where it is trained.
    """
    torch.manual_seed(seed)
    net = FolderClassifier(find_classes(labels_of(data), columns), size).to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    schedule = one_cycle(optimizer, rate, steps + 1)
    bar = tqdm(range(steps), desc="classifier", unit="step")
    for step in bar:
        indices = range(step * batch, (step + 1) * batch)
        images = augment(data.batch(indices, size, device=device).images, step)
        targets = label_targets([data.labels(i) for i in indices], net.classes).to(device)
        loss = label_loss(net(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return net.eval()


def recognize_all(net: FolderClassifier, data: ImageFolderDataset) -> list[dict[str, str]]:
    """What a classifier recognises in each image, by its index in the first epoch."""
    found = []
    for at in range(0, len(data), 256):
        some = range(at, min(at + 256, len(data)))
        found += net.recognize(data.batch(some, net.size).images)
    return found


def measure(net: FolderClassifier, apart: ImageFolderDataset) -> dict:
    """The accuracy on images that were not trained on: of all, and by the reason of the metadata.

    Returns:
        {"accuracy": {reason: `score_labels`}, "confused": {column: [[true, told, times]]}}.
    """
    told, labels = recognize_all(net, apart), labels_of(apart)
    groups: dict[str, list[int]] = {"all": list(range(len(apart)))}
    for i in groups["all"]:
        if (reason := apart.reason(i)) is not None:
            groups.setdefault(reason, []).append(i)
    accuracy = {
        reason: score_labels([told[i] for i in of], [labels[i] for i in of], net.classes)
        for reason, of in groups.items()
    }
    confused = {column: confusions(told, labels, column)[:CONFUSED] for column in net.classes}
    return {"accuracy": accuracy, "confused": confused}


def card(net: FolderClassifier, found: dict, made: dict, chance: dict[str, float]) -> str:
    """The card of a classifier, in Markdown.

    Args:
        net: The classifier.
        found: From `measure`.
        made: How it was trained.
        chance: By column, the share of the class that is the commonest.
    """
    lines = [
        f"# A classifier of {', '.join(net.classes)}",
        "",
        f"It says of an image which of these it has. It was trained on {made['images']:,} images "
        f"of the folder `{made['data']}` at {net.size} x {net.size} pixels, and knows no other "
        "images. What may be done with images made from a folder depends on their licence; the "
        "same holds for weights trained on them.",
        "",
        "| column | classes |",
        "|---|---|",
        *(f"| {column} | {', '.join(values)} |" for column, values in net.classes.items()),
        "",
        f"{made['parameters']:,} parameters, {made['steps']:,} steps of {made['batch']} images, "
        f"{made['seconds']} s on {made['device']}:",
        "",
        f"    {made['command']}",
        "",
        "## Accuracy",
        "",
        f"On {made['held_out']:,} images held out of training. `always the commonest` is the share "
        "of the commonest class among them.",
        "",
        "| column | held out for | correct | accuracy | 95 % interval | always the commonest |",
        "|---|---|---|---|---|---|",
    ]
    for reason, of in found["accuracy"].items():
        for name, row in of.items():
            common = f"{chance[name]:.0%}" if reason == "all" and name in chance else ""
            lines.append(
                f"| {name} | {reason} | {row['right']} of {row['n']} | {row['share']:.1%} | "
                f"{row['low']:.1%} to {row['high']:.1%} | {common} |"
            )
    lines += ["", "What it takes for what:", "", "| column | true | told | images |"]
    lines += ["|---|---|---|---|"]
    for column, pairs in found["confused"].items():
        lines += [f"| {column} | {true} | {told} | {n} |" for true, told, n in pairs]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of images")
    parser.add_argument(
        "--columns",
        nargs="+",
        default=["style", "tone", "group"],
        metavar="NAME",
        help="what to tell: columns of its metadata (default: style tone group, as emoji have)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the classifier")
    parser.add_argument(
        "--size", type=integer(low=32), default=64, help="pixels of a side (default: 64)"
    )
    parser.add_argument("--steps", type=integer(low=1), default=1200, help="(default: 1200)")
    parser.add_argument("--batch", type=integer(low=2), default=64, help="(default: 64)")
    parser.add_argument("--rate", type=number(above=0), default=2e-3, help="(default: 0.002)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_folder_arguments(parser)
    args = parser.parse_args(arguments)
    check_output_folder(args.out)
    check_replaceable(args.out, ("README.md", "config.json", "model.safetensors"))
    device = available_device(args.device)
    # 1. the images
    trained, apart = open_both(args)
    # 2. training
    started = time.monotonic()
    net = train_classifier(
        trained,
        args.columns,
        args.size,
        args.steps,
        args.batch,
        args.rate,
        args.seed,
        args.device,
    )
    seconds = round(time.monotonic() - started)
    # 3. accuracy on what was held out, and the card
    found = measure(net, apart)
    count = {c: Counter(of[c][0] for of in labels_of(apart) if c in of) for c in net.classes}
    chance = {c: max(of.values()) / of.total() for c, of in count.items() if of}
    made = {
        "data": trained.path.name,
        "images": len(trained),
        "held_out": len(apart),
        "parameters": sum(p.numel() for p in net.parameters()),
        "steps": args.steps,
        "batch": args.batch,
        "seconds": seconds,
        "device": f"CPU, {torch.get_num_threads()} threads"
        if device.type == "cpu"
        else device_name(device),
        "command": "python -m train.folder_classifier "
        f"--data {args.data} --columns {' '.join(args.columns)} --size {args.size} "
        f"--steps {args.steps} --batch {args.batch} --rate {args.rate} --seed {args.seed} "
        f"--out {args.out}",
    }
    with atomic_directory(args.out) as folder:
        save_folder_classifier(net, folder, {**found, "made": made})
        (folder / "README.md").write_text(card(net, found, made, chance))
    for name, row in found["accuracy"]["all"].items():
        print(
            f"{name}: {row['right']} of {row['n']} correct ({row['share']:.1%}, 95 % interval "
            f"{row['low']:.1%} to {row['high']:.1%})"
        )
    print(f"{args.out} ({seconds} s of training)")


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the folder, as `train.train` has them."""
    parser.add_argument(
        "--held-out",
        type=number(0, 0.9),
        default=0,
        metavar="SHARE",
        help="test on this share of the images (default: on the folder's split `test`)",
    )
    parser.add_argument("--fit", choices=FITS, default="crop", help="(default: crop)")
    parser.add_argument("--background", type=color, default="white", help="(default: white)")
    parser.add_argument("--data-cache", type=Path, help="where prepared images are kept")


def open_both(args: argparse.Namespace) -> tuple[ImageFolderDataset, ImageFolderDataset]:
    """The images to train on, and those to test on.

    Raises:
        ValueError: Nothing is held out, or there is no such column.
    """
    options = {
        "cache": args.data_cache,
        "fit": args.fit,
        "background": args.background,
        "held_out": args.held_out,
        "label_columns": args.columns,
    }
    trained = open_dataset(args.data, (args.size,), skip_broken=True, **options)
    try:
        apart = open_dataset(args.data, (args.size,), skip_broken=True, part="held_out", **options)
    except FileNotFoundError as error:
        raise ValueError(
            f"{args.data} has no split that is held out, to test on; hold out a share of it: "
            "--held-out 0.1"
        ) from error
    assert isinstance(trained, ImageFolderDataset) and isinstance(apart, ImageFolderDataset)
    return trained, apart


if __name__ == "__main__":
    run_script(main)
