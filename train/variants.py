"""Networks that differ in one thing, trained alike: each is a run of `train.train`, so it survives
being stopped, and its command can be typed by hand.

The reference of the base stage is the preset's network as the paper has it: without the two layers
of ours over the words, which would do the text encoder's work, and with the pooled text never left
out.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.cascade.serialization import load_stage
from imagen_mini.cascade.stage import DiffusionStage, augment_low_res
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.diffusion.gaussian import q_sample, to_x_0
from imagen_mini.scenes.scene import HELD_OUT_SEED
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import checkpoints
from imagen_mini.training.config import TRAIN_PRESETS, override_run
from imagen_mini.utils.rng import randn
from train import train
from train.time_to_score import LOG_SNRS, Trainee

PLAIN = ("drop_pooled=0.0", "stage.unet.text_layers=0")
ENCODERS = ("trained", "random", "small")
PACE_ROUNDS = 6


@dataclass(frozen=True)
class Variant:
    """A network: of which stage, with which of ENCODERS, and what is changed in its preset."""

    name: str
    stage: str
    encoder: str
    changes: Callable[[StageConfig], list[str]]  # key=value overrides, as train.train takes them


def as_json(key: str, value) -> str:
    return f"stage.unet.{key}={json.dumps(value)}"


def pooled_only(c: StageConfig) -> list[str]:
    """No attention to words anywhere: text comes through the pooled vector alone."""
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
    return [
        *PLAIN,
        as_json("channels", [-(-width // 32) * 16 for width in c.unet.channels]),
        as_json("head_dim", 16),
    ]


def efficient(c: StageConfig) -> list[str]:
    """Imagen (2022), Appendix B.1: more residual blocks on small grids, and residual sums scaled by
    1/sqrt(2). Blocks come after halving the grid, and before doubling it, in both layouts: this
    U-Net can do nothing else.
    """
    levels = len(c.unet.channels)
    return [
        as_json("blocks", [1, *[2] * (levels - 2), 3]),
        as_json("skip", "sum"),
        as_json("skip_scale", 0.5**0.5),
    ]


def standard(c: StageConfig) -> list[str]:
    """As many blocks in all, evenly over the grids; skips concatenated; plain residual sums."""
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
    """One of ENCODERS: the pipeline's own; one of the same shape with random weights; and the
    pipeline's without all but its first layers, a quarter of them.
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
    """How runs were planned, in words."""
    long = (
        f"{plan['minutes']:g} minutes each"
        if plan["minutes"]
        else f"{next(iter(plan['steps'].values()))} steps each"
    )
    return (
        f"preset {plan['preset']}, {long}, {' '.join(plan['recipe']) or 'its own recipe'}, "
        f"with text encoder {plan['text_encoder']}"
    )


class Runs:
    """The folder of all trained variants: one run each, of `steps` steps, or else of as many as the
    slowest of its stage does in `minutes`; `recipe` holds changes of how all are trained
    (key=value, as train.train takes them). `networks` gives them back. ValueError if the folder
    holds other runs.
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
            "text_encoder": self.encoder.weights_digest(),
            "steps": {} if steps is None else dict.fromkeys(PRESETS[preset], steps),
        }
        if (folder / "plan.json").is_file():
            kept = {"recipe": []} | json.loads((folder / "plan.json").read_text())
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
        return [*self.recipe, *variant.changes(PRESETS[self.preset][variant.stage])]

    def trainee(self, variant: Variant) -> Trainee:
        """The variant, untrained, for taking its time."""
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
        found = checkpoints(self.folder / variant.name)
        return (
            bool(found)
            and found[-1].name == f"step_{self.plan['steps'].get(variant.stage, 0):08d}"
            and (self.folder / variant.name / "stage").is_dir()
        )

    def settle(self, variants: Sequence[Variant]) -> None:
        """Decide, once for all runs of a stage, on the number of steps: what the slowest of these
        variants does in `minutes`.
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
        """Train a variant to its last step, going on from where it was left. SystemExit if it was
        asked to stop before.
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
            ]
        print(f"\n{variant.name}: python -m train.train {shlex.join(options)}")
        train.main(options)
        if not self.is_done(variant):
            raise SystemExit(
                f"{variant.name} was stopped before its last step; the same command goes on with it"
            )

    def hardware(self, variant: Variant) -> str:
        """What it was trained on."""
        return json.loads((self.folder / variant.name / "stage" / "config.json").read_text())[
            "training"
        ]["legs"][-1]["device"]

    def networks(
        self, variants: Sequence[Variant]
    ) -> dict[str, tuple[DiffusionStage, TextEncoder]]:
        """Train what is not trained yet; the networks with their text encoders, by name."""
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
        """Seconds of a training step of each, taking turns, so that other work on the machine meets
        them alike; without two first ones that allocate.
        """
        steps = {v.name: self.trainee(v).train(graph=self.graph) for v in variants}
        found: dict[str, list[float]] = {name: [] for name in steps}
        for _ in tqdm(range(rounds + 2), desc="timing a step", unit="round"):
            for name, step in steps.items():
                start = time.perf_counter()
                next(step)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                found[name].append(time.perf_counter() - start)
        return {name: [round(s, 5) for s in seconds[2:]] for name, seconds in found.items()}


# ---------------------------------------------------------------- what a short training can be judged by


@torch.no_grad()
def errors(stage: DiffusionStage, encoder: TextEncoder, n: int, batch: int | None = None) -> dict:
    """Mean squared errors of x_0_hat on n unseen scenes, with each one's own caption and with
    another's: by log-SNR, and by image (`each`, the mean over all levels of noise). What the right
    caption saves is the text gain. Super-resolution is given true low-resolution images, augmented
    as when sampling.
    """
    unet, device = stage.config.unet, stage.net.out.weight.device
    batch = batch or (16 if device.type == "cpu" else 128)
    table = {"own": torch.zeros(len(LOG_SNRS), n), "other": torch.zeros(len(LOG_SNRS), n)}
    for at in tqdm(range(0, n, batch), desc="errors", unit="batch"):
        numbers = range(at, min(n, at + batch))
        x_0, low_res, captions = SceneDataset(HELD_OUT_SEED).batch(
            numbers, unet.image_size, unet.low_res_size, device
        )
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
        for key, said in (("own", captions), ("other", captions[1:] + captions[:1])):
            text = encoder(said)
            for i, level_of_noise in enumerate(LOG_SNRS):
                log_snr = torch.full((len(numbers),), float(level_of_noise), device=device)
                x_t = q_sample(x_0, eps, log_snr)
                x_0_hat = to_x_0(
                    stage.net(x_t, log_snr, text, *conditioning),
                    stage.config.prediction,
                    x_t,
                    log_snr,
                )
                table[key][i, at : at + len(numbers)] = _mean_square(x_0_hat - x_0)
    return {
        "log_snr": list(LOG_SNRS),
        **{key: [round(v, 6) for v in values.mean(1).tolist()] for key, values in table.items()},
        "each": {
            key: [round(v, 6) for v in values.mean(0).tolist()] for key, values in table.items()
        },
    }


def _mean_square(x: Tensor) -> Tensor:
    return x.float().square().mean((1, 2, 3)).cpu()
