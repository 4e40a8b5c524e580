"""Guides side by side: the control is the pipeline, and a guide that cheats is right."""

import json
import random

import pytest
import torch
from PIL import Image

from imagen_mini.editing.guides import Guide
from imagen_mini.evaluation.guide_comparison import (
    KINDS,
    captions_of_kind,
    compare_guides,
)
from imagen_mini.evaluation.noisy_classifier import NoisyClassifier, save_noisy_classifier
from imagen_mini.scenes.world import SCENES, WORLDS
from sample import compose as composing
from sample import guide as guiding


@pytest.mark.parametrize("world", WORLDS.values(), ids=lambda world: world.name)
def test_captions_of_every_kind_are_of_the_world_and_as_they_are_called(world):
    counts = {
        "two open colors": 2, "the number one": 1, "three shapes": 3, "four shapes": 4,
        "five objects": 5, "negation": 1, "binding": 2,
    }  # fmt: skip
    assert set(counts) == set(KINDS)
    for kind, objects in counts.items():
        captions = captions_of_kind(kind, 5, world)
        assert {len(c.description.objects) for c in captions} == {objects}
        assert captions == captions_of_kind(kind, 5, world) and len({c.text for c in captions}) > 2
    assert all("one " in c.text for c in captions_of_kind("the number one", 5, world))
    with pytest.raises(ValueError, match="kind 'six'; expected one of two open colors"):
        captions_of_kind("six", 1, world)


class Answer(Guide):
    """A guide that knows the answers."""

    def __init__(self, texts):
        self.images = SCENES.render(
            [SCENES.scene_matching(SCENES.parse_caption(t), random.Random(t)) for t in texts]
        )

    def wrap(self, call, denoise):
        return lambda x_t, t: self.images


def test_the_control_is_the_pipeline_and_differences_are_paired(tiny_pipe):
    captions = {"binding": captions_of_kind("binding", 3, SCENES)}
    seen = []
    control, right, idle = compare_guides(
        tiny_pipe,
        captions,
        {"answer": Answer, "idle": lambda texts: Guide()},
        2,
        seen.append,
        num_inference_steps=2,
    )
    texts = [c.text for c in captions["binding"]]
    plain = tiny_pipe(
        texts,
        seed=[0, 1, 2],
        stages=("base",),
        num_inference_steps=2,
        output_type="pt",
        progress=False,
    ).images
    assert torch.allclose(control.images, plain, atol=1e-4) and control.difference is None
    assert right.verdicts == [True] * 3 and right.difference.mean == 1 - sum(control.verdicts) / 3
    assert torch.allclose(idle.images, plain, atol=1e-4) and idle.difference.mean == 0
    assert [row.guide for row in seen] == ["plain", "answer", "idle"]


@pytest.fixture
def folder(tiny_pipe, tmp_path):
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    return tmp_path


def test_every_method_is_sampled_and_shown_beside_the_control(folder, monkeypatch, capsys):
    torch.manual_seed(0)
    save_noisy_classifier(NoisyClassifier(), folder / "n.safetensors")
    guiding.main(
        ["a red circle and a blue star", "--pipeline", str(folder / "pipe"), "--count", "2",
         "--steps", "1", "--out", str(folder / "out"), "--color", "red=0,0,0.5,0.5",
         "--classifier", str(folder / "n.safetensors"), "--method", *guiding.METHODS,
         "--most", "1"]
    )  # fmt: skip
    rows = json.loads((folder / "out" / "guide.json").read_text())["rows"]
    assert [row["guide"] for row in rows] == ["plain", *guiding.METHODS]
    assert "difference" in rows[1] and "difference" not in rows[0] and rows[0]["n"] == 2
    with Image.open(folder / "out" / "guide.png") as image:
        assert image.height > 8 * 100
    assert "against no guide" in capsys.readouterr().out


def test_what_a_method_needs_is_asked_for_before_anything_is_sampled(folder, monkeypatch):
    monkeypatch.setattr(guiding, "compare_guides", lambda *a, **k: pytest.fail("sampled"))
    pipe = ["--pipeline", str(folder / "pipe"), "--out", str(folder / "out")]
    for options, message in [
        (["a star", "--method", "color"], "--method color needs --color"),
        (
            ["a star", "--method", "color", "--color", "mauve=0,0,1,1"],
            "--color mauve; expected one",
        ),
        (["a star", "--method", "judge"], "--method judge needs --classifier FILE"),
        (["a dog"], "'a dog' is no caption of the world scenes"),
    ]:
        with pytest.raises(ValueError, match=message):
            guiding.main([*options, *pipe])
    with pytest.raises(SystemExit):
        guiding.main(["a star", "--box", "star=0,0,1", *pipe])


def test_a_text_is_taken_apart_at_and_and_not():
    parts = composing.parts_of_text("a star AND a ring NOT a blue ring", 0.4)
    assert parts == [("a star", 1.0), ("a ring", 1.0), ("a blue ring", -0.4)]
    assert composing.parts_of_text("a sand AND a star", 1)[0] == ("a sand", 1.0)
    for text in ("a star AND", "AND a star", "a star AND NOT a ring"):
        with pytest.raises(ValueError, match="there is no prompt beside"):
            composing.parts_of_text(text, 0.5)
    with pytest.raises(ValueError, match="says only what is not to be there"):
        composing.parts_of_text("NOT a ring", 0.5)


def test_a_composition_is_shown_beside_its_parts(folder):
    composing.main(
        ["a star AND a ring NOT a blue ring", "--pipeline", str(folder / "pipe"), "--count", "2",
         "--steps", "1", "--out", str(folder / "c.png")]
    )  # fmt: skip
    with Image.open(folder / "c.png") as image:
        assert image.width > 4 * 160 and image.height > 2 * 160
