"""Corrupted images, and the difference between an unreadable image and a misread one."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.scenes import one

from imagen_mini.evaluation.corruptions import gaussian_noise, jpeg
from imagen_mini.evaluation.parser_robustness import parse_outcome
from imagen_mini.scenes.captions import Description, ObjectDescription
from imagen_mini.scenes.parse import ParsedScene, parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import TEXTURES, Scene, training_scene
from imagen_mini.scenes.studio.reader import DilatedReader
from imagen_mini.scenes.world import WORLDS
from imagen_mini.utils.images import blur
from sample import parser_robustness as parser_check
from sample.parser_robustness import WAYS, measure

SCENES = [training_scene(0, i) for i in range(4)]


def test_noise_has_the_deviation_it_says_and_stays_in_range():
    noisy = gaussian_noise(torch.zeros(8, 3, 64, 64), 0.1)
    assert (
        noisy.std().item() == pytest.approx(0.1, rel=0.02)
        and gaussian_noise(render(SCENES, 64), 0.5).abs().max() <= 1
    )


@pytest.mark.parametrize("size", [64, 256])
def test_blur_keeps_flat_images_and_widens_an_edge_by_its_deviation(size):
    flat = torch.full((1, 3, size, size), 0.3)
    assert torch.allclose(blur(flat, 1.0), flat, atol=1e-5)
    edge = torch.ones(1, 3, size, size)
    edge[..., : size // 2] = -1
    # the derivative of a blurred edge is the kernel itself
    slope = torch.diff(blur(edge, 1.0)[0, 0, size // 2]) / 2
    at = torch.arange(1, size) / size * 64
    mean = (slope * at).sum()
    assert (slope * (at - mean) ** 2).sum().sqrt().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(blur(edge, 0), edge)


def test_jpeg_of_high_quality_changes_little_and_of_low_quality_much():
    true = render(SCENES, 64)
    good, bad = ((jpeg(true, q) - true).abs().mean().item() for q in (95, 10))
    assert good < 0.03 < bad
    assert jpeg(true, 90).shape == true.shape


def test_an_outcome_is_correct_unreadable_or_misread():
    scene, other = SCENES[:2]

    def read(as_what):
        return ParsedScene(as_what, None, (), () if as_what else ("blurred",))

    assert parse_outcome(scene, read(scene), 256) == "right"
    assert parse_outcome(scene, read(scene.without_texture()), 64) == "right"
    assert parse_outcome(scene, read(other), 256) == "misread"
    assert parse_outcome(scene, read(None), 256) == "unreadable"


@pytest.mark.parametrize("way", WAYS)
def test_hardly_corrupted_images_are_correct_and_ruined_ones_are_unreadable(
    way,
):
    rows = measure(12, 64, way)
    assert rows[0]["right"] == 12
    assert all(r["right"] + r["unreadable"] + r["misread"] == r["n"] for r in rows)
    assert rows[-1]["right"] < 12


def test_the_script_writes_a_figure_its_numbers_and_an_audit_grid(
    tiny_pipe, tmp_path, monkeypatch, capsys
):
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    monkeypatch.setattr(parser_check, "WAYS", {"noise, deviation": (gaussian_noise, (0, 0.1))})
    parser_check.main(
        [
            "--n",
            "2",
            "--audit",
            "5",
            "--out",
            str(tmp_path / "out"),
            "--pipeline",
            str(tmp_path / "pipe"),
            "--steps",
            "1",
        ]
    )
    found = json.loads((tmp_path / "out" / "parser.json").read_text())
    assert {
        size: [r["strength"] for r in ways["noise, deviation"]] for size, ways in found.items()
    } == {"64": [0, 0.1], "256": [0, 0.1]}
    planted = json.loads((tmp_path / "out" / "planted.json").read_text())
    assert planted["256"]["a hole"]["n"] == 2 and "two textures in one" not in planted["64"]
    for name in ("parser.png", "audit.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.width > 600


def test_the_script_compares_the_judge_of_studio_with_a_second_one(tmp_path, monkeypatch, capsys):
    """The second one has random weights, so it reads nothing, and agrees nowhere on true images."""
    save_file(DilatedReader().state_dict(), tmp_path / "64.safetensors")
    monkeypatch.setattr(parser_check, "WAYS", {"noise, deviation": (gaussian_noise, (0,))})
    monkeypatch.setattr(parser_check, "measure_planted_errors", lambda *a, **k: {})
    out = tmp_path / "out"
    command = ["--n", "2", "--out", str(out), "--second", str(tmp_path)]
    parser_check.main([*command, "--world", "studio"])
    found = json.loads((out / "agreement.json").read_text())
    assert set(found) == {"true images, 64 px", "true images, 256 px"}
    for row in found.values():
        assert (row["n"], row["agree"], row["both_read"], row["same_scene"]) == (2, 0, 0, 0)
    assert "both judges agree on 0 of 2" in capsys.readouterr().out
    studio = WORLDS["studio"]
    scenes = [studio.training_scene(0, i, (1,)) for i in range(2)]
    said = [Description((ObjectDescription(s.objects[0].shape),)) for s in scenes]
    parser_check.report_agreement("true images", studio.render(scenes, 64), tmp_path, said)
    assert "2 are correct by the first judge, 0 by the second; they say the same of 0" in (
        capsys.readouterr().out
    )
    with pytest.raises(SystemExit):
        parser_check.main(command)
    assert "--second is a judge of the world studio" in capsys.readouterr().err


def test_images_of_another_world_are_not_audited(tiny_pipe, tmp_path):
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    command = ["--out", str(tmp_path / "out"), "--world", "studio", "--audit", "5"]
    with pytest.raises(SystemExit, match="of the world scenes, and --world is studio"):
        parser_check.main([*command, "--pipeline", str(tmp_path / "pipe")])


@pytest.mark.parametrize("texture", TEXTURES[1:])
def test_a_texture_that_fades_is_read_or_not_but_not_taken_for_another_or_for_solid(texture):
    """Blurred up to where its eye can still tell it is there, at an RMS of 0.01 or more; noise
    alone makes no texture of a solid object.
    """
    image = render(Scene((one(texture=texture),), "white"), 256)
    parsed_scenes = [parse_image(blur(image, sigma))[0].scene for sigma in (0, 0.1, 0.2, 0.25)]
    assert parsed_scenes[0] is not None and all(
        scene is None or scene.objects[0].texture == texture for scene in parsed_scenes
    )
    solid = gaussian_noise(render(Scene((one(),), "white"), 256).expand(20, -1, -1, -1), 0.3)
    assert all(
        parsed.scene is not None and parsed.scene.objects[0].texture == "solid"
        for parsed in parse_image(solid)
    )
