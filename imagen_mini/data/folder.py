"""A folder of one's own captioned images as a data set."""

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
from imagen_mini.data.metadata import read_metadata
from imagen_mini.data.prepared import prepare
from imagen_mini.utils.rng import generator


class ImageFolderDataset:
    """A captioned image folder (see `image_folder`), its images cropped to their central squares
    and resized once, at each of `sizes`.

    Every image is seen once an epoch, in an order drawn anew for each. What is prepared is kept
    until the images change: in `path/.prepared`, or in a subfolder of `cache`. Captions are read
    afresh.

    Raises ValueError for bad metadata and PictureError for an image that cannot be read; with
    `skip_broken` such images are left out, up to 1 %.
    """

    def __init__(
        self,
        path: str | Path,
        sizes: Sequence[int],
        seed: int = 0,
        skip_broken: bool = False,
        cache: str | Path | None = None,
        progress: bool = True,
    ):
        self.path, self.seed = Path(path).resolve(), seed
        rows, problems = read_metadata(self.path)
        if problems or not rows:
            raise ValueError(
                f"{self.path}: {len(problems)} of {len(rows) + len(problems)} rows cannot be "
                "used"
                + "".join(f"\n  {p}" for p in problems[:5])
                + f"\nAll problems: python -m train.check_dataset {self.path}"
            )
        subfolder = f"{self.path.name}-{hashlib.sha256(bytes(self.path)).hexdigest()[:8]}"
        prepared = prepare(
            rows,
            self.path / ".prepared" if cache is None else Path(cache, subfolder),
            sizes,
            skip_broken,
            progress,
        )
        self.images, self.broken = prepared.images, prepared.broken
        # of the prepared images, those that are there
        self.rows = [i for i in range(len(rows)) if i not in self.broken]
        self.captions = [row.captions for row in rows]
        contents = [(prepared.checksums[i], self.captions[i]) for i in self.rows]
        self.fingerprint = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.rows)

    def draft(
        self, numbers: Sequence[int], size: int, low: int | None = None, alternatives: bool = False
    ) -> FolderBatchPlan:
        if alternatives:
            raise ValueError(
                "only the built-in world has twins and mistakes; expected twins=0 and mistakes=0"
            )
        rows = [self.rows[epoch_row(number, len(self), self.seed)] for number in numbers]
        captions = [
            random.Random(f"caption/{self.seed}/{number}").choice(self.captions[row])
            for number, row in zip(numbers, rows)
        ]
        return FolderBatchPlan(
            self._read(rows, size), None if low is None else self._read(rows, low), captions
        )

    def _read(self, rows: list[int], size: int) -> Tensor:
        if size not in self.images:
            raise ValueError(
                f"the images of {self.path} were prepared at "
                f"{', '.join(map(str, self.images))} px, not at {size}; name it in `sizes`"
            )
        return torch.from_numpy(self.images[size][rows])

    def batch(
        self, numbers: Sequence[int], size: int, low: int | None = None, device=None
    ) -> Batch:
        return self.draft(numbers, size, low).on(device)[0]

    def describe(self) -> dict:
        return {
            "source": "folder",
            "name": self.path.name,
            "pictures": len(self),
            "fingerprint": self.fingerprint,
        }


class FolderBatchPlan(NamedTuple):
    images: Tensor  # uint8 [b, size, size, 3]
    low_res: Tensor | None
    captions: list[str]

    def on(self, device) -> tuple[Batch, None]:
        images, low_res = (
            None
            if x is None
            else x.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1
            for x in self[:2]
        )
        return Batch(images, low_res, self.captions), None


def epoch_row(number: int, n: int, seed: int) -> int:
    """Which of `n` images sample `number` of the endless sequence is: each epoch is a permutation
    of its own.
    """
    epoch, place = divmod(number, n)
    return _permutation(n, seed, epoch)[place]


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(n, generator=generator(seed, "order", epoch)).tolist()
