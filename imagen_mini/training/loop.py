"""The training loop, as a generator: `for state in train(...)` may log, sample, save, or stop at
any step.

Nothing random is kept between steps. A sample is a function of its index. Its noise level and
whether its text is dropped are functions of the step. Its noise is again a function of its index.
So neither resuming nor the number of processes changes anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.base import Dataset
from imagen_mini.data.datasets import open_dataset
from imagen_mini.diffusion.losses import LOSS_WEIGHTS
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder
from imagen_mini.training.batches import loss_inputs
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.cuda_graphs import graphed
from imagen_mini.training.distributed import (
    SINGLE_PROCESS,
    DistributedContext,
    full_tensors,
    no_grad_sync,
    wrap_ddp,
)
from imagen_mini.training.ema import EMA
from imagen_mini.utils.precision import compute_dtype

NOISE_BINS = 10  # equal parts of t in [0, 1], by which losses are binned


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step: linear warm-up, then one of three schedules.

    "cooldown" is constant, then linear to 0 over the last `cooldown` of all steps. "cosine" falls
    to 0 by half a cosine. "constant" stays.

    Args:
        config: The training settings.
        step: The step, from 0.

    Reference:
        Imagen (Saharia et al., 2022), arXiv 2205.11487, Appendix F: the cosine, with 10,000 steps
        of warm-up out of 2,500,000.
    """
    warmup = min(1.0, (step + 1) / max(1, config.warmup))
    if config.lr_schedule == "constant":
        return config.learning_rate * warmup
    if config.lr_schedule == "cosine":
        progress = (step - config.warmup) / max(1, config.steps - config.warmup)
        cosine = math.cos(math.pi * min(1.0, max(0.0, progress)))
        return config.learning_rate * warmup * 0.5 * (1 + cosine)
    left = (config.steps - step) / max(1.0, config.cooldown * config.steps)
    return config.learning_rate * min(warmup, max(0.0, left))


def update_weights(
    stage: DiffusionStage,
    optimizers: dict[str, torch.optim.Optimizer],
    ema: EMA,
    step: int,
    rate: float,
    max_grad_norm: float,
    loss: float,
) -> float:
    """The end of a training step: clip the gradients, update the weights, then their average.

    Args:
        stage: The stage; the backward pass has left gradients in its parameters.
        optimizers: From `make_optimizers`.
        ema: The average of the stage's weights.
        step: The step, from 0.
        rate: The learning rate of this step, for all optimizers.
        max_grad_norm: Gradients are scaled down together, where their common norm exceeds this.
        loss: The mean loss of the step.

    Returns:
        The norm of all gradients before clipping.

    Raises:
        FloatingPointError: The norm or the loss is not finite. Weights and average stay as they
            were.
    """
    # 1. clip, and refuse a gradient or a loss that is not finite
    norm = torch.nn.utils.clip_grad_norm_(stage.parameters(), max_grad_norm)
    norm = float(full_tensors({"norm": norm})["norm"])
    if not math.isfinite(norm) or not math.isfinite(loss):
        raise FloatingPointError(
            f"step {step} of stage {stage.config.name}: loss {loss}, gradient norm {norm} at "
            f"learning rate {rate:g}; the weights were left as they were. A lower learning_rate "
            "is the usual cure"
        )
    # 2. update the weights, and their average
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    ema.update(step + 1)
    return norm


@dataclass(frozen=True)
class TrainState:
    """What the loop yields after each step. Losses are those of the full batch, on every rank."""

    step: int  # steps done
    loss: float  # mean weighted loss of the step
    gradient_norm: float  # before clipping
    learning_rate: float
    loss_sums_by_bin: list[float]  # by noise level, in NOISE_BINS bins: the sum of the losses,
    counts_by_bin: list[int]  # and of how many samples
    # seconds that this rank waited for its inputs; with a CUDA graph, what prefetching left of it
    data_wait_seconds: float


