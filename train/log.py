"""The log of a training run: log.jsonl always, TensorBoard if it is installed, the progress bar.
Written by the first rank alone.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from tqdm.auto import tqdm

from imagen_mini.training.loop import NOISE_BINS, TrainState

TIMES = ("seconds", "pictures_per_second", "waited")  # fields that no two runs have in common


class Log:
    """`with Log(...) as log:` call `step` after each step. A line is the mean of the `every` steps
    before it.

    What has been added up for the next line is in `carried`: it belongs into a checkpoint, so that
    a run that was interrupted writes the same lines. On going on from step `start`, lines after it
    are dropped: they will be written again.
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
        self.every, self.batch_size, self.on, self.seconds_before = (
            every,
            batch_size,
            on,
            seconds_before,
        )
        self.carried = carried or {
            "loss": 0.0,
            "level_losses": [0.0] * NOISE_BINS,
            "level_counts": [0] * NOISE_BINS,
        }
        self.began = time.monotonic()
        self.mark, self.marked, self.data_wait_seconds = self.began, start, 0.0
        self.bar = tqdm(total=steps, initial=start, desc=name, unit="step", disable=not on)
        if on:
            path = folder / "log.jsonl"
            path.write_text(
                "".join(
                    json.dumps(line) + "\n" for line in read_log(folder) if line["step"] <= start
                )
            )
            self.file, self.board = open(path, "a"), _tensorboard(folder / "tensorboard", start)

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
        c = self.carried
        c["loss"] += state.loss
        for name, values in (
            ("level_losses", state.loss_sums_by_bin),
            ("level_counts", state.counts_by_bin),
        ):
            c[name] = [a + b for a, b in zip(c[name], values)]
        self.data_wait_seconds += state.data_wait_seconds
        self.bar.update()
        if state.step % self.every:
            return
        now = time.monotonic()
        steps = state.step - self.marked  # timed by this process
        line = {
            "loss": round(c["loss"] / self.every, 5),
            "gradient_norm": round(state.gradient_norm, 4),
            "learning_rate": state.learning_rate,
            "level_losses": [
                round(loss / n, 5) if n else None
                for loss, n in zip(c["level_losses"], c["level_counts"])
            ],
            "pictures_per_second": round(steps * self.batch_size / (now - self.mark), 1),
            "waited": round(self.data_wait_seconds / (now - self.mark), 4),
        }
        self.write(state.step, line)
        self.bar.set_postfix(
            loss=f"{line['loss']:.4f}",
            norm=f"{line['gradient_norm']:.2f}",
            pics=f"{line['pictures_per_second']:.0f}/s",
        )
        self.carried = {
            "loss": 0.0,
            "level_losses": [0.0] * NOISE_BINS,
            "level_counts": [0] * NOISE_BINS,
        }
        self.restart_clock(state.step)

    def write(self, step: int, values: dict) -> None:
        """One line, of numbers or lists of numbers."""
        if self.on:
            self.file.write(json.dumps({"step": step, **values, "seconds": self.seconds}) + "\n")
            self.file.flush()
            if self.board:
                for name, value in values.items():
                    for i, v in enumerate(value if isinstance(value, list) else [value]):
                        if v is not None:
                            self.board.add_scalar(
                                f"{name}/{i}" if isinstance(value, list) else name, v, step
                            )

    def restart_clock(self, step: int) -> None:
        """Leave what took time until now out of the images per second."""
        self.mark, self.marked, self.data_wait_seconds = time.monotonic(), step, 0.0


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log.jsonl, but for one that a kill, a full disk or a reader's haste has
    cut off; none if there is no log.
    """
    path, lines = folder / "log.jsonl", []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _tensorboard(folder: Path, start: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
