"""The machinery of the graded assignments: holes, boxes, points, and what must not leak."""

import ast
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch

from imagen_mini.course import nursery
from imagen_mini.course.assignment import (
    Assignment,
    ManifestError,
    Question,
    Variant,
    assignment_names,
    load_assignment,
    load_variants,
    read_module,
    reference_code,
    with_body,
    with_code,
)
from imagen_mini.course.build import grader_files, student_files, write_files, write_zip
from imagen_mini.course.grade import (
    Grader,
    PointsRow,
    differs,
    expectation,
    gradescope_results,
    points_table,
)
from imagen_mini.course.holes import (
    HoleError,
    find_answer,
    find_function,
    is_hole,
    put_in,
    take_out,
)
from imagen_mini.course.leaks import find_leaks, solution_lines
from imagen_mini.course.release import (
    Checked,
    check_attacks,
    check_needs,
    grading_needs,
    lost_points,
)
from imagen_mini.course.sandbox import Outcome, Sandbox
from imagen_mini.course.submission import Submission, SubmissionError

SOURCE = '''\
import math

KNOWN = 2  # stays


def twice(x):  # of a number
    """2 x."""
    # a comment of the solution
    y = KNOWN * x
    return y


class Box:
    @staticmethod
    def half(x: float) -> float:
        return x / 2

    def other(self):
        return 1
'''


# ---------------------------------------------------------------- holes


def test_a_hole_keeps_signature_comments_and_docstring_and_nothing_of_the_body():
    holed = take_out(SOURCE, "twice", "hw9, question 1")
    assert "def twice(x):  # of a number" in holed and '"""2 x."""' in holed
    assert "KNOWN = 2  # stays" in holed and "a comment of the solution" not in holed
    assert "y = KNOWN * x" not in holed and 'raise NotImplementedError(\n        "hw9' in holed
    assert is_hole(find_function(holed, "twice")) and not is_hole(find_function(SOURCE, "twice"))
    assert ast.dump(find_function(holed, "Box.other")) == ast.dump(
        find_function(SOURCE, "Box.other"), include_attributes=False
    )


def test_a_method_without_docstring_and_another_docstring():
    holed = take_out(SOURCE, "Box.half", "write it", docstring="Half of x.\n\nOf any x.")
    node = find_function(holed, "Box.half")
    assert is_hole(node) and ast.get_docstring(node) == "Half of x.\n\nOf any x."
    assert "@staticmethod" in holed and "x / 2" not in holed


def test_a_function_that_is_gone_is_a_plain_error():
    with pytest.raises(HoleError, match="a.py does not define the function thrice"):
        take_out(SOURCE, "thrice", "?", where="a.py")
    with pytest.raises(HoleError, match="defines 2 times"):
        find_function(SOURCE + SOURCE, "twice")


def test_an_answer_brings_the_helpers_that_it_uses_and_nothing_else():
    submitted = (
        "import math\nfrom einops import rearrange\nimport os\nKNOWN = 3\nLIMIT = _low() + 1\n"
        "def _low():\n    return 0\ndef unused():\n    return os\n"
        "def twice(x):\n    return rearrange(LIMIT * math.pi * x, 'b -> b')\n"
    )
    answer = find_answer(submitted, SOURCE, "twice", "your file")
    assert [e.split("\n")[0] for e in answer.extras] == [
        "from einops import rearrange",
        "LIMIT = _low() + 1",
        "def _low():",
    ]
    joined = put_in(SOURCE, "twice", answer)
    assert "KNOWN = 2  # stays" in joined and "KNOWN = 3" not in joined and "unused" not in joined
    assert joined.index("LIMIT") < joined.index("def twice") and "a comment" not in joined
    ast.parse(joined)


# ---------------------------------------------------------------- manifests and archives


@pytest.mark.parametrize("name", assignment_names())
def test_every_manifest_fits_the_package(name):
    assignment = load_assignment(name)
    assert assignment.points == 100 and sum(q.points for q in assignment.questions) == 60
    assert sum(assignment.figures.values()) == 25 and sum(assignment.written.values()) == 15
    mistakes, forms = (load_variants(assignment, kind) for kind in ("mistakes", "forms"))
    assert len(mistakes) >= 12 and len(forms) >= 8
    assert {m.question for m in mistakes} == {q.name for q in assignment.questions}


def test_a_renamed_function_or_a_changed_one_breaks_the_build():
    gone = Question(1, "gone", "imagen_mini.diffusion.gaussian", "q_sampel", 5)
    with pytest.raises(ManifestError, match="q_sampel exactly once.*|rename it in the manifest"):
        reference_code(gone)
    moved = Question(1, "moved", "imagen_mini.diffusion.gauss", "q_sample", 5)
    with pytest.raises(ManifestError, match="no module imagen_mini.diffusion.gauss"):
        reference_code(moved)
    with pytest.raises(ManifestError, match="no assignment 'hw99'"):
        load_assignment("hw99")


