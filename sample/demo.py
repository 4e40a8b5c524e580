"""The demo: one caption, eight captions, one edit, on the shipped weights.

python -m sample.demo --out outputs/demo
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.evaluation.scoring import judge_image
from imagen_mini.viz.image_grid import image_grid
from sample.cli import add_pipeline_options, load_pipeline, sampling_options

CAPTION = "a red circle to the left of a blue square"
CAPTIONS = [
    "a large striped orange star on a black background",
    "a yellow ring above a purple cross",
    "three green circles",
    "a small pink triangle below a large cyan square",
    "a checkered red square on a white background",
    "two blue rings and a yellow star on a beige background",
    "a dotted cyan circle right of a solid orange cross",
    "a purple star left of a green ring on a gray background",
]
EDIT = ("a red circle to the left of a blue square", "a yellow circle to the left of a blue square")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_pipeline_options(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/demo"), help="folder for the images"
    )
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    pipe, options = load_pipeline(args), sampling_options(args)
    print(
        f"loaded in {time.perf_counter() - start:.1f} s, "
        f"{sum(p.numel() for p in pipe.parameters()):,} parameters, on {args.device}"
    )

    def generate(name: str, prompts: list[str], edit=None) -> torch.Tensor:
        out = pipe(prompts, seed=args.seed, edit=edit, **options)
        print(
            f"\n{name}: "
            + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in out.seconds.items())
        )
        images = out.stages[list(out.stages)[-1]]
        for prompt, image in zip(prompts, images):
            print(f"  {prompt!r}: {judge_image(prompt, image)}")
        path = args.out / f"{name}.png"
        out.images[0].save(path) if len(prompts) == 1 else image_grid(
            list(images), prompts, cell=256
        ).save(path)
        print(f"  -> {path}")
        return images

    generate("caption", [CAPTION])
    generate("captions", CAPTIONS)
    generate("edit", list(EDIT), Replace())
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
