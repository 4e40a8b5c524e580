"""Checkpoints are complete or absent, one process holds a run, and a run can be asked to end."""

import errno
import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

import imagen_mini.training.checkpoint
from imagen_mini.training.checkpoint import (
    age_on_last_data,
    atomic_directory,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from imagen_mini.training.run_guard import GracefulStop, run_lock
from train import verify_checkpoints as verify


def save_some(run, steps):
    for step in steps:
        tensors = {
            name: {"x": torch.full((50,), float(step))} for name in ("weights", "ema", "optimizer")
        }
        save_checkpoint(run, step, tensors, {"step": step})


def test_the_newest_checkpoint_is_loaded_and_older_ones_are_removed_but_the_last_two(tmp_path):
    save_some(tmp_path, (1, 2, 10))
    tensors, state, notes = load_checkpoint(tmp_path)
    assert state == {"step": 10} and tensors["ema"]["x"][0] == 10 and notes == []
    assert [c.name for c in checkpoints(tmp_path)] == ["step_00000002", "step_00000010"]
    assert len(list(tmp_path.iterdir())) == 2  # no temporary folder is left


def flip(data):
    return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]


@pytest.mark.parametrize(
    "file, damage, message",
    [
        (
            "weights.safetensors",
            lambda data: data[:-7],
            "weights.safetensors has .* bytes, expected",
        ),
        (
            "ema.safetensors",
            flip,
            "ema.safetensors has the expected size but not the expected checksum",
        ),
        ("optimizer.safetensors", None, "optimizer.safetensors is missing"),
        ("state.json", lambda data: b"", "state.json has 0 bytes"),
        ("manifest.json", None, "manifest.json"),
        ("manifest.json", lambda data: data[:30], "manifest.json"),
        ("manifest.json", lambda data: b"{}", "weights.safetensors is not in the manifest"),
        ("manifest.json", lambda data: b"[]", "manifest"),
    ],
    ids=[
        "truncated",
        "flipped bit",
        "missing",
        "emptied",
        "no manifest",
        "cut manifest",
        "empty manifest",
        "other manifest",
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_note(tmp_path, file, damage, message):
    save_some(tmp_path, (1, 2))
    path = tmp_path / "step_00000002" / file
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    _, state, notes = load_checkpoint(tmp_path)
    assert state == {"step": 1} and len(notes) == 1
    assert re.search(f"passed over step_00000002: .*{message}", notes[0])


@pytest.mark.parametrize(
    "file",
    [
        "weights.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
    ],
)
def test_every_file_may_be_cut_or_flipped_anywhere(tmp_path, file):
    save_some(tmp_path, (1, 2))
    path = tmp_path / "step_00000002" / file
    whole = path.read_bytes()
    places = sorted({round(i * (len(whole) - 1) / 23) for i in range(24)})
    damaged = (
        [whole[:n] for n in places]
        + [whole[:n] + bytes([whole[n] ^ 1 << n % 8]) + whole[n + 1 :] for n in places]
        + [whole + b"x"]
    )
    for data in damaged:
        path.write_bytes(data)
        tensors, state, notes = load_checkpoint(tmp_path)
        unharmed = file == "manifest.json" and json_equal(data, whole)  # white space may change
        assert (
            unharmed
            or state == {"step": 1}
            and tensors["weights"]["x"][0] == 1
            and "passed over step_00000002" in notes[0]
        )
    path.write_bytes(whole)
    assert load_checkpoint(tmp_path)[1] == {"step": 2}


def json_equal(a, b):
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


def test_a_folder_that_cannot_be_written_to_is_a_plain_error(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    # root may write anywhere: no chmod will do
    monkeypatch.setattr(type(tmp_path), "mkdir", read_only)
    with pytest.raises(
        OSError, match="step_00000001 could not be written: .*Read-only file system"
    ):
        save_some(tmp_path, (1,))
    with (
        pytest.raises(
            OSError, match="run cannot be written to: .*Read-only file system.*--output-dir"
        ),
        run_lock(tmp_path / "run"),
    ):
        pass


def test_without_a_usable_checkpoint_there_is_an_error_with_the_reasons(tmp_path):
    with pytest.raises(FileNotFoundError, match="no usable checkpoint"):
        load_checkpoint(tmp_path / "nothing")
    save_some(tmp_path, (1,))
    (tmp_path / "step_00000001" / "ema.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match="no usable checkpoint.*\n.*ema.safetensors is missing"
    ):
        load_checkpoint(tmp_path)


def test_a_checkpoint_that_could_not_be_written_leaves_the_older_ones(tmp_path):
    save_some(tmp_path, (1,))
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 2, {"weights": {"x": torch.zeros(2)}}, {"step": object()})
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]
    assert load_checkpoint(tmp_path)[1] == {"step": 1}


@pytest.mark.parametrize("nth", range(5), ids=["weights", "ema", "optimizer", "state", "manifest"])
def test_a_full_disk_is_an_error_that_says_so_and_leaves_the_older_checkpoints_and_no_litter(
    tmp_path, monkeypatch, nth
):
    save_some(tmp_path, (1,))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    written = []

    def full(write):
        def maybe(*args, **options):
            written.append(args)
            if len(written) == nth + 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*args, **options)

        return maybe

    monkeypatch.setattr(
        imagen_mini.training.checkpoint,
        "save_file",
        full(imagen_mini.training.checkpoint.save_file),
    )
    monkeypatch.setattr(type(tmp_path), "write_text", full(type(tmp_path).write_text))
    with pytest.raises(
        OSError,
        match="step_00000002 could not be written.*No space left.* MB left; what was written "
        "before is untouched",
    ):
        save_some(tmp_path, (2,))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before and len(
        list(tmp_path.iterdir())
    ) == 1


