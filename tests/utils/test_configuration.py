"""Settings and fields of files under their former names."""

import pytest

from imagen_mini.cascade.config import StageConfig
from imagen_mini.training.config import TrainConfig
from imagen_mini.utils.configuration import (
    RENAMED,
    RENAMED_FIELDS,
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
