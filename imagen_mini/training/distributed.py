"""Several processes, one training run: torch's DistributedDataParallel, or FSDP2 for what does not
fit on one device.

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
    """Which of how many processes this is. A single process sends nothing anywhere."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def share(self, n: int) -> range:
        """This rank's share of n items. Shares are consecutive and of nearly equal length."""
        return range(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all ranks' values, on each of them."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device | str = "cpu") -> bool:
        """Whether the flag is set on any rank."""
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
    """This process's place among those that torchrun started, and its device.

    Args:
        device: "cpu" or "cuda"; with several GPUs each process takes its own.
        timeout: A rank that waits for another for longer than so many seconds raises; torchrun then
            ends them all.

    Yields:
        Rank and number of processes (without torchrun: a single one), and the device.
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
    """The stage, such that its backward pass averages gradients over ranks. A single process's
    stage, or a sharded one, is returned unchanged.
    """
    if ranks.world == 1 or isinstance(stage.net, FSDPModule):
        return stage
    return DistributedDataParallel(stage, broadcast_buffers=False)


def no_grad_sync(model: nn.Module, on: bool):
    """Within this context, if `on`, backward passes add up gradients without exchanging them."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync() if on else nullcontext()
    if isinstance(model.net, FSDPModule):
        model.net.set_requires_gradient_sync(not on)
    return nullcontext()


# ---------------------------------------------------------------- sharded over the ranks


def shard_fsdp(stage: nn.Module, encoder: TextEncoder, device: torch.device) -> None:
    """Spread weights, gradients, optimizer state and average over the ranks' devices, in place, by
    FSDP2. Optimizers and average must be made after this.

    Weights move from the CPU block by block, so that no device ever holds all. A level of the
    U-Net, or a block of the text encoder, is gathered when it is computed, and freed after it.

    Args:
        stage: On the CPU.
        encoder: On the CPU.
        device: This rank's device.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # whatever a model calls its blocks, they are its first list of modules
    blocks = next(m for m in encoder.model.modules() if isinstance(m, nn.ModuleList))
    for net, parts in ((stage.net, stage.net.levels()), (encoder.model, blocks)):
        for part in (*parts, net):
            fully_shard(part, mesh=mesh)


def full_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with sharded ones gathered. All ranks must call it together."""
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in tensors.items()
    }


def distribute_like(full: Tensor, like: Tensor) -> Tensor:
    """An unsharded tensor, placed (and sharded) like another one of its shape."""
    if isinstance(like, DTensor):
        return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)
    return full.to(like.device)
