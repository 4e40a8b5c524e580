"""How well are given images reconstructed and edited? Every method, scored, on one page.

    python -m sample.image_edits --n 4 --out outputs/image_edits
    python -m sample.image_edits --pipeline scenes runs/studio_pipeline

The images are rendered scenes, which the network never generated. Two parts, chosen by --parts:

- edits: for each kind of edit and each method, how often the edited image shows the new prompt,
  keeps the layout and does both; the PSNR of the pixels that should not change; the distance of
  the structure; what changed outside of the place of the edit, and the seam around it; seconds and
  memory of an edit; and what the method needs. A pipeline that was fine-tuned to inpaint
  (`train.inpainting`) has a row for that. Two rows are controls. "own sample" edits an image
  that the network generated. "seed alone" generates the target without the image.
- reconstruction: the image is inverted and sampled back with its own prompt. PSNR, and how often
  the judge reads the same, over steps, guidance scales and the time up to which it is inverted.

Every measurement is kept in image_edits.jsonl as soon as it is made. The same command goes on
where it was interrupted, and with more edits or methods it measures only those. The page
image_edits.md and its numbers, image_edits.json, are written after every edit. The first edit of
each kind by every method goes to image_edits.png; of several pipelines each has its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.evaluation.edit_benchmark import EditTask, edit_tasks
from imagen_mini.evaluation.edit_comparison import injection_of
from imagen_mini.evaluation.edit_page import (
    LEGEND,
    as_values,
    kinds_table,
    methods_table,
    reconstruction_table,
    summarize,
    which_table,
)
from imagen_mini.evaluation.image_edits import (
    ROWS,
    ImageEditRow,
    edit_by,
    measure_image_edit,
    memory_of_edit,
    reconstruct,
    rows_of,
)
from imagen_mini.scenes.world import WORLDS
from imagen_mini.utils.images import to_image
from imagen_mini.utils.records import Records
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.image_grid import image_grid, quantize_colors
from sample.cli import add_model_options, check_judged, load_pipelines, weights_digest

INVERSIONS = ("ddim", "negative-prompt", "null-text", "edict")
CELL = 112  # pixels of an image in the figure


@dataclass(frozen=True)
class Measured:
    """One pipeline, what is asked of it, and what was measured of it so far."""

    name: str
    pipe: ImagenPipeline
    rows: Sequence[ImageEditRow]
    tasks: dict[str, list[EditTask]]  # by kind
    records: Records
    key: dict[str, Any]  # that all of its records have
    images: Path  # where the images of the figure are

    def measure_edits(self, write: Callable[[], None]) -> None:
        """Make and measure every edit that has no record yet; the first of each kind in the order
        of tasks, then the second: what is measured early holds for all kinds.
        """
        longest = max(map(len, self.tasks.values()))
        order = [(k, of[i]) for i in range(longest) for k, of in self.tasks.items() if i < len(of)]
        for kind, task in tqdm(order, desc=f"{self.name}: edits"):
            for row in self.rows:
                key = self.edit_key(kind, task, row)
                if key in self.records:
                    continue
                start = time.perf_counter()
                source, edited = edit_by(self.pipe, row, task, injection_of(kind))
                seconds = time.perf_counter() - start
                if task is self.tasks[kind][0]:
                    self.keep_image(kind, "", source)
                    self.keep_image(kind, row.name, edited)
                score = measure_image_edit(task, source, edited, self.pipe.world)
                self.records.add(key, **as_values(score, seconds))
            write()

    def measure_memory(self, write: Callable[[], None]) -> None:
        """Measure the memory of every method, by one edit."""
        kind, tasks = next(iter(self.tasks.items()))
        for row in tqdm(self.rows, desc=f"{self.name}: memory"):
            key = self.key | {"part": "memory", "row": row.name}
            if key not in self.records:
                peak = memory_of_edit(self.pipe, row, tasks[0], injection_of(kind))
                self.records.add(key, bytes=peak)
        write()

    def edit_key(self, kind: str, task: EditTask, row: ImageEditRow) -> dict[str, Any]:
        """The key of the record of an edit."""
        return self.key | {"part": "edits", "kind": kind, "seed": task.seed, "row": row.name}

    def keep_image(self, kind: str, name: str, image: Tensor) -> None:
        """Keep an image for the figure; "" is the given one."""
        self.images.mkdir(parents=True, exist_ok=True)
        to_image(image, CELL).save(self.image_file(kind, name))

    def image_file(self, kind: str, name: str) -> Path:
        """The file of an image of the figure."""
        seed = self.tasks[kind][0].seed
        return self.images / f"{kind} {seed}, {name or 'given'}.png"

    def figure(self) -> Image.Image:
        """The first edit of each kind by every method."""
        tiles, labels = [], []
        for kind, tasks in self.tasks.items():
            for name in ("", *(row.name for row in self.rows)):
                with Image.open(self.image_file(kind, name)) as image:
                    tiles.append(image.convert("RGB"))
                labels.append(name or tasks[0].source.text)
        return image_grid(tiles, labels, columns=len(self.rows) + 1, cell=CELL)

    def edits(self) -> dict[str, Any]:
        """The numbers of the edits so far: of all kinds, by kind, and memory."""
        values = {
            kind: {
                row.name: [
                    self.records[key]
                    for task in tasks
                    if (key := self.edit_key(kind, task, row)) in self.records
                ]
                for row in self.rows
            }
            for kind, tasks in self.tasks.items()
        }
        together = {
            row.name: [value for of in values.values() for value in of[row.name]]
            for row in self.rows
        }
        memory = {
            row.name: self.records[key]["bytes"]
            for row in self.rows
            if (key := self.key | {"part": "memory", "row": row.name}) in self.records
        }
        return {
            "all": {name: summarize(of) for name, of in together.items()},
            "kinds": {
                kind: {name: summarize(of) for name, of in by_row.items()}
                for kind, by_row in values.items()
            },
            "memory": memory,
            "needs": {row.name: row.needs for row in self.rows},
        }

    def reconstruct(self, plans: Sequence[dict[str, Any]], n: int, seed: int, write) -> None:
        """Reconstruct n images by every plan that has no record yet."""
        for task in tqdm(
            edit_tasks(n, seed, self.pipe.world)["color swap"], desc=f"{self.name}: reconstruction"
        ):
            for plan in plans:
                key = self.reconstruction_key(task, plan)
                if key not in self.records:
                    options = (plan[name] for name in ("steps", "w", "strength"))
                    psnr, same = reconstruct(self.pipe, plan["method"], task, *options)
                    self.records.add(key, psnr=psnr, same=same)
            write()

    def reconstruction_key(self, task: EditTask, plan: dict[str, Any]) -> dict[str, Any]:
        """The key of the record of a reconstruction."""
        return self.key | {"part": "reconstruction", "seed": task.seed} | plan

    def reconstructions(
        self, plans: Sequence[dict[str, Any]], n: int, seed: int
    ) -> list[dict[str, Any]]:
        """The numbers of the reconstructions so far."""
        rows, tasks = [], edit_tasks(n, seed, self.pipe.world)["color swap"]
        for plan in plans:
            keys = [self.reconstruction_key(task, plan) for task in tasks]
            of = [self.records[key] for key in keys if key in self.records]
            if of:
                found = [values["psnr"] for values in of]
                rows.append(
                    plan
                    | {
                        "n": len(of),
                        "psnr": round(sum(found) / len(of), 1),
                        "lowest_psnr": round(min(found), 1),
                        "right": sum(values["same"] for values in of),
                    }
                )
        return rows


def page_of(numbers: dict[str, Any], rows_by_pipeline: dict[str, list[ImageEditRow]]) -> str:
    """The page in Markdown."""
    parts = ["# Editing given images: the methods compared"]
    for name, of in numbers["pipelines"].items():
        rows = rows_by_pipeline[name]
        parts.append(f"## {name}, world {of['world']}")
        if edits := of.get("edits"):
            parts += [
                methods_table(rows, edits["all"], edits["memory"]),
                LEGEND.rstrip(),
                kinds_table(rows, edits["kinds"]),
                "Which method to take, by what you have:",
                which_table(rows, edits["all"]),
            ]
        if of.get("reconstruction"):
            parts += ["### Reconstruction", reconstruction_table(of["reconstruction"])]
    return "\n\n".join(parts) + "\n"


def plans_of(methods, steps, scales, strengths) -> list[dict[str, Any]]:
    """The ways to reconstruct an image."""
    return [
        {"method": method, "steps": n, "w": w, "strength": strength}
        for method in methods
        for n in steps
        for w in scales
        for strength in strengths
        if w != 1 or method == "ddim"  # the others do at w = 1 what they do at any
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    kinds = tuple(dict.fromkeys(k for w in WORLDS.values() for k in edit_tasks(0, 0, w)))
    names = [row.name for row in ROWS]
    parser.add_argument("--n", type=integer(low=1), default=4, help="edits of each kind (4)")
    parser.add_argument(
        "--images", type=integer(low=1), default=4, help="images that are reconstructed (4)"
    )
    parser.add_argument("--seed", type=int, default=2, help="seed of the lists (2)")
    parser.add_argument(
        "--kinds", nargs="+", choices=kinds, default=list(kinds), help="(all that a world has)"
    )
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="(all)")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("edits", "reconstruction"),
        default=["edits", "reconstruction"],
        help="(both)",
    )
    parser.add_argument(
        "--inversions", nargs="+", choices=INVERSIONS, default=list(INVERSIONS), help="(all)"
    )
    parser.add_argument(
        "--steps", type=integer(low=2), nargs="+", default=[8, 32], help="of inversion (8 32)"
    )
    parser.add_argument(
        "--scales", type=number(), nargs="+", default=[1, 2, 4], help="w of guidance (1 2 4)"
    )
    parser.add_argument(
        "--strengths",
        type=number(0, 1),
        nargs="+",
        default=[1, 0.9],
        help="times up to which images are inverted for reconstruction (1 0.9)",
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/image_edits"), help="a folder")
    add_model_options(parser, several=True)
    parser.set_defaults(precision="fp32")  # inversion needs it more than speed
    args = parser.parse_args(arguments)
    check_output_folder(args.out)
    pipes = load_pipelines(args)
    for pipe in pipes.values():
        check_judged(pipe, list(pipe.stages)[:1])
    rows = {name: rows_of(pipe, args.rows) for name, pipe in pipes.items()}
    plans = plans_of(args.inversions, args.steps, args.scales, args.strengths)
    records = Records(args.out / "image_edits.jsonl")
    everything = []
    for name, pipe in pipes.items():
        of_world = edit_tasks(args.n, args.seed, pipe.world)
        key = {"pipeline": name, "weights": weights_digest(next(iter(pipe.stages.values())))}
        tasks = {kind: of_world[kind] for kind in args.kinds if kind in of_world}
        if not tasks:
            raise ValueError(
                f"--kinds {', '.join(args.kinds)}: the world {pipe.world.name} of {name} has none "
                f"of them; expected some of {', '.join(of_world)}"
            )
        folder = args.out / "images" / "-".join(key.values()).replace("/", "_")
        everything.append(Measured(name, pipe, rows[name], tasks, records, key, folder))

    numbers: dict[str, Any] = {"seed": args.seed, "threads": torch.get_num_threads()}

    def write() -> None:
        numbers["pipelines"] = {}
        for of in everything:
            found = {"world": of.pipe.world.name, **of.key}
            if "edits" in args.parts:
                found["edits"] = of.edits()
            if "reconstruction" in args.parts:
                found["reconstruction"] = of.reconstructions(plans, args.images, args.seed)
            numbers["pipelines"][of.name] = found
        (args.out / "image_edits.json").write_text(json.dumps(numbers, indent=1) + "\n")
        (args.out / "image_edits.md").write_text(page_of(numbers, rows))

    for place, of in enumerate(everything):
        if "edits" in args.parts:
            of.measure_edits(write)
            of.measure_memory(write)
            file = "image_edits.png" if not place else f"image_edits_{place + 1}.png"
            quantize_colors(of.figure()).save(args.out / file, optimize=True)
        if "reconstruction" in args.parts:
            of.reconstruct(plans, args.images, args.seed, write)
    print((args.out / "image_edits.md").read_text())
    print(args.out)


if __name__ == "__main__":
    run_script(main)
