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
from imagen_mini.data.metadata import describe_form, read_metadata
from imagen_mini.data.prepared import check_broken, may_be_skipped, prepare
from imagen_mini.utils.rng import generator


class ImageFolderDataset:
    """A captioned image folder (see `data.metadata`) as a data set.

    Images are cropped to their central squares and resized once, to each of `sizes`. Every image
    is seen once an epoch, in a new random order each time. Prepared images are kept until the
    images change. Captions are read afresh.

    Args:
        path: The folder.
        sizes: Pixels of a side, of all the images that will be asked for.
        seed: Of the order, and of the choice among several captions.
        skip_broken: Leave images out that cannot be read or have no caption, up to 1 %.
        cache: The prepared images are kept in a subfolder of this one. None: `path/.prepared`.
        progress: Show a progress bar while images are prepared.
        caption_column: Where the captions stand. None: in the first of
            `metadata.CAPTION_COLUMNS`.

    Raises:
        FileNotFoundError: There is no such folder, or there are no captions in it.
        ValueError: The captions cannot be used.
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
    ):
        self.path, self.seed, self.caption_column = Path(path).resolve(), seed, caption_column
        rows, problems = read_metadata(self.path, caption_column)
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
        prepared = prepare(
            rows,
            self.path / ".prepared" if cache is None else Path(cache, subfolder),
            sizes,
            skip_broken,
            progress,
            problems,
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
        contents = [(prepared.checksums[i], self.captions[i]) for i in self.rows]
        self.fingerprint = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.rows)

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
        """Name, number of images, and a fingerprint of the images and captions."""
        return {
            "source": "folder",
            "name": self.path.name,
            "images": len(self),
            "fingerprint": self.fingerprint,
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
