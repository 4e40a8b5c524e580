"""Can the judge be trusted? The parser against images that are worse than they should be, and a
sheet of its verdicts for a human to audit.

    python -m sample.parser_robustness --out outputs/parser             # parser.png and parser.json: noise, blur and JPEG
    python -m sample.parser_robustness --out outputs/parser --sheet 200 # and audit.png: images of the pipeline, each with what was read

True scenes are rendered and then spoilt. Read again, an image is right (the very scene), unreadable
(no scene explains it, which costs a model an image but deceives nobody), or misread: another scene,
with confidence. Only the last would make a score wrong.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.corruptions import gaussian_noise, jpeg
from imagen_mini.evaluation.scoring import evaluate
from imagen_mini.utils.images import blur
from imagen_mini.viz.measuring import audit_sheet, measure_parser_under, plot_corruptions
from imagen_mini.viz.style import save_figure
from sample.cli import add_pipeline_options, load_pipeline, sampling_options

SIZES = (64, 256)
WAYS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "noise, deviation": (gaussian_noise, (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)),
    "blur, deviation in 1/64 of the width": (blur, (0, 0.25, 0.5, 0.75, 1, 1.5, 2)),
    "JPEG, 100 - quality": (
        lambda images, loss: jpeg(images, 100 - loss),
        (5, 10, 25, 40, 50, 60, 75, 90),
    ),
}


def measure(n: int, size: int, way: str) -> list[dict]:
    """For each strength of one of WAYS to spoil images: how often they are right, unreadable and
    misread.
    """
    return measure_parser_under(n, size, *WAYS[way])


def audit(args: argparse.Namespace, path: Path) -> None:
    """Images of the pipeline for the benchmark's captions, evenly from all categories, each with
    its verdict.
    """
    pipe, options = load_pipeline(args), sampling_options(args)
    prompts = benchmark(1 + args.sheet // 20, seed=7)
    prompts = [prompts[i * len(prompts) // args.sheet] for i in range(args.sheet)]

    def images(captions: list[str], seeds: list[int]) -> Tensor:
        stages = pipe(captions, seed=seeds, progress=False, output_type="pt", **options).stages
        return stages[list(stages)[-1]]

    results = list(tqdm(evaluate(images, prompts), total=len(prompts), desc="images"))
    audit_sheet(results).save(path)
    print(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=200, help="scenes (default: 200)")
    parser.add_argument(
        "--sheet",
        type=int,
        default=0,
        metavar="N",
        help="also draw a sheet of N images with verdicts",
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/parser"), help="a folder")
    add_pipeline_options(parser)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, list[dict]]] = {}
    for size, way in tqdm([(size, way) for size in SIZES for way in WAYS], desc="spoilt images"):
        found.setdefault(str(size), {})[way] = measure(args.n, size, way)
    (args.out / "parser.json").write_text(json.dumps(found, indent=1) + "\n")
    save_figure(
        plot_corruptions(
            {
                f"{way}, {size} px": rows
                for size, ways in found.items()
                for way, rows in ways.items()
            }
        ),
        args.out / "parser.png",
    )
    for size, ways in found.items():
        for way, rows in ways.items():
            print(
                f"{size:>3} px, {way:38} right "
                + ", ".join(f"{r['strength']:g}: {r['right'] / r['n']:.0%}" for r in rows)
            )
            print(
                f"{'':46} misread "
                + ", ".join(f"{r['strength']:g}: {r['misread'] / r['n']:.0%}" for r in rows)
            )
    print(args.out / "parser.png")
    if args.sheet:
        audit(args, args.out / "audit.png")


if __name__ == "__main__":
    main()
