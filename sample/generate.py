"""Generate images of captions.

python -m sample.generate "a red circle to the left of a blue square" --seed 0 --out out.png
"""

from __future__ import annotations

from pathlib import Path

from imagen_mini.evaluation.scoring import judge_image
from imagen_mini.utils.scripts import check_output_file, integer, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid
from sample.cli import add_pipeline_options, load_pipeline, sampling_options


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
    add_pipeline_options(parser)
    args = parser.parse_args(arguments)

    check_output_file(args.out)

    # 1. every caption with every seed, as one batch
    pipe = load_pipeline(args)
    prompts = [p for p in args.prompts for _ in range(args.count)]
    seeds = [args.seed + i for _ in args.prompts for i in range(args.count)]
    out = pipe(prompts, seed=seeds, **sampling_options(args))
    # 2. one image as it is, several with their captions
    last = list(out.stages.values())[-1]
    if len(prompts) == 1:
        out.images[0].save(args.out)
    else:
        image_grid(last, [f"{p} ({s})" for p, s in zip(prompts, seeds)]).save(args.out)
    # 3. what the parser of scenes says of each image
    for prompt, seed, image in zip(prompts, seeds, last):
        print(f"{prompt!r}, seed {seed}: {judge_image(prompt, image, pipe.world)}")
    print(
        f"{args.out}: "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in out.seconds.items())
    )


if __name__ == "__main__":
    run_script(main)
