"""Edits scored by the judge of their world: is the requested change made, and nothing else
changed?
"""

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
from imagen_mini.scenes.parse import UNCLEAR, ParsedScene
from imagen_mini.scenes.render import masks
from imagen_mini.scenes.scene import BACKGROUNDS, HELD_OUT_COLOR_SHAPE, SceneObject
from imagen_mini.scenes.world import SCENES, World
from imagen_mini.utils.morphology import dilate, erode

TOLERANCE = 3  # largest shift of an unchanged position, in 1/64 of the width
SWAPPED, ADDED = ("color", "shape"), ("color", "size", "background")


@dataclass(frozen=True)
class EditTask:
    """An edit to be made and scored: an attribute is swapped or added between two prompts.

    Args:
        attribute: "color", "shape", "size", "texture", "material" or "background".
        obj: The number of the edited object in the prompt; None: the background.
        seed: The seed of the images.
        source: The caption before the edit.
        target: The caption after it.
    """

    attribute: str
    obj: int | None
    seed: int
    source: Caption
    target: Caption


def swaps(attribute: str, n: int, seed: int = 0) -> list[EditTask]:
    """Generate word swaps, half with one object, half with two related ones.

    Args:
        attribute: "color" or "shape".
        n: Number of edits.
        seed: Seed of the list (default 0).

    Returns:
        Tasks whose source and target differ in one word.
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


def additions(attribute: str, n: int, seed: int = 0, world: World = SCENES) -> list[EditTask]:
    """Generate prompts to which an attribute is added, half with one object, half with two related
    ones. The source image has some value of it, which can by chance equal the added one: such edits
    do not count (see `EditScore.asked`).

    Args:
        attribute: "color", "size", "texture", "material" (in a world that has some) or
            "background".
        n: Number of edits.
        seed: Seed of the list (default 0).
        world: The world whose words the captions have (default: `scenes`).

    Returns:
        Tasks whose target has the words of the source and one attribute more.
    """
    out = []
    for i in range(n):
        rng = random.Random(f"addition/{seed}/{attribute}/{i}")
        target = Description((random_object(rng, "color"),)) if i % 2 == 0 else related(rng)
        which = None if attribute == "background" else rng.randrange(len(target.objects))
        if attribute == "background":
            target = replace(target, background=rng.choice(world.vocabulary.backgrounds))
            source = replace(target, background=None)
        else:
            if attribute == "color":
                said = target.objects[which].color
            else:  # one that the shape has in training
                shape = target.objects[which].shape if attribute == "texture" else None
                said = getattr(random_object(rng, attribute, shape=shape), attribute)
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
        while True:  # phrase both captions with the same words
            style = rng.random()
            captions = [caption_from(d, random.Random(style)) for d in (source, target)]
            before, after = (c.text.replace(",", "").split() for c in captions)
            expected = (1,)
            if attribute == "background":  # "on a white background", or of a surface "on wood"
                expected = (4,) if target.background in BACKGROUNDS else (2, 4)
            if _is_part_of(before, after) and len(after) - len(before) in expected:
                break
        out.append(EditTask(attribute, which, seed * 1000 + i, *captions))
    return out


def edit_tasks(n: int, seed: int = 0, world: World = SCENES) -> dict[str, list[EditTask]]:
    """Return edits of each kind. `edit_benchmark.tsv` lists the first 30 of each, in the world
    `scenes`.

    Args:
        n: Number of edits of each kind.
        seed: Seed of the lists (default 0).
        world: The world whose words the captions have (default: `scenes`). One with materials has
            a kind more.

    Returns:
        The tasks by the name of their kind, for example "color swap" or "size added".
    """
    return {f"{a} swap": swaps(a, n, seed) for a in SWAPPED} | {
        f"{a} added": additions(a, n, seed, world)
        for a in (*ADDED, *(("material",) if world.vocabulary.materials else ()))
    }


def _is_part_of(words: list[str], longer: list[str]) -> bool:
    """Are all these words in the longer list, in this order? "a" and "an" count as one word,
    because a new adjective may change the article.
    """
    rest = iter("a" if w == "an" else w for w in longer)
    return all(("a" if w == "an" else w) in rest for w in words)


@dataclass(frozen=True)
class EditScore:
    """The score of one edit.

    Args:
        source_right: The source image shows the source caption.
        success: The edited image shows the target caption.
        layout: All other objects are unchanged, and so is the edited object's position.
        kept: The layout is unchanged, and so are the background, the light and the edited object's
            other attributes.
        psnr: Similarity of the images away from the edit, in dB (see `unedited_psnr`).
        asked: The source image does not show the target caption already. Without this there is
            nothing to edit: an added word may by chance name what is there.
        moved: How far the edited object or any other one has moved along an axis, in 1/64 of the
            width. It is infinite if an object is missing or another attribute of one changed.
    """

    source_right: bool
    success: bool
    layout: bool
    kept: bool
    psnr: float | None = field(default=None, compare=False)
    asked: bool = True
    moved: float = field(default=math.inf, compare=False)

    @property
    def counts(self) -> bool:
        """The source image is correct, and there is something to edit."""
        return self.source_right and self.asked

    @property
    def good(self) -> bool:
        """The edit succeeded, and the layout is unchanged."""
        return self.success and self.layout


def shift(a, b) -> int:
    """How far the centres of two scene objects are apart along the axis where it is most."""
    return max(abs(a.x - b.x), abs(a.y - b.y))


def unchanged(before, after, *attributes: str) -> bool:
    """True if two scenes, or two objects of scenes, agree in these attributes. One that the judge
    could not read in one of them is not counted as changed.
    """
    pairs = ((getattr(before, a), getattr(after, a)) for a in attributes)
    return all(a == b or UNCLEAR in (a, b) for a, b in pairs)


def score_edit(task: EditTask, source: ParsedScene, edited: ParsedScene) -> EditScore:
    """Score an edit by what the judge reads in both images.

    Args:
        task: The edit.
        source: What the judge reads in the source image.
        edited: What it reads in the edited one.

    Returns:
        The score, without a PSNR.
    """
    # 1. Is the source correct, and the edit needed and made?
    objects = task.source.description.assign(source.scene) if source.scene is not None else None
    success = task.target.description.fits(edited.scene)
    asked = not task.target.description.fits(source.scene)
    if objects is None or edited.scene is None or len(edited.scene.objects) != len(objects):
        return EditScore(objects is not None, success, False, False, asked=asked)
    # 2. Each other object is found again, the nearest one with the same attributes.
    attributes = ("shape", "color", "size", "texture", "material")
    remaining = list(edited.scene.objects)
    moved = 0
    for other in (o for i, o in enumerate(objects) if i != task.obj):
        same = [o for o in remaining if unchanged(other, o, *attributes)]
        if not same:
            return EditScore(True, success, False, False, asked=asked)
        found = min(same, key=lambda o: shift(other, o))
        moved = max(moved, shift(other, found))
        remaining.remove(found)
    # 3. The edited object is what remains. The background is part of what is kept.
    of_scene = ("light",) if task.attribute == "background" else ("light", "background")
    kept = unchanged(source.scene, edited.scene, *of_scene)
    if task.obj is not None:
        before, (after,) = objects[task.obj], remaining
        moved = max(moved, shift(before, after))
        kept &= unchanged(before, after, *(k for k in attributes if k != task.attribute))
    layout = moved <= TOLERANCE
    return EditScore(True, success, layout, layout and kept, asked=asked, moved=moved)


def unedited_psnr(
    task: EditTask, source: ParsedScene, edited: ParsedScene, images: Tensor
) -> float | None:
    """Return the peak signal-to-noise ratio over the pixels that the edit should not change.

    These are all pixels except those of the edited object, before and after, and a margin of 1/64
    of the width around it. For an edit of the background they are the pixels of the objects.

    Args:
        task: The edit.
        source: What the judge reads in the source image.
        edited: What it reads in the edited one.
        images: Both images, [2, 3, h, w] in [-1, 1].

    Returns:
        dB, at most 60. None if an image cannot be read, or the source does not show its caption.
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
    generate: Callable[[list[str], int], Tensor], tasks: list[EditTask], world: World = SCENES
) -> Iterator[tuple[EditTask, Tensor, tuple[EditScore, ...]]]:
    """Sample each edit and score it.

    Args:
        generate: A function of the prompts [source, target] and a seed. It returns the source's
            image, then the edited image by each method, [1 + methods, 3, h, w].
        tasks: The edits.
        world: The world whose images these are (default: `scenes`).

    Yields:
        The task, its images, and a score for each method.
    """
    for task in tasks:
        images = generate([task.source.text, task.target.text], task.seed).float().cpu()
        source, *edited = world.parse_image(images)
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


