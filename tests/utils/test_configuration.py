"""Settings and fields of files under their former names."""

import dataclasses
import re
import typing

import pytest

from imagen_mini.cascade.config import StageConfig
from imagen_mini.models.unet import UNetConfig
from imagen_mini.training.config import TrainConfig
from imagen_mini.utils.configuration import (
    RENAMED,
    RENAMED_FIELDS,
    _ranges,
    from_dict,
    override,
    to_dict,
    with_current_names,
)

FORMER = {
    "twins": 0.2,
    "mistakes": 0.3,
    "counts": [1, 2],
    "workers": 2,
    "accumulate": 4,
    "clip": 0.5,
    "rate_schedule": "cosine",
    "drop_text": 0.2,
    "drop_pooled": 0.1,
}
CURRENT = TrainConfig(
    equivalent_prob=0.2,
    contradiction_prob=0.3,
    object_count_weights=(1.0, 2.0),
    num_workers=2,
    gradient_accumulation_steps=4,
    max_grad_norm=0.5,
    lr_schedule="cosine",
    cond_drop_prob=0.2,
    pooled_drop_prob=0.1,
)


def test_training_settings_are_read_by_their_former_names():
    assert from_dict(TrainConfig, FORMER) == CURRENT
    assert not to_dict(CURRENT).keys() & RENAMED.keys()


def test_a_command_may_use_former_names():
    assignments = [f"{name}={str(value).replace(' ', '')}" for name, value in FORMER.items()]
    assert override(TrainConfig(), assignments) == CURRENT


def test_two_names_of_one_setting_are_an_error():
    with pytest.raises(ValueError, match="two names of one setting"):
        from_dict(TrainConfig, {"workers": 1, "num_workers": 2})


def test_every_former_name_leads_to_a_setting_that_exists():
    stage = StageConfig.__dataclass_fields__
    unet = to_dict(StageConfig("base"))["unet"] if stage else {}
    known = {*to_dict(TrainConfig()), *stage, *unet}
    assert set(RENAMED.values()) <= known and not set(RENAMED) & known


def test_records_have_current_names_at_every_depth():
    record = {
        "legs": [{"train": {"drop_text": 0.1}, "data": {"source": "folder", "pictures": 7}}],
        "carried": {"level_losses": [1.0], "level_counts": [2]},
        "step": 3,
    }
    current = {
        "training_phases": [
            {"train": {"cond_drop_prob": 0.1}, "data": {"source": "folder", "images": 7}}
        ],
        "carried": {"loss_by_bin": [1.0], "counts_by_bin": [2]},
        "step": 3,
    }
    assert with_current_names(record) == current == with_current_names(current)
    assert not set(RENAMED_FIELDS) & set(RENAMED_FIELDS.values())


# ---------------------------------------------------------------- ranges

