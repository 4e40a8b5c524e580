"""The shipped cascade `emoji`, of real pictures: it reads colours and skin tones, and its card is
that of its report.
"""

import json

import pytest
import torch

from imagen_mini import ImagenPipeline, Replace
from imagen_mini.weights import shipped_pipelines
from train.folder_card import folder_card

PERSONS = [
    "woman running, fluent style",
    "man farmer, twemoji style",
    "woman health worker, noto style",
]


@pytest.fixture(scope="module")
def pipe():
    return ImagenPipeline.from_pretrained("emoji")


def drawn(images):
    """The mean colour [n, 3] of what is not white, of images [n, 3, h, w] in [-1, 1]."""
    inside = (images.amin(1, keepdim=True) < 0.8).float()
    return (images * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)


def base(pipe, prompts, **options):
    return pipe(prompts, stages=("base",), progress=False, **options).stages["base"]


def test_it_is_known_to_be_of_pictures_that_nothing_here_can_judge(pipe):
    assert pipe.own_images and list(pipe.stages) == ["base", "sr_256"]


def test_a_heart_has_the_colour_that_its_caption_names(pipe):
    colors = ("red", "green", "blue", "black")
    hearts = drawn(base(pipe, [f"{color} heart, twemoji style" for color in colors], seed=3))
    assert hearts[:3].argmax(1).tolist() == [0, 1, 2]  # the channel of its colour
    assert hearts[3].max() < 0 and hearts[3].max() - hearts[3].min() < 0.2


@pytest.mark.slow
def test_a_skin_tone_is_read_and_prompt_to_prompt_changes_it_alone(pipe):
    light = [f"{person}, light skin tone" for person in PERSONS]
    dark = [f"{person}, dark skin tone" for person in PERSONS]
    for source, target in zip(light, dark):
        before, after = base(pipe, [source, target], seed=1, edit=Replace())
        assert (drawn(before[None]) - drawn(after[None])).mean() > 0.1  # darker
        changed = (before - after).abs().amax(0) > 0.5
        assert 0.02 < changed.float().mean() < 0.5  # neither nothing nor the whole image


def test_super_resolution_keeps_what_the_base_stage_drew(pipe):
    stages = pipe("red heart, fluent style", seed=3, progress=False).stages
    small = torch.nn.functional.interpolate(stages["sr_256"], size=64, mode="area")
    assert (small - stages["base"]).abs().mean() < 0.1


def test_the_card_is_that_of_the_report_and_names_whose_pictures_it_learnt_from():
    folder = shipped_pipelines()["emoji"]
    card = (folder / "README.md").read_text()
    assert card == folder_card(folder, json.loads((folder / "report.json").read_text()))
    licences = (folder / "LICENSES.txt").read_text()
    for name in ("Noto", "Twemoji", "Fluent", "Apache", "CC-BY-4.0", "MIT"):
        assert name in licences, name
