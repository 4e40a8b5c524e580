"""Train one stage of the cascade, on the built-in world or on your images.

    python -m train.train --stage base --preset mini --output-dir runs/base
    python -m train.train --stage sr_256 --output-dir runs/sr_256 steps=3000 batch_size=32
    python -m train.train --stage base --data my_images --output-dir runs/mine
    torchrun --nproc-per-node 2 -m train.train --stage base --output-dir runs/base

`--data` is a folder of images with captions in a metadata.jsonl, a metadata.csv or a text file
beside each image; check it first with `python -m train.check_dataset`.

Stop it at any time, by Ctrl-C or by pulling the plug; `--resume` continues from the newest
checkpoint as if nothing had happened. The EMA weights are written to OUTPUT_DIR/stage, from where
`python -m train.export_pipeline` makes a pipeline. Is it going well? `python -m train.report
OUTPUT_DIR`
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.cascade.serialization import load_stage, save_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.cascade.weight_transfer import (
    init_from_smaller,
    with_new_text_conditioning,
    with_text_projection,
)
from imagen_mini.data.base import Dataset
from imagen_mini.data.datasets import open_dataset, remembered_options
from imagen_mini.data.prepared import FITS
from imagen_mini.evaluation.preview import preview, sample_single_stage
from imagen_mini.models.unet import UNetConfig
from imagen_mini.scenes.world import WORLDS, find_world
from imagen_mini.text.cache import CachedTextEncoder
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.text.projection import fit_projection
from imagen_mini.training.checkpoint import (
    atomic_directory,
    check_state,
    check_tensors,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizers,
    save_checkpoint,
    training_phases,
)
from imagen_mini.training.config import TRAIN_PRESETS, TrainConfig, override_run
from imagen_mini.training.distributed import (
    DistributedContext,
    distribute_like,
    full_tensors,
    init_distributed,
    shard_fsdp,
)
from imagen_mini.training.ema import EMA
from imagen_mini.training.encoder_of_run import find_text_encoder, shipped_encoder_with
from imagen_mini.training.loop import train
from imagen_mini.training.optimizers import make_optimizers
from imagen_mini.training.run_guard import GracefulStop, run_lock, surviving_output
from imagen_mini.utils.configuration import from_dict, to_dict
from imagen_mini.utils.devices import channels_last_on_cpu, device_name
from imagen_mini.utils.precision import DTYPES, resolve_precision
from imagen_mini.utils.scripts import (
    color,
    number,
    plain_errors,
    run_or_stage_folder,
    run_script,
    script_parser,
)
from imagen_mini.viz.image_grid import image_grid
from imagen_mini.weights import WEIGHTS, shipped_pipelines
from train.log import Log

SAMPLES = 16  # images of a sample grid
GRACE_SECONDS = 8  # seconds that a rank which is asked to stop has for its step

# When a run is resumed, its sampling may change, and the noise levels that it is trained on. These
# may not, as they are what the weights mean.
FIXED_ON_RESUME = ("name", "unet", "prediction", "world")
# What a run on a folder has where it names nothing else.
DEFAULTS = {"fit": "crop", "background": "#ffffff", "held_out": 0}
# What must stay when a network grows; a tensor that does not fit is found as well.
FIXED_ON_GROWTH = ("head_dim", "skip", "skip_scale")
OF_THE_ENCODER = ("text_width", "cross_attention_dim")
FITTED_CAPTIONS = 2000  # from which another text encoder's projection is fitted


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("--stage", choices=("base", "sr_256", "sr_1024"), required=True)
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="sizes of the network and its training settings: tiny for tests, mini for a laptop, "
        "small for one GPU, paper for Imagen's (default: mini)",
    )
    parser.add_argument("--output-dir", type=Path, help="the run's folder (default: runs/STAGE)")
    parser.add_argument(
        "--text-encoder",
        help="a text encoder, such as T5, ByT5, BERT or CLIP's: folder or hub name (default: that "
        "of the run or stage to start from, or the shipped one)",
    )
    parser.add_argument(
        "--text-encoder-dtype",
        choices=tuple(DTYPES),
        help="in which its weights are held; bf16 for a large one (default: fp32)",
    )
    parser.add_argument(
        "--text-cache",
        type=Path,
        metavar="DIR",
        help="keep encoded captions in this folder, which any number of runs may share",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="train on this folder of images with captions (default: the built-in world)",
    )
    parser.add_argument(
        "--caption-column",
        metavar="NAME",
        help="where the captions of the folder stand (default: text, caption, prompt or the like)",
    )
    parser.add_argument(
        "--world",
        choices=tuple(WORLDS),
        help="the built-in world to train on: scenes (flat) or studio (solid objects under a "
        "lamp); a run and a stage remember theirs (default: scenes)",
    )
    parser.add_argument(
        "--data-cache",
        type=Path,
        help="a folder to keep its cropped and resized images in (default: DATA/.prepared)",
    )
    parser.add_argument(
        "--fit",
        choices=FITS,
        help="how an image of the folder becomes a square: its central square, or all of it with "
        "bars beside it (default: crop)",
    )
    parser.add_argument(
        "--background",
        type=color,
        metavar="COLOUR",
        help="what transparent pixels are put on, and the colour of bars: white, '#e0e0e0' "
        "(default: white)",
    )
    parser.add_argument(
        "--held-out",
        type=number(0, 0.9),
        metavar="SHARE",
        help="keep this share of the folder's images out of training, by their captions, so that "
        "none is on both sides; train.report measures on them (default: 0)",
    )
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out images that are broken or have no caption, up to 1 %% of all (default: "
        "stop at the first)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the newest checkpoint of the run"
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        help="start from the weights of a run or a stage, or from the shipped stage: scenes; "
        "attention and text layers may be added: stage.unet.text_layers=2",
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        default=float("inf"),
        help="stop, with a checkpoint, after so many seconds",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=int, help="CPU threads to compute with (default: torch's choice)"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network with torch.compile: slow to start, then faster on a GPU",
    )
    parser.add_argument(
        "--cuda-graph",
        "--graph",  # the former name
        action="store_true",
        help="on one GPU: record a step's kernels once and replay them, so that Python does not "
        "keep it waiting",
    )
    parser.add_argument(
        "--shard",
        action="store_true",
        help="under torchrun: each rank holds a part of the weights, for networks and text "
        "encoders that do not fit on one device (needs optimizer=adamw)",
    )
    parser.add_argument(
        "--rank-timeout",
        type=float,
        default=600,
        help="under torchrun: end after waiting so many seconds for another rank (default: 600)",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings of training (see TrainConfig in imagen_mini/training/config.py) or, with "
        "'stage.' before them, of the stage (StageConfig in imagen_mini/cascade/config.py): "
        "steps=3000 stage.unet.channels=[48,96,144]",
    )
    args = parser.parse_intermixed_args(arguments)
    if problem := _problem(args):
        parser.error(problem)
    shipped = shipped_pipelines().get(str(args.init_from))
    if shipped is not None and not args.init_from.exists():
        args.init_from = shipped / args.stage
    if args.init_from is not None:
        args.init_from = run_or_stage_folder(args.init_from)
    return args


def _problem(args: argparse.Namespace) -> str | None:
    """What is wrong with the arguments; None: nothing that can be seen now."""
    cores = os.cpu_count() or 1
    if args.threads is not None and not 1 <= args.threads <= 8 * cores:
        return (
            f"--threads {args.threads}: expected 1 to {8 * cores}; this machine has {cores} cores"
        )
    for name in ("time_limit", "rank_timeout"):
        seconds = getattr(args, name)
        if not seconds >= 0:  # also NaN
            return f"--{name.replace('_', '-')} {seconds}: expected a number of seconds"
    if args.resume and args.init_from:
        return (
            "--init-from says where a new run starts, --resume continues one from its own weights: "
            "leave one of them out"
        )
    of_folder = ("caption_column", "data_cache", "skip_broken", "fit", "background", "held_out")
    if args.data is None and not args.resume:
        for name in (name for name in of_folder if getattr(args, name)):
            return f"--{name.replace('_', '-')} is for a folder of images: name it with --data"
    try:
        device = torch.device(args.device)
        if device.type == "cuda":  # to allocate there would take memory of another rank's GPU
            there = torch.cuda.device_count()
            reason = f"GPUs: {there}" if (device.index or 0) >= there else ""
        else:
            torch.empty(0, device=device)
            reason = ""
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
    if reason:
        return f"--device {args.device}: it cannot be used here ({reason}); --device cpu can"
    return None


@plain_errors()
def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    args.output_dir = args.output_dir or Path("runs") / args.stage
    if args.threads:
        torch.set_num_threads(args.threads)
    with surviving_output():
        run(args)


def run(args: argparse.Namespace) -> None:
    """Train as the arguments say, in a folder that no other process writes to."""
    try:
        with init_distributed(args.device, args.rank_timeout) as (ranks, device):
            with (
                run_lock(args.output_dir) if ranks.is_main else nullcontext(),
                GracefulStop(GRACE_SECONDS if ranks.world > 1 else None) as stop,
            ):
                Run(args, ranks, device).train(stop)
    except torch.OutOfMemoryError as error:
        raise SystemExit(
            f"out of memory: {error}\nThe batch in more parts (gradient_accumulation_steps=4), "
            "gradient_checkpointing=true or a smaller batch_size need less"
        ) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise SystemExit(
            f"a process that reads data has died ({error}). Often memory ran out: fewer "
            "workers (num_workers), a smaller batch_size or more parts of it "
            "(gradient_accumulation_steps) need less; num_workers=0 reads in this process"
        ) from error


def check_kept(what: str, before, after, fields: tuple[str, ...]) -> None:
    """Check that settings on which the meaning of trained weights depends have not changed.

    Args:
        what: What has the weights, for the message.
        before: Its configuration.
        after: The configuration that is asked for.
        fields: Names of the settings.

    Raises:
        ValueError: One of them has changed.
    """
    for name in fields:
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, UNetConfig):
            check_kept(what, old, new, tuple(UNetConfig.__dataclass_fields__))
        elif old != new:
            raise ValueError(
                f"{what} has {name} {old}, not {new}: its weights are of no use with another. "
                "Leave the setting out, or start a new run in another --output-dir"
            )


class Run:
    """One stage in training, and its folder.

    Args:
        args: From `parse_arguments`.
        ranks: This process among those that train together.
        device: Where to train.

    Raises:
        ValueError: The arguments do not fit together, or not the run that is to be resumed.
    """

    def __init__(self, args: argparse.Namespace, ranks: DistributedContext, device: torch.device):
        self.args, self.folder, self.ranks, self.device = args, args.output_dir, ranks, device
        self.started = time.monotonic()
        tensors = self._resolve_settings()
        self._build(tensors)

    def _resolve_settings(self) -> dict | None:
        """Decide on configuration and data: those of the preset, of the stage to start from, or of
        the run to resume. Returns the tensors of the latter.
        """
        # 1. the configuration: of the checkpoint, of the stage to start from, or of the preset
        args, tensors, saved = self.args, None, {"step": 0, "training_phases": []}
        preset = args.preset or "mini"
        config = TRAIN_PRESETS[preset].get(args.stage)
        stage_config = of_preset = PRESETS[preset].get(args.stage)
        if args.resume:
            tensors, saved, notes = load_checkpoint(self.folder)
            self.log(*notes)
            check_state(saved, self.folder)
            config = from_dict(TrainConfig, saved["train"])
            stage_config = from_dict(StageConfig, saved["stage"])
            if stage_config.name != args.stage:
                raise ValueError(
                    f"{self.folder} is a run of stage {stage_config.name}, not of {args.stage}"
                )
        elif config is None:
            raise ValueError(
                f"the preset {preset} has no stage {args.stage}; it has "
                f"{', '.join(PRESETS[preset])}"
            )
        elif any(self.folder.glob("step_*")):
            raise ValueError(
                f"{self.folder} already holds a run: pass --resume to continue it, or "
                "another --output-dir"
            )
        elif args.init_from:
            stage_config = load_stage(args.init_from).config
            if stage_config.name != args.stage:
                raise ValueError(
                    f"{args.init_from} is a stage {stage_config.name}, not {args.stage}: pass "
                    f"--stage {stage_config.name}, or the folder of another stage"
                )
            saved["training_phases"] = training_phases(args.init_from)
            if args.preset and config is not None and stage_config != of_preset:
                self.log(
                    f"the network is that of {args.init_from}; of the preset {args.preset} the "
                    "training settings are used"
                )
        # 2. overrides, and what "auto" means here: resuming must not depend on a measurement
        config, self.stage_config = override_run(config, stage_config, args.overrides)
        if args.resume:
            run = f"the run {self.folder}"
            check_kept(run, stage_config, self.stage_config, FIXED_ON_RESUME)
            if args.preset and of_preset is not None:
                of_preset = override_run(TrainConfig(), of_preset, args.overrides)[1]
                # the width of the text is the text encoder's, not the preset's
                unet = tuple(n for n in UNetConfig.__dataclass_fields__ if n not in OF_THE_ENCODER)
                check_kept(run, stage_config.unet, of_preset.unet, unet)
        elif args.init_from:
            trained = str(args.init_from)
            check_kept(trained, stage_config, self.stage_config, ("name", "prediction"))
            check_kept(trained, stage_config.unet, self.stage_config.unet, FIXED_ON_GROWTH)
        elif self.stage_config.name != args.stage:
            raise ValueError(f"stage.name={self.stage_config.name}: this is --stage {args.stage}")
        precision = resolve_precision(config.precision, self.device)
        # each rank measures, and the first decides
        bf16 = self.ranks.any(self.ranks.is_main and precision == "bf16", self.device)
        self.config = replace(config, precision="bf16" if bf16 else "fp32")
        if args.world is not None:
            if args.resume and args.world != self.stage_config.world:
                raise ValueError(
                    f"{self.folder} is a run on the world {self.stage_config.world}, not on "
                    f"{args.world}: resume it without --world, or start another --output-dir"
                )
            self.stage_config = replace(self.stage_config, world=args.world)
        # 3. data
        self.step, self.saved = saved["step"], saved
        self.data = self._open_data(saved.get("data"))
        # 4. a training phase is a stretch of training under one set of settings; together they tell
        #    how a network came about
        settings = {
            "device": self._hardware(),
            "train": json.loads(json.dumps(to_dict(self.config))),
            "data": self.data.describe(),
        }
        self.phases = saved["training_phases"]
        without_data = open_dataset().describe()  # what older phases, which name none, were on
        if not args.resume or settings != {
            name: self.phases[-1].get(name, without_data) for name in settings
        }:
            self.phases.append({"steps": 0, "seconds": 0.0, **settings})
        self.steps_before_phase = self.step - self.phases[-1]["steps"]
        self.seconds_before_phase = self.phases[-1]["seconds"]
        return tensors

    def _build(self, tensors: dict | None) -> None:
        """Make network, text encoder, optimizers and average, with the tensors of a checkpoint."""
        args, config = self.args, self.config
        if args.shard and (self.ranks.world == 1 or config.optimizer != "adamw" or args.text_cache):
            raise ValueError(
                "--shard needs several ranks (torchrun --nproc-per-node 2 -m train.train ...), "
                "optimizer=adamw and no --text-cache; "
                f"this is {self.ranks.world} rank(s) with "
                f"optimizer={config.optimizer}"
            )
        # 1. the text encoder
        path = args.text_encoder or self.saved.get("text_encoder")
        if path is None and args.init_from and not args.resume:
            path = find_text_encoder(None, args.init_from)
            path = None if Path(path) == WEIGHTS / "text_encoder" else path
        elif path is None and args.resume:
            path = shipped_encoder_with(self.stage_config.text_encoder)
        dtype = args.text_encoder_dtype or self.saved.get("text_encoder_dtype", "fp32")
        if path is not None and Path(path).is_dir():
            path = str(Path(path).resolve())
        # None: the shipped one
        self.text_encoder = {"text_encoder": path, "text_encoder_dtype": dtype}
        self.encoder = TextEncoder.from_pretrained(path or WEIGHTS / "text_encoder", DTYPES[dtype])
        self.encoder.check_can_be_saved()
        identity, known = self.encoder.weights_digest(), self.stage_config.text_encoder
        if known not in (None, identity) and (args.resume or not self.encoder.is_read_as(known)):
            raise ValueError(
                f"{path or 'the shipped text encoder'} (identity {identity}) is not the text "
                "encoder that this stage was trained with "
                f"({known}); name that one with "
                "--text-encoder, or, to change it, add "
                "stage.text_encoder=null"
            )
        trained = load_stage(args.init_from) if args.init_from and not args.resume else None
        known = None if trained is None else trained.config.text_encoder
        if trained is not None and known is not None and not self.encoder.is_read_as(known):
            trained = self._with_this_encoder(trained)
            of_encoder = {name: getattr(trained.config.unet, name) for name in OF_THE_ENCODER}
            unet = replace(self.stage_config.unet, **of_encoder)
            self.stage_config = replace(self.stage_config, unet=unet)
        width = self.stage_config.unet.text_width
        if self.encoder.width != width:
            raise ValueError(
                f"{path or 'the shipped text encoder'} returns text of width "
                f"{self.encoder.width}, the stage takes {width}; "
                f"for a new stage, add stage.unet.text_width={self.encoder.width}"
            )
        self.stage_config = replace(self.stage_config, text_encoder=identity)
        # 2. the network and its weights
        torch.manual_seed(config.seed)  # the initial weights
        self.stage = DiffusionStage(self.stage_config)
        if trained is not None:
            if new := init_from_smaller(self.stage, trained):
                self.log(f"new layers, which add nothing at first: {', '.join(new)}")
        elif tensors is not None:
            shapes = {k: v.shape for k, v in self.stage.net.state_dict().items()}
            for name in ("weights", "ema"):
                check_tensors(f"{name} of the checkpoint", tensors[name], shapes)
            self.stage.net.load_state_dict(tensors["weights"])
        # 3. on the device
        if args.text_cache:
            self.encoder = CachedTextEncoder(self.encoder, args.text_cache)
        if args.shard:
            shard_fsdp(self.stage, self.encoder, self.device)
        else:
            self.encoder.to(self.device)
            self.stage.to(self.device, memory_format=channels_last_on_cpu(self.device))
        # 4. optimizers and average, of the weights as they are placed now
        self.optimizers = make_optimizers(
            self.stage.net,
            config.optimizer,
            config.learning_rate,
            config.betas,
            config.weight_decay,
            DTYPES[config.precision],  # agreed on by all ranks, and the same when it is resumed
        )
        self.ema = EMA(self.stage.net, config.ema_half_life)
        if args.compile:
            self.stage.net.compile()  # in place: its weights keep their names
        if tensors is not None:
            self.ema.weights = {
                k: distribute_like(v, self.ema.weights[k]) for k, v in tensors["ema"].items()
            }
            if (before := self.saved["train"].get("optimizer")) == config.optimizer:
                restore_optimizers(self.optimizers, tensors["optimizer"])
            else:
                self.log(f"the optimizer was {before}; the state of {config.optimizer} starts anew")

    def _with_this_encoder(self, trained: DiffusionStage) -> DiffusionStage:
        """A stage that was trained with another text encoder, to start from with this run's.

        If the run goes on with the captions of a built-in world, a linear map is fitted to them,
        from the vectors of this encoder to those of the former one. Else what reads words begins
        anew, if the width is another.
        """
        # 1. what it was trained on, and with
        phases = training_phases(self.args.init_from)
        without_data = open_dataset().describe()  # what older phases, which name none, were on
        source = phases[-1].get("data", without_data)["source"] if phases else None
        former = None
        if source in WORLDS and source == self.data.describe()["source"]:
            with suppress(FileNotFoundError):  # it may be gone
                former = TextEncoder.from_pretrained(find_text_encoder(None, self.args.init_from))
        if former is None or not former.is_read_as(trained.config.text_encoder):
            if (width := self.encoder.width) == trained.config.unet.text_width:
                return trained
            self.log(
                f"another text encoder, of width {width}: text layers, pooled text, and keys and "
                "values of words begin anew"
            )
            return with_new_text_conditioning(trained, width)
        # 2. the linear map
        world = WORLDS[source]
        scenes = [world.training_scene(0, i) for i in range(FITTED_CAPTIONS)]
        captions = [world.training_caption(scene, 0, i).text for i, scene in enumerate(scenes)]
        before = trained.net.text_projection
        weight = before.weight.detach() if isinstance(before, nn.Linear) else None
        projection, explained = fit_projection(self.encoder, former, captions, weight)
        self.log(
            f"another text encoder: a projection, fitted to {FITTED_CAPTIONS:,} captions of "
            f"{source}, makes {explained:.0%} of the former encoder's variance from its vectors"
        )
        return with_text_projection(trained, projection)

    def train(self, stop: GracefulStop) -> None:
        """Train to the last step, or until a stop is requested or time is up."""
        config = self.config
        self.log(
            f"stage {self.stage_config.name}: "
            f"{sum(p.numel() for p in self.stage.parameters()):,} parameters, {config.steps:,} "
            f"steps of {config.batch_size} images on {self._hardware()}"
        )
        if self.args.resume:
            done = self.step >= config.steps
            self.log(
                f"resuming from step {self.step:,}"
                + (f", which is the last; for more: steps={2 * self.step}" if done else "")
            )
            self.export()  # in case the last export was cut short
        earlier = sum(phase["seconds"] for phase in self.phases[:-1])
        with Log(
            self.folder,
            config.log_every,
            config.batch_size,
            self.step,
            config.steps,
            self.saved.get("carried"),
            earlier + self.seconds_before_phase,
            self.stage_config.name,
            on=self.ranks.is_main,
        ) as log:
            for state in train(
                self.stage,
                self.encoder,
                config,
                self.optimizers,
                self.ema,
                self.step,
                self.data,
                self.ranks,
                self.args.cuda_graph,
            ):
                self.step = state.step
                log.step(state)
                # 1. is this the last step?
                out_of_time = time.monotonic() - self.started > self.args.time_limit
                end = self.ranks.any(stop.requested() or out_of_time, self.device)
                last = end or self.step == config.steps
                # 2. sample grids
                if config.sample_every and (
                    self.step % config.sample_every == 0 or self.step == config.steps
                ):
                    try:
                        self.save_sample_grid(log)
                    except Exception as error:  # a step that is done is worth more than its grid
                        self.stage.train()
                        self.log(f"step {self.step:,}: no sample grid: {error!r}")
                # 3. checkpoints
                if self.step % config.save_every == 0 or last:
                    self.save(log.carried)
                    self.export()
                    log.restart_clock(self.step)
                if last:
                    break
        if self.step < config.steps:
            self.log(
                f"{'stopped' if stop.requested() else 'time limit reached'} at step "
                f"{self.step:,}; continue with --resume"
            )

    def save(self, carried: dict) -> None:
        """Write a checkpoint."""
        self.phases[-1] |= {
            "steps": self.step - self.steps_before_phase,
            "seconds": round(self.seconds_before_phase + time.monotonic() - self.started, 1),
        }
        source, path = self.data.describe(), getattr(self.data, "path", None)
        options = getattr(self.data, "options", {})
        state = {
            "step": self.step,
            "training_phases": self.phases,
            "train": to_dict(self.config),
            "stage": to_dict(self.stage_config),
            "data": source if path is None else {**source, "path": str(path), **options},
            **self.text_encoder,
            "carried": carried,
        }
        tensors = {
            "weights": self.stage.net.state_dict(),
            "ema": self.ema.weights,
            "optimizer": optimizer_tensors(self.optimizers),
        }
        tensors = {name: full_tensors(of) for name, of in tensors.items()}
        if self.ranks.is_main:
            save_checkpoint(self.folder, self.step, tensors, state)

    def export(self) -> None:
        """Write the average weights as a stage folder, which `load_stage` and
        `train.export_pipeline` read.
        """
        weights = full_tensors(self.ema.weights)
        if self.ranks.is_main:
            averaged = DiffusionStage(self.stage_config)
            averaged.net.load_state_dict(weights)
            with atomic_directory(self.folder / "stage") as temp:
                path = self.text_encoder["text_encoder"]
                of_text = {} if path is None else {"text_encoder": path}
                save_stage(averaged, temp, {"training_phases": self.phases} | of_text)

    def save_sample_grid(self, log: Log) -> None:
        """Sample captions of the data with the average weights, and save them as one image. If
        there is a parser for the images and their size, log how many show their caption.

        A super-resolution stage gets the true low-resolution images, so that only its own work
        shows.
        """
        unet, indices, correct = self.stage_config.unet, range(SAMPLES), None
        self.stage.eval()
        with self.ema.average_parameters():
            world = find_world(self.stage_config.world)
            if getattr(self.data, "has_parser", False) and world.can_read(unet.image_size):
                results = preview(self.stage, self.encoder)
                images, captions = [r.image for r in results], [r.caption.text for r in results]
                correct = [r.correct for r in results]
            else:
                _, low_res, captions = self.data.batch(
                    indices, unet.image_size, unet.low_res_size, self.device
                )
                images = sample_single_stage(self.stage, self.encoder, captions, indices, low_res)
        self.stage.train()
        if not self.ranks.is_main:
            return
        # the score first: it is part of the log, whatever becomes of the image
        file = self.folder / f"samples_{self.step:08d}.png"
        if correct:
            score = sum(correct) / len(correct)
            log.write(self.step, {"score": round(score, 4)})
        image_grid(images, captions, columns=8, cell=128, borders=correct).save(file)
        said = f"{score:.0%} of the samples show their caption ({file})" if correct else f"{file}"
        log.bar.write(f"step {self.step}: {said}")

    def log(self, *lines: str) -> None:
        """Print lines, once for all ranks."""
        if self.ranks.is_main:
            for line in lines:
                print(line, flush=True)

    def _open_data(self, saved: dict | None) -> Dataset:
        """The data that the arguments name; on resuming, by default, the same as before."""
        args, unet = self.args, self.stage_config.unet
        saved = saved or {}
        path = args.data or saved.get("path")
        named = {
            "caption_column": args.caption_column,
            "cache": args.data_cache,
            "skip_broken": args.skip_broken or None,
            "fit": args.fit,
            "background": args.background,
            "held_out": args.held_out,
        }
        options = remembered_options(saved)
        for name in ("fit", "background", "held_out"):
            before = options.get(name, DEFAULTS[name])
            if args.resume and named[name] not in (None, before):
                raise ValueError(
                    f"{self.folder} is a run with --{name.replace('_', '-')} {before}, not "
                    f"{named[name]}: resume it without, or start another --output-dir"
                )
        options |= {name: value for name, value in named.items() if value is not None}
        data = open_dataset(
            path,
            (unet.image_size, unet.low_res_size),
            self.config.seed,
            self.config.object_count_weights,
            progress=self.ranks.is_main,
            world=self.stage_config.world,
            **options,
        )
        if path is None:
            return data
        source, left_out = data.describe(), data.left_out
        self.log(
            f"{source['images']:,} images in {data.path} ({data.form})"
            + (f", {len(left_out)} broken ones left out" if left_out else "")
            + (f"; held out of training: {data.apart:,}" if data.apart else "")
        )
        small = data.enlarged(unet.image_size) if unet.low_res_size else 0
        if small:
            self.log(
                f"warning: {small:,} of {source['images']:,} images are smaller than "
                f"{unet.image_size} px and were enlarged: super-resolution learns their blur. "
                "Larger images, or a folder without these, teach more"
            )
        if saved.get("fingerprint") not in (None, source["fingerprint"]):
            changed = f"the images or captions in {path} are not those this run was trained on"
            if args.data is not None and options.get("held_out", DEFAULTS["held_out"]):
                raise ValueError(
                    f"{changed}, and what is held out would be drawn anew: images that were "
                    "trained on would count as held out. Start another --output-dir"
                )
            if args.data is not None:
                self.log(f"warning: {changed}")
        if args.data is None and source["fingerprint"] != saved["fingerprint"]:
            raise ValueError(
                f"the images or captions in {path} are not those this run was trained on "
                f"(fingerprint {source['fingerprint']}, it was {saved['fingerprint']}); to "
                f"continue with them all the same, name them: --data {path}"
            )
        return data

    def _hardware(self) -> str:
        name, ranks = device_name(self.device), self.ranks.world
        return name if ranks == 1 else f"{ranks} x {name}"


if __name__ == "__main__":
    run_script(main)