def counted_edits(row: dict) -> int:
    """The number of edits that a row of `edit_table` is of; old reports do not have "asked"."""
    return row.get("asked", row["source_right"])


def edit_table(scores: list[EditScore]) -> dict[str, float | None]:
    """Summarise scores.

    Args:
        scores: One for each edit.

    Returns:
        Rates over the edits that count, in [0, 1]: their source image is correct, and does not show
        the target caption already. "asked" is how many these are. Further the 95 % interval of
        `good`, and the mean PSNR of the pixels that should not change, in dB, or None.
    """
    of = [s for s in scores if s.counts]
    good = sum(s.good for s in of)
    low, high = wilson_interval(good, len(of))
    pixels = [s.psnr for s in of if s.psnr is not None]

    def rate(values) -> float:
        return round(sum(values) / max(1, len(of)), 4)

    return {
        "n": len(scores),
        "source_right": sum(s.source_right for s in scores),
        "asked": len(of),
        "success": rate(s.success for s in of),
        "layout": rate(s.layout for s in of),
        "good": rate(s.good for s in of),
        "good_low": round(low, 4),
        "good_high": round(high, 4),
        "all_kept": rate(s.success and s.kept for s in of),
        "psnr": None if not pixels else round(sum(pixels) / len(pixels), 1),
    }
