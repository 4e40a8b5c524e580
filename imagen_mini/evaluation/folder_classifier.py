"""A small classifier of what the metadata of a folder says of its images, such as style and tone.

It tells whether a generated image shows what its caption names. It is trained on the folder itself
(`train.folder_classifier`), so it knows these images and no others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imagen_mini.data.metadata import NO_VALUE
from imagen_mini.evaluation.statistics import wilson_interval

Labels = Mapping[str, Sequence[str]]  # of an image: values that fit, by column
CONFIG, WEIGHTS_FILE = "config.json", "model.safetensors"
WIDTHS = (48, 64, 128)
CELLS = 32  # of a side, after the first layer
LEAST_SHARE, LEAST = 0.01, 10  # of the images must have a value, and as many in any case
IGNORED = -100  # the target of an image whose value is no class


def find_classes(labels: Sequence[Labels], columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Find the values of some columns that are frequent enough to be learnt.

    Args:
        labels: Of each image.
        columns: The columns.

    Returns:
        For each column its values that at least 1 % of the images have alone, and at least 10 of
        them; the commonest first.

    Raises:
        ValueError: A column has fewer than two such values.
    """
    classes = {}
    for column in columns:
        count = Counter(of[column][0] for of in labels if len(of.get(column, ())) == 1)
        least = max(LEAST, LEAST_SHARE * len(labels))
        frequent = [value for value, n in count.most_common() if n >= least]
        if len(frequent) < 2:
            raise ValueError(
                f"column {column!r} has {len(frequent)} values that at least {least:.0f} of the "
                f"{len(labels):,} images have; expected 2 or more, in each row of the metadata"
            )
        classes[column] = tuple(frequent)
    return classes


def label_targets(labels: Sequence[Labels], classes: Mapping[str, Sequence[str]]) -> Tensor:
    """Turn labels into numbers of classes.

    Args:
        labels: Of each image.
        classes: The classes of each column.

    Returns:
        [n, columns], int64; `IGNORED` where an image has several values, none, or one that is no
        class.
    """
    number = {column: {v: i for i, v in enumerate(of)} for column, of in classes.items()}
    return torch.tensor(
        [
            [
                number[column].get(values[0], IGNORED) if len(values) == 1 else IGNORED
                for column in classes
                for values in [of.get(column, ())]
            ]
            for of in labels
        ]
    ).view(len(labels), len(classes))


class FolderClassifier(nn.Module):
    """Images [b, 3, h, w] in [-1, 1] -> logits [b, classes] of each column.

    Images of another size than `size` are resized to it first.

    Args:
        classes: The classes of each column.
        size: Pixels of a side, a multiple of 32 (default: 64).

    Raises:
        ValueError: for another size.
    """

    def __init__(self, classes: Mapping[str, Sequence[str]], size: int = 64):
        super().__init__()
        if size % CELLS or size < CELLS:
            raise ValueError(f"size {size}: expected a multiple of {CELLS}")
        self.classes = {column: tuple(values) for column, values in classes.items()}
        self.size, self.patch = size, size // CELLS
        a, b, c = WIDTHS
        self.stem = nn.Conv2d(3 * self.patch**2, a, 3, padding=1)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=stride, padding=1)
            for i, o, stride in ((a, b, 2), (b, b, 1), (b, c, 2), (c, c, 1))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, conv.in_channels) for conv in self.convs)
        self.norm = nn.LayerNorm(2 * c)
        self.hidden = nn.Linear(2 * c, c)
        self.to_logits = nn.Linear(c, sum(map(len, self.classes.values())))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(
                images, (self.size, self.size), mode="bilinear", antialias=True
            ).clamp(-1, 1)
        x = self.stem(F.pixel_unshuffle(images, self.patch))
        for norm, conv in zip(self.norms, self.convs):
            x = conv(F.silu(norm(x)))
        x = F.silu(x)
        pooled = self.norm(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))
        x = F.silu(self.hidden(pooled))
        parts = self.to_logits(x).split([len(values) for values in self.classes.values()], dim=1)
        return dict(zip(self.classes, parts))

    @torch.no_grad()
    def recognize(self, images: Tensor, batch: int = 128) -> list[dict[str, str]]:
        """The likeliest value of each column, for each of the images [n, 3, h, w]."""
        device = self.stem.weight.device
        found: list[dict[str, str]] = []
        for part in images.split(batch):
            best = {name: x.argmax(1).tolist() for name, x in self(part.float().to(device)).items()}
            found += [
                {name: self.classes[name][best[name][i]] for name in best} for i in range(len(part))
            ]
        return found


