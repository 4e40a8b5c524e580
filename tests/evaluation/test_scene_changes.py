"""What differs between two scenes, and the commands that ask for it."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from imagen_mini.evaluation.noisy_classifier import NoisyClassifier, save_noisy_classifier
from imagen_mini.evaluation.scene_changes import (
    changed_attributes,
    count_changes,
    describe_changes,
)
from imagen_mini.scenes.scene import Scene, SceneObject
from sample import directions as showing
from sample import inject as injecting

STAR = SceneObject(x=20, y=20, shape="star", color="red", size="large", texture=None)
RING = SceneObject(x=44, y=40, shape="ring", color="blue", size="small", texture=None)
SCENE = Scene((STAR, RING), "white")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (SCENE, []),
        (Scene((replace(STAR, x=23), RING), "white"), []),  # by 1.5 of 64 on average
        (Scene((replace(STAR, x=40, y=20), RING), "white"), ["place"]),
        (Scene((replace(STAR, x=44, y=40), replace(RING, x=20, y=20)), "white"), ["place"]),
        (Scene((replace(STAR, color="green"), RING), "black"), ["color", "background"]),
        (Scene((replace(STAR, color="blue"), replace(RING, color="red")), "white"), ["color"]),
        (Scene((replace(STAR, size="small"), RING), "white"), ["size"]),
        (Scene((STAR,), "white"), ["count", "shape", "color", "size"]),
        (Scene((STAR, RING, replace(RING, x=10)), "white"), ["count"]),
        (replace(SCENE, light="left"), ["light"]),
    ],
)
def test_what_differs_is_named(after, expected):
    assert changed_attributes(SCENE, after) == expected


def test_changes_are_counted_over_what_can_be_read():
    small = Scene((replace(STAR, size="small"), RING), "white")
    found = count_changes([SCENE, SCENE, None, SCENE], [small, None, SCENE, SCENE])
    assert (found["n"], found["unreadable"], found["size"], found["color"]) == (2, 1, 1, 0)
    assert describe_changes(found) == "size 1 of 2; 1 unreadable"
    assert describe_changes(count_changes([SCENE], [SCENE])) == "nothing in 1"
    with pytest.raises(ValueError, match="1 scenes before and 2 after"):
        count_changes([SCENE], [SCENE, SCENE])


@pytest.fixture
def command(tiny_pipe, tmp_path):
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    return ["--pipeline", str(tmp_path / "pipe"), "--out", str(tmp_path / "out"), "--count", "2",
            "--steps", "2", "--precision", "fp32"]  # fmt: skip


@pytest.mark.parametrize("method", ["jacobian", "paired", "optimize", "classifier"])
def test_directions_of_every_method_are_found_and_shown(command, tmp_path, method, capsys):
    options = {
        "jacobian": ["--directions", "2", "--iterations", "1"],
        "paired": ["--method", "paired", "--to", "a star"],
        "optimize": ["--method", "optimize", "--color", "red=0,0,0.5,0.5", "--iterations", "2"],
        "classifier": ["--method", "optimize", "--to", "a star", "--iterations", "2",
                       "--classifier", str(tmp_path / "n.safetensors")],
    }[method]  # fmt: skip
    if method == "classifier":
        torch.manual_seed(0)
        save_noisy_classifier(NoisyClassifier(), tmp_path / "n.safetensors")
    showing.main(["a red circle", *command, *options, "--strengths", "-50", "-9", "50"])
    page = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "directions.json").read_text())
    n = 2 if method == "jacobian" else 1
    assert [row["strength"] for row in report["rows"]] == [-50.0, -9.0, 0.0, 50.0] * n
    assert [row["direction"] for row in report["rows"]] == [i for i in range(n) for _ in range(4)]
    assert f"direction {n - 1}:" in page and page.count("(from -50:") == n
    with Image.open(tmp_path / "out" / "directions.png") as image:
        assert image.height > n * 100


def test_the_options_of_a_method_are_asked_for(command):
    for options, message in [
        (["--method", "paired"], "--method paired needs --to"),
        (["--method", "optimize"], "--method optimize needs --color"),
        (["--method", "optimize", "--color", "mauve=0,0,1,1"], "--color mauve; expected one"),
    ]:
        with pytest.raises(ValueError, match=message):
            showing.main(["a red circle", *command, *options])


def test_content_is_injected_and_counted(command, tmp_path, capsys):
    injecting.main(["a red circle", "a blue star on a black background", *command,
                    "--shares", "0.5", "1"])  # fmt: skip
    assert "that of the content image / of the style image" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "inject.json").read_text())["rows"]
    assert [row["share"] for row in rows] == [0, 0.5, 1]
    style = rows[0]
    assert all(style["as style"][a] == style["n"][1] for a in style["as style"])
    with Image.open(tmp_path / "out" / "inject.png") as image:
        assert image.height > 2 * 100
