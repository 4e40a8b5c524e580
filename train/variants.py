"""Networks that differ in one respect and are trained alike. Each is a run of `train.train`, so it
can be interrupted and resumed, and its command can be typed by hand.

The reference of the base stage is the preset's network as in the paper: without this project's two
layers over the words, which would do the text encoder's work, and with the pooled text never
dropped.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.cascade.serialization import load_stage
from imagen_mini.cascade.stage import DiffusionStage, augment_low_res
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.evaluation.denoising_errors import denoising_errors, stage_denoiser
from imagen_mini.scenes.scene import HELD_OUT_SEED
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import checkpoints, training_phases
from imagen_mini.training.config import TRAIN_PRESETS, override_run
from imagen_mini.utils.rng import randn
from train import train
from train.time_to_score import LOG_SNRS, Trainee

PLAIN = ("pooled_drop_prob=0.0", "stage.unet.text_layers=0")
ENCODERS = ("trained", "random", "small")
PACE_ROUNDS = 6


@dataclass(frozen=True)
class Variant:
    """A network: its stage, its text encoder (one of ENCODERS), and the changes of its preset."""

    name: str
    stage: str
    encoder: str
    changes: Callable[[StageConfig], list[str]]  # key=value overrides, as train.train takes them


def as_json(key: str, value) -> str:
    """Return an override of the U-Net's configuration, as train.train takes it."""
    return f"stage.unet.{key}={json.dumps(value)}"


def pooled_only(c: StageConfig) -> list[str]:
    """No attention to words anywhere: text enters through the pooled vector alone."""
    return [
        *PLAIN,
        as_json(
            "attention",
            [
                "self" if set(kinds.split("+")) & {"self", "hybrid"} else ""
                for kinds in c.unet.attention
            ],
        ),
    ]