def train(
    stage: DiffusionStage,
    encoder: TextEncoder,
    config: TrainConfig,
    optimizers: dict[str, torch.optim.Optimizer],
    ema: EMA,
    start: int = 0,
    data: Dataset | None = None,
    ranks: DistributedContext = SINGLE_PROCESS,
    cuda_graph: bool = False,
) -> Iterator[TrainState]:
    """Train a stage, from step `start` to `config.steps`.

    Args:
        stage: The stage, on the device to train on.
        encoder: The text encoder, on the same device.
        config: The training settings.
        optimizers: From `make_optimizers`.
        ema: The average of the stage's weights; updated after each step.
        start: Steps already done.
        data: The data set. None: the built-in world.
        ranks: This process among those that train together.
        cuda_graph: Record a step's kernels once and replay them, on one GPU (see `cuda_graphs`).

    Yields:
        The state after each step.

    Raises:
        ValueError: The settings do not fit together.
        FloatingPointError: The gradient or the loss is not finite. It is raised before the update,
            on all ranks together.
        RuntimeError: A process that reads data has died.
    """
    device, b = next(stage.parameters()).device, config.batch_size
    _check_settings(config, ranks, device, cuda_graph)
    stage.train()
    stage.net.enable_gradient_checkpointing(config.gradient_checkpointing)
    model = wrap_ddp(stage, ranks)
    dtype = compute_dtype(config.precision, device)
    if data is None:
        weights = config.object_count_weights
        data = open_dataset(None, (), config.seed, weights, world=stage.config.world)

    # this rank's share of every batch, in micro-batches
    rank_share, n = ranks.share(b), config.gradient_accumulation_steps
    micro_batches = [
        rank_share[p[0] : p[-1] + 1] for p in torch.arange(len(rank_share)).tensor_split(n)
    ]

    def weight(log_snr: Tensor) -> Tensor:
        return LOSS_WEIGHTS[config.loss_weight](log_snr, config.loss_cap)

    def forward_and_backward(of: dict[str, Tensor]) -> Tensor:
        """The losses of a micro-batch. Gradients stay in the parameters; ranks average them."""
        of = dict(of)
        text = TextEmbeddings(of.pop("emb"), of.pop("mask"))
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = model(text=text, weight=weight, **of)
        (losses.sum() * (ranks.world / b)).backward()
        return losses.detach()

    inputs = loss_inputs(data, encoder, stage, config, micro_batches, start, device, cuda_graph)
    if cuda_graph:
        forward_and_backward, inputs = graphed(
            forward_and_backward, inputs, list(stage.parameters())
        )

    for step in range(start, config.steps):
        # 1. gradients of the batch: x_0 -> x_t -> prediction -> loss, for each micro-batch
        stage.zero_grad(set_to_none=True)
        bins, data_wait_seconds = torch.zeros(2, NOISE_BINS, device=device), 0.0
        for i in range(len(micro_batches)):
            began = time.perf_counter()
            micro_batch = next(inputs)
            data_wait_seconds += time.perf_counter() - began
            with no_grad_sync(model, i < len(micro_batches) - 1):
                losses = forward_and_backward(micro_batch)
            _add_to_bins(bins, micro_batch["t"], losses)
        loss_sums, counts = ranks.sum(bins).tolist()
        # 2. the update, at this step's learning rate
        rate, loss = learning_rate(config, step), sum(loss_sums) / b
        norm = update_weights(stage, optimizers, ema, step, rate, config.max_grad_norm, loss)
        yield TrainState(
            step=step + 1,
            loss=loss,
            gradient_norm=norm,
            learning_rate=rate,
            loss_sums_by_bin=loss_sums,
            counts_by_bin=[int(count) for count in counts],
            data_wait_seconds=data_wait_seconds,
        )


def _check_settings(
    config: TrainConfig, ranks: DistributedContext, device: torch.device, cuda_graph: bool
) -> None:
    """Raise ValueError if the settings do not fit the processes or the device."""
    b, n = config.batch_size, config.gradient_accumulation_steps
    if b < ranks.world * n:
        raise ValueError(
            f"a batch of {b} cannot be shared out among {ranks.world} ranks in "
            f"{n} parts each: raise batch_size"
        )
    if cuda_graph and (device.type != "cuda" or ranks.world > 1 or n > 1):
        raise ValueError(
            "a CUDA graph of a step needs one GPU and gradient_accumulation_steps=1; this is "
            f"{ranks.world} x {device.type} with gradient_accumulation_steps={n}"
        )


def _add_to_bins(bins: Tensor, t: Tensor, losses: Tensor) -> None:
    """Add losses [b] at times t [b] to the sums and counts by noise level, bins [2, NOISE_BINS]."""
    i = (t * NOISE_BINS).long().clamp(max=NOISE_BINS - 1)
    losses = losses.float()
    bins.index_add_(1, i, torch.stack([losses, torch.ones_like(losses)]))
