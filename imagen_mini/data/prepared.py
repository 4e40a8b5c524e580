"""Images of a folder, made square and resized once, and kept on disk for training."""

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
from PIL import Image
from tqdm.auto import tqdm

from imagen_mini.data.image_io import ImageError, open_rgb
from imagen_mini.data.metadata import Row
from imagen_mini.utils.images import central_square, padded_square

S = TypeVar("S")
T = TypeVar("T")

PREPARATION = 1  # counts the ways of cropping and resizing; another one, another cache
CHUNK = 256  # images that may be decoded and wait in memory
SPARE = 2**28  # bytes that stay free on the disk where old prepared images are kept beside new ones
PER_IMAGE = ("files", "shapes")  # what info.json holds of each image, since these are written
SPOT_CHECKS = 1000  # images of a cache that are compared with their checksums when it is opened
# What a cache may hold of ours, and nothing else is ever removed from it: prepared images by their
# key ("pictures-": of earlier versions), and temporary folders of killed processes.
OUR_FOLDERS = re.compile(r"(images|pictures)-([0-9a-f]{16}|[a-z0-9_]{8})")
FITS = ("crop", "pad")


class SquareFit(NamedTuple):
    """How an image of any shape becomes a square.

    Args:
        how: "crop": its largest central square. "pad": all of it, with bars beside it.
        background: The colour of bars, and the one that transparent pixels are put on.
    """

    how: str = "crop"
    background: str = "#ffffff"

    def square(self, image: Image.Image, size: int) -> np.ndarray:
        """An RGB image as uint8 [size, size, 3]."""
        if self.how == "crop":
            return central_square(image, size)
        return padded_square(image, size, self.background)

    def side(self, width: int, height: int) -> int:
        """The side in an image that becomes a side of the square; a smaller one is enlarged."""
        return min(width, height) if self.how == "crop" else max(width, height)


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
    # width and height of each image as it was; None if the cache is of an earlier version
    shapes: list[tuple[int, int]] | None


class Decoded(NamedTuple):
    """One prepared image."""

    checksum: str  # SHA-256 of its file
    shape: tuple[int, int]  # width and height, as it was
    pixels: list[bytes]  # of each size


def prepare(
    rows: Sequence[Row],
    cache: Path,
    sizes: Sequence[int],
    skip_broken: bool = False,
    progress: bool = True,
    problems: Sequence[str] = (),
    fit: SquareFit | None = None,
) -> Prepared:
    """Crop or pad and resize all images, unless the cache has them.

    The files are CACHE/images-KEY/64.npy, 64.crc32, 256.npy, 256.crc32 and info.json. KEY is a hash
    of the names, sizes and times of the image files. They are written to a temporary folder and
    renamed, so they are complete or absent. What is damaged later is made again. A lock lets a
    second process wait and then find the work done. Where images were added, changed or removed,
    the others are copied from the folder of before, if the disk has room for both.

    Args:
        rows: The images.
        cache: The folder to keep them in.
        sizes: Pixels of a side.
        skip_broken: Leave images out that cannot be read, as far as `check_broken` allows.
        progress: Show a progress bar.
        problems: Of rows that could not be used for other reasons: they count as broken, too.
        fit: How they become squares. None: by the central square, on white.

    Raises:
        ImageError: Images cannot be read.
        OSError: The cache cannot be written.
    """
    # tables of two folders may name two images alike
    stats = [
        (str(Path(row.source).parent / row.name), stat.st_size, stat.st_mtime_ns)
        for row in rows
        for stat in [row.path.stat()]
    ]
    fit = fit or SquareFit()
    made = [PREPARATION, stats, *([] if fit == SquareFit() else [fit])]
    folder = cache / f"images-{hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16]}"

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
            # of a killed process, or of the images as they were
            old = [
                path
                for path in cache.iterdir()
                if OUR_FOLDERS.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
                if path != folder and _fit_of(path) in (fit, None)
            ]
            todo = missing()  # and not done by another process in the meantime
            known = _Known(old if todo and not folder.exists() else [], todo)
            todo += [size for size in known.arrays if size not in todo]
            room = sum(len(rows) * size * size * 3 for size in todo)
            if shutil.disk_usage(cache).free < room + SPARE:
                known = _Known([], [])
            if not known.rows:
                for path in old:
                    shutil.rmtree(path)
            if todo:
                with TemporaryDirectory(dir=cache, prefix="images-") as temp:
                    _decode_all(
                        rows, stats, Path(temp), todo, skip_broken, progress, problems, fit, known
                    )
                    folder.mkdir(exist_ok=True)
                    arrays = [Path(f"{size}.npy") for size in todo]
                    for name in ("info.json", *map(_checksum_file, arrays), *arrays):
                        os.replace(Path(temp, name), folder / name)
            for path in old:
                shutil.rmtree(path, ignore_errors=True)
    if (info := _read_info(folder, len(rows))) is None:
        raise OSError(f"{folder / 'info.json'} is not as it was written: the disk may be failing")
    broken = {int(i): why for i, why in info["broken"].items()}
    check_broken([*problems, *broken.values()], len(rows) + len(problems), skip_broken)
    return Prepared(
        {size: MappedImages(folder / f"{size}.npy") for size in sizes},
        info["checksums"],
        broken,
        [(width, height) for width, height in info["shapes"]] if "shapes" in info else None,
    )


