"""The configuration of a stage, and the presets: whole cascades by name.

`StageConfig` holds what `config.json` of a stage holds. `PRESETS` goes from networks for tests to
those of the paper, and has the shipped cascade among them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from imagen_mini.diffusion.gaussian import PREDICTION_TYPES
from imagen_mini.diffusion.guidance import THRESHOLDS, check_interval
from imagen_mini.diffusion.samplers import SAMPLERS, validate_sampler_options
from imagen_mini.diffusion.schedules import SCHEDULES
from imagen_mini.diffusion.timesteps import TIMESTEP_SPACINGS
from imagen_mini.models.unet import UNetConfig
from imagen_mini.scenes.world import WORLDS
from imagen_mini.utils.configuration import Range, check_choice, check_ranges


@dataclass(frozen=True)
class StageConfig:
    """One stage of the cascade: its network, its diffusion, and the defaults of sampling.

    Raises:
        ValueError: A value out of range, or a name that is not one of the allowed ones.
    """

    name: str = "base"  # an identifier, and the stage's folder: base, sr_256, sr_1024
    unet: UNetConfig = field(default_factory=UNetConfig)
    text_encoder: str | None = None  # identity of the one it was trained with; None: unknown
    world: str = (
        "scenes"  # the built-in world of its captions, where it was not trained on a folder
    )
    prediction: str = "x_0"  # what the network predicts: eps, x_0 or v
    schedule: str = "cosine"  # of the noise: cosine, linear or sigmoid
    # added to the schedule's log-SNR; negative is noisier
    log_snr_shift: Annotated[float, Range(-30, 30)] = 0.0
    # super-resolution: training samples the augmentation level from [0, this]
    max_aug_level: Annotated[float, Range(0, 1)] = 0.5
    aug_level: Annotated[float, Range(0, 1)] = 0.1  # super-resolution: the level when sampling
    # steps of one network call each; heun's take two
    num_inference_steps: Annotated[int, Range(1, 10_000)] = 40
    guidance_scale: Annotated[float, Range(-1000, 1000)] = 3.0  # w; 1 is off
    # for that w: only at noise levels sigma / alpha in (low, high]; None: at all of them
    guidance_interval: tuple[float, float] | None = None
    threshold: str = "dynamic"  # none, static or dynamic
    sampler: str = "ddim"  # ddim, ddpm, dpmpp_2m or heun
    # of ddim and dpmpp_2m: fresh noise in every step, from 0 (none) to 1
    eta: Annotated[float, Range(0, 1)] = 0.0
    timestep_spacing: str = "uniform"  # uniform (in t), log_snr, karras or mixed

    def __post_init__(self):
        # beside the stages' folders lies that of the text encoder
        if not self.name.isidentifier() or self.name == "text_encoder":
            raise ValueError(
                f"name {self.name!r}: expected an identifier like 'base' or 'sr_256', which is "
                "also the name of the stage's folder"
            )
        check_ranges(self)
        if self.unet.low_res_size is not None and self.aug_level > self.max_aug_level:
            raise ValueError(
                f"aug_level must be at most max_aug_level, {self.max_aug_level}, as the stage is "
                f"trained with no higher ones; got {self.aug_level}"
            )
        check_choice("world", self.world, tuple(WORLDS))
        check_choice("prediction", self.prediction, PREDICTION_TYPES)
        check_choice("schedule", self.schedule, tuple(SCHEDULES))
        check_choice("threshold", self.threshold, THRESHOLDS)
        check_choice("sampler", self.sampler, tuple(SAMPLERS))
        check_choice("timestep_spacing", self.timestep_spacing, TIMESTEP_SPACINGS)
        validate_sampler_options(self.sampler, self.eta)
        if self.guidance_interval is not None:
            check_interval(self.guidance_interval)


# ---------------------------------------------------------------- presets

_TINY = UNetConfig(
    image_size=64,
    patch=8,
    channels=(32, 32),
    blocks=(1, 1),
    attention=("", "self+cross"),
    emb_dim=64,
)
# The networks that learn fastest on a CPU: train/LOG.md.
_MINI = UNetConfig(channels=(48, 80, 128), head_dim=16)
_MINI_SR = UNetConfig(
    image_size=256,
    low_res_size=64,
    patch=4,
    channels=(64, 96, 128),
    blocks=(1, 1, 2),
    attention=("", "cross", "self+cross"),
    skip="sum",
    skip_scale=0.5**0.5,
)

# The shipped base stage is deeper than that of `mini`: three blocks in the middle, and attention
# after each block of every level. It grew from a smaller one (`init_from_smaller`).
_SHIPPED = replace(
    _MINI,
    blocks=(1, 1, 2),
    attention=("cross", "cross", "self+cross"),
    mid_blocks=3,
    attention_every_block=True,
)

# A quarter of Imagen's base in width, with its proportions (1 : 2 : 3 : 4, on pixels, attention at
# 32, 16 and 8) and two of its three blocks a level: 66 M parameters, which with their average,
# gradients and AdamW's two moments take 1.3 GB and leave a GPU's memory to activations.
# Super-resolution is half of Imagen's in width and in blocks: 70 M.
_SMALL = UNetConfig(
    patch=1,
    channels=(128, 256, 384, 512),
    blocks=(2, 2, 2, 2),
    attention=("", "self+cross", "self+cross", "self+cross"),
    head_dim=64,
    emb_dim=512,
)
_SMALL_SR = UNetConfig(
    image_size=256,
    low_res_size=64,
    patch=2,
    channels=(64, 128, 256, 512),
    blocks=(1, 2, 4, 4),
    attention=("", "", "", "self+cross"),
    head_dim=64,
    emb_dim=512,
    skip="sum",
    skip_scale=0.5**0.5,
)

# Imagen's own sizes (2022, Appendix F.1 to F.3), for T5-XXL, as far as this U-Net can express them.
# Base, 1.80 B here, "2B" in Section 4.1. Missing: a fourth block a level on the way up, and changes
# of resolution inside residual blocks ("biggan"); with these it would hold 2.5 B. Super-resolution,
# 467 M and 472 M here, "600M" and "400M" in Section 4.1. The two listings differ by self-attention
# in one block, which is a few per cent, so no reading of them yields both numbers. The paper's
# attention is twice as wide inside; ours has, and theirs may not, an attention layer in the middle.
# Their first stride of 2 is here the patch. Ours alone: learned positions (3 M, 1 M and 13 M), QK
# norm. The 1024 px stage is trained on crops in the paper, whole here.
_PAPER = UNetConfig(
    patch=1,
    channels=(512, 1024, 1536, 2048),
    blocks=(3, 3, 3, 3),
    attention=("", "hybrid", "hybrid", "hybrid"),
    mid_blocks=2,
    attention_every_block=True,
    head_dim=64,
    emb_dim=2048,
    text_width=4096,
    text_layers=0,
)
_PAPER_SR = UNetConfig(
    image_size=256,
    low_res_size=64,
    patch=2,
    channels=(128, 256, 512, 1024),
    blocks=(2, 4, 8, 8),
    attention=("", "", "", "hybrid"),
    mid_blocks=0,
    head_dim=128,
    emb_dim=512,
    text_width=4096,
    text_layers=0,
    skip="sum",
    skip_scale=0.5**0.5,
)
_PAPER_SR_1024 = replace(
    _PAPER_SR, image_size=1024, low_res_size=256, attention=("", "", "", "cross")
)

PRESETS: dict[str, dict[str, StageConfig]] = {
    "tiny": {  # for tests: seconds
        "base": StageConfig("base", _TINY, num_inference_steps=4),
        "sr_256": StageConfig(
            "sr_256",
            replace(_TINY, image_size=256, low_res_size=64, patch=32),
            num_inference_steps=2,
        ),
    },
    "mini": {  # for a laptop: where training starts by default
        # Few objects on a plain background are recognisable through much noise: the layout is
        # decided at log-SNRs from -8 to -5, shapes from -4 to -1. The shift puts half of all times
        # between -5.8 and -2.2.
        "base": StageConfig(
            "base",
            _MINI,
            log_snr_shift=-4.0,
            num_inference_steps=32,
            guidance_scale=2.0,
            sampler="dpmpp_2m",
            eta=1.0,
            timestep_spacing="mixed",
        ),
        "sr_256": StageConfig(
            "sr_256",
            _MINI_SR,
            log_snr_shift=-2.0,
            num_inference_steps=10,
            guidance_scale=2.0,
            sampler="dpmpp_2m",
        ),
    },
    # The cascade in imagen_mini/weights/scenes: `ImagenPipeline.from_pretrained("scenes")`.
    "shipped": {
        "base": StageConfig(
            "base",
            _SHIPPED,
            log_snr_shift=-4.0,
            num_inference_steps=32,
            guidance_scale=2.0,
            guidance_interval=(2.0, 60.0),
            sampler="dpmpp_2m",
            eta=1.0,
            timestep_spacing="mixed",
        ),
        "sr_256": StageConfig(
            "sr_256",
            _MINI_SR,
            log_snr_shift=-2.0,
            num_inference_steps=10,
            guidance_scale=1.0,
            sampler="dpmpp_2m",
            eta=1.0,
        ),
    },
    "small": {  # for one GPU; not trained yet
        "base": StageConfig(
            "base",
            _SMALL,
            log_snr_shift=-4.0,
            num_inference_steps=20,
            guidance_scale=2.0,
            sampler="dpmpp_2m",
            timestep_spacing="mixed",
        ),
        "sr_256": StageConfig(
            "sr_256",
            _SMALL_SR,
            log_snr_shift=-2.0,
            num_inference_steps=10,
            guidance_scale=2.0,
            sampler="dpmpp_2m",
        ),
    },
    # For many GPUs; not trained here. v, not the paper's eps: our loss is weighted for x_0, which
    # gives eps no bound at pure noise. Guidance is that of Table 1 (1.35 and 8; none is given for
    # 1024 px). The paper does not state the number of sampling steps.
    "paper": {
        "base": StageConfig(
            "base",
            _PAPER,
            prediction="v",
            num_inference_steps=250,
            guidance_scale=1.35,
            sampler="ddpm",
        ),
        "sr_256": StageConfig(
            "sr_256",
            _PAPER_SR,
            prediction="v",
            max_aug_level=1.0,
            num_inference_steps=100,
            guidance_scale=8.0,
            sampler="ddpm",
        ),
        "sr_1024": StageConfig(
            "sr_1024",
            _PAPER_SR_1024,
            prediction="v",
            schedule="linear",
            max_aug_level=1.0,
            num_inference_steps=50,
            sampler="ddpm",
        ),
    },
}
