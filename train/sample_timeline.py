"""Images of a run as it went on: the same captions and seeds, sampled by the same stage at
different steps.

    python -m train.sample_timeline runs/base/stage_at_500 runs/base/stage_at_2000

Each argument is a stage folder (a copy of RUN/stage made while training). Each has one row, with
its steps and minutes.
"""

from __future__ import annotations

from pathlib import Path

from tqdm.auto import tqdm

from imagen_mini.cascade.serialization import load_stage
from imagen_mini.evaluation.preview import preview
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import training_phases
from imagen_mini.training.encoder_of_run import find_text_encoder
from imagen_mini.utils.scripts import check_output_file, integer, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "stages", nargs="+", type=Path, help="stage folders, of the same run at different steps"
    )
    parser.add_argument(
        "--text-encoder", help="the one that they were trained with (default: as they remember)"
    )
    parser.add_argument(
        "--n", type=integer(low=1), default=2, help="captions per category, of four (default: 2)"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/training.png"))
    args = parser.parse_args(arguments)
    check_output_file(args.out)
    encoder = TextEncoder.from_pretrained(find_text_encoder(args.text_encoder, *args.stages))
    rows = []
    for folder in args.stages:
        phases = training_phases(folder)
        steps, seconds = (sum(phase[key] for phase in phases) for key in ("steps", "seconds"))
        rows.append((steps, seconds, folder))
    images, labels, verdicts = [], [], []
    for steps, seconds, folder in tqdm(sorted(rows), desc="stages"):
        results = preview(load_stage(folder), encoder, args.n)
        images += [r.image for r in results]
        labels += [f"step {steps:,}, {seconds / 60:.0f} min: {r.caption.text}" for r in results]
        verdicts += [r.correct for r in results]
    columns = len(images) // len(rows)
    image_grid(images, labels, columns, cell=128, borders=verdicts).save(args.out)
    print(args.out)


if __name__ == "__main__":
    run_script(main)
