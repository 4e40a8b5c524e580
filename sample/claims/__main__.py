"""The papers' claims in miniature: does each hold here? One page with a figure and a verdict for
every claim, and all numbers.

    # the claims that need no training: about 15 minutes on two idle cores
    python -m sample.claims
    # all of them: nine networks are trained, 30 minutes each
    python -m sample.claims --train 30
    python -m sample.claims --only thresholding early-steps --n 10
    # with the papers' sampler
    python -m sample.claims --only thresholding --sampler ddpm --steps 128 --out outputs/ancestral

Files in the folder --out:

    claims.md                    the page: each claim, its verdict (holds, does not hold, or cannot
                                 be told at this scale) and the intervals that it follows from
    claims.json                  all numbers
    NAME.png, NAME_images.png    the figure of an experiment, and images from it

Finished experiments are kept: the same command resumes where it was interrupted, and one with
another pipeline or --n measures anew. Training runs are in OUT/runs and are resumed, too.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.diffusion.samplers import SAMPLERS
from imagen_mini.scenes.parse import PARSER_VERSION
from imagen_mini.utils.scripts import check_output_folder, integer, number, run_script
from imagen_mini.viz.image_grid import quantize_colors
from sample.claims import report
from sample.claims.cascade import AUGMENTATION, SUPER_RESOLUTION_TEXT
from sample.claims.claim import Experiment
from sample.claims.editing import EARLY_STEPS, FIXED_ATTENTION
from sample.claims.guidance import DIVERSITY, THRESHOLDING
from sample.claims.trained import (
    CROSS_ATTENTION,
    EFFICIENT_UNET,
    ENCODER_OR_UNET,
    TEXT_ENCODER,
    TRAINING_AUGMENTATION,
    Runs,
    Variant,
)
from sample.cli import add_model_options, load_pipeline

EXPERIMENTS = (
    THRESHOLDING,
    DIVERSITY,
    AUGMENTATION,
    SUPER_RESOLUTION_TEXT,
    FIXED_ATTENTION,
    EARLY_STEPS,
    CROSS_ATTENTION,
    TEXT_ENCODER,
    ENCODER_OR_UNET,
    EFFICIENT_UNET,
    TRAINING_AUGMENTATION,
)
NAMES = tuple(e.name for e in EXPERIMENTS)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line; its help lists the experiments and their claims."""
    what = "\n".join(
        f"  {e.name}{' (needs --train)' if e.variants else ''}\n"
        + "\n".join(f"      {c.sentence}" for c in e.claims)
        for e in EXPERIMENTS
    )
    parser = argparse.ArgumentParser(
        prog="python -m sample.claims",
        description=__doc__,
        epilog=f"experiments, and the claims that they decide:\n{what}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=NAMES,
        metavar="NAME",
        help="only these experiments; their names are listed below",
    )
    parser.add_argument(
        "--n",
        type=integer(low=2),
        help="prompts of each kind (default: from 8 to 30, by experiment)",
    )
    parser.add_argument(
        "--train",
        type=number(above=0),
        metavar="MINUTES",
        help="also measure what needs trained networks; train each for this many minutes",
    )
    parser.add_argument(
        "--train-steps",
        type=integer(low=2),
        metavar="STEPS",
        help="the same, with this many training steps each",
    )
    parser.add_argument(
        "--recipe",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="training options of all these networks, for example batch_size=256 precision=bf16",
    )
    parser.add_argument(
        "--init-from",
        metavar="STAGE",
        help="all these networks begin from the weights of this stage or shipped pipeline, in "
        "place of random ones; where they are built alike: "
        f"{', '.join(e.name for e in EXPERIMENTS if e.one_form)}",
    )
    parser.add_argument(
        "--graph",
        action="store_true",
        help="train on one GPU with CUDA graphs, as train.train --graph does",
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="mini",
        help="preset of the networks that are trained (default: mini)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/claims"),
        help="output folder (default: outputs/claims)",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="measure again what was kept; with --train, also delete OUT/runs and train again",
    )
    parser.add_argument(
        "--sampler", choices=SAMPLERS, help="of the first stage (default: the stage's)"
    )
    parser.add_argument(
        "--steps", type=integer(low=1), help="of the first stage (default: the stage's)"
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)
    if args.train_steps is not None and args.train is not None:
        parser.error(
            f"--train {args.train}, --train-steps {args.train_steps}: expected one of them"
        )
    args.trains = args.train is not None or args.train_steps is not None
    if args.trains and sampling_of(args):
        parser.error("--sampler and --steps are of the given pipeline: leave --train out")
    if (args.recipe or args.graph or args.init_from) and not args.trains:
        parser.error(
            "--recipe, --init-from and --graph say how networks are trained: add --train MINUTES "
            "or --train-steps STEPS"
        )
    if args.init_from:
        asked = [e for e in EXPERIMENTS if e.name in (args.only or NAMES) and e.variants]
        if unlike := [e.name for e in asked if not e.one_form]:
            alike = " ".join(e.name for e in EXPERIMENTS if e.one_form)
            parser.error(
                f"--init-from {args.init_from}: the networks of {', '.join(unlike)} are built "
                f"differently and cannot begin from the same weights: add --only {alike}"
            )
    if any(o.startswith("steps=") for o in args.recipe):
        parser.error(
            f"--recipe {' '.join(args.recipe)}: the number of steps is --train-steps, equal "
            "for all networks of a stage"
        )
    if (
        args.only
        and not args.trains
        and (untrained := [e.name for e in EXPERIMENTS if e.name in args.only and e.variants])
    ):
        parser.error(
            f"--only {' '.join(untrained)} needs networks trained for it: add --train MINUTES"
        )
    return args