NAN, INFINITY = float("nan"), float("inf")
RUINOUS = [
    (TrainConfig(), "clip=0", "max_grad_norm must be above 0; got 0"),
    (TrainConfig(), "clip=-1", "max_grad_norm must be above 0; got -1.0"),
    (TrainConfig(), "clip=Infinity", "max_grad_norm must be a finite number; got inf"),
    (TrainConfig(), "drop_text=10", "cond_drop_prob must be below 1; got 10.0"),
    (TrainConfig(), "cond_drop_prob=1", "cond_drop_prob must be below 1; got 1.0"),
    (TrainConfig(), "pooled_drop_prob=-0.1", "pooled_drop_prob must be at least 0"),
    (TrainConfig(), "weight_decay=-1", "weight_decay must be at least 0; got -1.0"),
    (TrainConfig(), "weight_decay=NaN", "weight_decay must be a finite number; got nan"),
    (TrainConfig(), "cooldown=5", "cooldown must be at most 1; got 5.0"),
    (TrainConfig(), "sample_every=-1", "sample_every must be at least 0; got -1"),
    (TrainConfig(), "num_workers=-1", "num_workers must be at least 0; got -1"),
    (TrainConfig(), "warmup=-5", "warmup must be at least 0; got -5"),
    (TrainConfig(), "learning_rate=-1e-3", "learning_rate must be at least 0"),
    (TrainConfig(), "learning_rate=Infinity", "learning_rate must be a finite number"),
    (TrainConfig(), "betas=[0.9]", "betas (0.9,): expected two numbers"),
    (TrainConfig(), "betas=[0.9,1]", "betas must be below 1; got (0.9, 1.0)"),
    (TrainConfig(), "time_power=NaN", "time_power must be a finite number"),
    (TrainConfig(), "loss_cap=1e308", "loss_cap must be at most 1,000,000,000.0; got 1e+308"),
    (TrainConfig(), "loss_cap=-1", "loss_cap must be above 0; got -1.0"),
    (TrainConfig(), "batch_size=1000000000", "batch_size must be at most 1,048,576"),
    (TrainConfig(), "object_count_weights=[1,NaN]", "object_count_weights must be a finite"),
    (TrainConfig(), "seed=-1", "seed must be at least 0; got -1"),
    (StageConfig(), "guidance_scale=NaN", "guidance_scale must be a finite number; got nan"),
    (StageConfig(), "log_snr_shift=Infinity", "log_snr_shift must be a finite number; got inf"),
    (StageConfig(), "aug_level=-1", "aug_level must be at least 0; got -1.0"),
    (StageConfig(), "max_aug_level=2", "max_aug_level must be at most 1; got 2.0"),
    (StageConfig(), "num_inference_steps=0", "num_inference_steps must be at least 1; got 0"),
    (StageConfig(), "num_inference_steps=1000000", "num_inference_steps must be at most 10,000"),
    (StageConfig(), "eta=NaN", "eta must be a finite number"),
    (StageConfig(), "unet.skip_scale=NaN", "skip_scale must be a finite number; got nan"),
    (StageConfig(), "unet.skip_scale=0", "skip_scale must be above 0; got 0"),
    (StageConfig(), "unet.text_layers=1000000", "text_layers must be at most 64"),
]


@pytest.mark.parametrize("config, assignment, message", RUINOUS, ids=[r[1] for r in RUINOUS])
def test_a_setting_that_would_ruin_a_run_is_refused_by_its_range(config, assignment, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        override(config, [assignment])


def test_every_number_of_a_configuration_has_a_range():
    for cls in (TrainConfig, StageConfig, UNetConfig):
        numbers = {
            name
            for name, hint in typing.get_type_hints(cls).items()
            if {hint, *typing.get_args(hint)} & {int, float}
            and name != "guidance_interval"  # checked as a pair
        }
        assert numbers == set(_ranges(cls)), cls


def test_no_number_is_accepted_as_nan_or_beyond_all_bounds():
    for config in (TrainConfig(), StageConfig(), UNetConfig()):
        for name in _ranges(type(config)):
            value = getattr(config, name)
            for bad in (NAN, INFINITY, -INFINITY, 1e300, -1e300, "3"):
                new = (bad,) * len(value) if isinstance(value, tuple) else bad
                with pytest.raises(ValueError, match=name):
                    dataclasses.replace(config, **{name: new})


def test_a_stage_is_not_sampled_at_levels_that_it_is_not_trained_at():
    sr = UNetConfig(image_size=256, low_res_size=64)
    with pytest.raises(ValueError, match="aug_level must be at most max_aug_level, 0.2,.*got 0.3"):
        StageConfig("sr_256", sr, max_aug_level=0.2, aug_level=0.3)


@pytest.mark.parametrize("name", ["..", "/", "/tmp/x", "a/b", "a\\b", "", ".", "a b", "x.y", "C:"])
def test_the_name_of_a_stage_is_an_identifier_and_never_a_path(name):
    with pytest.raises(ValueError, match="expected an identifier"):
        StageConfig(name)
    with pytest.raises(ValueError, match="expected an identifier"):
        from_dict(StageConfig, {"name": name})
