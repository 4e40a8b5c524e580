"""What is measured of guidance and thresholds."""

import pytest
import torch

from imagen_mini import ImagenPipeline
from imagen_mini.evaluation.guidance_measures import (
    measure_at_scale,
    position_spread,
    render_matching,
    saturation,
    share_of_large_objects,
    share_out_of_range,
    x_0_hat_trajectory,
)
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.scenes.scene import Scene, SceneObject

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
    assert share_out_of_range(torch.tensor([1.0, -1.04, 1.06, -3.0])) == 0.5


def test_the_trajectory_is_that_of_the_base_stage_not_clamped(pipe):
    found = x_0_hat_trajectory(
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
    true = render_matching(PROMPTS)
    assert judge_images(PROMPTS, true) == [True, True]
    monkeypatch.setattr(
        "imagen_mini.evaluation.guidance_measures.x_0_hat_trajectory",
        lambda *_, **options: [2 * torch.ones(2), torch.stack([true[0], true[0]])],
    )
    row = measure_at_scale(pipe, PROMPTS, [0, 1], 1.0)
    assert (row["w"], row["n"], row["right"], row["accuracy"]) == (1.0, 2, 1, 0.5) and row[
        "low"
    ] < 0.5 < row["high"]
    assert row["mean_abs"] == saturation(true[0])["mean_abs"] and row["outside"] == 1


def test_spread_is_of_one_shape_and_in_both_directions():
    scenes = [
        Scene((obj(10, 20), obj(50, 50, "square")), "gray"),
        Scene((obj(14, 20), obj(9, 9, "square", "small")), "gray"),
    ]
    assert position_spread(scenes, "circle") == (pytest.approx(8**0.5), 0)
    assert (
        all(v != v for v in position_spread(scenes[:1], "circle"))
        and share_of_large_objects(scenes) == 0.75
        and share_of_large_objects([]) != share_of_large_objects([])
    )
