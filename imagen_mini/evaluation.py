"""Scores by the exact parser: does the picture show what its caption says, and does an edit change that and nothing else?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .cascade import Stage, augment
from .randomness import randn
from .samplers import sample
from .scenes.captions import Caption, Description, Thing, write
from .scenes.parse import Reading, parse
from .scenes.render import render
from .scenes.scene import (BACKGROUNDS, COLORS, HELD_OUT_COLOR_SHAPE, HELD_OUT_COUNT, HELD_OUT_RELATIONS, HELD_OUT_TEXTURE_SHAPE, RELATIONS,
                           SHAPES, SIZES, TEXTURES, Object, Scene, free_place)
from .text import TextEncoder

TOLERANCE = 3                                          # in 1/64 of the width: what counts as the same place


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion. Source: Wilson (1927)."""
    if n == 0:
        return 0.0, 1.0
    p, zz = successes / n, z * z / n
    middle, half = p + zz / 2, z * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return max(0.0, (middle - half) / (1 + zz)), min(1.0, (middle + half) / (1 + zz))


# ---------------------------------------------------------------- prompts

def _thing(rng: random.Random, *said: str, shape: str | None = None) -> Thing:
    """A thing of the training distribution, with the named attributes said."""
    while True:
        thing = Thing(shape or rng.choice(tuple(SHAPES)), rng.choice(tuple(COLORS)) if "color" in said else None,
                      rng.choice(tuple(SIZES)) if "size" in said else None, rng.choice(TEXTURES) if "texture" in said else None)
        if (thing.color, thing.shape) not in HELD_OUT_COLOR_SHAPE and (thing.texture, thing.shape) not in HELD_OUT_TEXTURE_SHAPE:
            return thing


def _two(rng: random.Random, *said: str) -> tuple[Thing, Thing]:
    """Two things of different shape that differ in everything said."""
    while True:
        a, b = _thing(rng, *said), _thing(rng, *said)
        if a.shape != b.shape and all(getattr(a, s) != getattr(b, s) for s in said):
            return a, b


def _related(rng: random.Random) -> Description:
    while True:
        (a, b), relation = _two(rng, "color"), rng.choice(RELATIONS)
        d = Description((a, b), relation)
        if not _held_out_relation(d):
            return d


def _held_out_relation(d: Description) -> bool:
    a, b = d.things
    pairs = {(a.shape, d.relation, b.shape), (b.shape, {"right of": "left of", "below": "above"}.get(d.relation), a.shape)}
    return bool(pairs & HELD_OUT_RELATIONS)


def _conflicting(rng: random.Random) -> Description:
    """A large thing above a small one: against the training set's one regularity, and against nothing else."""
    while True:
        a, b = _two(rng, "color")
        d = Description((Thing(a.shape, a.color, "large"), Thing(b.shape, b.color, "small")), "above")
        if not _held_out_relation(d):
            return d


def _pick(rng: random.Random, pairs: frozenset) -> tuple:
    return rng.choice(sorted(pairs))


CATEGORIES: dict[str, Callable[[random.Random], Description]] = {
    "one object": lambda r: Description((_thing(r, "color", "size"),)),
    "colors": lambda r: Description((_thing(r, "color"),), background=r.choice(tuple(BACKGROUNDS))),
    "size": lambda r: Description(_two(r, "color", "size")),
    "binding": lambda r: Description(_two(r, "color")),
    "counting": lambda r: Description((_thing(r, "color"),) * r.randint(1, 4)),
    "positional": _related,
    "texture": lambda r: Description((_thing(r, "color", "texture"),)),
    "two textures": lambda r: Description(_two(r, "color", "texture")),
}
HELD_OUT_CATEGORIES: dict[str, Callable[[random.Random], Description]] = {
    "held-out color and shape": lambda r: Description((Thing((p := _pick(r, HELD_OUT_COLOR_SHAPE))[1], p[0]),)),
    "held-out texture and shape": lambda r: Description((Thing((p := _pick(r, HELD_OUT_TEXTURE_SHAPE))[1], r.choice(("orange", "pink")), None, p[0]),)),
    "held-out relation": lambda r: Description((Thing((p := _pick(r, HELD_OUT_RELATIONS))[0], "orange"), Thing(p[2], "pink")), p[1]),
    "held-out count": lambda r: Description((_thing(r, "color"),) * HELD_OUT_COUNT),
    "held-out phrase": _related,
    "conflicting": _conflicting,
}


