"""How good is a network after so many minutes of training, from nothing?

    python -m train.time_to_score --network ours --minutes 60 --out outputs/ours.json
    python -m train.time_to_score --network diffusers --minutes 60 --out outputs/diffusers.json
    python -m train.time_to_score --plot outputs/ours.json outputs/diffusers.json --out curve.png

The measure is not images a second but score per second of training. The base stage is trained with
the recipe of its preset (`key=value` changes it) for as many steps as fit into the minutes, at the
speed of a short trial before, or for `steps=N`. At times its average weights denoise held-out
images and generate the benchmark's captions, and the parser counts. Neither is training time. With
our network, word swaps by Prompt-to-Prompt are scored at the end: a network that cannot be edited
is of no use here.

With `--checkpoint-dir FOLDER` the training is saved there every few minutes, and the same command
resumes where it was stopped. On a machine that does other work too, give the time of a step as
measured on the idle machine (it is printed before the training): `--seconds-per-step 0.3`.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import Chain, ImagenPipeline, PromptSwitching, Replace
from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.cascade.serialization import save_stage
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.denoising_errors import denoising_errors, stage_denoiser
from imagen_mini.evaluation.edit_benchmark import edit_table, evaluate_edits, swaps
from imagen_mini.evaluation.preview import sample_single_stage
from imagen_mini.evaluation.scoring import evaluate, score, table
from imagen_mini.scenes.scene import HELD_OUT_SEED
from imagen_mini.scenes.world import find_world
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
from imagen_mini.utils.devices import available_device, device_name
from imagen_mini.utils.rng import randn
from imagen_mini.utils.scripts import (
    FIGURES,
    check_output_file,
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.guidance import plot_accuracy
from imagen_mini.viz.style import STYLES, percent_axis, save_figure, subplots
from imagen_mini.weights import WEIGHTS
from train.baselines import NETWORKS, build_for_training

CATEGORIES = ["one object", "binding", "positional", "counting"]
LOG_SNRS = range(-10, 5)
CHECKPOINT_SECONDS = 300


class Trainee:
    """A base stage in training, its optimizers and the average of its weights.

    Args:
        network: One of NETWORKS.
        stage_config: The stage.
        config: The training.
        encoder: The text encoder, on the device.
        device: Where to train.
    """

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

    def train(self, start: int = 0, cuda_graph: bool = False):
        """Yield the state after each step."""
        return train(
            self.stage,
            self.encoder,
            self.config,
            self.optimizers,
            self.ema,
            start,
            cuda_graph=cuda_graph,
        )

    def save(self, folder: Path, step: int, state: dict) -> None:
        """Write a checkpoint from which training resumes to the last bit."""
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

    def resume(self, folder: Path) -> None:
        """Load the latest checkpoint."""
        tensors, _, _ = load_checkpoint(folder)
        self.stage.net.load_state_dict(tensors["weights"])
        self.ema.weights = {
            name: tensors["ema"][name].to(w) for name, w in self.ema.weights.items()
        }
        restore_optimizers(self.optimizers, tensors["optimizer"])

    def scores(self, n: int) -> dict:
        """Score the average weights on the benchmark.

        Args:
            n: Captions of each category.

        Returns:
            Rows of `scoring.table` by category, and of all captions as "all".
        """
        self.stage.eval()
        world = find_world(self.stage.config.world)
        with torch.no_grad(), self.ema.average_parameters():
            results = list(
                evaluate(
                    lambda captions, seeds: sample_single_stage(
                        self.stage, self.encoder, captions, seeds
                    ),
                    benchmark(n, categories=CATEGORIES, world=world),
                    batch=32,
                    world=world,
                )
            )
        self.stage.train()
        return {"all": score(results), **table(results)}

    @torch.no_grad()
    def errors(self, n: int = 64) -> dict[str, list[float]]:
        """Measure the error of the average weights on held-out scenes.

        Args:
            n: The number of scenes (default: 64).

        Returns:
            The mean squared error of x_0_hat at each of the `log_snr`, with each image's own
            caption ("own") and with that of another image ("other").
        """
        device, size = self.stage.net.out.weight.device, self.stage.config.unet.image_size
        data = SceneDataset(HELD_OUT_SEED, world=self.stage.config.world)
        x_0, _, captions = data.batch(range(n), size, None, device)
        eps = randn(range(n), x_0.shape[1:], "errors", device=device)
        texts = {"own": captions, "other": captions[1:] + captions[:1]}
        with self.ema.average_parameters():
            denoisers = {
                name: stage_denoiser(self.stage, self.encoder(text)) for name, text in texts.items()
            }
            errors = denoising_errors(denoisers, x_0, LOG_SNRS, lambda _: eps)
        found = {name: [round(e.mean().item(), 5) for e in of] for name, of in errors.items()}
        return {"log_snr": list(LOG_SNRS), **found}

    def edits(self, n: int) -> dict:
        """Score word swaps, of colours and of shapes: prompts are switched, then attention is
        injected.

        Args:
            n: Swaps of each kind.

        Returns:
            Rows of `edit_table`, by the attribute that is swapped.
        """
        with self.ema.average_parameters():
            pipe = ImagenPipeline(self.encoder, [self.stage])
            edit = Chain(PromptSwitching(), Replace(1.0))

            def generate(prompts: list[str], seed: int) -> Tensor:
                out = pipe(prompts, seed=seed, edit=edit, output_type="pt", progress=False)
                return out.stages["base"]

            found = {}
            for attribute in ("color", "shape"):
                edited = evaluate_edits(generate, swaps(attribute, n), pipe.world)
                found[attribute] = edit_table([of for _, _, (of,) in edited])
        return found


def seconds_per_step(trainee: Trainee, steps: int = 8) -> float:
    """Return the mean time of the faster half of a few steps, after a first one that allocates."""
    times, mark = [], None
    for _, _ in zip(range(steps + 1), trainee.train()):
        now = time.perf_counter()
        if mark is not None:
            times.append(now - mark)
        mark = now
    return sum(sorted(times)[: len(times) // 2]) / (len(times) // 2)


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="ours")
    parser.add_argument("--name", help="its name in a plot (default: the network)")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="mini")
    parser.add_argument(
        "--minutes", type=number(above=0), default=60, help="of training (default: 60)"
    )
    parser.add_argument(
        "--eval-at",
        "--at",
        type=number(above=0, high=1),
        nargs="+",
        default=[0.1, 0.2, 0.35, 0.5, 0.7],
        metavar="SHARE",
        help="shares of the minutes at which it is scored, besides at the end",
    )
    parser.add_argument(
        "--seconds-per-step",
        "--pace",
        type=number(above=0),
        metavar="SECONDS",
        help="count every step as this long, instead of a trial before and the clock during "
        "training",
    )
    parser.add_argument(
        "--stop",
        type=integer(low=1),
        metavar="STEP",
        help="stop after this step: to compare recipes early",
    )
    parser.add_argument(
        "--n",
        type=integer(low=0),
        default=25,
        help="captions of each of four categories; 0: no score, only errors (default: 25)",
    )
    parser.add_argument(
        "--edits",
        type=integer(low=0),
        default=25,
        help="word swaps of each kind, at the end (default: 25)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--checkpoint-dir",
        "--keep",
        type=Path,
        metavar="FOLDER",
        help=f"save the training here every {CHECKPOINT_SECONDS // 60} minutes, and resume from "
        "what is there",
    )
    parser.add_argument(
        "--save", type=Path, metavar="STAGE", help="save the network at the end as a stage folder"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="instead of training, plot the curves of these",
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/score.json"))
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes of the recipe or, with 'stage.' before them, of the stage: steps=3000 "
        "stage.unet.patch=4",
    )
    args = parser.parse_intermixed_args(arguments)
    if args.plot:
        check_output_file(args.out, FIGURES)
        plot_curves([read_curve(path) for path in args.plot], args.out)
        return
    check_output_file(args.out, suffixes=())
    if args.save and args.network != "ours":
        raise SystemExit(f"--save writes networks of ours; {args.network}'s is no stage")
    for option, folder in (("--checkpoint-dir", args.checkpoint_dir), ("--save", args.save)):
        if folder is not None:
            check_output_folder(folder, option)
    device = available_device(args.device)
    encoder = TextEncoder.from_pretrained(WEIGHTS / "text_encoder").to(device)
    recipe = TRAIN_PRESETS[args.preset]["base"]
    if args.network == "diffusers":
        # the preset's rate is for Muon, and too high for a network without QK norm
        recipe = replace(recipe, optimizer="adamw", learning_rate=5e-4, warmup=50)
    config, stage_config = override_run(recipe, PRESETS[args.preset]["base"], args.overrides)
    stage_config = replace(stage_config, text_encoder=encoder.weights_digest())
    kept = None
    if args.checkpoint_dir and checkpoints(args.checkpoint_dir):
        kept = load_checkpoint(args.checkpoint_dir)[1]
    if kept and args.seconds_per_step is None:
        config = replace(config, steps=kept["found"]["recipe"]["steps"])
    elif not any(o.startswith("steps=") for o in args.overrides):
        pace = args.seconds_per_step or seconds_per_step(
            Trainee(args.network, stage_config, config, encoder, device)
        )
        config = replace(config, steps=max(1, int(args.minutes * 60 / pace)))
    trainee = Trainee(args.network, stage_config, config, encoder, device)
    parameters = sum(p.numel() for p in trainee.stage.parameters())
    hardware = device_name(device)
    found = {
        "name": args.name or args.network,
        "network": args.network,
        "parameters": parameters,
        "hardware": hardware,
        "pace": args.seconds_per_step,
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
                f"{args.checkpoint_dir} holds a training with another {' and '.join(different)}: "
                "give the same options, or another folder"
            )
        trainee.resume(args.checkpoint_dir)
        found, start, trained = kept["found"], kept["step"], kept["trained"]
        print(f"resuming from step {start:,}")
        if start in (config.steps, args.stop):
            raise SystemExit(f"{args.checkpoint_dir} is at its end: nothing is left to train")
    due = [
        minutes
        for share in sorted(args.eval_at)
        if (minutes := share * args.minutes) > trained / 60
    ]
    mark = saved = time.perf_counter()
    for state in tqdm(trainee.train(start), initial=start, total=config.steps, unit="step"):
        trained += args.seconds_per_step or time.perf_counter() - mark
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
            tqdm.write(point_in_words(found["curve"][-1]))
        if args.checkpoint_dir and (last or time.perf_counter() - saved > CHECKPOINT_SECONDS):
            trainee.save(args.checkpoint_dir, state.step, {"found": found, "trained": trained})
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
                    "training_phases": [
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
                f"{row['good']:.0%} of {row['asked']}"
            )
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(args.out)


def read_curve(path: Path) -> dict:
    """Read what --out wrote.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        found = json.loads(path.read_text())
        # a run of a second has 0 minutes
        fine = bool("minutes" in found["curve"][-1] and found["name"] and found["parameters"])
    except (ValueError, LookupError, TypeError):
        fine = False
    if not fine:
        raise ValueError(f"{path} holds no curve; expected a JSON file as --out wrote it")
    return found


def point_in_words(point: dict) -> str:
    """Return a point of the curve as text."""
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


def plot_curves(runs: list[dict], out: Path) -> None:
    """Plot accuracy over minutes of training, with 95 % intervals.

    Each category has its axes, each run its line.
    """
    names = ["all", *CATEGORIES]
    if unscored := [run["name"] for run in runs if "all" not in run["curve"][-1]]:
        raise SystemExit(f"no scores of {', '.join(unscored)} to plot: they were made with --n 0")
    fig, axes = subplots(names, "minutes of training")
    for ax, name in zip(axes, names):
        for run, style in zip(runs, STYLES):
            minutes = [point["minutes"] for point in run["curve"]]
            label = f"{run['name']}, {run['parameters'] / 1e6:.1f} M parameters"
            plot_accuracy(ax, minutes, [point[name] for point in run["curve"]], label, style)
        ax.set_xlim(left=0)
        percent_axis(ax)
    save_figure(fig, out)
    print(out)


if __name__ == "__main__":
    run_script(main)
