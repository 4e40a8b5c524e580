"""The protocol of data sets, and what they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Batch(NamedTuple):
    images: Tensor  # [b, 3, size, size] in [-1, 1]
    low_res: Tensor | None  # [b, 3, low, low], the same images smaller; for super-resolution
    captions: list[str]


class Alternatives(NamedTuple):
    """For each image two others, or itself where there is none of a kind."""

    twins: Tensor  # [b, 3, size, size]; its caption describes this as well (see `scenes.twins`)
    # [b, 1, size, size]: 1 on the side of the first of the two places in which these differ, else 0
    side: Tensor
    # [b, 3, size, size]; its caption says that this is wrong (see `scenes.mistakes`)
    mistaken: Tensor


class BatchPlan(Protocol):
    """A batch whose images are still to be made. Small, and may be pickled."""

    captions: list[str]

    def on(self, device) -> tuple[Batch, Alternatives | None]:
        """Make them."""


class Dataset(Protocol):
    """What a training loop needs to know of its data."""

    def batch(
        self, numbers: Sequence[int], size: int, low: int | None = None, device=None
    ) -> Batch:
        """The samples of these numbers, at `size` pixels, and at `low` pixels unless that is None."""

    def describe(self) -> dict:
        """Where the data comes from, for JSON: equal descriptions mean equal samples (of equal
        seeds).
        """


class ReadyBatch(Batch):
    """The draft of data that has none of its own."""

    def on(self, device) -> tuple[Batch, None]:
        images, low_res = (None if x is None else x.to(device, non_blocking=True) for x in self[:2])
        return Batch(images, low_res, self.captions), None


def plan_batch(
    data: Dataset,
    numbers: Sequence[int],
    size: int,
    low: int | None = None,
    alternatives: bool = False,
) -> BatchPlan:
    """The draft of the samples of these numbers, perhaps with alternatives; of data that has no
    drafts, the batch itself.
    """
    return (
        data.draft(numbers, size, low, alternatives)
        if hasattr(data, "draft")
        else ReadyBatch(*data.batch(numbers, size, low))
    )
