"""How a stage is trained: every setting with its default, and the presets' settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from imagen_mini.cascade.config import StageConfig
from imagen_mini.diffusion.losses import LOSS_WEIGHTS
from imagen_mini.training.optimizers import OPTIMIZERS
from imagen_mini.utils.configuration import Range, check_choice, check_ranges, override
from imagen_mini.utils.precision import PRECISIONS

LR_SCHEDULES = ("cooldown", "cosine", "constant")


@dataclass(frozen=True)
class TrainConfig:
    """How a stage is trained. Everything that changes over time is a function of the step."""

    steps: Annotated[int, Range(1, 10**9)] = 10_000  # optimizer steps in all
    batch_size: Annotated[int, Range(1, 2**20)] = 64  # images a step
    # the batch (of each rank) is computed in this many micro-batches
    gradient_accumulation_steps: Annotated[int, Range(1, 2**20)] = 1
    # processes that make batches ahead of time; 0: made when needed, on the device
    num_workers: Annotated[int, Range(0, 256)] = 0
    # the highest: after warm-up, before it falls; Adafactor's is relative to the weights
    learning_rate: Annotated[float, Range(0, 10)] = 1e-3
    # after warm-up: cooldown (constant, then linear to 0), cosine (to 0) or constant
    lr_schedule: str = "cooldown"
    warmup: Annotated[int, Range(0, 10**9)] = 200  # steps of linear warm-up
    # cooldown: share of the steps, at the end, in which the rate falls to 0
    cooldown: Annotated[float, Range(0, 1)] = 0.3
    optimizer: str = "muon"  # muon (for kernels, AdamW for the rest), adamw or adafactor
    betas: Annotated[tuple[float, float], Range(0, below=1)] = (0.9, 0.99)  # AdamW
    weight_decay: Annotated[float, Range(0, 10)] = 0.01  # of kernels
    # gradients are clipped to this norm
    max_grad_norm: Annotated[float, Range(above=0, high=1e9)] = 1.0
    # steps after which a weight counts half; shorter at the start
    ema_half_life: Annotated[int, Range(1, 10**9)] = 400
    # captions dropped for classifier-free guidance (Imagen: 0.1)
    cond_drop_prob: Annotated[float, Range(0, below=1)] = 0.1
    # pooled text dropped alone, so that the words are used too
    pooled_drop_prob: Annotated[float, Range(0, 1)] = 0.3
    # how often a scene of the built-in world has 1, 2, 3, 4 objects
    object_count_weights: Annotated[tuple[float, ...], Range(0, 1e9)] = (22, 50, 17, 11)
    # share of images mixed with a second one that their caption describes equally well,
    equivalent_prob: Annotated[float, Range(0, 1)] = 0.0
    # and with one that contradicts their caption (see data.alternatives); built-in world only
    contradiction_prob: Annotated[float, Range(0, 1)] = 0.0
    # times have the density t^(time_power - 1): above 1, more noise
    time_power: Annotated[float, Range(above=0, high=100)] = 1.0
    # of the squared error of x_0, by log-SNR: capped_v, sqrt_snr, min_snr or p2
    loss_weight: str = "capped_v"
    loss_cap: Annotated[float, Range(above=0, high=1e9)] = 5.0  # the loss weight is at most this
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0  # of everything random
    precision: str = "auto"  # auto (bf16 where it is found to be faster), bf16 or fp32
    # activations are computed again in the backward pass: less memory, more time
    gradient_checkpointing: bool = False
    save_every: Annotated[int, Range(1, 10**9)] = 500  # steps between checkpoints
    # steps between sample grids with their score; 0: never
    sample_every: Annotated[int, Range(0, 10**9)] = 1000
    log_every: Annotated[int, Range(1, 10**9)] = 10  # steps between lines of the log

    def __post_init__(self):
        for name in ("betas", "object_count_weights"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("lr_schedule", self.lr_schedule, LR_SCHEDULES)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("loss_weight", self.loss_weight, tuple(LOSS_WEIGHTS))
        check_ranges(self)
        if len(self.betas) != 2:
            raise ValueError(f"betas {self.betas}: expected two numbers, like [0.9, 0.99]")
        weights = self.object_count_weights
        if not 1 <= len(weights) <= 4 or not sum(weights):
            raise ValueError(
                f"object_count_weights {weights}: expected up to four weights, of scenes of 1, 2, "
                "3 and 4 objects, not all 0"
            )
        equivalent, contradiction = self.equivalent_prob, self.contradiction_prob
        if equivalent + contradiction > 1:
            raise ValueError(
                f"equivalent_prob {equivalent}, contradiction_prob {contradiction}: expected "
                "shares of all images, from 0 to 1 together"
            )
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split into "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} equal parts"
            )


# How each stage is trained by default. Only captions of several objects say what lies where: the
# base stage sees more of these than super-resolution needs. Its settings are the best found for the
# score after an hour on two cores: train/LOG.md.
_MINI = {
    "base": TrainConfig(
        steps=12_000,
        batch_size=32,
        learning_rate=3e-3,
        loss_weight="sqrt_snr",
        loss_cap=60.0,
        object_count_weights=(20, 55, 15, 10),
        pooled_drop_prob=0.5,
    ),
    "sr_256": TrainConfig(
        steps=6_000,
        batch_size=16,
        learning_rate=2e-3,
        object_count_weights=(15, 60, 15, 10),
        pooled_drop_prob=0.5,
    ),
}


_LONGER = {
    "steps": 100_000,
    "learning_rate": 2e-4,
    "lr_schedule": "cosine",
    "warmup": 1000,
    "optimizer": "adamw",
    "ema_half_life": 5_000,
    "save_every": 2_000,
}


# Appendix F and Section 4.1: 1e-4 after 10,000 steps, a cosine, 2.5 M steps of 2048 images,
# Adafactor for the base stage, Adam for the others. An average of the weights is not mentioned
# there; ours is as long as the usual decay of 0.9999. 64 GPUs of 80 GB hold 32 images each; at 1024
# px only with checkpointing (`python -m train.estimate_cost --preset paper --gpus 64`).
_PAPER = TrainConfig(
    steps=2_500_000,
    batch_size=2048,
    learning_rate=1e-4,
    lr_schedule="cosine",
    warmup=10_000,
    optimizer="adamw",
    betas=(0.9, 0.999),
    weight_decay=0.0,
    ema_half_life=7_000,
    pooled_drop_prob=0.0,
)


TRAIN_PRESETS: dict[str, dict[str, TrainConfig]] = {
    "tiny": _MINI,
    "mini": _MINI,
    "shipped": _MINI,  # as a start; its own training phases are in its config.json
    "small": {
        "base": replace(_MINI["base"], batch_size=256, **_LONGER),
        "sr_256": TrainConfig(batch_size=64, **_LONGER),
    },
    "paper": {
        "base": replace(_PAPER, optimizer="adafactor"),
        "sr_256": _PAPER,
        "sr_1024": replace(_PAPER, gradient_checkpointing=True),
    },
}


def override_run(
    config: TrainConfig, stage: StageConfig, assignments: list[str]
) -> tuple[TrainConfig, StageConfig]:
    """Change the settings of a run by strings, as on the command line.

    Args:
        config: The training settings.
        stage: The stage's configuration.
        assignments: `steps=3000` changes the training settings, `stage.unet.patch=4` the stage.

    Raises:
        ValueError: A name is unknown, or a value has the wrong type.
    """
    of_stage = [a for a in assignments if a.startswith("stage.")]
    return override(config, [a for a in assignments if a not in of_stage]), override(
        stage, [a.removeprefix("stage.") for a in of_stage]
    )
