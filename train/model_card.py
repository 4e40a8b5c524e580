"""Write the model card of a pipeline, and the table of the main README, from measured numbers.

    python -m sample.evaluate --out imagen_mini/weights/scenes/report.json
    python -m sample.claims --out imagen_mini/weights/scenes/claims
    python -m train.model_card
    python -m train.model_card --pipeline my_pipeline     # also of a report on a folder of images

No number of a table is typed. The hand-written parts of the card stay as they are.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from imagen_mini.evaluation.edit_benchmark import counted_edits
from imagen_mini.training.checkpoint import training_phases
from imagen_mini.utils.scripts import run_script, script_parser
from imagen_mini.weights import WEIGHTS, shipped_pipelines
from train.folder_card import RECIPE_NOTES, SCORE_NOTES, folder_card, handwritten

BEGIN, END = "<!-- score: written by python -m train.model_card -->", "<!-- end of score -->"
CLAIMS_BEGIN = "<!-- claims: written by python -m train.model_card -->"
CLAIMS_END = "<!-- end of claims -->"
# The rows of the main page: a category of captions or a method of an edit, and its name there.
HEADLINES = {
    "one object": "one object",
    "binding": "binding",
    "counting": "counting",
    "positional": "positional",
    "texture": "texture",
    "color swap: attention": "colour swap by attention",
    "color swap: features": "colour swap by features, without attention",
    "color swap: attention and features": "colour swap by attention and features",
    "color swap: prompt switching": "colour swap by prompt switching, without attention",
}


def decibels(psnr: float | None) -> str:
    return "" if psnr is None else f"{psnr:.0f} dB"


def score_tables(report: dict) -> str:
    """The report as Markdown."""
    columns = ["category", "correct", "accuracy", "95 % interval", "unreadable"]
    rows = report["text_alignment"].values()
    counts = [
        name
        for name in ("nearest", "flawless")
        if any(row.get(name, row["right"]) != row["right"] for row in rows)
    ]
    columns += [*counts, "captions seen"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    seen = report.get("seen_in_training", {})
    for name, row in report["text_alignment"].items():
        lines.append(
            f"| {name} | {row['right']} of {row['n']} | {row['accuracy']:.0%} "
            f"| {row['low']:.0%} - {row['high']:.0%} | {row['unreadable']} "
            + "".join(f"| {row.get(count, '')} " for count in counts)
            + f"| {seen.get(name, '')} |"
        )
    if not report["edits"]:
        return "\n".join(lines)
    columns = [
        "edit",
        "correct sources",
        "not yet as asked",
        "success",
        "layout kept",
        "both",
        "95 % interval",
        "nothing else changed",
        "the rest of the image",
    ]
    lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, row in report["edits"].items():
        lines.append(
            f"| {name} | {row['source_right']} of {row['n']} | {counted_edits(row)} "
            f"| {row['success']:.0%} "
            f"| {row['layout']:.0%} | {row['good']:.0%} "
            f"| {row['good_low']:.0%} - {row['good_high']:.0%} | {row['all_kept']:.0%} "
            f"| {decibels(row.get('psnr'))} |"
        )
    return "\n".join(lines)


def headline_table(reports: dict[str, dict]) -> str:
    """A few rows of the reports of one or several pipelines for the main page, as Markdown.

    Args:
        reports: Name of the pipeline -> its report.
    """
    head = ["task", *(part for name in reports for part in (f"`{name}`", "95 % interval"))]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, shown in HEADLINES.items():
        cells = [cell for report in reports.values() for cell in _headline(report, name)]
        if any(cells):
            lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _headline(report: dict, name: str) -> tuple[str, str]:
    """How much of a category is correct, and the interval; empty if it was not measured."""
    if row := report["text_alignment"].get(name):
        correct, n, low, high = row["right"], row["n"], row["low"], row["high"]
    elif row := report["edits"].get(name):
        n, low, high = counted_edits(row), row["good_low"], row["good_high"]
        correct = round(row["good"] * n)
    else:
        return "", ""
    return f"{correct} of {n}", f"{100 * low:.0f} - {100 * high:.0f} %"


def shipped_reports() -> dict[str, dict]:
    """The reports on built-in worlds of the pipelines that come with the package."""
    reports = {
        name: json.loads((folder / "report.json").read_text())
        for name, folder in shipped_pipelines().items()
        if (folder / "report.json").is_file()
    }
    return {name: report for name, report in reports.items() if "text_alignment" in report}


def fill(paragraph: str, indent: str = "") -> str:
    return textwrap.fill(
        paragraph, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


def claims_table(experiments: dict) -> str:
    """The verdicts of claims.json as Markdown."""
    lines = ["| claim | verdict |", "|---|---|"]
    for experiment in experiments.values():
        lines += [f"| {v['claim']} | **{v['outcome']}** |" for v in experiment["verdicts"]]
    return "\n".join(lines)


def renewed(text: str, begin: str, end: str, content: str) -> str:
    """The text with new content between two markers. ValueError if they are not both there."""
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(
            f"the README has no place for a table: expected the lines {begin} and, after it, {end}"
        )
    return f"{before}{begin}\n{content}\n{end}{after}"


def weaknesses(report: dict, below: float = 0.9) -> str:
    """The categories with a lower accuracy, the worst first, with their errors, as Markdown."""
    rows = sorted(
        (row["accuracy"], name)
        for name, row in report["text_alignment"].items()
        if row["accuracy"] < below
    )
    lines = []
    for accuracy, name in rows:
        errors = ", ".join(f"{n} {k}" for k, n in report["errors"][name].items() if k != "right")
        lines.append(f"- {name}: {accuracy:.0%} right ({errors})")
    return "\n".join(lines) or f"Nothing in this benchmark has less than {below:.0%}."


# By world: what its images show, and how they are judged.
SHOWN = {
    "scenes": "one to four plain shapes on a plain background",
    "studio": "one to four solid objects under a lamp, on wood, sand, slate, linen or marble",
}
JUDGED = {
    "scenes": """\
