"""How far is a base stage from the optimal denoiser?

    python -m train.excess_error                                  # the shipped weights
    python -m train.excess_error runs/base                        # a run, or several, or stages
    python -m train.excess_error runs/a runs/b --n 24 --out excess_error.png

For captions of two objects the optimal answer E[x_0 | x_t, caption] can be computed
(`imagen_mini.evaluation.optimal_denoiser`). Prints the mean squared error of x_0_hat by log-SNR, of
the optimal denoiser and of each network, on the same scenes and noise. The excess error of a
network is its error less the optimal one: all that training can still win, and where. Most of the
error itself is noise that no denoiser can know.

Then, how much one place knows of the other. Of two objects, one is rendered half way to the other,
so that nothing at its place says which of them it is. x_0_hat there is compared for the two objects
that the second place may show. 0: it does not matter what the second place shows; 1: the first one
shows the other.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.cascade.serialization import load_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.gaussian import q_sample, to_x_0
from imagen_mini.evaluation.denoising_errors import denoising_errors, stage_denoiser
from imagen_mini.evaluation.optimal_denoiser import OptimalDenoiser
from imagen_mini.scenes.captions import RELATION_PROB, parse_caption
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import (
    HELD_OUT_SEED,
    Scene,
    SceneObject,
    training_scene,
    unambiguous_relation,
)
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.encoder_of_run import find_text_encoder
from imagen_mini.utils.rng import randn
from imagen_mini.utils.scripts import (
    FIGURES,
    check_output_file,
    integer,
    run_or_stage_folder,
    run_script,
    script_parser,
)
from imagen_mini.viz.style import STYLES, save_figure, subplots
from imagen_mini.weights import WEIGHTS

LOG_SNRS = (-8, -6, -5, -4, -3, -2, -1, 0)


def scenes_and_captions(n: int) -> list[tuple]:
    """`n` unseen scenes of two different objects, each with a caption that says shapes, colours and
    background; as often as such a caption is written.
    """
    out, index = [], 0
    while len(out) < n:
        scene = training_scene(HELD_OUT_SEED, index, (0, 1))
        index += 1
        a, b = scene.objects
        related = (
            unambiguous_relation(a, b) is not None
            and random.Random(f"regret/{index}").random() < RELATION_PROB
        )
        if a.shape != b.shape and a.color != b.color and not related:
            out.append(
                (
                    scene,
                    f"a {a.color} {a.shape} and a {b.color} {b.shape} on a {scene.background} "
                    "background",
                )
            )
    return out


@torch.no_grad()
def errors(
    stages: dict[str, DiffusionStage], encoder: TextEncoder, n: int
) -> dict[str, list[float]]:
    """Mean squared errors by LOG_SNRS, of the optimal denoiser ("optimal") and of each stage."""
    totals = {name: [0.0] * len(LOG_SNRS) for name in ("optimal", *stages)}
    for i, (scene, caption) in enumerate(tqdm(scenes_and_captions(n), desc="scenes")):
        optimal, text = OptimalDenoiser(parse_caption(caption)), encoder([caption])
        denoisers = {"optimal": partial(_at_one_level, optimal)} | {
            name: stage_denoiser(stage, text) for name, stage in stages.items()
        }
        noise = partial(_noise_of, i)
        for name, found in denoising_errors(denoisers, render(scene, 64), LOG_SNRS, noise).items():
            for at, error in enumerate(found[:, 0].tolist()):
                totals[name][at] += error / n
    return totals


def _at_one_level(optimal: OptimalDenoiser, x_t: Tensor, log_snr: Tensor) -> Tensor:
    """The optimal denoiser with a log-SNR [b] that is the same for the whole batch."""
    return optimal(x_t, log_snr[0].item())


def _with_looks(scene: Scene, first: SceneObject, second: SceneObject) -> Tensor:
    """The scene with the look of `first` at its first place, and of `second` at its second."""
    objects = (
        replace(at, shape=look.shape, color=look.color)
        for at, look in zip(scene.objects, (first, second))
    )
    return render([Scene(tuple(objects), scene.background)], 64)


def _noise_of(i: int, log_snr: float) -> Tensor:
    """The noise of scene i at a level; "regret", the script's former name, is part of the seed."""
    return randn([i], (3, 64, 64), "regret", log_snr)


