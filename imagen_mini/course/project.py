"""What can be checked of a project without reading it: its proposal, its verdicts, its intervals.

    python -m imagen_mini.course.project FOLDER --milestone proposal      # or baseline, or result

A project is a folder with

    project.toml      what was promised before the first image was generated
    verdicts.tsv      one row for each prompt: prompt, seed, and 0 or 1 for each method
    report.md         what was found
    reproduce.sh, or run.py      makes verdicts.tsv

The check computes the shares and the interval of their difference from the verdicts, and compares
them with what the report says. It gives no points: `rubric` in the project's handout does.
"""

from __future__ import annotations

import argparse
import csv
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagen_mini.evaluation.statistics import (
    Difference,
    exact_paired_p,
    paired_agresti_min,
    wilson_interval,
)

KINDS = ("data set", "method", "claim")
MILESTONES = ("proposal", "baseline", "result")
PROPOSAL = ("hypothesis", "metric", "baseline", "method", "n", "stopping_rule")
SECTIONS = ("Question", "What was done", "Result", "Ablation", "Failures", "What remains open")
MOST_WORDS = 2000


class ProjectError(Exception):
    """A project cannot be read; the message says what to change."""


@dataclass(frozen=True)
class Verdicts:
    """Paired verdicts on the same prompts and seeds.

    Attributes:
        baseline: For each prompt, whether the baseline is correct.
        method: The same for the method; empty if there are none yet.
    """

    baseline: list[bool]
    method: list[bool]

    @property
    def difference(self) -> Difference:
        """The method's share less the baseline's, with its 95 % interval."""
        return paired_agresti_min([m - b for b, m in zip(self.baseline, self.method)])


def read_proposal(folder: Path) -> dict:
    """project.toml.

    Raises:
        ProjectError: It is missing, or no TOML.
    """
    path = folder / "project.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProjectError(f"{path} is missing; copy one from the examples") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"{path} is no TOML: {error}") from None


def read_verdicts(folder: Path, baseline: str, method: str) -> Verdicts:
    """verdicts.tsv.

    Args:
        folder: Of the project.
        baseline: The column of the baseline.
        method: The column of the method; it may be missing.

    Raises:
        ProjectError: There is no such file or column, a verdict is not 0 or 1, or a prompt comes
            twice with the same seed.
    """
    path = folder / "verdicts.tsv"
    if not path.is_file():
        raise ProjectError(f"{path} is missing; run.py or reproduce.sh has to write it")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for name in ("prompt", "seed", baseline):
        if not rows or name not in rows[0]:
            raise ProjectError(f"{path} has no column {name!r}, or no rows")
    found: dict[str, list[bool]] = {}
    for name in (baseline, method):
        if name not in rows[0]:
            continue
        wrong = next((r for r in rows if r[name] not in ("0", "1")), None)
        if wrong is not None:
            raise ProjectError(f"{path}: the verdict {wrong[name]!r} in {name}; expected 0 or 1")
        found[name] = [r[name] == "1" for r in rows]
    pairs = [(r["prompt"], r["seed"]) for r in rows]
    twice = next((p for p in pairs if pairs.count(p) > 1), None)
    if twice is not None:
        raise ProjectError(f"{path}: {twice[0]!r} with the seed {twice[1]} comes more than once")
    return Verdicts(found[baseline], found.get(method, []))


def check_proposal(values: dict) -> Iterator[str]:
    """What a proposal lacks."""
    if values.get("kind") not in KINDS:
        yield f"kind is {values.get('kind')!r}; expected one of {', '.join(KINDS)}"
    if not values.get("team") or not isinstance(values["team"], list):
        yield 'team is missing; expected a list of names, such as team = ["..."]'
    proposal = values.get("proposal", {})
    for name in PROPOSAL:
        if not proposal.get(name):
            yield f"[proposal] {name} is missing"
    n = proposal.get("n")
    if n and (not isinstance(n, int) or n < 30):
        yield f"[proposal] n is {n}; fewer than 30 prompts tell apart only what needs no test"
    if proposal.get("baseline") and proposal.get("baseline") == proposal.get("method"):
        yield "[proposal] baseline and method are the same column"


def check_report(text: str, verdicts: Verdicts) -> Iterator[str]:
    """What a report lacks: sections, and the numbers that its verdicts lead to."""
    heads = {h.strip().casefold() for h in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}
    for name in SECTIONS:
        if name.casefold() not in heads:
            yield f"report.md has no section {name!r}"
    words = len(text.split())
    if words > MOST_WORDS:
        yield f"report.md has {words} words; expected at most {MOST_WORDS}"
    squeezed = " ".join(text.split())
    for what in stated_numbers(verdicts):
        if what not in squeezed:
            yield f"report.md does not say {what!r}, which is what verdicts.tsv leads to"


def stated_numbers(verdicts: Verdicts) -> list[str]:
    """What a report has to say, word for word."""
    n = len(verdicts.baseline)
    counts = [f"{sum(found)} of {n}" for found in (verdicts.baseline, verdicts.method)]
    return [*counts, str(verdicts.difference)]


def check_project(folder: Path, milestone: str = "result") -> list[str]:
    """Everything that a project lacks at a milestone, in words.

    Args:
        folder: Of the project.
        milestone: "proposal", "baseline" or "result" (default: "result").
    """
    try:
        values = read_proposal(folder)
        problems = list(check_proposal(values))
        if milestone == "proposal" or problems:
            return problems
        proposal = values["proposal"]
        if not any((folder / name).is_file() for name in ("run.py", "reproduce.sh")):
            problems.append("there is no run.py or reproduce.sh that makes verdicts.tsv")
        verdicts = read_verdicts(folder, proposal["baseline"], proposal["method"])
        n = len(verdicts.baseline)
        if n != proposal["n"]:
            problems.append(f"verdicts.tsv has {n} prompts; the proposal promised {proposal['n']}")
        if milestone == "baseline":
            return problems
        if not verdicts.method:
            return [*problems, f"verdicts.tsv has no column {proposal['method']!r}"]
        report = folder / "report.md"
        if not report.is_file():
            return [*problems, "report.md is missing"]
        return problems + list(check_report(report.read_text(encoding="utf-8"), verdicts))
    except ProjectError as error:
        return [str(error)]


def summary(folder: Path) -> str:
    """Shares with their Wilson intervals, and the difference with its own."""
    proposal = read_proposal(folder)["proposal"]
    verdicts = read_verdicts(folder, proposal["baseline"], proposal["method"])
    lines = []
    for name, found in (("baseline", verdicts.baseline), ("method", verdicts.method)):
        if found:
            low, high = wilson_interval(sum(found), len(found))
            lines.append(
                f"{proposal[name]}: {sum(found)} of {len(found)} "
                f"({100 * low:.0f} to {100 * high:.0f} %)"
            )
    if verdicts.method:
        differences = [m - b for b, m in zip(verdicts.baseline, verdicts.method)]
        p = exact_paired_p(differences)
        lines.append(f"difference: {verdicts.difference}, exact paired test p = {p:.2g}")
    return "\n".join(lines)


def _main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="the folder of the project")
    parser.add_argument("--milestone", choices=MILESTONES, default="result")
    args = parser.parse_args(argv)
    problems = check_project(args.folder, args.milestone)
    if args.milestone != "proposal" and (args.folder / "verdicts.tsv").is_file():
        try:
            print(summary(args.folder))
        except (ProjectError, KeyError) as error:
            problems = problems or [str(error)]
    for problem in problems:
        print(f"  - {problem}")
    print("incomplete" if problems else f"complete for the milestone {args.milestone}")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(_main())
