"""Write trained stages and a text encoder as a pipeline folder.

    python -m train.export_pipeline --base runs/base --sr runs/sr_256 --out my_pipeline

Runs remember their text encoder. Where it has been moved, name it with --text-encoder. Where it is
part of an installed package, --packaged-encoder names the package instead of copying the weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from imagen_mini.cascade.serialization import load_stage
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.text.packaged import PackagedEncoder
from imagen_mini.training.checkpoint import training_phases
from imagen_mini.training.encoder_of_run import find_text_encoder
from imagen_mini.utils.configuration import override
from imagen_mini.utils.scripts import (
    check_output_folder,
    run_or_stage_folder,
    run_script,
    script_parser,
)


def check_run_or_stage(path: Path) -> None:
    """Raise FileNotFoundError for what is no folder of a stage, or of a run that has one."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder; expected that of a run")
    if (path / "log.jsonl").exists() and not (path / "stage").is_dir():
        raise FileNotFoundError(
            f"{path} is a run that has saved no stage yet: it writes one with every checkpoint, "
            "and python -m train.train --resume continues it"
        )
    if (path / "model_index.json").exists():
        raise FileNotFoundError(
            f"{path} is a pipeline already; expected a run or a stage, for example {path / 'base'}"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--base", type=Path, required=True, help="run folder of the base stage, or a stage folder"
    )
    parser.add_argument(
        "--sr",
        type=Path,
        action="append",
        default=[],
        help="run folder of a super-resolution stage, or a stage folder; may be repeated",
    )
    parser.add_argument(
        "--text-encoder",
        help="the text encoder they were trained with: folder or hub name (default: the one that "
        "the runs remember)",
    )
    parser.add_argument(
        "--packaged-encoder",
        action="store_true",
        help="name the installed package that the text encoder is in, instead of a copy of it",
    )
    half = parser.add_mutually_exclusive_group()
    half.add_argument(
        "--half",
        action="store_true",
        help="store the stages in float16: half the size, rounded to 3 digits",
    )
    half.add_argument(
        "--bf16",
        action="store_true",
        help="store them in bfloat16: rounded to 2 digits, and compressed by a fifth more",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="stage.key=value",
        help="change how a stage is sampled by default: base.num_inference_steps=20",
    )
    args = parser.parse_intermixed_args(arguments)
    sources = [path for path in (args.base, *args.sr) if path is not None]
    for path in sources:
        check_run_or_stage(path)
        if args.out.resolve() in (path.resolve(), (path / "stage").resolve()):
            raise ValueError(f"--out {args.out} is what is exported; expected another folder")
    encoder = find_text_encoder(args.text_encoder, *sources)
    packaged = None
    if args.packaged_encoder:
        packaged = PackagedEncoder.named_in(encoder) or PackagedEncoder.at(encoder)
    check_output_folder(args.out)
    folders = [run_or_stage_folder(path) for path in sources]
    stages = [load_stage(folder) for folder in folders]
    for stage in stages:
        prefix = stage.config.name + "."
        stage.config = override(
            stage.config, [o.removeprefix(prefix) for o in args.overrides if o.startswith(prefix)]
        )
    if unknown := [
        o for o in args.overrides if o.partition(".")[0] not in {s.config.name for s in stages}
    ]:
        raise SystemExit(
            f"{unknown[0]!r} names no stage; there are {', '.join(s.config.name for s in stages)}"
        )
    phases = {s.config.name: training_phases(folder) for s, folder in zip(stages, folders)}
    pipe = ImagenPipeline(TextEncoder.from_pretrained(encoder), stages)
    if args.half or args.bf16:
        pipe.stages.to(torch.float16 if args.half else torch.bfloat16)
    pipe.save_pretrained(args.out, {name: {"training_phases": of} for name, of in phases.items()})
    if packaged is not None:
        shutil.rmtree(args.out / "text_encoder")
        packaged.name_in(args.out / "text_encoder")
    for name, of in phases.items():
        for phase in of:
            print(
                f"{name}: {phase['steps']} steps of {phase['train']['batch_size']} in "
                f"{phase['seconds']} s on {phase['device']}"
            )
    print(args.out)


if __name__ == "__main__":
    run_script(main)
