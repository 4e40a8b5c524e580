"""What keeps a long run safe from the outside: one process to a folder, and an end that can be
asked for.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold a run's folder, made if need be. BlockingIOError if another process holds it; a lock
    dies with its process, however that ends.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"{run} is in use by another process: wait for it, stop it, or pass another "
            "--output-dir"
        ) from None
    except OSError as error:
        raise OSError(f"{run} cannot be written to: {error}. Pass another --output-dir") from error
    try:
        yield
    finally:
        lock.release()


class GracefulStop:
    """`with StopRequest() as stop:` the first SIGTERM or Ctrl-C lets `stop.asked()` be true, which
    is to be called after each step; the second ends at once. With `grace`, so does a step that is
    not done within so many seconds: it may be waiting for a process that is gone.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, grace: int | None = None):
        self.grace, self._asked = grace, False

    def __enter__(self) -> GracefulStop:
        self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        signal.alarm(0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether to stop now."""
        signal.alarm(0)  # whoever asks is not stuck
        return self._asked

    def _ask(self, number: int, frame) -> None:
        self._asked = True
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if self.grace:
            signal.alarm(self.grace)
        print(
            f"\n{signal.Signals(number).name}: stopping after this step, with a checkpoint; "
            "once more to stop at once",
            flush=True,
        )
