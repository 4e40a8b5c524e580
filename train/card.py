"""Write the model card of a pipeline, and the tables of the README, from what was measured: numbers are never typed.

    python -m sample.evaluate --out imagen_mini/weights/scenes/report.json
    python -m sample.claims --out imagen_mini/weights/scenes/claims
    python -m train.card
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

from imagen_mini.weights import WEIGHTS

BEGIN, END = "<!-- score: written by python -m train.card -->", "<!-- end of score -->"
CLAIMS_BEGIN, CLAIMS_END = "<!-- claims: written by python -m train.card -->", "<!-- end of claims -->"


def decibels(psnr: float | None) -> str:
    return "" if psnr is None else f"{psnr:.0f} dB"


def score_tables(report: dict) -> str:
    """The report as Markdown."""
    lines = ["| category | right | accuracy | 95 % interval | unreadable |", "|---|---|---|---|---|"]
    for name, row in report["text_alignment"].items():
        lines.append(f"| {name} | {row['right']} of {row['n']} | {row['accuracy']:.0%} | {row['low']:.0%} - {row['high']:.0%} | {row['unreadable']} |")
    lines += ["", "| edit | right sources | success | layout kept | both | 95 % interval | and nothing else changed | the rest of the picture |", "|---|---|---|---|---|---|---|---|"]
    for name, row in report["edits"].items():
        lines.append(f"| {name} | {row['source_right']} of {row['n']} | {row['success']:.0%} | {row['layout']:.0%} | {row['good']:.0%} | "
                     f"{row['good_low']:.0%} - {row['good_high']:.0%} | {row['all_kept']:.0%} | {decibels(row.get('psnr'))} |")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


def claims_table(experiments: dict) -> str:
    """The verdicts of claims.json as Markdown."""
    verdicts = [verdict for experiment in experiments.values() for verdict in experiment["verdicts"]]
    return "\n".join(["| claim | verdict |", "|---|---|", *(f"| {v['claim']} | **{v['outcome']}** |" for v in verdicts)])


def renewed(text: str, begin: str, end: str, content: str) -> str:
    """The text with something else between two marks. ValueError if it has not both, in this order."""
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"the README has no place for a table: expected the lines {begin} and, after it, {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def weaknesses(report: dict, below: float = 0.9) -> str:
    """The categories of which less is right, the worst first, with what goes wrong in them, as Markdown."""
    rows = sorted((row["accuracy"], name) for name, row in report["text_alignment"].items() if row["accuracy"] < below)
    errors = {name: ", ".join(f"{n} {kind}" for kind, n in report["errors"][name].items() if kind != "right") for _, name in rows}
    return "\n".join(f"- {name}: {accuracy:.0%} right ({errors[name]})" for accuracy, name in rows) or f"Nothing in this benchmark has less than {below:.0%}."


CURVES = {"time_to_score.png": "Score against minutes of training, for a base stage of preset mini from nothing (`python -m train.time_to_score --minutes 60`):",
          "training.png": "Pictures at growing numbers of steps, of an older and larger base stage (`python -m train.progress`):"}


def learning(folder: Path) -> str:
    """The pictures of how such stages learn that lie beside the weights, as Markdown."""
    return "\n\n".join(f"{what}\n\n![{name}](pictures/{name})" for name, what in CURVES.items() if (folder / "pictures" / name).is_file())


def model_card(folder: Path, report: dict, commit: str, note: str = "") -> str:
    """The README.md of a pipeline folder."""
    stages = json.loads((folder / "model_index.json").read_text())["stages"]
    rows, mixed = [], ""
    for name in stages:
        for number, leg in enumerate(json.loads((folder / name / "config.json").read_text())["training"]["legs"], 1):
            how = leg["train"]
            if way := leg.get("interpolated"):
                mixed += (f"\nThe weights of {name} after leg {number} are {way['share']:.0%} of those that training had come to and {1 - way['share']:.0%} of those after leg "
                          f"{way['from_leg']} (`python -m train.interpolate`).")
            rows.append(f"| {name}, {number} | {leg['steps']:,} | {how['batch_size']} | {how['optimizer']}, {how['learning_rate']} | "
                        f"{':'.join(f'{c:g}' for c in how['counts'])} | {how['time_power']:g} | {how['drop_pooled']:.0%} | {leg['device']} | {duration(leg['seconds'])} |")
    recipes = "\n".join(f"    python -m train.train --stage {name} --preset mini [--init-from ...] [key=value ...]" for name in stages)
    table = "\n".join(rows)
    legs = json.loads((folder / "text_encoder" / "training.json").read_text()) if (folder / "text_encoder" / "training.json").is_file() else []
    encoder = ", then ".join(f"{leg['steps']} steps of {leg['batch']} lines in {leg['seconds']} s (rate {leg['learning_rate']:g}, {leg['device']})" for leg in legs)
    sizes = "".join(f" --{option} {next(iter(report[rows].values()))['n']}" for option, rows in (("n", "text_alignment"), ("edits", "edits")) if report[rows])
    return f"""# The shipped cascade: `scenes`

Text to 256 x 256 pixels, on the built-in world: one to four plain shapes on a plain background. It knows nothing else, and it is not for
anything but learning and testing. Data: `imagen_mini/scenes/`, generated, no pictures of anyone or by anyone.

## Recipe

| stage, leg | steps | batch | optimizer, rate | scenes of 1, 2, 3, 4 things | time_power | pooled text dropped | hardware | time |
|---|---|---|---|---|---|---|---|---|
{table}

A leg is a stretch of training under one set of settings, all of which stand in the stage's `config.json`; each starts from the weights of the
one before (`--resume` or `--init-from`):

{recipes}
{mixed}

The text encoder is a T5 of 0.9 million parameters, pre-trained on text alone
(`python -m train.text_encoder`, and `--init-from` the run before) and then frozen: {encoder}.
{note}

## Score

By the exact parser, on prompts and seeds not used in training (`python -m sample.evaluate{sizes}`, {report['seconds']:.0f} s). Commit {commit}.

{score_tables(report)}

## What it cannot do

It has learnt no other things, colours, textures or words than those of its world, and nothing of light or depth. In the benchmark, less than 90 % of these are right:

{weaknesses(report)}

## How it learnt

{learning(folder)}
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=WEIGHTS, help="the pipeline's folder; its report.json is read")
    parser.add_argument("--note", default="", help="a sentence on the recipe that the configurations do not tell")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="its tables are renewed")
    args = parser.parse_args(arguments)
    report = json.loads((args.pipeline / "report.json").read_text())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    try:
        text = renewed(args.readme.read_text(), BEGIN, END, score_tables(report))
        if (claims := args.pipeline / "claims" / "claims.json").is_file():
            text = renewed(text, CLAIMS_BEGIN, CLAIMS_END, claims_table(json.loads(claims.read_text())["experiments"]))
    except ValueError as error:
        raise SystemExit(f"{args.readme}: {error}") from error
    (args.pipeline / "README.md").write_text(model_card(args.pipeline, report, commit, args.note))
    args.readme.write_text(text)


if __name__ == "__main__":
    main()