An exact parser reads each image. It counts as incorrect what it cannot read: an object of two
colours, a ghost, a hole.""",
    "studio": """\
A judge reads each image: a small network and geometry. It counts as incorrect what it cannot read:
an object of two colours, a ghost, a hole. A correct image is *flawless* if it looks throughout as
the renderer would have it: each object shaded as its material under one lamp. *Nearest* counts an
image as correct if it is so when what is unclear has its likeliest value.""",
}
CURVES = {
    "time_to_score.png": (
        "Score against minutes of training, of a base stage of preset `mini` from nothing\n"
        "(`python -m train.time_to_score --minutes 60`):"
    ),
    "training.png": (
        "Images at growing numbers of steps, of an older and larger base stage\n"
        "(`python -m train.sample_timeline`):"
    ),
}
OTHER_ENCODER_REPORT = "report_teacher.json"  # of sample.evaluate, beside report.json


def learning(folder: Path) -> str:
    """The images beside the weights that show how such stages learn, as Markdown."""
    return "\n\n".join(
        f"{what}\n\n![{name}](images/{name})"
        for name, what in CURVES.items()
        if (folder / "images" / name).is_file()
    )


def recipe_rows(folder: Path, stages: list[str]) -> tuple[str, str]:
    """The table of training phases, and what was interpolated after which phase, as Markdown."""
    rows, mixed = [], []
    for name in stages:
        phases = training_phases(folder / name)
        for number, phase in enumerate(phases, 1):
            how = phase["train"]
            if way := phase.get("interpolated"):
                new = f"{way['share']:.0%} of those that training had come to,"
                old = f"and {1 - way['share']:.0%} of those after phase {way['from_phase']}"
                mixed.append(
                    f"The weights of {name} after phase {number} are {new}\n"
                    f"{old} (`python -m train.interpolate`)."
                )
            rows.append(
                f"| {name}, {number} | {phase['steps']:,} | {how['batch_size']} "
                f"| {how['optimizer']}, {how['learning_rate']} "
                f"| {':'.join(f'{c:g}' for c in how['object_count_weights'])} "
                f"| {how['time_power']:g} | {how['pooled_drop_prob']:.0%} "
                f"| {phase['device']} | {duration(phase['seconds'])} |"
            )
    return "\n".join(rows), "\n".join(mixed)


def encoder_phases(folder: Path) -> str:
    """How the text encoder was trained, a line for each phase, as Markdown."""
    path = folder / "text_encoder" / "training.json"
    phases = json.loads(path.read_text()) if path.is_file() else []

    def lines(taught: bool) -> str:
        return "\n".join(
            f"- {phase['steps']:,} steps of {phase['batch']} lines in {phase['seconds']} s, "
            f"learning rate {phase['learning_rate']:g} ({phase['device']})"
            for phase in phases
            if ("teacher" in phase) == taught
        )

    text = fill(
        "The text encoder is a T5 of 0.9 million parameters. It was pre-trained on text alone, "
        "then frozen (`python -m train.text_encoder`, with `--init-from` after the first phase):"
    )
    text += f"\n\n{lines(taught=False)}"
    if not lines(taught=True):
        return text
    return f"""{text}

