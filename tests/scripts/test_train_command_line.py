"""Mistakes on the command line of the scripts in `train` end in one line, before any work."""

import ast
import importlib
from pathlib import Path

import pytest

import sample
import train
from imagen_mini.utils.scripts import run_script
from imagen_mini.weights import WEIGHTS

SCRIPTS = sorted(
    file for room in (train, sample) for file in Path(room.__file__).parent.rglob("*.py")
)
BASE = str(WEIGHTS / "base")
ALREADY_CHECKED = {  # their functions refuse a folder that holds something else
    "sample/edit_image.py",  # sample.edit checks --out for all of its subcommands
    "train/download_dataset.py",
    "train/make_emoji_dataset.py",
}

# scripts, and what else they need to come to their output
FILES = {
    "benchmark_throughput": [],
    "excess_error": [],
    "overfit": [],
    "sample_timeline": [BASE],
    "scene_classifier": [],
    "time_to_score": [],
    "report": ["run", "--reference-from", BASE],
}
IMAGES = {"excess_error": [], "overfit": [], "sample_timeline": [BASE], "report": ["run"]}
FOLDERS = {"text_encoder": [], "interpolate": ["before", "after"]}


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    """Runs a script, and returns the last line that it ends with."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    (tmp_path / "a_folder").mkdir()

    def run(script, *arguments):
        main = importlib.import_module(f"train.{script}").main
        with pytest.raises(SystemExit) as ended:
            run_script(lambda: main(list(arguments)))
        said = capsys.readouterr()
        assert said.out == "", "it has begun to work"
        if isinstance(ended.value.code, int):
            assert ended.value.code != 0
            return said.err.splitlines()[-1]
        return ended.value.code

    return run


@pytest.mark.parametrize("script", FILES)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(refused, script):
    assert "a_file is a file; expected a folder" in refused(
        script, *FILES[script], "--out", "a_file/x.png"
    )
    assert "is a folder; expected a file" in refused(script, *FILES[script], "--out", "a_folder")


@pytest.mark.parametrize("script", IMAGES)
@pytest.mark.parametrize("name", ["no_ending", "x.xyz"])
def test_an_image_of_a_kind_that_cannot_be_written_is_refused_before_any_work(
    refused, script, name
):
    assert "expected one of .png" in refused(script, *IMAGES[script], "--out", name)


@pytest.mark.parametrize("script", FOLDERS)
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(refused, script):
    for name in ("a_file", "a_file/x"):
        message = refused(script, *FOLDERS[script], "--out", name)
        assert "expected a folder" in message or "nothing can be written" in message


def test_interpolation_replaces_stages_alone(refused, tmp_path):
    photo = tmp_path / "photos" / "1.png"
    photo.parent.mkdir()
    photo.touch()
    assert "holds something else" in refused("interpolate", BASE, BASE, "--out", "photos")
    assert "is what is interpolated" in refused("interpolate", BASE, BASE, "--out", BASE)
    assert photo.is_file()


@pytest.mark.parametrize("option", ["--checkpoint-dir", "--save"])
def test_other_folders_of_a_script_are_checked_as_well(refused, option):
    assert f"{option} a_file is a file" in refused("time_to_score", option, "a_file")


def test_a_file_that_holds_no_curve_is_named(refused):
    assert "a_file holds no curve" in refused("time_to_score", "--plot", "a_file", "--out", "x.png")


@pytest.mark.parametrize("device", ["nope", "cuda:99"])
@pytest.mark.parametrize(
    "command",
    [
        ["benchmark_throughput"],
        ["overfit"],
        ["report", "run"],
        ["profile_step"],
        ["estimate_cost", "--growth", "--measure"],
        ["scene_classifier", "--out", "x"],
        ["time_to_score"],
    ],
    ids=lambda command: command[0],
)
def test_a_device_that_is_not_there_is_a_plain_line(refused, command, device):
    assert f"device {device!r} cannot be used here" in refused(*command, "--device", device)


@pytest.mark.parametrize(
    "script, option, values",
    [
        ("benchmark_throughput", "--batch", "0 -1 1.5"),
        ("benchmark_throughput", "--text-length", "-1"),
        ("benchmark_throughput", "--rounds", "0"),
        ("benchmark_throughput", "--round", "0"),
        ("benchmark_throughput", "--threads", "0 -1"),
        ("excess_error", "--n", "0"),
        ("overfit", "--steps", "0"),
        ("overfit", "--learning-rate", "0 -1 nan inf"),
        ("sample_timeline", "--n", "0 -1"),
        ("scene_classifier", "--steps", "0 -1"),
        ("scene_classifier", "--batch", "0"),
        ("scene_classifier", "--rate", "0 -1 nan"),
        ("text_encoder", "--steps", "0"),
        ("text_encoder", "--batch", "0"),
        ("text_encoder", "--lr", "0 nan"),
        ("text_encoder", "--time-limit", "0 nan"),
        ("interpolate", "--share", "-0.1 1.1 nan"),
        ("profile_step", "--rounds", "0"),
        ("estimate_cost", "--rate", "0 nan inf"),
        ("estimate_cost", "--mfu", "0 1.1 nan"),
        ("report", "--n", "0"),
        ("time_to_score", "--minutes", "0 -1 nan inf"),
        ("time_to_score", "--eval-at", "0 1.1 nan"),
        ("time_to_score", "--seconds-per-step", "0 nan"),
        ("time_to_score", "--stop", "0"),
        ("time_to_score", "--n", "-1"),
        ("time_to_score", "--edits", "-1"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_option(refused, script, option, values):
    for value in values.split():
        message = refused(script, f"{option}={value}")
        assert f"argument {option}" in message and value in message


def test_every_script_checks_where_it_writes():
    """Whoever has an option --out calls `check_output_file` or `check_output_folder`."""
    unchecked = []
    for file in SCRIPTS:
        tree = ast.walk(ast.parse(file.read_text()))
        calls = [node for node in tree if isinstance(node, ast.Call)]
        options = {
            argument.value
            for call in calls
            if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
            for argument in call.args
            if isinstance(argument, ast.Constant)
        }
        checked = any(
            isinstance(call.func, ast.Name) and call.func.id.startswith("check_output_")
            for call in calls
        )
        name = "/".join(file.parts[file.parts.index(file.parent.name) :])
        if "--out" in options and not checked and name not in ALREADY_CHECKED:
            unchecked.append(name)
    assert unchecked == []
