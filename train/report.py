"""Is my run healthy? One image and a page of text.

    python -m train.report runs/base                   # the built-in world
    python -m train.report runs/mine --data my_images

Reads the newest checkpoint and the log, measures on samples that the run was not trained on (of a
folder: on the images that --held-out keeps out of training; without it on its training images), and
says of each measurement whether it is fine, worth a look or
bad. For the built-in world, the run behind the shipped weights is shown beside it, after as many
steps.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from matplotlib.figure import Figure

from imagen_mini.cascade.config import StageConfig
from imagen_mini.cascade.serialization import load_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.base import Dataset
from imagen_mini.data.datasets import open_dataset, remembered_options
from imagen_mini.scenes.scene import HELD_OUT_SEED
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import (
    check_state,
    check_tensors,
    load_checkpoint,
    training_phases,
)
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.diagnostics import (
    Diagnostic,
    NoiseBinStats,
    check_average,
    check_color,
    check_conditioning,
    check_dead_parameters,
    check_gradients,
    check_loss,
    check_reference,
    check_saturation,
    check_throughput,
    gradient_norms,
    measure_noise_bins,
)
from imagen_mini.training.encoder_of_run import find_text_encoder
from imagen_mini.training.loop import NOISE_BINS
from imagen_mini.utils.configuration import from_dict
from imagen_mini.utils.devices import available_device
from imagen_mini.utils.precision import DTYPES
from imagen_mini.utils.scripts import FIGURES, check_output_file, integer, run_script, script_parser
from imagen_mini.viz.style import STYLES, percent_axis, save_figure, subplots
from imagen_mini.weights import WEIGHTS
from train.log import read_log

# {stage: [{"steps": ..., "schedule": ..., "losses": {...}}]}: what `measure_noise_bins` found as
# the shipped weights came about
REFERENCE = WEIGHTS / "reference.json"
CHANNELS = ("red", "green", "blue")


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument(
        "--data", type=Path, help="the folder of images it is trained on (default: the run's)"
    )
    parser.add_argument(
        "--text-encoder", help="the text encoder it is trained with (default: the run's)"
    )
    parser.add_argument(
        "--n", type=integer(low=1), default=512, help="samples to measure on (default: 512)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out",
        type=Path,
        help="the image; the text is written beside it as .txt (default: RUN/report.png)",
    )
    parser.add_argument(
        "--reference-from",
        type=Path,
        nargs="+",
        metavar="STAGE",
        help="instead: measure these stage folders and write what they show to --out, as JSON",
    )
    args = parser.parse_args(arguments)
    if args.out:
        check_output_file(args.out, () if args.reference_from else FIGURES)
    available_device(args.device)
    if args.reference_from:
        write_reference(args)
        return
    try:
        tensors, saved, notes = load_checkpoint(args.run)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    check_state(saved, args.run)
    out = args.out or args.run / "report.png"
    check_output_file(out, FIGURES)
    config, stage_config = (
        from_dict(TrainConfig, saved["train"]),
        from_dict(StageConfig, saved["stage"]),
    )
    encoder = TextEncoder.from_pretrained(
        find_text_encoder(args.text_encoder, args.run),
        DTYPES[saved.get("text_encoder_dtype", "fp32")],
    ).to(args.device)
    log = read_log(args.run)
    steps = sum(phase["steps"] for phase in saved["training_phases"])
    path = args.data or (saved.get("data") or {}).get("path")
    options = remembered_options(saved.get("data"))
    data, indices = open_data(path, config, stage_config, options), range(args.n)
    stages = {}
    for name in ("weights", "ema"):
        stages[name] = DiffusionStage(stage_config)
        shapes = {k: v.shape for k, v in stages[name].net.state_dict().items()}
        check_tensors(f"{name} of the checkpoint", tensors[name], shapes)
        stages[name].net.load_state_dict(tensors[name])
        stages[name].to(args.device)
    stats = {
        name: measure_noise_bins(stage, encoder, data, indices) for name, stage in stages.items()
    }
    difference = sum(
        (tensors["weights"][k] - v).square().sum() for k, v in tensors["ema"].items()
    ).sqrt()
    distance = float(difference / sum(v.square().sum() for v in tensors["ema"].values()).sqrt())
    known = (
        json.loads(REFERENCE.read_text()).get(stage_config.name, [])
        if path is None and REFERENCE.is_file()
        else []
    )
    # else the same t is not the same noise, or the images are not the same
    reference = [
        r
        for r in known
        if r["schedule"] == schedule_of(stage_config)
        and r.get("world", "scenes") == stage_config.world
    ]
    averaged = stats["ema"]
    findings = [
        check_loss(log, from_trained=steps > saved["step"]),
        check_gradients(log),
        check_conditioning(averaged),
        check_color(averaged),
        check_saturation(averaged),
        check_average(stats["weights"], averaged, distance),
        check_dead_parameters(gradient_norms(stages["weights"], encoder, data, indices[:16])),
        check_throughput(log),
    ] + ([check_reference(averaged, steps, reference)] if reference else [])
    save_figure(plot_report(log, averaged, nearest(reference, steps), steps), out)
    heading = (
        f"{args.run}: stage {stage_config.name}, step {saved['step']:,} of {config.steps:,}, "
        f"{saved['training_phases'][-1]['device']}"
    )
    if path is not None:
        held_out = data.describe().get("part") == "held_out"
        kind = "held out of training" if held_out else "that it is trained on"
        notes = [*notes, f"measured on images of {path} {kind}: {len(data):,}"]
    text = page(heading, notes, findings)
    out.with_suffix(".txt").write_text(text)
    print(text + f"\n{out}")


def open_data(
    path: str | Path | None, config: TrainConfig, stage: StageConfig, options: dict | None = None
) -> Dataset:
    """The data to measure on: scenes that no training sees, or a folder.

    Args:
        path: The folder. None: scenes.
        config: Of the run.
        stage: Of the run.
        options: Of `open_dataset`, for a folder. If a share is held out, it is what is returned.
    """
    options = {**(options or {}), "skip_broken": True}
    if path is not None and options.get("held_out"):
        options["part"] = "held_out"
    return open_dataset(
        path,
        (stage.unet.image_size, stage.unet.low_res_size),
        HELD_OUT_SEED if path is None else config.seed,
        config.object_count_weights,
        world=stage.world,
        **options,
    )


def write_reference(args: argparse.Namespace) -> None:
    """Measure stages of different ages and write them down by name of stage."""
    if args.out is None:
        raise SystemExit("--reference-from needs --out, the JSON file to write")
    encoder = TextEncoder.from_pretrained(
        find_text_encoder(args.text_encoder, *args.reference_from)
    ).to(args.device)
    out: dict[str, list[dict]] = {}
    for folder in args.reference_from:
        stage = load_stage(folder).to(args.device)
        data = open_data(None, TrainConfig(), stage.config)
        found = measure_noise_bins(stage, encoder, data, range(args.n))
        out.setdefault(stage.config.name, []).append(
            {
                "steps": sum(phase["steps"] for phase in training_phases(folder)),
                "schedule": schedule_of(stage.config),
                "world": stage.config.world,
                **asdict(found),
            }
        )
        print(
            f"{folder}: {out[stage.config.name][-1]['steps']:,} steps, loss by level "
            f"{[round(v, 4) for v in found.losses['true']]}",
            flush=True,
        )
    for of in out.values():
        of.sort(key=lambda r: r["steps"])
    args.out.write_text(json.dumps(out, indent=1) + "\n")


def schedule_of(stage: StageConfig) -> list:
    return [stage.schedule, stage.log_snr_shift]


def nearest(reference: list[dict], steps: int) -> dict | None:
    return min(reference, key=lambda r: abs(r["steps"] - steps), default=None)


def page(heading: str, notes: list[str], findings: list[Diagnostic]) -> str:
    """The text: the worst first."""
    order = {"bad": 0, "look": 1, "fine": 2}
    lines = [heading, *notes, ""]
    lines += [
        f"{f.status.upper() if f.status != 'fine' else f.status:<5} {f.name:<15} {f.message}"
        for f in sorted(findings, key=lambda f: order[f.status])
    ]
    worst = min((f.status for f in findings), key=order.__getitem__)
    lines += [
        "",
        {
            "bad": "Not healthy: see the first lines.",
            "look": "Running, with something to look at.",
            "fine": "Healthy.",
        }[worst],
    ]
    return "\n".join(lines) + "\n"


def plot_report(
    log: list[dict], found: NoiseBinStats, reference: dict | None, steps: int
) -> Figure:
    """The image: loss, gradient norm, score over the steps; losses, what captions are worth, colour
    and saturation over t.
    """
    titles = [
        "loss",
        "gradient norm",
        "score of the sample grids",
        "loss by t, with true and other captions",
        "what another or no caption costs, by t",
        "x_0_hat by t: colour is off by, and saturation",
    ]
    sheet, (loss, norm, scores, levels, costs, colors) = subplots(titles, "t (1 is pure noise)")
    lines = [line for line in log if "loss" in line]
    for panel, key in ((loss, "loss"), (norm, "gradient_norm")):
        panel.plot(
            [line["step"] for line in lines],
            [line[key] for line in lines],
            color=STYLES[0]["color"],
            linewidth=0.8,
        )
        panel.set_yscale("log")
    scored = [line for line in log if "score" in line]
    scores.plot([line["step"] for line in scored], [line["score"] for line in scored], **STYLES[0])
    scores.set_xlim(loss.get_xlim())
    percent_axis(scores)
    if not scored:
        scores.text(0.5, 0.5, "no grids with a score", ha="center", transform=scores.transAxes)
    for panel in (loss, norm, scores):
        panel.set_xlabel("step")
    at = [(i + 0.5) / NOISE_BINS for i in range(NOISE_BINS)]
    for kind, style in zip(("true", "shuffled", "none"), STYLES):
        label = {"true": "true caption", "shuffled": "another's", "none": "no caption"}[kind]
        levels.plot(at, found.losses[kind], **style, label=label)
        if kind != "true":
            costs.plot(
                at,
                [100 * (b / a - 1) for a, b in zip(found.losses["true"], found.losses[kind])],
                **style,
            )
            if reference:
                costs.plot(
                    at,
                    [
                        100 * (b / a - 1)
                        for a, b in zip(reference["losses"]["true"], reference["losses"][kind])
                    ],
                    color=style["color"],
                    alpha=0.35,
                )
    if reference:
        levels.plot(
            at,
            reference["losses"]["true"],
            color="#777777",
            linestyle=":",
            label=f"shipped weights at step {reference['steps']:,}",
        )
    levels.set_yscale("log")
    costs.set_ylabel("% of the loss")
    for i, color in enumerate(("#c03030", "#2a8a2a", "#3050c0")):
        colors.plot(
            at,
            [of[i] if isinstance(of, list) else float("nan") for of in found.color],
            color=color,
            label=CHANNELS[i],
        )
    colors.plot(at, found.saturated, color="#000000", linestyle=":", label="share beyond [-1, 1]")
    colors.legend(frameon=False, fontsize=8)
    return sheet


if __name__ == "__main__":
    run_script(main)
