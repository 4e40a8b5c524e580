"""Train one stage of the cascade, on the built-in world or on images of one's own.

    python -m train.train --stage base --preset mini --output-dir runs/base
    python -m train.train --stage sr_256 --output-dir runs/sr_256 steps=3000 batch_size=32
    python -m train.train --stage base --data my_images --output-dir runs/mine
    torchrun --nproc-per-node 2 -m train.train --stage base --output-dir runs/base

`--data` is a folder of images with captions in metadata.jsonl; check it first with `python -m
train.check_dataset`.

Stop it at any time, by Ctrl-C or by pulling the plug; `--resume` goes on from the newest checkpoint
as if nothing had happened. The EMA weights are written to OUTPUT_DIR/stage, from where `python -m
train.export_pipeline` makes a pipeline. Is it going well? `python -m train.report OUTPUT_DIR`
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.cascade.serialization import load_stage, save_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.cascade.weight_transfer import init_from_smaller
from imagen_mini.data.base import Dataset
from imagen_mini.data.folder import ImageFolderDataset
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.evaluation.preview import preview, sample_single_stage
from imagen_mini.text.cache import CachedTextEncoder
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import (
    atomic_directory,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizers,
    save_checkpoint,
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
from imagen_mini.training.loop import train
from imagen_mini.training.optimizers import make_optimizers
from imagen_mini.training.run_guard import GracefulStop, run_lock
from imagen_mini.utils.configuration import from_dict, to_dict
from imagen_mini.utils.devices import channels_last_on_cpu, device_name
from imagen_mini.utils.precision import DTYPES, resolve_precision
from imagen_mini.utils.scripts import script_parser
from imagen_mini.viz.image_grid import image_grid
from imagen_mini.weights import WEIGHTS
from train.log import Log

SAMPLES = 16  # images of a sample grid
GRACE_SECONDS = 8  # seconds that a rank which is asked to stop has for its step


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("--stage", choices=("base", "sr_256", "sr_1024"), required=True)
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="mini",
        help="sizes of the network and its recipe: tiny for tests, mini for a laptop, small for one "
        "GPU, paper for Imagen's own (default: mini)",
    )
    parser.add_argument("--output-dir", type=Path, help="the run's folder (default: runs/STAGE)")
    parser.add_argument(
        "--text-encoder", help="a T5 encoder: folder or hub name (default: the shipped one)"
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
        help="train on this folder of images and metadata.jsonl (default: the built-in world)",
    )
    parser.add_argument(
        "--data-cache",
        type=Path,
        help="a folder to keep its cropped and resized images in (default: DATA/.prepared)",
    )
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave broken images out, up to 1 %% of all (default: stop at the first)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint of the run"
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        help="start from the weights of a stage folder, for example the shipped one; "
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
        "--graph",
        action="store_true",
        help="on one GPU: record a step's kernels once and replay them, so that Python does not "
        "keep it waiting",
    )
    parser.add_argument(
        "--shard",
        action="store_true",
        help="under torchrun: each rank holds a part of the weights, for networks and text encoders "
        "that do "
        "not fit on one device (needs optimizer=adamw)",
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
        help="settings of training (see imagen_mini/config.py, TrainConfig and RECIPES) or, "
        "with 'stage.' before them, of the stage: steps=3000 "
        "stage.unet.channels=[48,96,144]",
    )
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    args.output_dir = args.output_dir or Path("runs") / args.stage
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        with init_distributed(args.device, args.rank_timeout) as (ranks, device):
            with (
                run_lock(args.output_dir) if ranks.first else nullcontext(),
                GracefulStop(GRACE_SECONDS if ranks.world > 1 else None) as stop,
            ):
                Run(args, ranks, device).go(stop)
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
            "workers, a smaller batch_size or more parts of it "
            "(accumulate) need less; num_workers=0 reads in this process"
        ) from error
    except (FloatingPointError, OSError, ValueError) as error:
        raise SystemExit(str(error)) from error


class Run:
    """One stage in training, and the folder that it lives in."""

    def __init__(self, args: argparse.Namespace, ranks: DistributedContext, device: torch.device):
        self.args, self.folder, self.ranks, self.device, self.started = (
            args,
            args.output_dir,
            ranks,
            device,
            time.monotonic(),
        )
        tensors = self._settle()
        self._build(tensors)

    def _settle(self) -> dict | None:
        """Decide on configuration and data: those of the preset, of the stage to start from, or of
        the run to go on with. Returns its tensors.
        """
        args, tensors, saved = self.args, None, {"step": 0, "legs": []}
        config, stage_config = (
            TRAIN_PRESETS[args.preset].get(args.stage),
            PRESETS[args.preset].get(args.stage),
        )
        if args.resume:
            tensors, saved, notes = load_checkpoint(self.folder)
            self.say(*notes)
            config, stage_config = (
                from_dict(TrainConfig, saved["train"]),
                from_dict(StageConfig, saved["stage"]),
            )
            if stage_config.name != args.stage:
                raise ValueError(
                    f"{self.folder} is a run of stage {stage_config.name}, not of {args.stage}"
                )
        elif config is None:
            raise ValueError(
                f"the preset {args.preset} has no stage {args.stage}; it has "
                f"{', '.join(PRESETS[args.preset])}"
            )
        elif any(self.folder.glob("step_*")):
            raise ValueError(
                f"{self.folder} already holds a run: pass --resume to go on with it, or "
                "another --output-dir"
            )
        elif args.init_from:
            stage_config = load_stage(args.init_from).config
            saved["legs"] = json.loads((args.init_from / "config.json").read_text())[
                "training"
            ].get("legs", [])
        config, self.stage_config = override_run(config, stage_config, args.overrides)
        # once for all: going on must not depend on a measurement
        self.config = replace(config, precision=resolve_precision(config.precision, self.device))
        self.data, self.step, self.saved = self._open_data(saved.get("data")), saved["step"], saved
        # A leg is a stretch of training under one set of settings; together they tell how a network
        # came about.
        settings = {
            "device": self._hardware(),
            "train": json.loads(json.dumps(to_dict(self.config))),
            "data": self.data.describe(),
        }
        self.legs = saved["legs"]
        # older legs name no data
        if not args.resume or settings != {
            name: self.legs[-1].get(name, SceneDataset().describe()) for name in settings
        }:
            self.legs.append({"steps": 0, "seconds": 0.0, **settings})
        self.leg_before = self.step - self.legs[-1]["steps"], self.legs[-1]["seconds"]
        return tensors

    def _build(self, tensors: dict | None) -> None:
        """Make network, text encoder, optimizers and average, as they were left."""
        args, config, width = self.args, self.config, self.stage_config.unet.text_width
        if args.shard and (self.ranks.world == 1 or config.optimizer != "adamw" or args.text_cache):
            raise ValueError(
                "--shard needs several ranks (torchrun --nproc-per-node 2 -m train.train ...), "
                "optimizer=adamw and no --text-cache; "
                f"this is {self.ranks.world} rank(s) with "
                f"optimizer={config.optimizer}"
            )
        path, dtype = (
            args.text_encoder or self.saved.get("text_encoder"),
            args.text_encoder_dtype or self.saved.get("text_encoder_dtype", "fp32"),
        )
        if path is not None and Path(path).is_dir():
            path = str(Path(path).resolve())
        # None: the shipped one
        self.text_encoder = {"text_encoder": path, "text_encoder_dtype": dtype}
        self.encoder = TextEncoder.from_pretrained(path or WEIGHTS / "text_encoder", DTYPES[dtype])
        if self.encoder.width != width:
            raise ValueError(
                f"{path or 'the shipped text encoder'} gives text of width "
                f"{self.encoder.width}, the stage takes {width}; "
                f"for a new stage, add stage.unet.text_width={self.encoder.width}"
            )
        if self.stage_config.text_encoder not in (None, identity := self.encoder.weights_digest()):
            raise ValueError(
                f"{path or 'the shipped text encoder'} (identity {identity}) is not the text "
                "encoder that this stage was trained with "
                f"({self.stage_config.text_encoder}); name that one with "
                "--text-encoder, or, to change it, add "
                "stage.text_encoder=null"
            )
        self.stage_config = replace(self.stage_config, text_encoder=identity)
        torch.manual_seed(config.seed)  # the initial weights
        self.stage = DiffusionStage(self.stage_config)
        if args.init_from and not args.resume:
            if new := init_from_smaller(self.stage, load_stage(args.init_from)):
                self.say(f"new layers, which add nothing at first: {', '.join(new)}")
        elif tensors is not None:
            self.stage.net.load_state_dict(tensors["weights"])
        if args.text_cache:
            self.encoder = CachedTextEncoder(self.encoder, args.text_cache)
        if args.shard:
            shard_fsdp(self.stage, self.encoder, self.device)
        else:
            self.encoder.to(self.device)
            self.stage.to(
                self.device,
                memory_format=channels_last_on_cpu(self.device),
            )
        self.optimizers = make_optimizers(
            self.stage.net,
            config.optimizer,
            config.learning_rate,
            config.betas,
            config.weight_decay,
        )
        self.ema = EMA(self.stage.net, config.ema_half_life)
        if args.compile:
            self.stage.net.compile()  # in place: its weights keep their names
        if tensors is not None:
            self.ema.weights = {
                k: distribute_like(v, self.ema.weights[k]) for k, v in tensors["ema"].items()
            }
            restore_optimizers(self.optimizers, tensors["optimizer"])

    def go(self, stop: GracefulStop) -> None:
        """Train to the last step, or until `stop` is asked for or time is up."""
        config = self.config
        self.say(
            f"stage {self.stage_config.name}: "
            f"{sum(p.numel() for p in self.stage.parameters()):,} parameters, {config.steps:,} "
            "steps of "
            f"{config.batch_size} images on {self._hardware()}"
        )
        if self.args.resume:
            self.say(
                f"going on from step {self.step:,}"
                + (
                    ""
                    if self.step < config.steps
                    else f", which is the last; for more: steps={2 * self.step}"
                )
            )
            self.export()  # in case the last export was cut short
        seconds_before = sum(leg["seconds"] for leg in self.legs[:-1]) + self.leg_before[1]
        with Log(
            self.folder,
            config.log_every,
            config.batch_size,
            self.step,
            config.steps,
            self.saved.get("carried"),
            seconds_before,
            self.stage_config.name,
            on=self.ranks.first,
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
                self.args.graph,
            ):
                self.step = state.step
                log.step(state)
                out_of_time = time.monotonic() - self.started > self.args.time_limit
                last = (
                    self.ranks.any(stop.asked() or out_of_time, self.device)
                    or self.step == config.steps
                )
                if config.sample_every and (
                    self.step % config.sample_every == 0 or self.step == config.steps
                ):
                    self.save_sample_grid(log)
                if self.step % config.save_every == 0 or last:
                    self.save(log.carried)
                    self.export()
                    log.restart_clock(self.step)
                if last:
                    break
        if self.step < config.steps:
            self.say(
                f"{'stopped' if stop.asked() else 'time limit reached'} at step {self.step:,}; "
                "go on with --resume"
            )

    def save(self, carried: dict) -> None:
        """Write a checkpoint."""
        steps_before, seconds_before = self.leg_before
        self.legs[-1] |= {
            "steps": self.step - steps_before,
            "seconds": round(seconds_before + time.monotonic() - self.started, 1),
        }
        source = (
            {**self.data.describe(), "path": str(self.data.path)}
            if isinstance(self.data, ImageFolderDataset)
            else self.data.describe()
        )
        state = {
            "step": self.step,
            "legs": self.legs,
            "train": to_dict(self.config),
            "stage": to_dict(self.stage_config),
            "data": source,
            **self.text_encoder,
            "carried": carried,
        }
        tensors = {
            "weights": self.stage.net.state_dict(),
            "ema": self.ema.weights,
            "optimizer": optimizer_tensors(self.optimizers),
        }
        tensors = {name: full_tensors(of) for name, of in tensors.items()}
        if self.ranks.first:
            save_checkpoint(self.folder, self.step, tensors, state)

    def export(self) -> None:
        """Write the average weights as a stage folder, which `load_stage` and
        `train.export_pipeline` read.
        """
        weights = full_tensors(self.ema.weights)
        if self.ranks.first:
            averaged = DiffusionStage(self.stage_config)
            averaged.net.load_state_dict(weights)
            with atomic_directory(self.folder / "stage") as aside:
                save_stage(averaged, aside, {"legs": self.legs})

    def save_sample_grid(self, log: Log) -> None:
        """Draw captions of the data with the average weights, as an image and, of the built-in
        world, with the share that the parser finds right.

        A super-resolution stage is given the true low-resolution images, so that its own work is
        seen.
        """
        unet, numbers = self.stage_config.unet, range(SAMPLES)
        self.stage.eval()
        with self.ema.average_parameters():
            if isinstance(self.data, SceneDataset):
                results = preview(self.stage, self.encoder)
                images, captions, right = (
                    [r.image for r in results],
                    [r.caption.text for r in results],
                    [r.correct for r in results],
                )
            else:
                _, low_res, captions = self.data.batch(
                    numbers, unet.image_size, unet.low_res_size, self.device
                )
                images, right = (
                    sample_single_stage(self.stage, self.encoder, captions, numbers, low_res),
                    None,
                )
        self.stage.train()
        if not self.ranks.first:
            return
        file = self.folder / f"samples_{self.step:08d}.png"
        image_grid(images, captions, columns=8, cell=128, borders=right).save(file)
        if right:
            score = sum(right) / len(right)
            log.write(self.step, {"score": round(score, 4)})
            log.bar.write(
                f"step {self.step}: {score:.0%} of the samples show their caption ({file})"
            )
        else:
            log.bar.write(f"step {self.step}: {file}")

    def say(self, *lines: str) -> None:
        if self.ranks.first:
            for line in lines:
                print(line, flush=True)

    def _open_data(self, saved: dict | None) -> Dataset:
        """The data asked for; on resuming, unless told otherwise, the same as before."""
        args, unet = self.args, self.stage_config.unet
        path = args.data or (saved or {}).get("path")
        if path is None:
            return SceneDataset(self.config.seed, self.config.object_count_weights)
        sizes = [size for size in (unet.image_size, unet.low_res_size) if size is not None]
        data = ImageFolderDataset(
            path,
            sizes,
            self.config.seed,
            args.skip_broken,
            args.data_cache,
            progress=self.ranks.first,
        )
        self.say(
            f"{len(data):,} images in {data.path}"
            + (f", {len(data.broken)} broken ones left out" if data.broken else "")
        )
        if args.data is None and data.fingerprint != saved["fingerprint"]:
            raise ValueError(
                f"the images or captions in {path} are not those this run was trained on "
                f"(fingerprint {data.fingerprint}, it was "
                f"{saved['fingerprint']}); to go on with them all the same, "
                f"name them: --data {path}"
            )
        return data

    def _hardware(self) -> str:
        name, ranks = device_name(self.device), self.ranks.world
        return name if ranks == 1 else f"{ranks} x {name}"


if __name__ == "__main__":
    main()