def chosen(args: argparse.Namespace, pipe: ImagenPipeline) -> list[Experiment]:
    """Return the experiments that are asked for and that this pipeline allows.

    Raises:
        SystemExit: if one was named that this pipeline does not allow.
    """
    asked = [
        e
        for e in EXPERIMENTS
        if (e.name in args.only if args.only else args.trains or not e.variants)
    ]
    impossible = [e for e in asked if e.cascade and len(pipe.stages) < 2]
    if impossible and args.only:
        raise SystemExit(
            f"{', '.join(e.name for e in impossible)}: {args.pipeline} has no "
            f"super-resolution, only {', '.join(pipe.stages)}"
        )
    return [e for e in asked if e not in impossible]


def main(arguments: list[str] | None = None) -> None:
    # 1. What to measure, and what is already there.
    args = parse_arguments(arguments)
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    first = next(iter(pipe.stages.values()))
    first.config = with_sampling(first.config, sampling_of(args))
    todo = chosen(args, pipe)
    found = report.load_claims(args.out / "claims.json", default_empty=args.fresh)
    if args.fresh:
        found = {name: of for name, of in found.items() if name not in [e.name for e in todo]}
    if args.fresh and args.trains:
        shutil.rmtree(args.out / "runs", ignore_errors=True)
    identity = report.pipeline_identity(pipe)
    settings = {
        e.name: settings_of(e, args)
        | {
            "pipeline": args.pipeline,
            "identity": pipe.text_encoder.weights_digest() if e.of_text_encoder else identity,
        }
        for e in todo
    }
    # 2. Decide on the training runs.
    runs = None
    if waiting := [e for e in todo if not is_kept(e, settings[e.name], found, args.out)]:
        runs = prepare_training(args, pipe, waiting)
    # 3. Measure; save after each experiment.
    for e in todo:
        if e in waiting:
            print(f"{e.name}: {'; '.join(c.sentence for c in e.claims)}")
            start = time.perf_counter()
            if e.variants:
                runs.networks(e.variants)  # training time does not count
                start = time.perf_counter()
            numbers, images = e.measure(runs if e.variants else pipe, args.n or e.n)
            quantize_colors(images).save(args.out / f"{e.name}_images.png", optimize=True)
            e.plot(numbers, args.out / f"{e.name}.png")
            found[e.name] = {
                "settings": settings[e.name],
                "command": command_of(e, args),
                "parser": PARSER_VERSION,
                "seconds": round(time.perf_counter() - start, 1),
                "numbers": numbers,
            }
        else:
            print(f"{e.name}: kept from before")
        # the rules may have changed since: judge all again
        found |= {
            of.name: report.with_verdicts(of, found[of.name])
            for of in EXPERIMENTS
            if of.name in found
        }
        report.save_claims(args.out / "claims.json", found)
        (args.out / "claims.md").write_text(report.page(EXPERIMENTS, found))
        for verdict in found[e.name]["verdicts"]:
            print(f"  {verdict['claim']} -> {verdict['outcome'].upper()}\n    {verdict['numbers']}")
    print(f"{args.out}/claims.md, claims.json")


