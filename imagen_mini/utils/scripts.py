"""What the scripts of `train` and `sample` share: their argument parser, folders of stages, and
how a mistake of the user ends.
"""

from __future__ import annotations

import argparse
import dis
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).parents[2]  # what lies below its packages is our own code
PACKAGES = ("imagen_mini", "sample", "train")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # Pillow writes them
FIGURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".svg", ".pdf")  # so does matplotlib


class DefaultsInHelp(argparse.ArgumentDefaultsHelpFormatter):
    """Adds an option's default to its help, unless there is none or the help says it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def script_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows the script's docstring as it is written.

    Args:
        doc: The script's `__doc__`.
    """
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def current_commit() -> str | None:
    """Return the short name of the commit that this code is at, or None outside of a checkout."""
    command = ["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:  # no git
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def check_replaceable(folder: Path, ours: Sequence[str], option: str = "--out") -> None:
    """Raise ValueError if a folder that is to be replaced holds something else.

    Args:
        folder: The folder; it need not be there.
        ours: Patterns of the names that it may hold.
        option: The option that names it.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not any(path.match(pattern) for pattern in ours):
            raise ValueError(
                f"{option} {folder} holds something else, {path.name}, and would be replaced; "
                "expected a new folder"
            )


def run_or_stage_folder(path: Path) -> Path:
    """Return the stage folder of a run, or the path itself if it is no run."""
    return path / "stage" if (path / "stage").is_dir() else path


# ---------------------------------------------------------------- mistakes


def run_script(main: Callable[[], None]) -> None:
    """Run a script from the command line: every script ends with `run_script(main)`.

    A mistake of the user ends in one plain line and exit code 1; a mistake that the parser of
    arguments finds, in exit code 2. An error in the code keeps its traceback.

    Args:
        main: Reads the command line and does the work.
    """
    try:
        with plain_errors():
            main()
    except KeyboardInterrupt:
        raise SystemExit("stopped") from None
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn the errors that a user can mend into a SystemExit with one plain line. It also decorates
    the `main` of a script.

    These are files that cannot be read or written, memory that ran out, and what our own code
    refuses: a ValueError, TypeError, FloatingPointError or ImportError that one of its `raise`
    statements raised. The same errors out of Python or a library are bugs of ours.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        if (message := _message(error)) is None:
            raise
        raise SystemExit(message) from error


def _message(error: Exception) -> str | None:
    """The plain line of an error that the user can mend; None for a bug."""
    if out_of_memory(error):
        return f"out of memory: {_first_line(error)} Fewer or smaller images at a time need less"
    refusals = (ValueError, TypeError, FloatingPointError, ImportError)
    if isinstance(error, refusals) and (_raised_by_us(error) or _in_a_worker(error)):
        lines = [line for line in str(error).splitlines() if line.strip()]
        if _in_a_worker(error):
            return lines[-1].partition(": ")[2] or lines[-1]
        return " ".join(lines) or repr(error)
    if isinstance(error, OSError):
        if error.strerror and error.filename is not None:
            return f"{os.fsdecode(error.filename)}: {error.strerror}"
        return str(error) if _raised_by_us(error) else _first_line(error)
    return None


def out_of_memory(error: BaseException) -> bool:
    """Did memory run out, on the processor or on an accelerator?"""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's; this file loads no torch
        or isinstance(error, RuntimeError)
        and "can't allocate memory" in str(error)
    )


def _raised_by_us(error: BaseException) -> bool:
    """Was an error raised by a `raise` statement of this project, and not by what it calls?"""
    if type(error.__cause__).__name__ == "_RemoteTraceback":  # from another process, as text
        *_, last = str(error.__cause__).rpartition('  File "')
        file, _, statement = last.partition("\n")
        return _is_ours(file.partition('"')[0]) and statement.strip().startswith("raise ")
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    return _is_ours(code.co_filename) and any(
        instruction.offset == trace.tb_lasti and instruction.opname == "RAISE_VARARGS"
        for instruction in dis.get_instructions(code)
    )


def _is_ours(file: str) -> bool:
    """Does a file belong to this project?"""
    return any(Path(file).is_relative_to(PROJECT / package) for package in PACKAGES)


def _in_a_worker(error: BaseException) -> bool:
    """Was it raised in a process that reads data, and raised again here by torch?"""
    return "in DataLoader worker process" in str(error).partition("\n")[0]


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


# ---------------------------------------------------------------- types of options


def integer(low: int | None = None) -> Callable[[str], int]:
    """A type for `add_argument`: an integer.

    Args:
        low: The smallest one allowed. None: any.
    """

    def parse(text: str) -> int:
        value = int(text)
        if low is not None and value < low:
            raise argparse.ArgumentTypeError(f"{value}; expected an integer of at least {low}")
        return value

    parse.__name__ = "int"  # argparse says "invalid int value"
    return parse


def number(
    low: float = -math.inf, high: float = math.inf, above: float = -math.inf
) -> Callable[[str], float]:
    """A type for `add_argument`: a finite number.

    Args:
        low, high: The smallest and the largest one allowed.
        above: It is larger than this.
    """

    def parse(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text}; expected a finite number")
        if value <= above:
            raise argparse.ArgumentTypeError(f"{text}; expected a number above {above:g}")
        if not low <= value <= high:
            limits = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"{text}; expected a number {limits}")
        return value

    parse.__name__ = "float"
    return parse


def color(text: str) -> str:
    """A type for `add_argument`: a colour as '#rrggbb', see `utils.images.hex_color`."""
    from imagen_mini.utils.images import hex_color  # not every script needs torch and Pillow

    try:
        return hex_color(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# ---------------------------------------------------------------- where the output goes


def check_output_file(path: Path, suffixes: Sequence[str] = IMAGES, option: str = "--out") -> None:
    """Refuse a file that could not be written later, before any work is done.

    Its folder is made.

    Args:
        path: The file.
        suffixes: The endings that it may have; none: any.
        option: The option that named it, for the message.

    Raises:
        ValueError: Another ending, a folder, or a place where nothing can be written.
    """
    if path.is_dir():
        example = path / f"out{suffixes[0] if suffixes else ''}"
        raise ValueError(f"{option} {path} is a folder; expected a file, for example {example}")
    if suffixes and path.suffix.lower() not in suffixes:
        example = path.with_name((path.name or "out") + suffixes[0])
        raise ValueError(
            f"{option} {path} {f'ends in {path.suffix}' if path.suffix else 'has no ending'}; "
            "expected one of "
            f"{', '.join(suffixes)}, for example {example}"
        )
    check_output_folder(path.parent, option)
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{option} {path}: the file is there and may not be written")


def check_output_folder(path: Path, option: str = "--out") -> None:
    """Make a folder for the output, and refuse it if nothing can be written there.

    Args:
        path: The folder.
        option: The option that named it, for the message.

    Raises:
        ValueError: It cannot be made, or nothing can be written into it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        if path.is_file():
            raise ValueError(f"{option} {path} is a file; expected a folder") from error
        raise ValueError(f"{option}: nothing can be written to {path} ({error})") from error
