"""What a training step is computed on: batches, noise levels and noise, as functions of the seed
and the step.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.base import Batch, BatchPlan, Dataset, LossExtras, plan_batch
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.config import TrainConfig
from imagen_mini.utils.rng import generator, randn_blocked

FIXED_LENGTH = 32  # tokens; the longest caption of the built-in world has 31


def loss_extras(data: Dataset, config: TrainConfig, stage: DiffusionStage) -> LossExtras | None:
    """The further inputs of the loss that the settings ask for and the data set has.

    Raises:
        ValueError: The data set has none, or none for this stage.
    """
    if hasattr(data, "loss_extras"):
        return data.loss_extras(config, stage.is_super_resolution)
    if config.equivalent_prob or config.contradiction_prob:
        raise ValueError(
            f"equivalent_prob={config.equivalent_prob}, contradiction_prob="
            f"{config.contradiction_prob}: only the built-in world has these; expected 0 here"
        )
    return None


def draw_step_variables(
    config: TrainConfig, stage: DiffusionStage, step: int, extras: LossExtras | None = None
) -> dict[str, Tensor]:
    """Everything random in a step except the noise, for its full batch of b samples.

    Times are stratified: there is one in each of b equally likely parts of [0, 1]. This lowers the
    variance of the loss and keeps the density of each t, t^(time_power - 1).

    Args:
        config: The training settings.
        stage: The stage in training.
        step: The step, from 0.
        extras: Further inputs of the loss, with random variables of their own.

    Returns:
        "t" [b] in [0, 1]; "drop", bool [b], whose text is dropped; "use_pooled" [b], 1 where the
        pooled text is used; for super-resolution "aug_level" [b]; and the variables of `extras`.
    """
    g, b = generator(config.seed, "train", stage.config.name, step), config.batch_size
    t = (torch.randperm(b, generator=g) + torch.rand(b, generator=g)) / b
    variables = {
        "t": t ** (1 / config.time_power),
        "drop": torch.rand(b, generator=g) < config.cond_drop_prob,
        "use_pooled": (torch.rand(b, generator=g) >= config.pooled_drop_prob).float(),
    }
    if stage.is_super_resolution:
        variables["aug_level"] = torch.rand(b, generator=g) * stage.config.max_aug_level
    if extras is not None:
        variables |= extras.draw(b, g, variables["drop"])
    return variables


def draw_noise(
    config: TrainConfig, stage: DiffusionStage, indices: Sequence[int], batch: Batch
) -> dict[str, Tensor]:
    """The noise of samples, a function of each sample's index. A GPU generates other numbers than a
    CPU.

    Args:
        config: The training settings.
        stage: The stage in training.
        indices: The indices of the b samples.
        batch: The samples.

    Returns:
        "eps" [b, 3, h, w]; for super-resolution also "low_res_noise" [b, 3, l, l].
    """
    device = batch.images.device

    def noise(images: Tensor, purpose: str) -> Tensor:
        name = stage.config.name
        return randn_blocked(
            indices, images.shape[1:], "train", config.seed, name, purpose, device=device
        )

    noises = {"eps": noise(batch.images, "eps")}
    if batch.low_res is not None:
        noises["low_res_noise"] = noise(batch.low_res, "low_res")
    return noises


class MicroBatch(NamedTuple):
    """Which samples are asked for."""

    indices: range
    contradicted: list[bool] | None  # which of them need a contradiction (None: all)


class MicroBatches(TorchDataset):
    """Maps a `MicroBatch` to its indices, the plan of their batch, and their tokenized captions.
    DataLoader runs it in other processes.
    """

    def __init__(
        self, data: Dataset, tokenize: Callable | None, stage: DiffusionStage, alternatives: bool
    ):
        self.data, self.tokenize, self.alternatives = data, tokenize, alternatives
        self.size, self.low_res_size = stage.config.unet.image_size, stage.config.unet.low_res_size

    def __getitem__(self, asked: MicroBatch) -> tuple[range, BatchPlan, Any]:
        indices, contradicted = asked
        plan = plan_batch(
            self.data, indices, self.size, self.low_res_size, self.alternatives, contradicted
        )
        return indices, plan, None if self.tokenize is None else self.tokenize(plan.captions)


def loss_inputs(
    data: Dataset,
    encoder: TextEncoder,
    stage: DiffusionStage,
    config: TrainConfig,
    micro_batches: list[range],
    start: int,
    device: torch.device,
    fixed_length: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Yield the inputs of `DiffusionStage.loss` for each micro-batch of every step.

    What is in a batch is decided here, or ahead of time by `config.num_workers` processes.

    Args:
        data: The data set.
        encoder: The text encoder.
        stage: The stage in training.
        config: The training settings.
        micro_batches: This rank's parts of a batch, as ranges within 0 ... batch_size - 1.
        start: The first step.
        device: Where the inputs are made.
        fixed_length: Pad the texts to a multiple of `FIXED_LENGTH` tokens, which nearly always is
            the same length.

    Yields:
        The keyword arguments of the loss as tensors, the text as "emb" and "mask".
    """
    extras, b = loss_extras(data, config, stage), config.batch_size
    # 1. plan batches and tokenize captions, here or in other processes
    tokenize = None
    if config.num_workers and isinstance(encoder, TextEncoder):
        tokenize = encoder.tokenize_fn()
    planner = MicroBatches(data, tokenize, stage, alternatives=extras is not None)

    def asked(step: int, part: range) -> MicroBatch:
        variables = draw_step_variables(config, stage, step, extras)
        used = variables["contradiction"] > 0 if "contradiction" in variables else None
        return MicroBatch(
            range(step * b + part.start, step * b + part.stop),
            None if used is None else used[part.start : part.stop].tolist(),
        )

    requests = (asked(step, part) for step in range(start, config.steps) for part in micro_batches)
    if config.num_workers:
        planned = DataLoader(
            planner,
            batch_size=None,
            sampler=requests,
            num_workers=config.num_workers,
            collate_fn=_identity,
            worker_init_fn=_leave_signals_to_parent,
        )
    else:
        planned = map(planner.__getitem__, requests)
    for indices, plan, tokens in planned:
        # 2. images and text, on the device
        batch, extra = plan.materialize(device)
        text = encoder(batch.captions) if tokens is None else encoder.encode(*tokens)
        # 3. this micro-batch's share of the step's random variables
        step, first = divmod(indices[0], b)
        variables = {
            name: value[first : first + len(indices)].to(device)
            for name, value in draw_step_variables(config, stage, step, extras).items()
        }
        # 4. dropped captions, for classifier-free guidance
        text = text.drop(variables["drop"]).to(torch.float32)
        if fixed_length:
            text = text.pad(-len(text.mask[0]) % FIXED_LENGTH)
        # 5. everything that the loss takes
        inputs = {"x_0": batch.images, "emb": text.emb, "mask": text.mask}
        inputs |= {
            name: variables[name] for name in ("t", "use_pooled", "aug_level") if name in variables
        }
        inputs |= draw_noise(config, stage, indices, batch)
        if batch.low_res is not None:
            inputs["low_res"] = batch.low_res
        if extras is not None:
            log_snr = stage.schedule(variables["t"])
            inputs |= extras.loss_inputs(batch.images, extra, variables, log_snr)
        yield inputs


def _identity(part):
    return part


def _leave_signals_to_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
