"""Sample with a guide, beside the same noise without one: a table and a grid of images.

    python -m sample.guide "a star, a circle and a square" --method attend --count 4
    python -m sample.guide "a red circle" --method layout --box circle=0,0,0.5,0.5
    python -m sample.guide "a circle" --method color --color red=0.1,0.1,0.4,0.4 --scale 1000 \\
        --backward-steps 5 --backward-rate 30 --rounds 3 --sampler ddim
    python -m sample.guide --kinds "three shapes" negation --n 16 --method attend structure compose

Without prompts, the captions are of kinds that the shipped cascade fails at. Methods:

    attend       Attend-and-Excite: no noun of the prompt may be neglected
    layout       attention in boxes: those of --box, or the nouns side by side
    refocus      attention refocusing: the same boxes, also for what pixels attend to
    structure    StructureDiffusion: noun phrases are also read alone
    compose      composable diffusion: noun phrases with AND; after "no" and "without" with NOT
    color        universal guidance by a colour at a place, that of --color
    judge        universal guidance by a classifier of clean images, that of --classifier
    classifier   classifier guidance by a classifier of noisy images, that of --classifier

Only the first stage is sampled. Files in the folder --out:

    guide.png    a row without a guide, and a row for each method
    guide.json   the numbers of the table
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from imagen_mini.editing.guides import (
    AttendAndExcite,
    AttentionLayout,
    AttentionRefocusing,
    ClassifierGuide,
    ComposedPrompts,
    Guide,
    LossGuide,
    StructuredPrompt,
    wanted_nouns,
)
from imagen_mini.editing.image_losses import Box, box_mask, check_box, classifier_loss, color_loss
from imagen_mini.evaluation.guide_comparison import (
    CONTROL,
    KINDS,
    GuideRow,
    captions_of_kind,
    compare_guides,
)
from imagen_mini.evaluation.noisy_classifier import HIGHEST, load_noisy_classifier
from imagen_mini.evaluation.scoring import description_of
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.captions import Caption
from imagen_mini.scenes.scene import COLORS
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.image_grid import image_table
from sample.cli import add_model_options, check_judged, load_pipeline

METHODS = (
    "attend",
    "layout",
    "refocus",
    "structure",
    "compose",
    "color",
    "judge",
    "classifier",
)
SCALES = {"color": 1000.0, "judge": 1.0, "classifier": 1.0}
# Attend-and-Excite moves latents by 20; pixels of 64 px need longer steps.
RATES = {"attend": 400.0, "layout": 30.0, "refocus": 30.0}
SHOWN = 8  # images of a row in the grid


def place(text: str) -> tuple[str, Box]:
    """A name and a box from text like 'circle=0,0,0.5,0.5'; an error of argparse otherwise."""
    name, _, numbers = text.partition("=")
    try:
        left, top, right, bottom = (float(edge) for edge in numbers.split(","))
        return name, check_box((left, top, right, bottom))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected NAME=LEFT,TOP,RIGHT,BOTTOM in shares of the image, such as "
            f"circle=0,0,0.5,0.5 ({error})"
        ) from None


def side_by_side(pipe: ImagenPipeline, prompt: str) -> dict[str | int, Box]:
    """A box for each noun that is to be there: columns of equal width, in order."""
    nouns = wanted_nouns(pipe.text_encoder.tokenize_prompt(prompt))
    n = len(nouns)
    return {word: (i / n, 0.0, (i + 1) / n, 1.0) for i, word in enumerate(nouns)}


def guide_of_method(
    method: str, pipe: ImagenPipeline, args: argparse.Namespace
) -> Callable[[Sequence[str]], Guide]:
    """Prompts -> the guide of a method, as the options want it.

    Raises:
        ValueError: The method needs an option that is not there.
    """
    scale = SCALES.get(method) if args.scale is None else args.scale
    rate = RATES.get(method) if args.rate is None else args.rate
    if method == "attend":
        return lambda prompts: AttendAndExcite(args.words, rate, most=args.most)
    if method in ("layout", "refocus"):
        boxes = dict(args.box or ())
        guide = AttentionLayout if method == "layout" else AttentionRefocusing
        return lambda prompts: guide(
            boxes or [side_by_side(pipe, prompt) for prompt in prompts], rate
        )
    if method == "structure":
        return lambda prompts: StructuredPrompt()
    if method == "compose":
        return lambda prompts: ComposedPrompts(no=-args.not_weight)
    if method == "color":
        if args.color is None:
            raise ValueError("--method color needs --color, such as --color red=0,0,0.5,0.5")
        name, box = args.color
        if name not in COLORS:
            raise ValueError(f"--color {name}; expected one of {', '.join(COLORS)}")
        size = pipe.stages[next(iter(pipe.stages))].config.unet.image_size
        loss = color_loss(COLORS[name], box_mask(box, size))
        return lambda prompts: LossGuide(
            loss, scale, args.backward_steps, args.backward_rate, args.rounds
        )
    if args.classifier is None:
        raise ValueError(
            f"--method {method} needs --classifier FILE; train one with python -m "
            "train.noisy_classifier --out FILE"
        )
    net = load_noisy_classifier(args.classifier).to(pipe.device)
    if method == "classifier":
        return lambda prompts: ClassifierGuide(net.log_probability, scale)

    def judge(prompts: Sequence[str]) -> Guide:
        log_p = net.log_probability(prompts)
        loss = classifier_loss(lambda x: log_p(x, x.new_full((len(x),), HIGHEST)))
        return LossGuide(loss, scale, args.backward_steps, args.backward_rate, args.rounds)

    return judge


def print_row(row: GuideRow) -> None:
    """Print a row of the table."""
    right, n = sum(row.verdicts), len(row.verdicts)
    low, high = wilson_interval(right, n)
    share = f"{right} of {n} ({100 * low:.0f} to {100 * high:.0f} %)"
    against = "" if row.difference is None else str(row.difference)
    print(f"{row.kind:18}{row.guide:12}{share:24}{against:30}{row.seconds:6.2f} s", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("prompts", nargs="*", help="captions, each in quotes (default: --kinds)")
    parser.add_argument(
        "--method", nargs="+", choices=METHODS, default=["attend"], help="(default: attend)"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of captions (default: all)"
    )
    parser.add_argument(
        "--n", type=integer(low=1), default=16, help="captions of each kind (default: 16)"
    )
    parser.add_argument(
        "--count", type=integer(low=1), default=4, help="images of each prompt (default: 4)"
    )
    parser.add_argument("--steps", type=integer(low=1), help="(default: the stage's)")
    parser.add_argument(
        "--sampler", help="(default: the stage's; --rounds above 1 needs ddim or ddpm)"
    )
    parser.add_argument(
        "--words", nargs="+", help="attend: words that may not be neglected (default: the nouns)"
    )
    parser.add_argument(
        "--box",
        type=place,
        action="append",
        metavar="WORD=L,T,R,B",
        help="layout and refocus: may be repeated",
    )
    parser.add_argument("--color", type=place, metavar="NAME=L,T,R,B", help="color: what and where")
    parser.add_argument("--classifier", type=Path, help="of train.noisy_classifier")
    parser.add_argument(
        "--scale",
        type=number(),
        help=f"of color, judge and classifier (default: {', '.join(map(str, SCALES.values()))})",
    )
    parser.add_argument(
        "--rate",
        type=number(above=0),
        help=f"of attend, layout and refocus (default: {', '.join(map(str, RATES.values()))})",
    )
    parser.add_argument(
        "--not-weight",
        type=number(low=0),
        default=0.5,
        help="compose: of what is negated; 0 does not read it at all (default: 0.5)",
    )
    parser.add_argument(
        "--most", type=integer(low=1), default=5, help="attend: moves for a target (default: 5)"
    )
    parser.add_argument(
        "--backward-steps",
        type=integer(low=0),
        default=0,
        help="color and judge: of backward guidance (default: 0)",
    )
    parser.add_argument(
        "--backward-rate",
        type=number(above=0),
        default=0.1,
        help="color and judge: length of these, in units of the gradient (default: 0.1)",
    )
    parser.add_argument(
        "--rounds",
        type=integer(low=1),
        default=1,
        help="color and judge: times that a step is taken (default: 1)",
    )
    parser.add_argument("--batch", type=integer(low=1), default=16, help="(default: 16)")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/guide"), help="folder (default: outputs/guide)"
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)

    # 1. the captions and the guides, checked before anything is sampled
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    check_judged(pipe, [next(iter(pipe.stages))])
    captions = {kind: captions_of_kind(kind, args.n, pipe.world) for kind in args.kinds}
    if args.prompts:
        unknown = [p for p in args.prompts if description_of(p, pipe.world) is None]
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is no caption of the world {pipe.world.name}, so its images "
                "cannot be judged; sample.generate does not judge"
            )
        captions = {
            p: [Caption(p, (), pipe.world.parse_caption(p))] * args.count for p in args.prompts
        }
    guides = {method: guide_of_method(method, pipe, args) for method in args.method}

    # 2. row by row
    print(f"{'captions':18}{'guide':12}{'correct':24}{'against no guide':30}an image")
    rows = compare_guides(
        pipe,
        captions,
        guides,
        args.batch,
        print_row,
        num_inference_steps=args.steps,
        sampler=args.sampler,
    )

    # 3. the numbers, and some of the images
    report = {
        "pipeline": args.pipeline,
        "steps": args.steps,
        "rows": [
            {
                "captions": row.kind,
                "guide": row.guide,
                "right": sum(row.verdicts),
                "n": len(row.verdicts),
                "seconds": round(row.seconds, 3),
            }
            | (
                {}
                if row.difference is None
                else {
                    "difference": round(row.difference.mean, 4),
                    "low": round(row.difference.low, 4),
                    "high": round(row.difference.high, 4),
                }
            )
            for row in rows
        ],
    }
    (args.out / "guide.json").write_text(json.dumps(report, indent=1) + "\n")
    shown = min(SHOWN, max(len(row.verdicts) for row in rows))
    image_table(
        [[*row.images[:shown], *[None] * (shown - len(row.images))] for row in rows],
        [row.kind if row.guide == CONTROL else row.guide for row in rows],
        [f"seed {i}" for i in range(shown)],
        borders=[[*row.verdicts[:shown], *[None] * (shown - len(row.images))] for row in rows],
    ).save(args.out / "guide.png")
    print(f"{args.out}/guide.png, guide.json")


if __name__ == "__main__":
    run_script(main)
