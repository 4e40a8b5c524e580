"""The numbers of assignment 5: drawn by the student's id, and measured with the student's code.

Students get this file as it is, and `figures.py` calls it. The grader calls it with the reference.
The network of the figure `maps` is small and has random weights in float64, so that its numbers are
exact. The shipped weights make the edits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from imagen_mini.editing.base import Edit
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Refine, Replace, Reweight
from imagen_mini.evaluation.edit_benchmark import EditTask, score_edit, swaps
from imagen_mini.models.unet import UNet, UNetConfig
from imagen_mini.scenes.parse import parse_image
from imagen_mini.text.encoder import TextEmbeddings, Tokens

IMAGE_SIZE = 64
WIDTH = 16  # of the small network's text
EDITS = 4
# the rows of the figure `edits` below the sources: how each is made; None is the same seed alone
METHODS: dict[str, Edit | None] = {
    "same_seed": None,
    "switching": PromptSwitching(0.8),
    "attention": Replace(),
}
ROWS = ("source", *METHODS)
ENOUGH_EDITS = 2  # of EDITS, for all points
# Seeds of lists of edits. The reference edits three or four of each by attention, so that correct
# functions have one to spare. Left out are 2, 10 and 28, of which it edits two, and 12 and 24, of
# which it does so with longer windows.
LISTS = tuple(seed for seed in range(36) if seed not in (2, 10, 12, 24, 28))
PIECES = {"turquoise": ["▁tur", "quo", "ise"], "rhombus": ["▁r", "hom", "bus"]}


def choices(student: str, purpose: str) -> random.Random:
    """A source of random choices for a student and a purpose."""
    return random.Random(f"hw5/{student.strip()}/{purpose}")


# ---------------------------------------------------------------- figure 1: maps


def cut(text: str) -> Tokens:
    """The tokens of a prompt, as a tokenizer cuts it, with the end token."""
    words = tuple(text.split())
    pieces: list[str] = []
    of_word: list[int | None] = []
    for number, word in enumerate(words):
        here = PIECES.get(word, ["▁" + word])
        pieces += here
        of_word += [number] * len(here)
    pieces.append("</s>")
    return Tokens(tuple(range(len(pieces))), tuple(pieces), (*of_word, None), words)


def prompts_of(student: str) -> tuple[str, str, str]:
    """A source prompt, one in which a word is swapped, and one to which words are added."""
    source = choices(student, "maps")
    color, shape = source.choice(["red", "blue", "green"]), source.choice(["ring", "star", "cross"])
    first = f"a {color} {shape} above a black square"
    return first, first.replace(shape, "rhombus"), first.replace("a black", "a large turquoise")


def small_network(student: str) -> tuple[UNet, Tensor]:
    """The student's network with random weights, and two equal noisy images [2, 3, 16, 16]."""
    source = torch.Generator().manual_seed(choices(student, "network").randrange(2**31))
    config = UNetConfig(
        image_size=16,
        channels=(16, 32),
        blocks=(1, 2),
        attention=("cross", "self+cross"),
        head_dim=16,
        emb_dim=32,
        text_width=WIDTH,
        text_layers=1,
    )
    net = UNet(config).double().requires_grad_(False)
    for name, p in net.named_parameters():
        if p.ndim > 1:
            values = torch.randn(p.shape, generator=source, dtype=torch.float64)
            p.copy_(values / math.sqrt(p[0].numel()))
        elif name.endswith("bias"):
            p.zero_()
    x_t = torch.randn(1, 3, 16, 16, generator=source, dtype=torch.float64)
    return net, x_t.expand(2, -1, -1, -1)


def embed(student: str, prompts: list[Tokens]) -> TextEmbeddings:
    """Embeddings of prompts: each piece has its own, everywhere the same."""
    n = max(len(p.pieces) for p in prompts)
    emb = torch.zeros(len(prompts), n, WIDTH, dtype=torch.float64)
    mask = torch.zeros(len(prompts), n, dtype=torch.bool)
    for row, tokens in enumerate(prompts):
        mask[row, : len(tokens.pieces)] = True
        for i, piece in enumerate(tokens.pieces):
            numbers = choices(student, f"piece/{piece}")
            emb[row, i] = torch.tensor([numbers.gauss(0, 1) for _ in range(WIDTH)])
    return TextEmbeddings(emb, mask)


