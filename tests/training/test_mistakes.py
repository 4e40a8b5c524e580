"""What people do to runs by mistake, and what platforms lack: a plain error, or no harm."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.tiny_runs import ROOT, environment, log_of, process, train

import imagen_mini.training.checkpoint
from imagen_mini.cascade.serialization import load_stage
from imagen_mini.evaluation.scoring import judge_image, judge_images
from imagen_mini.training.checkpoint import (
    atomic_directory,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from imagen_mini.training.run_guard import GracefulStop
from imagen_mini.utils.scripts import run_script
from train import report
from train import train as script
from train.log import Log, read_log
from train.verify_checkpoints import main as verify

OPTIMIZERS = ("muon", "adamw", "adafactor")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of two steps for each optimizer."""
    folder = tmp_path_factory.mktemp("runs")
    for optimizer in OPTIMIZERS:
        train(folder / optimizer, "steps=2", f"optimizer={optimizer}", "precision=fp32")
    return folder


@pytest.fixture
def run(runs, tmp_path):
    """A run of two steps with Muon, to be changed."""
    return copy(runs, "muon", tmp_path)


def copy(runs, optimizer, tmp_path):
    import shutil

    return shutil.copytree(runs / optimizer, tmp_path / optimizer)


def files_of(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


# ---------------------------------------------------------------- settings that do not fit


@pytest.mark.parametrize(
    "override, message",
    [
        ("stage.prediction=eps", "has prediction x_0, not eps"),
        ("stage.unet.channels=[32,64]", r"has channels \(32, 32\), not \(32, 64\)"),
        ("stage.unet.head_dim=16", "has head_dim 32, not 16"),
        ("stage.unet.skip_scale=0.5", "has skip_scale 1.0, not 0.5"),
        ("stage.unet.text_layers=1", "has text_layers 2, not 1"),
        ("stage.unet.image_size=128", "has image_size 64, not 128"),
        ("stage.name=other", "has name base, not other"),
        ("stage.world=studio", "has world scenes, not studio"),
    ],
)
def test_what_the_weights_of_a_run_mean_cannot_change_when_it_is_resumed(run, override, message):
    before = files_of(run)
    with pytest.raises(SystemExit, match=f"the run .*muon {message}"):
        train(run, "--resume", "steps=3", override)
    assert files_of(run) == before


def test_how_a_stage_is_sampled_may_change_and_a_repeated_setting_is_no_change(run):
    train(run, "--resume", "steps=3", "stage.guidance_scale=5", "stage.unet.channels=[32,32]")
    assert load_stage(run / "stage").config.guidance_scale == 5


def test_a_preset_of_another_network_is_refused_on_resume(run):
    with pytest.raises(SystemExit, match="the run .* has .*: its weights are of no use with"):
        script.main(["--stage", "base", "--output-dir", str(run), "--resume", "--preset", "mini"])
    script.main(["--stage", "base", "--output-dir", str(run), "--resume", "--device", "cpu"])


def test_a_stage_starts_from_one_of_its_own_kind(run, runs, tmp_path):
    for folder in (run, run / "stage"):
        with pytest.raises(SystemExit, match="is a stage base, not sr_256: pass --stage base"):
            train(tmp_path / "new", "--init-from", str(folder), stage="sr_256")
    for override, message in (
        ("stage.prediction=v", "has prediction x_0, not v"),
        ("stage.unet.skip_scale=0.5", "has skip_scale 1.0, not 0.5"),
        ("stage.unet.head_dim=16", "has head_dim 32, not 16"),
    ):
        with pytest.raises(SystemExit, match=message):
            train(tmp_path / "new", "--init-from", str(run / "stage"), override)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--resume", "--init-from", "x"], "leave one of them out"),
        (["--threads", "-3"], "--threads -3: expected 1 to"),
        (["--threads", "100000"], "--threads 100000: expected 1 to"),
        (["--device", "foo"], "--device foo: it cannot be used here"),
        (["--device", "cuda:77"], "--device cuda:77: it cannot be used here"),
        (["--time-limit", "nan"], "--time-limit nan: expected a number of seconds"),
        (["--rank-timeout", "-1"], "--rank-timeout -1.0: expected a number of seconds"),
        (["--caption-column", "x"], "--caption-column is for a folder of images: name it with"),
        (["--data-cache", "x"], "--data-cache is for a folder of images: name it with --data"),
        (["--skip-broken"], "--skip-broken is for a folder of images: name it with --data"),
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused_before_anything_is_done(
    tmp_path, options, message, capsys
):
    with pytest.raises(SystemExit) as end:
        script.main(["--stage", "base", "--output-dir", str(tmp_path / "run"), *options])
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- another optimizer


@pytest.mark.parametrize("before", OPTIMIZERS)
@pytest.mark.parametrize("after", OPTIMIZERS)
def test_another_optimizer_starts_its_state_anew_and_says_so(runs, tmp_path, capsys, before, after):
    run = copy(runs, before, tmp_path)
    train(run, "--resume", "steps=3", f"optimizer={after}")
    said = (
        f"the optimizer was {before}; the state of {after} starts anew" in capsys.readouterr().out
    )
    assert said == (before != after)
    tensors, state, _ = load_checkpoint(run)
    assert state["step"] == 3 and state["train"]["optimizer"] == after
    assert all(value.isfinite().all() for value in tensors["weights"].values())
    steps = {float(v) for k, v in tensors["optimizer"].items() if k.endswith(".step")}
    assert steps <= ({3.0} if before == after else {1.0})


# ---------------------------------------------------------------- sizes that cannot be read


@pytest.mark.parametrize("size, patch", [(32, 8), (96, 8)])
def test_a_stage_whose_images_cannot_be_read_trains_with_grids_and_no_score(tmp_path, size, patch):
    options = (f"stage.unet.image_size={size}", f"stage.unet.patch={patch}")
    train(tmp_path / "run", "steps=1", "sample_every=1", "stage.num_inference_steps=1", *options)
    assert (tmp_path / "run" / "samples_00000001.png").is_file()
    assert not any("score" in line for line in read_log(tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run")[1]["step"] == 1


def test_a_grid_that_fails_costs_no_step(tmp_path, monkeypatch, capsys):
    def fails(*_, **__):
        raise ZeroDivisionError("no image today")

    monkeypatch.setattr(script, "preview", fails)
    train(tmp_path / "run", "steps=2", "sample_every=1")
    assert "step 1: no sample grid: ZeroDivisionError('no image today')" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run")[1]["step"] == 2


def test_an_image_that_cannot_be_written_leaves_its_score_in_the_log(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    train(tmp_path / "run", "steps=1", "sample_every=1", "stage.num_inference_steps=1")
    assert [line["step"] for line in read_log(tmp_path / "run") if "score" in line] == [1]


# ---------------------------------------------------------------- the log is data


def test_a_log_survives_a_full_disk_while_it_is_resumed(tmp_path, monkeypatch):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 9)))
    before = log.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for where, name in ((type(tmp_path), "write_bytes"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, full)
            with pytest.raises(OSError, match="log.jsonl could not be written: .*No space left"):
                Log(tmp_path, 1, 4, 4, 100, None, 0.0, "test", on=True)
        assert log.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_damaged_line_of_a_log_costs_only_itself(tmp_path, run):
    log = run / "log.jsonl"
    good = [json.dumps({"step": 1, "loss": 0.5}), json.dumps({"step": 2, "loss": 0.25})]
    bad = [b"\xff\xfe", b"[1, 2]", b"3", b"null", b'{"loss": 1}', b'{"step": "x"}', b'{"step": 1']
    log.write_bytes(b"\n".join([good[0].encode(), *bad[:4], good[1].encode(), *bad[4:]]))
    assert [line["step"] for line in read_log(run)] == [1, 2]
    train(run, "--resume", "steps=3", "log_every=1")
    assert [line["step"] for line in log_of(run)] == [1, 2, 3]


def test_a_log_that_needs_no_change_is_only_appended_to(tmp_path, monkeypatch):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "level_losses": [1.0]}\n{"step": 2}\n')
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("rewritten"))
    with Log(tmp_path, 1, 4, 2, 100, None, 0.0, "test", on=True) as again:
        again.write(3, {"score": 1.0})
    assert log.read_text().startswith('{"step": 1, "level_losses": [1.0]}\n{"step": 2}\n{"step": 3')


