"""Given images and their scores: what is rendered, and what counts as the same."""

import torch

from imagen_mini.editing.blending import DiffEditMask
from imagen_mini.editing.feature_injection import FeatureInjection
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Refine, Replace
from imagen_mini.evaluation.edit_benchmark import edit_tasks, swaps
from imagen_mini.evaluation.image_edits import (
    ROWS,
    ImageEditRow,
    given_image,
    reads_the_same,
    score_image_edit,
)
from imagen_mini.scenes.world import SCENES


def test_a_given_image_shows_its_caption_and_is_a_function_of_its_task():
    tasks = [task for of in edit_tasks(3, 2).values() for task in of]
    images = torch.cat([given_image(task, SCENES) for task in tasks])
    for task, image, parsed in zip(tasks, images, SCENES.parse_image(images)):
        assert task.source.description.fits(parsed.scene)
        assert torch.equal(given_image(task, SCENES)[0], image)
    assert len({image.numpy().tobytes() for image in images}) == len(tasks)


def test_a_moved_object_or_another_background_is_not_the_same_image():
    task = swaps("color", 1, 2)[0]
    image = given_image(task, SCENES)

    def same(other):
        return reads_the_same(task, *SCENES.parse_image(torch.cat([image, other])))

    assert same(image) and same((image * 127.5).round() / 127.5)
    assert not same(image.roll(8, -1)) and not same(torch.zeros_like(image))
    ground = image[:, :, :1, :1]
    repainted = torch.where((image - ground).abs().amax(1, keepdim=True) < 1e-3, -ground, image)
    assert not same(repainted)


def test_an_image_that_is_returned_as_it_was_keeps_everything_and_edits_nothing():
    task = swaps("shape", 1, 2)[0]
    (image,) = given_image(task, SCENES)
    score = score_image_edit(task, image, image, SCENES)
    assert score.counts and score.layout and score.kept and not score.success
    assert score.psnr == 60


def test_rows_have_names_of_their_own_and_the_edit_that_they_say():
    assert len({row.name for row in ROWS}) == len(ROWS)
    row = ImageEditRow("edict", "attention", (("strength", 0.5),))
    assert row.name == "edict, attention, strength 0.5"
    assert row.edit_for(Replace) == Replace() and row.edit_for(Refine) == Refine()
    assert ImageEditRow("ddim", "switching").edit_for(Replace) == PromptSwitching()
    assert ImageEditRow("ddim").edit_for(Replace) is None
    masked = Chain(Refine(), FeatureInjection(), DiffEditMask())
    assert ImageEditRow("edict", "attention, features and mask").edit_for(Refine) == masked
    alone = Chain(FeatureInjection(), DiffEditMask())
    assert ImageEditRow("edict", "features and mask").edit_for(Refine) == alone
    assert ImageEditRow("edict", "features").edit_for(Refine) == FeatureInjection()
