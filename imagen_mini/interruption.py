"""What keeps a long run safe from the outside: one process to a folder, and an end that can be asked for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def only_one(run: Path) -> Iterator[None]:
    """Hold a run's folder. RuntimeError if another process does; a lock dies with its process, however that ends."""
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"{run} is in use by another process: wait for it, stop it, or pass another --output-dir") from None
    try:
        yield
    finally:
        lock.release()


class StopRequest:
    """`with StopRequest() as stop:` the first SIGTERM or Ctrl-C sets `stop.asked`, to be looked at between steps; the second ends at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.asked = False

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame) -> None:
        self.asked = True
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        print(f"\n{signal.Signals(number).name}: stopping after this step, with a checkpoint; once more to stop at once", flush=True)
