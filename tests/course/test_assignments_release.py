"""What every assignment must hold before it is given to students, and the export to Gradescope."""

import json
import os
import subprocess
import sys

import pytest

from imagen_mini.course.assignment import assignment_names, load_assignment, read_module
from imagen_mini.course.build import grader_files, write_files
from imagen_mini.course.release import check_release


@pytest.mark.slow
@pytest.mark.parametrize("name", assignment_names())
def test_an_assignment_is_ready_for_release(name):
    assert check_release(name) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", assignment_names())
def test_it_grades_in_the_folders_of_gradescope(name, tmp_path):
    """/autograder with source, submission, results and submission_metadata.json."""
    assignment = load_assignment(name)
    write_files(tmp_path / "source", grader_files(assignment))
    submitted = {q.file: read_module(q.module).encode() for q in assignment.questions}
    submitted["answers.toml"] = b'student = "somebody.else@example.org"\n'
    write_files(tmp_path / "submission", submitted)
    users = {"users": [{"email": "a.student@example.org", "sid": "17"}]}
    (tmp_path / "submission_metadata.json").write_text(json.dumps(users))
    done = subprocess.run(
        ["bash", tmp_path / "source" / "run_autograder"],
        cwd=tmp_path,
        env={**os.environ, "AUTOGRADER": str(tmp_path), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert results["score"] == 60
    rows = {t["name"]: t for t in results["tests"]}
    assert sum(t["max_score"] for t in results["tests"]) == 100
    for kind, names in (("figure", assignment.figures), ("written", assignment.written)):
        for which in names:
            assert "'somebody.else@example.org'" in rows[f"{kind} {which}"]["output"]
    # the folder holds the copy of the package that graded
    asked = any(q.module.startswith("imagen_mini.training") for q in assignment.questions)
    assert (tmp_path / "source" / "imagen_mini" / "training").exists() == asked
    assert (tmp_path / "source").stat().st_mode & 0o077 == 0
