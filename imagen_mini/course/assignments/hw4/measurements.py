"""The numbers of assignment 4: drawn by the student's id, and measured with the student's code.

Students get this file as it is, and `figures.py` calls it. The grader calls it with the reference.
Weights that gradients with noise pull to a known place show what an average is good for. The other
figures are of images: of a network that the student trains, and of the shipped cascade `studio`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.base import Batch
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.models.unet import UNetConfig
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import SHAPES, SIZES, Scene, SceneObject, sample_free_position
from imagen_mini.scenes.world import WORLDS
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.ema import EMA
from imagen_mini.training.loop import TrainState, learning_rate, train, update_weights
from imagen_mini.training.optimizers import make_optimizers

HALF_LIVES = (2, 10, 50)
SCHEDULES = ("constant", "cooldown")
PULLED_STEPS = 300


def choices(student: str, purpose: str) -> random.Random:
    """A source of random choices for a student and a purpose."""
    return random.Random(f"hw4/{student.strip()}/{purpose}")


# ---------------------------------------------------------------- figure 1: averages


class Pulled(nn.Module):
    """A thousand weights. What pulls them is `target`, with noise."""

    def __init__(self, source: torch.Generator):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(1000, dtype=torch.float64))
        self.target = torch.randn(1000, generator=source, dtype=torch.float64)
        self.config = SimpleNamespace(name="pulled")

    def error(self, weights: torch.Tensor) -> float:
        """The mean squared distance of weights from the target."""
        return (weights - self.target).square().mean().item()


class GradientDescent:
    """Subtracts a multiple of the gradient: as much of an optimizer as `update_weights` needs.

    `torch.optim.SGD` does the same, but loads PyTorch's compiler with it: 150 MB and some seconds.
    """

    def __init__(self, weights: nn.Parameter):
        self.param_groups = [{"params": [weights], "lr": 0.0}]

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights by their gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad


def pulled_errors(student: str, schedule: str) -> list[dict[str, float]]:
    """After every step the error of the latest weights, and of averages with HALF_LIVES."""
    choice = choices(student, "average")
    source = torch.Generator().manual_seed(choice.randrange(2**31))
    noise, rate = choice.uniform(0.8, 1.6), choice.uniform(0.15, 0.3)
    config = TrainConfig(
        steps=PULLED_STEPS, learning_rate=rate, lr_schedule=schedule, warmup=20, cooldown=0.4
    )
    stage = Pulled(source)
    optimizers = {"descent": GradientDescent(stage.weights)}
    first, *others = averages = [EMA(stage, h) for h in HALF_LIVES]
    found = []
    for step in range(config.steps):
        pull = stage.weights.detach() - stage.target
        seen = noise * torch.randn(1000, generator=source, dtype=torch.float64)
        stage.weights.grad = pull + seen
        rate = learning_rate(config, step)
        update_weights(stage, optimizers, first, step, rate, 1e9, 0.0)  # type: ignore[arg-type]
        for average in others:
            average.update(step + 1)
        row = {"latest": stage.error(stage.weights.detach())}
        for h, average in zip(HALF_LIVES, averages):
            row[f"average_{h}"] = stage.error(average.weights["weights"])
        found.append(row)
    return found


def measure_average(student: str) -> dict[str, float]:
    """The errors in the middle and at the end, for two schedules of the learning rate."""
    found = {}
    for schedule in SCHEDULES:
        rows = pulled_errors(student, schedule)
        for step in (PULLED_STEPS // 3, PULLED_STEPS):
            found |= {f"{schedule}_{step}_{k}": v for k, v in rows[step - 1].items()}
    return found


MEASURED: dict[str, Callable[[str], dict[str, float]]] = {"average": measure_average}


# ---------------------------------------------------------------- figure 2: a network of one's own

TRAINED_ROWS = 2
ENOUGH_TRAINED = 3  # of 8 images, for all points
TRAINED_STEPS = 900


def objects_of(student: str) -> list[tuple[str, str]]:
    """The four kinds of objects, colour and shape, that the student's network learns."""
    source = choices(student, "trained")
    colors = source.sample(["red", "yellow", "green", "blue"], 4)
    return list(zip(colors, ("circle", "square", "circle", "square")))


def caption_of_kind(color: str, shape: str) -> str:
    """The caption of an image with one large object of this kind."""
    return f"a large {color} {shape} on a gray background"


def trained_captions(student: str) -> list[str]:
    """A caption for each kind of object."""
    return [caption_of_kind(*kind) for kind in objects_of(student)]


class FewObjects:
    """A data set without end: one large object of the student's kinds, anywhere on gray."""

    def __init__(self, student: str):
        self.student = student

    def batch(
        self, indices: Sequence[int], size: int, low_res_size: int | None = None, device=None
    ) -> Batch:
        """The samples with these indices."""
        scenes, captions = [], []
        for index in indices:
            source = choices(self.student, f"scene/{index}")
            color, shape = source.choice(objects_of(self.student))
            x, y = sample_free_position(source, SIZES["large"] * SHAPES[shape], [])
            kind = {"shape": shape, "color": color, "size": "large", "texture": "solid"}
            scenes.append(Scene((SceneObject(x=x, y=y, **kind),), "gray"))
            captions.append(caption_of_kind(color, shape))
        small = None if low_res_size is None else render(scenes, low_res_size, device)
        return Batch(render(scenes, size, device), small, captions)

    def describe(self) -> dict:
        """Where the data comes from."""
        return {"source": "a few objects", "student": self.student}


