"""Configuration: small dataclasses with one comment a field, presets, and `key=value` overrides that refuse what they don't know."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from imagen_mini.diffusion.gaussian import PREDICTIONS
from imagen_mini.diffusion.guidance import THRESHOLDS, check_interval
from imagen_mini.diffusion.losses import LOSS_WEIGHTS
from imagen_mini.diffusion.samplers import SAMPLERS, check_options
from imagen_mini.diffusion.schedules import SCHEDULES
from imagen_mini.diffusion.timesteps import SPACINGS
from imagen_mini.models.unet import UNetConfig
from imagen_mini.optimizers import OPTIMIZERS
from imagen_mini.utils.configuration import _one_of, override
from imagen_mini.utils.precision import PRECISIONS

RATE_SCHEDULES = ("cooldown", "cosine", "constant")


@dataclass(frozen=True)
class StageConfig:
    """One stage of the cascade: its network, its diffusion, and how it is sampled unless asked otherwise."""

    name: str = "base"                                 # "base" or "sr_<size>"
    unet: UNetConfig = field(default_factory=UNetConfig)
    text_encoder: str | None = None                    # identity of the one it was trained with; None: not known
    prediction: str = "x_0"                            # what the network predicts: eps, x_0 or v
    schedule: str = "cosine"                           # of the noise: cosine, linear or sigmoid
    log_snr_shift: float = 0.0                         # added to the schedule's log-SNR; negative is noisier
    max_aug_level: float = 0.5                         # super-resolution: training draws the augmentation level from [0, this]
    aug_level: float = 0.1                             # super-resolution: the level when sampling
    num_inference_steps: int = 40                      # steps of one network call each; heun's take two
    guidance_scale: float = 3.0                        # w; 1 is off
    guidance_interval: tuple[float, float] | None = None      # with that w: only at noise levels sigma / alpha in (low, high]; None: at all of them
    threshold: str = "dynamic"                         # none, static or dynamic
    sampler: str = "ddim"                              # ddim, ddpm, dpmpp_2m or heun
    eta: float = 0.0                                   # of ddim and dpmpp_2m: fresh noise in every step, from 0 (none) to 1
    spacing: str = "uniform"                           # of the steps: uniform (in t), log_snr, karras or mixed

    def __post_init__(self):
        _one_of("prediction", self.prediction, PREDICTIONS)
        _one_of("schedule", self.schedule, tuple(SCHEDULES))
        _one_of("threshold", self.threshold, THRESHOLDS)
        _one_of("sampler", self.sampler, SAMPLERS)
        _one_of("spacing", self.spacing, SPACINGS)
        check_options(self.sampler, self.eta)
        if self.guidance_interval is not None:
            check_interval(self.guidance_interval)


@dataclass(frozen=True)
class TrainConfig:
    """How a stage is trained. Every number that changes over time is a function of the step."""

    steps: int = 10_000                                # optimizer steps in all
    batch_size: int = 64                               # pictures a step
    accumulate: int = 1                                # the batch (of each rank) is computed in this many parts
    workers: int = 0                                   # processes that make batches ahead of time; 0: made when needed, on the device
    learning_rate: float = 1e-3                        # the highest: after warm-up, before it falls; Adafactor's is relative to the weights
    rate_schedule: str = "cooldown"                    # after warm-up: cooldown (constant, then linear to 0), cosine (to 0) or constant
    warmup: int = 200                                  # steps of linear warm-up
    cooldown: float = 0.3                              # cooldown: share of the steps, at the end, in which the rate falls to 0
    optimizer: str = "muon"                            # muon (for kernels, AdamW for the rest), adamw or adafactor
    betas: tuple[float, float] = (0.9, 0.99)           # AdamW
    weight_decay: float = 0.01                         # of kernels
    clip: float = 1.0                                  # gradients are clipped to this norm
    ema_half_life: int = 400                           # steps after which a weight counts half; shorter at the start
    drop_text: float = 0.1                             # captions dropped for classifier-free guidance (Imagen: 0.1)
    drop_pooled: float = 0.3                           # pooled text dropped on its own, so that the words are used too
    counts: tuple[float, ...] = (22, 50, 17, 11)       # how often a scene has 1, 2, 3, 4 things
    twins: float = 0.0                                 # how many pictures are shown on the way to a second one that their caption describes as well,
    mistakes: float = 0.0                              # and how many on the way from one that it says is wrong (see scenes.twins, scenes.mistakes)
    time_power: float = 1.0                            # times are drawn with density t^(time_power - 1): above 1, more noise
    loss_weight: str = "capped_v"                      # of the squared error of x_0, by log-SNR: capped_v, balanced or min_snr
    loss_cap: float = 5.0                              # the loss weight is at most this
    seed: int = 0                                      # of everything random
    precision: str = "auto"                            # auto (bf16 where it is found to be faster), bf16 or fp32
    gradient_checkpointing: bool = False               # activations are computed again in the backward pass: less memory, more time
    save_every: int = 500                              # steps between checkpoints
    sample_every: int = 1000                           # steps between sample grids with their score; 0: never
    log_every: int = 10                                # steps between lines of the log

    def __post_init__(self):
        for name in ("betas", "counts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("rate_schedule", self.rate_schedule, RATE_SCHEDULES)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("loss_weight", self.loss_weight, tuple(LOSS_WEIGHTS))
        for name in ("steps", "batch_size", "accumulate", "ema_half_life", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 1 <= len(self.counts) <= 4 or min(self.counts) < 0 or not sum(self.counts):
            raise ValueError(f"counts {self.counts}: expected up to four weights, of scenes of 1, 2, 3 and 4 things, not all 0")
        if self.time_power <= 0:
            raise ValueError(f"time_power must be above 0; got {self.time_power}")
        if self.twins < 0 or self.mistakes < 0 or self.twins + self.mistakes > 1:
            raise ValueError(f"twins {self.twins}, mistakes {self.mistakes}: expected shares of all pictures, from 0 to 1 together")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} cannot be split into accumulate={self.accumulate} equal parts")




# ---------------------------------------------------------------- presets

_TINY = UNetConfig(image_size=64, patch=8, channels=(32, 32), blocks=(1, 1), attention=("", "self+cross"), emb_width=64)
_MINI = UNetConfig(channels=(48, 80, 128), head_width=16)            # what learns fastest on a CPU: train/VARIANTS.md
_MINI_SR = UNetConfig(image_size=256, low_res_size=64, patch=4, channels=(64, 96, 128), blocks=(1, 1, 2),
                      attention=("", "cross", "self+cross"), skip="sum", skip_scale=0.5 ** 0.5)

# A quarter of Imagen's base in width, with its proportions (1 : 2 : 3 : 4, on pixels, attention at 32, 16 and 8) and two of its three blocks
# a level: 66 M parameters, which with their average, gradients and AdamW's two moments take 1.3 GB and leave a GPU's memory to activations.
# Super-resolution is half of Imagen's in width and in blocks: 70 M.
_SMALL = UNetConfig(patch=1, channels=(128, 256, 384, 512), blocks=(2, 2, 2, 2), attention=("", "self+cross", "self+cross", "self+cross"),
                    head_width=64, emb_width=512)
_SMALL_SR = UNetConfig(image_size=256, low_res_size=64, patch=2, channels=(64, 128, 256, 512), blocks=(1, 2, 4, 4), attention=("", "", "", "self+cross"),
                       head_width=64, emb_width=512, skip="sum", skip_scale=0.5 ** 0.5)

# Imagen's own sizes (2022, Appendix F.1 to F.3), for T5-XXL, as far as this U-Net can say them.
# Base, 1.80 B here, "2B" in Section 4.1. Missing: a fourth block a level on the way up, and changes of resolution inside residual blocks ("biggan");
# with these it would hold 2.5 B.
# Super-resolution, 467 M and 472 M here, "600M" and "400M" in Section 4.1. The two listings differ by self-attention in one block, which is
# a few per cent, so no reading of them gives both numbers. The paper's attention is twice as wide inside; ours has, and theirs may not,
# an attention layer in the middle. Their first stride of 2 is here the patch.
# Ours alone: learnt positions (3 M, 1 M and 13 M), QK norm. The 1024 px stage is trained on crops in the paper, whole here.
_PAPER = UNetConfig(patch=1, channels=(512, 1024, 1536, 2048), blocks=(3, 3, 3, 3), attention=("", "hybrid", "hybrid", "hybrid"), mid_blocks=2,
                    attend_each=True, head_width=64, emb_width=2048, text_width=4096, text_layers=0)
_PAPER_SR = UNetConfig(image_size=256, low_res_size=64, patch=2, channels=(128, 256, 512, 1024), blocks=(2, 4, 8, 8), attention=("", "", "", "hybrid"),
                       mid_blocks=0, head_width=128, emb_width=512, text_width=4096, text_layers=0, skip="sum", skip_scale=0.5 ** 0.5)
_PAPER_SR_1024 = replace(_PAPER_SR, image_size=1024, low_res_size=256, attention=("", "", "", "cross"))

PRESETS: dict[str, dict[str, StageConfig]] = {
    "tiny": {                                          # for tests: seconds
        "base": StageConfig("base", _TINY, num_inference_steps=4),
        "sr_256": StageConfig("sr_256", replace(_TINY, image_size=256, low_res_size=64, patch=32), num_inference_steps=2),
    },
    "mini": {                                          # for a laptop: the shipped cascade
        # Few things on plain ground show what they are through much noise: the layout is decided at log-SNRs from -8 to -5, shapes from -4 to -1.
        # The shift puts half of all times between -5.8 and -2.2.
        "base": StageConfig("base", _MINI, log_snr_shift=-4.0, num_inference_steps=32, guidance_scale=2.0, sampler="dpmpp_2m", eta=1.0, spacing="mixed"),
        "sr_256": StageConfig("sr_256", _MINI_SR, log_snr_shift=-2.0, num_inference_steps=10, guidance_scale=2.0, sampler="dpmpp_2m"),
    },
    "small": {                                         # for one GPU; not trained yet
        "base": StageConfig("base", _SMALL, log_snr_shift=-4.0, num_inference_steps=20, guidance_scale=2.0, sampler="dpmpp_2m", spacing="mixed"),
        "sr_256": StageConfig("sr_256", _SMALL_SR, log_snr_shift=-2.0, num_inference_steps=10, guidance_scale=2.0, sampler="dpmpp_2m"),
    },
    # For many GPUs; not trained here. v, not the paper's eps: our loss is weighted for x_0, which gives eps no bound at pure noise. Guidance is
    # that of Table 1 (1.35 and 8; none is given for 1024 px). The paper does not state the number of sampling steps.
    "paper": {
        "base": StageConfig("base", _PAPER, prediction="v", num_inference_steps=250, guidance_scale=1.35, sampler="ddpm"),
        "sr_256": StageConfig("sr_256", _PAPER_SR, prediction="v", max_aug_level=1.0, num_inference_steps=100, guidance_scale=8.0, sampler="ddpm"),
        "sr_1024": StageConfig("sr_1024", _PAPER_SR_1024, prediction="v", schedule="linear", max_aug_level=1.0, num_inference_steps=50, sampler="ddpm"),
    },
}

# How each stage is trained unless told otherwise. What lies where is told by captions of several things only: the base stage sees more of these than
# super-resolution needs. Its recipe was searched for the best score after an hour on two cores: train/VARIANTS.md.
_MINI_RECIPES = {"base": TrainConfig(steps=12_000, batch_size=32, learning_rate=3e-3, loss_weight="balanced", loss_cap=60.0, counts=(20, 55, 15, 10), drop_pooled=0.5),
                 "sr_256": TrainConfig(steps=6_000, batch_size=16, learning_rate=2e-3, counts=(15, 60, 15, 10), drop_pooled=0.5)}
_LONGER = {"steps": 100_000, "learning_rate": 2e-4, "rate_schedule": "cosine", "warmup": 1000, "optimizer": "adamw", "ema_half_life": 5_000, "save_every": 2_000}
# Appendix F and Section 4.1: 1e-4 after 10,000 steps, a cosine, 2.5 M steps of 2048 pictures, Adafactor for the base stage, Adam for the others.
# An average of the weights is not mentioned there; ours is as long as the usual decay of 0.9999.
# 64 GPUs of 80 GB hold 32 pictures each; at 1024 px only with checkpointing (`python -m train.scale --preset paper --gpus 64`).
_PAPER_RECIPE = TrainConfig(steps=2_500_000, batch_size=2048, learning_rate=1e-4, rate_schedule="cosine", warmup=10_000, optimizer="adamw",
                            betas=(0.9, 0.999), weight_decay=0.0, ema_half_life=7_000, drop_pooled=0.0)
RECIPES: dict[str, dict[str, TrainConfig]] = {
    "tiny": _MINI_RECIPES,
    "mini": _MINI_RECIPES,
    "small": {"base": replace(_MINI_RECIPES["base"], batch_size=256, **_LONGER), "sr_256": TrainConfig(batch_size=64, **_LONGER)},
    "paper": {"base": replace(_PAPER_RECIPE, optimizer="adafactor"), "sr_256": _PAPER_RECIPE,
              "sr_1024": replace(_PAPER_RECIPE, gradient_checkpointing=True)},
}


# ---------------------------------------------------------------- dictionaries and overrides









def override_run(recipe: TrainConfig, stage: StageConfig, assignments: list[str]) -> tuple[TrainConfig, StageConfig]:
    """Apply overrides to both halves of a run: `steps=3000` is the recipe's, `stage.unet.patch=4` the stage's."""
    of_stage = [a for a in assignments if a.startswith("stage.")]
    return override(recipe, [a for a in assignments if a not in of_stage]), override(stage, [a.removeprefix("stage.") for a in of_stage])
