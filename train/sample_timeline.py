"""Images of a run as it went on: the same captions and seeds, sampled by the same stage at
different steps.

    python -m train.sample_timeline runs/base/stage_at_500 runs/base/stage_at_2000
    python -m train.sample_timeline runs/emoji/stage_at_* --data data/emoji --n 8

Each argument is a stage folder (a copy of RUN/stage made while training). Each has one row, with
its steps and minutes of training on the data that it was trained on last. With --data the captions
are those of images of that folder, held out of training if there are such, and the last row has the
true images.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from imagen_mini.cascade.serialization import load_stage
from imagen_mini.data.datasets import open_dataset, remembered_options
from imagen_mini.evaluation.preview import preview, sample_single_stage
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import age_on_last_data, training_phases
from imagen_mini.training.encoder_of_run import find_text_encoder
from imagen_mini.utils.scripts import check_output_file, integer, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid, image_table


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "stages", nargs="+", type=Path, help="stage folders, of the same run at different steps"
    )
    parser.add_argument(
        "--text-encoder", help="the one that they were trained with (default: as they remember)"
    )
    parser.add_argument(
        "--data", type=Path, help="take captions of this folder of images (default: the world's)"
    )
    parser.add_argument(
        "--n",
        type=integer(low=1),
        help="captions: of each of four categories (default: 2), or of --data (default: 8)",
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/training.png"))
    args = parser.parse_args(arguments)
    check_output_file(args.out)
    encoder = TextEncoder.from_pretrained(find_text_encoder(args.text_encoder, *args.stages))
    ages = []  # steps, minutes, folder
    for folder in args.stages:
        steps, seconds = age_on_last_data(training_phases(folder))
        ages.append((steps, seconds / 60, folder))
    if args.data is None:
        sheet = world_sheet(sorted(ages), encoder, args.n or 2)
    else:
        sheet = folder_sheet(sorted(ages), encoder, args.data, args.n or 8)
    sheet.save(args.out)
    print(args.out)


def world_sheet(ages: list[tuple[int, float, Path]], encoder: TextEncoder, n: int) -> Image.Image:
    """Images of n captions of each of four categories; a border says whether one is correct."""
    images, labels, verdicts = [], [], []
    for steps, minutes, folder in tqdm(ages, desc="stages"):
        results = preview(load_stage(folder), encoder, n)
        images += [r.image for r in results]
        labels += [f"step {steps:,}, {minutes:.0f} min: {r.caption.text}" for r in results]
        verdicts += [r.correct for r in results]
    return image_grid(images, labels, len(images) // len(ages), cell=128, borders=verdicts)


def folder_sheet(
    ages: list[tuple[int, float, Path]], encoder: TextEncoder, data: Path, n: int
) -> Image.Image:
    """Images of captions of n images of a folder, and the true images below."""
    # 1. the images: as the last of the stages was trained on them, but held out
    *_, last = ages[-1]
    unet = load_stage(last).config.unet
    phases = training_phases(last)
    options = remembered_options(phases[-1].get("data") if phases else None)
    options |= {"sizes": (unet.image_size, unet.low_res_size), "skip_broken": True}
    try:
        images = open_dataset(data, **options, part="held_out")
    except FileNotFoundError:  # all of them may have been trained on
        images = open_dataset(data, **options)
    true = images.batch(range(n), unet.image_size, unet.low_res_size)
    # 2. a row of each stage
    rows, names = [], []
    for steps, minutes, folder in tqdm(ages, desc="stages"):
        stage = load_stage(folder)
        rows.append(
            list(sample_single_stage(stage, encoder, true.captions, list(range(n)), true.low_res))
        )
        names.append(f"step {steps:,}, {minutes:.0f} min")
    return image_table([*rows, list(true.images)], [*names, "true"], true.captions, cell=104)


if __name__ == "__main__":
    run_script(main)