# ---------------------------------------------------------------- forged checkpoints


def change_state(run, change):
    """Change the newest checkpoint's state, with correct checksums."""
    tensors, state, _ = load_checkpoint(run)
    change(tensors, state)
    for checkpoint in checkpoints(run):
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    save_checkpoint(run, 2, tensors, state)


FORGED = {
    "dtype": (lambda t, s: s.update(text_encoder_dtype="fp8"), "text_encoder_dtype 'fp8'"),
    "dtype list": (lambda t, s: s.update(text_encoder_dtype=[]), r"text_encoder_dtype \[\]"),
    "encoder": (lambda t, s: s.update(text_encoder=3), "text_encoder 3"),
    "no train": (lambda t, s: s.pop("train"), "train None"),
    "train": (lambda t, s: s.update(train=[1]), r"train \[1\]"),
    "stage": (lambda t, s: s.update(stage="base"), "stage 'base'"),
    "stage name": (lambda t, s: s["stage"].update(name="../x"), "expected an identifier"),
    "clip": (lambda t, s: s["train"].update(clip=float("nan")), "two names|max_grad_norm"),
    "no phases": (lambda t, s: s.pop("training_phases"), "training_phases None"),
    "phases": (lambda t, s: s.update(training_phases=[1]), "training_phases: expected a list"),
    "data": (lambda t, s: s.update(data=[]), r"data \[\]"),
    "data path": (lambda t, s: s.update(data={"path": 3}), "data {'path': 3}"),
    "carried": (lambda t, s: s.update(carried={"loss": "x"}), "carried {'loss': 'x'}"),
    "step": (lambda t, s: s.update(step="2"), "state.json names no step"),
    "weight missing": (lambda t, s: t["weights"].pop("out.bias"), "'out.bias' is missing"),
    "weight too many": (
        lambda t, s: t["ema"].update(more=torch.zeros(1)),
        "ema of the checkpoint: the tensor 'more' belongs to no layer",
    ),
    "weight of another shape": (
        lambda t, s: t["ema"].update({"out.bias": torch.zeros(1)}),
        r"'out.bias' is \[1\], expected",
    ),
    "moment of another shape": (
        lambda t, s: t["optimizer"].update({"muon.0.momentum": torch.zeros(1)}),
        r"muon.0.momentum is \[1\], its parameter",
    ),
    "moment missing": (
        lambda t, s: t["optimizer"].pop("muon.0.momentum"),
        "muon has a state of .* of its .* parameters",
    ),
    "moment too many": (
        lambda t, s: t["optimizer"].update({"muon.999.momentum": torch.zeros(1)}),
        "muon has no parameter 999",
    ),
    "moment of no name": (
        lambda t, s: t["optimizer"].update(x=torch.zeros(1)),
        "'x' is no finite state of the optimizers muon, adamw",
    ),
    "moment of another name": (
        lambda t, s: t["optimizer"].update({"muon.0.more": torch.zeros(1)}),
        "muon.0 holds momentum, more; expected momentum",
    ),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_checkpoint_with_correct_checksums_and_odd_content_is_a_plain_error(run, forgery):
    change, message = FORGED[forgery]
    change_state(run, change)
    before = files_of(run)
    with pytest.raises(SystemExit, match=message):
        train(run, "--resume", "steps=3")
    assert files_of(run) == before
    if "moment" not in forgery:  # a report reads no moments
        with pytest.raises(SystemExit, match=message):
            run_script(lambda: report.main([str(run), "--n", "2"]))


@pytest.mark.parametrize("part", ["weights", "ema", "optimizer"])
def test_numbers_that_are_not_finite_are_neither_saved_nor_loaded(run, part):
    tensors, state, _ = load_checkpoint(run)
    name = next(iter(tensors[part]))
    good = tensors[part][name].clone()
    tensors[part][name] = good * float("nan")
    before = files_of(run)
    with pytest.raises(FloatingPointError, match=f"tensors of {part} are not finite, .*{name}"):
        save_checkpoint(run, 3, tensors, state)
    assert files_of(run) == before
    # by hand, with a correct checksum
    newest = checkpoints(run)[-1]
    save_file(tensors[part], newest / f"{part}.safetensors")
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest[f"{part}.safetensors"] = {
        "size": (newest / f"{part}.safetensors").stat().st_size,
        "sha256": imagen_mini.training.checkpoint._sha256(newest / f"{part}.safetensors"),
    }
    (newest / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit, match="finite"):
        train(run, "--resume", "steps=3")


def test_copies_of_checkpoints_are_neither_removed_nor_taken_for_newer_ones(run):
    import shutil

    newest = checkpoints(run)[-1]
    for name in ("step_00000002_best", "step_best", "step_1", "step_00000009.bak"):
        shutil.copytree(newest, run / name)
    assert checkpoints(run)[-1] == newest
    train(run, "--resume", "steps=5", "save_every=1")
    assert [c.name for c in checkpoints(run)] == ["step_00000004", "step_00000005"]
    assert (run / "step_00000002_best").is_dir() and (run / "step_best").is_dir()


def test_verify_gets_over_links_that_lead_nowhere(run, capsys):
    (checkpoints(run)[-1] / "more").symlink_to(run / "nowhere")
    with pytest.raises(SystemExit) as end:
        verify([str(run)])
    assert end.value.code == 0 and "intact" in capsys.readouterr().out


# ---------------------------------------------------------------- errors of the disk


@pytest.mark.parametrize("free, words", [(5, "Its disk has 5 MB left"), (68_661, "A quota may be")])
def test_the_message_about_a_full_disk_does_not_contradict_itself(
    tmp_path, monkeypatch, free, words
):
    monkeypatch.setattr(imagen_mini.training.checkpoint, "_free_megabytes", lambda _: free)
    with pytest.raises(OSError, match=f"x could not be written: .*No space left.*{words}"):
        with atomic_directory(tmp_path / "x"):
            raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="Read-only.*mend that and continue") as error:
        with atomic_directory(tmp_path / "x"):
            raise OSError(30, "Read-only file system")
    assert "room" not in str(error.value)


