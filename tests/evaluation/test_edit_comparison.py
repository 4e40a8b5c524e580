"""Edits compared with each other and with the same seed."""

from dataclasses import replace

import torch

from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Refine, Replace
from imagen_mini.evaluation.edit_benchmark import swaps
from imagen_mini.evaluation.edit_comparison import (
    METHODS,
    compare_edits,
    compare_to_same_seed,
    edit_comparison_table,
    edit_methods,
    injection_of,
)
from imagen_mini.evaluation.statistics import format_share
from imagen_mini.scenes.captions import parse_caption
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject

SOURCE, TARGET = "a red ring", "a blue ring"


def test_images_beside_the_seed_are_those_of_the_pipeline(tiny_pipe):
    options = {"seed": 4, "stages": ("base",), "progress": False}
    seen = compare_to_same_seed(tiny_pipe, SOURCE, TARGET, 4, None, Replace())
    assert seen.shape == (3, 3, *[tiny_pipe.stages["base"].config.unet.image_size] * 2)
    assert torch.allclose(seen[1], tiny_pipe(TARGET, **options).stages["base"][0], atol=1e-4)
    assert torch.allclose(
        seen[[0, 2]],
        tiny_pipe([SOURCE, TARGET], edit=Replace(), **options).stages["base"],
        atol=1e-4,
    )
    assert torch.allclose(
        compare_to_same_seed(tiny_pipe, SOURCE, TARGET, 4, None), seen[:2], atol=1e-4
    )


def test_the_four_rows_separate_attention_from_prompt_switching():
    assert [injection_of(name) for name in ("shape swap", "size added")] == [Replace, Refine]
    edits = edit_methods(Replace)
    assert tuple(edits) == METHODS == tuple(edit_methods(Refine))
    both = Chain(PromptSwitching(), Replace(1.0))
    assert list(edits.values()) == [None, PromptSwitching(), Replace(), both]


def test_comparing_leaves_out_edits_whose_source_is_incorrect(tiny_pipe, monkeypatch):
    tasks, scene = (
        swaps("color", 2),
        Scene((SceneObject(30, 30, "circle", "red", "large", "solid"),), "white"),
    )
    assert compare_edits(tiny_pipe, tasks, {"none": None}).tasks == []  # an untrained network
    object.__setattr__(tasks[0].source, "description", parse_caption("a red circle"))
    object.__setattr__(tasks[0].target, "description", parse_caption("a blue circle"))
    monkeypatch.setattr(
        "imagen_mini.evaluation.edit_comparison.compare_to_same_seed",
        lambda *given: render([scene, edited, edited], 64),
    )
    edited = Scene((replace(scene.objects[0], color="blue"),), "white")
    found = compare_edits(tiny_pipe, tasks, {"none": None, "replace": Replace()})
    assert (
        found.tasks == tasks[:1]
        and [s.success for s in found.scores["replace"]] == [True]
        and len(found.images) == 1
    )
    assert "1 of 1 (21 to 100 %)" in edit_comparison_table(
        found.scores
    ) and "60 dB" in edit_comparison_table(found.scores)


def test_shares_have_their_interval():
    assert format_share([True] * 7 + [False]) == "7 of 8 (53 to 98 %)"
