"""Which sampler, how many steps, how much guidance? Two figures with their numbers.

    python -m sample.sweep --out outputs/sweeps

Files in the folder --out:

    samplers.png     accuracy over the number of network calls: for each sampler, without fresh
                     noise where it is optional, and for the stage's default sampler
    thresholds.png   accuracy and saturation over the guidance scale w, for each way of thresholding
    sweeps.json      the numbers of both, with 95 % intervals

One stage is swept; what a figure does not vary is that stage's default. A scale w that is set acts
at all noise levels, as in a call of the pipeline. Images are judged by the
exact parser, with seeds that no training uses. Saturation is measured on the last
x_0_hat, before it is clamped to make an image: the share of its values at |x| >= 0.99, and the mean
of |x|. White and black backgrounds are saturated by nature, so true images of the same captions are
shown for comparison.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.sampling_options import SamplingOptions, resolve_sampling_options
from imagen_mini.diffusion.guidance import THRESHOLDS
from imagen_mini.diffusion.samplers import SAMPLERS
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.guidance_measures import saturation
from imagen_mini.evaluation.scoring import evaluate, score, table
from imagen_mini.scenes.captions import Caption
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.guidance import plot_accuracy, plot_scales
from imagen_mini.viz.style import STYLES, log_axis, percent_axis, save_figure, subplots
from sample.cli import add_model_options, check_judged, load_pipeline

BASE_CATEGORIES = ["one object", "binding", "positional", "counting"]
SR_CATEGORIES = ["texture", "two textures"]  # all that super-resolution decides


# ---------------------------------------------------------------- numbers


def measurer(
    pipe: ImagenPipeline, name: str, prompts: list[tuple[str, int, Caption]], batch: int, bar: tqdm
) -> Callable[[SamplingOptions], dict]:
    """Return a function that generates all prompts with given options, and judges them.

    Args:
        pipe: The pipeline.
        name: The stage that is swept.
        prompts: (category, seed, caption), as from `benchmark`.
        batch: Prompts per batch.
        bar: A progress bar, updated for each image.

    Returns:
        Options -> network calls per image, saturation, and the score of all prompts and of each
        category.
    """
    earlier = list(pipe.stages)[: list(pipe.stages).index(name)]

    @cache
    def previous(captions: tuple[str, ...], seeds: tuple[int, ...]) -> Tensor | None:
        """Generate what super-resolution starts from, once, with the earlier stages' defaults."""
        return (
            pipe(
                list(captions), seed=seeds, stages=earlier, output_type="pt", progress=False
            ).stages[earlier[-1]]
            if earlier
            else None
        )

    def measure(options: SamplingOptions) -> dict:
        calls, x_0_hats, results = [], [], []
        counter = pipe.stages[name].net.register_forward_pre_hook(lambda *_: calls.append(1))

        def generate(captions: list[str], seeds: list[int]) -> Tensor:
            x_0_hats.append(
                pipe.sample_stage(
                    name,
                    pipe.make_request(
                        captions, seeds, low_res=previous(tuple(captions), tuple(seeds))
                    ),
                    options,
                    progress=False,
                )
            )
            return x_0_hats[-1].clamp(-1, 1)

        for result in evaluate(generate, prompts, batch, pipe.world):
            results.append(result)
            bar.update()
        counter.remove()
        return {
            "calls": len(calls) // len(x_0_hats),
            **saturation(torch.cat(x_0_hats)),
            "all": score(results),
            **table(results),
        }

    return measure


def sampler_lines(default: SamplingOptions, samplers: Sequence[str]) -> dict[str, SamplingOptions]:
    """Return the options of each line of the first figure.

    Every sampler without optional fresh noise (eta = 0), and the stage's default if it adds some.
    """
    lines = {sampler: replace(default, sampler=sampler, eta=0.0) for sampler in samplers}
    if default.eta > 0 and default.sampler in samplers:
        lines[f"{default.sampler}, eta {default.eta:g}"] = default
    return lines


# ---------------------------------------------------------------- figures


def plot_samplers(report: dict) -> Figure:
    """Plot accuracy over network calls: one chart for all categories and one for each."""
    lines, names = report["samplers"], ["all", *report["categories"]]
    n = {name: next(iter(lines.values()))[0][name]["n"] for name in names}
    fig, axes = subplots(
        [f"{name}: share correct of {n[name]}" for name in names], "network calls per image"
    )
    for ax, name in zip(axes, names):
        for (sampler, rows), style in zip(lines.items(), STYLES):
            plot_accuracy(
                ax, [row["calls"] for row in rows], [row[name] for row in rows], sampler, style
            )
        log_axis(ax, [1, 2, 4, 8, 16, 32, 64])
        percent_axis(ax)
    return fig