def test_an_old_checkpoint_that_cannot_be_removed_is_named(run, monkeypatch):
    tensors, state, _ = load_checkpoint(run)
    save_checkpoint(run, 3, tensors, state)
    unlink = os.unlink

    def full(path, *args, **options):
        if str(path).endswith(".safetensors"):
            raise OSError(28, "No space left on device")
        return unlink(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", full)
        with pytest.raises(OSError, match="step_00000002 could not be written: .*No space left"):
            save_checkpoint(run, 4, tensors, state)
    assert load_checkpoint(run)[1]["step"] == 2 and checkpoints(run)[-1].name == "step_00000004"


def test_files_have_the_permissions_that_the_user_gives_to_new_files(tmp_path):
    before = os.umask(0o077)
    try:
        with atomic_directory(tmp_path / "x") as folder:
            save_file({"a": torch.zeros(1)}, folder / "a.safetensors")
            (folder / "b.json").write_text("{}")
    finally:
        os.umask(before)
    assert {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "x").iterdir()} == {
        "a.safetensors": 0o600,
        "b.json": 0o600,
    }
    assert load_file(tmp_path / "x" / "a.safetensors")["a"].item() == 0


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_a_run_whose_reader_is_gone_still_saves(tmp_path, number):
    """`python -m train.train ... | tee log`: the signal ends the reader as well."""
    run = process(tmp_path / "run", "steps=4000", "save_every=100000")
    try:
        deadline = time.monotonic() + 300
        while not ((tmp_path / "run" / "log.jsonl").is_file() and log_of(tmp_path / "run")):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        run.stdout.close()
        run.send_signal(number)
        assert run.wait(timeout=300) == 0
    finally:
        run.kill()
    assert load_checkpoint(tmp_path / "run")[1]["step"] >= 3