@pytest.mark.parametrize("name", assignment_names())
def test_what_students_get_holds_no_solution(name, tmp_path):
    assignment = load_assignment(name)
    files = student_files(assignment, weights=False)
    assert list(find_leaks(assignment, files)) == []
    for question in assignment.questions:
        source = files[f"{name}/{question.file}"].decode()
        assert is_hole(find_function(source, question.function))
        assert f"{name}, question {question.number}" in source
    # the same bytes again
    write_zip(tmp_path / "a.zip", files)
    write_zip(tmp_path / "b.zip", dict(reversed(student_files(assignment, weights=False).items())))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert "run_autograder" in grader_files(assignment)


def test_copies_of_a_solution_are_found():
    assignment = load_assignment("hw1")
    clean = {
        path: data
        for path, data in student_files(assignment, weights=False).items()
        if "diffusion/" in path
    }

    def found(path: str, text: str) -> str:
        return "\n".join(find_leaks(assignment, clean | {f"hw1/{path}": text.encode()}))

    # the same formula with other variables, in another function
    copy = "def back(x_t, clean, a, b):\n    return (x_t - a * clean) / b\n"
    assert "computes what eps_from_x_0 does" in found("imagen_mini/utils/extra.py", copy)
    long = "def m(p, q, r, s, t, u, v):\n    return (p / q) * (r / s) ** 2 * t + (1 - u) * q * v\n"
    assert "computes what ddpm_step does" in found("imagen_mini/utils/extra.py", long)
    other = "def mixed(seen, light, share, rest):\n    return (seen - share * light) / rest\n"
    assert found("imagen_mini/utils/extra.py", other) == ""
    # a line of it in a text, with other spaces
    assert "a line of the solution of x_0_from_v" in found("notes.md", "alpha*x_t - sigma*v")
    assert "must not be there" in found(".git/objects/ab", "")
    assert "must not be there" in found("imagen_mini/__pycache__/a.pyc", "")
    assert "must not be there" in found("01_noise.ipynb", "{}")
    file = "imagen_mini/diffusion/gaussian.py"
    whole = read_module("imagen_mini.diffusion.gaussian")
    assert "still has the body of q_sample" in found(file, whole)


def test_the_name_of_a_call_alone_is_no_line_of_a_solution():
    code = (
        "def f(x):\n    return some_module.a_long_name(\n        x * 3 + a_long_name(x),\n    )\n"
    )
    assert solution_lines(code) == {"x*3+a_long_name(x),"}


def test_answers_may_use_what_numpy_imports_late(checked):
    """`numpy.quantile` imports `numpy.ma` when it is called, and the box cannot."""
    body = (
        "import numpy\nhalf = numpy.quantile(log_snr.numpy(), 0.5)\n"
        "a = log_snr + 0 * half\nreturn torch.sigmoid(a).sqrt(), torch.sigmoid(-a).sqrt()"
    )
    assert variant(checked, "alpha_sigma", body)["alpha_sigma"].score >= 2.5


# ---------------------------------------------------------------- submissions


def test_a_folder_or_a_zip_is_read_however_deep_it_lies(tmp_path):
    inner = tmp_path / "a" / "hw1" / "imagen_mini" / "diffusion"
    inner.mkdir(parents=True)
    (inner / "x.py").write_text("y = 1\r\n")
    (tmp_path / "a" / "hw1" / "answers.toml").write_text("")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(inner / "x.py", "hw1/imagen_mini/diffusion/x.py")
        archive.writestr("hw1/answers.toml", "")
        archive.writestr("__MACOSX/hw1/imagen_mini/diffusion/x.py", "junk")
    for path in (tmp_path / "a", tmp_path / "a.zip"):
        submission = Submission(path)
        assert submission.text("imagen_mini/diffusion/x.py") == "y = 1\n"
        assert submission.text("answers.toml") == "" and submission.text("other.py") is None


