"""Train one stage of the cascade on the built-in world.

    python -m train.train --stage base --preset mini --output-dir runs/base
    python -m train.train --stage sr_256 --output-dir runs/sr_256 steps=3000 batch_size=32

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
from imagen_mini.evaluation import preview
from imagen_mini.optimizers import make_optimizers
from imagen_mini.pictures import labelled_grid
from imagen_mini.text import TextEncoder
from imagen_mini.text_cache import CachedTextEncoder
from imagen_mini.training import EMA, train
from imagen_mini.weights import WEIGHTS


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("base", "sr_256", "sr_1024"), required=True)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="mini", help="sizes of the network and its recipe: tiny for tests, mini for a laptop, small for one "
                        "GPU, paper for Imagen's own (default: mini)")
    parser.add_argument("--output-dir", type=Path, help="the run's folder (default: runs/STAGE)")
    parser.add_argument("--text-encoder", default=str(WEIGHTS / "text_encoder"), help="a T5 encoder: folder or hub name (default: the shipped one)")
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
    # A leg is a stretch of training under one set of settings; together they tell how a network came about.
    legs, settings = saved["legs"], {"device": _device_name(device), "train": json.loads(json.dumps(to_dict(config)))}
    if not args.resume or settings != {name: legs[-1][name] for name in settings}:
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
        state = {"step": step, "legs": legs, "train": to_dict(config), "stage": to_dict(stage_config)}
        save_checkpoint(run, step, {"weights": stage.net.state_dict(), "ema": ema.weights, "optimizer": optimizer_tensors(optimizers)}, state)
        averaged = Stage(stage_config)
        averaged.net.load_state_dict(ema.weights)
        save_stage(averaged, run / "stage", {"legs": legs})

    parameters = sum(p.numel() for p in stage.parameters())
    print(f"stage {stage_config.name}: {parameters:,} parameters, {config.steps:,} steps of {config.batch_size} pictures on {settings['device']}")
    step = saved["step"]
    since, mark = 0.0, time.monotonic()
    with tqdm(total=config.steps, initial=step, desc=stage_config.name, unit="step") as bar, open(run / "log.jsonl", "a") as log:
        for state in train(stage, encoder, config, optimizers, ema, start=step):
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
                score = _sample_grid(run, stage, ema, encoder, step)
                log.write(json.dumps({"step": step, "score": round(score, 4), "seconds": round(seconds(), 1)}) + "\n")
                bar.write(f"step {step}: {score:.0%} of the samples show their caption ({run}/samples_{step:08d}.png)")
                mark = time.monotonic()
            if out_of_time:
                print(f"time limit reached at step {step}; go on with --resume")
                break


def _sample_grid(run: Path, stage: Stage, ema: EMA, encoder: TextEncoder, step: int) -> float:
    """Draw captions of the benchmark with the EMA weights, write the grid, and return the share that the parser finds right.

    A super-resolution stage is given the true low-resolution pictures, so that its own score is seen.
    """
    averaged = Stage(stage.config).to(next(stage.parameters()).device)
    averaged.net.load_state_dict(ema.weights)
    averaged.eval()
    results = preview(averaged, encoder)
    labels = [r.caption.text for r in results]
    frames = ["#2a9d2a" if r.right else "#d03030" for r in results]
    labelled_grid([r.image for r in results], labels, columns=8, cell=128, frames=frames).save(run / f"samples_{step:08d}.png")
    return sum(r.right for r in results) / len(results)


def _device_name(device: torch.device) -> str:
    threads = torch.get_num_threads()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} thread{'s'[:threads - 1]}"


if __name__ == "__main__":
    main()
