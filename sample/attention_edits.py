"""What can injected attention do that prompt switching cannot? A scored table.

    python -m sample.attention_edits --n 12 --out outputs/attention_edits

Each row is a use of Prompt-to-Prompt, made in four ways: the new prompt with the same seed, prompt
switching, attention, and prompt switching before attention.

- one of two alike: two objects of one shape and colour; the prompt gives one of them a new colour.
- part of the image: a colour is swapped, and LocalBlend leaves the rest to the source. Prompt
  switching alone has no attention maps to blend by.
- two words, two windows: shape and colour of an object are swapped. The shape has a shorter window
  of its own; a switch of prompts is one for all words. Both: prompts are switched at half.
- three targets: one source, three new colours in one call. An edit counts if all three are good.
- at 256 px: a texture is added at the super-resolution stage, to one low-resolution image.
- slider: "small" gets weights from -2 to 2, from the first step on, or after half of the steps
  (both). Without weights, "large" is switched to "small" after more and fewer steps.

In all rows but the last a good edit shows the new prompt and keeps the layout. A caption of the
slider is good if its object has the shape and colour of the caption at every setting, gets smaller
from the first setting to the last, by at least 1 % of the image, and never larger again by more
than that. The counts go to attention_edits.json, an edit of
each row to attention_edits.png.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.editing.base import Edit
from imagen_mini.editing.blending import LocalBlend
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Refine, Replace, Reweight
from imagen_mini.evaluation.benchmark import random_object
from imagen_mini.evaluation.edit_benchmark import (
    EditTask,
    additions,
    edit_table,
    evaluate_edits,
    swaps,
)
from imagen_mini.evaluation.edit_comparison import (
    ATTENTION,
    BOTH,
    METHODS,
    SAME_SEED,
    SWITCHING,
    edit_methods,
)
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.evaluation.word_weights import covered_share, sized_captions
from imagen_mini.scenes.captions import Description, caption_from, parse_caption
from imagen_mini.scenes.scene import COLORS, HELD_OUT_COLOR_SHAPE, RELATIONS
from imagen_mini.utils.scripts import check_output_folder, integer, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid, quantize_colors
from sample.cli import add_model_options, load_pipeline

SHAPE_WINDOW = 0.8  # of the injection of a swapped shape; 0.4 keeps no layout here
WEIGHTS = (-2.0, -1.0, 0.0, 1.0, 2.0)
TURNING_BACK = 0.01  # of the image, by which an object may grow again on a slider


# ---------------------------------------------------------------- the edits


@dataclass(frozen=True)
class Use:
    """A use of edits: its tasks, and how each task is edited by each of METHODS.

    Args:
        tasks: The edits to make. Several with one source and one seed are targets of one call.
        edits: A task -> the edit of each method, by name; None is no edit.
        stage: Number of the stage that is edited (default 0, the base stage).
    """

    tasks: list[EditTask]
    edits: Callable[[EditTask], dict[str, Edit | None]]
    stage: int = 0


def recolored(task: EditTask, colors: list[str]) -> list[EditTask]:
    """The same swap of a colour with each of these new colours."""
    style = random.Random(task.source.text).random()
    source = task.source.description
    out = []
    for color in colors:
        objects = list(source.objects)
        objects[task.obj] = replace(objects[task.obj], color=color)
        target = replace(source, objects=tuple(objects))
        before, after = (caption_from(d, random.Random(style)) for d in (source, target))
        out.append(replace(task, source=before, target=after))
    return out


def alike(n: int) -> list[EditTask]:
    """Two objects of one shape and colour, of which one gets another colour."""
    out = []
    for i in range(n):
        rng = random.Random(f"alike/{i}")
        obj, which = random_object(rng, "color"), rng.randrange(2)
        source = Description((obj, obj), rng.choice(RELATIONS))
        new = random_object(rng, "color", shape=obj.shape).color
        while new == obj.color:
            new = random_object(rng, "color", shape=obj.shape).color
        caption = caption_from(source, rng)
        out += recolored(EditTask("color", which, i, caption, caption), [new])
    return out


def shape_and_color(n: int) -> list[EditTask]:
    """Swaps of the shape and the colour of one object."""
    out = []
    for task in swaps("shape", n):
        old, new = (caption.description.objects[task.obj] for caption in (task.source, task.target))
        taken = {o.color for o in task.source.description.objects}
        rng = random.Random(f"shape and color/{task.seed}")
        color = rng.choice(
            [c for c in COLORS if c not in taken and (c, new.shape) not in HELD_OUT_COLOR_SHAPE]
        )
        style, objects = rng.random(), list(task.source.description.objects)
        objects[task.obj] = replace(old, shape=new.shape, color=color)
        target = replace(task.source.description, objects=tuple(objects))
        captions = [
            caption_from(d, random.Random(style)) for d in (task.source.description, target)
        ]
        out.append(replace(task, source=captions[0], target=captions[1]))
    return out


def three_targets(n: int) -> list[EditTask]:
    """Swaps of a colour, three for each of n sources."""
    out = []
    for task in swaps("color", n):
        shape = task.source.description.objects[task.obj].shape
        taken = {o.color for o in task.source.description.objects}
        allowed = [c for c in COLORS if c not in taken and (c, shape) not in HELD_OUT_COLOR_SHAPE]
        out += recolored(task, random.Random(f"three/{task.seed}").sample(allowed, 3))
    return out


def uses(n: int) -> dict[str, Use]:
    """Every row of the table but the slider, with n tasks (of three targets: n sources)."""

    def of_replace(task: EditTask) -> dict[str, Edit | None]:
        return edit_methods(Replace)

    def blended(task: EditTask) -> dict[str, Edit | None]:
        blend = LocalBlend(task.source.description.objects[task.obj].shape)
        return edit_methods(Replace) | {
            ATTENTION: Chain(Replace(), blend),
            BOTH: Chain(PromptSwitching(), Replace(1.0), blend),
        }

    def two_windows(task: EditTask) -> dict[str, Edit | None]:
        shape = task.target.description.objects[task.obj].shape
        injection = Replace({"default": 1.0, shape: SHAPE_WINDOW})
        return edit_methods(Replace) | {
            ATTENTION: injection,
            BOTH: Chain(PromptSwitching(0.5), injection),
        }

    def of_refine(task: EditTask) -> dict[str, Edit | None]:
        return edit_methods(Refine)

    return {
        "one of two alike": Use(alike(n), of_replace),
        "part of the image": Use(swaps("color", n, seed=3), blended),
        "two words, two windows": Use(shape_and_color(n), two_windows),
        "three targets": Use(three_targets(n), of_replace),
        "at 256 px": Use(additions("texture", n), of_refine, stage=1),
    }


# ---------------------------------------------------------------- how they are scored


def generate_edits(pipe: ImagenPipeline, use: Use, tasks: list[EditTask]) -> dict[str, Tensor]:
    """The source and its targets by each method, [1 + targets, 3, h, w]. At a later stage all of
    them are enlarged from the source's image.
    """
    names = list(pipe.stages)
    prompts = [tasks[0].source.text, *(task.target.text for task in tasks)]
    options = {"seed": tasks[0].seed, "progress": False, "output_type": "pt"}
    given = {"stages": names[:1]}
    if use.stage:
        source = pipe(prompts[:1], stages=names[: use.stage], **options).images
        given = {"low_res": source.expand(len(prompts), -1, -1, -1)}
    return {
        method: pipe(prompts, edit=edit, **given, **options).images.float().cpu()
        for method, edit in use.edits(tasks[0]).items()
    }


def measure(pipe: ImagenPipeline, use: Use, name: str) -> tuple[dict, list[Tensor]]:
    """Score the tasks of one use.

    Returns:
        A row of `edit_table` for each method, with "good" counted over sources, all of whose
        targets must be good; and images of the first source that counts: the source, and its first
        target by each method.
    """
    sources: dict[str, list[EditTask]] = {}
    for task in use.tasks:
        sources.setdefault(f"{task.seed} {task.source.text}", []).append(task)
    scores: dict[str, list] = {method: [] for method in METHODS}
    whole: dict[str, list[bool]] = {method: [] for method in METHODS}
    shown: list[Tensor] = []
    for tasks in tqdm(sources.values(), desc=name):
        made = generate_edits(pipe, use, tasks)
        of_source: dict[str, list] = {method: [] for method in METHODS}
        for i, task in enumerate(tasks):
            images = torch.cat([made[SAME_SEED][:1], *(made[m][i + 1 : i + 2] for m in METHODS)])
            ((_, _, found),) = evaluate_edits(lambda *_, images=images: images, [task], pipe.world)
            for method, score in zip(METHODS, found):
                of_source[method].append(score)
        if all(score.counts for score in of_source[SAME_SEED]):
            shown = shown or [made[SAME_SEED][0], *(made[m][1] for m in METHODS)]
            for method, of in of_source.items():
                scores[method] += of
                whole[method].append(all(score.good for score in of))
    return {
        method: edit_table(scores[method]) | {"sources": len(of), "good_sources": sum(of)}
        for method, of in whole.items()
    }, shown


def slider(pipe: ImagenPipeline, n: int) -> tuple[dict, list[Tensor]]:
    """Score sliders of "small": weights of the word, and a switch from "large" to "small" after
    more and fewer steps. The same seed has no row: it has nothing to set.
    """
    base = next(iter(pipe.stages))
    options = {"stages": (base,), "progress": False, "output_type": "pt"}
    weights = Reweight({"small": WEIGHTS})
    edits = {
        ATTENTION: weights,
        BOTH: Chain(PromptSwitching(0.5), Refine(0.7), weights),  # as in sample.reweight
    }
    areas: dict[str, list[list[float]]] = {SWITCHING: [], ATTENTION: [], BOTH: []}
    good = dict.fromkeys(areas, 0)
    shown: list[Tensor] = []
    for seed, caption in enumerate(tqdm(sized_captions(n, "small"), desc="slider")):
        prompts = [caption] * (1 + len(WEIGHTS))
        images = {
            method: list(pipe(prompts, seed=seed, edit=edit, **options).images[1:])
            for method, edit in edits.items()
        }
        large = caption.replace("small", "large", 1)
        shares = torch.linspace(1, 0, len(WEIGHTS)).tolist()
        images[SWITCHING] = [
            pipe(
                [large, caption] if 0 < share < 1 else [large if share else caption],
                seed=seed,
                edit=PromptSwitching(share) if 0 < share < 1 else None,
                **options,
            ).images[-1]
            for share in shares
        ]
        (said,) = parse_caption(caption).objects
        of_any_size = Description((replace(said, size=None),))
        for method in areas:
            row = torch.stack(images[method]).float().cpu()
            areas[method].append([covered_share(image) for image in row])
            kept = all(of_any_size.fits(parsed.scene) for parsed in pipe.world.parse_image(row))
            good[method] += kept and slides(areas[method][-1])
        shown = shown or [image.float().cpu() for image in images[BOTH]]
    return {
        method: {
            "sources": n,
            "good_sources": good[method],
            "areas": [round(v, 4) for v in torch.tensor(of).mean(0).tolist()],
        }
        for method, of in areas.items()
    }, shown


def slides(areas: list[float]) -> bool:
    """Does the object get smaller from the first setting to the last, and never larger again?"""
    falls = areas[0] - areas[-1] > TURNING_BACK
    return falls and all(b - a <= TURNING_BACK for a, b in zip(areas, areas[1:]))


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--n", type=integer(low=1), default=12, help="sources of each row (default: 12)"
    )
    parser.add_argument("--rows", nargs="+", choices=[*uses(0), "slider"], help="(default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/attention_edits"), help="a folder"
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    report, tiles, labels = {"pipeline": args.pipeline, "n": args.n, "rows": {}}, [], []
    columns = 1 + max(len(METHODS), len(WEIGHTS))
    for name in args.rows or [*uses(0), "slider"]:
        if name == "slider":
            rows, shown = slider(pipe, args.n)
            captions = ["small x " + f"{c:g}" for c in WEIGHTS]
        else:
            use = uses(args.n)[name]
            if use.stage >= len(pipe.stages):
                print(f"{name}: left out, {args.pipeline} has {len(pipe.stages)} stage")
                continue
            rows, shown = measure(pipe, use, name)
            captions = ["source", *METHODS]
        report["rows"][name] = rows
        if shown:
            blank = [torch.ones_like(shown[0])] * (columns - len(shown))
            tiles += [*shown, *blank]
            labels += [f"{name}: {c}" for c in captions] + [""] * len(blank)
        for method, row in rows.items():
            low, high = wilson_interval(row["good_sources"], row["sources"])
            rest = f", rest of the image {row['psnr']:.0f} dB" if row.get("psnr") else ""
            print(
                f"{name + ': ' + method:50}{row['good_sources']:>3} of {row['sources']} "
                f"({low:.0%} to {high:.0%}){rest}"
            )
    (args.out / "attention_edits.json").write_text(json.dumps(report, indent=1) + "\n")
    if tiles:
        quantize_colors(image_grid(tiles, labels, columns=columns, cell=128)).save(
            args.out / "attention_edits.png", optimize=True
        )
    print(f"{args.out}/attention_edits.json" + (", attention_edits.png" if tiles else ""))


if __name__ == "__main__":
    run_script(main)
