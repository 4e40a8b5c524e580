"""Swap one value of the caption, with a cascade that was trained on a folder of images.

    python -m sample.edit_folder --pipeline emoji --data data/emoji --column tone \\
        --classifier runs/emoji_classifier --n 100 --out outputs/edits_tone.json

Captions are those of training images, for which the folder has another image whose caption differs
in the value of COLUMN alone ("elf, noto style", "elf, fluent style"). Both images are generated
from one seed, the second one by each of the methods:

- same seed: no method, the caption alone is another one
- prompt switching: the source's caption in the first steps
- attention: Prompt-to-Prompt, attention of the source is injected
- switching, then attention

The classifier (`train.folder_classifier`) reads all images. An edit is made if the new value is
read, and the rest is kept if all other columns are read as in the source image. The row "true
images" is of the two images of the folder: what this judge says of a perfect edit.

Writes the numbers to OUT, and an image beside it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.evaluation.edit_comparison import compare_to_same_seed, edit_methods
from imagen_mini.evaluation.folder_classifier import load_folder_classifier
from imagen_mini.evaluation.folder_edits import find_value_swaps, score_value_swaps
from imagen_mini.utils.devices import available_device
from imagen_mini.utils.scripts import (
    check_output_file,
    current_commit,
    integer,
    run_script,
    script_parser,
)
from imagen_mini.viz.image_grid import image_grid
from sample.evaluate_folder import add_folder_options, open_parts

SHOWN = 6  # edits in the image
TRUE = "true images"


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    add_folder_options(parser)
    parser.add_argument("--column", required=True, help="whose value is swapped, such as tone")
    parser.add_argument("--n", type=integer(low=1), default=64, help="edits (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the first edit (default: 0)")
    parser.add_argument("--pipeline", required=True, help="a pipeline folder, name or hub id")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out", type=Path, default=Path("edits.json"), help="(default: edits.json)"
    )
    parser.add_argument("--image", type=Path, help="(default: OUT with the ending .png)")
    args = parser.parse_args(arguments)
    if args.data is None or args.classifier is None:
        parser.error("expected --data FOLDER and --classifier FOLDER")
    image = args.image or args.out.with_suffix(".png")
    check_output_file(args.out, suffixes=())
    check_output_file(image, option="--image")

    # 1. the pipeline, the classifier, and pairs of images
    started = time.perf_counter()
    judge, _ = load_folder_classifier(args.classifier)
    if args.column not in judge.classes:
        parser.error(f"--column {args.column}: the classifier tells {', '.join(judge.classes)}")
    pipe = ImagenPipeline.from_pretrained(args.pipeline).to(available_device(args.device))
    first = next(iter(pipe.stages))
    size = pipe.stages[first].config.unet.image_size
    data, _ = open_parts(args, pipe, [first], tuple(judge.classes))
    images, _, captions = data.batch(range(len(data)), size)
    labels = [data.labels(i) for i in range(len(data))]
    swaps = find_value_swaps(captions, labels, args.column, args.n, args.seed)
    print(
        f"{len(swaps)} pairs of {len(data):,} images whose captions differ in {args.column} alone"
    )

    # 2. each edit by each method
    methods = edit_methods(Replace)
    made = torch.stack(
        [
            compare_to_same_seed(pipe, *swap.captions, args.seed + i, *methods.values())
            for i, swap in enumerate(tqdm(swaps, desc="edits"))
        ]
    ).clamp(-1, 1)
    pairs = {name: (made[:, 0], made[:, i]) for i, name in enumerate(methods, 1)}
    pairs[TRUE] = images[[s.source for s in swaps]], images[[s.target for s in swaps]]

    # 3. the numbers
    rows = {
        name: score_value_swaps(judge, args.column, swaps, *pair) for name, pair in pairs.items()
    }
    print(f"{'method':26} {'made':>9} {'rest kept':>9} {'both':>9}   95 % interval   changed")
    for name, row in rows.items():
        cells = " ".join(f"{row[key]:>4}/{row['n']:<4}" for key in ("made", "kept", "both"))
        interval = f"{row['low']:6.1%} - {row['high']:6.1%}"
        print(f"{name:26} {cells}   {interval}  {row['changed']:6.1%}")
    report = {
        "pipeline": args.pipeline,
        "commit": current_commit(),
        "data": data.describe(),
        "folder": str(args.data),
        "classifier": str(args.classifier),
        "column": args.column,
        "edits": len(swaps),
        "seed": args.seed,
        "methods": rows,
        "seconds": round(time.perf_counter() - started, 1),
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")

    # 4. an image: a column for each edit, a row for each method
    shown = range(min(SHOWN, len(swaps)))
    sheet = {f"source: {TRUE}": pairs[TRUE][0], TRUE: pairs[TRUE][1], "source": made[:, 0]}
    sheet |= {name: pairs[name][1] for name in methods}
    notes = {"source": [swaps[i].captions[0] for i in shown]}
    notes[next(iter(methods))] = [f"{next(iter(methods))}: {swaps[i].captions[1]}" for i in shown]
    image_grid(
        [of[i] for of in sheet.values() for i in shown],
        [text for name in sheet for text in notes.get(name, [name] * len(shown))],
        columns=len(shown),
        cell=128,
    ).save(image)
    print(f"{report['seconds']:.0f} s; {args.out}, {image}")


if __name__ == "__main__":
    run_script(main)