The networks were trained with this T5, the *teacher*. A copy of it was then taught, by text alone,
to give rare, misspelt and negated words the vectors that the teacher gives the words of captions
(`python -m train.distill_text_encoder`). The pipeline has the copy; the networks were left alone:

{lines(taught=True)}"""


def claims_section(folder: Path) -> str:
    """The verdicts on the papers' claims, if they were measured, as Markdown."""
    path = folder / "claims" / "claims.json"
    if not path.is_file():
        return ""
    return f"""
## The papers' claims, in miniature

Each verdict follows from an interval. The experiments, with figures, numbers and commands, are in
[claims.md](claims/claims.md).

{claims_table(json.loads(path.read_text())["experiments"])}
"""


def other_encoder_section(folder: Path, report: dict) -> str:
    """The score with the text encoder that was not taught other words, if it was measured, as
    Markdown.
    """
    path = folder / OTHER_ENCODER_REPORT
    if not path.is_file():
        return ""
    other = json.loads(path.read_text())
    own, name = report["text_alignment"], other["text_encoder"]
    rows = [
        f"| {category} | {_right(own.get(category))} | {_right(row)} |"
        for category, row in other["text_alignment"].items()
    ]
    return f"""
### With the text encoder `{name}`

The same networks, with the text encoder that they were trained with, before it was taught other
words (`--text-encoder {name}`):

{runs_of(other)}

The command: `python -m sample.evaluate --pipeline {other["pipeline"]} --text-encoder {name} --only
captions --n {next(iter(other["text_alignment"].values()))["n"]}`

| category | correct with its own | with `{name}` |
|---|---|---|
{chr(10).join(rows)}
"""


def _right(row: dict | None) -> str:
    """As "29 of 30"; nothing where a category was not asked for."""
    return "" if row is None else f"{row['right']} of {row['n']}"


def runs_of(report: dict) -> str:
    """When a report was measured, and how long that took: a list, as Markdown."""
    runs = [("captions", report)] if report["text_alignment"] else []
    for run in report.get("edits_runs", []):
        runs.append(("edits by " + ", ".join(f'"{m}"' for m in run["methods"]), run))
    lines = []
    for part, run in runs:
        how = [f"commit {run.get('commit') or 'unknown'}"]
        how += [f"{run['seconds']:.0f} s"] if "seconds" in run else []
        how += [f"in {run['precision']}"] if "precision" in run else []
        options = run.get("options", {})
        how += ["`--upsample-captions`"] if options.get("upsample_captions") else []
        how += [f"`--attempts {options['attempts']}`"] if options.get("attempts") else []
        encoder = run.get("text_encoder")
        how += [f"with the text encoder `{encoder}`"] if encoder and run is not report else []
        lines.append(fill(f"- {part}: {', '.join(how)}", "  "))
    return "\n".join(lines)


