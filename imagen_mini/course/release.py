"""Build assignments, and refuse a release that would be unfair or give a solution away.

    python -m imagen_mini.course.release hw1                      # the checks alone
    python -m imagen_mini.course.release --all --out outputs/assignments

A release needs: all points for the reference, in its own folder and by its own figures; none for
the blank handout, for constants and for random answers; points lost by every planted mistake in its
own question and nowhere else; all points for correct answers in other forms; nothing for
submissions that cheat or do harm; no solution in what students get; the same bytes from every
build. The project needs examples that pass its own check.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imagen_mini.course.assignment import (
    ASSIGNMENTS,
    PACKAGE,
    Assignment,
    ManifestError,
    Question,
    Variant,
    assignment_names,
    load_assignment,
    load_variants,
    read_module,
    with_body,
    with_code,
)
from imagen_mini.course.build import (
    PROJECT,
    build,
    grader_files,
    solution_files,
    student_files,
    write_files,
)
from imagen_mini.course.grade import Grader, PointsRow
from imagen_mini.course.holes import find_function
from imagen_mini.course.leaks import find_leaks
from imagen_mini.course.project import check_project
from imagen_mini.course.sandbox import Sandbox
from imagen_mini.course.submission import Submission

STUDENT = "a.student@example.org"
LEAST_MISTAKES, LEAST_FORMS = 12, 8
# What grading may need: a minute of half a core, and so much memory beyond that of `import torch`,
# which alone takes from 200 MB (the CPU build) to 500 MB (the CUDA build).
MOST_SECONDS, MOST_MEGABYTES = 30, 300

# Bodies that cheat or do harm, for the first question. {reference}: a file with the answer.
ATTACKS = {
    "ends the program": "raise SystemExit(0)",
    "ends the process": "import os\nos._exit(0)",
    "kills the grader": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "computes for ever": "while True:\n    pass",
    "takes all memory": "return torch.ones(10**10).sum(), torch.ones(10**10).sum()",
    "starts processes": "import os\nwhile True:\n    os.fork()",
    "runs a command": "import subprocess\nsubprocess.run(['touch', '{harm}'])",
    "writes a gigabyte": (
        "with open('{harm}', 'wb') as file:\n"
        "    for _ in range(1024):\n        file.write(bytes(2**20))"
    ),
    "writes into its results": (
        "import os\nfor handle in range(3, 64):\n    try:\n        os.write(handle, bytes(10**8))\n"
        "    except OSError:\n        pass\nreturn log_snr"
    ),
    "opens a socket": "import socket\nsocket.create_connection(('192.0.2.1', 80), 1)",
    "reads the reference": (
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location('other', '{reference}')\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "return module.{function}({arguments})"
    ),
    "patches comparison": (
        "torch.allclose = torch.equal = lambda *a, **k: True\n"
        "torch.Tensor.__eq__ = lambda *a: True\nreturn 0.0"
    ),
    "returns no tensor": "return 'correct'",
}


class Checked:
    """Grades variants of the reference submission.

    Args:
        grader: Of the assignment.
        reference: The files of a submission with all points, by path.
        folder: Where submissions are written.
    """

    def __init__(self, grader: Grader, reference: dict[str, bytes], folder: Path):
        self.grader, self.reference, self.folder = grader, reference, folder
        self.count = 0
        self.rows: dict[tuple[str, bytes], PointsRow] = {}  # by question and text of its file

    def code_rows(
        self, variant: Variant | None = None, questions: Sequence[Question] | None = None
    ) -> dict[str, PointsRow]:
        """The rows of code questions, with the function of one replaced.

        Args:
            variant: What replaces it (default: nothing).
            questions: Which ones are graded (default: all).
        """
        self.count += 1
        files = {p: b for p, b in self.reference.items() if "/imagen_mini/" in f"/{p}"}
        files = {p: b for p, b in files.items() if p.endswith(".py")}
        if variant:
            question = self.grader.assignment.question(variant.question)
            path = f"{self.grader.assignment.name}/{question.file}"
            text = with_code(self.reference[path].decode(), question, variant.code)
            files[path] = text.encode()
        folder = self.folder / f"submission{self.count}"
        used = {f"{self.grader.assignment.name}/{q.file}" for q in self.grader.assignment.questions}
        write_files(folder, {p: b for p, b in files.items() if p in used})
        submission = Submission(folder)
        rows = {}
        for question in questions or self.grader.assignment.questions:
            key = question.name, files[f"{self.grader.assignment.name}/{question.file}"]
            if key not in self.rows:
                self.rows[key] = self.grader.grade_question(question, submission)
            rows[question.name] = self.rows[key]
        return rows

    def forget(self) -> None:
        """Grade anew from now on what was graded before with the same text in its file."""
        self.rows.clear()
        self.grader.sandbox.cache.clear()


def lost_points(rows: dict[str, PointsRow]) -> dict[str, float]:
    """The points that each question lost, where it lost any."""
    return {n: r.points - r.score for n, r in rows.items() if r.score < r.points}


def check_code(checked: Checked) -> Iterator[str]:
    """What is wrong with the grading of code: mistakes, other forms, and constant answers."""
    grader = checked.grader
    if lost := lost_points(checked.code_rows()):
        yield f"the reference loses points: {lost}"
    mistakes, forms = (load_variants(grader.assignment, k) for k in ("mistakes", "forms"))
    if len(mistakes) < LEAST_MISTAKES or len(forms) < LEAST_FORMS:
        yield (
            f"there are {len(mistakes)} planted mistakes and {len(forms)} other forms; expected at "
            f"least {LEAST_MISTAKES} and {LEAST_FORMS}"
        )
    for name in {q.name for q in grader.assignment.questions} - {m.question for m in mistakes}:
        yield f"no mistake is planted in the question {name}"
    for mistake in mistakes:
        lost = lost_points(checked.code_rows(mistake))
        if list(lost) != [mistake.question]:
            yield f"the mistake {mistake.title!r} in {mistake.question} loses {lost or 'nothing'}"
    for form in forms:
        if lost := lost_points(checked.code_rows(form)):
            yield f"the correct form {form.title!r} of {form.question} loses {lost}"
    for question in grader.assignment.questions:
        if not question.constants:
            yield f"no constant answers are listed for the question {question.name}"
        for body in question.constants:
            variant = Variant(question.name, body, with_body(question, body))
            if score := checked.code_rows(variant)[question.name].score:
                yield f"{question.name}: {body!r} gets {score} points"


def check_attacks(checked: Checked, titles: Sequence[str] = tuple(ATTACKS)) -> Iterator[str]:
    """What submissions that cheat or do harm gain, or break.

    After each of them another question is graded anew, each in turn.

    Args:
        checked: Grades them.
        titles: Which of ATTACKS (default: all).
    """
    question, *others = checked.grader.assignment.questions
    harm = checked.folder / "harm"
    reference = PACKAGE.parent / question.file
    function = find_function(read_module(question.module), question.function)
    arguments = ", ".join(a.arg for a in function.args.args)
    for title, other in zip(titles, itertools.cycle(others or [question])):
        body = ATTACKS[title]
        names = {"reference": reference, "harm": harm, "function": question.function}
        for key, value in {**names, "arguments": arguments}.items():
            body = body.replace("{" + key + "}", str(value))
        attack = Variant(question.name, title, with_body(question, body))
        if score := checked.code_rows(attack, [question])[question.name].score:
            yield f"a submission that {title} gets {score} points"
        checked.forget()
        if lost := lost_points(checked.code_rows(questions=[other])):
            yield f"a submission that {title} makes another question lose {lost}"
        if harm.exists():
            yield f"a submission that {title} wrote a file"
            harm.unlink()


def _python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment | {"HOME": str(folder)},
        capture_output=True,
        text=True,
    )


def check_folders(assignment: Assignment, grader: Grader, folder: Path) -> Iterator[str]:
    """What is wrong with the handout as it is, and with the solution by its own figures."""
    name = assignment.name
    # 1. The blank one: it imports, its tests ask for what is missing, and it gets nothing.
    blank = folder / "blank"
    write_files(blank, student_files(assignment, weights=False))
    modules = ", ".join(assignment.roots)
    done = _python(blank / name, "-c", f"import {modules}, measurements")
    if done.returncode:
        yield f"the handout cannot be imported: {done.stderr[-500:]}"
    done = _python(blank / name, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    if " passed" in done.stdout or "NotImplementedError" not in done.stdout:
        yield f"tests of the blank handout: {done.stdout[-500:]}"
    scores = {r.name: r.score for r in grader.grade(Submission(blank)) if r.score}
    if scores:
        yield f"the blank handout gets {scores}"
    # 2. The solution: its tests pass, its figures are made, and it gets everything.
    solved = folder / "solved"
    write_files(solved, solution_files(assignment))
    done = _python(solved / name, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    if done.returncode:
        yield f"tests of the solution: {done.stdout[-1000:]}"
    done = _python(solved / name, "figures.py", "--student", STUDENT)
    if done.returncode:
        yield f"figures of the solution: {done.stderr[-1000:]}"
    answers = getattr(grader.cases, f"{name}_written_answers")(STUDENT)
    lines = [f'student = "{STUDENT}"', "[written]", *(f"{k} = {v!r}" for k, v in answers.items())]
    (solved / name / "answers.toml").write_text("\n".join(lines) + "\n")
    rows = grader.grade(Submission(solved))
    if lost := lost_points({r.name: r for r in rows}):
        reasons = [reason for r in rows for reason in r.reasons]
        yield f"the solution loses {lost}: {reasons}"
    if sum(r.points for r in rows) != 100:
        yield f"there are {sum(r.points for r in rows)} points in all; expected 100"


# Grades in a process of its own, and prints what that took: the memory of PyTorch alone, that of
# the largest process, both in MB, and seconds of computing.
MEASURED_GRADING = """
import re, resource, sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF
unit = 2**20 if sys.platform == "darwin" else 2**10