def distance_with(student: str, target: str, edit: Edit | None, done: float = 0.0) -> float:
    """How far the target's output is from the source's, with an edit in the step at `done`."""
    prompts = [cut(prompts_of(student)[0]), cut(target)]
    net, x_t = small_network(student)
    text, control = embed(student, prompts), None
    if edit is not None:
        bound = edit.bind(prompts, net.sites, text.mask.shape[1])
        control = bound.control_at(done)
    log_snr = torch.zeros(2, dtype=torch.float64)
    source, edited = net(x_t, log_snr, text, control=control)
    return (edited - source).square().mean().sqrt().item()


def measure_maps(student: str) -> dict[str, float]:
    """The distance for a swap and an addition: with no edit, with maps of words, with those of
    pixels, with both, and after the windows; and for several weights of a word.
    """
    _, swapped, added = prompts_of(student)
    found = {}
    for name, target, kind in (("swap", swapped, Replace), ("added", added, Refine)):
        found[f"{name}_none"] = distance_with(student, target, None)
        found[f"{name}_words"] = distance_with(student, target, kind(1.0, 0.0))
        found[f"{name}_pixels"] = distance_with(student, target, kind(0.0, 1.0))
        found[f"{name}_both"] = distance_with(student, target, kind(1.0, 1.0))
        by_word = kind({"default": 0.5, "square": 0.9}, 0.3)
        found[f"{name}_later"] = distance_with(student, target, by_word, done=0.6)
    for c in (-1.0, 0.0, 2.0):
        edit = Chain(Refine(1.0, 1.0), Reweight({"turquoise": c}))
        found[f"weight_{c:g}".replace("-", "minus_")] = distance_with(student, added, edit)
    return found


MEASURED: dict[str, Callable[[str], dict[str, float]]] = {"maps": measure_maps}


# ---------------------------------------------------------------- figures 2 and 3: edits


def edits_of(student: str) -> list[EditTask]:
    """The student's edits: in each the colour of an object is swapped."""
    return swaps("color", EDITS, seed=choices(student, "edits").choice(LISTS))


def read_edits(student: str, table: Tensor) -> dict[str, int]:
    """What the parser reads in the table of edits.

    Args:
        student: Whose edits they are.
        table: The table [3, 64 rows, 64 edits] in [-1, 1]: a column for each edit, a row for each
            of ROWS.

    Returns:
        How many sources are as captioned; and of these, for each method, how many images show the
        new prompt, how many keep the layout, and how many do both.
    """
    tiles = table.unfold(1, IMAGE_SIZE, IMAGE_SIZE).unfold(2, IMAGE_SIZE, IMAGE_SIZE)
    found = {"sources": 0}
    found |= {f"{method}_{what}": 0 for method in METHODS for what in ("shown", "kept", "both")}
    for column, task in enumerate(edits_of(student)):
        source, *edited = parse_image(tiles[:, :, column].transpose(0, 1).contiguous())
        for method, image in zip(METHODS, edited):
            score = score_edit(task, source, image)
            if score.counts:
                found[f"{method}_shown"] += score.success
                found[f"{method}_kept"] += score.layout
                found[f"{method}_both"] += score.good
        found["sources"] += score.counts
    return found


# ---------------------------------------------------------------- written answers


def given_numbers(student: str) -> dict[str, float]:
    """What is given in the written questions."""
    source = choices(student, "written")
    k, m = source.sample([1, 2, 3, 4], 2)
    n = source.randrange(12, 41)
    return {
        "p": round(source.uniform(0.02, 0.2), 3),
        "k": k,
        "m": m,
        "q": round(source.uniform(0.05, 0.4), 2),
        "c": round(source.uniform(1.2, 2.0), 1),
        "n": n,
        "kept": n - source.randrange(1, 6),
    }
