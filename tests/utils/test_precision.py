"""Number formats: what "auto" means is measured."""

import json
import math

import pytest
import torch

from imagen_mini.utils import precision
from imagen_mini.utils.precision import compute_dtype, resolve_precision, speed_up_of_bf16
from train.train import main

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "speed_up, expected", [(0.3, torch.float32), (1.1, torch.float32), (1.6, torch.bfloat16)]
)
def test_auto_is_bf16_only_where_it_was_found_to_be_clearly_faster(monkeypatch, speed_up, expected):
    monkeypatch.setattr(precision, "speed_up_of_bf16", lambda device: speed_up)
    assert compute_dtype("auto", CPU) == expected
    # as asked for, measured or not
    assert (
        compute_dtype("bf16", CPU) == torch.bfloat16 and compute_dtype("fp32", CPU) == torch.float32
    )


def test_an_unknown_precision_is_refused_by_name():
    with pytest.raises(ValueError, match="'fp16'; expected one of auto, bf16, fp32"):
        resolve_precision("fp16", CPU)


def test_the_measurement_changes_nothing_else(monkeypatch):
    monkeypatch.setattr(
        precision, "_convolution", lambda device, dtype: 1.0 if dtype == torch.float32 else 0.5
    )
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert speed_up_of_bf16.__wrapped__(CPU) == 2
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_the_measurement_counts_the_fastest_of_several_turns(monkeypatch):
    disturbed = iter([9.0, 0.1] + [1.0, 0.5] * 3 + [7.0, 6.0] * 6)
    monkeypatch.setattr(precision, "_convolution", lambda device, dtype: next(disturbed))
    assert speed_up_of_bf16.__wrapped__(CPU) == 10


@torch.no_grad()
def test_the_measurement_computes_forward_and_backward_in_each_format():
    assert all(
        0 < precision._convolution(CPU, dtype) < 60 for dtype in (torch.float32, torch.bfloat16)
    )
    assert math.isfinite(speed_up_of_bf16(CPU)) and speed_up_of_bf16(CPU) > 0


def test_a_run_keeps_what_was_found_when_it_resumes(monkeypatch, tmp_path):
    def run(*options):
        main(
            [
                "--stage",
                "base",
                "--preset",
                "tiny",
                "--output-dir",
                str(tmp_path),
                "--device",
                "cpu",
                "batch_size=2",
                "sample_every=0",
                "save_every=1",
                *options,
            ]
        )
        return json.loads((tmp_path / "stage" / "config.json").read_text())["training"][
            "training_phases"
        ]

    monkeypatch.setattr(precision, "speed_up_of_bf16", lambda device: 3.0)
    assert [phase["train"]["precision"] for phase in run("steps=1")] == ["bf16"]
    monkeypatch.setattr(precision, "speed_up_of_bf16", lambda device: 0.5)
    assert {phase["train"]["precision"] for phase in run("--resume", "steps=2")} == {"bf16"}
