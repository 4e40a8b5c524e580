"""What protects a long run from the outside: only one process writes to a folder, and signals end
it gracefully.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold a run's folder, and make it if it is not there. The lock ends with its process, however
    that ends.

    Raises:
        BlockingIOError: Another process holds it.
        OSError: The folder cannot be written to.
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
    """Lets a run end after a step, with a checkpoint: `with GracefulStop() as stop:`.

    After the first SIGTERM or Ctrl-C `stop.requested()` is true. Call it after each step. The
    second signal ends the process at once.

    Args:
        grace: After the first signal, a step that takes longer than so many seconds ends the
            process, too: it may be waiting for a process that is gone. None: it never does.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, grace: int | None = None):
        self.grace, self._requested = grace, False

    def __enter__(self) -> GracefulStop:
        self._before = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        signal.alarm(0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether to stop now."""
        signal.alarm(0)  # a process that calls this is not stuck
        return self._requested

    def _on_signal(self, number: int, frame) -> None:
        self._requested = True
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if self.grace:
            signal.alarm(self.grace)
        print(
            f"\n{signal.Signals(number).name}: stopping after this step, with a checkpoint; "
            "once more to stop at once",
            flush=True,
        )
