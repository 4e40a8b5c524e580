"""What the weight of a word does, measured."""

import pytest
import torch

from imagen_mini.evaluation.word_weights import covered_share, sized_captions, spearman_with_order
from imagen_mini.scenes.captions import parse_caption
from imagen_mini.scenes.render import masks, render
from imagen_mini.scenes.scene import Scene, SceneObject

ONE = Scene((SceneObject(30, 30, "circle", "red", "large", "solid"),), "white")


def test_what_an_object_covers_is_its_mask():
    assert covered_share(render(ONE, 64)[0]) == pytest.approx(
        masks(ONE).float().mean().item(), rel=0.15
    )


def test_captions_that_say_a_size_say_it_of_one_object():
    descriptions = [parse_caption(caption) for caption in sized_captions(5, "large")]
    assert all(
        len(d.objects) == 1 and d.objects[0].size == "large" and d.objects[0].color
        for d in descriptions
    )


def test_rank_correlation():
    assert (
        spearman_with_order(torch.tensor([1.0, 2.0, 5.0])) == 1
        and spearman_with_order(torch.tensor([3.0, 2.0, 0.0])) == -1
    )
