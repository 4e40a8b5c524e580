"""Directions in h-space: what a shift in the middle of the U-Net changes in images, and what else.

    python -m sample.directions "a circle"
    python -m sample.directions "a circle" --method paired --to "a circle on a black background"
    python -m sample.directions "a circle" --method optimize --color red=0.1,0.1,0.4,0.4

A direction is found at one step of sampling, and then shifts h in the first steps, by several
strengths and from several seeds. Methods:

    jacobian   the directions that change the estimate most, without any label; of the first seed
    paired     the difference that another prompt makes, that of --to; over all seeds
    optimize   the one direction that lowers a loss most: the colour and box of --color, or the
               caption of --to for the classifier of --classifier; over all seeds

Directions have the length 1, so strengths are lengths. The judge reads every image, and the table
counts what differs from the same seed at strength 0, and from the strength on the other side. Only
the first stage is sampled. Files:

    directions.png    a row for each direction, a column for each strength; the first seed
    directions.json   the numbers of the table
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.cascade.sampling import starting_noise
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.diffusion.samplers import sample
from imagen_mini.editing.guides import DirectionGuide
from imagen_mini.editing.h_space import (
    ReadFeatures,
    ShiftFeatures,
    jacobian_directions,
    middle_site,
    optimize_direction,
    paired_direction,
)
from imagen_mini.editing.image_losses import box_mask, classifier_loss, color_loss
from imagen_mini.evaluation.noisy_classifier import HIGHEST, load_noisy_classifier
from imagen_mini.evaluation.scene_changes import count_changes, describe_changes
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.models.control import AttentionControl
from imagen_mini.pipeline import ImagenPipeline
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
from sample.guide import place

METHODS = ("jacobian", "paired", "optimize")


def denoiser_of(
    pipe: ImagenPipeline, stage: DiffusionStage, prompt: str, rows: int
) -> Callable[[AttentionControl | None], Denoiser]:
    """Control -> the denoiser of a prompt under it, without guidance and threshold."""
    text = pipe.text_encoder([prompt] * rows)

    def make(control: AttentionControl | None) -> Denoiser:
        at = None if control is None else (lambda t: control)
        return stage.denoiser(text, guidance_scale=1.0, threshold="none", control_at=at)

    return make


@torch.no_grad()
def noisy_images(
    stage: DiffusionStage, denoise: Denoiser, seeds: list[int], times: Tensor, step: int
) -> Tensor:
    """x_t after some steps of DDIM from the noise of these seeds, [b, 3, h, w]."""
    x_t = starting_noise(stage, seeds).to(stage.net.out.weight.dtype)
    if step:
        *_, last = sample(denoise, x_t, times[: step + 1], stage.schedule, "ddim")
        x_t = last.x
    return x_t


def find_directions(
    pipe: ImagenPipeline, args: argparse.Namespace, times: Tensor, step: int
) -> tuple[Tensor, list[str]]:
    """The directions of a method, and what is to be said of each.

    Args:
        pipe: Its first stage is used.
        args: As of the command.
        times: Of the sampler, [steps + 1].
        step: Where directions are looked for.

    Returns:
        Directions [n, c, g, g] of length 1, and n texts.

    Raises:
        ValueError: The method needs an option that is not there.
    """
    stage = pipe.stages[args.first_stage]
    site, t = middle_site(stage.net.block_sites), times[step]
    seeds = list(range(args.seed, args.seed + args.count))
    if args.method == "jacobian":
        make = denoiser_of(pipe, stage, args.prompt, 1)
        x_t = noisy_images(stage, make(None), seeds[:1], times, step)
        at = read_middle(make, site, x_t, t)[0].float() * 0
        function = lambda h: make(ShiftFeatures(site, h[None]))(x_t, t).float()
        found, singular = jacobian_directions(function, at, args.directions, args.iterations)
        return found, [f"singular value {value:.2g}" for value in singular]
    make = denoiser_of(pipe, stage, args.prompt, len(seeds))
    x_t = noisy_images(stage, make(None), seeds, times, step)
    if args.method == "paired":
        if args.to is None:
            raise ValueError('--method paired needs --to, such as --to "a circle on black"')
        both = (make, denoiser_of(pipe, stage, args.to, len(seeds)))
        read = lambda x_t, t, which: read_middle(both[which], site, x_t, t).float()
        found = paired_direction(read, x_t, t)
        told = f"from {args.prompt!r} to {args.to!r}"
    else:
        shape = read_middle(make, site, x_t, t).shape[1:]
        found = optimize_direction(
            lambda delta: make(ShiftFeatures(site, delta)),
            make(None),
            loss_of(pipe, args, len(seeds)),
            [(x_t.float(), t)],
            tuple(shape),
            args.iterations,
        )
        told = "lowers the loss"
    length = found.norm()
    if length == 0:
        raise ValueError("the direction is 0: nothing that was asked for changes h")
    return found / length, [f"{told}; length {length:.3g}"]


@torch.no_grad()
def read_middle(make: Callable, site, x_t: Tensor, t: Tensor) -> Tensor:
    """h at a noisy image, [b, c, g, g]."""
    read = ReadFeatures(site)
    make(read)(x_t, t)
    return read.found[0]


def loss_of(
    pipe: ImagenPipeline, args: argparse.Namespace, rows: int
) -> Callable[[Tensor], Tensor]:
    """The loss that --color or --classifier asks for.

    Raises:
        ValueError: Neither is there, or an unknown colour.
    """
    if args.color is not None:
        name, box = args.color
        if name not in COLORS:
            raise ValueError(f"--color {name}; expected one of {', '.join(COLORS)}")
        size = pipe.stages[args.first_stage].config.unet.image_size
        return color_loss(COLORS[name], box_mask(box, size))
    if args.classifier is None or args.to is None:
        raise ValueError(
            "--method optimize needs --color, such as --color red=0,0,0.5,0.5, or --classifier "
            "FILE and --to CAPTION"
        )
    net = load_noisy_classifier(args.classifier).to(pipe.device)
    log_p = net.log_probability([args.to] * rows)
    return classifier_loss(lambda x: log_p(x, x.new_full((len(x),), HIGHEST)))


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("prompt", help="a caption that leaves something open")
    parser.add_argument("--method", choices=METHODS, default="jacobian", help="(default: jacobian)")
    parser.add_argument("--to", metavar="CAPTION", help="paired, or optimize with --classifier")
    parser.add_argument("--color", type=place, metavar="NAME=L,T,R,B", help="optimize: a loss")
    parser.add_argument("--classifier", type=Path, help="optimize: of train.noisy_classifier")
    parser.add_argument(
        "--directions", type=integer(low=1), default=3, help="jacobian: how many (default: 3)"
    )
    parser.add_argument(
        "--iterations",
        type=integer(low=1),
        help="of the search (default: 5 for jacobian, 20 for optimize)",
    )
    parser.add_argument(
        "--at",
        type=number(0, 1),
        default=0.25,
        help="share of the steps that are done where directions are looked for (default: 0.25)",
    )
    parser.add_argument(
        "--until",
        type=number(0, 1),
        default=0.7,
        help="share of the steps in which they act (default: 0.7)",
    )
    parser.add_argument(
        "--strengths",
        type=number(),
        nargs="+",
        default=[-3000, -600, 600, 3000],
        help="beside 0 (default: -3000 -600 600 3000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the first one (default: 0)")
    parser.add_argument("--count", type=integer(low=1), default=4, help="seeds (default: 4)")
    parser.add_argument("--steps", type=integer(low=2), default=16, help="(default: 16)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/directions"),
        help="folder (default: outputs/directions)",
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)
    args.iterations = args.iterations or (5 if args.method == "jacobian" else 20)

    # 1. the directions
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    check_judged(pipe, [args.first_stage])
    stage = pipe.stages[args.first_stage].requires_grad_(False)
    times = stage.timesteps(args.steps)
    step = min(round(args.at * args.steps), args.steps - 1)
    directions, told = find_directions(pipe, args, times, step)

    # 2. images: for each direction and seed a batch of all strengths
    strengths = sorted({0.0, *map(float, args.strengths)})
    seeds = range(args.seed, args.seed + args.count)
    rows, images = [], []
    bar = tqdm(total=len(directions) * len(seeds) * len(strengths), desc="images")
    for direction, about in zip(directions, told):
        by_seed = []
        for seed in seeds:
            shifts = torch.tensor(strengths, device=direction.device)[:, None, None, None]
            by_seed.append(
                pipe(
                    [args.prompt] * len(strengths),
                    seed=[seed] * len(strengths),
                    stages=(args.first_stage,),
                    num_inference_steps=args.steps,
                    sampler="ddim",
                    eta=0.0,
                    guide=DirectionGuide(shifts * direction, args.until),
                    output_type="pt",
                    progress=False,
                ).images
            )
            bar.update(len(strengths))
        images.append(by_seed[0])
        # 3. what the judge reads, beside strength 0
        parsed = [pipe.world.parse_image(batch.float().cpu()) for batch in by_seed]
        zero = strengths.index(0.0)
        for i, strength in enumerate(strengths):
            before, after = ([p[k].scene for p in parsed] for k in (zero, i))
            verdicts = [
                judge_images([args.prompt], batch[i : i + 1], pipe.world) for batch in by_seed
            ]
            row = {
                "direction": len(images) - 1,
                "about": about,
                "strength": strength,
                "right": sum(found is True for (found,) in verdicts),
                "seeds": len(seeds),
                "changes": count_changes(before, after),
            }
            if strength > 0 and -strength in strengths:
                opposite = [p[strengths.index(-strength)].scene for p in parsed]
                row["from the other side"] = count_changes(opposite, after)
            rows.append(row)
    bar.close()

    # 4. table, numbers, figure
    print(f"{args.method} at t = {float(times[step]):.2f}, {len(seeds)} seeds of {args.prompt!r}")
    for row in rows:
        if row["strength"] == strengths[0]:
            print(f"direction {row['direction']}: {row['about']}")
        changes = describe_changes(row["changes"]) if row["strength"] else "-"
        if "from the other side" in row:
            other = describe_changes(row["from the other side"])
            changes += f"   (from {-row['strength']:g}: {other})"
        print(f"{row['strength']:>8g}   correct {row['right']} of {row['seeds']}   {changes}")
    report = {
        "pipeline": args.pipeline,
        "prompt": args.prompt,
        "method": args.method,
        "t": float(times[step]),
        "rows": rows,
    }
    (args.out / "directions.json").write_text(json.dumps(report, indent=1) + "\n")
    image_table(
        [list(batch.float().cpu()) for batch in images],
        [f"direction {i}" for i in range(len(images))],
        [f"{strength:+g}" for strength in strengths],
        borders=[judge_images([args.prompt] * len(b), b, pipe.world) for b in images],
    ).save(args.out / "directions.png")
    print(f"{args.out}/directions.png, directions.json")


if __name__ == "__main__":
    run_script(main)
