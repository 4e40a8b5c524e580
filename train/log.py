"""The log of a training run: log.jsonl always, TensorBoard if it is installed, the progress bar.
Only the main process writes it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from tqdm.auto import tqdm

from imagen_mini.training.checkpoint import explained_disk_errors
from imagen_mini.training.loop import NOISE_BINS, TrainState
from imagen_mini.utils.configuration import with_current_names

LOG = "log.jsonl"  # in the folder of a run
TIMES = ("seconds", "images_per_second", "data_wait_share")  # fields in which any two runs differ


class Log:
    """`with Log(...) as log:` call `step` after each step.

    A line is the mean of the `every` steps before it. The sums for the next line are in `carried`,
    which belongs into a checkpoint: a run that was interrupted then writes the same lines. A run
    that resumes from step `start` drops the lines after it, as they will be written again.

    Args:
        folder: The run's folder.
        every: Steps between lines.
        batch_size: Images a step.
        start: Steps done.
        steps: Steps in all.
        carried: From a checkpoint. None: a new run.
        seconds_before: Of training, before this process.
        name: The label of the progress bar.
        on: Whether this process writes.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        batch_size: int,
        start: int,
        steps: int,
        carried: dict | None,
        seconds_before: float,
        name: str,
        on: bool,
    ):
        self.every, self.batch_size, self.on = every, batch_size, on
        self.seconds_before = seconds_before
        self.carried = with_current_names(carried) if carried else _no_sums()
        self.carried.setdefault("steps", start % every)  # not in older checkpoints
        self.began = time.monotonic()
        self.restart_clock(start)
        self.bar = tqdm(total=steps, initial=start, desc=name, unit="step", disable=not on)
        if on:
            with explained_disk_errors(folder / LOG):
                _drop_lines_after(folder / LOG, start)
                self.file = open(folder / LOG, "a", encoding="utf-8")
            self.board = _tensorboard(folder / "tensorboard", start)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
        if self.on:
            self.file.close()
            if self.board:
                self.board.close()

    @property
    def seconds(self) -> float:
        """Of training, in this process and before it."""
        return round(self.seconds_before + time.monotonic() - self.began, 1)

    def step(self, state: TrainState) -> None:
        """Take in a step; write a line after each `every` of them."""
        # 1. add it up
        sums = self.carried
        sums["loss"] += state.loss
        sums["steps"] += 1
        for name, values in (
            ("loss_by_bin", state.loss_sums_by_bin),
            ("counts_by_bin", state.counts_by_bin),
        ):
            sums[name] = [a + b for a, b in zip(sums[name], values)]
        self.data_wait_seconds += state.data_wait_seconds
        self.bar.update()
        if state.step % self.every:
            return
        # 2. a line of means; times are those of this process
        elapsed = time.monotonic() - self.clock_started
        images = (state.step - self.clock_step) * self.batch_size
        line = {
            "loss": round(sums["loss"] / sums["steps"], 5),
            "gradient_norm": round(state.gradient_norm, 4),
            "learning_rate": state.learning_rate,
            "loss_by_bin": [
                round(loss / n, 5) if n else None
                for loss, n in zip(sums["loss_by_bin"], sums["counts_by_bin"])
            ],
            "images_per_second": round(images / elapsed, 1),
            "data_wait_share": round(self.data_wait_seconds / elapsed, 4),
        }
        self.write(state.step, line)
        self.bar.set_postfix(
            loss=f"{line['loss']:.4f}",
            norm=f"{line['gradient_norm']:.2f}",
            images=f"{line['images_per_second']:.0f}/s",
        )
        # 3. start over
        self.carried = _no_sums()
        self.restart_clock(state.step)

    def write(self, step: int, values: dict) -> None:
        """Write one line, of numbers or lists of numbers."""
        if not self.on:
            return
        with explained_disk_errors(Path(self.file.name)):
            self.file.write(json.dumps({"step": step, **values, "seconds": self.seconds}) + "\n")
            self.file.flush()
        if not self.board:
            return
        for name, value in values.items():
            for i, v in enumerate(value if isinstance(value, list) else [value]):
                if v is not None:
                    tag = f"{name}/{i}" if isinstance(value, list) else name
                    self.board.add_scalar(tag, v, step)

    def restart_clock(self, step: int) -> None:
        """Leave the time until now out of the images per second."""
        self.clock_started, self.clock_step = time.monotonic(), step
        self.data_wait_seconds = 0.0


def _no_sums() -> dict:
    """Nothing added up yet: the steps, the loss, and by noise level the losses and the number of
    samples.
    """
    by_level = {"loss_by_bin": [0.0] * NOISE_BINS, "counts_by_bin": [0] * NOISE_BINS}
    return {"steps": 0, "loss": 0.0, **by_level}


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log.jsonl, with the current names of their fields; none if there is no
    log. A line that was cut off (by a kill, a full disk, or read while it is written) or damaged is
    left out.
    """
    return [line for _, line in _read_lines(folder / LOG)]


def _read_lines(path: Path) -> list[tuple[bytes, dict]]:
    """The lines of a log as they stand there, and what they say; without damaged ones."""
    lines = []
    for raw in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
        try:
            line = with_current_names(json.loads(raw))
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and type(line.get("step")) is int:
            lines.append((raw.rstrip() + b"\n", line))
    return lines


def _drop_lines_after(path: Path, step: int) -> None:
    """Take the lines of later steps out of a log, and damaged ones. A kill or a full disk leaves it
    as it was, or as it should be.
    """
    if not path.is_file():
        return
    kept = b"".join(raw for raw, line in _read_lines(path) if line["step"] <= step)
    if kept == path.read_bytes():
        return
    aside = path.with_name(f".{path.name}.tmp")
    try:
        aside.write_bytes(kept)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _tensorboard(folder: Path, start: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