def largest():
    # On Linux getrusage also counts what the parent had when it started this process.
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) / 2**10
    return resource.getrusage(RUSAGE_SELF).ru_maxrss / unit

import torch
alone = largest()
from imagen_mini.course.grade import _main
_main(sys.argv[1:])
print(alone, max(largest(), resource.getrusage(RUSAGE_CHILDREN).ru_maxrss / unit))
all_of_it = [resource.getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]
print(sum(u.ru_utime + u.ru_stime for u in all_of_it))
"""


def grading_needs(assignment: Assignment, submission: Path, folder: Path) -> dict[str, float]:
    """What it takes to grade a submission, with the archive for the grader.

    Args:
        assignment: Which one.
        submission: A folder or a zip.
        folder: Where the archive is unpacked.

    Returns:
        "torch", the megabytes of PyTorch alone; "megabytes" of the largest process beyond that;
        "seconds" of computing.
    """
    write_files(folder, grader_files(assignment))
    done = _python(folder, "-c", MEASURED_GRADING, assignment.name, str(submission))
    if done.returncode:
        raise ManifestError(f"the grader's archive does not grade: {done.stderr[-500:]}")
    *_, memory, seconds = done.stdout.strip().splitlines()
    alone, most = map(float, memory.split())
    return {"torch": alone, "megabytes": most - alone, "seconds": float(seconds)}


def check_needs(needs: dict[str, float]) -> Iterator[str]:
    """What grading needs too much of, by `grading_needs`."""
    for name, most in (("megabytes", MOST_MEGABYTES), ("seconds", MOST_SECONDS)):
        if needs[name] > most:
            beyond = f" beyond PyTorch's {needs['torch']:.0f}" if name == "megabytes" else ""
            yield f"grading needs {needs[name]:.0f} {name}{beyond}; expected at most {most}"


def check_release(
    name: str,
    attacks: bool = True,
    folders: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Everything that speaks against a release of an assignment, in words.

    Args:
        name: The name of the assignment.
        attacks: With submissions that cheat or do harm (default: True).
        folders: With the handout and the solution as folders, figures included (default: True).
        say: Called with what grading needs (default: nothing is said).
    """
    problems = []
    assignment = load_assignment(name)
    reference = student_files(assignment, weights=False, solved=True)
    problems += find_leaks(assignment, student_files(assignment, weights=False))
    again = load_assignment(name)
    if student_files(again, weights=False) != student_files(assignment, weights=False):
        problems.append("two builds differ")
    grader_files(assignment)
    with tempfile.TemporaryDirectory(prefix="imagen_mini_release_") as place:
        folder = Path(place)
        with Sandbox(assignment.preload, assignment.seconds, assignment.megabytes) as sandbox:
            grader = Grader(assignment, sandbox)
            problems += check_code(Checked(grader, reference, folder / "code"))
            if folders:
                problems += check_folders(assignment, grader, folder)
                needs = grading_needs(assignment, folder / "solved", folder / "grader")
                say(
                    f"{name}: grading takes {needs['seconds']:.0f} s of computing and "
                    f"{needs['megabytes']:.0f} MB beyond PyTorch's {needs['torch']:.0f}"
                )
                problems += check_needs(needs)
            if attacks:
                problems += check_attacks(Checked(grader, reference, folder / "attacks"))
    return problems


