"""A folder that is complete or absent: built beside its place, and continued if interrupted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from imagen_mini.data.metadata import METADATA

RECIPE = ".recipe.json"  # in an unfinished folder: what it is made of
SPLITS = ("train", "test")


@contextmanager
def building(out: Path, recipe: dict[str, Any]) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end.

    Interrupted, it stays as .NAME.unfinished beside `out`, and the next call with the same recipe
    goes on in it.

    Args:
        out: A folder that does not exist yet, or is empty.
        recipe: What decides on the content, for JSON.

    Raises:
        FileExistsError: `out` already holds something.
    """
    if out.is_file() or out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"--output-dir {out} is there already; expected a new folder")
    unfinished = out.with_name(f".{out.name}.unfinished")
    text = json.dumps(recipe, sort_keys=True)
    try:
        same = (unfinished / RECIPE).read_text() == text
    except OSError:
        same = False
    if not same:
        if unfinished.is_dir() and any(unfinished.iterdir()) and not (unfinished / RECIPE).exists():
            raise FileExistsError(f"{unfinished} holds something else; move it away")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        (unfinished / RECIPE).write_text(text)
    yield unfinished
    (unfinished / RECIPE).unlink()
    if out.is_dir():
        out.rmdir()
    os.replace(unfinished, out)


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that is complete or absent."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.tmp")
    aside.write_bytes(content)
    os.replace(aside, file)


def find_image(folder: Path, name: str) -> Path | None:
    """Where an unfinished folder holds an image: in one of its splits; None: not yet."""
    return next(filter(Path.is_file, (folder / split / name for split in SPLITS)), None)


def checksum(file: Path) -> str:
    """SHA-256 of a file."""
    return sha256(file.read_bytes()).hexdigest()


def place_images(folder: Path, split: str, rows: Sequence[dict[str, Any]]) -> None:
    """Bring images to their split, and write its metadata.jsonl.

    Args:
        folder: The unfinished folder.
        split: One of `SPLITS`.
        rows: As metadata.jsonl has them; `file_name` is relative to the split.
    """
    for row in rows:
        place, now = folder / split / row["file_name"], find_image(folder, row["file_name"])
        if now is not None and now != place:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(now, place)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(folder / split / METADATA, lines.encode())
