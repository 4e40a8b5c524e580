"""The training loop, as a generator: `for state in train(...)` may log, draw, save, or stop at any
step.

Nothing random is kept between steps. What a sample is, is a function of its number; when it is
noised and whether its text is dropped, of the step; its noise, of its number again. So neither
resuming nor the number of processes changes anything.
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
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.diffusion.losses import LOSS_WEIGHTS
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder
from imagen_mini.training.batches import _inputs
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.cuda_graphs import CudaGraphedStep, prefetch_on_stream
from imagen_mini.training.distributed import (
    SINGLE_PROCESS,
    DistributedContext,
    full_tensors,
    no_grad_sync,
    wrap_ddp,
)
from imagen_mini.training.ema import EMA
from imagen_mini.utils.precision import compute_dtype

NOISE_BINS = 10  # of noise, equal parts of t in [0, 1], for which losses are told apart


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up; then constant with a linear cool-down to 0 over the last `cooldown` of all
    steps, a cosine to 0, or constant.

    Imagen (2022), Appendix F: the cosine, with 10,000 steps of warm-up out of 2,500,000.
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.rate_schedule == "constant":
        return config.learning_rate * warm
    if config.rate_schedule == "cosine":
        progress = (step - config.warmup) / max(1, config.steps - config.warmup)
        return (
            config.learning_rate
            * warm
            * 0.5
            * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        )
    left = (config.steps - step) / max(1.0, config.cooldown * config.steps)
    return config.learning_rate * min(warm, max(0.0, left))


# ---------------------------------------------------------------- what a step is a function of


# ---------------------------------------------------------------- the loop


@dataclass(frozen=True)
class TrainState:
    """What the loop yields after each step. Losses are those of the whole batch, on every rank."""

    step: int  # steps done
    loss: float  # mean weighted loss of the step
    gradient_norm: float  # before clipping
    learning_rate: float
    loss_sums_by_bin: list[float]  # by level of noise, LEVELS of them: the sum of the losses,
    counts_by_bin: list[int]  # and of how many samples
    # seconds that this rank waited for images and captions; with `graph` not counted
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
    graph: bool = False,
) -> Iterator[TrainState]:
    """Train from step `start` to `config.steps` on `data` (None: the built-in world); yields after
    every step.

    `graph`: record forward and backward once and replay them, on one GPU (see `graphs`); the next
    batch is made while it computes.

    Raises FloatingPointError before a bad update, on all ranks together. If a process that reads
    data dies, DataLoader raises RuntimeError at any point.
    """
    device, b = next(stage.parameters()).device, config.batch_size
    if b < ranks.world * config.accumulate:
        raise ValueError(
            f"a batch of {b} cannot be shared out among {ranks.world} ranks in "
            f"{config.accumulate} parts each: raise batch_size"
        )
    dtype = compute_dtype(config.precision, device)
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    stage.train()
    stage.net.enable_gradient_checkpointing(config.gradient_checkpointing)
    model = wrap_ddp(stage, ranks)
    mine = ranks.share(b)
    parts = [
        mine[p[0] : p[-1] + 1] for p in torch.arange(len(mine)).tensor_split(config.accumulate)
    ]

    def weight(log_snr: Tensor) -> Tensor:
        return LOSS_WEIGHTS[config.loss_weight](log_snr, config.loss_cap)

    data = SceneDataset(config.seed, config.counts) if data is None else data
    if (config.twins or config.mistakes) and not isinstance(data, SceneDataset):
        raise ValueError(
            f"twins={config.twins}, mistakes={config.mistakes}: only the built-in world has "
            "these; expected 0 here"
        )
    if config.mistakes and stage.is_super_resolution:
        raise ValueError(
            f"mistakes={config.mistakes}: only a base stage decides what stands where; "
            "expected 0 for super-resolution"
        )
    if graph and (device.type != "cuda" or ranks.world > 1 or config.accumulate > 1):
        raise ValueError(
            f"a graph of a step needs one GPU and accumulate=1; this is {ranks.world} x "
            f"{device.type} with accumulate={config.accumulate}"
        )

    def forward_and_backward(inputs: dict[str, Tensor]) -> Tensor:
        """The losses of a part. Gradients stay in the parameters; ranks average them."""
        inputs = dict(inputs)
        text = TextEmbeddings(inputs.pop("emb"), inputs.pop("mask"))
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = model(text=text, weight=weight, **inputs)
        (losses.sum() * (ranks.world / b)).backward()
        return losses.detach()

    parts_of_steps, inputs = (
        _inputs(data, encoder, stage, config, parts, start, device, graph),
        None,
    )
    if graph:
        forward_and_backward, parts_of_steps = (
            CudaGraphedStep(forward_and_backward, list(stage.parameters())),
            prefetch_on_stream(parts_of_steps),
        )
    for step in range(start, config.steps):
        rate = learning_rate(config, step)
        for group in groups:
            group["lr"] = rate
        stage.zero_grad(set_to_none=True)
        levels, data_wait_seconds = torch.zeros(2, NOISE_BINS, device=device), 0.0
        for i in range(len(parts)):
            began = time.perf_counter()
            inputs = next(parts_of_steps) if inputs is None else inputs
            data_wait_seconds += time.perf_counter() - began
            with no_grad_sync(model, i < len(parts) - 1):
                losses = forward_and_backward(inputs)
            level = (inputs["t"] * NOISE_BINS).long().clamp(max=NOISE_BINS - 1)
            levels.index_add_(
                1,
                level,
                torch.stack([losses.float(), torch.ones_like(losses, dtype=torch.float32)]),
            )
            inputs = next(parts_of_steps, None) if graph else None
        sums, counts = ranks.sum(levels).tolist()
        norm = float(
            full_tensors({"norm": torch.nn.utils.clip_grad_norm_(stage.parameters(), config.clip)})[
                "norm"
            ]
        )
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"step {step} of stage {stage.config.name}: loss {sum(sums) / b}, gradient "
                f"norm {norm} at "
                f"learning rate {rate:g}; the weights were left as "
                "they were. A lower learning_rate is the usual cure"
            )
        for optimizer in optimizers.values():
            optimizer.step()
        ema.update(step + 1)
        yield TrainState(
            step + 1, sum(sums) / b, norm, rate, sums, [int(n) for n in counts], data_wait_seconds
        )