def test_a_checkpoint_that_is_rotten_as_soon_as_it_is_written_costs_no_older_one(
    tmp_path, monkeypatch
):
    save_some(tmp_path, (1, 2))
    replace = os.replace

    def rot(source, target):
        replace(source, target)
        file = target / "ema.safetensors"
        file.write_bytes(flip(file.read_bytes()))

    monkeypatch.setattr(os, "replace", rot)
    with pytest.raises(
        OSError,
        match="step_00000003 was not written as it should be .*ema.safetensors.*Older checkpoints "
        "were kept",
    ):
        save_some(tmp_path, (3,))
    assert [c.name for c in checkpoints(tmp_path)] == [
        "step_00000001",
        "step_00000002",
        "step_00000003",
    ]
    assert load_checkpoint(tmp_path)[1] == {"step": 2}


def test_what_a_kill_left_half_written_is_cleared_away_and_never_taken_for_a_checkpoint(tmp_path):
    save_some(tmp_path, (1,))
    (tmp_path / ".step_00000002.tmp").mkdir()
    (tmp_path / ".step_00000002.tmp" / "weights.safetensors").write_bytes(b"half")
    assert load_checkpoint(tmp_path)[1] == {"step": 1}
    save_some(tmp_path, (3,))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000001", "step_00000003"]


def test_a_folder_is_replaced_completely_or_not_at_all(tmp_path):
    target = tmp_path / "stage"
    with atomic_directory(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    with pytest.raises(KeyError), atomic_directory(target) as folder:
        (folder / "a").write_text("2")
        raise KeyError
    assert (target / "a").read_text() == "1" and [p.name for p in tmp_path.iterdir()] == ["stage"]
    with atomic_directory(target) as folder:
        (folder / "b").write_text("3")
    assert [p.name for p in target.iterdir()] == ["b"]


# ---------------------------------------------------------------- verify


def test_verify_says_which_checkpoints_are_intact(tmp_path, capsys):
    save_some(tmp_path, (1, 2))
    with pytest.raises(SystemExit) as end:
        verify.main([str(tmp_path)])
    assert end.value.code == 0 and capsys.readouterr().out.count("intact") == 2
    (tmp_path / "step_00000001" / "ema.safetensors").unlink()
    with pytest.raises(SystemExit) as end:
        verify.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert (
        end.value.code == 1
        and "step_00000001: ema.safetensors is missing" in out
        and "step_00000002: intact" in out
    )


def test_verify_of_a_folder_without_checkpoints_is_no_success(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        verify.main([str(tmp_path / "nowhere")])
    assert end.value.code == 1 and "no checkpoints" in capsys.readouterr().out


# ---------------------------------------------------------------- one process, and its end

HOLD = """
import sys, pathlib, time
from imagen_mini.training.run_guard import run_lock
with run_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_in_the_same_run_is_refused_until_the_first_is_gone_even_killed(tmp_path):
    run = tmp_path / "läuft schon"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(BlockingIOError, match="läuft schon is in use by another process"),
            run_lock(run),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
    with run_lock(run):
        pass
    with run_lock(run):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_ends(number):
    before = signal.getsignal(number)
    with GracefulStop() as stop:
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert (
            stop.requested()
            and signal.getsignal(signal.SIGTERM)
            == signal.getsignal(signal.SIGINT)
            == signal.SIG_DFL
        )
    assert signal.getsignal(number) is before


def test_one_rank_of_several_ignores_the_signal_that_torchrun_repeats():
    """Ctrl-C reaches all ranks and torchrun, which then sends each rank SIGTERM."""
    with GracefulStop(grace=60) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested()


STUCK = """
import os, signal, sys, time
from imagen_mini.training.run_guard import GracefulStop
with GracefulStop(grace=1) as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    if sys.argv[1] == "asks":
        assert stop.requested()
    time.sleep(2.5 if sys.argv[1] == "asks" else 60)
"""


@pytest.mark.parametrize("does, status", [("asks", 0), ("is stuck", -signal.SIGALRM)])
def test_a_step_that_never_ends_is_ended_and_one_that_does_may_take_its_time_to_save(does, status):
    # the sleep of a stuck step would end with status 0
    assert subprocess.run([sys.executable, "-c", STUCK, does]).returncode == status


def test_the_age_of_a_stage_is_that_on_its_last_data():
    def phase(steps, **more):
        return {"steps": steps, "seconds": steps / 2, "train": {}, **more}

    emoji = {"data": {"source": "folder", "name": "emoji"}}
    assert age_on_last_data([]) == (0, 0.0)
    assert age_on_last_data([phase(3), phase(4, data={"source": "scenes"})]) == (7, 3.5)
    phases = [phase(3), phase(5, data={"source": "studio"}), phase(7, **emoji), phase(9, **emoji)]
    assert age_on_last_data(phases) == (16, 8.0)
    other = {"data": {"source": "folder", "name": "photographs"}}
    assert age_on_last_data([*phases, phase(2, **other)]) == (2, 1.0)