QUIET = """
import signal, os
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
from imagen_mini.training.run_guard import GracefulStop
with GracefulStop() as stop:
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.requested()
"""


def test_nohup_is_respected():
    subprocess.run([sys.executable, "-c", QUIET], cwd=ROOT, env=environment(), check=True)


# ---------------------------------------------------------------- platforms, emulated


def test_a_platform_without_alarm_and_hang_up_stops_gracefully(monkeypatch):
    """Windows, emulated: it has neither."""
    monkeypatch.delattr(signal, "alarm")
    monkeypatch.setattr(GracefulStop, "SIGNALS", (signal.SIGTERM, signal.SIGINT))
    with GracefulStop(grace=1) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested()


def test_a_platform_that_opens_no_folders_and_syncs_no_readers_writes_checkpoints(run, monkeypatch):
    """Windows, emulated: `os.open` of a folder is refused, `fsync` needs a file to write to."""
    opened, really_open, really_sync = {}, os.open, os.fsync

    def open_file(path, flags, *args, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        descriptor = really_open(path, flags, *args, **options)
        opened[descriptor] = flags
        return descriptor

    def sync(descriptor):
        if not opened.get(descriptor, os.O_RDWR) & (os.O_RDWR | os.O_WRONLY):
            raise OSError(9, "Bad file descriptor")
        really_sync(descriptor)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fsync", sync)
    tensors, state, _ = load_checkpoint(run)
    save_checkpoint(run, 3, tensors, state)
    assert checkpoints(run)[-1].name == "step_00000003"


def test_images_of_a_size_that_cannot_be_read_are_not_judged():
    image = torch.zeros(3, 32, 32)
    assert judge_image("a red circle", image).startswith("not judged: images of 32 px cannot be")
    assert judge_images(["a red circle"], image[None]) == [None]
