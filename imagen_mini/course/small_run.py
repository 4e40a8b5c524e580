"""Small training runs: a corner of the built-in world that is learned in half a minute, and what is
measured of such a run.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from imagen_mini.cascade.config import StageConfig
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.base import Batch, Dataset
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import SHAPES as RADII
from imagen_mini.scenes.scene import SIZES, Scene, SceneObject, held_out, sample_free_position
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.diagnostics import (
    Diagnostic,
    check_average,
    check_color,
    check_conditioning,
    check_dead_parameters,
    check_gradients,
    check_loss,
    check_saturation,
    gradient_norms,
    measure_noise_bins,
)
from imagen_mini.training.ema import EMA
from imagen_mini.training.loop import NOISE_BINS, TrainState
from imagen_mini.training.optimizers import make_optimizers
from imagen_mini.utils.rng import randn

# 54 emoji of two styles, with their licences: a folder of images of one's own
COLOURED_EMOJI = Path(__file__).parent / "coloured_emoji"
CORNER_COLORS, CORNER_SHAPES = ("red", "yellow", "green", "blue"), ("circle", "square", "ring")


class CornerDataset:
    """A corner of the built-in world: one large object of few colours and shapes, anywhere on gray.

    Captions say everything but the position.

    Args:
        seed: Of the scenes (default: 0).
        shuffled: Whether each image of a batch has the caption of the next one: a fault that no
            error message reports (default: False).
    """

    def __init__(self, seed: int = 0, shuffled: bool = False):
        self.seed, self.shuffled = seed, shuffled

    def scene(self, number: int) -> Scene:
        """Return a scene, a function of the seed and its number.

        Pairs of colour and shape that the world holds out are held out here, too.
        """
        rng = random.Random(f"corner/{self.seed}/{number}")
        while True:
            color, shape = rng.choice(CORNER_COLORS), rng.choice(CORNER_SHAPES)
            x, y = sample_free_position(rng, SIZES["large"] * RADII[shape], [])
            scene = Scene(
                (SceneObject(x=x, y=y, shape=shape, color=color, size="large", texture="solid"),),
                "gray",
            )
            if not held_out(scene):
                return scene

    def batch(
        self, indices: Sequence[int], size: int, low_res_size: int | None = None, device=None
    ) -> Batch:
        scenes = [self.scene(number) for number in indices]
        captions = [
            f"a large {obj.color} {obj.shape} on a {scene.background} background"
            for scene in scenes
            for obj in scene.objects
        ]
        if self.shuffled:
            captions = captions[1:] + captions[:1]
        return Batch(
            render(scenes, size, device),
            None if low_res_size is None else render(scenes, low_res_size, device),
            captions,
        )

    def describe(self) -> dict:
        return {"source": "a corner of the scenes", "seed": self.seed, "shuffled": self.shuffled}


def start_small_run(
    stage_config: StageConfig, config: TrainConfig
) -> tuple[DiffusionStage, dict[str, torch.optim.Optimizer], EMA]:
    """Return what a run needs besides its data.

    Returns:
        A stage whose weights are a function of the seed, its optimizers, and the average of its
        weights.
    """
    # of the initial weights: all else that is random has numbers of its own
    torch.manual_seed(config.seed)
    stage = DiffusionStage(stage_config).to(memory_format=torch.channels_last)
    optimizers = make_optimizers(
        stage.net, config.optimizer, config.learning_rate, config.betas, config.weight_decay
    )
    return stage, optimizers, EMA(stage.net, config.ema_half_life)


def losses_by_bin(states: Sequence[TrainState]) -> list[float]:
    """Return the mean loss of these steps in each noise bin [NOISE_BINS], from little to much
    noise.

    It is nan where there was no sample.
    """
    sums, counts = (
        [sum(getattr(state, name)[i] for state in states) for i in range(NOISE_BINS)]
        for name in ("loss_sums_by_bin", "counts_by_bin")
    )
    return [total / n if n else float("nan") for total, n in zip(sums, counts)]


@torch.no_grad()
def denoising_errors_at(
    stage: DiffusionStage, encoder: TextEncoder, data: Dataset, times: Tensor, n: int = 24
) -> Tensor:
    """Return the mean squared error of x_0_hat on the first images of a data set, without weights.

    Args:
        stage: The stage.
        encoder: The text encoder.
        data: The data set.
        times: [k], each in [0, 1].
        n: The number of images (default: 24). The noise depends on the image alone.

    Returns:
        [k].
    """
    images, _, captions = data.batch(range(n), stage.config.unet.image_size)
    text, eps = encoder(captions), randn(range(n), images.shape[1:], "errors_at")
    return torch.stack(
        [stage.loss(images, text, t.expand(n), eps, weight=torch.ones_like).mean() for t in times]
    )


def diagnose_run(
    stage: DiffusionStage,
    ema: EMA,
    encoder: TextEncoder,
    data: Dataset,
    states: Sequence[TrainState],
    n: int = 128,
) -> list[Diagnostic]:
    """Return the diagnostics that `python -m train.report` makes of a run on disk.

    Args:
        stage: The trained stage.
        ema: The average of its weights.
        encoder: The text encoder.
        data: A data set with held-out samples.
        states: The state after each step.
        n: The number of held-out samples (default: 128).
    """
    log = [asdict(state) for state in states]
    own, numbers = measure_noise_bins(stage, encoder, data, range(n)), range(min(n, 8))
    with ema.average_parameters():
        averaged = measure_noise_bins(stage, encoder, data, range(n))
    weights = stage.net.state_dict()
    apart = sum(
        (weights[name] - average).square().sum() for name, average in ema.weights.items()
    ) / sum(w.square().sum() for w in ema.weights.values())
    return [
        check_loss(log),
        check_gradients(log),
        check_conditioning(averaged),
        check_color(averaged),
        check_saturation(averaged),
        check_average(own, averaged, apart.sqrt().item()),
        check_dead_parameters(gradient_norms(stage, encoder, data, numbers)),
    ]
