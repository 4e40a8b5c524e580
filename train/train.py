"""Train one stage of the cascade, on the built-in world or on pictures of one's own.

    python -m train.train --stage base --preset mini --output-dir runs/base
    python -m train.train --stage sr_256 --output-dir runs/sr_256 steps=3000 batch_size=32
    python -m train.train --stage base --data my_pictures --output-dir runs/mine

`--data` is a folder of pictures with captions in metadata.jsonl; check it first with `python -m train.check_data`.

Stop it at any time; `--resume` goes on from the newest checkpoint. The EMA weights are written to OUTPUT_DIR/stage, from
where `python -m train.assemble` makes a pipeline.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from imagen_mini.cascade import Stage, load_stage, save_stage
from imagen_mini.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizers, save_checkpoint
from imagen_mini.config import PRESETS, RECIPES, StageConfig, TrainConfig, from_dict, override, to_dict
from imagen_mini.data import Data, Folder, Scenes
from imagen_mini.evaluation import draw_alone, preview
from imagen_mini.optimizers import make_optimizers
from imagen_mini.pictures import labelled_grid
from imagen_mini.text import TextEncoder
from imagen_mini.text_cache import CachedTextEncoder
from imagen_mini.training import EMA, train
from imagen_mini.weights import WEIGHTS

SAMPLES = 16                                           # pictures of a sample grid


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("base", "sr_256", "sr_1024"), required=True)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="mini", help="sizes of the network and its recipe: tiny for tests, mini for a laptop, small for one "
                        "GPU, paper for Imagen's own (default: mini)")
    parser.add_argument("--output-dir", type=Path, help="the run's folder (default: runs/STAGE)")
    parser.add_argument("--text-encoder", default=str(WEIGHTS / "text_encoder"), help="a T5 encoder: folder or hub name (default: the shipped one)")
    parser.add_argument("--data", type=Path, help="train on this folder of pictures and metadata.jsonl (default: the built-in world)")
    parser.add_argument("--data-cache", type=Path, help="a folder to keep its cropped and resized pictures in (default: DATA/.prepared)")
    parser.add_argument("--skip-broken", action="store_true", help="leave broken pictures out, up to 1 %% of all (default: stop at the first)")
    parser.add_argument("--text-cache", type=Path, metavar="DIR", help="keep encoded captions in this folder, which any number of runs may share")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run")
    parser.add_argument("--init-from", type=Path, help="start from the weights of a stage folder, for example the shipped one")
    parser.add_argument("--time-limit", type=float, default=float("inf"), help="stop, with a checkpoint, after so many seconds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads to compute with (default: torch's choice)")
    parser.add_argument("--compile", action="store_true", help="compile the network with torch.compile: slow to start, then faster on a GPU")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of training (see imagen_mini/config.py, TrainConfig and RECIPES) or, "
                        "with 'stage.' before them, of the stage: steps=3000 stage.unet.channels=[48,96,144]")
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    started = time.monotonic()
    if args.threads:
        torch.set_num_threads(args.threads)
    run = args.output_dir or Path("runs") / args.stage
    ours = [o for o in args.overrides if not o.startswith("stage.")]
    theirs = [o.removeprefix("stage.") for o in args.overrides if o.startswith("stage.")]
    device = torch.device(args.device)
    tensors, notes, saved = None, [], {"step": 0, "legs": []}
    config, stage_config = RECIPES[args.preset].get(args.stage), PRESETS[args.preset].get(args.stage)
    if args.resume:
        tensors, saved, notes = load_checkpoint(run)
        config, stage_config = from_dict(TrainConfig, saved["train"]), from_dict(StageConfig, saved["stage"])
    elif config is None:
        raise SystemExit(f"the preset {args.preset} has no stage {args.stage}; it has {', '.join(PRESETS[args.preset])}")
    elif any(run.glob("step_*")):
        raise SystemExit(f"{run} already holds a run: pass --resume to go on with it, or another --output-dir")
    elif args.init_from:
        stage_config = load_stage(args.init_from).config
        saved["legs"] = json.loads((args.init_from / "config.json").read_text())["training"].get("legs", [])
    config, stage_config = override(config, ours), override(stage_config, theirs)
    data = _open_data(args, config, stage_config, saved.get("data"))
    # A leg is a stretch of training under one set of settings; together they tell how a network came about.
    legs, settings = saved["legs"], {"device": _device_name(device), "train": json.loads(json.dumps(to_dict(config))), "data": data.describe()}
    if not args.resume or settings != {name: legs[-1].get(name, Scenes().describe()) for name in settings}:      # older legs name no data
        legs.append({"steps": 0, "seconds": 0.0, **settings})
    steps_before, seconds_before = saved["step"] - legs[-1]["steps"], legs[-1]["seconds"]
    for note in notes:
        print(note)

    torch.manual_seed(config.seed)                     # the initial weights
    stage = Stage(stage_config)
    if args.init_from and not args.resume:
        stage.load_state_dict(load_stage(args.init_from).state_dict())
    stage = stage.to(device, memory_format=torch.channels_last if device.type == "cpu" else torch.preserve_format)
    encoder = TextEncoder.from_pretrained(args.text_encoder).to(device)
    if encoder.width != stage_config.unet.text_width:
        raise SystemExit(f"{args.text_encoder} gives text of width {encoder.width}, the stage takes {stage_config.unet.text_width}; "
                         f"for a new stage, add stage.unet.text_width={encoder.width}")
    if args.text_cache:
        encoder = CachedTextEncoder(encoder, args.text_cache)
    optimizers = make_optimizers(stage.net, config.optimizer, config.learning_rate, config.betas, config.weight_decay)
    ema = EMA(stage.net, config.ema_half_life)
    if args.compile:
        stage.net.compile()                            # in place: its weights keep their names
    if tensors is not None:
        stage.net.load_state_dict(tensors["weights"])
        ema.weights = {k: v.to(device) for k, v in tensors["ema"].items()}
        restore_optimizers(optimizers, tensors["optimizer"])
    run.mkdir(parents=True, exist_ok=True)

    def seconds() -> float:
        return sum(leg["seconds"] for leg in legs[:-1]) + seconds_before + time.monotonic() - started

    def save(step: int) -> None:
        legs[-1] |= {"steps": step - steps_before, "seconds": round(seconds_before + time.monotonic() - started, 1)}
        source = {**data.describe(), "path": str(data.path)} if isinstance(data, Folder) else data.describe()
        state = {"step": step, "legs": legs, "train": to_dict(config), "stage": to_dict(stage_config), "data": source}
        save_checkpoint(run, step, {"weights": stage.net.state_dict(), "ema": ema.weights, "optimizer": optimizer_tensors(optimizers)}, state)
        averaged = Stage(stage_config)
        averaged.net.load_state_dict(ema.weights)
        save_stage(averaged, run / "stage", {"legs": legs})

    parameters = sum(p.numel() for p in stage.parameters())
    print(f"stage {stage_config.name}: {parameters:,} parameters, {config.steps:,} steps of {config.batch_size} pictures on {settings['device']}")
    step = saved["step"]
    since, mark = 0.0, time.monotonic()
    with tqdm(total=config.steps, initial=step, desc=stage_config.name, unit="step") as bar, open(run / "log.jsonl", "a") as log:
        for state in train(stage, encoder, config, optimizers, ema, step, data):
            step = state.step
            bar.update()
            since += state.loss.item()
            if step % config.log_every == 0:
                line = {"step": step, "loss": round(since / config.log_every, 5), "gradient_norm": round(state.gradient_norm.item(), 4),
                        "learning_rate": state.learning_rate, "seconds": round(seconds(), 1),
                        "pictures_per_second": round(config.log_every * config.batch_size / (time.monotonic() - mark), 1)}
                log.write(json.dumps(line) + "\n")
                log.flush()
                bar.set_postfix(loss=f"{line['loss']:.4f}", norm=f"{line['gradient_norm']:.2f}", pics=f"{line['pictures_per_second']:.0f}/s")
                since, mark = 0.0, time.monotonic()
            out_of_time = time.monotonic() - started > args.time_limit
            if step % config.save_every == 0 or step == config.steps or out_of_time:
                save(step)
            if config.sample_every and (step % config.sample_every == 0 or step == config.steps or out_of_time):
                score = _sample_grid(run, stage, ema, encoder, step, data)
                picture = run / f"samples_{step:08d}.png"
                if score is None:
                    bar.write(f"step {step}: {picture}")
                else:
                    log.write(json.dumps({"step": step, "score": round(score, 4), "seconds": round(seconds(), 1)}) + "\n")
                    bar.write(f"step {step}: {score:.0%} of the samples show their caption ({picture})")
                mark = time.monotonic()
            if out_of_time:
                print(f"time limit reached at step {step}; go on with --resume")
                break


def _open_data(args: argparse.Namespace, config: TrainConfig, stage_config: StageConfig, saved: dict | None) -> Data:
    """The data asked for; on resuming, unless told otherwise, the same as before."""
    path = args.data or (saved or {}).get("path")
    if path is None:
        return Scenes(config.seed, config.counts)
    sizes = [size for size in (stage_config.unet.image_size, stage_config.unet.low_res_size) if size is not None]
    data = Folder(path, sizes, config.seed, args.skip_broken, args.data_cache)
    print(f"{len(data):,} pictures in {data.path}" + (f", {len(data.broken)} broken ones left out" if data.broken else ""))
    if args.data is None and data.fingerprint != saved["fingerprint"]:
        raise SystemExit(f"the pictures or captions in {path} are not those this run was trained on (fingerprint {data.fingerprint}, it was "
                         f"{saved['fingerprint']}); to go on with them all the same, name them: --data {path}")
    return data


def _sample_grid(run: Path, stage: Stage, ema: EMA, encoder: TextEncoder, step: int, data: Data) -> float | None:
    """Draw captions of the data with the EMA weights and write the grid. Of the built-in world, captions of the benchmark; returns the share that
    the parser finds right. Other pictures nobody can judge: None.

    A super-resolution stage is given the true low-resolution pictures, so that its own work is seen.
    """
    averaged = Stage(stage.config).to(next(stage.parameters()).device)
    averaged.net.load_state_dict(ema.weights)
    averaged.eval()
    if isinstance(data, Scenes):
        results = preview(averaged, encoder)
        pictures, captions, right = [r.image for r in results], [r.caption.text for r in results], [r.right for r in results]
    else:
        unet, numbers = stage.config.unet, range(SAMPLES)
        _, low_res, captions = data.batch(numbers, unet.image_size, unet.low_res_size, next(stage.parameters()).device)
        pictures, right = draw_alone(averaged, encoder, captions, numbers, low_res), None
    frames = right and ["#2a9d2a" if r else "#d03030" for r in right]
    labelled_grid(pictures, captions, columns=8, cell=128, frames=frames).save(run / f"samples_{step:08d}.png")
    return sum(right) / len(right) if right else None


def _device_name(device: torch.device) -> str:
    threads = torch.get_num_threads()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} thread{'s'[:threads - 1]}"


if __name__ == "__main__":
    main()