def model_card(folder: Path, report: dict, note: str = "") -> str:
    """The README.md of a pipeline folder. Its hand-written parts are those of the card before."""
    before = (folder / "README.md").read_text() if (folder / "README.md").is_file() else ""
    stages = json.loads((folder / "model_index.json").read_text())["stages"]
    config = json.loads((folder / stages[-1] / "config.json").read_text())["stage"]
    size, world = config["unet"]["image_size"], config.get("world", "scenes")
    of_world = "" if world == "scenes" else f" --world {world}"
    table, mixed = recipe_rows(folder, stages)
    recipes = "\n".join(
        f"    python -m train.train --stage {name} --preset mini{of_world} [--init-from ...] "
        "[key=value ...]"
        for name in stages
    )
    sizes = "" if world == "scenes" else f" --pipeline {world}"
    sizes += "".join(
        f" --{option} {next(iter(report[rows].values()))['n']}"
        for option, rows in (("n", "text_alignment"), ("edits", "edits"))
        if report[rows]
    )
    intro = fill(
        f"From text to images of {size} x {size} pixels, on a built-in world: {SHOWN[world]}. The "
        "model knows nothing else. It is meant for learning and for testing. All training data is "
        "generated by `imagen_mini/scenes/`. It holds no images of anyone or by anyone."
    )
    judged = fill(
        f"{JUDGED[world]} No training uses the seeds of these images, and the captions of the "
        "held-out categories never occur in training. Of the other captions many do, beside other "
        "images: they have few words to choose from. The last column counts the captions that "
        "stand word for word among the first "
        f"{report.get('captions_searched', 0):,} training captions."
    )
    unlit = ", and nothing of light or depth" if world == "scenes" else ""
    limits = fill(
        "The model has learned no objects, colours, textures or words beyond those of its world"
        f"{unlit}. In these categories of the benchmark it is correct less than 90 % of the time:"
    )
    columns = ("stage, phase", "steps", "batch", "optimizer, rate", "scenes of 1, 2, 3, 4 objects")
    columns += ("time_power", "pooled text dropped", "hardware", "time")
    return f"""# The shipped cascade: `{world}`

{intro}

## Recipe

| {" | ".join(columns)} |
{"|---" * len(columns)}|
{table}

A phase is a stretch of training under one set of settings. All settings stand in the stage's
`config.json`. Each phase starts from the weights of the one before, by `--resume` or `--init-from`:

{recipes}

{mixed}

{encoder_phases(folder)}

{handwritten(before, RECIPE_NOTES, note)}

## Score

{judged}

{runs_of(report)}

The command: `python -m sample.evaluate{sizes}`

{score_tables(report)}

{handwritten(before, SCORE_NOTES)}
{other_encoder_section(folder, report)}
## Limitations

{limits}

{weaknesses(report)}
{claims_section(folder)}
## How it learned

{learning(folder)}
"""


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--pipeline",
        type=Path,
        default=WEIGHTS,
        help="the pipeline's folder; its report.json is read",
    )
    parser.add_argument(
        "--note",
        default="",
        help="what the configurations do not tell of the recipe (default: what the card says)",
    )
    parser.add_argument(
        "--readme",
        type=Path,
        help="its tables are renewed (default: README.md for a shipped cascade, else none)",
    )
    args = parser.parse_args(arguments)
    report = json.loads((args.pipeline / "report.json").read_text())
    if "caption_use" in report:  # of sample.evaluate --data
        (args.pipeline / "README.md").write_text(folder_card(args.pipeline, report, args.note))
        return
    shipped = args.pipeline.resolve() in {p.resolve() for p in shipped_pipelines().values()}
    if args.readme is None and shipped:
        args.readme = Path("README.md")
    reports = shipped_reports() if shipped else {args.pipeline.name: report}
    text = None
    if args.readme is not None:
        try:
            text = renewed(args.readme.read_text(), BEGIN, END, headline_table(reports))
            claims = args.pipeline / "claims" / "claims.json"
            if claims.is_file() and CLAIMS_BEGIN in text:
                table = claims_table(json.loads(claims.read_text())["experiments"])
                text = renewed(text, CLAIMS_BEGIN, CLAIMS_END, table)
        except ValueError as error:
            raise SystemExit(f"{args.readme}: {error}") from error
    (args.pipeline / "README.md").write_text(model_card(args.pipeline, report, args.note))
    if text is not None:
        args.readme.write_text(text)


if __name__ == "__main__":
    run_script(main)
