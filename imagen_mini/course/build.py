"""Build the archives of an assignment from the package itself.

    python -m imagen_mini.course.build hw1 --out handout/

writes three zips. The student's is the package with holes where the answers go. The grader's is
what Gradescope takes, and can be unpacked and run anywhere. The solution is the student's with the
holes filled, and the page for instructors. The same tree always gives the same bytes.

    python -m imagen_mini.course.build project --out handout/

writes one zip for students, the handout and the examples, and the page for instructors.
"""

from __future__ import annotations

import argparse
import configparser
import re
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from imagen_mini.course.assignment import (
    ASSIGNMENTS,
    PACKAGE,
    Assignment,
    ManifestError,
    assignment_names,
    closure,
    imported_modules,
    load_assignment,
    module_name,
    read_module,
    reference_code,
    with_code,
    with_hole,
)
from imagen_mini.course.handout_pdf import PdfError, handout_pdf

ROOT = PACKAGE.parent
EXECUTABLE = ("run_autograder", "setup.sh")
PROJECT = "project"
GRADING = """\
A question of code has several parts, and a part counts if all its cases are correct. Each number of
a figure has the same share of its points; without the image they count half. Images are read from
your PNG by the parser in the package. Of a derivation, the grader checks the number, within 1 %;
the instructor reads the rest, and may take points off."""
STORED = (".safetensors", ".png")


def read_file(path: str) -> bytes:
    """A file of the repository.

    Raises:
        ManifestError: It is not there.
    """
    try:
        return (ROOT / path).read_bytes()
    except OSError:
        pass
    if not path.startswith("imagen_mini/"):  # a wheel has the licence beside the package
        for file in metadata.files("imagen_mini") or []:
            if file.name == path and file.parent.parts[-1:] != ("imagen_mini",):
                return file.locate().read_bytes()
    raise ManifestError(
        f"{path} is missing; build assignments from a clone of the repository, or install the "
        "package again"
    )


def requirements(names: Sequence[str] = ()) -> str:
    """The package's dependencies, one a line.

    Args:
        names: Only these (default: all of them).
    """
    if (ROOT / "setup.cfg").is_file():
        setup = configparser.ConfigParser()
        setup.read_string(read_file("setup.cfg").decode())
        rows = setup["options"]["install_requires"].split()
    else:  # installed from a wheel
        found = metadata.requires("imagen_mini") or []
        rows = [r.replace(" ", "") for r in found if "extra" not in r]
    kept = [r for r in rows if not names or re.split("[<>=!~]", r)[0] in names]
    return "\n".join(kept) + "\n"


def _assignment_file(assignment: Assignment, name: str) -> bytes:
    return read_file(f"{(assignment.folder / name).relative_to(ROOT).as_posix()}")


def points_of(assignment: Assignment) -> str:
    """The points of an assignment as a Markdown table, and how they are given."""
    rows = ["| | what | file | points |", "|---|---|---|---|"]
    for q in assignment.questions:
        file = q.file.removeprefix("imagen_mini/")
        rows.append(f"| {q.number} | `{q.function}` | `{file}` | {q.points:g} |")
    for kind, names in (("figure", assignment.figures), ("written", assignment.written)):
        rows += [f"| {kind} | {name} | | {points:g} |" for name, points in names.items()]
    return "\n".join([*rows, f"| all | | | {assignment.points:g} |", "", GRADING])


def handout(assignment: Assignment) -> str:
    """The handout, with its table of points."""
    text = _assignment_file(assignment, "handout.md").decode("utf-8")
    if "{points}" not in text:
        raise ManifestError(f"{assignment.name}/handout.md has no place {{points}} for the table")
    return text.replace("{points}", points_of(assignment))


def files_in(names: Sequence[str]) -> dict[str, bytes]:
    """Files, and all of some folders, by path inside the repository."""
    found = {}
    for name in names:
        path = ROOT / name
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for p in inside:
            relative = p.relative_to(ROOT)
            if not any(part[0] in "._" for part in relative.parts):
                found[relative.as_posix()] = read_file(relative.as_posix())
    return found


def student_files(
    assignment: Assignment, weights: bool = True, solved: bool = False
) -> dict[str, bytes]:
    """What students get, by path.

    Args:
        assignment: Which one.
        weights: With the large files that the manifest names (default: True).
        solved: With the package's own functions in place of the holes (default: False).

    Raises:
        ManifestError: The manifest does not fit the package.
    """
    top = assignment.name
    measurements = read_module(f"imagen_mini.course.assignments.{top}.measurements")
    modules = closure({*assignment.roots, *imported_modules(measurements)})
    sources = {module_name(m): read_module(m) for m in modules}
    for given, code in assignment.replaced:
        sources[given.file] = with_code(sources[given.file], given, code)
    for question in assignment.questions:
        if question.file not in sources:
            raise ManifestError(f"{question.file} is not among what students get: add it to roots")
        if not solved:
            sources[question.file] = with_hole(sources[question.file], assignment, question)
    files = {path: text.encode() for path, text in sources.items()}
    further = files_in(assignment.files)
    files |= {p: b for p, b in further.items() if weights or "imagen_mini/weights" not in p}
    files |= {
        "README.md": handout(assignment).encode(),
        "requirements.txt": (requirements() + "pytest>=8\n").encode(),
        "measurements.py": measurements.encode(),
        f"tests/test_{top}.py": _assignment_file(assignment, "student_tests.py"),
        "figures.py": _assignment_file(assignment, "figures.template"),
        "answers.toml": _assignment_file(assignment, "answers.template"),
        "written.md": _assignment_file(assignment, "written.template"),
    }
    return {f"{top}/{path}": data for path, data in files.items()}


