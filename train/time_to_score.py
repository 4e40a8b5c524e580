"""How good is a network after so many minutes of training, from nothing?

    python -m train.time_to_score --network ours --minutes 60 --out runs/score_ours.json
    python -m train.time_to_score --network diffusers --minutes 60 --out runs/score_diffusers.json
    python -m train.time_to_score --plot runs/score_ours.json runs/score_diffusers.json --out curve.png

What counts is not images a second but score per second of training. The base stage is trained with
the recipe of its preset (`key=value` changes it) for as many steps as fit into the minutes, at the
speed of a short trial before, or for `steps=N`. At times its average weights denoise held-out
images and draw the benchmark's captions, and the parser counts; neither is training time. With
ours, word swaps by Prompt-to-Prompt are scored at the end: a network that cannot be edited is of no
use here.

With `--keep FOLDER` the training is kept there every few minutes, and the same command goes on
where it was stopped. On a machine that does other work too, give the time of a step as measured
when it was idle (it is printed first, before the training): `--pace 0.3`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.cascade.serialization import save_stage
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.diffusion.gaussian import q_sample, to_x_0
from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.edit_benchmark import edit_table, evaluate_edits, swaps
from imagen_mini.evaluation.preview import sample_single_stage
from imagen_mini.evaluation.scoring import evaluate, score, table
from imagen_mini.scenes.scene import HELD_OUT_SEED
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import (
    checkpoints,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizers,
    save_checkpoint,
)
from imagen_mini.training.config import TRAIN_PRESETS, TrainConfig, override_run
from imagen_mini.training.ema import EMA
from imagen_mini.training.loop import train
from imagen_mini.utils.configuration import from_dict, to_dict
from imagen_mini.utils.rng import randn
from imagen_mini.viz.style import STYLES, percent_axis, save_figure, subplots
from imagen_mini.weights import WEIGHTS
from train.baselines import NETWORKS, build_for_training

CATEGORIES = ["one object", "binding", "positional", "counting"]
LOG_SNRS = range(-10, 5)
CHECKPOINT_SECONDS = 300


class Trainee:
    """A base stage in training, its optimizers and its average."""

    def __init__(
        self,
        network: str,
        stage_config: StageConfig,
        config: TrainConfig,
        encoder: TextEncoder,
        device: torch.device,
    ):
        self.stage, self.optimizers = build_for_training(network, stage_config, config, device)
        self.encoder, self.config = encoder, config
        self.ema = EMA(self.stage.net, config.ema_half_life)

    def train(self, start: int = 0, graph: bool = False):
        return train(
            self.stage, self.encoder, self.config, self.optimizers, self.ema, start, graph=graph
        )

    def keep(self, folder: Path, step: int, state: dict) -> None:
        """Write all that going on needs."""
        save_checkpoint(
            folder,
            step,
            {
                "weights": self.stage.net.state_dict(),
                "ema": self.ema.weights,
                "optimizer": optimizer_tensors(self.optimizers),
            },
            {"step": step, **state},
            keep=1,
        )

    def go_on(self, folder: Path) -> None:
        """Take up what was kept."""
        tensors, _, _ = load_checkpoint(folder)
        self.stage.net.load_state_dict(tensors["weights"])
        self.ema.weights = {
            name: tensors["ema"][name].to(w) for name, w in self.ema.weights.items()
        }
        restore_optimizers(self.optimizers, tensors["optimizer"])

    def scores(self, n: int) -> dict:
        """Of the average weights: all, and by category."""
        self.stage.eval()
        with torch.no_grad(), self.ema.average_parameters():
            results = list(
                evaluate(
                    lambda captions, seeds: sample_single_stage(
                        self.stage, self.encoder, captions, seeds
                    ),
                    benchmark(n, categories=CATEGORIES),
                    batch=32,
                )
            )
        self.stage.train()
        return {"all": score(results), **table(results)}

    @torch.no_grad()
    def errors(self, n: int = 64) -> dict[str, list[float]]:
        """Of the average weights: mean squared error of x_0_hat on held-out scenes, by log-SNR,
        with each image's own caption and with another's.
        """
        device = self.stage.net.out.weight.device
        x_0, _, captions = SceneDataset(HELD_OUT_SEED).batch(
            range(n), self.stage.config.unet.image_size, None, device
        )
        eps, found = (
            randn(range(n), x_0.shape[1:], "errors", device=device),
            {"log_snr": list(LOG_SNRS), "own": [], "other": []},
        )
        with self.ema.average_parameters():
            for key, text in (
                ("own", self.encoder(captions)),
                ("other", self.encoder(captions[1:] + captions[:1])),
            ):
                for level in LOG_SNRS:
                    log_snr = torch.full((n,), float(level), device=device)
                    x_t = q_sample(x_0, eps, log_snr)
                    x_0_hat = to_x_0(
                        self.stage.net(x_t, log_snr, text),
                        self.stage.config.prediction,
                        x_t,
                        log_snr,
                    )
                    found[key].append(round((x_0_hat - x_0).square().mean().item(), 5))
        return found

    def edits(self, n: int) -> dict:
        """Word swaps by Prompt-to-Prompt, of colours and of shapes."""
        with self.ema.average_parameters():
            pipe = ImagenPipeline(self.encoder, [self.stage])
            found = {
                attribute: edit_table(
                    [
                        of
                        for _, _, (of,) in evaluate_edits(
                            lambda prompts, seed: pipe(
                                prompts, seed=seed, edit=Replace(), output_type="pt", progress=False
                            ).stages["base"],
                            swaps(attribute, n),
                        )
                    ]
                )
                for attribute in ("color", "shape")
            }
        return found


def seconds_per_step(trainee: Trainee, steps: int = 8) -> float:
    """Of the fastest half of a few steps, after a first one that allocates."""
    times, mark = [], None
    for _, _ in zip(range(steps + 1), trainee.train()):
        now = time.perf_counter()
        if mark is not None:
            times.append(now - mark)
        mark = now
    return sum(sorted(times)[: len(times) // 2]) / (len(times) // 2)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, default="ours")
    parser.add_argument("--name", help="what a plot calls it (default: the network)")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="mini")
    parser.add_argument("--minutes", type=float, default=60, help="of training (default: 60)")
    parser.add_argument(
        "--at",
        type=float,
        nargs="+",
        default=[0.1, 0.2, 0.35, 0.5, 0.7],
        metavar="SHARE",
        help="of the minutes, when it is scored, besides at the end",
    )
    parser.add_argument(
        "--pace",
        type=float,
        metavar="SECONDS",
        help="count every step as this long, instead of a trial before and the clock during "
        "training",
    )
    parser.add_argument(
        "--stop",
        type=int,
        metavar="STEP",
        help="leave off after this step: for comparing recipes early",
    )
    parser.add_argument(
        "--n",
        type=int,
        default=25,
        help="captions of each of four categories; 0: no score, only errors (default: 25)",
    )
    parser.add_argument(
        "--edits", type=int, default=25, help="word swaps of each kind, at the end (default: 25)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help=f"keep the training here every {CHECKPOINT_SECONDS // 60} minutes, and go on from what "
        "is there",
    )
    parser.add_argument(
        "--save", type=Path, metavar="STAGE", help="keep the network at the end, as a stage folder"
    )
    parser.add_argument(
        "--plot", type=Path, nargs="+", metavar="JSON", help="instead: draw the curves of these"
    )
    parser.add_argument("--out", type=Path, default=Path("score.json"))
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes of the recipe or, with 'stage.' before them, of the stage: steps=3000 "
        "stage.unet.patch=4",
    )
    args = parser.parse_intermixed_args(arguments)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.plot:
        plot([json.loads(path.read_text()) for path in args.plot], args.out)
        return
    if args.save and args.network != "ours":
        raise SystemExit(f"--save keeps networks of ours; {args.network}'s is no stage")
    device = torch.device(args.device)
    encoder = TextEncoder.from_pretrained(WEIGHTS / "text_encoder").to(device)
    recipe = TRAIN_PRESETS[args.preset]["base"]
    if args.network == "diffusers":
        # ours is Muon's, and high for a network without QK norm
        recipe = replace(recipe, optimizer="adamw", learning_rate=5e-4, warmup=50)
    config, stage_config = override_run(recipe, PRESETS[args.preset]["base"], args.overrides)
    stage_config = replace(stage_config, text_encoder=encoder.weights_digest())
    kept = load_checkpoint(args.keep)[1] if args.keep and checkpoints(args.keep) else None
    if kept and args.pace is None:
        config = replace(config, steps=kept["found"]["recipe"]["steps"])
    elif not any(o.startswith("steps=") for o in args.overrides):
        pace = args.pace or seconds_per_step(
            Trainee(args.network, stage_config, config, encoder, device)
        )
        config = replace(config, steps=max(1, int(args.minutes * 60 / pace)))
    trainee = Trainee(args.network, stage_config, config, encoder, device)
    parameters = sum(p.numel() for p in trainee.stage.parameters())
    hardware = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    found = {
        "name": args.name or args.network,
        "network": args.network,
        "parameters": parameters,
        "hardware": hardware,
        "pace": args.pace,
        "recipe": to_dict(config),
        "stage": to_dict(stage_config),
        "curve": [],
    }
    print(
        f"{args.network}: {parameters:,} parameters, {config.steps:,} steps of "
        f"{config.batch_size}, {args.minutes * 60 / config.steps:.2f} s each, in "
        f"{args.minutes:g} minutes on {hardware}"
    )
    start, trained = 0, 0.0
    if kept:
        before = kept["found"] | {
            "recipe": to_dict(from_dict(TrainConfig, kept["found"]["recipe"])),
            "stage": to_dict(from_dict(StageConfig, kept["found"]["stage"])),
        }
        # fields that are newer have their defaults
        different = [
            name for name in ("network", "pace", "recipe", "stage") if before[name] != found[name]
        ]
        if different:
            raise SystemExit(
                f"{args.keep} holds a training with another {' and '.join(different)}: give "
                "the same options, or another folder"
            )
        trainee.go_on(args.keep)
        found, start, trained = kept["found"], kept["step"], kept["trained"]
        print(f"going on from step {start:,}")
        if start in (config.steps, args.stop):
            raise SystemExit(f"{args.keep} is at its end: nothing is left to train")
    due = [minutes for share in sorted(args.at) if (minutes := share * args.minutes) > trained / 60]
    mark = saved = time.perf_counter()
    for state in tqdm(trainee.train(start), initial=start, total=config.steps, unit="step"):
        trained += args.pace or time.perf_counter() - mark
        last = state.step in (config.steps, args.stop)
        if due and trained / 60 >= due[0] or last:
            due = [minutes for minutes in due if minutes > trained / 60]
            found["curve"].append(
                {
                    "minutes": round(trained / 60, 2),
                    "step": state.step,
                    "errors": trainee.errors(),
                    **(trainee.scores(args.n) if args.n else {}),
                }
            )
            args.out.write_text(json.dumps(found, indent=1) + "\n")
            tqdm.write(line(found["curve"][-1]))
        if args.keep and (last or time.perf_counter() - saved > CHECKPOINT_SECONDS):
            trainee.keep(args.keep, state.step, {"found": found, "trained": trained})
            saved = time.perf_counter()
        if last:
            break
        mark = time.perf_counter()
    if args.save:
        with trainee.ema.average_parameters():
            save_stage(
                trainee.stage,
                args.save,
                {
                    "legs": [
                        {
                            "steps": state.step,
                            "seconds": round(trained, 1),
                            "device": hardware,
                            "train": to_dict(config),
                        }
                    ]
                },
            )
    if args.network == "ours" and args.edits:
        found["edits"] = trainee.edits(args.edits)
        for attribute, row in found["edits"].items():
            print(
                f"{attribute} swap: success {row['success']:.0%}, with the layout kept "
                f"{row['good']:.0%} of {row['source_right']}"
            )
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(args.out)


def line(point: dict) -> str:
    """A point of the curve in words."""
    errors = dict(
        zip(point["errors"]["log_snr"], zip(point["errors"]["own"], point["errors"]["other"]))
    )
    shown = ", ".join(
        f"{level}: {own:.4f} ({other - own:+.4f})"
        for level, (own, other) in errors.items()
        if level % 2 == 0
    )
    scores = ", ".join(
        f"{name} {point[name]['accuracy']:.0%}" for name in ["all", *CATEGORIES] if name in point
    )
    return (
        f"{point['minutes']:.1f} min, step {point['step']:,}: {scores}\n  error by log-SNR "
        f"(more with another caption): {shown}"
    )


def plot(runs: list[dict], out: Path) -> None:
    """Accuracy against minutes, a panel for each category, a line for each run, with 95 %
    intervals.
    """
    names = ["all", *CATEGORIES]
    if unscored := [run["name"] for run in runs if "all" not in run["curve"][-1]]:
        raise SystemExit(f"no scores of {', '.join(unscored)} to draw: they were made with --n 0")
    sheet, panels = subplots(names, "minutes of training")
    for panel, name in zip(panels, names):
        for run, style in zip(runs, STYLES):
            minutes, rows = (
                [point["minutes"] for point in run["curve"]],
                [point[name] for point in run["curve"]],
            )
            panel.plot(
                minutes,
                [row["accuracy"] for row in rows],
                **style,
                label=f"{run['name']}, {run['parameters'] / 1e6:.1f} M parameters",
            )
            panel.fill_between(
                minutes,
                [row["low"] for row in rows],
                [row["high"] for row in rows],
                color=style["color"],
                alpha=0.1,
                linewidth=0,
            )
        panel.set_xlim(left=0)
        percent_axis(panel)
    save_figure(sheet, out)
    print(out)


if __name__ == "__main__":
    main()
