"""Captioned image folders, as Hugging Face `imagefolder` reads them: images, and `metadata.jsonl`
with one JSON object a line.

    {"file_name": "cats/1.jpg", "text": "a grey cat on a chair"}
    {"file_name": "2.png", "text": ["a red boat", "a small boat at sea"]}

Other keys are ignored. Of several captions one is chosen each time the image is seen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Row:
    """One image of a folder."""

    line: int  # of metadata.jsonl, from 1
    name: str  # as it stands there
    path: Path  # of a file that is there, links resolved
    captions: tuple[str, ...]


def read_metadata(folder: str | Path) -> tuple[list[Row], list[str]]:
    """Read metadata.jsonl. Images are not opened.

    Returns:
        The rows that can be used, and the problems of the others, like
        'metadata.jsonl line 3: ...'.

    Raises:
        FileNotFoundError: There is no such folder, or no metadata.jsonl in it.
    """
    root = Path(folder).resolve()
    if not (root / METADATA).is_file():
        raise FileNotFoundError(
            f"{root} {'has no ' + METADATA if root.is_dir() else 'is no folder'}; expected "
            f"images and a {METADATA} with lines like "
            '{"file_name": "1.png", "text": "a caption"}'
        )
    rows, problems = [], []
    lines = (root / METADATA).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                name, captions = _parse(line)
                rows.append(Row(number, name, inside(root, name), captions))
            except ValueError as error:
                problems.append(f"{METADATA} line {number}: {error}")
    return rows, problems


def _parse(line: bytes) -> tuple[str, tuple[str, ...]]:
    """File name and captions of one line. A ValueError names the problem."""
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"no UTF-8 at byte {error.start} (0x{line[error.start]:02x}); save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON at column {error.colno} ({error.msg})") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(values, dict) or not isinstance(values.get("file_name"), str):
        raise ValueError(
            f'expected an object with "file_name" and "text"; got {line.decode()!r:.80}'
        )
    captions = values.get("text")
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not captions:
        raise ValueError(
            f'"text" must be a caption or a list of captions; got {json.dumps(captions):.80}'
        )
    for caption in captions:
        if problem := caption_problem(caption):
            raise ValueError(problem)
    return values["file_name"], tuple(captions)


def caption_problem(caption) -> str | None:
    """Why this is no caption; None if it is one."""
    if not isinstance(caption, str):
        return f"a caption must be a string; got {json.dumps(caption):.80}"
    if not caption.strip():
        return "the caption is empty"
    if "\0" in caption:
        return f"the caption holds a NUL character: {caption!r:.80}"
    if any("\ud800" <= c <= "\udfff" for c in caption):
        return f"the caption holds a lone surrogate, which is no text: {caption!r:.80}"
    return None


def inside(root: Path, name: str) -> Path:
    """The file `name` of the folder `root` (resolved).

    Raises:
        ValueError: It is no file, or not in `root` after links are followed.
    """
    windows = PureWindowsPath(name)  # knows both kinds of slashes, and drives
    if not name or windows.anchor or ".." in windows.parts:
        raise ValueError(
            f"file_name {name!r} leads out of the folder; expected a path inside it, like "
            "'cats/1.jpg'"
        )
    try:
        path = (root / name).resolve()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, no text, links in a circle
        raise ValueError(f"file_name {name!r:.80} is no usable path: {error}") from None
    if not path.is_relative_to(root):
        raise ValueError(f"file_name {name!r} is a link that leads out of the folder, to {path}")
    if not found:
        raise ValueError(
            f"file_name {name!r} is {'a folder' if path.is_dir() else 'not there'}; expected "
            "an image"
        )
    return path


def unlisted(folder: str | Path, rows: Iterable[Row]) -> list[str]:
    """Files of the folder that no row names, hidden ones apart, sorted."""
    root, listed = Path(folder).resolve(), {row.path for row in rows}
    found = []
    for parent, folders, files in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [
            path
            for f in files
            if not f.startswith(".") and (path := Path(parent, f)).resolve() not in listed
        ]
    return sorted(str(path.relative_to(root)) for path in found if path != root / METADATA)


def write_folder(out: str | Path, images: Iterable[tuple[str, bytes, str | list[str]]]) -> int:
    """Write a captioned folder. metadata.jsonl comes last, so a folder that has one is complete.

    Args:
        out: A new or empty folder.
        images: File name, content of the file, caption or captions.

    Returns:
        How many images.

    Raises:
        FileExistsError: `out` already holds something.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; expected a new folder, or an empty one")
    lines = []
    for name, content, captions in images:
        (out / name).write_bytes(content)
        lines.append(json.dumps({"file_name": name, "text": captions}, ensure_ascii=False) + "\n")
    temp = out / f".{METADATA}"
    temp.write_text("".join(lines), encoding="utf-8")
    os.replace(temp, out / METADATA)
    return len(lines)