def plot_thresholds(report: dict) -> Figure:
    """Plot accuracy, the share of saturated values and the mean of |x| over w, for each way of
    thresholding.
    """
    lines = {
        f"threshold: {name}": [row["all"] | row for row in rows]
        for name, rows in report["thresholds"].items()
    }
    return plot_scales(lines, report["true_pictures"])


# ---------------------------------------------------------------- the script


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/sweeps"),
        help="folder for the figures and the numbers (default: outputs/sweeps)",
    )
    parser.add_argument(
        "--stage", help="the stage to sweep, for example sr_256 (default: the first)"
    )
    parser.add_argument("--n", type=int, default=10, help="captions per category (default: 10)")
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[1, 2, 3, 4, 6, 8, 12, 16, 24, 32],
        help="numbers of steps for each sampler; heun needs two calls per step",
    )
    parser.add_argument(
        "--samplers",
        nargs="+",
        choices=SAMPLERS,
        default=list(SAMPLERS),
        help="only these samplers (default: all)",
    )
    parser.add_argument(
        "--scales",
        type=number(),
        nargs="+",
        default=[1, 1.5, 2, 3, 4, 6, 8, 12, 16],
        help="guidance scales w for each threshold",
    )
    parser.add_argument(
        "--thresholds",
        nargs="+",
        choices=THRESHOLDS,
        default=list(THRESHOLDS),
        help="only these ways of thresholding (default: all)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the list of prompts (default: 0)"
    )
    parser.add_argument(
        "--batch", type=integer(low=1), default=16, help="prompts per batch (default: 16)"
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)
    steps, scales = sorted(set(args.steps)), sorted(set(args.scales))
    if args.n < 1 or steps[0] < 1 or scales[0] <= 0:
        parser.error(
            f"--n {args.n}, --steps {steps}, --scales {scales}: expected n and steps of at "
            "least 1, and scales above 0"
        )

    check_output_folder(args.out)

    # 1. The stage, its prompts, and true images of the same captions.
    start = time.perf_counter()
    pipe = load_pipeline(args)
    name = args.stage or next(iter(pipe.stages))
    if name not in pipe.stages:
        raise ValueError(f"--stage {name}: {args.pipeline} has {', '.join(pipe.stages)}")
    check_judged(pipe, [name])
    stage = pipe.stages[name]
    default = resolve_sampling_options(stage)
    categories = SR_CATEGORIES if stage.is_super_resolution else BASE_CATEGORIES
    prompts = benchmark(args.n, args.seed, categories, pipe.world)
    truth = pipe.world.render(
        [
            pipe.world.scene_matching(caption.description, random.Random(caption.text))
            for _, _, caption in prompts
        ],
        stage.config.unet.image_size,
    )
    report = {
        "pipeline": args.pipeline,
        "stage": name,
        "n": args.n,
        "benchmark_seed": args.seed,
        "categories": categories,
        "defaults": asdict(default)
        | {
            option: getattr(stage.config, option)
            for option in ("guidance_scale", "guidance_interval")
        },
        "true_pictures": saturation(truth),
        "samplers": {},
        "thresholds": {},
    }
    # 2. Generate and judge: samplers by steps, thresholds by w.
    lines = sampler_lines(default, args.samplers)
    with tqdm(
        total=len(prompts) * (len(lines) * len(steps) + len(args.thresholds) * len(scales)),
        desc="images",
    ) as bar:
        measure = measurer(pipe, name, prompts, args.batch, bar)
        for line, options in lines.items():
            report["samplers"][line] = [
                {"steps": n, **measure(replace(options, num_inference_steps=n))} for n in steps
            ]
        for threshold in args.thresholds:
            report["thresholds"][threshold] = [
                {"w": w, **measure(replace(default, threshold=threshold, guidance_scale=w))}
                for w in scales
            ]
    # 3. Figures, numbers, and a summary.
    report["seconds"] = round(time.perf_counter() - start, 1)

    save_figure(plot_samplers(report), args.out / "samplers.png")
    save_figure(plot_thresholds(report), args.out / "thresholds.png")
    (args.out / "sweeps.json").write_text(json.dumps(report, indent=1) + "\n")
    for kind, key in (("samplers", "calls"), ("thresholds", "w")):
        for line, rows in report[kind].items():
            print(
                f"{line:16} "
                + ", ".join(f"{key} {row[key]:g}: {row['all']['accuracy']:.0%}" for row in rows)
            )
    print(f"{report['seconds']:.0f} s; {args.out}/samplers.png, thresholds.png, sweeps.json")


if __name__ == "__main__":
    run_script(main)
