"""The project: its checks, and the three examples, which have to pass them."""

import zipfile
from pathlib import Path

import pytest

from imagen_mini.course import build, release
from imagen_mini.course.project import Verdicts, _main, check_project, stated_numbers, summary

EXAMPLES = Path(__file__).parents[2] / "imagen_mini/course/assignments/project/examples"
PROPOSAL = """
kind = "claim"
team = ["A"]
[proposal]
hypothesis = "b is better"
metric = "share"
baseline = "a"
method = "b"
n = 30
stopping_rule = "all"
"""


def write(folder: Path, proposal: str = PROPOSAL, better: int = 12, n: int = 30) -> Path:
    """A project in which the baseline has 10 correct, and the method `better` more."""
    rows = ["prompt\tseed\ta\tb"]
    rows += [f"p{i}\t0\t{int(i < 10)}\t{int(i < 10 + better)}" for i in range(n)]
    (folder / "project.toml").write_text(proposal)
    (folder / "verdicts.tsv").write_text("\n".join(rows) + "\n")
    (folder / "run.py").write_text("")
    heads = "Question,What was done,Result,Ablation,Failures,What remains open".split(",")
    text = "\n".join(f"## {h}\n" for h in heads)
    numbers = stated_numbers(
        Verdicts([i < 10 for i in range(n)], [i < 10 + better for i in range(n)])
    )
    (folder / "report.md").write_text(text + ", ".join(numbers) + "\n")
    return folder


def test_a_complete_project_has_no_problems(tmp_path, capsys):
    assert check_project(write(tmp_path)) == []
    assert _main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "a: 10 of 30 (19 to 51 %)" in out and "b: 22 of 30" in out
    assert "difference: +40 points" in out


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (('"claim"', '"poem"'), "kind is 'poem'"),
        (("n = 30", "n = 12"), "n is 12"),
        (("n = 30", "n = 40"), "has 30 prompts; the proposal promised 40"),
        (('method = "b"', 'method = "a"'), "the same column"),
        (('method = "b"', 'method = "c"'), "no column 'c'"),
        (('stopping_rule = "all"', ""), "stopping_rule is missing"),
        (("[proposal]", "[proposal"), "is no TOML"),
    ],
)
def test_what_a_proposal_lacks_is_named(tmp_path, change, found):
    (problem,) = check_project(write(tmp_path, PROPOSAL.replace(*change)))
    assert found in problem


def test_a_report_has_to_say_what_its_verdicts_lead_to(tmp_path):
    write(tmp_path)
    report = tmp_path / "report.md"
    text = report.read_text()
    report.write_text(text.replace("22 of 30", "25 of 30").replace("## Failures", "## Success"))
    missing, number = check_project(tmp_path)
    assert "no section 'Failures'" in missing and "does not say '22 of 30'" in number
    report.write_text(text + "word " * 2000)
    assert "expected at most 2000" in check_project(tmp_path)[0]


def test_verdicts_are_paired_and_each_counts_once(tmp_path):
    table = write(tmp_path) / "verdicts.tsv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join([*rows[:-1], rows[1]]) + "\n")
    assert "comes more than once" in check_project(tmp_path)[0]
    table.write_text("\n".join([*rows[:-1], "p29\t0\t1\tyes"]) + "\n")
    assert "the verdict 'yes' in b" in check_project(tmp_path)[0]
    table.unlink()
    assert "verdicts.tsv is missing" in check_project(tmp_path)[0]


def test_milestones_ask_for_what_there_is_by_then(tmp_path):
    (tmp_path / "project.toml").write_text(PROPOSAL)
    assert check_project(tmp_path, "proposal") == []
    assert "verdicts.tsv is missing" in check_project(tmp_path, "baseline")[-1]
    write(tmp_path)
    only = [r.rpartition("\t")[0] for r in (tmp_path / "verdicts.tsv").read_text().splitlines()]
    (tmp_path / "verdicts.tsv").write_text("\n".join(only) + "\n")
    assert check_project(tmp_path, "baseline") == []
    assert "no column 'b'" in check_project(tmp_path)[0]


@pytest.mark.parametrize("name", ["claim", "dataset", "method"])
def test_the_examples_are_complete(name):
    assert check_project(EXAMPLES / name) == []
    assert "difference" in summary(EXAMPLES / name)
    compile((EXAMPLES / name / "run.py").read_text(), "run.py", "exec")


def test_the_project_is_built_and_released_by_the_commands_of_the_assignments(tmp_path, capsys):
    assert (
        build.build("project", tmp_path / "again")
        and build._main(["project", "--out", str(tmp_path), "--pdf"]) == 0
    )
    assert (tmp_path / "project-handout.pdf").read_bytes().startswith(b"%PDF")
    names = ("project-student.zip", "project-instructor.md")
    for name in names:
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    zipfile.ZipFile(tmp_path / names[0]).extractall(tmp_path / "student")
    given = tmp_path / "student" / "project"
    assert "## Milestones" in (given / "README.md").read_text()
    assert not list(given.rglob("instructor*"))
    assert check_project(given / "examples" / "claim") == []
    assert release._main(["project"]) == 0
    assert "project: ready for release" in capsys.readouterr().out


def test_a_project_without_code_has_no_notebook(tmp_path, capsys):
    with pytest.raises(SystemExit):
        build._main(["project", "--out", str(tmp_path), "--notebook"])
    assert "the project has no code questions" in capsys.readouterr().err
