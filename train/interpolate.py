"""Go part of the way from one stage's weights to another's, which were trained on from them.

    python -m train.interpolate before runs/sr_256 --share 0.5 --out runs/halfway

A network that has seen more of the training set can draw what is never in it less well. Part of the
way back, what was won may be kept and what was lost be there again: measured in train/VARIANTS.md.
Source: WiSE-FT (Wortsman et al., 2022).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from imagen_mini.cascade.serialization import load_stage, save_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.training.checkpoint import atomic_directory


def interpolate(before: DiffusionStage, after: DiffusionStage, share: float) -> DiffusionStage:
    """A stage whose weights are (1 - share) of `before` and `share` of `after`. ValueError for
    stages of different form or a share outside [0, 1].
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
            "the stages differ in their networks or text encoders; only a stage and what it "
            "was trained on to lie on one way"
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="run folder or stage folder")
    parser.add_argument(
        "after", type=Path, help="run folder or stage folder, trained on from the first"
    )
    parser.add_argument(
        "--share",
        type=float,
        default=0.5,
        help="how far to go: 0 is the first, 1 the second (default: 0.5)",
    )
    parser.add_argument("--out", type=Path, required=True, help="stage folder to write")
    args = parser.parse_args(arguments)
    folders = [
        path / "stage" if (path / "stage").is_dir() else path for path in (args.before, args.after)
    ]
    try:
        mixed = interpolate(*(load_stage(folder) for folder in folders), args.share)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    legs_before, legs = (
        json.loads((folder / "config.json").read_text())["training"].get("legs", [])
        for folder in folders
    )
    if legs[: len(legs_before)] != legs_before or len(legs) == len(legs_before):
        raise SystemExit(
            f"{args.after} was not trained on from {args.before}: its history of {len(legs)} "
            f"legs does not go on that one's of {len(legs_before)}"
        )
    legs[-1] |= {"interpolated": {"share": args.share, "from_leg": len(legs_before)}}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(args.out) as aside:
        save_stage(mixed, aside, {"legs": legs})
    print(f"{args.out}: {args.share:g} of {args.after}, {1 - args.share:g} of {args.before}")


if __name__ == "__main__":
    main()
