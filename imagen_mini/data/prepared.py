"""Images of a folder, cropped and resized once, and kept on disk for training."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import numpy as np
from filelock import FileLock
from tqdm.auto import tqdm

from imagen_mini.data.image_io import ImageError, open_rgb
from imagen_mini.data.metadata import Row
from imagen_mini.utils.images import central_square

T = TypeVar("T")

PREPARATION = 1  # counts the ways of cropping and resizing; another one, another cache
CHUNK = 256  # images that may be decoded and wait in memory
SPOT_CHECKS = 1000  # images of a cache that are compared with their checksums when it is opened
# What a cache may hold of ours, and nothing else is ever removed from it: prepared images by their
# key ("pictures-": of earlier versions), and temporary folders of killed processes.
OUR_FOLDERS = re.compile(r"(images|pictures)-([0-9a-f]{16}|[a-z0-9_]{8})")


class MappedImages:
    """Images of one size in a file, read as they are needed.

    A process that is started with them gets the name of the file and no copy of the images. Each
    image that is read is compared with its checksum.

    Args:
        file: An .npy file of uint8 [n, size, size, 3]; beside it lie the checksums, see
            `_checksum_file`.
    """

    def __init__(self, file: Path):
        self.file = file
        self.array = np.lib.format.open_memmap(file, mode="r")
        self.checksums = np.fromfile(_checksum_file(file), "<u4")

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Sequence[int]) -> np.ndarray:
        """Some of the images: uint8 [rows, size, size, 3].

        Raises:
            ImageError: An image is not as it was written.
        """
        images = self.array[rows]
        for row, image in zip(rows, images):
            if zlib.crc32(image) != self.checksums[row]:
                raise ImageError(
                    f"image {row + 1} of {len(self)} in {self.file} is not as it was written: the "
                    f"disk may be failing. To have all prepared again, remove the folder "
                    f"{self.file.parent}"
                )
        return images

    def __reduce__(self):
        return MappedImages, (self.file,)


class Prepared(NamedTuple):
    """The prepared images of a folder."""

    images: dict[int, MappedImages]  # by size
    checksums: list[str]  # SHA-256 of each image's file; "" if it is broken
    broken: dict[int, str]  # rows that cannot be read, and why; in `images` they are black


def prepare(
    rows: Sequence[Row],
    cache: Path,
    sizes: Sequence[int],
    skip_broken: bool = False,
    progress: bool = True,
    problems: Sequence[str] = (),
) -> Prepared:
    """Crop and resize all images, unless the cache has them.

    The files are CACHE/images-KEY/64.npy, 64.crc32, 256.npy, 256.crc32 and info.json. KEY is a hash
    of the names, sizes and times of the image files. They are written to a temporary folder and
    renamed, so they are complete or absent. What is damaged later is made again. A lock lets a
    second process wait and then find the work done.

    Args:
        rows: The images.
        cache: The folder to keep them in.
        sizes: Pixels of a side.
        skip_broken: Leave images out that cannot be read, as far as `check_broken` allows.
        progress: Show a progress bar.
        problems: Of rows that could not be used for other reasons: they count as broken, too.

    Raises:
        ImageError: Images cannot be read.
        OSError: The cache cannot be written.
    """
    stats = [
        (row.name, stat.st_size, stat.st_mtime_ns) for row in rows for stat in [row.path.stat()]
    ]
    folder = (
        cache
        / f"images-{hashlib.sha256(json.dumps([PREPARATION, stats]).encode()).hexdigest()[:16]}"
    )

    def missing() -> list[int]:
        if _read_info(folder, len(rows)) is None:
            return list(sizes)
        return [size for size in sizes if not _is_complete(folder / f"{size}.npy", len(rows), size)]

    if missing():
        try:
            if cache.is_symlink():  # what lies behind it may be anybody's
                raise OSError(errno.EINVAL, "it is a link")
            cache.mkdir(parents=True, exist_ok=True)
            (cache / "lock").touch()
        except OSError as error:
            raise OSError(
                f"cannot write the prepared images to {cache} ({error.strerror}); name another "
                "folder for them (--data-cache)"
            ) from error
        with FileLock(cache / "lock"):
            for old in cache.iterdir():  # of a killed process, or of the images as they were
                ours = OUR_FOLDERS.fullmatch(old.name) and old != folder
                if ours and old.is_dir() and not old.is_symlink():
                    shutil.rmtree(old)
            if todo := missing():  # and not done by another process in the meantime
                with TemporaryDirectory(dir=cache, prefix="images-") as temp:
                    _decode_all(rows, Path(temp), todo, skip_broken, progress, problems)
                    folder.mkdir(exist_ok=True)
                    arrays = [Path(f"{size}.npy") for size in todo]
                    for name in ("info.json", *map(_checksum_file, arrays), *arrays):
                        os.replace(Path(temp, name), folder / name)
    if (info := _read_info(folder, len(rows))) is None:
        raise OSError(f"{folder / 'info.json'} is not as it was written: the disk may be failing")
    broken = {int(i): why for i, why in info["broken"].items()}
    check_broken([*problems, *broken.values()], len(rows) + len(problems), skip_broken)
    return Prepared(
        {size: MappedImages(folder / f"{size}.npy") for size in sizes},
        info["checksums"],
        broken,
    )


def _read_info(folder: Path, n: int) -> dict | None:
    """What info.json holds of n images; None if it is not there or damaged."""
    try:
        info = json.loads((folder / "info.json").read_text())
        fine = len(info["checksums"]) == n and all(int(i) < n for i in info["broken"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return info if fine else None


def _checksum_file(file: Path) -> Path:
    """Where the CRC-32 of each image of an .npy file stands, as little-endian uint32 [n]."""
    return file.with_suffix(".crc32")


def _is_complete(file: Path, n: int, size: int) -> bool:
    """Whether the file holds n images as they were written.

    A full disk, a copy or a failing disk may cut it, or leave other bytes in it. Of a large file,
    images at equal distances are looked at, with the first and the last: each of them is looked at
    once more when it is used.
    """
    header, checksums = 128, _checksum_file(file)  # bytes, of an .npy file
    if not file.is_file() or file.stat().st_size != header + n * size * size * 3:
        return False
    if not checksums.is_file() or checksums.stat().st_size != 4 * n:
        return False
    try:
        MappedImages(file)[np.linspace(0, n - 1, min(n, SPOT_CHECKS)).round().astype(int)]
    except (ImageError, ValueError):  # ValueError: the header is another one
        return False
    return True


def _decode_all(
    rows: Sequence[Row],
    folder: Path,
    sizes: Sequence[int],
    skip_broken: bool,
    progress: bool,
    problems: Sequence[str],
) -> None:
    """Write SIZE.npy, SIZE.crc32 and info.json for all rows into `folder`."""

    def decode(row: Row) -> tuple[str, list[bytes]] | ImageError:
        try:
            image = open_rgb(row.path)
        except ImageError as error:
            return error
        return hashlib.sha256(row.path.read_bytes()).hexdigest(), [
            central_square(image, size).tobytes() for size in sizes
        ]

    checksums, broken = [], {}
    with ExitStack() as stack:
        arrays = [folder / f"{size}.npy" for size in sizes]
        files = [stack.enter_context(open(array, "wb")) for array in arrays]
        sums = [stack.enter_context(open(_checksum_file(array), "wb")) for array in arrays]
        # written in order, not through a memory map: a full disk is then an error and no crash
        for file, size in zip(files, sizes):
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": (len(rows), size, size, 3)}
            )
        for i, result in enumerate(in_parallel(decode, rows, "preparing images", progress)):
            if isinstance(result, ImageError):
                broken[i] = str(result)
                check_broken([*problems, *broken.values()], len(rows) + len(problems), skip_broken)
                result = "", [bytes(size * size * 3) for size in sizes]
            checksums.append(result[0])
            for file, sum_of, pixels in zip(files, sums, result[1]):
                file.write(pixels)
                sum_of.write(zlib.crc32(pixels).to_bytes(4, "little"))
        info = stack.enter_context(open(folder / "info.json", "w"))
        json.dump({"checksums": checksums, "broken": broken}, info)
        for file in (info, *files, *sums):
            file.flush()
            os.fsync(file.fileno())


def in_parallel(
    function: Callable[[Row], T], rows: Sequence[Row], what: str, progress: bool = True
) -> Iterator[T]:
    """Yield function(row) for each row, in order, computed by several threads.

    Pillow decodes outside Python's lock. The threads are never far ahead of the caller.

    Args:
        function: What to compute of a row.
        rows: The rows.
        what: The label of the progress bar.
        progress: Show a progress bar.
    """
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(rows), desc=what, unit="image", disable=not progress) as bar,
    ):
        for start in range(0, len(rows), CHUNK):
            for result in pool.map(function, rows[start : start + CHUNK]):
                yield result
                bar.update()


def may_be_skipped(n: int) -> int:
    """Of n images, how many may be left out: 1 %, but one of any folder with another image."""
    return max(n // 100, min(1, n - 1))


def check_broken(problems: Sequence[str], n: int, skip_broken: bool) -> None:
    """Check how many images cannot be used.

    Args:
        problems: What is wrong with each of these.
        n: Images in all.
        skip_broken: Allow as many as `may_be_skipped`.

    Raises:
        ImageError: There are any; or, where they are skipped, more than may be.
    """
    limit = may_be_skipped(n)
    if problems and not skip_broken:
        advice = f"; to leave out up to {limit} of {n}: --skip-broken" if limit else ""
        raise ImageError(
            f"{problems[0]}\nAll problems: python -m train.check_dataset FOLDER{advice}"
        )
    if len(problems) > limit:
        raise ImageError(
            f"{len(problems)} of {n} images are broken, more than the 1 % that may be skipped:"
            + "".join(f"\n  {why}" for why in problems[:5])
            + "\nRepair them, or take their rows out of the metadata. "
            "All problems: python -m train.check_dataset FOLDER"
        )
