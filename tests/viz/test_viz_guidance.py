"""What notebooks and scripts measure and draw of guidance and thresholds."""

import pytest
import torch

from imagen_mini import ImagenPipeline
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.viz.guidance import (
    at_scale,
    estimates,
    outside,
    plot_positions,
    plot_scales,
    saturation,
    scatter,
    share_of_large_objects,
    true_images,
)

PROMPTS = ["a red circle", "two blue squares"]


def obj(x, y, shape="circle", size="large"):
    return SceneObject(x=x, y=y, shape=shape, color="red", size=size, texture=None)


@pytest.fixture(scope="module")
def pipe():
    return ImagenPipeline.from_pretrained("scenes")


def test_saturation_counts_values_at_the_rim_and_beyond():
    x = torch.tensor([0.0, 0.5, -0.98, 0.99, -1.0, 3.0, 0.2, 0.1])
    assert saturation(x) == {
        "saturated": 0.375,
        "mean_abs": pytest.approx(x.abs().mean().item(), abs=1e-4),
    }


def test_outside_is_what_no_image_has():
    assert outside(torch.tensor([1.0, -1.04, 1.06, -3.0])) == 0.5


def test_estimates_are_those_of_the_base_stage_not_clamped(pipe):
    found = estimates(
        pipe, PROMPTS, [0, 1], num_inference_steps=3, guidance_scale=12.0, threshold="none"
    )
    assert (
        len(found) == 3
        and found[-1].shape == (2, 3, 64, 64)
        and max(x.abs().max() for x in found) > 1
    )
    generated = pipe(
        PROMPTS,
        seed=[0, 1],
        num_inference_steps=3,
        guidance_scale=12.0,
        threshold="none",
        stages=("base",),
        progress=False,
    )
    assert torch.equal(found[-1].clamp(-1, 1), generated.stages["base"])


def test_a_point_of_the_curve_counts_by_the_parser(pipe, monkeypatch):
    true = true_images(PROMPTS)
    assert judge_images(PROMPTS, true) == [True, True]
    monkeypatch.setattr(
        "imagen_mini.viz.guidance.estimates",
        lambda *_, **options: [2 * torch.ones(2), torch.stack([true[0], true[0]])],
    )
    row = at_scale(pipe, PROMPTS, [0, 1], 1.0)
    assert (row["w"], row["n"], row["right"], row["accuracy"]) == (1.0, 2, 1, 0.5) and row[
        "low"
    ] < 0.5 < row["high"]
    assert row["mean_abs"] == saturation(true[0])["mean_abs"] and row["outside"] == 1


def test_scatter_is_of_one_shape_and_in_both_directions():
    scenes = [
        Scene((obj(10, 20), obj(50, 50, "square")), "gray"),
        Scene((obj(14, 20), obj(9, 9, "square", "small")), "gray"),
    ]
    assert scatter(scenes, "circle") == (pytest.approx(8**0.5), 0)
    assert (
        all(v != v for v in scatter(scenes[:1], "circle"))
        and share_of_large_objects(scenes) == 0.75
        and share_of_large_objects([]) != share_of_large_objects([])
    )


def test_charts_show_every_line_and_every_object():
    rows = [
        {
            "w": w,
            "n": 4,
            "accuracy": 0.5,
            "low": 0.2,
            "high": 0.8,
            "saturated": 0.1,
            "mean_abs": 0.5,
        }
        for w in (1, 2, 4)
    ]
    sheet = plot_scales({"none": rows, "static": rows}, {"saturated": 0.3, "mean_abs": 0.6})
    assert [len(panel.get_lines()) for panel in sheet.axes] == [
        3,
        3,
        3,
    ] and "right of 4" in sheet.axes[0].get_title()
    assert [
        len(panel.get_lines()) for panel in plot_scales({"none": rows}, measures=["mean_abs"]).axes
    ] == [1, 1]
    scenes = {
        "w = 1": [Scene((obj(10, 20), obj(50, 50, "square")), "gray")],
        "w = 2": [Scene((obj(30, 20, size="small"),), "gray")],
    }
    first, second = plot_positions(scenes, ["circle", "square"]).axes
    assert first.get_title() == "w = 1" and [len(c.get_offsets()) for c in first.collections] == [
        1,
        1,
    ]
    assert [len(c.get_offsets()) for c in second.collections] == [1, 0] and first.yaxis_inverted()
    assert first.collections[0].get_sizes()[0] > second.collections[0].get_sizes()[0]
