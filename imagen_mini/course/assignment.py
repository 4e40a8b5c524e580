"""What an assignment is: its manifest, read and checked against the package.

An assignment is a folder in `assignments/` with a manifest.toml, which names the functions of the
package that students write. The package itself is the reference solution.
"""

from __future__ import annotations

import ast
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from imagen_mini.course.holes import (
    Answer,
    HoleError,
    find_function,
    function_source,
    put_in,
    take_out,
)

PACKAGE = Path(__file__).parents[1]
ASSIGNMENTS = Path(__file__).parent / "assignments"


class ManifestError(Exception):
    """A manifest does not fit the package; the message says what to change."""


@dataclass(frozen=True)
class Question:
    """One function that students write.

    Attributes:
        number: From 1.
        name: A short name; the cases and calls of the assignment have a function of this name.
        module: The module of the function.
        function: "function", or "Class.method".
        points: What it is worth.
        docstring: What students read in place of the function's own docstring; "" for its own.
        constants: Bodies that ignore the question; the release check holds that they score 0.
    """

    number: int
    name: str
    module: str
    function: str
    points: float
    docstring: str = ""
    constants: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The file of the function, as a path inside the repository."""
        return self.module.replace(".", "/") + ".py"


@dataclass(frozen=True)
class Variant:
    """Another body for the function of a question: a planted mistake, or a correct other form.

    Attributes:
        question: The name of the question.
        title: What is different.
        code: The whole function.
        hint: What a student is told whose answer computes the same (mistakes only).
    """

    question: str
    title: str
    code: str
    hint: str = ""


@dataclass(frozen=True)
class Part:
    """A part of a question, with points of its own: all its cases are answered, or none counts.

    Attributes:
        title: What it is about, as the student reads it.
        points: What it is worth.
        cases: The arguments of each call, by name: tensors, numbers and words.
        relative: Compare every number with itself, and not with the largest one.
    """

    title: str
    points: float
    cases: list[dict]
    relative: bool = False


@dataclass(frozen=True)
class Assignment:
    """An assignment, as its manifest describes it.

    Attributes:
        name: The name of its folder, such as "hw1".
        title: What it is about.
        hours: How long it takes.
        salt: The numbers of its tests are drawn from it; change it every year.
        questions: The functions that students write.
        figures: The points of each figure, by name.
        written: The points of each written question, by name.
        roots: Modules of the package that students get, with everything that these import.
        files: Further files or folders that students get, as paths inside the repository.
        grader_files: Further files or folders that the grader needs, besides code.
        preload: Libraries that the calls import, loaded before a submission is locked in.
        seconds: The CPU time that one question may take.
        megabytes: The memory that one question may take beyond that of PyTorch.
        replaced: Functions that students get in another form, since the package's own would give an
            answer away.
        shared: Lines of solutions that other functions of the package have as well, each with the
            reason why it gives nothing away.
    """

    name: str
    title: str
    hours: float
    salt: str
    questions: tuple[Question, ...]
    figures: dict[str, float]
    written: dict[str, float]
    roots: tuple[str, ...]
    files: tuple[str, ...] = ()
    grader_files: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    seconds: float = 10.0
    megabytes: int = 1000
    replaced: tuple[tuple[Question, str], ...] = ()
    shared: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return ASSIGNMENTS / self.name

    @property
    def points(self) -> float:
        """All points."""
        code = sum(q.points for q in self.questions)
        return code + sum(self.figures.values()) + sum(self.written.values())

    def question(self, name: str) -> Question:
        """The question of this name."""
        for question in self.questions:
            if question.name == name:
                return question
        raise ManifestError(
            f"{self.name} has no question {name!r}; its questions are "
            f"{', '.join(q.name for q in self.questions)}"
        )

    def part(self, module: str):
        """A Python module of the assignment: "calls", "cases" or "measurements"."""
        return import_module(f"imagen_mini.course.assignments.{self.name}.{module}")


def assignment_names() -> list[str]:
    """The assignments that exist."""
    return sorted(p.parent.name for p in ASSIGNMENTS.glob("*/manifest.toml"))


def load_assignment(name: str) -> Assignment:
    """Read a manifest, and check that every function in it exists.

    Args:
        name: The name of the assignment.

    Raises:
        ManifestError: There is no such assignment, or its manifest does not fit the package.
    """
    path = ASSIGNMENTS / name / "manifest.toml"
    if name not in assignment_names():
        raise ManifestError(f"no assignment {name!r}; there are {', '.join(assignment_names())}")
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    questions = []
    for number, row in enumerate(values.pop("questions"), 1):
        module, _, function = row.pop("function").partition(":")
        row["constants"] = tuple(row.get("constants", ()))
        questions.append(Question(number, module=module, function=function, **row))
    replaced = []
    for row in values.pop("replaced", []):
        module, _, function = row["function"].partition(":")
        given = Question(0, function, module, function, 0)
        replaced.append((given, with_body(given, row["body"])))
    values["replaced"] = tuple(replaced)
    for key in ("roots", "files", "grader_files", "preload"):
        values[key] = tuple(values.get(key, ()))
    assignment = Assignment(name, questions=tuple(questions), **values)
    for question in questions:
        reference_code(question)
    names = [q.name for q in questions]
    if len(set(names)) < len(names):
        raise ManifestError(f"{path}: two questions have the same name")
    return assignment


def read_module(module: str) -> str:
    """The source of a module of the package."""
    path = module_path(module)
    if path is None:
        raise ManifestError(f"the package has no module {module}; it was renamed or removed")
    return path.read_text(encoding="utf-8")


def module_path(module: str) -> Path | None:
    """The file of a module of the package; None if there is none."""
    parts = module.split(".")[1:]
    for path in (
        PACKAGE.joinpath(*parts).with_suffix(".py"),
        PACKAGE.joinpath(*parts, "__init__.py"),
    ):
        if path.is_file() and (parts or path.name == "__init__.py"):
            return path
    return None


def module_name(module: str) -> str:
    """The path of a module inside the repository."""
    path = module_path(module)
    if path is None:
        raise ManifestError(f"the package has no module {module}; it was renamed or removed")
    return (Path("imagen_mini") / path.relative_to(PACKAGE)).as_posix()


def reference_code(question: Question) -> str:
    """The function of a question as it stands in the package.

    Raises:
        ManifestError: It is not there any more.
    """
    try:
        return function_source(read_module(question.module), question.function, question.file)
    except HoleError as error:
        raise ManifestError(
            f"question {question.number} ({question.name}): {error}. If it was renamed, rename it "
            "in the manifest as well"
        ) from None


def with_hole(source: str, assignment: Assignment, question: Question) -> str:
    """The source of the question's file with its function taken out."""
    message = f"{assignment.name}, question {question.number}: write {question.function}"
    try:
        return take_out(source, question.function, message, question.docstring, question.file)
    except HoleError as error:
        raise ManifestError(f"question {question.number} ({question.name}): {error}") from None


