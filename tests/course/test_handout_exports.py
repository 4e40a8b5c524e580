"""Handouts as PDF, and assignments as notebooks for nbgrader."""

import json
import sys

import pytest

from imagen_mini.course import nbgrader
from imagen_mini.course.assignment import load_assignment
from imagen_mini.course.build import _main, handout
from imagen_mini.course.handout_pdf import PdfError, handout_pdf

TEXT = """# Title

Some `code`, **`bold` words**, ä.

| | what |
|---|---|
| 1 | `a_b` |

    x_t  y
"""


def test_a_handout_becomes_the_same_pdf_every_time():
    pytest.importorskip("fpdf")
    pytest.importorskip("markdown_it")
    first = handout_pdf(TEXT)
    assert first.startswith(b"%PDF") and first == handout_pdf(TEXT)
    longer = handout_pdf(handout(load_assignment("hw1")))
    assert longer.count(b"/Type /Page\n") >= 2 and len(longer) > len(first)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fpdf", None)
    with pytest.raises(PdfError, match=r'fpdf2, which.*pip install "imagen_mini\[course\]"'):
        handout_pdf(TEXT)


def test_a_notebook_is_one_that_nbgrader_can_read():
    nbformat = pytest.importorskip("nbformat")
    assignment = load_assignment("hw2")
    found = json.loads(nbgrader.notebook_bytes(assignment))
    nbformat.validate(nbformat.from_dict(found))
    cells = [c for c in found["cells"] if "nbgrader" in c["metadata"]]
    graded = [c["metadata"]["nbgrader"] for c in cells if c["metadata"]["nbgrader"]["grade"]]
    assert sum(c["points"] for c in graded) == 100 and all(c["locked"] for c in graded)
    ids = [c["id"] for c in found["cells"]]
    assert len(set(ids)) == len(ids)
    # without what stands between the marks, nothing of a solution is left
    for cell in cells:
        if cell["metadata"]["nbgrader"]["solution"]:
            head, rest = cell["source"].split("    ### BEGIN SOLUTION\n")
            solution, end = rest.split("    ### END SOLUTION")
            assert end == "" and solution.strip() and "return" not in head.split('"""')[0]
            compile(head + "    pass\n", "cell", "exec")


def test_cells_of_a_notebook_give_points_and_reasons(monkeypatch, capsys, tmp_path):
    """For a function and for a method, as the cells define them."""
    import inspect

    namespace: dict = {}

    def answer(number: int, change=("", "")):
        text = nbgrader.answer_cell(load_assignment("hw1"), number).replace(*change)
        monkeypatch.setattr(inspect, "getsource", lambda _: text)
        exec("from __future__ import annotations\n" + text, namespace)
        return namespace[load_assignment("hw1").questions[number].function]

    assert nbgrader.points("hw1", "alpha_sigma", answer(0)) == 5
    wrong = answer(0, ("torch.sigmoid(-log_snr).sqrt()", "torch.sigmoid(-log_snr)"))
    assert nbgrader.points("hw1", "alpha_sigma", wrong) == 0
    assert "expected" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.toml").write_text('student = "me"\n[written]\neuler = 1.0\n')
    (tmp_path / "written.md").write_text("?")
    assert nbgrader.paper_points("hw1", "euler") == 0
    assert "not what the derivation leads to" in capsys.readouterr().out
    nbgrader._grader.cache_clear()


def test_the_command_line_writes_both(tmp_path, monkeypatch, capsys):
    pytest.importorskip("fpdf")
    monkeypatch.setattr("imagen_mini.course.build.build", lambda name, out: [])
    _main(["hw1", "--out", str(tmp_path), "--pdf", "--notebook"])
    assert (tmp_path / "hw1-handout.pdf").read_bytes().startswith(b"%PDF")
    assert json.loads((tmp_path / "hw1.ipynb").read_text())["nbformat"] == 4
