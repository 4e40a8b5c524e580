"""Results on disk: claims.json, which grows with each experiment, and claims.md, which is written
from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from imagen_mini import ImagenPipeline
from imagen_mini.scenes.parse import PARSER_VERSION
from imagen_mini.utils.configuration import to_dict
from sample.claims.claim import FAILS, HOLDS, LEVEL, MEANINGFUL, UNCLEAR, Experiment, Verdict

INTRODUCTION = f"""# The papers' claims in miniature

Measured on a built-in world, whose images a parser can read. What is found here
need not be true of photographs, nor the other way round.

The rules, fixed before a run. What version 1 of the parser judged was run before rules 4, 6 and 7:

1. **{HOLDS}**: the 95 % interval of the difference lies on the claim's side of 0.
2. **{FAILS}**: it lies on the other side, or excludes even a gain of {100 * MEANINGFUL:.0f} points
   (or of what the text below names).
3. **{UNCLEAR}**: neither.
4. Where two shares of the same prompts are compared, an exact paired test (McNemar, p below
   {LEVEL:g}) must agree before a difference counts as one.
5. A floor: where hardly an image is correct on either side, nothing can differ, and a missing gain
   is not held against a claim.
6. A ceiling: where the baseline is correct in more than {100 * (1 - MEANINGFUL):.0f} %, a gain of
   {100 * MEANINGFUL:.0f} points is impossible, and a missing gain is not held against a claim.
7. Each claim is judged by the one number that it is about. Other numbers stand beside it.
8. An image is correct if the parser reads what the caption states, and nothing else. In `studio` it
   may have flaws all the same, such as an object that is lit as no lamp would light it: that is a
   question of the image's quality, not of text alignment.

Both sides of a comparison generate the same prompts from the same seeds. Intervals are of
differences prompt by prompt (shares: Agresti and Min, 2005; means: Student's t).
`python -m sample.claims` measures what needs no training; the command of each experiment is in its
section. There are several claims, and each interval errs one time in twenty: one verdict among
these may well be due to chance.
"""


def pipeline_identity(pipe: ImagenPipeline) -> str:
    """Return a short hash of a pipeline's weights, configuration and number format."""
    configurations = [
        pipe.text_encoder.weights_digest(),
        str(pipe.dtype),
        *(to_dict(stage.config) for stage in pipe.stages.values()),
    ]
    digest = hashlib.sha256(json.dumps(configurations).encode())
    for name, tensor in pipe.stages.state_dict().items():
        digest.update(
            name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]


def load_claims(path: Path, default_empty: bool = False) -> dict:
    """Load the experiments of claims.json.

    Args:
        path: The file; it may be missing.
        default_empty: Return nothing instead of an error for another kind of file (default: False).

    Returns:
        Name of the experiment -> its entry.

    Raises:
        SystemExit: if the file is something else.
    """
    if not path.is_file():
        return {}
    try:
        experiments = json.loads(path.read_text())["experiments"]
        if all(
            {"settings", "numbers", "seconds", "command"} <= set(of) for of in experiments.values()
        ):
            return experiments
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    if default_empty:
        return {}
    raise SystemExit(
        f"{path} is no claims.json of this command; pass --fresh to write it anew, or another --out"
    )


def save_claims(path: Path, experiments: dict) -> None:
    """Write claims.json through a temporary file, so that an interruption does no harm."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"experiments": experiments}, indent=1) + "\n")
    os.replace(temporary, path)


def verdicts(experiment: Experiment, numbers: dict) -> list[Verdict]:
    """Judge each claim of an experiment by its numbers."""
    return [claim.judge(numbers) for claim in experiment.claims]


def with_verdicts(experiment: Experiment, entry: dict) -> dict:
    """Return an entry of claims.json with the verdicts that follow from its numbers."""
    return {
        **entry,
        "verdicts": [
            {"claim": c.sentence, **asdict(v)}
            for c, v in zip(experiment.claims, verdicts(experiment, entry["numbers"]))
        ],
    }


def page(experiments: tuple[Experiment, ...], found: dict) -> str:
    """Return claims.md: a table of verdicts, then a section for each experiment."""
    rows, sections, missing = [], [], []
    for e in experiments:
        if e.name not in found:
            missing += [
                f"- {c.sentence} (`{e.name}`{', needs `--train MINUTES`' if e.variants else ''})"
                for c in e.claims
            ]
            continue
        entry = found[e.name]
        settings = ", ".join(
            f"{name.replace('_', ' ')} {value}"
            for name, value in entry["settings"].items()
            if name != "n"
        )
        time = f"It took {entry['seconds']:.0f} s{', besides training' if e.variants else ''}."
        if entry.get("parser", 1) != PARSER_VERSION:
            time += (
                f" The images were judged by version {entry.get('parser', 1)} of the parser, and "
                f"not by version {PARSER_VERSION} (see `imagen_mini/scenes/parse.py`)."
            )
        parts = [
            f"## {e.name}",
            f"{e.method} Here n = {entry['settings']['n']} ({settings}). {time}",
            f"    {entry['command']}",
        ]
        for claim, verdict in zip(e.claims, verdicts(e, entry["numbers"])):
            rows.append(f"| {claim.sentence} | **{verdict.outcome}** | [{e.name}](#{e.name}) |")
            parts.append(
                f"**{claim.sentence}** ({claim.source}): **{verdict.outcome}**. {verdict.numbers}"
            )
        parts += [
            f"![{e.name}: the numbers]({e.name}.png)",
            f"![{e.name}: images]({e.name}_images.png)",
        ]
        sections.append("\n\n".join(parts))
    blocks = [
        INTRODUCTION,
        "\n".join(["| claim | verdict | how |", "|---|---|---|", *rows]),
        *sections,
    ]
    if missing:
        blocks.append("\n".join(["## Not measured", "", *missing]))
    return "\n\n".join(block.strip("\n") for block in blocks) + "\n"
