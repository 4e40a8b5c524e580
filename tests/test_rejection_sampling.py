"""Rejection sampling: which images are kept, which seeds repeat them, and who may choose."""

import random
from dataclasses import replace

import pytest
import torch

from imagen_mini.rejection_sampling import SEED_STRIDE, caption_verifier, rejection_sample
from imagen_mini.scenes.studio import judge
from imagen_mini.scenes.world import WORLDS
from imagen_mini.weights import SECOND_STUDIO_JUDGE, STUDIO_JUDGE

PROMPTS = ["a red circle", "a blue ring", "a green star"]
SEEDS = [0, 7, 7]
FEW = {"num_inference_steps": 1, "progress": False}


class Scripted:
    """A verifier that says what it was told to, and remembers what it was asked."""

    def __init__(self, *verdicts):
        self.verdicts, self.asked = list(verdicts), []

    def __call__(self, captions, images):
        assert len(captions) == len(images) and images.abs().max() <= 1
        self.asked.append(captions)
        return self.verdicts.pop(0)


def test_what_is_rejected_is_sampled_again_and_the_seeds_repeat_what_is_kept(tiny_pipe):
    verifier = Scripted([False, True, False], [False, False], [True, False])
    found = rejection_sample(tiny_pipe, PROMPTS, SEEDS, verifier, attempts=3, **FEW)
    assert verifier.asked == [PROMPTS, [PROMPTS[0], PROMPTS[2]], [PROMPTS[0], PROMPTS[2]]]
    assert found.attempts == [3, 1, 3] and found.accepted == [True, True, False]
    assert found.seeds == [2 * SEED_STRIDE, 7, 7]  # of what was never accepted, the first one
    again = tiny_pipe(PROMPTS, seed=found.seeds, **FEW).stages
    assert list(found.stages) == list(again) == list(tiny_pipe.stages)
    for name, images in again.items():
        assert torch.allclose(found.stages[name], images, atol=1e-5)
        first = tiny_pipe(PROMPTS, seed=SEEDS, **FEW).stages[name]
        assert not torch.allclose(found.stages[name][0], first[0], atol=1e-2)


def test_what_is_accepted_at_once_is_not_sampled_again(tiny_pipe):
    said = ["a circle", "a ring", "a star"]
    verifier = Scripted([True] * 3)
    found = rejection_sample(tiny_pipe, PROMPTS, SEEDS, verifier, captions=said, **FEW)
    assert verifier.asked == [said] and found.attempts == [1, 1, 1] and found.seeds == SEEDS
    assert set(found.seconds) == set(tiny_pipe.stages)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"attempts": 0}, "0 attempts; expected"),
        ({"seeds": [1]}, "3 prompts, 1 seeds"),
        ({"captions": ["a ring"]}, "1 captions"),
        ({"verifier": Scripted([True])}, "1 verdicts of the verifier on 3 images"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_pipe, more, message):
    given = {"prompts": PROMPTS, "seeds": SEEDS, "verifier": Scripted([True] * 3)} | more
    with pytest.raises(ValueError, match=message):
        rejection_sample(tiny_pipe, **given, **FEW)


@pytest.mark.parametrize("name", WORLDS)
def test_true_images_are_accepted_and_those_of_other_captions_are_not(name):
    """By the second parser, where there is one: the first one is not asked."""
    world = WORLDS[name]
    captions = ["a large red circle", "a large blue square", "a large green ring"]
    scenes = [world.scene_matching(world.parse_caption(c), random.Random(c)) for c in captions]
    images = world.render(scenes)
    if world.second_parser is not None:
        world = replace(world, parser=lambda images: pytest.fail("asked the judge"))
    verifier = caption_verifier(world)
    assert verifier(captions, images) == [True, True, True]
    assert verifier(captions[1:] + captions[:1], images) == [False, False, False]
    assert verifier(captions, torch.rand_like(images)) == [False, False, False]
    assert verifier(["an astronaut"], images[:1]) == [True]


def test_the_second_parser_of_studio_has_a_network_of_another_form(monkeypatch):
    loaded, load = [], judge.load_reader

    def watched(device, folder=STUDIO_JUDGE):
        loaded.append((folder, type(load(device, folder))))
        return load(device, folder)

    monkeypatch.setattr(judge, "load_reader", watched)
    studio = WORLDS["studio"]
    image = studio.render(studio.scene_matching(studio.parse_caption("a star"), random.Random(0)))
    studio.parser(image)
    studio.second_parser(image)
    (first, form), (second, other_form) = loaded
    assert (first, second) == (STUDIO_JUDGE, SECOND_STUDIO_JUDGE) and form is not other_form
