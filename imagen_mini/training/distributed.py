"""Several processes, one training run: torch's own DistributedDataParallel, or FSDP2 for what does
not fit on one device.

    torchrun --nproc-per-node 2 -m train.train --stage base ...

Which samples a step has, and their noise, are the same for any number of ranks; each takes its
share of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from imagen_mini.text.encoder import TextEncoder


@dataclass(frozen=True)
class DistributedContext:
    """Which of how many processes this is. Alone, nothing is sent anywhere."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, n: int) -> range:
        """This rank's part of n things: parts follow one another, and differ in length by at most
        1.
        """
        return range(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all ranks' values, on each of them."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device | str = "cpu") -> bool:
        """Whether any rank says so."""
        return (
            self.sum(torch.tensor(float(flag), device=device)).item() > 0
            if self.world > 1
            else flag
        )


SINGLE_PROCESS = DistributedContext()


@contextmanager
def init_distributed(
    device: str, timeout: float = 600.0
) -> Iterator[tuple[DistributedContext, torch.device]]:
    """This process's place among those that torchrun started, and its device; without torchrun,
    alone on `device`.

    A rank that waits for another for longer than `timeout` seconds raises; torchrun then ends them
    all.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield SINGLE_PROCESS, torch.device(device)
        return
    if cuda := torch.device(device).type == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=timeout))
    yield DistributedContext(dist.get_rank(), dist.get_world_size()), torch.device(device)
    # not after an error: the others may be waiting in the middle of something
    dist.destroy_process_group()


def wrap_ddp(stage: nn.Module, ranks: DistributedContext) -> nn.Module:
    """The stage, so that its backward pass averages gradients over ranks. Alone, or sharded: as it
    is.
    """
    if ranks.world == 1 or isinstance(stage.net, FSDPModule):
        return stage
    return DistributedDataParallel(stage, broadcast_buffers=False)


def no_grad_sync(model: nn.Module, on: bool):
    """Within this, if `on`, backward passes add up gradients and do not yet exchange them."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync() if on else nullcontext()
    if isinstance(model.net, FSDPModule):
        model.net.set_requires_gradient_sync(not on)
    return nullcontext()


# ---------------------------------------------------------------- sharded: each rank holds a part of every tensor


def shard_fsdp(stage: nn.Module, encoder: TextEncoder, device: torch.device) -> None:
    """Spread weights, gradients and (as they are made after it) optimizer state and average over
    the ranks' devices, in place, by FSDP2.

    Takes them on the CPU and moves them block by block, so that no device ever holds all. A stack
    of blocks, or a block of the text encoder, is gathered when its turn comes, and let go after it.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for net, parts in (
        (stage.net, stage.net.levels()),
        (encoder.model, encoder.model.encoder.block),
    ):
        for part in (*parts, net):
            fully_shard(part, mesh=mesh)


def full_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with sharded tensors gathered. All ranks must call it together."""
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in tensors.items()
    }


def distribute_like(full: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, placed (and sharded) as another one of its shape is."""
    if isinstance(like, DTensor):
        return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)
    return full.to(like.device)
