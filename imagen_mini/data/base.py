"""The protocol of data sets. To train on other data, write a class with `batch` and `describe`;
the rest of the protocol is optional.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Images with their captions."""

    images: Tensor  # [b, 3, size, size] in [-1, 1]
    low_res: Tensor | None  # [b, 3, low, low], the same images smaller; for super-resolution
    captions: list[str]


class BatchPlan(Protocol):
    """A batch whose images are still to be made. It is small and can be pickled, so another
    process may decide what is in a batch, and the device that needs the images makes them.
    """

    captions: list[str]

    def materialize(self, device) -> tuple[Batch, Any]:
        """Make the images on `device`.

        Returns:
            The batch, and what the `LossExtras` of the data set need beside it (else None).
        """


class LossExtras(Protocol):
    """Further inputs of the loss that a data set may have. The built-in world trains on mixtures
    of images with them (see `data.alternatives`).
    """

    def draw(
        self, batch_size: int, generator: torch.Generator, dropped: Tensor
    ) -> dict[str, Tensor]:
        """What is random about them in one step, as named tensors [batch_size, ...].

        Args:
            batch_size: Samples of the step, over all ranks.
            generator: The generator of this step.
            dropped: Bool [batch_size], the samples whose caption is dropped.
        """

    def loss_inputs(
        self, x_0: Tensor, extra: Any, variables: dict[str, Tensor], log_snr: Tensor
    ) -> dict[str, Tensor]:
        """Keyword arguments for `DiffusionStage.loss`.

        Args:
            x_0: Images [b, 3, h, w].
            extra: What `BatchPlan.materialize` returned beside the batch.
            variables: The step's random variables, among them those from `draw`, [b, ...].
            log_snr: [b].
        """


class Dataset(Protocol):
    """What training needs to know of its data: two methods.

    A data set may have further members:
        plan(indices, size, low_res_size): a `BatchPlan`, cheap to make in another process. With
            `alternatives=True` it also prepares what the data set's `LossExtras` need.
        loss_extras(settings, super_resolution): `LossExtras`, or None where the training settings
            ask for none.
        has_parser: True if `scenes.parse` can read the images, so that samples get a score.
        path: The folder with the files. A checkpoint remembers it.
    """

    def batch(
        self, indices: Sequence[int], size: int, low_res_size: int | None = None, device=None
    ) -> Batch:
        """The samples with these indices.

        Args:
            indices: Any numbers from 0; the sequence of samples has no end.
            size: Pixels of a side of `Batch.images`.
            low_res_size: Pixels of a side of `Batch.low_res`. None: there is none.
            device: Where the images are made. None: the CPU.
        """

    def describe(self) -> dict:
        """Where the data comes from, for JSON. Equal descriptions mean equal samples (with equal
        seeds).
        """


class ReadyBatch(Batch):
    """The plan of a data set that makes no plans: the batch itself."""

    def materialize(self, device) -> tuple[Batch, None]:
        images, low_res = (None if x is None else x.to(device, non_blocking=True) for x in self[:2])
        return Batch(images, low_res, self.captions), None


def plan_batch(
    data: Dataset,
    indices: Sequence[int],
    size: int,
    low_res_size: int | None = None,
    alternatives: bool = False,
    contradicted: Sequence[bool] | None = None,
) -> BatchPlan:
    """The plan of the samples with these indices; for a data set without plans, the batch itself.

    Args:
        data: The data set.
        indices: Indices of samples.
        size: Pixels of a side.
        low_res_size: Pixels of a side of the low-resolution images. None: there are none.
        alternatives: Also prepare what the data set's `LossExtras` need.
        contradicted: Which samples need a contradiction (default: all).
    """
    if not hasattr(data, "plan"):
        return ReadyBatch(*data.batch(indices, size, low_res_size))
    if not alternatives:
        return data.plan(indices, size, low_res_size)
    return data.plan(indices, size, low_res_size, alternatives=True, contradicted=contradicted)
