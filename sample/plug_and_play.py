"""What do features of the decoder know, and how much structure do they keep when they are injected?

    python -m sample.plug_and_play --out outputs/plug_and_play

Two parts, chosen by --parts:

- features: rendered scenes are noised and denoised, and the features of every residual block of
  the decoder are projected on three principal components, all scenes together: red, green and
  blue. feature_maps.png shows them by block and time. The tables say how much of the components is
  due to the shape, or to the colour, of what is at a place.
- sweep: edits of rendered scenes by Plug-and-Play, over the grids on which features are injected
  and over the shares of the steps in which features and self-attention are. Beside them, on the
  same scenes from the same inverted noise: Prompt-to-Prompt, and no injection at all. For each: how
  often the new prompt is shown and the layout kept, and the distance of the structure.

Every edit is kept in plug_and_play.jsonl; the same command goes on where it was interrupted. The
numbers go to plug_and_play.json, the tables to plug_and_play.md, and figures beside them.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.editing.base import Edit
from imagen_mini.editing.plug_and_play import PlugAndPlay
from imagen_mini.evaluation.edit_benchmark import EditTask, edit_tasks
from imagen_mini.evaluation.edit_comparison import injection_of
from imagen_mini.evaluation.edit_page import as_score, as_values, markdown_table, summarize
from imagen_mini.evaluation.feature_maps import (
    as_colors,
    decoder_features,
    explained_by,
    kinds_of_places,
    principal_components,
)
from imagen_mini.evaluation.image_edits import given_image, measure_image_edit
from imagen_mini.scenes.scene import Scene
from imagen_mini.scenes.world import WORLDS
from imagen_mini.utils.images import image_to_tensor, to_image
from imagen_mini.utils.records import Records
from imagen_mini.utils.rng import randn
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.edits import plot_window_sweep
from imagen_mini.viz.image_grid import image_table, quantize_colors
from sample.cli import add_model_options, check_judged, load_pipeline, weights_digest

KINDS = ("color swap", "shape swap")
NO_INJECTION, PROMPT_TO_PROMPT = "no injection", "Prompt-to-Prompt"
ATTRIBUTES = ("shape", "color")
# the windows of Plug-and-Play end here by default
UNTIL = {name: getattr(PlugAndPlay(), f"{name}_until")[1] for name in ("features", "attention")}
CELL = 96  # pixels of an image in the figures

# ---------------------------------------------------------------- features


def measure_features(
    pipe: ImagenPipeline, scenes: list[Scene], times: Sequence[float], seed: int
) -> tuple[list[dict[str, Any]], Image.Image]:
    """The principal components of every block at every time.

    Returns:
        For each block and time what the components are due to; and the figure.
    """
    stage = next(iter(pipe.stages.values()))
    images = pipe.world.render(scenes, stage.config.unet.image_size).to(pipe.device)
    noise = randn([seed + i for i in range(len(images))], images.shape[1:], "features")
    text = pipe.text_encoder([""]).null()
    rows, names = [list(images.cpu())], ["the scenes"]
    numbers = []
    for t in times:
        found = decoder_features(stage, text, images, t, noise.to(images))
        for block, features in found.items():
            components, share = principal_components(features.cpu())
            size = components.shape[-1]
            rows.append(list(as_colors(components)))
            names.append(f"{block}, {size} x {size}, t = {t:g}")
            about = {
                kind: explained_by(components, kinds_of_places(scenes, size, kind, pipe.world))
                for kind in ATTRIBUTES
            }
            numbers.append(
                {"block": block, "size": size, "t": t, "variance": round(share.sum().item(), 4)}
                | {kind: round(value, 4) for kind, value in about.items()}
            )
    columns = [f"scene {i + 1}" for i in range(len(scenes))]
    return numbers, image_table(rows, names, columns, cell=CELL)


def features_table(numbers: Sequence[dict[str, Any]]) -> str:
    """What the components of each block and time are due to."""
    return markdown_table(
        ["block", "grid", "t", "variance in 3 components", *(f"due to {k}" for k in ATTRIBUTES)],
        [
            [
                row["block"],
                f"{row['size']} x {row['size']}",
                f"{row['t']:g}",
                f"{row['variance']:.0%}",
                *(f"{row[kind]:.0%}" for kind in ATTRIBUTES),
            ]
            for row in numbers
        ],
    )


# ---------------------------------------------------------------- the sweep


def injected(size: int, features: float, attention: float) -> str:
    """The name of Plug-and-Play with these options."""
    return f"features to {size} x {size} until {features:g}, attention until {attention:g}"


def edits_of(
    sizes: Sequence[int], features: Sequence[float], attention: Sequence[float]
) -> dict[str, PlugAndPlay]:
    """Plug-and-Play by name: features for longer and longer on each grid, with the default window
    of attention; then attention for longer and longer, with the default window of features.
    """
    plans = [(size, share, UNTIL["attention"]) for size in sizes for share in features]
    plans += [(sizes[0], UNTIL["features"], share) for share in attention]
    return {
        injected(size, f, a): PlugAndPlay(f, a, size)
        for size, f, a in plans  # a plan that is in both lists is made once
    }


def prompt_to_prompt(kind: str) -> Edit:
    """Prompt-to-Prompt for a kind of edit."""
    return injection_of(kind)()


def edit_once(
    pipe: ImagenPipeline, task: EditTask, edit: Edit | None, source: str, steps: int | None
) -> tuple[Tensor, Tensor]:
    """The given image, [3, h, w], and its edit from its inverted noise."""
    name = next(iter(pipe.stages))
    image = given_image(task, pipe.world, pipe.stages[name].config.unet.image_size)
    out = pipe.edit(
        image.to(pipe.device),
        source,
        task.target.text,
        "direct",
        edit=edit,
        seed=task.seed,
        stages=(name,),
        num_inference_steps=steps,
        output_type="pt",
        progress=False,
    )
    return image[0], out.images[1].float().cpu()


def sweep_table(summaries: dict[str, dict[str, Any]]) -> str:
    """What each edit keeps."""
    head = ["edit", "shows the new prompt", "keeps the layout", "good", "structure", "seconds"]
    lines = []
    for name, row in summaries.items():
        counts = [
            f"{round(row[key] * row['asked'])} of {row['asked']}"
            for key in ("success", "layout", "good")
        ]
        structure = "-" if row["structure"] is None else f"{row['structure']:.3f}"
        lines.append([name, *counts, structure, f"{row['seconds']:.1f}"])
    return markdown_table(head, lines)


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    kinds = tuple(dict.fromkeys(k for w in WORLDS.values() for k in edit_tasks(0, 0, w)))
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("features", "sweep"),
        default=["features", "sweep"],
        help="(both)",
    )
    parser.add_argument("--scenes", type=integer(low=2), default=6, help="of the features (6)")
    parser.add_argument(
        "--times",
        type=number(0, 1),
        nargs="+",
        default=[0.8, 0.5, 0.2, 0.05],
        help="up to which these are noised (0.8 0.5 0.2 0.05)",
    )
    parser.add_argument("--n", type=integer(low=1), default=4, help="edits of each kind (4)")
    parser.add_argument(
        "--kinds", nargs="+", choices=kinds, default=list(KINDS), help=f"({', '.join(KINDS)})"
    )
    parser.add_argument(
        "--features",
        type=number(0, 1),
        nargs="+",
        default=[0.2, 0.4, 0.6, 0.8, 1.0],
        help="shares of the steps in which features are injected (0.2 0.4 0.6 0.8 1)",
    )
    parser.add_argument(
        "--attention",
        type=number(0, 1),
        nargs="+",
        default=[0.0, 0.25, 0.5, 0.75, 1.0],
        help="shares in which self-attention is (0 0.25 0.5 0.75 1)",
    )
    parser.add_argument(
        "--sizes",
        type=integer(low=1),
        nargs="+",
        help="features are injected up to these grids (default: every grid with attention)",
    )
    parser.add_argument("--steps", type=integer(low=2), help="(default: the stage's)")
    parser.add_argument("--seed", type=int, default=2, help="seed of scenes and edits (2)")
    parser.add_argument("--out", type=Path, default=Path("outputs/plug_and_play"), help="a folder")
    add_model_options(parser)
    parser.set_defaults(precision="fp32")  # inversion needs it more than speed
    args = parser.parse_args(arguments)
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    stage_name = next(iter(pipe.stages))
    numbers: dict[str, Any] = {
        "pipeline": args.pipeline,
        "seed": args.seed,
        "threads": torch.get_num_threads(),
    }
    page = ["# Plug-and-Play: features and structure"]

    def write() -> None:
        (args.out / "plug_and_play.json").write_text(json.dumps(numbers, indent=1) + "\n")
        (args.out / "plug_and_play.md").write_text("\n\n".join(page) + "\n")

    if "features" in args.parts:
        scenes = [
            pipe.world.random_scene(random.Random(f"features/{args.seed}/{i}"))
            for i in range(args.scenes)
        ]
        numbers["features"], figure = measure_features(pipe, scenes, args.times, args.seed)
        quantize_colors(figure).save(args.out / "feature_maps.png", optimize=True)
        page += ["## What features know", features_table(numbers["features"])]
        write()
    if "sweep" in args.parts:
        check_judged(pipe, [stage_name])
        sweep(pipe, args, numbers, page, write)
    print((args.out / "plug_and_play.md").read_text())
    print(args.out)


def sweep(pipe: ImagenPipeline, args, numbers: dict[str, Any], page: list[str], write) -> None:
    """Make, measure and keep every edit of the sweep, and write tables and figures."""
    stage = next(iter(pipe.stages.values()))
    # 1. what is compared
    with_attention = min(site.size for site in stage.net.sites)
    sizes = args.sizes or sorted(g for g in stage.config.unet.grids if g >= with_attention)
    plans = edits_of(sizes, args.features, args.attention)
    of_world = edit_tasks(args.n, args.seed, pipe.world)
    if missing := [kind for kind in args.kinds if kind not in of_world]:
        raise ValueError(
            f"--kinds {', '.join(missing)}: the world {pipe.world.name} has none; expected some of "
            f"{', '.join(of_world)}"
        )
    tasks = [(kind, of_world[kind][i]) for i in range(args.n) for kind in args.kinds]
    names = [NO_INJECTION, PROMPT_TO_PROMPT, *plans]

    # 2. every edit that has no record yet
    records = Records(args.out / "plug_and_play.jsonl")
    of_run = {"pipeline": args.pipeline, "weights": weights_digest(stage), "steps": args.steps}

    def key(kind: str, task: EditTask, name: str) -> dict[str, Any]:
        return of_run | {"kind": kind, "seed": task.seed, "edit": name}

    def values_of(name: str) -> list[dict[str, Any]]:
        keys = [key(kind, task, name) for kind, task in tasks]
        return [records[k] for k in keys if k in records]

    page += ["## Structure kept, over layers and time", ""]
    shown = {kind: task for kind, task in reversed(tasks)}  # the first of each kind
    images = args.out / "images"
    images.mkdir(parents=True, exist_ok=True)
    for kind, task in tqdm(tasks, desc="edits"):
        for name in names:
            if key(kind, task, name) in records:
                continue
            edit = prompt_to_prompt(kind) if name == PROMPT_TO_PROMPT else plans.get(name)
            # Prompt-to-Prompt alone reads the source's prompt
            caption = task.source.text if name == PROMPT_TO_PROMPT else ""
            start = time.perf_counter()
            source, edited = edit_once(pipe, task, edit, caption, args.steps)
            seconds = time.perf_counter() - start
            if task is shown[kind]:
                to_image(source, CELL).save(images / f"{kind}, given.png")
                to_image(edited, CELL).save(images / f"{kind}, {name}.png")
            score = measure_image_edit(task, source, edited, pipe.world)
            records.add(key(kind, task, name), **as_values(score, seconds))
        numbers["sweep"] = {name: summarize(values_of(name)) for name in names}
        page[-1] = sweep_table(numbers["sweep"])
        write()

    # 3. the figures
    lines = {
        f"features, up to {size} x {size}": {
            share: [as_score(v) for v in values_of(injected(size, share, UNTIL["attention"]))]
            for share in args.features
        }
        for size in sizes
    }
    lines["self-attention"] = {
        share: [as_score(v) for v in values_of(injected(sizes[0], UNTIL["features"], share))]
        for share in args.attention
    }
    plot_window_sweep(lines).savefig(args.out / "sweep.png", dpi=110)
    longest = [injected(size, max(args.features), UNTIL["attention"]) for size in sizes]
    columns = ["given", NO_INJECTION, PROMPT_TO_PROMPT, *longest]
    rows = [
        [image_to_tensor(Image.open(images / f"{kind}, {name}.png"), None) for name in columns]
        for kind in args.kinds
    ]
    labels = [f"{shown[kind].source.text} -> {shown[kind].target.text}" for kind in args.kinds]
    quantize_colors(image_table(rows, labels, columns, cell=CELL)).save(
        args.out / "side_by_side.png", optimize=True
    )


if __name__ == "__main__":
    run_script(main)
