"""Tests that say when an answer cannot be right. Passing them is necessary, and not enough: the
grader compares values.

    python -m pytest tests/test_hw4.py
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage, augment_low_res
from imagen_mini.models.unet import UNetConfig
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.text.encoder import TextEmbeddings
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.ema import EMA
from imagen_mini.training.loop import learning_rate, update_weights


def _stage(low_res_size: int | None = None) -> DiffusionStage:
    """A stage for images of 8 px with random weights."""
    torch.manual_seed(0)
    unet = UNetConfig(
        image_size=8, low_res_size=low_res_size, patch=1, channels=(16, 16), blocks=(1, 1),
        attention=("", "cross"), head_dim=16, emb_dim=16, text_width=16, text_layers=1,
    )  # fmt: skip
    stage = DiffusionStage(replace(PRESETS["tiny"]["base"], unet=unet))
    for p in stage.parameters():
        p.data = torch.randn(p.shape) / max(1, p[0].numel()) ** 0.5
    return stage


def _text(b: int = 2) -> TextEmbeddings:
    return TextEmbeddings(torch.randn(b, 3, 16), torch.ones(b, 3, dtype=torch.bool))


def _small(b: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(b, 3, 4, 4).tanh(), torch.linspace(0.2, 0.5, b), torch.randn(b, 3, 4, 4)


def test_augmentation_leaves_the_image_at_level_zero_and_noise_at_one():
    small, _, noise = _small()
    found = augment_low_res(small, torch.tensor([0.0, 1.0]), noise)
    assert torch.allclose(found[0], small[0], atol=0.02)
    assert torch.allclose(found[1], noise[1], atol=0.02)


def test_the_loss_depends_on_everything_that_super_resolution_is_given():
    stage, text = _stage(4), _text()
    x_0, eps, t = torch.randn(2, 3, 8, 8).tanh(), torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.7])
    small, level, noise = _small()
    loss = stage.loss(x_0, text, t, eps, small, level, noise)
    assert loss.shape == (2,) and loss.requires_grad and (loss > 0).all()
    for other in (
        stage.loss(x_0, text, t, eps, -small, level, noise),
        stage.loss(x_0, text, t, eps, small, level + 0.2, noise),
        stage.loss(x_0, text, t, eps, small, level, -noise),
    ):
        assert not torch.allclose(loss, other, rtol=1e-3)
    with pytest.raises(ValueError):
        stage.loss(x_0, text, t, eps, small)


@torch.no_grad()
def test_a_denoiser_gives_each_image_its_own_condition():
    stage, text, x_t = _stage(4), _text(), torch.randn(2, 3, 8, 8)
    small, level, _ = _small()
    both = stage.denoiser(text, small, level, 3.0, "none")(x_t, torch.tensor(0.5))
    for i in range(2):
        one = stage.denoiser(text[i : i + 1], small[i : i + 1], level[i : i + 1], 3.0, "none")
        assert torch.allclose(one(x_t[i : i + 1], torch.tensor(0.5))[0], both[i], atol=1e-4)
    with pytest.raises(ValueError):
        stage.denoiser(text, small)


def test_only_super_resolution_is_augmented():
    pipe = SimpleNamespace(device=torch.device("cpu"))
    request = SimpleNamespace(low_res=torch.zeros(2, 3, 4, 4), seeds=[3, 4])
    options = SimpleNamespace(aug_level=0.25)
    config = SimpleNamespace(name="sr_256")
    for larger in (False, True):
        stage = SimpleNamespace(is_super_resolution=larger, config=config)
        low_res, level = ImagenPipeline._augmented(pipe, stage, request, options)
        if larger:
            assert level.tolist() == [0.25, 0.25] and 0.2 < low_res.std() < 0.6
            assert not torch.equal(low_res[0], low_res[1])
        else:
            assert low_res is None and level is None


def test_the_average_lies_between_what_was_and_what_is():
    net = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(net.weight)
    average = EMA(net, 3)
    nn.init.ones_(net.weight)
    for step in range(1000, 1003):
        average.update(step)
    assert torch.allclose(average.weights["weight"], torch.full((2, 2), 0.5))
    assert (net.weight == 1).all()


def test_the_learning_rate_rises_and_falls():
    config = TrainConfig(steps=100, learning_rate=1.0, warmup=10, cooldown=0.5)
    rates = [learning_rate(config, step) for step in range(100)]
    assert math.isclose(rates[0], 0.1) and rates[10] == rates[49] == 1 and 0 < rates[99] < 0.05
    cosine = replace(config, lr_schedule="cosine")
    assert math.isclose(learning_rate(cosine, 55), 0.5)


def test_an_update_moves_the_weights_and_refuses_what_is_not_finite():
    stage = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(stage.weight)
    stage.config = SimpleNamespace(name="base")
    optimizers = {"sgd": torch.optim.SGD(stage.parameters(), lr=99.0)}
    stage.weight.grad = torch.full((2, 2), 3.0)
    norm = update_weights(stage, optimizers, EMA(stage, 3), 0, 0.1, 1.0, 0.5)
    assert math.isclose(norm, 6.0, rel_tol=1e-4)
    assert torch.allclose(stage.weight, torch.full((2, 2), -0.05), atol=1e-4)
    with pytest.raises(FloatingPointError):
        update_weights(stage, optimizers, EMA(stage, 3), 1, 0.1, 1.0, math.nan)