def label_loss(logits: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """The cross-entropy, averaged over the images that have a class, and then over the columns.

    Args:
        logits: [b, classes] of each column.
        targets: [b, columns] of `label_targets`.
    """
    losses = [
        F.cross_entropy(x, y, ignore_index=IGNORED, reduction="sum")
        / (y != IGNORED).sum().clamp(min=1)
        for x, y in zip(logits.values(), targets.T)
    ]
    return torch.stack(losses).mean()


def score_labels(
    recognized: Sequence[Mapping[str, str]],
    labels: Sequence[Labels],
    classes: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, float]]:
    """Compare what is recognised in images with what their captions name.

    An image counts for a column if one of its values is a class. It is correct if one of its values
    is recognised.

    Args:
        recognized: From `FolderClassifier.recognize`.
        labels: Of the same images.
        classes: The classes of each column.

    Returns:
        For each column, and for "COLUMN, if named" where some images have no value, the number of
        correct images "right", that of all "n", their share, and the ends of its 95 % interval.
    """
    found = {}
    for column, values in classes.items():
        verdicts = [
            (told[column] in of[column], NO_VALUE not in of[column])
            for told, of in zip(recognized, labels)
            if set(of.get(column, ())) & set(values)
        ]
        groups = {column: [right for right, _ in verdicts]}
        if NO_VALUE in values:
            groups[f"{column}, if named"] = [right for right, named in verdicts if named]
        for name, of_group in groups.items():
            low, high = wilson_interval(sum(of_group), len(of_group))
            share = sum(of_group) / len(of_group) if of_group else 0.0
            found[name] = {
                **{"right": sum(of_group), "n": len(of_group)},
                **{"share": share, "low": low, "high": high},
            }
    return found


def confusions(
    recognized: Sequence[Mapping[str, str]], labels: Sequence[Labels], column: str
) -> list[tuple[str, str, int]]:
    """Which value is taken for which other one, and how often, the most frequent first."""
    count = Counter(
        (of[column][0], told[column])
        for told, of in zip(recognized, labels)
        if len(of.get(column, ())) == 1 and told[column] != of[column][0]
    )
    return [(true, told, n) for (true, told), n in count.most_common()]


def save_folder_classifier(net: FolderClassifier, folder: Path, more: dict | None = None) -> None:
    """Write a classifier into a folder that is there.

    Args:
        net: The classifier.
        folder: The folder.
        more: What else config.json says, for example its accuracy.
    """
    weights = {name: v.detach().cpu().contiguous() for name, v in net.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    config = {"size": net.size, "classes": net.classes, **(more or {})}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n")


def load_folder_classifier(folder: str | Path) -> tuple[FolderClassifier, dict]:
    """Load a classifier, frozen.

    Args:
        folder: Of `save_folder_classifier`.

    Returns:
        The classifier, and what its config.json says.

    Raises:
        FileNotFoundError: The folder has no classifier.
        ValueError: Its files are not those of one.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} has no {CONFIG} and {WEIGHTS_FILE}; expected the folder of a classifier: "
            f"python -m train.folder_classifier --data FOLDER --out {folder}"
        )
    try:
        config = json.loads((folder / CONFIG).read_text())
        net = FolderClassifier(config["classes"], config["size"])
        net.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{folder} holds no classifier of a folder ({type(error).__name__}: {reason}); train "
            "one with python -m train.folder_classifier"
        ) from error
    return net.eval().requires_grad_(False), config
