"""The demo: eight captions, one caption and one edit, on the shipped weights.

    python -m sample.demo --out outputs/demo

It writes `captions.png`, `caption.png` and `edit.png`.
"""

from __future__ import annotations

import time
from pathlib import Path

from imagen_mini.editing.base import Edit
from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.evaluation.scoring import judge_image
from imagen_mini.utils.scripts import check_output_folder, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid
from sample.cli import add_pipeline_options, load_pipeline, sampling_options

CAPTIONS = {
    "scenes": [
        "a large striped orange star on a black background",
        "a yellow ring above a purple cross",
        "three green circles",
        "a small pink triangle below a large cyan square",
        "a checkered red square on a white background",
        "two blue rings and a yellow star on a beige background",
        "a dotted cyan circle right of a solid orange cross",
        "a purple star left of a green ring on a gray background",
    ],
    "studio": [
        "a large striped orange star on slate, lit from the left",
        "a metallic yellow ring above a purple cross on wood",
        "three green circles on sand",
        "a small pink triangle below a large cyan square on marble",
        "a checkered red square on linen, lit from the top",
        "two blue rings and a yellow star on wood",
        "a dotted cyan circle right of a solid orange cross on slate",
        "a shiny purple star left of a matte green ring on marble",
    ],
}
CAPTION = {
    "scenes": "a red circle to the left of a blue square",
    "studio": "a red circle to the left of a blue square on wood",
}


def parts(world: str) -> list[tuple[str, str, list[str], Edit | None]]:
    """What the demo shows of a world, the best first: file name, its title, prompts, edit."""
    source, target = CAPTION[world], CAPTION[world].replace("red", "yellow")
    swap = "Prompt-to-Prompt: one word is replaced, the rest stays"
    return [
        ("captions", "eight captions, eight images", CAPTIONS[world], None),
        ("caption", "one caption, one image", [source], None),
        ("edit", swap, [source, target], Replace()),
    ]


NEXT = """
What to try next:
  your own caption    python -m sample.generate "a small green star above a red ring" --out out.png
  your own edit       python -m sample.edit replace "a red ring" "a red star" --out edit.png
  the full score      python -m sample.evaluate --out report.json"""


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    add_pipeline_options(parser)
    parser.set_defaults(pipeline="studio")
    parser.add_argument("--seed", type=int, default=0, help="of every image (default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/demo"),
        help="folder for the images (default: outputs/demo)",
    )
    args = parser.parse_args(arguments)
    check_output_folder(args.out)

    # 1. the pipeline
    start = time.perf_counter()
    print("loading the pipeline ...", flush=True)
    pipe, options = load_pipeline(args), sampling_options(args)
    if pipe.own_images:
        raise SystemExit(
            f"{args.pipeline} was trained on a folder of images, and the demo's captions are of "
            f"the world {pipe.world.name}; for images of other captions: "
            f"python -m sample.generate --pipeline {args.pipeline} CAPTION"
        )
    print(
        f"loaded in {time.perf_counter() - start:.1f} s, "
        f"{sum(p.numel() for p in pipe.parameters()):,} parameters, on {args.device}"
    )

    # 2. the images, each file as soon as it is ready; the pipeline shows the progress of each stage
    todo = parts(pipe.world.name)
    for i, (name, title, prompts, edit) in enumerate(todo, start=1):
        print(f"\n[{i} of {len(todo)}] {title} ...", flush=True)
        out = pipe(prompts, seed=args.seed, edit=edit, **options)
        images = list(out.stages.values())[-1]
        path = args.out / f"{name}.png"
        if len(prompts) == 1:
            out.images[0].save(path)
        else:
            image_grid(list(images), prompts, cell=256).save(path)
        for prompt, image in zip(prompts, images):
            print(f"  {prompt!r}: {judge_image(prompt, image, pipe.world)}")
        seconds = ", ".join(f"{stage} {s:.1f} s" for stage, s in out.seconds.items())
        print(f"  -> {path}   ({seconds})", flush=True)

    # 3. where to go from here
    print(f"\n{time.perf_counter() - start:.0f} s in all; the images are in {args.out}/")
    print(NEXT)


if __name__ == "__main__":
    run_script(main)