def test_links_and_large_files_are_not_followed(tmp_path):
    (tmp_path / "secret.py").write_text("answer")
    folder = tmp_path / "s" / "imagen_mini"
    folder.mkdir(parents=True)
    os.symlink(tmp_path / "secret.py", folder / "a.py")
    (folder / "b.py").write_bytes(b" " * (9 * 2**20))
    (folder / "c.py").write_bytes(b"\xff\xfe")
    submission = Submission(tmp_path / "s")
    assert submission.text("imagen_mini/a.py") is None
    with pytest.raises(SubmissionError, match="larger than 8 MB"):
        submission.text("imagen_mini/b.py")
    with pytest.raises(SubmissionError, match="UTF-8"):
        submission.text("imagen_mini/c.py")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        link = zipfile.ZipInfo("imagen_mini/a.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(tmp_path / "secret.py"))
        archive.writestr("../imagen_mini/d.py", "x")
    assert Submission(tmp_path / "z.zip").names == set()
    with pytest.raises(SubmissionError, match="neither a folder nor a zip"):
        Submission(tmp_path / "secret.py")


# ---------------------------------------------------------------- comparison


def test_float32_is_close_enough_and_little_else_is():
    call = lambda case: torch.sin(case["x"])
    case = {"x": torch.linspace(0, 3, 50, dtype=torch.float64)}
    expected = expectation(call, case)
    exact = torch.sin(case["x"])
    assert differs(Outcome((exact,)), expected, case) == ""
    assert differs(Outcome((torch.sin(case["x"].float()),)), expected, case) == ""
    assert "expected" in differs(Outcome((exact + 1e-4,)), expected, case)
    assert "shape is [49]" in differs(Outcome((exact[1:],)), expected, case)
    assert "nan" in differs(Outcome((exact * torch.nan,)), expected, case)
    assert "2 tensors, expected 1" in differs(Outcome((exact, exact)), expected, case)
    assert differs(Outcome(error="TypeError: no"), expected, case) == "TypeError: no"


def test_an_error_can_be_the_answer():
    def call(case):
        raise ValueError("pure noise")

    expected = expectation(call, {})
    assert differs(Outcome(error="ValueError: other words"), expected, {}) == ""
    assert "a ValueError was expected" in differs(Outcome((torch.ones(2),)), expected, {})


def test_results_for_gradescope_and_the_table():
    rows = [
        PointsRow("a", "1. a", 2.0, 3.0, ["-1 float32: off"]),
        PointsRow("b", "2. b", 4, 4, notes=["n"]),
    ]
    results = json.loads(json.dumps(gradescope_results(rows, 3.4)))
    assert results["score"] == 6 and [t["max_score"] for t in results["tests"]] == [3, 4]
    assert [t["status"] for t in results["tests"]] == ["failed", "passed"]
    assert "-1 float32: off" in results["tests"][0]["output"]
    assert "6.0 of 7" in points_table(rows) and "note: n" in points_table(rows)


# ---------------------------------------------------------------- in the box


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Two questions of assignment 1, with a sandbox."""
    whole = load_assignment("hw1")
    questions = tuple(q for q in whole.questions if q.name in ("alpha_sigma", "q_sample"))
    assignment = Assignment(**{**vars(whole), "questions": questions})
    reference = {f"hw1/{q.file}": read_module(q.module).encode() for q in questions}
    with Sandbox(seconds=1, megabytes=500, wall=20) as sandbox:
        grader = Grader(whole, sandbox)
        grader.assignment = assignment
        yield Checked(grader, reference, tmp_path_factory.mktemp("submissions"))


def variant(checked, name, body):
    question = checked.grader.assignment.question(name)
    return checked.code_rows(Variant(name, "", with_body(question, body)))


def test_the_reference_gets_all_and_a_mistake_loses_where_it_belongs(checked):
    assert lost_points(checked.code_rows()) == {}
    (mistake,) = (m for m in checked.grader.mistakes if m.title.startswith("noise added to an"))
    rows = checked.code_rows(mistake)
    assert lost_points(rows) == {"q_sample": 5}
    assert "the variance of x_t grows" in rows["q_sample"].reasons[0]
    assert "expected" in rows["q_sample"].reasons[0]


def test_answers_that_are_blank_broken_or_crash_lose_their_question_alone(checked, tmp_path):
    grader = checked.grader
    assert lost_points(variant(checked, "q_sample", "return None")) == {"q_sample": 5}
    rows = variant(checked, "q_sample", "return x_0 @ eps.nothing")
    assert "AttributeError" in rows["q_sample"].reasons[0]
    assert "return x_0 @ eps.nothing" in rows["q_sample"].reasons[0]
    rows = variant(checked, "q_sample", "raise NotImplementedError")
    assert rows["q_sample"].reasons == ["nothing was written yet"]
    changed = "a, s = alpha_sigma_like(log_snr, x_0)\nx_0 *= a\nx_0 += s * eps\nreturn x_0"
    rows = variant(checked, "q_sample", changed)
    assert lost_points(rows) == {} and "in place: x_0" in rows["q_sample"].notes[0]
    folder = tmp_path / "imagen_mini" / "diffusion"
    folder.mkdir(parents=True)
    (folder / "gaussian.py").write_text("def q_sample(:\n")
    rows = [grader.grade_question(q, Submission(tmp_path)) for q in grader.assignment.questions]
    assert "was not handed in" in rows[0].reasons[0]
    assert "gaussian.py, line 1 is not Python" in rows[1].reasons[0]
    assert [r.score for r in rows] == [0, 0]


def test_submissions_that_cheat_or_do_harm_gain_nothing(checked):
    """The quick ones; the release check tries all of them."""
    titles = ["ends the process", "kills the grader", "reads the reference", "writes a gigabyte"]
    assert list(check_attacks(checked, titles)) == []


def test_a_grader_that_an_attack_has_broken_is_found(checked, monkeypatch):
    """Whatever was graded before the attack."""
    assert lost_points(checked.code_rows()) == {}
    monkeypatch.setattr(Sandbox, "_ask", lambda *_: "lost")
    (found,) = check_attacks(checked, ["returns no tensor"])
    assert found.endswith("makes another question lose {'q_sample': 5.0}")


def test_without_the_walls_the_same_submissions_do_harm(checked, tmp_path, monkeypatch):
    """So the test above can fail."""
    source = Path(nursery.__file__).read_text()
    for wall, gap in (
        ("    os.chdir(box)\n", "    os.chdir(box)\n    return box\n"),
        ("    sys.addaudithook(guard(root))\n", ""),
    ):
        assert wall in source
        source = source.replace(wall, gap)
    (tmp_path / "nursery.py").write_text(source)
    monkeypatch.setattr(nursery, "__file__", str(tmp_path / "nursery.py"))
    with Sandbox(seconds=5, wall=30) as sandbox:
        grader = Grader(load_assignment("hw1"), sandbox)
        grader.assignment = checked.grader.assignment
        open_box = Checked(grader, checked.reference, tmp_path / "submissions")
        found = list(check_attacks(open_box, ["reads the reference", "runs a command"]))
    assert len(found) == 2 and "gets 5.0 points" in found[0] and "wrote a file" in found[1]


def test_a_box_cannot_see_files_of_the_grader_nor_answers_of_other_questions(checked, tmp_path):
    """What a function can read is told by what it raises."""
    secret = tmp_path / "secret.txt"
    secret.write_text("found it")
    secret.chmod(0o644)
    for body in (
        f"raise ValueError(open({str(secret)!r}).read())",
        f"import os\nraise ValueError(os.read(os.open({str(secret)!r}, 0), 99))",
        f"raise ValueError(bytes(torch.from_file({str(secret)!r}, size=8, dtype=torch.uint8)))",
    ):
        row = variant(checked, "alpha_sigma", body)["alpha_sigma"]
        assert row.score == 0 and row.reasons
        assert "found it" not in " ".join(row.reasons)
    # its own function is the only one in the box that was submitted
    look = "import inspect\nfrom imagen_mini.diffusion import gaussian\n"
    row = variant(checked, "alpha_sigma", look + "raise ValueError(inspect.getsource(alpha_sigma))")
    assert "torch.sigmoid(log_snr)" not in " ".join(row["alpha_sigma"].reasons)


@pytest.mark.slow
def test_grading_is_measured_beside_pytorch_alone(tmp_path):
    """Whatever build of PyTorch there is, what grading adds to it is limited."""
    whole = load_assignment("hw1")
    submitted = {f"hw1/{q.file}": read_module(q.module).encode() for q in whole.questions[:2]}
    write_files(tmp_path / "submission", submitted)
    needs = grading_needs(whole, tmp_path / "submission", tmp_path / "grader")
    assert 100 < needs["torch"] < 1000 and 0 < needs["megabytes"] < 300
    assert 0 < needs["seconds"] and list(check_needs(needs | {"seconds": 1.0})) == []
    (found,) = check_needs({"torch": 507.0, "megabytes": 301.0, "seconds": 30.0})
    assert found == "grading needs 301 megabytes beyond PyTorch's 507; expected at most 300"
    (found,) = check_needs({"torch": 507.0, "megabytes": 300.0, "seconds": 31.0})
    assert found == "grading needs 31 seconds; expected at most 30"


def test_a_submission_is_run_once_for_the_same_code(checked):
    checked.code_rows()
    before = checked.grader.sandbox.runs
    checked.code_rows()
    assert checked.grader.sandbox.runs == before
    question = checked.grader.assignment.questions[0]
    text = with_code(read_module(question.module), question, reference_code(question))
    assert text == read_module(question.module)