@torch.no_grad()
def exclusion(
    stages: dict[str, DiffusionStage], encoder: TextEncoder, n: int
) -> dict[str, list[float]]:
    """How much x_0_hat at a place that could be either object follows from the other place, by
    LOG_SNRS: of the optimal denoiser, under "optimal", and of each stage.
    """
    totals = {name: [0.0] * len(LOG_SNRS) for name in ("optimal", *stages)}
    for i, (scene, caption) in enumerate(tqdm(scenes_and_captions(n), desc="scenes")):
        a, b = scene.objects
        rendered = partial(_with_looks, scene)
        # 1. The two undecided images: at the first place half of each object, at the second either.
        undecided = torch.cat([(rendered(a, there) + rendered(b, there)) / 2 for there in (a, b)])
        # 2. The way from the one object to the other, at the first place.
        between = rendered(b, b) - rendered(a, b)
        optimal, text = OptimalDenoiser(parse_caption(caption)), encoder([caption, caption])
        for at, level in enumerate(LOG_SNRS):
            log_snr = torch.full((2,), float(level))
            x_t = q_sample(undecided, randn([i, i], (3, 64, 64), "exclusion", level), log_snr)
            answers = {"optimal": optimal(x_t, level)} | {
                name: to_x_0(stage.net(x_t, log_snr, text), stage.config.prediction, x_t, log_snr)
                for name, stage in stages.items()
            }
            for name, (if_a, if_b) in answers.items():
                totals[name][at] += (
                    ((if_a - if_b) * between).sum() / between.square().sum()
                ).item() / n
    return totals


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "stages",
        type=Path,
        nargs="*",
        metavar="RUN",
        help="run folders of base stages, or stage folders (default: the shipped one)",
    )
    parser.add_argument(
        "--text-encoder", help="the one that they were trained with (default: as they remember)"
    )
    parser.add_argument("--n", type=integer(low=1), default=24, help="scenes (default: 24)")
    parser.add_argument("--out", type=Path, help="a figure of the excess error by log-SNR")
    args = parser.parse_args(arguments)
    if args.out:
        check_output_file(args.out, FIGURES)
    stages = {
        str(path): load_stage(run_or_stage_folder(path)).eval()
        for path in args.stages or [WEIGHTS / "base"]
    }
    for path, stage in stages.items():
        if stage.config.world != "scenes":
            raise SystemExit(
                f"{path} was trained on the world {stage.config.world}; expected scenes, whose "
                "exact denoiser is known"
            )
        if stage.is_super_resolution or stage.config.unet.image_size != 64:
            raise SystemExit(
                f"{path} is stage {stage.config.name} of {stage.config.unet.image_size} px; "
                "expected a base stage of 64 px"
            )
    encoder = TextEncoder.from_pretrained(find_text_encoder(args.text_encoder, *args.stages))
    found, exclusions = errors(stages, encoder, args.n), exclusion(stages, encoder, args.n)
    width = max(map(len, found))
    for title, table, digits in (
        ("mean squared error of x_0_hat", found, 4),
        ("how much one place knows of the other", exclusions, 2),
    ):
        print(title)
        print(f"{'log-SNR':{width}}", *(f"{level:8}" for level in LOG_SNRS))
        for name, row in table.items():
            print(f"{name:{width}}", *(f"{number:8.{digits}f}" for number in row))
    if args.out:
        fig, (ax,) = subplots(
            ["error of x_0_hat, less the optimal one"], "log-SNR   (left: more noise)"
        )
        for name, style in zip(stages, STYLES):
            ax.plot(
                LOG_SNRS,
                [error - least for error, least in zip(found[name], found["optimal"])],
                **style,
                label="/".join(Path(name).parts[-2:]),
            )
        ax.set_ylim(bottom=0)
        save_figure(fig, args.out)
        print(args.out)


if __name__ == "__main__":
    run_script(main)