def solution_files(assignment: Assignment, weights: bool = True) -> dict[str, bytes]:
    """The student's files with the holes filled, the solutions on one page, and the page for
    instructors.
    """
    lines = [f"# {assignment.name}: {assignment.title}, solutions", ""]
    for q in assignment.questions:
        lines += [f"## {q.number}. `{q.function}`, {q.file}", "", "```python"]
        lines += [reference_code(q).rstrip(), "```", ""]
    files = student_files(assignment, weights, solved=True)
    files[f"{assignment.name}/solutions.md"] = "\n".join(lines).encode()
    files[f"{assignment.name}/instructor.md"] = _assignment_file(assignment, "instructor.md")
    return files


def grader_files(assignment: Assignment) -> dict[str, bytes]:
    """What grades: laid out as Gradescope's autograder zip, and usable without it."""
    here = f"imagen_mini.course.assignments.{assignment.name}"
    parts = {f"{here}.{part}" for part in ("calls", "cases", "measurements")}
    modules = closure(
        {"imagen_mini.course.grade", *parts, *(q.module for q in assignment.questions)}
    )
    files = {module_name(m): read_module(m).encode() for m in sorted(modules)}
    files |= files_in(assignment.grader_files)
    for name in ("manifest.toml", "mistakes.toml", "forms.toml"):
        path = (assignment.folder / name).relative_to(ROOT).as_posix()
        files[path] = read_file(path)
    for name in EXECUTABLE:
        path = (ASSIGNMENTS.parent / "gradescope" / name).relative_to(ROOT).as_posix()
        files[name] = read_file(path).replace(b"{assignment}", assignment.name.encode())
    needed = ("torch", "einops", "numpy", "Pillow", "safetensors", "tqdm", "filelock")
    files["requirements.txt"] = requirements(needed).encode()
    return files


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    """Write an archive whose bytes follow from its files alone: sorted, without dates or owners."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = (0o100755 if name in EXECUTABLE else 0o100644) << 16
            stored = name.endswith(STORED)
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name])


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files by path into a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def project_files() -> dict[str, bytes]:
    """What students get for the project, by path: the handout and the examples. They install the
    package itself, which checks the milestones.
    """
    folder = ASSIGNMENTS / PROJECT
    files = {f"{PROJECT}/README.md": (folder / "handout.md").read_bytes()}
    for path in sorted((folder / "examples").rglob("*")):
        hidden = any(part[0] in "._" for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            files[f"{PROJECT}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    return files


def build(name: str, out: Path) -> list[Path]:
    """Write the three archives of an assignment, or the archive and the page of the project.

    Args:
        name: The name of the assignment, or "project".
        out: The folder for them; made if it does not exist.

    Returns:
        Their paths: for students, for the grader, the solution. Of the project: for students, for
        instructors.

    Raises:
        ManifestError: The manifest does not fit the package.
    """
    if name == PROJECT:
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / f"{PROJECT}-student.zip", out / f"{PROJECT}-instructor.md"]
        write_zip(paths[0], project_files())
        paths[1].write_bytes((ASSIGNMENTS / PROJECT / "instructor.md").read_bytes())
        return paths
    assignment = load_assignment(name)
    made = {
        "student": student_files(assignment),
        "grader": grader_files(assignment),
        "solution": solution_files(assignment),
    }
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, files in made.items():
        paths.append(out / f"{name}-{kind}.zip")
        write_zip(paths[-1], files)
    return paths


def _main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = [*assignment_names(), PROJECT]
    parser.add_argument("assignment", choices=names, help="which assignment")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the archives")
    parser.add_argument("--pdf", action="store_true", help="write the handout as PDF as well")
    parser.add_argument("--notebook", action="store_true", help="write a notebook for nbgrader")
    args = parser.parse_args(argv)
    is_project = args.assignment == PROJECT
    if is_project and args.notebook:
        parser.error("--notebook: the project has no code questions, and so no notebook")
    try:
        paths = build(args.assignment, args.out)
        if args.pdf:
            text = (
                (ASSIGNMENTS / PROJECT / "handout.md").read_text(encoding="utf-8")
                if is_project
                else handout(load_assignment(args.assignment))
            )
            paths.append(args.out / f"{args.assignment}-handout.pdf")
            paths[-1].write_bytes(handout_pdf(text))
        if args.notebook:
            assignment = load_assignment(args.assignment)
            from imagen_mini.course.nbgrader import notebook_bytes  # which needs this module

            paths.append(args.out / f"{assignment.name}.ipynb")
            paths[-1].write_bytes(notebook_bytes(assignment))
        for path in paths:
            print(f"{path}  {path.stat().st_size / 2**20:.1f} MB")
    except (ManifestError, PdfError) as error:
        raise SystemExit(f"error: {error}") from None
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
