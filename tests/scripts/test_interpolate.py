"""Interpolation between the weights of two stages."""

import json
from dataclasses import replace

import pytest
import torch

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.serialization import load_stage, save_stage
from imagen_mini.cascade.stage import DiffusionStage
from train.interpolate import interpolate, main

CONFIG = PRESETS["tiny"]["base"]


@pytest.fixture
def two(tmp_path, randomize_zero_init):
    """A stage, and one that was trained on from it, in their folders."""
    torch.manual_seed(0)
    for name, phases in (("before", 1), ("after", 2)):
        save_stage(
            randomize_zero_init(DiffusionStage(CONFIG)),
            tmp_path / name,
            {
                "training_phases": [
                    {"steps": 10 * (i + 1), "seconds": 1.0, "train": {}} for i in range(phases)
                ]
            },
        )
    return tmp_path


def weights(folder):
    return load_stage(folder).net.state_dict()


def test_every_weight_is_interpolated_and_the_ends_are_the_stages(two):
    before, after = weights(two / "before"), weights(two / "after")
    for share in (0.0, 0.25, 1.0):
        main(
            [
                str(two / "before"),
                str(two / "after"),
                "--share",
                str(share),
                "--out",
                str(two / "mixed"),
            ]
        )
        for name, w in weights(two / "mixed").items():
            assert torch.allclose(w, (1 - share) * before[name] + share * after[name], atol=1e-6)
    assert torch.equal(weights(two / "mixed")["out.weight"], after["out.weight"])
    assert any((before[name] - after[name]).abs().max() > 0.01 for name in before)


def test_its_history_says_so(two):
    main([str(two / "before"), str(two / "after"), "--share", "0.5", "--out", str(two / "mixed")])
    phases = json.loads((two / "mixed" / "config.json").read_text())["training"]["training_phases"]
    assert (
        [phase["steps"] for phase in phases] == [10, 20]
        and phases[-1]["interpolated"] == {"share": 0.5, "from_phase": 1}
        and "interpolated" not in phases[0]
    )


def test_stages_that_were_not_trained_from_one_another_are_refused_and_nothing_is_written(
    two, capsys
):
    with pytest.raises(
        SystemExit,
        match="was not trained on from .*: its history of 1 training phases does not continue that "
        "one's of 2",
    ):
        main([str(two / "after"), str(two / "before"), "--out", str(two / "mixed")])
    with pytest.raises(SystemExit):
        main(
            [str(two / "before"), str(two / "after"), "--share", "1.5", "--out", str(two / "mixed")]
        )
    assert "--share: 1.5; expected a number from 0 to 1" in capsys.readouterr().err
    other = DiffusionStage(replace(CONFIG, unet=replace(CONFIG.unet, channels=(32, 64))))
    with pytest.raises(ValueError, match="differ in their networks"):
        interpolate(load_stage(two / "before"), other, 0.5)
    with pytest.raises(SystemExit, match="nowhere"):
        main([str(two / "nowhere"), str(two / "after"), "--out", str(two / "mixed")])
    assert not (two / "mixed").exists()
