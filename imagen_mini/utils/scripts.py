"""What the scripts of `train` and `sample` share: their argument parser, errors in plain words, and
folders of stages.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def script_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows the script's docstring as it is written.

    Args:
        doc: The script's `__doc__`.
    """
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the script with the message of an error that its user can mend, without a traceback.

    A decorator of a script's `main`: `@plain_errors()`.
    """
    try:
        yield
    except (FloatingPointError, ImportError, OSError, TypeError, ValueError) as error:
        raise SystemExit(f"{error}" or repr(error)) from error


def run_or_stage_folder(path: Path) -> Path:
    """Return the stage folder of a run, or the path itself if it is no run."""
    return path / "stage" if (path / "stage").is_dir() else path
