"""How a stage is trained: every setting with its default, and the presets' recipes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from imagen_mini.cascade.config import StageConfig
from imagen_mini.diffusion.losses import LOSS_WEIGHTS
from imagen_mini.training.optimizers import OPTIMIZERS
from imagen_mini.utils.configuration import check_choice, override
from imagen_mini.utils.precision import PRECISIONS

LR_SCHEDULES = ("cooldown", "cosine", "constant")


@dataclass(frozen=True)
class TrainConfig:
    """How a stage is trained. Every number that changes over time is a function of the step."""

    steps: int = 10_000  # optimizer steps in all
    batch_size: int = 64  # images a step
    accumulate: int = 1  # the batch (of each rank) is computed in this many parts
    # processes that make batches ahead of time; 0: made when needed, on the device
    workers: int = 0
    # the highest: after warm-up, before it falls; Adafactor's is relative to the weights
    learning_rate: float = 1e-3
    # after warm-up: cooldown (constant, then linear to 0), cosine (to 0) or constant
    rate_schedule: str = "cooldown"
    warmup: int = 200  # steps of linear warm-up
    cooldown: float = 0.3  # cooldown: share of the steps, at the end, in which the rate falls to 0
    optimizer: str = "muon"  # muon (for kernels, AdamW for the rest), adamw or adafactor
    betas: tuple[float, float] = (0.9, 0.99)  # AdamW
    weight_decay: float = 0.01  # of kernels
    clip: float = 1.0  # gradients are clipped to this norm
    ema_half_life: int = 400  # steps after which a weight counts half; shorter at the start
    drop_text: float = 0.1  # captions dropped for classifier-free guidance (Imagen: 0.1)
    drop_pooled: float = 0.3  # pooled text dropped on its own, so that the words are used too
    counts: tuple[float, ...] = (22, 50, 17, 11)  # how often a scene has 1, 2, 3, 4 things
    # how many images are shown on the way to a second one that their caption describes as well,
    twins: float = 0.0
    # and how many on the way from one that it says is wrong (see scenes.twins, scenes.mistakes)
    mistakes: float = 0.0
    time_power: float = 1.0  # times are drawn with density t^(time_power - 1): above 1, more noise
    # of the squared error of x_0, by log-SNR: capped_v, balanced or min_snr
    loss_weight: str = "capped_v"
    loss_cap: float = 5.0  # the loss weight is at most this
    seed: int = 0  # of everything random
    precision: str = "auto"  # auto (bf16 where it is found to be faster), bf16 or fp32
    # activations are computed again in the backward pass: less memory, more time
    gradient_checkpointing: bool = False
    save_every: int = 500  # steps between checkpoints
    sample_every: int = 1000  # steps between sample grids with their score; 0: never
    log_every: int = 10  # steps between lines of the log

    def __post_init__(self):
        for name in ("betas", "counts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("rate_schedule", self.rate_schedule, LR_SCHEDULES)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("loss_weight", self.loss_weight, tuple(LOSS_WEIGHTS))
        for name in (
            "steps",
            "batch_size",
            "accumulate",
            "ema_half_life",
            "save_every",
            "log_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 1 <= len(self.counts) <= 4 or min(self.counts) < 0 or not sum(self.counts):
            raise ValueError(
                f"counts {self.counts}: expected up to four weights, of scenes of 1, 2, 3 and "
                "4 things, not all 0"
            )
        if self.time_power <= 0:
            raise ValueError(f"time_power must be above 0; got {self.time_power}")
        if self.twins < 0 or self.mistakes < 0 or self.twins + self.mistakes > 1:
            raise ValueError(
                f"twins {self.twins}, mistakes {self.mistakes}: expected shares of all images, "
                "from 0 to 1 together"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split into "
                f"accumulate={self.accumulate} equal parts"
            )


# How each stage is trained unless told otherwise. What lies where is told by captions of several
# things only: the base stage sees more of these than super-resolution needs. Its recipe was
# searched for the best score after an hour on two cores: train/VARIANTS.md.
_MINI_RECIPES = {
    "base": TrainConfig(
        steps=12_000,
        batch_size=32,
        learning_rate=3e-3,
        loss_weight="balanced",
        loss_cap=60.0,
        counts=(20, 55, 15, 10),
        drop_pooled=0.5,
    ),
    "sr_256": TrainConfig(
        steps=6_000, batch_size=16, learning_rate=2e-3, counts=(15, 60, 15, 10), drop_pooled=0.5
    ),
}


_LONGER = {
    "steps": 100_000,
    "learning_rate": 2e-4,
    "rate_schedule": "cosine",
    "warmup": 1000,
    "optimizer": "adamw",
    "ema_half_life": 5_000,
    "save_every": 2_000,
}


# Appendix F and Section 4.1: 1e-4 after 10,000 steps, a cosine, 2.5 M steps of 2048 images,
# Adafactor for the base stage, Adam for the others. An average of the weights is not mentioned
# there; ours is as long as the usual decay of 0.9999. 64 GPUs of 80 GB hold 32 images each; at 1024
# px only with checkpointing (`python -m train.estimate_cost --preset paper --gpus 64`).
_PAPER_RECIPE = TrainConfig(
    steps=2_500_000,
    batch_size=2048,
    learning_rate=1e-4,
    rate_schedule="cosine",
    warmup=10_000,
    optimizer="adamw",
    betas=(0.9, 0.999),
    weight_decay=0.0,
    ema_half_life=7_000,
    drop_pooled=0.0,
)


TRAIN_PRESETS: dict[str, dict[str, TrainConfig]] = {
    "tiny": _MINI_RECIPES,
    "mini": _MINI_RECIPES,
    "small": {
        "base": replace(_MINI_RECIPES["base"], batch_size=256, **_LONGER),
        "sr_256": TrainConfig(batch_size=64, **_LONGER),
    },
    "paper": {
        "base": replace(_PAPER_RECIPE, optimizer="adafactor"),
        "sr_256": _PAPER_RECIPE,
        "sr_1024": replace(_PAPER_RECIPE, gradient_checkpointing=True),
    },
}


def override_run(
    recipe: TrainConfig, stage: StageConfig, assignments: list[str]
) -> tuple[TrainConfig, StageConfig]:
    """Apply overrides to both halves of a run: `steps=3000` is the recipe's, `stage.unet.patch=4`
    the stage's.
    """
    of_stage = [a for a in assignments if a.startswith("stage.")]
    return override(recipe, [a for a in assignments if a not in of_stage]), override(
        stage, [a.removeprefix("stage.") for a in of_stage]
    )
