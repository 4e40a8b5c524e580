"""Interpolate between the weights of a stage and those that it was trained to.

    python -m train.interpolate before runs/sr_256 --share 0.5 --out runs/halfway

A network that has seen more of the training set can be worse at what is never in it. Part of the
way back, what was gained may be kept and what was lost regained: measured in train/LOG.md.

Reference: WiSE-FT (Wortsman et al., 2022, arXiv 2109.01903).
"""

from __future__ import annotations

from pathlib import Path

import torch

from imagen_mini.cascade.serialization import load_stage, save_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.training.checkpoint import atomic_directory, training_phases
from imagen_mini.utils.scripts import (
    check_output_folder,
    check_replaceable,
    number,
    run_or_stage_folder,
    run_script,
    script_parser,
)


def interpolate(before: DiffusionStage, after: DiffusionStage, share: float) -> DiffusionStage:
    """Return a stage whose weights are (1 - share) of `before` and `share` of `after`.

    Args:
        before: A stage.
        after: A stage trained on from it.
        share: In [0, 1].

    Raises:
        ValueError: If the stages differ in their networks or text encoders, or the share is outside
            [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"share {share}: expected 0 (all of the first stage) to 1 (all of the second)"
        )
    if (
        before.config.unet != after.config.unet
        or before.config.text_encoder != after.config.text_encoder
    ):
        raise ValueError(
            "the stages differ in their networks or text encoders; only a stage and what "
            "it was trained to can be interpolated"
        )
    mixed, first, second = (
        DiffusionStage(after.config),
        before.net.state_dict(),
        after.net.state_dict(),
    )
    mixed.net.load_state_dict(
        {name: torch.lerp(first[name].float(), second[name].float(), share) for name in second}
    )
    return mixed


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("before", type=Path, help="run folder or stage folder")
    parser.add_argument(
        "after", type=Path, help="run folder or stage folder, trained on from the first"
    )
    parser.add_argument(
        "--share",
        type=number(0, 1),
        default=0.5,
        help="of the second: 0 is the first stage, 1 the second (default: 0.5)",
    )
    parser.add_argument("--out", type=Path, required=True, help="stage folder to write")
    args = parser.parse_args(arguments)
    folders = [run_or_stage_folder(path) for path in (args.before, args.after)]
    # what is there will be replaced, so it has to be a stage
    if args.out.resolve() in [folder.resolve() for folder in folders]:
        raise ValueError(f"--out {args.out} is what is interpolated; expected another folder")
    check_output_folder(args.out if args.out.exists() else args.out.parent)
    check_replaceable(args.out, ("config.json", "model*.safetensors*"))
    try:
        mixed = interpolate(*(load_stage(folder) for folder in folders), args.share)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    phases_before, phases = (training_phases(folder) for folder in folders)
    if phases[: len(phases_before)] != phases_before or len(phases) == len(phases_before):
        raise SystemExit(
            f"{args.after} was not trained on from {args.before}: its history of {len(phases)} "
            f"training phases does not continue that one's of {len(phases_before)}"
        )
    phases[-1] |= {"interpolated": {"share": args.share, "from_phase": len(phases_before)}}
    with atomic_directory(args.out) as temporary:
        save_stage(mixed, temporary, {"training_phases": phases})
    print(f"{args.out}: {args.share:g} of {args.after}, {1 - args.share:g} of {args.before}")


if __name__ == "__main__":
    run_script(main)
