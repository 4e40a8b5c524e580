"""Whatever ends a training run, it resumes as if nothing had happened, to the last bit."""

import json
import os
import random
import signal
import time
from functools import partial

import pytest
import torch
from support.tiny_runs import log_of, process, train

from imagen_mini.cascade.serialization import load_stage
from imagen_mini.training.checkpoint import checkpoints, load_checkpoint


def assert_same_end(one, other):
    (a, state_a, _), (b, state_b, _) = load_checkpoint(one), load_checkpoint(other)
    assert state_a["step"] == state_b["step"] and state_a["carried"] == state_b["carried"]
    for part in ("weights", "ema", "optimizer"):
        assert set(a[part]) == set(b[part]) and a[part]
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part]), part
    assert log_of(one) == log_of(other) and log_of(one)
    a, b = load_stage(one / "stage").state_dict(), load_stage(other / "stage").state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of six images: an epoch ends in the middle of a batch of four."""
    from imagen_mini.scenes.render import render
    from imagen_mini.scenes.scene import training_scene
    from imagen_mini.utils.images import to_image

    folder = tmp_path_factory.mktemp("eigene Bilder")
    for i in range(6):
        to_image(render([training_scene(3, i)], 256)[0]).save(folder / f"{i}.png")
    (folder / "metadata.jsonl").write_text(
        "".join(
            json.dumps({"file_name": f"{i}.png", "text": f"image {i}"}) + "\n" for i in range(6)
        )
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, options",
    [
        ("base", ["precision=fp32", "sample_every=2"]),
        slow("base", ["precision=bf16", "gradient_accumulation_steps=2", "optimizer=adamw"]),
        slow("base", ["num_workers=2"]),
        ("base", ["folder", "num_workers=2", "gradient_accumulation_steps=2"]),
        slow("base", ["folder", "optimizer=adafactor", "gradient_checkpointing=true"]),
        ("sr_256", ["folder", "precision=bf16"]),
        slow("sr_256", ["gradient_accumulation_steps=2", "lr_schedule=cosine", "precision=fp32"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_run_that_stops_after_every_step_ends_as_one_that_never_stops(
    tmp_path, images, stage, options
):
    steps = 6 if stage == "base" else 3
    options = [f"--data={images}" if o == "folder" else o for o in options] + [f"steps={steps}"]
    train(tmp_path / "through", *options, stage=stage)
    train(tmp_path / "often", *options, "--time-limit", "0", stage=stage)
    for step in range(2, steps + 1):
        assert checkpoints(tmp_path / "often")[-1].name == f"step_{step - 1:08d}"
        train(tmp_path / "often", *options, "--resume", "--time-limit", "0", stage=stage)
    assert_same_end(tmp_path / "through", tmp_path / "often")


def test_workers_change_nothing_but_the_waiting(tmp_path):
    train(tmp_path / "none", "steps=3")
    train(tmp_path / "two", "steps=3", "num_workers=2")
    assert_same_end(tmp_path / "none", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT)])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint_and_success(tmp_path, number):
    options = [
        "steps=400",
        "save_every=1000",
        "num_workers=1" if number == signal.SIGINT else "num_workers=0",
    ]
    run = process(tmp_path / "run", *options, start_new_session=True)
    _wait_for(lambda: (tmp_path / "run" / "log.jsonl").is_file() and log_of(tmp_path / "run"), run)
    os.killpg(run.pid, number)  # as a terminal does: everything that belongs to it
    out, _ = run.communicate(timeout=600)
    assert (
        run.returncode == 0
        and "stopping after this step" in out
        and out.count("stopping after this step") == 1
    ), out
    stopped = load_checkpoint(tmp_path / "run")[1]["step"]
    assert (
        3 <= stopped < 400
        and f"stopped at step {stopped}; continue with --resume" in out
        and "Traceback" not in out
    )
    train(tmp_path / "run", "--resume", f"steps={stopped + 2}")
    assert load_checkpoint(tmp_path / "run")[1]["step"] == stopped + 2


@pytest.mark.slow
def test_a_run_in_use_is_left_alone(tmp_path):
    run = process(tmp_path / "Lauf mit Umlaut ü", "steps=4000")
    try:
        _wait_for((tmp_path / "Lauf mit Umlaut ü" / "log.jsonl").is_file, run)
        with pytest.raises(SystemExit, match="Lauf mit Umlaut ü is in use by another process"):
            train(tmp_path / "Lauf mit Umlaut ü", "--resume")
    finally:
        run.kill()
        run.communicate()


def test_any_working_directory_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("ein Lauf/mit Leerzeichen", "steps=1")
    assert load_checkpoint(tmp_path / "ein Lauf" / "mit Leerzeichen")[1]["step"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [slow("nan in an image"), slow("nan in a loss"), "nan in a gradient"]
)
def test_what_is_not_finite_stops_the_run_before_it_spoils_anything(tmp_path, fault):
    run = process(
        tmp_path / "run",
        "steps=9",
        "save_every=1",
        script=("tests/support/fault_injection.py", fault, "3"),
    )
    out, _ = run.communicate(timeout=600)
    assert (
        run.returncode == 1
        and "step 3 of stage base: loss" in out
        and "at learning rate" in out
        and "Traceback" not in out
    ), out
    train(tmp_path / "intact", "steps=9", "save_every=1", "--time-limit", "0")
    for _ in range(2):
        train(tmp_path / "intact", "--resume", "--time-limit", "0")
    assert_same_end(tmp_path / "run", tmp_path / "intact")


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_that_says_what_to_change(tmp_path):
    run = process(
        tmp_path / "run",
        "steps=9",
        "num_workers=1",
        script=("tests/support/fault_injection.py", "is killed as a worker", "3"),
    )
    out, _ = run.communicate(timeout=600)
    assert (
        run.returncode == 1
        and "a process that reads data has died" in out
        and "fewer workers" in out
        and "Traceback" not in out
    ), out


def test_after_a_rotten_checkpoint_the_run_resumes_from_the_one_before_and_says_so(
    tmp_path, capsys
):
    train(tmp_path / "run", "steps=8", "save_every=4")
    rotten = tmp_path / "run" / "step_00000008" / "ema.safetensors"
    rotten.write_bytes(rotten.read_bytes()[:-9])
    train(tmp_path / "run", "--resume")
    assert "passed over step_00000008: ema.safetensors has" in capsys.readouterr().out
    train(tmp_path / "through", "steps=8", "save_every=4")
    assert_same_end(tmp_path / "run", tmp_path / "through")


def test_a_full_disk_is_a_plain_error_and_the_run_resumes_later(tmp_path, monkeypatch):
    train(tmp_path / "run", "steps=4", "save_every=2", "--time-limit", "0")
    with monkeypatch.context() as full:

        def no_room(*_):
            raise OSError(28, "No space left on device")

        full.setattr("imagen_mini.training.checkpoint.save_file", no_room)
        with pytest.raises(
            SystemExit, match="could not be written: .*No space left.*continue with --resume"
        ):
            train(tmp_path / "run", "--resume")
    train(tmp_path / "run", "--resume")
    train(tmp_path / "through", "steps=4", "save_every=2")
    assert_same_end(tmp_path / "run", tmp_path / "through")


@pytest.fixture(scope="module")
def other_encoder(encoder, tmp_path_factory):
    """A folder with a text encoder that differs from the shipped one in its weights alone."""
    folder, weight = tmp_path_factory.mktemp("anderer Encoder"), encoder.model.shared.weight.data
    kept = weight.clone()
    try:
        weight += 0.01
        encoder.save_pretrained(folder)
    finally:
        weight.copy_(kept)
    return folder


def test_another_text_encoder_is_refused_on_resuming(tmp_path, other_encoder):
    train(tmp_path / "run", "steps=1")
    with pytest.raises(
        SystemExit,
        match="is not the text encoder that this stage was trained with .*stage.text_encoder=null",
    ):
        train(tmp_path / "run", "--resume", "steps=2", "--text-encoder", str(other_encoder))
    train(
        tmp_path / "run",
        "--resume",
        "steps=2",
        "--text-encoder",
        str(other_encoder),
        "stage.text_encoder=null",
    )


def test_a_run_resumes_as_the_stage_it_is(tmp_path):
    train(tmp_path / "run", "steps=1")
    with pytest.raises(SystemExit, match="is a run of stage base, not of sr_256"):
        train(tmp_path / "run", "--resume", stage="sr_256")


def test_a_run_remembers_its_text_encoder(tmp_path, other_encoder, monkeypatch):
    monkeypatch.chdir(other_encoder.parent)
    train(
        tmp_path / "run",
        "steps=1",
        "--text-encoder",
        other_encoder.name,
        "--text-encoder-dtype",
        "bf16",
    )
    monkeypatch.chdir(tmp_path)
    train(tmp_path / "run", "--resume", "steps=2")
    state = load_checkpoint(tmp_path / "run")[1]
    assert (state["step"], state["text_encoder"], state["text_encoder_dtype"]) == (
        2,
        str(other_encoder),
        "bf16",
    )


@pytest.mark.slow
def test_sixteen_kills_change_nothing(tmp_path):
    """SIGKILL at random moments, most of them while a checkpoint or the exported stage is being
    written.
    """
    options = ["steps=200", "save_every=2"]
    train(tmp_path / "through", *options)
    folder, rng, while_writing = tmp_path / "killed", random.Random(0), 0
    for _ in range(16):
        run = process(folder, *options, *(["--resume"] if checkpoints(folder) else []))
        goal = max((int(c.name[5:]) for c in checkpoints(folder)), default=0) + 2 * rng.randint(
            0, 4
        )
        awaited = rng.choice([".step_*.tmp", ".step_*.tmp", ".stage.tmp", "log.jsonl"])
        _wait_for(partial(_is_writing, folder, goal, awaited), run)
        time.sleep(rng.random() * (0.02 if awaited.endswith(".tmp") else 0.5))
        run.kill()
        run.communicate()
        while_writing += any(folder.glob(".*.tmp"))
    assert 24 < load_checkpoint(folder)[1]["step"] < 200 and while_writing >= 6
    print(
        f"16 kills, {while_writing} of them while writing; step "
        f"{load_checkpoint(folder)[1]['step']} of 200"
    )
    train(folder, "--resume")
    assert_same_end(folder, tmp_path / "through")


def _is_writing(folder, goal, awaited):
    """Whether the run has come to step `goal` and the awaited file is there."""
    at_goal = not goal or any(int(c.name[5:]) >= goal for c in checkpoints(folder))
    return at_goal and any(folder.glob(awaited))


def _wait_for(condition, run):
    deadline = time.monotonic() + 600  # it takes a few
    while not condition():
        assert time.monotonic() < deadline and run.poll() is None, run.communicate()[0]
        time.sleep(0.001)