def _read_info(folder: Path, n: int) -> dict | None:
    """What info.json holds of n images; None if it is not there or damaged."""
    try:
        info = json.loads((folder / "info.json").read_text())
        fine = len(info["checksums"]) == n and all(int(i) < n for i in info["broken"])
        fine = fine and all(len(info.get(name, info["checksums"])) == n for name in PER_IMAGE)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return info if fine else None


def _fit_of(folder: Path) -> SquareFit | None:
    """How the images of a folder were made square; None if it cannot be known."""
    try:
        info = json.loads((folder / "info.json").read_text())
        return SquareFit(*info.get("fit", SquareFit()))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


class _Known:
    """Images that were prepared before, by name, size and time of their files.

    Args:
        folders: With prepared images, as `prepare` writes them. The newest one is used that has all
            of `sizes`.
        sizes: All of these are needed of an image.
    """

    def __init__(self, folders: Sequence[Path], sizes: Sequence[int]):
        self.rows: dict[tuple, int] = {}
        self.arrays: dict[int, MappedImages] = {}  # by size; also of further sizes
        for folder in sorted(folders, key=lambda path: path.stat().st_mtime_ns):
            try:
                info = json.loads((folder / "info.json").read_text())
                files = [tuple(file) for file in info["files"]]
                made = [int(file.stem) for file in folder.glob("*.npy")]
                if not set(sizes) <= set(made) or _read_info(folder, len(files)) is None:
                    continue
                if not all(_is_complete(folder / f"{size}.npy", len(files), size) for size in made):
                    continue
            except (OSError, ValueError, LookupError, TypeError):
                continue  # of an earlier version, or damaged
            self.rows = {f: i for i, f in enumerate(files) if str(i) not in info["broken"]}
            self.arrays = {size: MappedImages(folder / f"{size}.npy") for size in made}
            self.checksums, self.shapes = info["checksums"], info["shapes"]

    def get(self, file: tuple, sizes: Sequence[int]) -> Decoded | None:
        """An image that was prepared before; None: it must be decoded."""
        if (row := self.rows.get(file)) is None:
            return None
        try:
            pixels = [self.arrays[size][[row]].tobytes() for size in sizes]
        except ImageError:
            return None
        width, height = self.shapes[row]
        return Decoded(self.checksums[row], (width, height), pixels)


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
    files: Sequence[tuple],
    folder: Path,
    sizes: Sequence[int],
    skip_broken: bool,
    progress: bool,
    problems: Sequence[str],
    fit: SquareFit,
    known: _Known,
) -> None:
    """Write SIZE.npy, SIZE.crc32 and info.json for all rows into `folder`."""

    def decode(item: tuple[Row, tuple]) -> Decoded | ImageError:
        row, file = item
        if (found := known.get(file, sizes)) is not None:
            return found
        try:
            image = open_rgb(row.path, fit.background)
        except ImageError as error:
            return error
        checksum = hashlib.sha256(row.path.read_bytes()).hexdigest()
        pixels = [fit.square(image, size).tobytes() for size in sizes]
        return Decoded(checksum, image.size, pixels)

    checksums, shapes, broken = [], [], {}
    with ExitStack() as stack:
        arrays = [folder / f"{size}.npy" for size in sizes]
        outputs = [stack.enter_context(open(array, "wb")) for array in arrays]
        sums = [stack.enter_context(open(_checksum_file(array), "wb")) for array in arrays]
        # written in order, not through a memory map: a full disk is then an error and no crash
        for file, size in zip(outputs, sizes):
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": (len(rows), size, size, 3)}
            )
        items = list(zip(rows, files))
        for i, result in enumerate(in_parallel(decode, items, "preparing images", progress)):
            if isinstance(result, ImageError):
                broken[i] = str(result)
                check_broken([*problems, *broken.values()], len(rows) + len(problems), skip_broken)
                result = Decoded("", (0, 0), [bytes(size * size * 3) for size in sizes])
            checksums.append(result.checksum)
            shapes.append(result.shape)
            for file, sum_of, pixels in zip(outputs, sums, result.pixels):
                file.write(pixels)
                sum_of.write(zlib.crc32(pixels).to_bytes(4, "little"))
        info = stack.enter_context(open(folder / "info.json", "w"))
        written = {"checksums": checksums, "broken": broken}
        json.dump(written | {"files": files, "shapes": shapes, "fit": fit}, info)
        for file in (info, *outputs, *sums):
            file.flush()
            os.fsync(file.fileno())


def in_parallel(
    function: Callable[[S], T], rows: Sequence[S], what: str, progress: bool = True
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
