"""Data set: flags of two colours, one above the other or side by side. Does a small network learn
from captions which colour is where, and not only which colours there are?

The ablation has no attention to words: the caption is one pooled vector.

    python run.py            # trains three times and writes verdicts.tsv; some minutes on two cores
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.sampling import sample_from_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.base import Batch
from imagen_mini.models.unet import UNetConfig
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.ema import EMA
from imagen_mini.training.loop import train
from imagen_mini.training.optimizers import make_optimizers

COLORS = {
    "red": (0.9, -0.8, -0.8), "green": (-0.8, 0.5, -0.8), "blue": (-0.8, -0.6, 0.9),
    "yellow": (0.9, 0.8, -0.8), "white": (0.95, 0.95, 0.95), "black": (-0.95, -0.95, -0.95),
}  # fmt: skip
PLACES = ("above", "to the left of")
SIZE, N, STEPS = 16, 48, 300
SCHEDULE = {"learning_rate": 8e-3, "warmup": 20, "cooldown": 0.4, "ema_half_life": 40}


class Flags:
    """A data set without end. A flag is a function of its number and the seed.

    Args:
        seed: Of the flags.
        shuffled: Each image has the caption of the next one in the batch: the control.
    """

    def __init__(self, seed: int, shuffled: bool = False):
        self.seed, self.shuffled = seed, shuffled

    def flag(self, number: int) -> tuple[str, str, str]:
        """First colour, place, second colour."""
        rng = random.Random(f"flag/{self.seed}/{number}")
        first, second = rng.sample(sorted(COLORS), 2)
        return first, rng.choice(PLACES), second

    def image(self, flag: tuple[str, str, str]) -> Tensor:
        """The flag [3, SIZE, SIZE]."""
        first, second = (torch.tensor(COLORS[flag[i]])[:, None, None] for i in (0, 2))
        here = torch.arange(SIZE) < SIZE // 2
        mask = here[:, None] if flag[1] == "above" else here[None, :]
        return torch.where(mask.expand(SIZE, SIZE), first, second)

    def batch(
        self, indices: Sequence[int], size: int, low_res_size: int | None = None, device=None
    ) -> Batch:
        """The samples with these indices."""
        flags = [self.flag(i) for i in indices]
        captions = [" ".join(flag) for flag in flags]
        if self.shuffled:
            captions = captions[1:] + captions[:1]
        return Batch(torch.stack([self.image(f) for f in flags]), None, captions)

    def describe(self) -> dict:
        """Where the data comes from."""
        return {"source": "flags", "seed": self.seed, "shuffled": self.shuffled}


def shows(image: Tensor, flag: tuple[str, str, str]) -> bool:
    """Whether an image is this flag: every half is nearest to its colour, and close to it."""
    half = SIZE // 2
    halves = (
        (image[:, :half], image[:, half:])
        if flag[1] == "above"
        else (image[:, :, :half], image[:, :, half:])
    )
    known = torch.tensor(list(COLORS.values()))
    for part, wanted in zip(halves, (flag[0], flag[2])):
        distances = (part.mean((1, 2)) - known).norm(dim=1)
        spread = part.flatten(1).std(1).mean()
        if list(COLORS)[int(distances.argmin())] != wanted or distances.min() + spread > 0.7:
            return False
    return True


def trained(
    data: Flags, encoder: TextEncoder, attention: tuple[str, str] = ("cross", "self+cross")
) -> DiffusionStage:
    """A small stage, trained on a data set, with the average of its weights."""
    torch.manual_seed(0)
    unet = UNetConfig(
        image_size=SIZE, patch=2, channels=(48, 64), blocks=(1, 1),
        attention=attention, head_dim=16, text_layers=1,
    )  # fmt: skip
    base = PRESETS["mini"]["base"]
    stage = DiffusionStage(replace(base, unet=unet, log_snr_shift=-2.0, num_inference_steps=16))
    config = TrainConfig(steps=STEPS, batch_size=32, pooled_drop_prob=0.0, **SCHEDULE)
    optimizers = make_optimizers(
        stage.net, config.optimizer, config.learning_rate, config.betas, config.weight_decay
    )
    ema = EMA(stage.net, config.ema_half_life)
    for state in train(stage, encoder, config, optimizers, ema, data=data):
        if state.step % 50 == 0:
            print(f"step {state.step}, loss {state.loss:.3f}", flush=True)
    stage.net.load_state_dict(ema.weights)
    return stage.eval()


def main() -> None:
    """Train on true and on shuffled captions, and write what both make of new captions."""
    encoder = ImagenPipeline.from_pretrained("scenes").text_encoder
    held_out = Flags(seed=1)
    flags = [held_out.flag(i) for i in range(N)]
    captions, verdicts = [" ".join(flag) for flag in flags], []
    arms = {
        "shuffled": (Flags(seed=0, shuffled=True), ("cross", "self+cross")),
        "captions": (Flags(seed=0), ("cross", "self+cross")),
        "pooled": (Flags(seed=0), ("", "self")),
    }
    for name, (data, attention) in arms.items():
        stage = trained(data, encoder, attention)
        images = sample_from_stage(stage, encoder(captions), list(range(N)))
        verdicts.append([shows(image, flag) for image, flag in zip(images, flags)])
        print(f"{name}: {sum(verdicts[-1])} of {N}", flush=True)
    rows = ["\t".join(["prompt", "seed", *arms])]
    for i, (caption, *found) in enumerate(zip(captions, *verdicts)):
        rows.append("\t".join([caption, str(i), *(str(int(v)) for v in found)]))
    Path(__file__).with_name("verdicts.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
