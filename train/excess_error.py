"""How far is a base stage from the best denoiser that there can be?

    python -m train.excess_error runs/base                       # one run, or several, or stage folders; without any: the shipped weights
    python -m train.excess_error runs/a runs/b --n 24 --out regret.png

For captions of two things the best answer E[x_0 | x_t, caption] can be computed
(`imagen_mini.best`). Prints the mean squared error of x_0_hat by log-SNR, of the best and of each
network, on the same scenes and noise. A network's error less the best is its regret: all that
training can still win, and where. The error itself is mostly noise that nobody can know.

Then, how much one place knows of the other: of two things one is shown half way to the other, so
that nothing at its place says which of them it is, and x_0_hat there is compared for the two things
that the second place may show. 0: it does not matter what the second place shows; 1: the first one
shows the other.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.cascade.serialization import load_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.gaussian import q_sample, to_x_0
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
from imagen_mini.utils.rng import randn
from imagen_mini.viz.style import STYLES, save_figure, subplots
from imagen_mini.weights import WEIGHTS

LOG_SNRS = (-8, -6, -5, -4, -3, -2, -1, 0)


def scenes_and_captions(n: int) -> list[tuple]:
    """`n` unseen scenes of two different things, each with a caption that says shapes, colours and
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
    """Mean squared errors by LOG_SNRS: of the best denoiser, under "best", and of each stage."""
    totals = {name: [0.0] * len(LOG_SNRS) for name in ("best", *stages)}
    for i, (scene, caption) in enumerate(tqdm(scenes_and_captions(n), desc="scenes")):
        best, x_0, text = (
            OptimalDenoiser(parse_caption(caption)),
            render([scene], 64),
            encoder([caption]),
        )
        for at, level in enumerate(LOG_SNRS):
            log_snr = torch.tensor([float(level)])
            x_t = q_sample(x_0, randn([i], (3, 64, 64), "regret", level), log_snr)
            answers = {"best": best(x_t, level)} | {
                name: to_x_0(stage.net(x_t, log_snr, text), stage.config.prediction, x_t, log_snr)
                for name, stage in stages.items()
            }
            for name, x_0_hat in answers.items():
                totals[name][at] += (x_0_hat - x_0).square().mean().item() / n
    return totals


@torch.no_grad()
def exclusion(
    stages: dict[str, DiffusionStage], encoder: TextEncoder, n: int
) -> dict[str, list[float]]:
    """How much x_0_hat at a place that could be either thing follows from the other place, by
    LOG_SNRS: of the best denoiser, under "best", and of each stage.
    """
    totals = {name: [0.0] * len(LOG_SNRS) for name in ("best", *stages)}
    for i, (scene, caption) in enumerate(tqdm(scenes_and_captions(n), desc="scenes")):
        a, b = scene.objects

        def generated(here: SceneObject, there: SceneObject) -> Tensor:
            """With the looks of one thing in the place of the first, and of one in the place of the
            second.
            """
            return render(
                [
                    Scene(
                        tuple(
                            replace(at, shape=looks.shape, color=looks.color)
                            for at, looks in ((a, here), (b, there))
                        ),
                        scene.background,
                    )
                ],
                64,
            )

        undecided = torch.cat([(generated(a, there) + generated(b, there)) / 2 for there in (a, b)])
        # from the one thing to the other, in the first place
        between = generated(b, b) - generated(a, b)
        best, text = OptimalDenoiser(parse_caption(caption)), encoder([caption, caption])
        for at, level in enumerate(LOG_SNRS):
            log_snr = torch.full((2,), float(level))
            x_t = q_sample(undecided, randn([i, i], (3, 64, 64), "exclusion", level), log_snr)
            answers = {"best": best(x_t, level)} | {
                name: to_x_0(stage.net(x_t, log_snr, text), stage.config.prediction, x_t, log_snr)
                for name, stage in stages.items()
            }
            for name, (if_a, if_b) in answers.items():
                totals[name][at] += (
                    ((if_a - if_b) * between).sum() / between.square().sum()
                ).item() / n
    return totals


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stages",
        type=Path,
        nargs="*",
        metavar="RUN",
        help="run folders of base stages, or stage folders (default: the shipped one)",
    )
    parser.add_argument(
        "--text-encoder",
        type=Path,
        default=WEIGHTS / "text_encoder",
        help="the one that they were trained with",
    )
    parser.add_argument("--n", type=int, default=24, help="scenes (default: 24)")
    parser.add_argument("--out", type=Path, help="a figure of the regret by log-SNR")
    args = parser.parse_args(arguments)
    if args.n < 1:
        parser.error(f"--n {args.n}: expected at least 1")
    stages = {
        str(path): load_stage(path / "stage" if (path / "stage").is_dir() else path).eval()
        for path in args.stages or [WEIGHTS / "base"]
    }
    for path, stage in stages.items():
        if stage.is_super_resolution or stage.config.unet.image_size != 64:
            raise SystemExit(
                f"{path} is stage {stage.config.name} of {stage.config.unet.image_size} px; "
                "expected a base stage of 64 px"
            )
    encoder = TextEncoder.from_pretrained(args.text_encoder)
    found, told = errors(stages, encoder, args.n), exclusion(stages, encoder, args.n)
    width = max(map(len, found))
    for title, table, digits in (
        ("mean squared error of x_0_hat", found, 4),
        ("how much one place knows of the other", told, 2),
    ):
        print(title)
        print(f"{'log-SNR':{width}}", *(f"{level:8}" for level in LOG_SNRS))
        for name, row in table.items():
            print(f"{name:{width}}", *(f"{number:8.{digits}f}" for number in row))
    if args.out:
        sheet, (panel,) = subplots(
            ["error of x_0_hat, less the best"], "log-SNR   (left: more noise)"
        )
        for name, style in zip(stages, STYLES):
            panel.plot(
                LOG_SNRS,
                [error - best for error, best in zip(found[name], found["best"])],
                **style,
                label="/".join(Path(name).parts[-2:]),
            )
        panel.set_ylim(bottom=0)
        save_figure(sheet, args.out)
        print(args.out)


if __name__ == "__main__":
    main()
