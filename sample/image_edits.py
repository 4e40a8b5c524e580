"""How well are given images reconstructed and edited? Every method, scored.

    python -m sample.image_edits --n 4 --out outputs/image_edits

The images are rendered scenes, which the network never generated. Two parts, chosen by --parts:

- edits: for each kind of edit and each method, how often the edited image shows the new prompt,
  keeps the layout and does both; the PSNR of the pixels that should not change; seconds an edit.
  Two rows are controls. "own sample" edits an image that the network generated. "seed alone"
  generates the target without the image.
- reconstruction: the image is inverted and sampled back with its own prompt. PSNR, and how often
  the judge reads the same, over steps, guidance scales and the time up to which it is inverted.

The numbers go to image_edits.json after every image; the first edit of each kind by every method
goes to image_edits.png.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.evaluation.edit_benchmark import EditScore, EditTask, edit_table, edit_tasks
from imagen_mini.evaluation.edit_comparison import injection_of
from imagen_mini.evaluation.image_edits import ROWS, edit_by, reconstruct, score_image_edit
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.image_grid import image_grid, quantize_colors
from sample.cli import add_model_options, check_judged, load_pipeline

KINDS = ("color swap", "shape swap", "background added")
INVERSIONS = ("ddim", "negative-prompt", "null-text", "edict")


class Report:
    """The numbers so far, on disk after every image."""

    def __init__(self, folder: Path, about: dict):
        self.path, self.numbers = folder / "image_edits.json", about

    def save(self, **numbers) -> None:
        """Add numbers, and write all of them."""
        self.numbers |= numbers
        self.path.write_text(json.dumps(self.numbers, indent=1) + "\n")


def row_of(scores: list[EditScore], seconds: list[float]) -> dict:
    """A row of the table of edits."""
    return edit_table(scores) | {"seconds": round(sum(seconds) / max(1, len(seconds)), 2)}


def measure_edits(
    pipe: ImagenPipeline, tasks: dict[str, list[EditTask]], names: list[str], report: Report
) -> dict[str, list[Tensor]]:
    """Make every edit by every method, and score it.

    Returns:
        For each kind the images of its first edit: the given one, then one for each method.
    """
    rows = [row for row in ROWS if row.name in names]
    scores: dict = {kind: {row.name: [] for row in rows} for kind in tasks}
    seconds: dict = {kind: {row.name: [] for row in rows} for kind in tasks}
    shown: dict[str, list[Tensor]] = {}
    # one edit of each kind, then the next: what is measured early holds for all kinds
    order = [(kind, i) for i in range(len(next(iter(tasks.values())))) for kind in tasks]
    for kind, i in tqdm(order, desc="edits"):
        task, images = tasks[kind][i], []
        for row in rows:
            start = time.perf_counter()
            source, edited = edit_by(pipe, row, task, injection_of(kind))
            seconds[kind][row.name].append(time.perf_counter() - start)
            scores[kind][row.name].append(score_image_edit(task, source, edited, pipe.world))
            images += [edited] if images else [source, edited]
        shown.setdefault(kind, images)
        report.save(
            edits={
                k: {name: row_of(of, seconds[k][name]) for name, of in by_row.items()}
                for k, by_row in scores.items()
            }
        )
    return shown


def measure_reconstruction(
    pipe: ImagenPipeline,
    tasks: list[EditTask],
    methods: list[str],
    steps: list[int],
    scales: list[float],
    strengths: list[float],
    report: Report,
) -> None:
    """Reconstruct the source of every task."""
    plans = [
        (method, n, w, strength)
        for method in methods
        for n in steps
        for w in scales
        for strength in strengths
        if w != 1 or method == "ddim"  # the others do at w = 1 what they do at any
    ]
    found: dict[tuple, list[tuple[float, bool]]] = {plan: [] for plan in plans}
    for task in tqdm(tasks, desc="reconstruction"):
        for plan in plans:
            method, n, w, strength = plan
            found[plan].append(reconstruct(pipe, method, task, n, w, strength))
        report.save(
            reconstruction=[
                {
                    "method": method,
                    "steps": n,
                    "w": w,
                    "strength": strength,
                    "n": len(of),
                    "psnr": round(sum(p for p, _ in of) / len(of), 1),
                    "lowest_psnr": round(min(p for p, _ in of), 1),
                    "right": sum(same for _, same in of),
                }
                for (method, n, w, strength), of in found.items()
            ]
        )


def print_tables(numbers: dict) -> None:
    """Print the table of each kind of edit, and that of reconstruction."""
    for kind, rows in numbers.get("edits", {}).items():
        print(f"{kind}: shows the new prompt, keeps the layout, both; rest of the image; seconds")
        for name, row in rows.items():
            rates = "".join(
                f"{round(row[key] * row['asked']):>4}" for key in ("success", "layout", "good")
            )
            rest = "unreadable" if row["psnr"] is None else f"{row['psnr']:.1f} dB"
            print(f"  {name:28}{rates} of {row['asked']:<4}{rest:>12}{row['seconds']:8.1f} s")
    if numbers.get("reconstruction"):
        print(
            "reconstruction: steps, w, strength, mean PSNR, lowest PSNR, the judge reads the same"
        )
    for row in numbers.get("reconstruction", []):
        print(
            f"  {row['method']:18}{row['steps']:>4}{row['w']:>5g}{row['strength']:>5g}"
            f"{row['psnr']:>8.1f} dB"
            f"{row['lowest_psnr']:>8.1f} dB{row['right']:>5} of {row['n']}"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    kinds, names = tuple(edit_tasks(0)), [row.name for row in ROWS]
    parser.add_argument("--n", type=integer(low=1), default=4, help="edits of each kind (4)")
    parser.add_argument(
        "--images", type=integer(low=1), default=4, help="images that are reconstructed (4)"
    )
    parser.add_argument("--seed", type=int, default=2, help="seed of the lists (2)")
    parser.add_argument(
        "--kinds", nargs="+", choices=kinds, default=list(KINDS), help=f"({', '.join(KINDS)})"
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
    add_model_options(parser)
    parser.set_defaults(precision="fp32")  # inversion needs it more than speed
    args = parser.parse_args(arguments)
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    check_judged(pipe, list(pipe.stages)[:1])
    report = Report(
        args.out,
        {"pipeline": args.pipeline, "seed": args.seed, "threads": torch.get_num_threads()},
    )
    tasks = edit_tasks(args.n, args.seed, pipe.world)

    if "edits" in args.parts:
        shown = measure_edits(pipe, {k: tasks[k] for k in args.kinds}, args.rows, report)
        tiles, labels = [], []
        for kind, images in shown.items():
            tiles += images
            labels += [tasks[kind][0].source.text, *args.rows]
        quantize_colors(image_grid(tiles, labels, columns=len(args.rows) + 1, cell=112)).save(
            args.out / "image_edits.png", optimize=True
        )
    if "reconstruction" in args.parts:
        sources = edit_tasks(args.images, args.seed, pipe.world)["color swap"]
        measure_reconstruction(
            pipe, sources, args.inversions, args.steps, args.scales, args.strengths, report
        )
    print_tables(report.numbers)
    print(args.out)


if __name__ == "__main__":
    run_script(main)
