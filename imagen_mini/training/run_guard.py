"""What protects a long run from the outside: only one process writes to a folder, and signals end
it gracefully.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


class _Survivor:
    """A stream whose failure to write ends nothing: from then on its text goes nowhere."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """What is still to be written, also at the end of the process, goes to the null device."""
        with suppress(OSError, ValueError):  # a stream without a file
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextmanager
def surviving_output() -> Iterator[None]:
    """Within this context a run does not end because nobody reads what it prints any more.

    In `python -m train.train | tee log` Ctrl-C ends `tee` first. A terminal may be closed, and a
    file that the output goes to may be on a full disk.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Survivor(sys.stdout), _Survivor(sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


class GracefulStop:
    """Lets a run end after a step, with a checkpoint: `with GracefulStop() as stop:`.

    After the first SIGTERM, Ctrl-C or SIGHUP (the terminal was closed) `stop.requested()` is true.
    Call it after each step. The second signal ends the process at once, unless there is a grace.

    Args:
        grace: Of one rank of several: after the first signal, a step that takes longer than so
            many seconds ends the process, as it may be waiting for a process that is gone. Further
            signals are ignored, since torchrun sends one to each rank that Ctrl-C has just reached.
            None: no step ends the process. Windows has no alarm, and no grace.
    """

    SIGNALS = tuple(
        getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
    )

    def __init__(self, grace: int | None = None):
        self.grace, self._requested = grace, False

    def __enter__(self) -> GracefulStop:
        self._before = {
            number: signal.signal(number, self._on_signal)
            for number in self.SIGNALS
            if signal.getsignal(number) != signal.SIG_IGN  # as nohup has it
        }
        return self

    def __exit__(self, *_) -> None:
        _set_alarm(0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether to stop now."""
        _set_alarm(0)  # a process that calls this is not stuck
        return self._requested

    def _on_signal(self, number: int, frame) -> None:
        self._requested = True
        repeated = bool(self.grace) and hasattr(signal, "alarm")
        for each in self._before:
            signal.signal(each, signal.SIG_IGN if repeated else signal.SIG_DFL)
        if repeated:
            _set_alarm(self.grace)
        again = "" if repeated else "; once more to stop at once"
        text = (
            f"\n{signal.Signals(number).name}: stopping after this step, with a checkpoint{again}\n"
        )
        with suppress(OSError):  # the reader may be gone; print could be interrupted in itself
            os.write(1, text.encode())


def _set_alarm(seconds: int) -> None:
    """End this process after so many seconds; 0: never mind."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)
