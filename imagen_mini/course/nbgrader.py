"""An assignment as a notebook, for courses that use nbgrader.

    python -m imagen_mini.course.build hw1 --out handout/ --notebook

writes `hw1.ipynb`, the source version: put it into nbgrader's `source/hw1/`, with the files of the
student archive beside it. nbgrader takes the solutions out and makes the student version. The test
cells call the same grader as everywhere, locked in; what they return is partial credit. The machine
that grades needs the whole package; so does that of students, if they run the test cells.

nbgrader itself is not needed to write the notebook.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable
from functools import lru_cache

from imagen_mini.course.assignment import (
    Assignment,
    load_assignment,
    read_module,
    reference_code,
)
from imagen_mini.course.build import handout
from imagen_mini.course.grade import Grader
from imagen_mini.course.holes import Answer, body_statements, find_function, is_hole, put_in
from imagen_mini.course.sandbox import Sandbox
from imagen_mini.course.submission import Submission


def _cell(kind: str, text: str, **nbgrader) -> dict:
    """A cell of a notebook, as nbformat 4.5 has it."""
    cell: dict = {"cell_type": kind, "metadata": {}, "source": text.strip("\n")}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    if nbgrader:
        cell["metadata"]["nbgrader"] = {"schema_version": 3, "task": False, **nbgrader}
    return cell


def answer_cell(assignment: Assignment, number: int) -> str:
    """The cell of a question: the function with its solution, marked as nbgrader wants it."""
    question = assignment.questions[number]
    code = textwrap.dedent(reference_code(question))
    node = find_function(code, question.function.split(".")[-1])
    first = body_statements(node)[0].lineno - 1
    lines = code.splitlines()
    while lines[first - 1].strip().startswith("#"):
        first -= 1
    begin, end = "    ### BEGIN SOLUTION", "    ### END SOLUTION"
    head = lines[:first]
    if question.docstring:  # what students read in place of the function's own docstring
        head = lines[: node.body[0].lineno - 1]
        text = question.docstring.strip().splitlines()
        head += [f'    """{text[0]}', *(f"    {line}".rstrip() for line in text[1:]), '    """']
    return "\n".join([*head, begin, *lines[first:], end])


def notebook(assignment: Assignment) -> dict:
    """The source version of an assignment's notebook: handout, answers, and cells that grade."""
    name = assignment.name
    cells = [_cell("markdown", handout(assignment))]
    cells.append(_cell("code", "from imagen_mini.course.nbgrader import paper_points, points"))
    # 1. Code: a cell for each function, and one that grades it.
    for i, q in enumerate(assignment.questions):
        cells.append(_cell("markdown", f"## {q.number}. `{q.function}`, in `{q.file}`"))
        # the answer sees all names of its module, private ones as well
        names = "globals().update({k: v for k, v in vars(module).items() if k[:2] != '__'})"
        cells.append(_cell("code", f"import {q.module} as module\n\n{names}"))
        solution = {"grade": False, "locked": False, "solution": True, "points": 0}
        cells.append(_cell("code", answer_cell(assignment, i), grade_id=q.name, **solution))
        test = f'points("{name}", "{q.name}", {q.function.split(".")[-1]})'
        graded = {"grade": True, "locked": True, "solution": False, "points": q.points}
        cells.append(_cell("code", test, grade_id=f"{q.name}-points", **graded))
    # 2. Figures and derivations, from their files.
    for kind, names_of in (("figure", assignment.figures), ("written", assignment.written)):
        for paper, there in names_of.items():
            test = f'paper_points("{name}", "{paper}")'
            graded = {"grade": True, "locked": True, "solution": False, "points": there}
            cells.append(_cell("markdown", f"## {kind}: {paper}"))
            cells.append(_cell("code", test, grade_id=f"{paper}-points", **graded))
    for i, cell in enumerate(cells):
        cell["id"] = cell["metadata"].get("nbgrader", {}).get("grade_id", f"cell-{i}")
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def notebook_bytes(assignment: Assignment) -> bytes:
    """The notebook as a file."""
    return (json.dumps(notebook(assignment), indent=1, ensure_ascii=False) + "\n").encode()


# ---------------------------------------------------------------- what the cells call


@lru_cache(maxsize=1)
def _grader(name: str) -> Grader:
    assignment = load_assignment(name)
    return Grader(assignment, Sandbox(assignment.preload, assignment.seconds, assignment.megabytes))


def points(name: str, question: str, function: Callable) -> float:
    """Grade a function of a notebook; print a reason for each loss.

    Args:
        name: The assignment.
        question: The name of the question.
        function: The answer. Helpers have to stand inside of it.

    Returns:
        The points, which nbgrader takes as partial credit.
    """
    grader = _grader(name)
    asked = grader.assignment.question(question)
    code = textwrap.dedent(inspect.getsource(function))
    blank = is_hole(find_function(code, function.__name__))
    if "." in asked.function:
        code = textwrap.indent(code, "    ")
    source = put_in(read_module(asked.module), asked.function, Answer(code, (), blank), asked.file)
    row = grader.grade_question(asked, _InMemory({asked.file: source}))
    print("\n".join([*row.reasons, *row.notes, f"{row.score:g} of {row.points:g} points"]))
    return row.score


def paper_points(name: str, paper: str, folder: str = ".") -> float:
    """Grade a figure or a derivation by the files of a folder; print a reason for each loss.

    Args:
        name: The assignment.
        paper: The name of the figure, or of the derivation.
        folder: Where figures/ and answers.toml are (default: here).

    Returns:
        The points, which nbgrader takes as partial credit.
    """
    rows = _grader(name).grade_figures_and_writing(Submission(folder), ())
    row = next(r for r in rows if r.name == paper)
    print("\n".join([*row.reasons, f"{row.score:g} of {row.points:g} points"]))
    return row.score


class _InMemory(Submission):
    """A submission that is one file."""

    def __init__(self, files: dict[str, str]):
        self.files = files

    def read(self, path: str) -> bytes | None:
        text = self.files.get(path)
        return None if text is None else text.encode()