def benchmark(n: int, seed: int = 0, categories: list[str] | None = None) -> list[tuple[str, int, Caption]]:
    """(category, seed of the picture, caption): `n` of each category, the same for the same seed, none used in training."""
    known = CATEGORIES | HELD_OUT_CATEGORIES
    chosen = list(known) if categories is None else categories
    if unknown := set(chosen) - set(known):
        raise ValueError(f"unknown categories {sorted(unknown)}; there are {', '.join(known)}")
    out = []
    for category in chosen:
        for i in range(n):
            rng = random.Random(f"benchmark/{seed}/{category}/{i}")
            caption = write(known[category](rng), rng, paraphrase=category == "held-out phrase")
            out.append((category, 1000 * seed + i, caption))
    return out


# ---------------------------------------------------------------- text alignment

@dataclass(frozen=True)
class Result:
    """One picture and its verdict."""

    category: str
    seed: int
    caption: Caption
    image: Tensor                                      # [3, h, w] in [-1, 1]
    reading: Reading

    @property
    def right(self) -> bool:
        return self.caption.description.fits(self.reading.scene)


def verdict(description: Description, reading: Reading) -> str:
    """In words: right, or what was read instead."""
    if reading.scene is None:
        return "unreadable: " + "; ".join(reading.problems)
    return "right" if description.fits(reading.scene) else "wrong: shows " + in_words(reading.scene)


def in_words(scene: Scene) -> str:
    """What a scene holds, briefly."""
    things = ", ".join(" ".join(filter(None, (o.size, o.texture, o.color, o.shape))) + f" at ({o.x}, {o.y})" for o in scene.objects)
    return (things or "nothing") + f" on {scene.background}"


def evaluate(draw: Callable[[list[str], list[int]], Tensor], prompts: list[tuple[str, int, Caption]], batch: int = 16) -> Iterator[Result]:
    """Draw every prompt and judge it. `draw(prompts, seeds)` gives pictures [b, 3, h, w] in [-1, 1]."""
    for start in range(0, len(prompts), batch):
        part = prompts[start:start + batch]
        images = draw([c.text for _, _, c in part], [seed for _, seed, _ in part])
        for (category, seed, caption), image, reading in zip(part, images, parse(images.float().cpu())):
            yield Result(category, seed, caption, image, reading)


def score(results: list[Result]) -> dict[str, float]:
    """n, right, accuracy, its Wilson 95 % interval, and how many pictures could not be read."""
    right = sum(r.right for r in results)
    low, high = wilson_interval(right, len(results))
    return {"n": len(results), "right": right, "accuracy": round(right / len(results), 4), "low": round(low, 4), "high": round(high, 4),
            "unreadable": sum(r.reading.scene is None for r in results)}


def table(results: list[Result]) -> dict[str, dict[str, float]]:
    """`score` of each category."""
    return {category: score([r for r in results if r.category == category]) for category in dict.fromkeys(r.category for r in results)}


def draw_alone(stage: Stage, encoder: TextEncoder, captions: list[str], seeds: list[int], low_res: Tensor | None = None) -> Tensor:
    """Pictures [b, 3, size, size] in [-1, 1] by one stage without the others; super-resolution is given true low-resolution pictures."""
    size, name, device = stage.config.unet.image_size, stage.config.name, next(stage.parameters()).device
    level = None
    if low_res is not None:
        level = torch.full((len(captions),), stage.config.aug_level, device=device)
        low_res = augment(low_res, level, randn(seeds, low_res.shape[1:], "preview", device=device))
    *_, last = sample(stage.denoiser(encoder(captions), low_res, level), randn(seeds, (3, size, size), name, "x_T", device=device), stage.times(),
                      stage.log_snr_of, stage.config.sampler, lambda step: randn(seeds, (3, size, size), name, "step", step, device=device))
    return last.x_0_hat.clamp(-1, 1)


def preview(stage: Stage, encoder: TextEncoder, n: int = 4, categories: list[str] | None = None) -> list[Result]:
    """A quick look at one stage: `n` captions of some categories."""
    low = stage.config.unet.low_res_size
    usual = ["one object", "binding", "counting", "positional"] if low is None else ["texture", "two textures"]
    prompts = benchmark(n, seed=1, categories=categories or usual)

    scenes = [scene_of(c.description, random.Random(c.text)) for _, _, c in prompts]
    low_res = None if low is None else render(scenes, low, next(stage.parameters()).device)
    return list(evaluate(lambda captions, seeds: draw_alone(stage, encoder, captions, seeds, low_res), prompts, batch=len(prompts)))


def scene_of(description: Description, rng: random.Random) -> Scene:
    """A random scene that the description fits."""
    while True:
        objects: list[Object] = []
        for thing in description.things:
            size, texture = thing.size or rng.choice(tuple(SIZES)), thing.texture or rng.choice(TEXTURES)
            where = free_place(rng, SIZES[size] * SHAPES[thing.shape], objects)
            if where is not None:
                objects.append(Object(x=where[0], y=where[1], shape=thing.shape, color=thing.color or rng.choice(tuple(COLORS)), size=size, texture=texture))
        scene = Scene(tuple(objects), description.background or rng.choice(tuple(BACKGROUNDS)))
        if description.fits(scene):
            return scene


