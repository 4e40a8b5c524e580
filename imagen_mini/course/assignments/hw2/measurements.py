"""The numbers of assignment 2: drawn by the student's id, and measured with the student's code.

Students get this file as it is, and `figures.py` calls it. The grader calls it with the reference.
The network here is small and has random weights in float64, so that its numbers are exact. The
shipped weights generate the images.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from imagen_mini.models.unet import UNet, UNetConfig
from imagen_mini.text.encoder import TextEmbeddings

IMAGE_SIZE = 64
ENOUGH_CORRECT = 6  # of 8 images, for all points
WORDS = 6
LEVELS = (-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 8.0)


def choices(student: str, purpose: str) -> random.Random:
    """A source of random choices for a student and a purpose."""
    return random.Random(f"hw2/{student.strip()}/{purpose}")


def small_network(student: str) -> tuple[UNet, Tensor, TextEmbeddings]:
    """The student's network with random weights, a noisy image [1, 3, 16, 16] and a text of WORDS
    words and two columns of padding.
    """
    source = torch.Generator().manual_seed(choices(student, "network").randrange(2**31))
    config = UNetConfig(
        image_size=16,
        channels=(16, 32),
        blocks=(1, 2),
        attention=("cross", "self+cross"),
        head_dim=16,
        emb_dim=32,
        text_width=16,
        text_layers=1,
    )
    net = UNet(config).double().requires_grad_(False)
    for name, p in net.named_parameters():
        if p.ndim > 1:
            values = torch.randn(p.shape, generator=source, dtype=torch.float64)
            p.copy_(values / math.sqrt(p[0].numel()))
        elif name.endswith("bias"):
            p.zero_()
    x_t, emb = (
        torch.randn(shape, generator=source, dtype=torch.float64)
        for shape in ((1, 3, 16, 16), (1, WORDS, 16))
    )
    text = TextEmbeddings(emb, torch.ones(1, WORDS, dtype=torch.bool))
    return net, x_t, text.pad(2)


# ---------------------------------------------------------------- figure 1: words


def measure_words(student: str) -> dict[str, float]:
    """By how much the output changes if a word is masked, for each word."""
    net, x_t, text = small_network(student)
    log_snr = torch.zeros(1, dtype=torch.float64)
    whole = net(x_t, log_snr, text)
    found = {}
    for word in range(WORDS):
        mask = text.mask.clone()
        mask[:, word] = False
        change = net(x_t, log_snr, TextEmbeddings(text.emb, mask)) - whole
        found[f"word_{word}"] = change.square().mean().sqrt().item()
    # padding that is read would change this one
    found["output"] = whole.square().mean().sqrt().item()
    return found


# ---------------------------------------------------------------- figure 2: noise levels


def measure_levels(student: str) -> dict[str, float]:
    """The size of the output at several noise levels, with the pooled text and without it."""
    net, x_t, text = small_network(student)
    found = {}
    for name, use in (("with", None), ("without", torch.zeros(1, dtype=torch.float64))):
        for level in LEVELS:
            log_snr = torch.full((1,), level, dtype=torch.float64)
            out = net(x_t, log_snr, text, use_pooled=use)
            found[f"{name}_{level:g}"] = out.square().mean().sqrt().item()
    return {k.replace("-", "minus_"): v for k, v in found.items()}


MEASURED: dict[str, Callable[[str], dict[str, float]]] = {
    "words": measure_words,
    "levels": measure_levels,
}


# ---------------------------------------------------------------- figure 3: the shipped cascade


def captions_for(student: str) -> list[tuple[str, int]]:
    """Four captions with the seeds of their images."""
    source = choices(student, "images")
    colors = source.sample(["red", "blue", "green", "yellow", "purple"], 4)
    shapes = source.sample(["circle", "square", "star", "ring", "cross"], 4)
    captions = [
        f"a small {colors[0]} {shapes[0]}",
        f"a {colors[1]} {shapes[1]}",
        f"a {colors[2]} {shapes[2]} to the right of a {colors[3]} {shapes[3]}",
        f"a {colors[0]} {shapes[3]} below a {colors[2]} {shapes[1]}",
    ]
    return [(caption, source.randrange(1000)) for caption in captions]


# ---------------------------------------------------------------- written answers


def given_numbers(student: str) -> dict[str, float]:
    """What is given in the written questions."""
    source = choices(student, "written")
    return {
        "c": source.choice([64, 96, 128, 192, 256, 320, 384]),
        "s": source.choice([0.7071, 0.8, 0.9]),
        "g": round(source.uniform(0.3, 0.9), 2),
        "blocks": source.randrange(6, 17),
        "delta": round(source.uniform(0.5, 2.5), 2),
        "n": source.randrange(4, 10),
        "m": source.randrange(10, 40),
    }
