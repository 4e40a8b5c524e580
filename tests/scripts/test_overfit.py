"""The overfit check: it passes on the network as it is, and fails when something is wrong."""

import pytest
from PIL import Image

from imagen_mini.scenes.captions import training_caption
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import training_scene
from train import overfit


def check(tmp_path, capsys, *options):
    """(exit status, what it printed, size of the image)."""
    try:
        overfit.main(["--device", "cpu", "--out", str(tmp_path / "o.png"), *options])
        status = 0
    except SystemExit as stop:
        status = stop.code
    with Image.open(tmp_path / "o.png") as image:
        image.load()
    return status, capsys.readouterr().out, image.size


@pytest.mark.slow
def test_a_small_network_memorises_eight_images(tmp_path, capsys):
    status, out, size = check(tmp_path, capsys)
    assert status == 0 and "PASS: 8 of 8 images learned" in out, out
    assert out.count(": correct\n") >= 4, out  # the others: faint traces of other images
    assert size[0] > 8 * 128 and size[1] > 2 * 128


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--shuffle-captions"],
        ["--learning-rate", "1e-9"],
        ["--optimizer", "adamw", "--learning-rate", "1"],
    ],
)
def test_it_fails_when_captions_tell_nothing_or_nothing_is_learned(tmp_path, capsys, options):
    status, out, _ = check(tmp_path, capsys, *options)
    assert status == 1 and "FAIL: 0 of 8 images learned" in out, out


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--optimizer", "adamw", "--learning-rate", "1e-3"],
        ["--optimizer", "adafactor", "--learning-rate", "0.1"],
    ],
    ids=["adamw", "adafactor"],
)
def test_the_other_optimizers_learn_them_too(tmp_path, capsys, options):
    status, out, _ = check(tmp_path, capsys, *options, "--steps", "400")
    assert status == 0, out


def test_it_fails_early_on(tmp_path, capsys):
    status, out, _ = check(tmp_path, capsys, "--steps", "3")
    assert status == 1 and "FAIL: 0 of 8" in out


@pytest.fixture
def eight():
    scenes = [training_scene(0, i) for i in range(8)]
    return [training_caption(scene, 0, i) for i, scene in enumerate(scenes)], render(scenes, 64)


def test_the_images_themselves_are_learned_and_each_others_are_not(eight):
    captions, images = eight
    assert all(
        o.learned and o.verdict == "correct" and o.psnr > 100
        for o in overfit.judge_samples(captions, images, images)
    )
    swapped = overfit.judge_samples(captions, images, images.roll(1, 0))
    assert not any(o.learned for o in swapped) and not any(o.verdict == "correct" for o in swapped)


def test_a_correct_image_of_another_place_and_an_incorrect_one_that_is_near_are_not_learned(eight):
    captions, images = eight
    # the caption still holds
    (moved,) = overfit.judge_samples(captions[4:5], images[4:5], images[4:5].roll(4, -1))
    assert moved.verdict == "correct" and moved.psnr < overfit.MIN_PSNR and not moved.learned
    near = images[1:2].clone()
    near[0, :, 30:46, 52:64] = near[0, :, :1, :1]  # part of the triangle is painted over
    (cut,) = overfit.judge_samples(captions[1:2], images[1:2], near)
    assert cut.psnr > overfit.MIN_PSNR and cut.verdict != "correct" and not cut.learned
