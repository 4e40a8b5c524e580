"""Can the parser be trusted? Tests it on corrupted images, and writes a grid of its verdicts for a
person to audit.

    # parser.png and parser.json: noise, blur and JPEG; planted.json: planted errors
    python -m sample.parser_robustness --out outputs/parser
    # and audit.png: 200 images of the pipeline, each with what was read
    python -m sample.parser_robustness --out outputs/parser --audit 200
    # the same for the judge of the world studio, and how often a second judge agrees with it
    python -m sample.parser_robustness --out outputs/studio_judge --world studio \
        --pipeline studio --audit 200 --second imagen_mini/weights/studio_judge/second

True scenes are rendered and then corrupted. Parsed again, an image is correct (the same scene),
unreadable (no scene explains it, which costs a model an image but deceives nobody), or misread:
another scene, with confidence. Only the last would make a score incorrect. Then errors are planted
that networks make, too: a second colour, a ghost, a hole. No scene may be read from such an image.

The second judge has a network of another form and seed, from `python -m train.studio_judge --form
second`. Where both read the same, it does not depend on what either network learned by chance.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.corruptions import gaussian_noise, jpeg
from imagen_mini.evaluation.judge_agreement import agreement
from imagen_mini.evaluation.parser_robustness import measure_parser_robustness
from imagen_mini.evaluation.planted_errors import measure_planted_errors
from imagen_mini.evaluation.scoring import Result, evaluate
from imagen_mini.scenes.scene import HELD_OUT_SEED
from imagen_mini.scenes.world import WORLDS, World, find_world
from imagen_mini.utils.images import blur
from imagen_mini.utils.scripts import check_output_folder, integer, run_script, script_parser
from imagen_mini.viz.measuring import audit_grid, plot_corruptions
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


def measure(n: int, size: int, way: str, world: World = WORLDS["scenes"]) -> list[dict]:
    """Count correct, unreadable and misread images for each strength of one of WAYS."""
    return measure_parser_robustness(n, size, *WAYS[way], world=world)


def load_audited(args: argparse.Namespace, world: World) -> ImagenPipeline:
    """Load the pipeline whose images are audited.

    Raises:
        SystemExit: It generates another world's images.
    """
    pipe = load_pipeline(args)
    if pipe.world != world:
        raise SystemExit(
            f"{args.pipeline} generates images of the world {pipe.world.name}, and --world is "
            f"{world.name}; name a pipeline of it with --pipeline, or leave out --audit"
        )
    return pipe


def audit(pipe: ImagenPipeline, args: argparse.Namespace) -> list[Result]:
    """Write a grid of a pipeline's images for benchmark captions, each with its verdict."""
    options, world = sampling_options(args), pipe.world
    # evenly from all categories
    prompts = benchmark(1 + args.audit // 20, seed=7, world=world)
    prompts = [prompts[i * len(prompts) // args.audit] for i in range(args.audit)]

    def images(captions: list[str], seeds: list[int]) -> Tensor:
        stages = pipe(captions, seed=seeds, progress=False, output_type="pt", **options).stages
        return stages[list(stages)[-1]]

    found = tqdm(evaluate(images, prompts, world=world), total=len(prompts), desc="images")
    results = list(found)
    audit_grid(results).save(args.out / "audit.png")
    print(args.out / "audit.png")
    return results


def report_agreement(what: str, images: Tensor, second: Path, descriptions=None) -> dict:
    """Print and return how often a second judge reads the same from images as the world's judge."""
    row = agreement(images, second, descriptions)
    low, high = row["interval"]
    print(
        f"{what}: both judges agree on {row['agree']} of {row['n']} ({low:.1%} to {high:.1%}); "
        f"where both read a scene, it is the same in {row['same_scene']} of {row['both_read']}, "
        f"and in {row['same_where_clear']} in all that is clear to both"
    )
    if descriptions is not None:
        first, other = row["correct"]
        print(
            f"{what}: {first} are correct by the first judge, {other} by the second; they say the "
            f"same of {row['same_verdict']}"
        )
    return row


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--n", type=integer(low=1), default=200, help="number of scenes (default: 200)"
    )
    parser.add_argument(
        "--audit",
        "--sheet",
        dest="audit",
        type=integer(low=0),
        default=0,
        metavar="N",
        help="also write a grid of N generated images with verdicts (default: none)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/parser"),
        help="output folder (default: outputs/parser)",
    )
    parser.add_argument(
        "--world",
        choices=[name for name, world in WORLDS.items() if world.has_parser],
        default="scenes",
        help="whose images are read (default: scenes)",
    )
    parser.add_argument(
        "--second",
        type=Path,
        metavar="FOLDER",
        help="weights of a second judge of studio; how often do both agree? (default: not asked)",
    )
    add_pipeline_options(parser)
    args = parser.parse_args(arguments)
    world = find_world(args.world)
    if args.second is not None and world.name != "studio":
        parser.error(f"--second is a judge of the world studio, and --world is {world.name}")
    check_output_folder(args.out)
    pipe = load_audited(args, world) if args.audit else None
    found: dict[str, dict[str, list[dict]]] = {}
    for size, way in tqdm([(size, way) for size in SIZES for way in WAYS], desc="corrupted images"):
        found.setdefault(str(size), {})[way] = measure(args.n, size, way, world)
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
                f"{size:>3} px, {way:38} correct "
                + ", ".join(f"{r['strength']:g}: {r['right'] / r['n']:.0%}" for r in rows)
            )
            print(
                f"{'':46} misread "
                + ", ".join(f"{r['strength']:g}: {r['misread'] / r['n']:.0%}" for r in rows)
            )
    print(args.out / "parser.png")
    scenes = [world.training_scene(HELD_OUT_SEED, i) for i in range(args.n)]
    planted = {
        str(size): measure_planted_errors(scenes, size, world=world)
        for size in tqdm(SIZES, desc="planted errors")
    }
    (args.out / "planted.json").write_text(json.dumps(planted, indent=1) + "\n")
    for size, table in planted.items():
        for name, row in table.items():
            print(f"{size:>3} px, {name:38} read as if correct: {row['passed']} of {row['n']}")
    images = {f"true images, {size} px": (world.render(scenes, size), None) for size in SIZES}
    if pipe is not None:
        results = audit(pipe, args)
        generated = torch.stack([r.image for r in results])
        said = [r.caption.description for r in results]
        images[f"generated images, {generated.shape[-1]} px"] = generated, said
    if args.second is not None:
        found_agreement = {
            what: report_agreement(what, of, args.second, said)
            for what, (of, said) in images.items()
        }
        (args.out / "agreement.json").write_text(json.dumps(found_agreement, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