def sampling_of(args: argparse.Namespace) -> dict:
    """Return how the first stage samples, where that was asked for."""
    asked = {"sampler": args.sampler, "num_inference_steps": args.steps}
    return {name: value for name, value in asked.items() if value is not None}


def with_sampling(config: StageConfig, asked: dict) -> StageConfig:
    """Return a stage's configuration that samples as asked.

    A stage's eta belongs to its sampler, and does not come along to another one.
    """
    other = asked.get("sampler", config.sampler) != config.sampler
    return replace(config, **asked, **({"eta": 0.0} if other else {}))


def settings_of(e: Experiment, args: argparse.Namespace) -> dict:
    """Return what an experiment's numbers depend on, besides the pipeline."""
    if not e.variants:
        return {"n": args.n or e.n, **sampling_of(args)}
    long = {"minutes": args.train} if args.train else {"steps": args.train_steps}
    return {
        "n": args.n or e.n,
        "preset": args.preset,
        **long,
        **({"recipe": " ".join(args.recipe)} if args.recipe else {}),
        **({"init_from": args.init_from} if args.init_from else {}),
    }


def command_of(e: Experiment, args: argparse.Namespace) -> str:
    """Return the command that measures this experiment alone."""
    words = ["python", "-m", "sample.claims", "--only", e.name, "--n", str(args.n or e.n)]
    for option, value in (("--sampler", args.sampler), ("--steps", args.steps)):
        words += [option, str(value)] if value is not None else []
    if e.variants:
        words += (
            ["--train", f"{args.train:g}"]
            if args.train
            else ["--train-steps", str(args.train_steps)]
        )
        words += [
            "--preset",
            args.preset,
            *(["--graph"] if args.graph else []),
            *(["--recipe", *args.recipe] if args.recipe else []),
            *(["--init-from", args.init_from] if args.init_from else []),
        ]
    return shlex.join(words + ([] if args.pipeline == "scenes" else ["--pipeline", args.pipeline]))


def is_kept(e: Experiment, settings: dict, found: dict, out: Path) -> bool:
    """Return True if an experiment was measured with these settings and this parser, and its images
    are there.
    """
    return (
        e.name in found
        and found[e.name]["settings"] == settings
        and found[e.name].get("parser", 1) == PARSER_VERSION
        and all((out / f"{e.name}{end}.png").is_file() for end in ("", "_images"))
    )


def prepare_training(
    args: argparse.Namespace, pipe: ImagenPipeline, waiting: list[Experiment]
) -> Runs | None:
    """Open the folder of trained networks, and print how long the training will take."""
    needed: dict[str, Variant] = {v.name: v for e in waiting for v in e.variants}
    if not needed:
        return None
    try:
        runs = Runs(
            args.out / "runs",
            args.preset,
            args.train,
            pipe,
            args.train_steps,
            args.recipe,
            args.graph,
            args.init_from,
        )
    except ValueError as error:
        raise SystemExit(str(error)) from error
    left = [v for v in needed.values() if not runs.is_done(v)]
    long = (
        f"{args.train_steps} steps each"
        if args.train is None
        else (
            f"about {args.train:g} minutes each at the speed that is measured first, "
            f"{len(left) * args.train:g} minutes in "
            "all"
        )
    )
    print(
        f"training: {len(left)} of {len(needed)} networks "
        f"({', '.join(v.name for v in left) or 'none'}), {long}; runs that are done are kept "
        f"in {runs.folder}"
    )
    runs.settle(list(needed.values()))
    return runs


if __name__ == "__main__":
    run_script(main)