def check_project_release() -> list[str]:
    """Everything that speaks against handing out the project: an example that its own check would
    not pass.
    """
    return [
        f"the example {folder.name}: {problem}"
        for folder in sorted((ASSIGNMENTS / PROJECT / "examples").iterdir())
        if (folder / "project.toml").is_file()
        for problem in check_project(folder)
    ]


def variants_table(name: str, kind: str) -> str:
    """The planted mistakes or the other forms as a Markdown table: what each loses, and of mistakes
    whether students get the hint.

    Args:
        name: The name of the assignment.
        kind: "mistakes" or "forms".
    """
    assignment = load_assignment(name)
    head = ["question", "planted mistake" if kind == "mistakes" else "other form", "points", "of"]
    if kind == "mistakes":
        head[2:] = ["points lost", "of", "hint given"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    with tempfile.TemporaryDirectory() as place, Sandbox(assignment.preload) as sandbox:
        grader = Grader(assignment, sandbox)
        reference = student_files(assignment, weights=False, solved=True)
        checked = Checked(grader, reference, Path(place))
        for variant in load_variants(assignment, kind):
            row = checked.code_rows(variant)[variant.question]
            cells = [variant.question, variant.title, f"{row.score:g}", f"{row.points:g}"]
            if kind == "mistakes":
                hint = bool(variant.hint) and any(variant.hint in r for r in row.reasons)
                cells[2:] = [f"{row.points - row.score:g}", cells[3], "yes" if hint else "no"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    every = [*assignment_names(), PROJECT]
    parser.add_argument("assignments", nargs="*", help=f"of {', '.join(every)}")
    parser.add_argument("--all", action="store_true", help="all of them, and the project")
    parser.add_argument("--out", type=Path, help="a folder for the archives of what is released")
    for kind, what in (("mistakes", "planted mistakes"), ("forms", "other correct forms")):
        parser.add_argument(
            f"--{kind}",
            dest="table",
            action="store_const",
            const=kind,
            help=f"print the {what} only",
        )
    args = parser.parse_args(argv)
    names = every if args.all else args.assignments
    if not names:
        parser.error("name an assignment, or pass --all")
    refused = 0
    for name in names:
        start = time.perf_counter()
        try:
            if args.table:
                if name != PROJECT:
                    print(variants_table(name, args.table))
                continue
            problems = (
                check_project_release() if name == PROJECT else check_release(name, say=print)
            )
            if not problems and args.out:
                for path in build(name, args.out):
                    print(f"{path}  {path.stat().st_size / 2**20:.1f} MB")
        except ManifestError as error:
            problems = [str(error)]
        refused += bool(problems)
        said = "refused" if problems else "ready for release"
        print(f"{name}: {said} ({time.perf_counter() - start:.0f} s)")
        for problem in problems:
            print(f"  - {problem}")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(_main())
