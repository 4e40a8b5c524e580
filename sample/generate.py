"""Generate images of captions.

python -m sample.generate "a red circle to the left of a blue square" --seed 0 --out out.png
python -m sample.generate "a circle and a square" --upsample-captions --count 4 --out colours.png
python -m sample.generate "a ring above a star" --pipeline studio --attempts 4 --out accepted.png
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import torch

from imagen_mini.rejection_sampling import rejection_sample
from imagen_mini.utils.images import to_image
from imagen_mini.utils.scripts import check_output_file, integer, run_script, script_parser
from imagen_mini.viz.image_grid import grid_size, image_grid
from sample.cli import (
    add_attempts_option,
    add_pipeline_options,
    add_upsampling_option,
    load_pipeline,
    sampling_options,
    upsampled,
    verdict,
    verifier_of,
)

CELL = 192  # pixels of an image in the grid
FEW = 16  # images in rows of four; more make a square
LARGEST_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383, ".gif": 65_535}  # in pixels


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("prompts", nargs="+", help="one caption or several, each in quotes")
    parser.add_argument("--seed", type=int, default=0, help="of the first image (default: 0)")
    parser.add_argument(
        "--count",
        type=integer(low=1),
        default=1,
        help="images per caption, with rising seeds (default: 1)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out.png"), help="the image to write (default: out.png)"
    )
    parser.add_argument(
        "--batch", type=integer(low=1), default=16, help="images at a time (default: 16)"
    )
    add_upsampling_option(parser)
    add_attempts_option(parser)
    add_pipeline_options(parser)
    args = parser.parse_args(arguments)

    # 1. every caption with every seed, and does the format have room for all of them?
    check_output_file(args.out)
    prompts = [p for p in args.prompts for _ in range(args.count)]
    seeds = [args.seed + i for _ in args.prompts for i in range(args.count)]
    pipe = load_pipeline(args)
    with_colors = upsampled(prompts, seeds, pipe.world)
    told = with_colors if args.upsample_captions else prompts
    verifier = None if args.attempts == 1 else verifier_of(pipe)
    labels, n = [f"{p} ({s})" for p, s in zip(told, seeds)], len(prompts)
    columns = min(n, 4) if n <= FEW else math.ceil(math.sqrt(n))
    side = max(grid_size(labels, columns, CELL))
    if n > 1 and side > LARGEST_SIDE.get(args.out.suffix.lower(), side):
        raise ValueError(
            f"--out {args.out}: a grid of {n:,} images has a side of {side:,} pixels, more than "
            f"{args.out.suffix} holds; make it {args.out.with_suffix('.png')}, or generate fewer"
        )
    # 2. batch by batch; of each image, what is needed later
    images, pixels, seconds, sampled, accepted = [], [], Counter[str](), 0, 0
    for at in range(0, n, args.batch):
        some, options = slice(at, at + args.batch), sampling_options(args)
        if verifier is None:
            out = pipe(told[some], seed=seeds[some], **options)
        else:
            of_images = told[some], seeds[some], verifier, args.attempts, prompts[some]
            out = rejection_sample(pipe, *of_images, **options)
            seeds[some] = out.seeds
            sampled += sum(out.attempts)
            accepted += sum(out.accepted)
        seconds.update(out.seconds)
        last = list(out.stages.values())[-1]
        images += [to_image(image, None if n == 1 else CELL) for image in last]
        # in 8 bits, as a file holds them: a float takes four times the memory
        pixels += list((last.float().cpu() * 127.5 + 127.5).round().to(torch.uint8))
    # 3. one image as it is, several with their captions
    labels = [f"{p} ({s})" for p, s in zip(told, seeds)]
    (images[0] if n == 1 else image_grid(images, labels, columns, CELL)).save(args.out)
    # 4. what the parser of scenes says of each image that it can speak of
    for prompt, seed, image in zip(prompts, seeds, pixels):
        if (said := verdict(pipe, prompt, image / 127.5 - 1)) is not None:
            print(f"{prompt!r}, seed {seed}: {said}")
    if verifier is not None:
        print(
            f"{sampled} images were sampled; {accepted} of {n} captions have one that is accepted"
        )
    print(f"{args.out}: " + ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items()))
    if told != with_colors and not pipe.own_images:
        print(
            "A caption leaves a colour open; --upsample-captions chooses one, and fails less often"
        )


if __name__ == "__main__":
    run_script(main)