def with_code(source: str, question: Question, code: str) -> str:
    """The source of the question's file with another function in place of the package's."""
    return put_in(source, question.function, Answer(code, (), False), question.file)


def with_body(question: Question, body: str) -> str:
    """The question's function with this body, given by lines without indentation."""
    source = read_module(question.module)
    indent = " " * (find_function(source, question.function).col_offset + 4)
    hole = function_source(take_out(source, question.function, "?"), question.function)
    head = hole.splitlines()[:-3]  # the hole is three lines
    return "\n".join([*head, *(indent + line for line in body.strip().splitlines())]) + "\n"


def load_variants(assignment: Assignment, kind: str) -> list[Variant]:
    """The planted mistakes or the correct other forms of an assignment.

    Each is a body, or a list of edits [old, new] of the function in the package.

    Args:
        assignment: The assignment.
        kind: "mistakes" or "forms".

    Raises:
        ManifestError: An edit does not fit the function any more.
    """
    path = assignment.folder / f"{kind}.toml"
    found = []
    for row in tomllib.loads(path.read_text(encoding="utf-8"))[kind]:
        question = assignment.question(row["question"])
        label = f"{path.name}: {row['question']}: {row['title']!r}"
        if "body" in row:
            code = with_body(question, row["body"])
        else:
            code = reference_code(question)
            for old, new in row["edits"]:
                if (n := code.count(old)) != 1:
                    raise ManifestError(
                        f"{label}: {old!r} is {n} times in the function of the package; expected "
                        "once. The function has changed: change the edit"
                    )
                code = code.replace(old, new)
        try:
            ast.parse(code.strip() if "." not in question.function else f"class _:\n{code}")
        except SyntaxError as error:
            raise ManifestError(f"{label} is not Python: {error}") from None
        found.append(Variant(question.name, row["title"], code, row.get("hint", "")))
    return found


# ---------------------------------------------------------------- what imports what


@lru_cache(maxsize=512)
def imported_modules(source: str) -> frozenset[str]:
    """The modules of the package that a source imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return frozenset(m for m in found if m.split(".")[0] == "imagen_mini" and module_path(m))


def closure(modules: set[str]) -> set[str]:
    """Modules of the package with everything of the package that they import, and the packages
    that hold them.
    """
    todo, found = set(modules), set()
    while todo:
        module = todo.pop()
        if module in found:
            continue
        found.add(module)
        todo |= imported_modules(read_module(module))
        todo |= {module.rpartition(".")[0]} - {""}
    return found
