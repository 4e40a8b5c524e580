"""A small training run, and what is measured of it."""

from dataclasses import replace

import pytest
import torch

from imagen_mini.cascade.config import PRESETS
from imagen_mini.course.small_run import (
    CORNER_COLORS,
    CORNER_SHAPES,
    CornerDataset,
    denoising_errors_at,
    diagnose_run,
    losses_by_bin,
    start_small_run,
)
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.scenes.scene import held_out
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.loop import NOISE_BINS, TrainState, train
from imagen_mini.weights import WEIGHTS

CONFIG = TrainConfig(steps=2, batch_size=4, precision="fp32")


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder.from_pretrained(WEIGHTS / "text_encoder")


def test_a_corner_shows_what_its_captions_say_and_a_shuffled_one_mostly_does_not():
    true, shuffled = (CornerDataset(0, of).batch(range(24), 64) for of in (False, True))
    assert torch.equal(true.images, shuffled.images) and sorted(true.captions) == sorted(
        shuffled.captions
    )
    assert all(judge_images(true.captions, true.images))
    assert sum(judge_images(shuffled.captions, shuffled.images)) < 8


def test_a_corner_has_all_its_kinds_but_those_held_out_and_is_a_function_of_number_and_seed():
    scenes = [CornerDataset(0).scene(i) for i in range(200)]
    kinds = {(o.color, o.shape) for s in scenes for o in s.objects}
    assert (
        len(kinds) == len(CORNER_COLORS) * len(CORNER_SHAPES) - 1
        and ("green", "square") not in kinds
        and not any(map(held_out, scenes))
    )
    assert CornerDataset(0).scene(3) == scenes[3] != CornerDataset(1).scene(3)


def test_losses_by_bin_are_means_over_samples_not_over_steps():
    empty = [0.0] * (NOISE_BINS - 1)
    states = [
        TrainState(1, 0, 0, 0, [3.0, *empty], [1, *map(int, empty)], 0),
        TrainState(2, 0, 0, 0, [3.0, *empty], [5, *map(int, empty)], 0),
    ]
    found = losses_by_bin(states)
    assert found[0] == 1.0 and all(v != v for v in found[1:])


def test_a_new_network_predicts_zero_and_its_error_says_so(encoder):
    stage, _, _ = start_small_run(PRESETS["tiny"]["base"], CONFIG)
    errors = denoising_errors_at(stage, encoder, CornerDataset(1), torch.tensor([0.1, 0.9]), n=6)
    expected = CornerDataset(1).batch(range(6), 64).images.square().mean()
    assert torch.allclose(errors, expected.expand(2), rtol=1e-5)


@pytest.mark.slow
def test_a_run_is_a_function_of_its_seed_and_is_examined_without_being_changed(encoder):
    ends = []
    for seed in (0, 0, 1):
        config = replace(CONFIG, seed=seed)
        stage, optimizers, ema = start_small_run(PRESETS["tiny"]["base"], config)
        states = list(train(stage, encoder, config, optimizers, ema, data=CornerDataset(seed)))
        before = {k: v.clone() for k, v in stage.net.state_dict().items()}
        diagnostics = {
            f.name: f for f in diagnose_run(stage, ema, encoder, CornerDataset(9), states, n=12)
        }
        assert set(diagnostics) == {
            "loss",
            "gradient norm",
            "captions",
            "colour",
            "saturation",
            "average",
            "dead gradients",
        }
        assert "only 2 lines" in diagnostics["loss"].message
        assert all(torch.equal(v, before[k]) for k, v in stage.net.state_dict().items())
        ends.append(states[-1].loss)
    assert ends[0] == ends[1] != ends[2]
