"""A submission, read with suspicion: a folder or a zip of files that somebody else has written."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path, PurePosixPath

MOST_BYTES = 8 * 2**20  # of one file
MOST_FILES = 20_000
MOST_DEPTH = 6


class SubmissionError(Exception):
    """A submission, or a file of it, cannot be read; the message says why and what to do."""


class Submission:
    """Files by their path inside the handout, such as "imagen_mini/diffusion/samplers.py".

    The folder that holds `imagen_mini` may lie deeper, as in a zip of a folder. Links are never
    followed: they may lead to the grader's own files.

    Args:
        path: A folder, or a zip file.

    Raises:
        SubmissionError: There is nothing there that can be read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.archive: zipfile.ZipFile | None = None
        if self.path.is_dir():
            names = list(_files(self.path))
        elif zipfile.is_zipfile(self.path):
            self.archive = zipfile.ZipFile(self.path)
            names = [i.filename for i in self.archive.infolist() if _is_file(i)][:MOST_FILES]
        else:
            raise SubmissionError(f"{path} is neither a folder nor a zip file")
        tops = sorted(
            {
                "/".join(PurePosixPath(n).parts[: PurePosixPath(n).parts.index("imagen_mini")])
                for n in names
                if "imagen_mini" in PurePosixPath(n).parts
            },
            key=lambda top: (top.count("/") + bool(top), top),
        )
        self.top = tops[0] if tops else ""
        self.names = set(names)

    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None if it was not submitted.

        Raises:
            SubmissionError: It is too large or damaged.
        """
        name = f"{self.top}/{path}" if self.top else path
        if name not in self.names:
            return None
        too_large = f"{path} is larger than {MOST_BYTES // 2**20} MB; hand in a smaller one"
        try:
            if self.archive is not None:
                with self.archive.open(name) as file:
                    data = file.read(MOST_BYTES + 1)
            else:
                handle = os.open(self.path / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
                with os.fdopen(handle, "rb") as file:
                    data = file.read(MOST_BYTES + 1)
        except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, NotImplementedError):
            raise SubmissionError(f"{path} cannot be read; hand it in again") from None
        if len(data) > MOST_BYTES:
            raise SubmissionError(too_large)
        return data

    def text(self, path: str) -> str | None:
        """A file as text; None if it was not submitted.

        Raises:
            SubmissionError: It is too large, damaged, or not UTF-8.
        """
        data = self.read(path)
        try:
            return None if data is None else data.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            raise SubmissionError(f"{path} is not text in UTF-8; save it as UTF-8") from None


def _files(folder: Path):
    """The paths of the regular files in a folder, links left out."""
    found = 0
    for place, folders, names in os.walk(folder, followlinks=False):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(f for f in folders if depth < MOST_DEPTH and f[0] not in "._")
        for name in names:
            path = Path(place) / name
            if stat.S_ISREG(path.lstat().st_mode):
                found += 1
                if found > MOST_FILES:
                    return
                yield path.relative_to(folder).as_posix()


def _is_file(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16)
    parts = PurePosixPath(info.filename).parts
    plain = kind in (0, stat.S_IFREG) and not info.is_dir() and "__MACOSX" not in parts
    return plain and ".." not in parts and not info.filename.startswith("/")