def half_as_wide(c: StageConfig) -> list[str]:
    """Half as many channels on every level."""
    return [
        *PLAIN,
        as_json("channels", [-(-width // 32) * 16 for width in c.unet.channels]),
        as_json("head_dim", 16),
    ]


def efficient(c: StageConfig) -> list[str]:
    """Imagen (2022), Appendix B.1: more residual blocks on small grids, and residual sums scaled by
    1/sqrt(2). In both layouts blocks come after halving the grid and before doubling it: this U-Net
    has no other order.
    """
    levels = len(c.unet.channels)
    return [
        as_json("blocks", [1, *[2] * (levels - 2), 3]),
        as_json("skip", "sum"),
        as_json("skip_scale", 0.5**0.5),
    ]


def standard(c: StageConfig) -> list[str]:
    """As many blocks in total, evenly over the grids; concatenated skips; plain residual sums."""
    return [
        as_json("blocks", [2] * len(c.unet.channels)),
        as_json("skip", "concat"),
        as_json("skip_scale", 1.0),
    ]


REFERENCE = Variant("reference", "base", "trained", lambda c: list(PLAIN))
POOLED = Variant("pooled-only", "base", "trained", pooled_only)
RANDOM_ENCODER = Variant("random-encoder", "base", "random", lambda c: list(PLAIN))
SMALL_ENCODER = Variant("small-encoder", "base", "small", lambda c: list(PLAIN))
SMALL_UNET = Variant("small-unet", "base", "trained", half_as_wide)
AUGMENTED = Variant("with-augmentation", "sr_256", "trained", lambda c: [])
CLEAN_ONLY = Variant(
    "without-augmentation",
    "sr_256",
    "trained",
    lambda c: ["stage.max_aug_level=0.0", "stage.aug_level=0.0"],
)
EFFICIENT = Variant("efficient-unet", "sr_256", "trained", efficient)
STANDARD = Variant("standard-unet", "sr_256", "trained", standard)


def encoder_named(which: str, shipped: TextEncoder) -> TextEncoder:
    """Return one of ENCODERS, derived from a pipeline's text encoder.

    Args:
        which: "trained", the pipeline's; "random", one of the same shape with random weights; or
            "small", the first quarter of the pipeline's layers.
        shipped: The pipeline's text encoder.
    """
    if which == "trained":
        return shipped
    config = type(shipped.model.config)(**shipped.model.config.to_dict())
    if which == "small":
        config.num_layers = max(1, config.num_layers // 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = type(shipped.model)(config)
    if which == "small":
        kept = model.state_dict().keys()
        model.load_state_dict(
            {name: value for name, value in shipped.model.state_dict().items() if name in kept}
        )
    return TextEncoder(model.to(shipped.model.dtype), shipped.tokenizer, shipped.max_length)


def describe_plan(plan: dict) -> str:
    """Describe in words how runs were planned."""
    long = (
        f"{plan['minutes']:g} minutes each"
        if plan["minutes"]
        else f"{next(iter(plan['steps'].values()))} steps each"
    )
    begun = f", from the weights of {plan['init_from']}" if plan["init_from"] else ""
    return (
        f"preset {plan['preset']}, {long}, {' '.join(plan['recipe']) or 'the default recipe'}, "
        f"with text encoder {plan['text_encoder']}{begun}"
    )


class Runs:
    """The folder of all trained variants, one run each; `networks` returns them.

    Args:
        folder: Where the runs are.
        preset: Name of the preset that all variants start from.
        minutes: Length of each run: as many steps as the slowest variant of its stage does in this
            time. None if `steps` is given.
        pipe: The pipeline whose text encoder and device are used.
        steps: Number of steps of each run (default: from `minutes`).
        recipe: Changes of how all are trained, key=value as train.train takes them (default: none).
        graph: Train with CUDA graphs (default: False).
        init_from: The stage whose weights all begin from, as train.train takes it (default: none,
            they begin from random weights).

    Raises:
        ValueError: if the folder holds runs of another plan.
    """

    def __init__(
        self,
        folder: Path,
        preset: str,
        minutes: float | None,
        pipe: ImagenPipeline,
        steps: int | None = None,
        recipe: Sequence[str] = (),
        graph: bool = False,
        init_from: str | None = None,
    ):
        self.folder, self.preset, self.minutes, self.pipe, self.encoder, self.device = (
            folder,
            preset,
            minutes,
            pipe,
            pipe.text_encoder,
            pipe.device,
        )
        self.recipe, self.graph = list(recipe), graph
        self.plan = {
            "preset": preset,
            "minutes": minutes,
            "recipe": self.recipe,
            "init_from": init_from,
            "text_encoder": self.encoder.weights_digest(),
            "steps": {} if steps is None else dict.fromkeys(PRESETS[preset], steps),
        }
        if (folder / "plan.json").is_file():
            older = {"recipe": [], "init_from": None}  # what the plans of former versions lack
            kept = older | json.loads((folder / "plan.json").read_text())
            if {
                **kept,
                "steps": self.plan["steps"] if steps is None else kept["steps"],
            } != self.plan:
                raise ValueError(
                    f"{folder} holds runs of {describe_plan(kept)}; asked for are "
                    f"{describe_plan(self.plan)}. Ask for the same, or pass --fresh or another "
                    "--out"
                )
            self.plan = kept

    def overrides(self, variant: Variant) -> list[str]:
        """Return the key=value overrides of a variant. All learn the pipeline's world."""
        world = f"stage.world={self.pipe.world.name}"
        return [world, *self.recipe, *variant.changes(PRESETS[self.preset][variant.stage])]

    def trainee(self, variant: Variant) -> Trainee:
        """Return the untrained variant, for timing its steps."""
        encoder = encoder_named(variant.encoder, self.encoder).to(self.device)
        config, stage = override_run(
            TRAIN_PRESETS[self.preset][variant.stage],
            PRESETS[self.preset][variant.stage],
            self.overrides(variant),
        )
        return Trainee(
            "ours",
            replace(stage, unet=replace(stage.unet, text_width=encoder.width)),
            config,
            encoder,
            self.device,
        )

    def is_done(self, variant: Variant) -> bool:
        """Return True if the variant was trained to its last step."""
        found = checkpoints(self.folder / variant.name)
        return (
            bool(found)
            and found[-1].name == f"step_{self.plan['steps'].get(variant.stage, 0):08d}"
            and (self.folder / variant.name / "stage").is_dir()
        )

    def settle(self, variants: Sequence[Variant]) -> None:
        """Decide once for all runs of a stage on the number of steps: as many as the slowest of
        these variants does in `minutes`.
        """
        for stage in {v.stage: None for v in variants if v.stage not in self.plan["steps"]}:
            seconds = max(
                sorted(times)[len(times) // 2]
                for times in self.step_seconds(
                    [v for v in variants if v.stage == stage], PACE_ROUNDS
                ).values()
            )
            self.plan["steps"][stage] = max(2, int(self.minutes * 60 / seconds))
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "plan.json").write_text(json.dumps(self.plan, indent=1) + "\n")

    def train(self, variant: Variant) -> None:
        """Train a variant to its last step; an interrupted run is resumed.

        Raises:
            SystemExit: if it was asked to stop before its last step.
        """
        if self.is_done(variant):
            return
        encoder = self.folder / "encoders" / variant.encoder
        if not (encoder / "config.json").is_file():
            encoder_named(variant.encoder, self.encoder).save_pretrained(encoder)
        run, steps = self.folder / variant.name, self.plan["steps"][variant.stage]
        options = [
            "--stage",
            variant.stage,
            "--output-dir",
            str(run),
            "--device",
            str(self.device),
            *(["--graph"] if self.graph else []),
        ]
        if checkpoints(run):
            options.append("--resume")
        else:
            options += [
                "--preset",
                self.preset,
                "--text-encoder",
                str(encoder),
                f"steps={steps}",
                f"save_every={max(1, min(500, steps // 4))}",
                "sample_every=0",
                as_json("text_width", self.encoder.width),
                *self.overrides(variant),
                *(["--init-from", self.plan["init_from"]] if self.plan["init_from"] else []),
            ]
        print(f"\n{variant.name}: python -m train.train {shlex.join(options)}")
        train.main(options)
        if not self.is_done(variant):
            raise SystemExit(
                f"{variant.name} was stopped before its last step; the same command resumes it"
            )

    def hardware(self, variant: Variant) -> str:
        """Return the device that the variant was trained on."""
        return training_phases(self.folder / variant.name / "stage")[-1]["device"]

    def networks(
        self, variants: Sequence[Variant]
    ) -> dict[str, tuple[DiffusionStage, TextEncoder]]:
        """Return the trained networks with their text encoders, by name; train what is missing."""
        for variant in variants:
            self.train(variant)
        encoders = {
            which: TextEncoder.from_pretrained(self.folder / "encoders" / which).to(self.device)
            for which in {v.encoder for v in variants}
        }
        return {
            v.name: (
                load_stage(self.folder / v.name / "stage").to(self.device),
                encoders[v.encoder],
            )
            for v in variants
        }

    def step_seconds(self, variants: Sequence[Variant], rounds: int) -> dict[str, list[float]]:
        """Measure the seconds of a training step of each variant.

        They take turns, so that other work on the machine affects all alike. Two warm-up rounds are
        left out.
        """
        steps = {v.name: self.trainee(v).train(cuda_graph=self.graph) for v in variants}
        found: dict[str, list[float]] = {name: [] for name in steps}
        for _ in tqdm(range(rounds + 2), desc="timing a step", unit="round"):
            for name, step in steps.items():
                start = time.perf_counter()
                next(step)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                found[name].append(time.perf_counter() - start)
        return {name: [round(s, 5) for s in seconds[2:]] for name, seconds in found.items()}


# ---------------------------------------------------------------- how a short training is judged


@torch.no_grad()
def errors_by_caption(
    stage: DiffusionStage, encoder: TextEncoder, n: int, batch: int | None = None
) -> dict:
    """Measure the errors of x_0_hat on unseen scenes, with the correct and with another caption.

    The error that the correct caption saves is the text gain. Super-resolution gets true
    low-resolution images, augmented as in sampling.

    Args:
        stage: The network.
        encoder: Its text encoder.
        n: Number of scenes.
        batch: Scenes per network call (default: 16 on a CPU, else 128).

    Returns:
        "log_snr"; "own" and "other", the mean squared error by log-SNR with each image's own and
        with another image's caption; and "each", both by image, averaged over the levels.
    """
    unet, device = stage.config.unet, stage.net.out.weight.device
    batch = batch or (16 if device.type == "cpu" else 128)
    table = {"own": torch.zeros(len(LOG_SNRS), n), "other": torch.zeros(len(LOG_SNRS), n)}
    data = SceneDataset(HELD_OUT_SEED, world=stage.config.world)
    for at in tqdm(range(0, n, batch), desc="errors", unit="batch"):
        numbers = range(at, min(n, at + batch))
        x_0, low_res, captions = data.batch(numbers, unet.image_size, unet.low_res_size, device)
        eps, conditioning = randn(numbers, x_0.shape[1:], "errors", device=device), ()
        if low_res is not None:
            level = torch.full((len(numbers),), stage.config.aug_level, device=device)
            conditioning = (
                augment_low_res(
                    low_res,
                    level,
                    randn(numbers, low_res.shape[1:], "errors, low_res", device=device),
                ),
                level,
            )
        said = {"own": captions, "other": captions[1:] + captions[:1]}
        found = denoising_errors(
            {key: stage_denoiser(stage, encoder(s), *conditioning) for key, s in said.items()},
            x_0,
            LOG_SNRS,
            lambda log_snr, eps=eps: eps,
        )
        for key, values in found.items():
            table[key][:, at : at + len(numbers)] = values
    return {
        "log_snr": list(LOG_SNRS),
        **{key: [round(v, 6) for v in values.mean(1).tolist()] for key, values in table.items()},
        "each": {
            key: [round(v, 6) for v in values.mean(0).tolist()] for key, values in table.items()
        },
    }
