"""What an installed package holds beside Python: all data that its code reads."""

import subprocess
from pathlib import Path

import pytest
from setuptools import Distribution

from imagen_mini.course import build
from imagen_mini.course.assignment import ManifestError, load_assignment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def packaged():
    """The files of the package that setuptools puts into a wheel, as setup.cfg says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        distribution = Distribution({"script_name": "setup.py"})
        distribution.parse_config_files()
        distribution.include_package_data = False  # what MANIFEST files or git would add
        command = distribution.get_command_obj("build_py")
        command.ensure_finalized()
        data = {f"{folder}/{name}" for _, folder, _, names in command.data_files for name in names}
        modules = {Path(path).as_posix() for _, _, path in command.find_all_modules()}
        return {path.removeprefix("./") for path in data} | modules


def test_every_file_of_the_package_that_git_keeps_is_in_the_wheel(packaged):
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "imagen_mini"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("no clone")
    kept = {f for f in listed.stdout.splitlines() if (ROOT / f).is_file()}
    documents = {f for f in kept if f.endswith(".md") and "/course/" not in f}
    assert len(kept) > 200
    assert sorted(kept - documents - packaged) == []


def test_the_kit_is_in_the_wheel(packaged):
    for name in ("manifest.toml", "mistakes.toml", "forms.toml", "handout.md", "instructor.md"):
        assert f"imagen_mini/course/assignments/hw1/{name}" in packaged
    assert "imagen_mini/course/assignments/hw1/figures.template" in packaged
    assert "imagen_mini/course/gradescope/run_autograder" in packaged
    assert "imagen_mini/course/nursery.py" in packaged


def test_an_installed_package_can_build_without_the_repository(tmp_path, monkeypatch):
    """The licence and the dependencies are where pip has put them."""
    before = build.student_files(load_assignment("hw2"), weights=False)
    (tmp_path / "imagen_mini").symlink_to(ROOT / "imagen_mini")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    assert build.requirements(("torch",)).startswith("torch>=")
    assert build.requirements() == before["hw2/requirements.txt"].decode().replace(
        "pytest>=8\n", ""
    )
    assert build.read_file("LICENSE") == before["hw2/LICENSE"]
    with pytest.raises(ManifestError, match="imagen_mini/none.txt is missing"):
        build.read_file("imagen_mini/none.txt")