# ---------------------------------------------------------------- edits

@dataclass(frozen=True)
class Swap:
    """A word swap on a caption of one or two things: in thing `thing`, `attribute` becomes another value."""

    attribute: str                                     # color or shape
    thing: int
    seed: int
    source: Caption
    target: Caption


def swaps(attribute: str, n: int, seed: int = 0) -> list[Swap]:
    """`n` swaps of colours or shapes, half on one thing, half on two related ones. Source and target differ in one word."""
    out: list[Swap] = []
    while len(out) < n:
        i = len(out)
        rng = random.Random(f"swap/{seed}/{attribute}/{i}")
        source = Description((_thing(rng, "color"),)) if i % 2 == 0 else _related(rng)
        which = rng.randrange(len(source.things))
        old = source.things[which]
        others = [t for k, t in enumerate(source.things) if k != which]
        while True:
            new = _thing(rng, "color", shape=None if attribute == "shape" else old.shape)
            new = Thing(new.shape, new.color if attribute == "color" else old.color)
            if (getattr(new, attribute) != getattr(old, attribute) and (new.color, new.shape) not in HELD_OUT_COLOR_SHAPE
                    and all(getattr(new, attribute) != getattr(t, attribute) for t in others)):
                target = Description(tuple(new if k == which else t for k, t in enumerate(source.things)), source.relation)
                if target.relation is None or not _held_out_relation(target):
                    break
        style = rng.random()
        captions = [write(d, random.Random(style)) for d in (source, target)]
        out.append(Swap(attribute, which, seed * 1000 + i, *captions))
    return out


@dataclass(frozen=True)
class EditScore:
    """How one edit went. `success`: the target caption holds. `layout`: every other object is unchanged and every place is, the edited
    object's too. `kept`: what is more, the background and the edited object's other attributes are unchanged (its size, say)."""

    source_right: bool
    success: bool
    layout: bool
    kept: bool

    @property
    def good(self) -> bool:
        return self.success and self.layout


def same_place(a, b) -> bool:
    return abs(a.x - b.x) <= TOLERANCE and abs(a.y - b.y) <= TOLERANCE


def score_edit(swap: Swap, source: Reading, edited: Reading) -> EditScore:
    """Judge an edit by the readings of both pictures."""
    objects = swap.source.description.assign(source.scene) if source.scene is not None else None
    success = swap.target.description.fits(edited.scene)
    if objects is None or edited.scene is None or len(edited.scene.objects) != len(objects):
        return EditScore(objects is not None, success, False, False)
    attributes, remaining = ("shape", "color", "size", "texture"), list(edited.scene.objects)
    before = objects[swap.thing]
    for other in (o for i, o in enumerate(objects) if i != swap.thing):
        same = [o for o in remaining if same_place(other, o) and all(getattr(other, name) == getattr(o, name) for name in attributes)]
        if not same:
            return EditScore(True, success, False, False)
        remaining.remove(same[0])
    (after,) = remaining
    layout = same_place(before, after)
    kept = edited.scene.background == source.scene.background and all(
        getattr(before, name) == getattr(after, name) for name in attributes if name != swap.attribute)
    return EditScore(True, success, layout, layout and kept)


def evaluate_edits(draw: Callable[[list[str], int], Tensor], list_of_swaps: list[Swap]) -> Iterator[tuple[Swap, Tensor, tuple[EditScore, ...]]]:
    """Draw each swap and judge it. `draw([source, target], seed)` gives the source's picture, then the target's by each method that
    is compared, [1 + methods, 3, h, w]; yields one score a method."""
    for swap in list_of_swaps:
        images = draw([swap.source.text, swap.target.text], swap.seed)
        source, *edited = parse(images.float().cpu())
        yield swap, images, tuple(score_edit(swap, source, reading) for reading in edited)


def edit_table(scores: list[EditScore]) -> dict[str, float]:
    """Rates over the edits whose source picture was right to begin with, and the interval of `good`."""
    of = [s for s in scores if s.source_right]
    good = sum(s.good for s in of)
    low, high = wilson_interval(good, len(of))

    def rate(values) -> float:
        return round(sum(values) / max(1, len(of)), 4)

    return {"n": len(scores), "source_right": len(of), "success": rate(s.success for s in of), "layout": rate(s.layout for s in of),
            "good": rate(s.good for s in of), "good_low": round(low, 4), "good_high": round(high, 4),
            "all_kept": rate(s.success and s.kept for s in of)}
