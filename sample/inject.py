"""Style transfer between two captions: the content of one image in the style of another one, by
the features in the middle of the U-Net.

    python -m sample.inject "a large red star" "a star on a black background"

The first caption gives the content, the second one the style. What the second one says itself stays
as it says, so it should leave something open. Row by row: a content image, a style
image, and the style image with growing shares of the content's middle features. The judge reads
each, and the table counts in how many images an attribute is that of the content image, and in how
many that of the style image. Only the first stage is sampled. Files in the folder --out:

    inject.png    a row for each seed
    inject.json   the numbers of the table
"""

from __future__ import annotations

import json
from pathlib import Path

from imagen_mini.editing.guides import ContentInjection
from imagen_mini.evaluation.scene_changes import ATTRIBUTES, count_changes
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.image_grid import image_table
from sample.cli import add_model_options, check_judged, load_pipeline

WHICH = ("as content", "as style")


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("content", help="caption of the content images")
    parser.add_argument("style", help="caption of the style images")
    parser.add_argument(
        "--shares",
        type=number(0, 1),
        nargs="+",
        default=[0.25, 0.5, 0.75, 1.0],
        help="of the content's features (default: 0.25 0.5 0.75 1)",
    )
    parser.add_argument(
        "--until",
        type=number(0, 1),
        default=0.5,
        help="share of the steps in which they are mixed (default: 0.5)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the first one (default: 0)")
    parser.add_argument("--count", type=integer(low=1), default=4, help="seeds (default: 4)")
    parser.add_argument("--steps", type=integer(low=2), default=16, help="(default: 16)")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/inject"), help="folder (default: outputs/inject)"
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    check_judged(pipe, [args.first_stage])

    # 1. content and style images, then the mixtures; style has noise of its own
    n = args.count
    prompts = [args.content] * n + [args.style] * n
    seeds = [args.seed + i for i in range(2 * n)]
    columns = []
    for share in [0.0, *args.shares]:
        images = pipe(
            prompts,
            seed=seeds,
            stages=(args.first_stage,),
            num_inference_steps=args.steps,
            sampler="ddim",
            eta=0.0,
            guide=ContentInjection(share, args.until),
            output_type="pt",
            progress=False,
        ).images
        images = images.float().cpu()
        if not columns:
            columns.append(images[:n])
        columns.append(images[n:])
    names = [args.content, args.style, *(f"share {share:g}" for share in args.shares)]

    # 2. what each has of content and of style
    scenes = [[p.scene for p in pipe.world.parse_image(images)] for images in columns]
    content, style = scenes[:2]
    rows = []
    for share, mixed in zip([0.0, *args.shares], scenes[1:]):
        as_content, as_style = (count_changes(of, mixed) for of in (content, style))
        rows.append(
            {
                "share": share,
                "unreadable": sum(scene is None for scene in mixed),
                "n": [as_content["n"], as_style["n"]],  # pairs of which both can be read
                **{
                    which: {a: counts["n"] - counts[a] for a in ATTRIBUTES}
                    for which, counts in zip(WHICH, (as_content, as_style))
                },
            }
        )
    told = [
        a
        for a in ATTRIBUTES
        if any(r[which][a] < r["n"][i] for r in rows for i, which in enumerate(WHICH))
    ]
    print("images whose attribute is that of the content image / of the style image")
    heads = ["of", *told, "unreadable"]
    print(f"{'share':>6}  " + "".join(f"{head:>12}" for head in heads))
    for r in rows:
        cells = ["{} / {}".format(*r["n"])]
        cells += [" / ".join(str(r[which][a]) for which in WHICH) for a in told]
        cells.append(str(r["unreadable"]))
        print(f"{r['share']:>6g}  " + "".join(f"{c:>12}" for c in cells))
    report = {
        "pipeline": args.pipeline,
        "content": args.content,
        "style": args.style,
        "until": args.until,
        "rows": rows,
    }
    (args.out / "inject.json").write_text(json.dumps(report, indent=1) + "\n")
    image_table(
        [[images[i] for images in columns] for i in range(n)],
        [f"seeds {args.seed + i} and {args.seed + n + i}" for i in range(n)],
        names,
    ).save(args.out / "inject.png")
    print(f"{args.out}/inject.png, inject.json")


if __name__ == "__main__":
    run_script(main)
