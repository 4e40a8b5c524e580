"""A folder of captioned images as a data set."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from imagen_mini.data.base import Batch
from imagen_mini.data.held_out import rows_held_out
from imagen_mini.data.metadata import describe_form, read_metadata
from imagen_mini.data.prepared import FITS, SquareFit, check_broken, may_be_skipped, prepare
from imagen_mini.utils.images import hex_color
from imagen_mini.utils.rng import generator

PARTS = ("train", "held_out")
OF_THE_SAMPLES = ("fit", "background", "held_out")  # options that change what is trained on


class ImageFolderDataset:
    """A captioned image folder (see `data.metadata`) as a data set.

    Images are cropped to their central squares, or padded to squares, and resized once, to each of
    `sizes`. Every image is seen once an epoch, in a new random order each time. Prepared images are
    kept until the images change; then the changed ones are prepared. Captions are read afresh.

    Args:
        path: The folder.
        sizes: Pixels of a side, of all the images that will be asked for.
        seed: Of the order, and of the choice among several captions.
        skip_broken: Leave images out that cannot be read or have no caption, up to 1 %.
        cache: The prepared images are kept in a subfolder of this one. None: `path/.prepared`.
        progress: Show a progress bar while images are prepared.
        caption_column: Where the captions stand. None: in the first of
            `metadata.CAPTION_COLUMNS`.
        fit: How an image becomes a square: "crop" (default) or "pad", see `prepared.SquareFit`.
        background: The colour that transparent pixels are put on, and that of bars.
        held_out: This share of the images is no part of the data set, see `rows_held_out`. 0: all
            of them are.
        part: "train" (default). "held_out": instead the images held out; with `held_out` 0 those
            of the folder's other splits (test, validation).
        label_columns: Further columns of the metadata, which `labels` returns. They change no
            sample.

    Raises:
        FileNotFoundError: There is no such folder, or there are no captions in it.
        ValueError: The captions cannot be used, or an argument is none of those above.
        ImageError: An image cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        sizes: Sequence[int],
        seed: int = 0,
        skip_broken: bool = False,
        cache: str | Path | None = None,
        progress: bool = True,
        caption_column: str | None = None,
        fit: str = "crop",
        background: str = "white",
        held_out: float = 0.0,
        part: str = "train",
        label_columns: Sequence[str] = (),
    ):
        for name, value, known in (("fit", fit, FITS), ("part", part, PARTS)):
            if value not in known:
                raise ValueError(f"{name} {value!r}; expected {' or '.join(map(repr, known))}")
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out {held_out}; expected a share from 0 to below 1")
        self.path, self.seed, self.part = Path(path).resolve(), seed, part
        # what else is needed to open it again, where it is not the default
        self.fit = SquareFit(fit, hex_color(background))
        self.options = {
            name: value
            for name, value, default in (
                ("caption_column", caption_column, None),
                ("cache", None if cache is None else str(Path(cache).resolve()), None),
                ("skip_broken", skip_broken, False),
                ("fit", fit, "crop"),
                ("background", self.fit.background, SquareFit().background),
                ("held_out", held_out, 0),
            )
            if value != default
        }
        rows, problems = read_metadata(
            self.path, caption_column, part == "held_out" and not held_out, label_columns
        )
        if not rows or problems and not skip_broken:
            limit = may_be_skipped(len(rows) + len(problems)) if rows else 0
            raise ValueError(
                f"{self.path}: {len(problems)} of {len(rows) + len(problems)} rows cannot be "
                "used"
                + "".join(f"\n  {p}" for p in problems[:5])
                + f"\nAll problems: python -m train.check_dataset {self.path}"
                + (f"; to leave out up to {limit} of them: --skip-broken" if limit else "")
            )
        check_broken(problems, len(rows) + len(problems), skip_broken)
        subfolder = f"{self.path.name}-{hashlib.sha256(bytes(self.path)).hexdigest()[:8]}"
        place = self.path / ".prepared" if cache is None else Path(cache, subfolder)
        if part == "held_out" and not held_out:
            place /= part  # other images than those of the training split
        prepared = prepare(
            rows,
            place,
            sizes,
            skip_broken,
            progress,
            problems,
            self.fit,
        )
        self.images, self.broken = prepared.images, prepared.broken
        self.form = describe_form(rows)
        # what is wrong with the images that are left out
        self.left_out = [*problems, *self.broken.values()]
        # of the prepared images, those that are there
        self.rows = [i for i in range(len(rows)) if i not in self.broken]
        if not self.rows:
            raise ValueError(f"{self.path}: not one image can be used")
        self.captions = [row.captions for row in rows]
        self.reasons = {i: row.reason for i, row in enumerate(rows) if row.reason}
        self.row_labels = [row.labels for row in rows]
        self.apart = 0  # how many images are held out
        if held_out:
            apart = rows_held_out(
                [self.captions[i] for i in self.rows],
                [prepared.checksums[i] for i in self.rows],
                held_out,
            )
            self.apart, wanted = len(apart), part == "held_out"
            self.rows = [i for at, i in enumerate(self.rows) if (at in apart) == wanted]
        self.shapes = prepared.shapes
        contents = [(prepared.checksums[i], self.captions[i]) for i in self.rows]
        self.fingerprint = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.rows)

    def reason(self, index: int) -> str | None:
        """Why the image of a sample is held out of training, if the folder's metadata says it."""
        return self.reasons.get(self.rows[epoch_row(index, len(self), self.seed)])

    def labels(self, index: int) -> dict[str, tuple[str, ...]]:
        """What the metadata says that the image of a sample shows, by the columns asked for: one
        value, or several that fit it equally well.
        """
        return self.row_labels[self.rows[epoch_row(index, len(self), self.seed)]]

    def enlarged(self, size: int) -> int:
        """How many images are smaller than `size` pixels and therefore enlarged; 0 where this is
        not known.
        """
        return sum(self.fit.side(*self.shapes[i]) < size for i in self.rows if self.shapes)

    def plan(
        self, indices: Sequence[int], size: int, low_res_size: int | None = None
    ) -> FolderBatchPlan:
        """Read the bytes of the images, and choose captions."""
        rows = [self.rows[epoch_row(index, len(self), self.seed)] for index in indices]
        captions = [
            random.Random(f"caption/{self.seed}/{index}").choice(self.captions[row])
            for index, row in zip(indices, rows)
        ]
        low_res = None if low_res_size is None else self._read(rows, low_res_size)
        return FolderBatchPlan(self._read(rows, size), low_res, captions)

    def _read(self, rows: list[int], size: int) -> Tensor:
        if size not in self.images:
            raise ValueError(
                f"the images of {self.path} were prepared at "
                f"{', '.join(map(str, self.images))} px, not at {size}; name it in `sizes`"
            )
        return torch.from_numpy(self.images[size][rows])

    def batch(
        self, indices: Sequence[int], size: int, low_res_size: int | None = None, device=None
    ) -> Batch:
        """The samples with these indices (see `base.Dataset`)."""
        return self.plan(indices, size, low_res_size).materialize(device)[0]

    def describe(self) -> dict:
        """Name, number of images, a fingerprint of the images and captions, and what else the
        samples depend on, where it is not the default.
        """
        said = {name: v for name, v in self.options.items() if name in OF_THE_SAMPLES}
        return {
            "source": "folder",
            "name": self.path.name,
            "images": len(self),
            "fingerprint": self.fingerprint,
            **({} if self.part == "train" else {"part": self.part}),
            **said,
        }


class FolderBatchPlan(NamedTuple):
    """Images as bytes, and their captions."""

    images: Tensor  # uint8 [b, size, size, 3]
    low_res: Tensor | None
    captions: list[str]

    def materialize(self, device) -> tuple[Batch, None]:
        """Move the bytes to `device` and make images in [-1, 1] of them."""
        images, low_res = (
            None
            if x is None
            else x.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1
            for x in self[:2]
        )
        return Batch(images, low_res, self.captions), None


def epoch_row(index: int, n: int, seed: int) -> int:
    """Which of `n` images the sample `index` of the endless sequence is. Each epoch is another
    permutation.
    """
    epoch, place = divmod(index, n)
    return _permutation(n, seed, epoch)[place]


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(n, generator=generator(seed, "order", epoch)).tolist()
