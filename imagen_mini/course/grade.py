"""Grade a submission: a table of points, with a reason for each point that is lost.

    python -m imagen_mini.course.grade hw1 SUBMISSION            # a folder or a zip

Each question is graded on its own: in a package in which everything but the question's function is
the reference, so no answer depends on another one. The submitted function runs locked in
(`nursery.py`); what it returns is compared here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from imagen_mini.course.assignment import (
    Assignment,
    ManifestError,
    Part,
    Question,
    assignment_names,
    closure,
    imported_modules,
    load_assignment,
    load_variants,
    module_name,
    read_module,
    with_code,
)
from imagen_mini.course.holes import HoleError, find_answer, put_in
from imagen_mini.course.nursery import as_tensors
from imagen_mini.course.sandbox import Outcome, Sandbox, printable
from imagen_mini.course.submission import Submission, SubmissionError

SPREADS = 30  # a deviation of so many times that of the reference in float32 is allowed
LEAST = 1e-6  # and this one always, relative to the values


@dataclass
class PointsRow:
    """What one question, figure or written answer has got.

    Attributes:
        name: Which one.
        title: What it is called in the table.
        score: The points that it has got.
        points: The points that there are.
        reasons: One for each loss.
        notes: What costs no points.
    """

    name: str
    title: str
    score: float
    points: float
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- what is expected


@dataclass(frozen=True)
class Expected:
    """What the reference makes of one case: tensors with the allowed deviations, or an error."""

    tensors: tuple[Tensor, ...] = ()
    allowed: tuple[Tensor, ...] = ()
    error: str = ""


def in_precision(case: dict, dtype: torch.dtype) -> dict:
    """A copy of a case with all floating-point tensors in one precision."""
    return {
        k: v.to(dtype, copy=True) if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in case.items()
    }


def expectation(call, case: dict, relative: bool = False) -> Expected:
    """What the reference returns for a case in float64, and by how much an answer may differ.

    The deviation follows from the spread between float32 and float64.

    Args:
        call: The question's function of the assignment's `calls`.
        case: Its arguments.
        relative: Compare every number with itself, and not with the largest one of the tensor.
    """
    try:
        exact = [t.double() for t in as_tensors(call(in_precision(case, torch.float64)))]
    except ValueError as error:
        return Expected(error=type(error).__name__)
    rough = [t.double() for t in as_tensors(call(in_precision(case, torch.float32)))]
    allowed = []
    for a, b in zip(exact, rough):
        size = a.abs().where(a.isfinite(), torch.zeros_like(a))
        spread = (a - b).abs().where(a.isfinite() & b.isfinite(), torch.zeros_like(a))
        if relative:
            factor = (spread / size.clamp(min=1e-300)).max()
            allowed.append((SPREADS * factor).clamp(min=LEAST) * size)
        else:
            most = torch.maximum(SPREADS * spread.max(), LEAST * size.max())
            allowed.append(most.expand_as(a))
    return Expected(tuple(exact), tuple(allowed))


def expectation_of(mistake: Outcome, expected: Expected) -> Expected:
    """What a mistake makes of a case, as something that an answer can be compared with."""
    if mistake.error:
        return Expected(error=mistake.error.partition(":")[0])
    tensors = tuple(t.double() for t in mistake.tensors)
    allowed = expected.allowed
    if [t.shape for t in tensors] != [a.shape for a in allowed]:
        allowed = tuple((LEAST * t.abs().amax()).expand_as(t) if t.numel() else t for t in tensors)
    return Expected(tensors, allowed)


def differs(seen: Outcome, expected: Expected, case: dict) -> str:
    """What is wrong with an outcome, in words; "" if nothing is."""
    if expected.error:
        if seen.error.startswith(expected.error + ":"):
            return ""
        got = seen.error or "it returned a value"
        return f"a {expected.error} was expected; {got}"
    if seen.error:
        return seen.error
    if len(seen.tensors) != len(expected.tensors):
        return f"it returned {len(seen.tensors)} tensors, expected {len(expected.tensors)}"
    for i, (s, e, allowed) in enumerate(zip(seen.tensors, expected.tensors, expected.allowed)):
        which = "" if len(expected.tensors) == 1 else f"result {i + 1} of {len(expected.tensors)}: "
        if s.shape != e.shape:
            return f"{which}the shape is {list(s.shape)}, expected {list(e.shape)}"
        s = s.double()
        same = s == e  # equal infinities, too
        far = (s - e).abs() / allowed.clamp(min=1e-300)
        far = torch.nan_to_num(far, nan=torch.inf).where(~same, torch.zeros_like(far))
        if far.numel() and far.max() > 1:
            at = [int(j) for j in torch.unravel_index(far.argmax(), far.shape)] if far.ndim else []
            place = f" at {at}" if at else ""
            a, b = s[tuple(at)].item(), e[tuple(at)].item()
            given = ", ".join(
                f"{k} = {v.item():.4g}" if isinstance(v, Tensor) else f"{k} = {v}"
                for k, v in case.items()
                if not isinstance(v, Tensor) or v.numel() == 1
            )
            return f"{which}{two_numbers(a, b)}{place}" + (f" ({given})" if given else "")
    return ""


def two_numbers(seen: float, expected: float) -> str:
    """Two numbers with as many digits as it takes to tell them apart."""
    digits = next((d for d in range(4, 17) if f"{seen:.{d}g}" != f"{expected:.{d}g}"), 17)
    return f"it is {seen:.{digits}g}, expected {expected:.{digits}g}"


# ---------------------------------------------------------------- grading


class Grader:
    """Grades submissions of one assignment.

    Args:
        assignment: Which one.
        sandbox: Where submitted code runs.
    """

    def __init__(self, assignment: Assignment, sandbox: Sandbox):
        self.assignment, self.sandbox = assignment, sandbox
        self.calls = assignment.part("calls")
        self.calls_source = Path(self.calls.__file__).read_text(encoding="utf-8")
        self.cases = assignment.part("cases")
        self.mistakes = load_variants(assignment, "mistakes")
        self.parts: dict[str, list[Part]] = {}
        self.expected: dict[str, list[list[Expected]]] = {}
        self.around: dict[str, dict[str, str]] = {}
        self.of_mistakes: dict[tuple[str, str], list[list[Outcome]]] = {}  # by question and code

    def parts_of(self, question: Question) -> list[Part]:
        """The parts of a question.

        Raises:
            ManifestError: Their points are not those of the question.
        """
        if question.name not in self.parts:
            parts = getattr(self.cases, f"parts_{question.name}")(self.assignment.salt)
            if abs(sum(p.points for p in parts) - question.points) > 1e-9:
                raise ManifestError(
                    f"{question.name}: its parts have {sum(p.points for p in parts)} points, the "
                    f"manifest has {question.points}"
                )
            call = getattr(self.calls, f"call_{question.name}")
            self.parts[question.name] = parts
            self.expected[question.name] = [
                [expectation(call, case, part.relative) for case in part.cases] for part in parts
            ]
        return self.parts[question.name]

    def outcomes(self, question: Question, source: str) -> list[list[Outcome]]:
        """What a function does in all cases of its question, part by part.

        Args:
            question: The question.
            source: The source of the question's file, with the function in it.
        """
        files = self.package_around(question.module) | {question.file: source}
        parts = self.parts_of(question)
        flat = [case for part in parts for case in part.cases]
        found = iter(self.sandbox.run(files, self.calls_source, question.name, flat))
        return [[next(found) for _ in part.cases] for part in parts]

    def package_around(self, module: str) -> dict[str, str]:
        """The sources in the box of a question: what its module and the calls import, by path."""
        if module not in self.around:
            needed = closure({module, *imported_modules(self.calls_source)})
            self.around[module] = {module_name(m): read_module(m) for m in sorted(needed)}
        return self.around[module]

    def grade_question(self, question: Question, submission: Submission) -> PointsRow:
        """The points of one question."""
        title = f"{question.number}. {question.function}"
        row = PointsRow(question.name, title, 0.0, question.points)
        # 1. The function, as it was submitted.
        try:
            text = submission.text(question.file)
            if text is None:
                raise HoleError(f"{question.file} was not handed in")
            answer = find_answer(text, read_module(question.module), question.function, "your file")
        except (HoleError, SubmissionError) as error:
            row.reasons.append(printable(str(error)))
            return row
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            row.reasons.append(f"{question.file}{line} is not Python: {printable(str(error), 120)}")
            return row
        if answer.blank:
            row.reasons.append("nothing was written yet")
            return row
        # 2. What it does, part by part.
        source = put_in(read_module(question.module), question.function, answer, question.file)
        outcomes = self.outcomes(question, source)
        changed = sorted({c for part in outcomes for outcome in part for c in outcome.changed})
        if changed:
            row.notes.append(f"it changes its arguments in place: {', '.join(changed)}")
        for number, part in enumerate(self.parts_of(question)):
            wrong = [
                (case, why)
                for case, seen, expected in zip(
                    part.cases, outcomes[number], self.expected[question.name][number]
                )
                if (why := differs(seen, expected, case))
            ]
            if not wrong:
                row.score += part.points
                continue
            hint = self.likely_mistake(question, outcomes, number)
            told = not hint or any(hint in reason for reason in row.reasons)
            row.reasons.append(
                f"-{part.points:g} {part.title}: {wrong[0][1]}" + ("" if told else f". {hint}")
            )
        return row

    def likely_mistake(self, question: Question, outcomes: list[list[Outcome]], number: int) -> str:
        """The hint of the planted mistake that does in a part what was seen; "" if none does."""
        expected = self.expected[question.name][number]
        cases = self.parts_of(question)[number].cases
        for mistake in self.mistakes:
            if mistake.question != question.name or not mistake.hint:
                continue
            key = question.name, mistake.code
            if key not in self.of_mistakes:
                source = with_code(read_module(question.module), question, mistake.code)
                self.of_mistakes[key] = self.outcomes(question, source)
            same = self.of_mistakes[key][number]
            wrong = any(differs(o, e, c) for o, e, c in zip(same, expected, cases))
            if not wrong or all(o.error for o in same):
                continue
            as_mistake = [expectation_of(o, e) for o, e in zip(same, expected)]
            if not any(differs(s, m, c) for s, m, c in zip(outcomes[number], as_mistake, cases)):
                return mistake.hint
        return ""

    def grade(self, submission: Submission, students: Collection[str] = ()) -> list[PointsRow]:
        """The points of all questions, figures and written answers.

        Args:
            submission: What was handed in.
            students: Whose it may be (default: who it says it is). Figures and written answers
                have other numbers for every student.
        """
        rows = [self.grade_question(q, submission) for q in self.assignment.questions]
        return rows + self.grade_figures_and_writing(submission, students)

    def grade_figures_and_writing(
        self, submission: Submission, students: Collection[str]
    ) -> list[PointsRow]:
        """The points of figures and written answers, by the numbers that they lead to."""
        rows = []
        for kind, names in (
            ("figure", self.assignment.figures),
            ("written", self.assignment.written),
        ):
            grade_part = getattr(self.cases, f"{self.assignment.name}_{kind}")
            for name, points in names.items():
                row = PointsRow(name, f"{kind} {name}", 0.0, points)
                try:
                    share, reasons = grade_part(name, submission, students)
                    row.score = round(min(max(share, 0.0), 1.0) * points, 2)
                    row.reasons = [printable(r) for r in reasons]
                except (
                    SubmissionError,
                    ValueError,
                    LookupError,
                    TypeError,
                    RecursionError,
                ) as error:
                    row.reasons = [printable(f"{type(error).__name__}: {error}")]
                rows.append(row)
        return rows


def grade_submission(
    name: str, path: str | Path, students: Collection[str] = ()
) -> tuple[list[PointsRow], float]:
    """Grade a submission of an assignment.

    Args:
        name: The name of the assignment.
        path: A folder or a zip.
        students: Whose it may be (default: who it says it is).

    Returns:
        The rows of the table, and the seconds that it took.
    """
    start = time.perf_counter()
    assignment = load_assignment(name)
    with Sandbox(assignment.preload, assignment.seconds, assignment.megabytes) as sandbox:
        rows = Grader(assignment, sandbox).grade(Submission(path), students)
    return rows, time.perf_counter() - start


# ---------------------------------------------------------------- what is shown


def points_table(rows: Sequence[PointsRow]) -> str:
    """The table of points as text, with the reasons below each row."""
    width = max(len(row.title) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.title:<{width}}  {row.score:5.1f} of {row.points:g}")
        lines += [f"    {reason}" for reason in row.reasons]
        lines += [f"    note: {note}" for note in row.notes]
    got, there = sum(r.score for r in rows), sum(r.points for r in rows)
    return "\n".join([*lines, f"{'all':<{width}}  {got:5.1f} of {there:g}"])


def gradescope_results(rows: Sequence[PointsRow], seconds: float) -> dict:
    """The rows as Gradescope reads them from results.json."""
    return {
        "score": round(sum(r.score for r in rows), 2),
        "execution_time": round(seconds),
        "stdout_visibility": "hidden",
        "tests": [
            {
                "name": row.title,
                "number": str(number),
                "score": round(row.score, 2),
                "max_score": row.points,
                "status": "passed" if row.score >= row.points else "failed",
                "output": "\n".join([*row.reasons, *(f"note: {n}" for n in row.notes)]),
                "visibility": "visible",
            }
            for number, row in enumerate(rows, 1)
        ],
    }


def gradescope_users(metadata: Path | None) -> set[str]:
    """The ids and addresses of those who handed in, by Gradescope's submission_metadata.json."""
    if metadata is None or not metadata.is_file():
        return set()
    users = json.loads(metadata.read_text(encoding="utf-8")).get("users", [])
    return {str(user[k]) for user in users for k in ("sid", "email") if user.get(k)}


def _main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("assignment", choices=assignment_names(), help="which assignment")
    parser.add_argument("submission", type=Path, help="a folder or a zip")
    parser.add_argument("--student", help="whose it is (default: who it says it is)")
    parser.add_argument("--metadata", type=Path, help="Gradescope's submission_metadata.json")
    parser.add_argument("--json", type=Path, help="write the points to this file as well")
    parser.add_argument("--gradescope", type=Path, help="write Gradescope's results.json here")
    args = parser.parse_args(argv)
    try:
        students = {args.student} if args.student else gradescope_users(args.metadata)
        rows, seconds = grade_submission(args.assignment, args.submission, students)
    except (ManifestError, SubmissionError) as error:
        if not args.gradescope:
            raise SystemExit(f"error: {error}") from None
        rows, seconds = (
            [PointsRow("submission", "submission", 0, 100, [printable(str(error))])],
            0.0,
        )
    print(points_table(rows))
    if args.json:
        values = {
            "score": sum(r.score for r in rows),
            "points": sum(r.points for r in rows),
            "rows": [vars(r) for r in rows],
        }
        args.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if args.gradescope:
        text = json.dumps(gradescope_results(rows, seconds), indent=1)
        args.gradescope.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
