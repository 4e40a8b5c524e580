"""Edits by the exact parser: does a changed prompt change what it should, and nothing else?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from imagen_mini.evaluation.benchmark import held_out_relation, random_object, related
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.scenes.captions import Caption, Description, ObjectDescription, caption_from
from imagen_mini.scenes.parse import ParsedScene, parse_image
from imagen_mini.scenes.render import masks
from imagen_mini.scenes.scene import BACKGROUNDS, HELD_OUT_COLOR_SHAPE, SceneObject
from imagen_mini.utils.morphology import dilate, erode

TOLERANCE = 3  # in 1/64 of the width: what counts as the same place


SWAPPED, ADDED = ("color", "shape"), ("color", "size", "background")


@dataclass(frozen=True)
class EditTask:
    """An edit to be made and judged: from prompt `source` to prompt `target`, `attribute` of thing
    `obj` becomes another value, or is said where it was not; of the whole image (thing None) its
    background.
    """

    attribute: str  # color, shape, size or background
    obj: int | None
    seed: int
    source: Caption
    target: Caption


def swaps(attribute: str, n: int, seed: int = 0) -> list[EditTask]:
    """`n` swaps of colours or shapes, half on one thing, half on two related ones. Source and
    target differ in one word.
    """
    out: list[EditTask] = []
    while len(out) < n:
        i = len(out)
        rng = random.Random(f"swap/{seed}/{attribute}/{i}")
        source = Description((random_object(rng, "color"),)) if i % 2 == 0 else related(rng)
        which = rng.randrange(len(source.objects))
        old = source.objects[which]
        others = [t for k, t in enumerate(source.objects) if k != which]
        while True:
            new = random_object(rng, "color", shape=None if attribute == "shape" else old.shape)
            new = ObjectDescription(new.shape, new.color if attribute == "color" else old.color)
            if (
                getattr(new, attribute) != getattr(old, attribute)
                and (new.color, new.shape) not in HELD_OUT_COLOR_SHAPE
                and all(getattr(new, attribute) != getattr(t, attribute) for t in others)
            ):
                target = Description(
                    tuple(new if k == which else t for k, t in enumerate(source.objects)),
                    source.relation,
                )
                if target.relation is None or not held_out_relation(target):
                    break
        style = rng.random()
        captions = [caption_from(d, random.Random(style)) for d in (source, target)]
        out.append(EditTask(attribute, which, seed * 1000 + i, *captions))
    return out


def additions(attribute: str, n: int, seed: int = 0) -> list[EditTask]:
    """`n` prompts to which a colour, a size or a background is added, half on one thing, half on
    two related ones. What was not said before was drawn somehow, and may by chance be what is now
    asked for.
    """
    out = []
    for i in range(n):
        rng = random.Random(f"addition/{seed}/{attribute}/{i}")
        target = Description((random_object(rng, "color"),)) if i % 2 == 0 else related(rng)
        which = None if attribute == "background" else rng.randrange(len(target.objects))
        if attribute == "background":
            target = replace(target, background=rng.choice(tuple(BACKGROUNDS)))
            source = replace(target, background=None)
        else:
            said = (
                getattr(random_object(rng, attribute), attribute)
                if attribute == "size"
                else target.objects[which].color
            )
            source, target = (
                replace(
                    target,
                    objects=tuple(
                        replace(t, **{attribute: value}) if k == which else t
                        for k, t in enumerate(target.objects)
                    ),
                )
                for value in (None, said)
            )
        while True:  # put both in the same words
            style = rng.random()
            captions = [caption_from(d, random.Random(style)) for d in (source, target)]
            before, after = (c.text.replace(",", "").split() for c in captions)
            if _is_part_of(before, after) and len(after) - len(before) == (
                4 if attribute == "background" else 1
            ):
                break
        out.append(EditTask(attribute, which, seed * 1000 + i, *captions))
    return out


def edit_tasks(n: int, seed: int = 0) -> dict[str, list[EditTask]]:
    """`n` edits of each kind, by its name; `edit_benchmark.tsv` holds the first 30 of each."""
    return {f"{a} swap": swaps(a, n, seed) for a in SWAPPED} | {
        f"{a} added": additions(a, n, seed) for a in ADDED
    }


def _is_part_of(words: list[str], longer: list[str]) -> bool:
    """Are these words all in the longer list, in this order? "a" and "an" are one word: a new
    adjective may change it.
    """
    rest = iter("a" if w == "an" else w for w in longer)
    return all(("a" if w == "an" else w) in rest for w in words)


@dataclass(frozen=True)
class EditScore:
    """How one edit went. `success`: the target caption holds. `layout`: every other object is
    unchanged and every place is, the edited object's too. `kept`: what is more, the background and
    the edited object's other attributes are unchanged (its size, say). `psnr`: how alike the images
    are in dB away from what was to be edited; None if one of them cannot be read.
    """

    source_right: bool
    success: bool
    layout: bool
    kept: bool
    psnr: float | None = field(default=None, compare=False)

    @property
    def good(self) -> bool:
        return self.success and self.layout


def same_place(a, b) -> bool:
    return abs(a.x - b.x) <= TOLERANCE and abs(a.y - b.y) <= TOLERANCE


def score_edit(task: EditTask, source: ParsedScene, edited: ParsedScene) -> EditScore:
    """Judge an edit by the readings of both images."""
    objects = task.source.description.assign(source.scene) if source.scene is not None else None
    success = task.target.description.fits(edited.scene)
    if objects is None or edited.scene is None or len(edited.scene.objects) != len(objects):
        return EditScore(objects is not None, success, False, False)
    attributes, remaining = ("shape", "color", "size", "texture"), list(edited.scene.objects)
    for other in (o for i, o in enumerate(objects) if i != task.obj):
        same = [
            o
            for o in remaining
            if same_place(other, o)
            and all(getattr(other, name) == getattr(o, name) for name in attributes)
        ]
        if not same:
            return EditScore(True, success, False, False)
        remaining.remove(same[0])
    same_background = (
        task.attribute == "background" or edited.scene.background == source.scene.background
    )
    if task.obj is None:
        return EditScore(True, success, True, same_background)
    before, (after,) = objects[task.obj], remaining
    layout = same_place(before, after)
    return EditScore(
        True,
        success,
        layout,
        layout
        and same_background
        and all(
            getattr(before, name) == getattr(after, name)
            for name in attributes
            if name != task.attribute
        ),
    )


def unedited_psnr(
    task: EditTask, source: ParsedScene, edited: ParsedScene, images: Tensor
) -> float | None:
    """Peak signal to noise ratio in dB of two images [2, 3, h, w] in [-1, 1], at most 60, over the
    pixels that the edit should have left alone: all but those of the edited object, before and
    after, and a rim of one pixel in 64; of an edit of the background, those of the objects. None if
    an image cannot be read, or if the source does not show its prompt.
    """
    objects = task.source.description.assign(source.scene) if source.scene is not None else None
    if objects is None or edited.scene is None:
        return None
    size = images.shape[-1]

    def covered(scene, chosen: list[SceneObject], rim: int) -> Tensor:
        of_objects = masks(scene, size)[[scene.objects.index(o) for o in chosen]].any(0)
        return dilate(of_objects[None], rim)[0]

    rim = size // 64
    if task.obj is None:
        left_alone = erode(covered(source.scene, list(objects), 0)[None], rim)[0]
    else:
        before = objects[task.obj]
        nearest = sorted(
            edited.scene.objects, key=lambda o: math.dist((o.x, o.y), (before.x, before.y))
        )[:1]
        left_alone = ~(covered(source.scene, [before], rim) | covered(edited.scene, nearest, rim))
    error = (images[0] - images[1]).square().mean(0)[left_alone].mean().item()
    return min(60.0, 10 * math.log10(4 / max(error, 1e-12)))


def evaluate_edits(
    generate: Callable[[list[str], int], Tensor], tasks: list[EditTask]
) -> Iterator[tuple[EditTask, Tensor, tuple[EditScore, ...]]]:
    """Make each edit and judge it. `generate([source, target], seed)` gives the source's image,
    then the target's by each method that is compared, [1 + methods, 3, h, w]; yields one score a
    method.
    """
    for task in tasks:
        images = generate([task.source.text, task.target.text], task.seed).float().cpu()
        source, *edited = parse_image(images)
        yield (
            task,
            images,
            tuple(
                replace(
                    score_edit(task, source, parsed),
                    psnr=unedited_psnr(task, source, parsed, torch.stack([images[0], image])),
                )
                for parsed, image in zip(edited, images[1:])
            ),
        )


def edit_table(scores: list[EditScore]) -> dict[str, float | None]:
    """Rates over the edits whose source image was right to begin with, the interval of `good`, and
    the mean PSNR of what was to be left alone.
    """
    of = [s for s in scores if s.source_right]
    good = sum(s.good for s in of)
    low, high = wilson_interval(good, len(of))
    pixels = [s.psnr for s in of if s.psnr is not None]

    def rate(values) -> float:
        return round(sum(values) / max(1, len(of)), 4)

    return {
        "n": len(scores),
        "source_right": len(of),
        "success": rate(s.success for s in of),
        "layout": rate(s.layout for s in of),
        "good": rate(s.good for s in of),
        "good_low": round(low, 4),
        "good_high": round(high, 4),
        "all_kept": rate(s.success and s.kept for s in of),
        "psnr": None if not pixels else round(sum(pixels) / len(pixels), 1),
    }
