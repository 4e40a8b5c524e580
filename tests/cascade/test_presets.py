"""The presets: what they hold, counted without allocating it, against what the paper states."""

import json
from dataclasses import replace

import pytest
import torch

from imagen_mini.cascade.config import PRESETS, StageConfig
from imagen_mini.models.attention import Attention
from imagen_mini.models.control import AttentionSite
from imagen_mini.models.layers import Downsample, ResBlock, Upsample
from imagen_mini.models.unet import UNet
from imagen_mini.training.config import TRAIN_PRESETS
from imagen_mini.utils.configuration import from_dict
from imagen_mini.weights import WEIGHTS

PAPER = PRESETS["paper"]


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def size(preset, stage):
    with torch.device("meta"):
        return parameters(UNet(PRESETS[preset][stage].unet))


def test_every_stage_of_every_preset_has_a_recipe_and_can_be_built():
    assert {preset: list(stages) for preset, stages in TRAIN_PRESETS.items()} == {
        preset: list(stages) for preset, stages in PRESETS.items()
    }
    for preset, stages in PRESETS.items():
        assert all(
            config.name == name and size(preset, name) > 0 for name, config in stages.items()
        )


def test_the_stages_of_a_cascade_fit_together():
    for stages in PRESETS.values():
        units = [config.unet for config in stages.values()]
        assert [u.low_res_size for u in units[1:]] == [u.image_size for u in units[:-1]]
        assert len({u.text_width for u in units}) == 1


@pytest.mark.parametrize("stage", ["base", "sr_256"])
def test_the_preset_of_the_shipped_cascade_is_the_configuration_beside_its_weights(stage):
    values = json.loads((WEIGHTS / stage / "config.json").read_text())["stage"]
    config = from_dict(StageConfig, values)
    assert config.text_encoder is not None
    assert replace(config, text_encoder=None) == PRESETS["shipped"][stage]
    assert json.loads((WEIGHTS / "model_index.json").read_text())["stages"] == list(
        PRESETS["shipped"]
    )


@pytest.mark.parametrize("stage", ["base", "sr_256"])
def test_small_is_of_the_size_it_says(stage):
    assert 50e6 < size("small", stage) < 100e6


# "we train a 2B parameter model for the 64 x 64 text-to-image synthesis, and 600M and 400M
# parameter models for 64 x 64 -> 256 x 256 and 256 x 256 -> 1024 x 1024 for superresolution"
# (Imagen, Section 4.1). The tolerance is wide for the reasons given beside the preset: what our
# U-Net cannot say (next test), and two listings that differ by one kind of attention but have 600 M
# and 400 M parameters.
@pytest.mark.parametrize("stage, stated", [("base", 2e9), ("sr_256", 600e6), ("sr_1024", 400e6)])
def test_the_paper_presets_have_roughly_the_number_of_parameters_that_the_paper_states(
    stage, stated
):
    assert size("paper", stage) == pytest.approx(stated, rel=0.27)


def test_what_the_base_lacks_of_the_papers_network_is_the_difference_to_two_billion():
    """F.1 adapts the network of Dhariwal and Nichol (2021), whose code has, beyond ours: one more
    block a level on the way up, with its attention, each of which takes a skip connection, and
    residual blocks ("biggan") that change the resolution.
    """
    c = PAPER["base"].unet
    missing = 0
    with torch.device("meta"):

        def block(channels_in, channels):
            return ResBlock(channels_in, channels, c.emb_dim)

        for channels, kind, n in zip(c.channels, c.attention, c.blocks):
            ours, theirs = (
                [block(2 * channels, channels), *[block(channels, channels)] * (n - 1)],
                [block(2 * channels, channels)] * (n + 1),
            )
            missing += parameters(*theirs) - parameters(*ours)
            if kind:
                missing += parameters(
                    Attention(AttentionSite("", "up", kind, 1), channels, c.text_width, c.head_dim)
                )
        for above, below in zip(c.channels, c.channels[1:]):
            missing += parameters(block(above, above), block(below, below)) - parameters(
                Downsample(above, below), Upsample(below, above)
            )
    # "2B" has one digit
    assert size("paper", "base") < 2e9 < size("paper", "base") + missing < 2.5e9
    print(
        f"{size('paper', 'base') / 1e9:.2f} B here, "
        f"{(size('paper', 'base') + missing) / 1e9:.2f} B with what is missing"
    )


def test_self_attention_does_not_explain_the_difference_of_the_papers_super_resolution_networks():
    with torch.device("meta"):
        site = PAPER["sr_256"].unet.grids[-1]
        both = [
            Attention(AttentionSite("", "mid", kind, site), 1024, 4096, 128)
            for kind in ("hybrid", "cross")
        ]
    assert 3 * (parameters(both[0]) - parameters(both[1])) < 0.05 * 200e6


def test_the_paper_presets_have_the_listings_numbers():
    """Appendix F.1 to F.3."""
    base, sr, last = (PAPER[name].unet for name in ("base", "sr_256", "sr_1024"))
    assert (
        base.channels == tuple(512 * m for m in (1, 2, 3, 4))
        and base.blocks == (3,) * 4
        and base.head_dim == 64
    )
    assert [grid for grid, kind in zip(base.grids, base.attention) if kind] == [32, 16, 8]
    for unet in (sr, last):
        assert (
            unet.channels == (128, 256, 512, 1024)
            and unet.blocks == (2, 4, 8, 8)
            and unet.channels[-1] // unet.head_dim == 8
        )
        assert [bool(kind) for kind in unet.attention] == [False, False, False, True]
        # four strides of 2
        assert unet.grids == tuple(unet.image_size // 2**i for i in (1, 2, 3, 4))
    assert (
        {u.text_width for u in (base, sr, last)} == {4096}
        and "hybrid" in sr.attention
        and "cross" in last.attention
    )
    recipes = TRAIN_PRESETS["paper"]
    assert [r.optimizer for r in recipes.values()] == ["adafactor", "adamw", "adamw"]
    for r in recipes.values():
        assert (r.steps, r.batch_size, r.learning_rate, r.warmup, r.weight_decay) == (
            2_500_000,
            2048,
            1e-4,
            10_000,
            0,
        )
