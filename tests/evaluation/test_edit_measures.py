"""What an edit leaves as it was: measures on images whose truth is known."""

from dataclasses import replace

import pytest
import torch
from support.scenes import one

from imagen_mini.evaluation.edit_benchmark import additions, swaps
from imagen_mini.evaluation.edit_measures import (
    changed_outside,
    place_of_edit,
    seam,
    self_similarity,
    self_similarity_distance,
    structure_distance,
)
from imagen_mini.evaluation.image_edits import given_scene
from imagen_mini.scenes.render import masks, render
from imagen_mini.scenes.scene import Scene
from imagen_mini.scenes.world import SCENES

RED, BLUE = one(x=18, y=32), one("square", "blue", "small", x=48, y=32)
SCENE = Scene((RED, BLUE), "gray")


def image_of(*objects, background="gray"):
    return render(Scene(objects, background), 64)[0]


def test_the_place_of_an_edit_is_around_its_object_and_nothing_else():
    for task in swaps("color", 6, 1):
        scene = given_scene(task, SCENES)
        place, of_objects = place_of_edit(task, scene), masks(scene, 64)
        obj = scene.objects.index(task.source.description.assign(scene)[task.obj])
        assert place[of_objects[obj]].all() and place.sum() > of_objects[obj].sum()
        assert not place[of_objects[[i for i in range(len(of_objects)) if i != obj]].any(0)].any()
    task = additions("background", 1, 1)[0]
    scene = given_scene(task, SCENES)
    assert torch.equal(place_of_edit(task, scene), ~masks(scene, 64).any(0))
    assert place_of_edit(task, None) is None and place_of_edit(task, SCENE) is None


def test_only_what_changes_outside_counts_and_less_than_a_level_does_not():
    image, place = torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.bool)
    place[:, :4] = True
    edited = image.clone()
    edited[:, :, :4] = 1.0
    assert changed_outside(image, edited, place) == 0
    edited[0, 0, 4:6] = 0.5
    edited[:, 1, 4:] = 1e-4
    assert changed_outside(image, edited, place) == pytest.approx(2 / 32)


def test_a_seam_is_the_jump_that_the_edit_added():
    place = torch.zeros(8, 8, dtype=torch.bool)
    place[2:6, 2:6] = True
    image = torch.linspace(-0.5, 0.5, 8).expand(3, 8, 8)
    assert seam(image, image, place) == 0
    flat = torch.zeros(3, 8, 8)
    assert seam(flat, flat + 0.3 * place, place) == pytest.approx(0.3, abs=1e-6)
    assert seam(flat + 0.3 * place, flat, place) == pytest.approx(-0.3, abs=1e-6)
    inside = flat.clone()
    inside[:, 3:5, 3:5] = 1.0  # an object away from the rim
    assert seam(flat, inside, place) == 0
    assert seam(flat, inside, torch.ones_like(place)) is None


def test_self_similarity_does_not_ask_which_features_but_what_belongs_together():
    torch.manual_seed(0)
    features = torch.randn(2, 6, 4, 4)
    same = self_similarity(features)
    assert torch.allclose(same.diagonal(dim1=1, dim2=2), torch.ones(2, 16))
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    turned = 3 * torch.einsum("dc,bchw->bdhw", rotation, features)
    assert self_similarity_distance(features, turned).max() < 1e-5
    assert self_similarity_distance(features, features.roll(1, 3)).min() > 0.1
    # two halves that are orthogonal, and one image of one kind: half of all pairs differ by 1
    halves, one_kind = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    halves[0, 0, :, 0] = halves[0, 1, :, 1] = 1
    assert self_similarity_distance(halves, one_kind).item() == pytest.approx(0.5**0.5)


def test_another_colour_is_a_smaller_distance_than_another_place():
    image = image_of(RED, BLUE)
    assert structure_distance(image, image) < 1e-5
    recolored = structure_distance(image, image_of(replace(RED, color="green"), BLUE))
    moved = structure_distance(image, image_of(replace(RED, y=14), BLUE))
    gone = structure_distance(image, image_of(BLUE))
    assert recolored < 0.7 * moved and recolored < 0.7 * gone
