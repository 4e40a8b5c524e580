"""Where two lines are equally accurate, on lines that are known; and the command that measures
them.
"""

import json

import pytest
import torch
from PIL import Image

from imagen_mini.evaluation.equal_accuracy import at_accuracy, common_accuracy
from imagen_mini.evaluation.noisy_classifier import NoisyClassifier, save_noisy_classifier
from sample import classifier_guidance as comparing


def line(*points):
    return [dict(zip(("scale", "accuracy", "frechet"), point)) for point in points]


RISING = line((1, 0.5, 2.0), (2, 0.7, 3.0), (4, 0.9, 7.0), (8, 0.6, 20.0))


def test_between_two_points_a_line_is_straight():
    found = at_accuracy(RISING, 0.6)
    assert (found.scale, found.accuracy, found.frechet) == pytest.approx((1.5, 0.6, 2.5))
    found = at_accuracy(RISING[::-1], 0.85)  # in any order
    assert (found.scale, found.frechet) == pytest.approx((3.5, 6.0))


def test_a_measured_point_is_found_itself_and_the_first_crossing_counts():
    assert at_accuracy(RISING, 0.9).scale == 4 and at_accuracy(RISING, 0.7).frechet == 3.0
    falling_again = line((1, 0.2, 1.0), (2, 0.8, 2.0), (3, 0.2, 3.0), (4, 0.9, 4.0))
    assert at_accuracy(falling_again, 0.5).scale == pytest.approx(1.5)


def test_what_a_line_does_not_reach_is_none_and_what_it_begins_above_is_its_first_point():
    assert at_accuracy(RISING, 0.95) is None
    assert at_accuracy(RISING, 0.4).scale == 1
    assert at_accuracy(RISING, 0.4).accuracy == 0.5


def test_the_common_accuracy_is_the_best_of_the_worse_line():
    other = line((0, 0.5, 2.0), (1, 0.8, 2.5))
    assert common_accuracy([RISING, other]) == 0.8
    for lines in ([], [RISING, []]):
        with pytest.raises(ValueError, match="a line has no measurements"):
            common_accuracy(lines)
    with pytest.raises(ValueError, match="no measurements"):
        at_accuracy([], 0.5)


@pytest.fixture
def command(tiny_pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(
        comparing,
        "make_feature_extractor",
        lambda name: lambda images: images.flatten(1)[:, ::2000],
    )
    torch.manual_seed(0)
    save_noisy_classifier(NoisyClassifier(), tmp_path / "n.safetensors")
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    return ["--pipeline", str(tmp_path / "pipe"), "--classifier", str(tmp_path / "n.safetensors"),
            "--n", "4", "--true", "6", "--steps", "2", "--out", str(tmp_path / "out")]  # fmt: skip


def test_both_forms_are_measured_kept_and_shown(command, tmp_path, monkeypatch, capsys):
    comparing.main([*command, "--w", "1", "3", "--s", "0", "2"])
    page = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "equal_accuracy.json").read_text())
    assert list(found["lines"]) == ["ddim", "ddpm"]
    for of in found["lines"].values():
        free, classified = of["classifier-free"], of["classifier"]
        assert [r["scale"] for r in free] == [1, 3] and [r["scale"] for r in classified] == [0, 2]
        # w = 1 and s = 0 are both the network alone
        assert free[0]["frechet"] == pytest.approx(classified[0]["frechet"], rel=1e-4)
        assert free[1]["frechet"] != pytest.approx(free[0]["frechet"], rel=1e-3)
        assert classified[1]["frechet"] != pytest.approx(classified[0]["frechet"], rel=1e-6)
    ddim, ddpm = (found["lines"][s]["classifier"][0]["frechet"] for s in ("ddim", "ddpm"))
    assert ddim != pytest.approx(ddpm, rel=1e-3)
    assert "at equal accuracy" in page
    with Image.open(tmp_path / "out" / "equal_accuracy.png") as image:
        assert image.width > 600
    # the same command again samples nothing
    monkeypatch.setattr(comparing, "sample_images", lambda *a, **k: pytest.fail("sampled"))
    comparing.main([*command, "--w", "1", "3", "--s", "0", "2"])
    assert json.loads((tmp_path / "out" / "equal_accuracy.json").read_text()) == found


def test_a_classifier_of_another_size_or_world_is_refused(command, tmp_path):
    save_noisy_classifier(NoisyClassifier(32), tmp_path / "n.safetensors")
    with pytest.raises(ValueError, match="reads images of 32 px of the world scenes, and the"):
        comparing.main([*command])