def start_training(student: str) -> tuple[DiffusionStage, EMA, TrainConfig, dict]:
    """A small base stage whose weights follow from the student's id, and what trains it."""
    unet = UNetConfig(
        patch=4,
        channels=(32, 64, 96),
        blocks=(1, 1, 1),
        attention=("", "cross", "self+cross"),
        head_dim=16,
        text_layers=1,
    )
    config = TrainConfig(
        steps=TRAINED_STEPS,
        batch_size=16,
        learning_rate=8e-3,
        warmup=20,
        cooldown=0.4,
        ema_half_life=60,
        pooled_drop_prob=0.0,
        loss_weight="sqrt_snr",
        loss_cap=60.0,
    )
    torch.manual_seed(choices(student, "weights").randrange(2**31))
    stage = DiffusionStage(replace(PRESETS["mini"]["base"], unet=unet, num_inference_steps=16))
    stage = stage.to(memory_format=torch.channels_last)
    optimizers = make_optimizers(
        stage.net, config.optimizer, config.learning_rate, config.betas, config.weight_decay
    )
    return stage, EMA(stage.net, config.ema_half_life), config, optimizers


def training(
    student: str, encoder: TextEncoder
) -> Iterator[tuple[DiffusionStage, EMA, TrainState]]:
    """Train the student's stage, and yield it after every step."""
    stage, ema, config, optimizers = start_training(student)
    for state in train(stage, encoder, config, optimizers, ema, data=FewObjects(student)):
        yield stage, ema, state


# ---------------------------------------------------------------- figures 3 and 4: the cascade

STUDIO = WORLDS["studio"]
# The rows of the figure `cascade`: is the small image coarsened, and the level of its augmentation
# (None: that of the stage).
ROWS: dict[str, tuple[bool, float | None]] = {
    "cascade": (False, None),
    "coarse_0": (True, 0.0),
    "coarse_0_3": (True, 0.3),
}
IMAGES = 4  # captions of a student
ENOUGH_CORRECT = 2  # of these, in the row of the cascade, for all points
COARSE = 4  # pixels of the small image that become one


def captions_of(student: str) -> list[tuple[str, int]]:
    """The student's captions, with the seeds of their images."""
    source = choices(student, "cascade")
    colors = source.sample(["red", "blue", "green", "yellow", "purple", "orange"], IMAGES)
    shapes = source.sample(["circle", "square", "star", "ring", "cross"], IMAGES)
    textures = [source.choice(["solid", "striped", "dotted", "checkered"]) for _ in colors]
    captions = [f"a small {' '.join(words)}" for words in zip(textures, colors, shapes)]
    return [(caption, source.randrange(1000)) for caption in captions]


def coarsened(small: Tensor) -> Tensor:
    """Images as if they had only a quarter of their pixels in each direction, at the same size."""
    return F.interpolate(F.avg_pool2d(small, COARSE), scale_factor=COARSE)


def blockiness(images: Tensor) -> float:
    """How much of the coarse pixels is left in images of 256 px: 1 is nothing.

    It is how far colours jump, on average, across the borders of the coarse pixels, over how far
    they jump across the other borders of small pixels; and of that the mean over images.
    """
    across = (images[..., 1:] - images[..., :-1]).abs().mean((1, 2))
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean((1, 3))
    place = torch.arange(1, images.shape[-1])
    small, coarse = place % 4 == 0, place % (4 * COARSE) == 0
    jumps = across + down
    return (jumps[:, coarse].mean(1) / jumps[:, small & ~coarse].mean(1)).mean().item()


def read_images(student: str, table: Tensor) -> dict[str, float]:
    """What is read in each row of a table: how many images show their caption, by the judge of the
    world; and the blockiness of all images.

    Args:
        student: Whose images they are.
        table: The table [3, 256 rows, 256 images] in [-1, 1]: a column for each caption, a row for
            each of ROWS.
    """
    captions = [caption for caption, _ in captions_of(student)]
    tiles = table.unfold(1, 256, 256).unfold(2, 256, 256)
    found = {}
    for row, name in enumerate(ROWS):
        images = tiles[:, row].transpose(0, 1).contiguous()
        found[f"{name}_correct"] = sum(map(bool, judge_images(captions, images, STUDIO)))
        found[f"{name}_blockiness"] = blockiness(images)
    return found


# ---------------------------------------------------------------- written answers


def given_numbers(student: str) -> dict[str, float]:
    """What is given in the written questions."""
    source = choices(student, "written")
    return {
        "g": round(source.uniform(0.8, 2.0), 2),
        "k": round(source.uniform(3.0, 12.0), 1),
        "b": source.randrange(4, 65),
    }
