"""The log of a run: means over steps, complete after an interruption, and in TensorBoard where
that is installed.
"""

import json
import sys
import types

import pytest

from imagen_mini.training.loop import NOISE_BINS, TrainState
from train.log import Log, read_log


def state(step, loss=1.0):
    return TrainState(
        step, loss, 2.0, 0.1, [loss] + [0.0] * (NOISE_BINS - 1), [1] + [0] * (NOISE_BINS - 1), 0.0
    )


def write(folder, steps, start=0, carried=None, every=2):
    with Log(folder, every, 4, start, 100, carried, 0.0, "test", on=True) as log:
        for step in steps:
            log.step(state(step, loss=float(step)))
        return log.carried


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_line_is_the_mean_of_the_steps_before_it(tmp_path):
    write(tmp_path, range(1, 6))
    first, second = lines(tmp_path)
    assert (first["step"], first["loss"], second["step"], second["loss"]) == (2, 1.5, 4, 3.5)
    assert first["loss_by_bin"] == [1.5] + [None] * (NOISE_BINS - 1)


def test_resuming_between_two_lines_writes_what_would_have_been_written(tmp_path):
    carried = write(tmp_path, range(1, 4))
    write(tmp_path, range(4, 7), start=3, carried=json.loads(json.dumps(carried)))
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (2, 1.5),
        (4, 3.5),
        (6, 5.5),
    ]


def test_resuming_from_an_earlier_checkpoint_drops_what_comes_again_and_what_was_cut_off(tmp_path):
    write(tmp_path, range(1, 9))
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 10, "lo')
    assert [line["step"] for line in read_log(tmp_path)] == [2, 4, 6, 8] and read_log(
        tmp_path / "nothing"
    ) == []
    write(tmp_path, range(5, 7), start=4)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]


def test_ranks_but_the_first_write_nothing(tmp_path):
    with Log(tmp_path, 1, 4, 0, 10, None, 0.0, "test", on=False) as log:
        log.step(state(1))
        log.write(1, {"score": 1.0})
    assert not list(tmp_path.iterdir())


def test_numbers_go_to_tensorboard_if_it_is_installed(tmp_path, monkeypatch):
    written = []
    board = types.SimpleNamespace(
        add_scalar=lambda *args: written.append(args), close=lambda: written.append("closed")
    )
    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = lambda folder, purge_step: written.append((folder, purge_step)) or board
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    write(tmp_path, [7, 8], start=6)
    assert written[0] == (str(tmp_path / "tensorboard"), 7) and written[-1] == "closed"
    assert ("loss", 7.5, 8) in written and ("loss_by_bin/0", 7.5, 8) in written
    assert not any(w[0] == "loss_by_bin/1" for w in written)  # a level that had no sample


@pytest.mark.parametrize("missing", ["torch.utils.tensorboard"])
def test_without_tensorboard_there_is_the_file(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    write(tmp_path, [1, 2])
    assert len(lines(tmp_path)) == 1 and [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_line_after_another_interval_is_the_mean_of_the_steps_that_there_were(tmp_path):
    carried = write(tmp_path, range(1, 4), every=50)
    write(tmp_path, range(4, 6), start=3, carried=json.loads(json.dumps(carried)), every=5)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(5, 3.0)]
    older = {name: value for name, value in carried.items() if name != "steps"}
    write(tmp_path / ".", range(4, 51), start=3, carried=json.loads(json.dumps(older)), every=50)
    assert lines(tmp_path)[-1]["loss"] == 25.5
