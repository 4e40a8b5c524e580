"""What a run looked like as it went on: the same captions and seeds, drawn by the same stage at
different steps.

    python -m train.sample_timeline runs/base/stage_at_500 runs/base/stage_at_2000 --out training.png

Each argument is a stage folder (a copy of RUN/stage made while training). One row a folder, with
its steps and minutes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tqdm.auto import tqdm

from imagen_mini.cascade.serialization import load_stage
from imagen_mini.evaluation.preview import preview
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.viz.image_grid import image_grid
from imagen_mini.weights import WEIGHTS


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stages", nargs="+", type=Path, help="stage folders, of the same run at different steps"
    )
    parser.add_argument("--text-encoder", default=str(WEIGHTS / "text_encoder"))
    parser.add_argument(
        "--n", type=int, default=2, help="captions per category, of four (default: 2)"
    )
    parser.add_argument("--out", type=Path, default=Path("training.png"))
    args = parser.parse_args(arguments)
    encoder = TextEncoder.from_pretrained(args.text_encoder)
    rows = []
    for folder in args.stages:
        legs = json.loads((folder / "config.json").read_text())["training"]["legs"]
        rows.append(
            (sum(leg["steps"] for leg in legs), sum(leg["seconds"] for leg in legs), folder)
        )
    images, labels, frames = [], [], []
    for steps, seconds, folder in tqdm(sorted(rows), desc="stages"):
        results = preview(load_stage(folder), encoder, args.n)
        images += [r.image for r in results]
        labels += [f"step {steps:,}, {seconds / 60:.0f} min: {r.caption.text}" for r in results]
        frames += [r.right for r in results]
    image_grid(images, labels, columns=len(images) // len(rows), cell=128, frames=frames).save(
        args.out
    )
    print(args.out)


if __name__ == "__main__":
    main()
