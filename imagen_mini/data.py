"""Training data: the built-in world, or a folder of one's own pictures with captions.

Both are endless sequences of numbered samples. Sample `number` is a function of the seed and the number alone, whoever asks for it and whenever,
so step s of batch size b is made of the samples s * b ... s * b + b - 1, and resuming needs no state.

The two here make a batch in two steps: `draft` decides what is in it, on the CPU, in any process; `Draft.on` makes the pictures, on the device that
needs them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.decode import PictureError, open_rgb
from imagen_mini.utils.images import central_square
from imagen_mini.image_folder import Row, read_metadata
from imagen_mini.utils.rng import generator
from imagen_mini.scenes.captions import Description, training_caption
from imagen_mini.scenes.contradictions import mistaken
from imagen_mini.scenes.render import Packed, draw, pack
from imagen_mini.scenes.scene import Scene, training_scene
from imagen_mini.scenes.equivalents import sides, twin

T = TypeVar("T")


class Batch(NamedTuple):
    pictures: Tensor                                   # [b, 3, size, size] in [-1, 1]
    low_res: Tensor | None                             # [b, 3, low, low], the same pictures smaller; for super-resolution
    captions: list[str]


class Alternatives(NamedTuple):
    """For each picture two others, or itself where there is none of a kind."""

    twins: Tensor                                      # [b, 3, size, size]; its caption describes this as well (see `scenes.twins`)
    side: Tensor                                       # [b, 1, size, size]: 1 on the side of the first of the two places in which these differ, else 0
    mistaken: Tensor                                   # [b, 3, size, size]; its caption says that this is wrong (see `scenes.mistakes`)


class Draft(Protocol):
    """A batch whose pictures are still to be made. Small, and may be pickled."""

    captions: list[str]

    def on(self, device) -> tuple[Batch, Alternatives | None]:
        """Make them."""


class Data(Protocol):
    """What a training loop needs to know of its data."""

    def batch(self, numbers: Sequence[int], size: int, low: int | None = None, device=None) -> Batch:
        """The samples of these numbers, at `size` pixels, and at `low` pixels unless that is None."""

    def describe(self) -> dict:
        """Where the data comes from, for JSON: equal descriptions mean equal samples (of equal seeds)."""


class Scenes:
    """The built-in world. `counts`: how often a scene has 1, 2, 3, 4 things."""

    def __init__(self, seed: int = 0, counts: Sequence[float] = (22, 50, 17, 11)):
        self.seed, self.counts = seed, counts

    def draft(self, numbers: Sequence[int], size: int, low: int | None = None, alternatives: bool = False) -> SceneDraft:
        scenes = [training_scene(self.seed, i, self.counts) for i in numbers]
        captions = [training_caption(scene, self.seed, i) for scene, i in zip(scenes, numbers)]
        others = self._others(numbers, scenes, [c.description for c in captions], textures=low is not None) if alternatives else None
        return SceneDraft(pack(scenes), [c.text for c in captions], others, size, low)

    def _others(self, numbers: Sequence[int], scenes: list[Scene], descriptions: list[Description], textures: bool) -> tuple[Packed, Tensor, Packed]:
        """Twins, of textures alone if what stands where is given, the two places of each (NaN: there is no twin), and mistakes."""
        twins = [twin(scene, said, random.Random(f"twin/{self.seed}/{i}"), textures) for i, scene, said in zip(numbers, scenes, descriptions)]
        nowhere = ((math.nan, math.nan),) * 2
        mistakes = scenes if textures else [mistaken(scene, said, random.Random(f"mistake/{self.seed}/{i}")) or scene
                                            for i, scene, said in zip(numbers, scenes, descriptions)]
        return (pack([scene if other is None else other.scene for scene, other in zip(scenes, twins)]),
                torch.tensor([nowhere if other is None else other.places for other in twins]), pack(mistakes))

    def batch(self, numbers: Sequence[int], size: int, low: int | None = None, device=None) -> Batch:
        return self.draft(numbers, size, low).on(device)[0]

    def alternatives(self, numbers: Sequence[int], size: int, low: int | None = None, device=None) -> Alternatives:
        """Twins and mistakes of the samples of these numbers; for super-resolution (`low`), twins in texture, and no mistakes."""
        return self.draft(numbers, size, low, alternatives=True).on(device)[1]

    def describe(self) -> dict:
        return {"source": "scenes"}


class SceneDraft(NamedTuple):
    scenes: Packed
    captions: list[str]
    others: tuple[Packed, Tensor, Packed] | None       # twins, their places, mistakes
    size: int
    low: int | None

    def on(self, device) -> tuple[Batch, Alternatives | None]:
        pictures, low_res = (None if size is None else draw(self.scenes, size, device) for size in (self.size, self.low))
        batch = Batch(pictures, low_res, self.captions)
        if self.others is None:
            return batch, None
        twins, places, mistakes = self.others
        return batch, Alternatives(draw(twins, self.size, device), sides(places.to(device), self.size), draw(mistakes, self.size, device))


class Folder:
    """A captioned image folder (see `image_folder`), its pictures cropped to their central squares and resized once, at each of `sizes`.

    Every picture is seen once an epoch, in an order drawn anew for each. What is prepared is kept until the pictures change: in `path/.prepared`, or
    in a subfolder of `cache`. Captions are read afresh.

    Raises ValueError for bad metadata and PictureError for a picture that cannot be read; with `skip_broken` such pictures are left out, up to 1 %.
    """

    def __init__(self, path: str | Path, sizes: Sequence[int], seed: int = 0, skip_broken: bool = False, cache: str | Path | None = None,
                 progress: bool = True):
        self.path, self.seed = Path(path).resolve(), seed
        rows, problems = read_metadata(self.path)
        if problems or not rows:
            raise ValueError(f"{self.path}: {len(problems)} of {len(rows) + len(problems)} rows cannot be used" + "".join(f"\n  {p}" for p in problems[:5])
                             + f"\nAll problems: python -m train.check_data {self.path}")
        subfolder = f"{self.path.name}-{hashlib.sha256(bytes(self.path)).hexdigest()[:8]}"
        prepared = prepare(rows, self.path / ".prepared" if cache is None else Path(cache, subfolder), sizes, skip_broken, progress)
        self.pictures, self.broken = prepared.pictures, prepared.broken
        self.rows = [i for i in range(len(rows)) if i not in self.broken]        # of the prepared pictures, those that are there
        self.captions = [row.captions for row in rows]
        contents = [(prepared.checksums[i], self.captions[i]) for i in self.rows]
        self.fingerprint = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.rows)

    def draft(self, numbers: Sequence[int], size: int, low: int | None = None, alternatives: bool = False) -> FolderDraft:
        if alternatives:
            raise ValueError("only the built-in world has twins and mistakes; expected twins=0 and mistakes=0")
        rows = [self.rows[row_of(number, len(self), self.seed)] for number in numbers]
        captions = [random.Random(f"caption/{self.seed}/{number}").choice(self.captions[row]) for number, row in zip(numbers, rows)]
        return FolderDraft(self._read(rows, size), None if low is None else self._read(rows, low), captions)

    def _read(self, rows: list[int], size: int) -> Tensor:
        if size not in self.pictures:
            raise ValueError(f"the pictures of {self.path} were prepared at {', '.join(map(str, self.pictures))} px, not at {size}; name it in `sizes`")
        return torch.from_numpy(self.pictures[size][rows])

    def batch(self, numbers: Sequence[int], size: int, low: int | None = None, device=None) -> Batch:
        return self.draft(numbers, size, low).on(device)[0]

    def describe(self) -> dict:
        return {"source": "folder", "name": self.path.name, "pictures": len(self), "fingerprint": self.fingerprint}


class FolderDraft(NamedTuple):
    pictures: Tensor                                   # uint8 [b, size, size, 3]
    low_res: Tensor | None
    captions: list[str]

    def on(self, device) -> tuple[Batch, None]:
        pictures, low_res = (None if x is None else x.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in self[:2])
        return Batch(pictures, low_res, self.captions), None


class Drawn(Batch):
    """The draft of data that has none of its own."""

    def on(self, device) -> tuple[Batch, None]:
        pictures, low_res = (None if x is None else x.to(device, non_blocking=True) for x in self[:2])
        return Batch(pictures, low_res, self.captions), None


def draft_of(data: Data, numbers: Sequence[int], size: int, low: int | None = None, alternatives: bool = False) -> Draft:
    """The draft of the samples of these numbers, perhaps with alternatives; of data that has no drafts, the batch itself."""
    return data.draft(numbers, size, low, alternatives) if hasattr(data, "draft") else Drawn(*data.batch(numbers, size, low))


# ---------------------------------------------------------------- order

def row_of(number: int, n: int, seed: int) -> int:
    """Which of `n` pictures sample `number` of the endless sequence is: each epoch is a permutation of its own."""
    epoch, place = divmod(number, n)
    return _permutation(n, seed, epoch)[place]


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(n, generator=generator(seed, "order", epoch)).tolist()


# ---------------------------------------------------------------- the prepared pictures

PREPARATION = 1                                        # counts the ways of cropping and resizing; another one, another cache
CHUNK = 256                                            # pictures that may be decoded and wait in memory


class Prepared(NamedTuple):
    pictures: dict[int, np.ndarray]                    # by size: uint8 [rows, size, size, 3], read from disk as needed
    checksums: list[str]                               # SHA-256 of each picture's file; "" if it is broken
    broken: dict[int, str]                             # rows without a picture, and why; in `pictures` they are black


def prepare(rows: Sequence[Row], cache: Path, sizes: Sequence[int], skip_broken: bool = False, progress: bool = True) -> Prepared:
    """Crop and resize all pictures, unless the cache has them.

    CACHE/pictures-KEY/64.npy, 256.npy and info.json; KEY tells names, sizes and times of the files. Written aside and renamed, so they are whole or
    not there; a lock lets a second process wait and then find the work done.
    """
    stats = [(row.name, stat.st_size, stat.st_mtime_ns) for row in rows for stat in [row.path.stat()]]
    folder = cache / f"pictures-{hashlib.sha256(json.dumps([PREPARATION, stats]).encode()).hexdigest()[:16]}"

    def missing() -> list[int]:
        return [size for size in sizes if not (folder / f"{size}.npy").is_file()]

    if missing():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            (cache / "lock").touch()
        except OSError as error:
            raise OSError(f"cannot write the prepared pictures to {cache} ({error.strerror}); name another folder for them (--data-cache)") from error
        with FileLock(cache / "lock"):
            for old in set(cache.glob("pictures-*")) - {folder}:
                shutil.rmtree(old)                     # of a killed process, or of the pictures as they were
            if todo := missing():                      # and not done by another process in the meantime
                with TemporaryDirectory(dir=cache, prefix="pictures-") as aside:
                    _decode_all(rows, Path(aside), todo, skip_broken, progress)
                    folder.mkdir(exist_ok=True)
                    for name in ("info.json", *(f"{size}.npy" for size in todo)):
                        os.replace(Path(aside, name), folder / name)
    info = json.loads((folder / "info.json").read_text())
    broken = {int(i): why for i, why in info["broken"].items()}
    _refuse_broken(broken, len(rows), skip_broken)
    return Prepared({size: np.lib.format.open_memmap(folder / f"{size}.npy", mode="r") for size in sizes}, info["checksums"], broken)


def _decode_all(rows: Sequence[Row], folder: Path, sizes: Sequence[int], skip_broken: bool, progress: bool) -> None:
    """Write SIZE.npy and info.json for all rows into `folder`."""
    def decode(row: Row) -> tuple[str, list[bytes]] | PictureError:
        try:
            image = open_rgb(row.path)
        except PictureError as error:
            return error
        return hashlib.sha256(row.path.read_bytes()).hexdigest(), [central_square(image, size).tobytes() for size in sizes]

    checksums, broken = [], {}
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{size}.npy", "wb")) for size in sizes]
        for file, size in zip(files, sizes):           # written in order, not through a memory map: a full disk is then an error and no crash
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (len(rows), size, size, 3)})
        for i, result in enumerate(in_parallel(decode, rows, "preparing pictures", progress)):
            if isinstance(result, PictureError):
                broken[i] = str(result)
                _refuse_broken(broken, len(rows), skip_broken)
                result = "", [bytes(size * size * 3) for size in sizes]
            checksums.append(result[0])
            for file, pixels in zip(files, result[1]):
                file.write(pixels)
        info = stack.enter_context(open(folder / "info.json", "w"))
        json.dump({"checksums": checksums, "broken": broken}, info)
        for file in (info, *files):
            file.flush()
            os.fsync(file.fileno())


def in_parallel(function: Callable[[Row], T], rows: Sequence[Row], what: str, progress: bool = True) -> Iterator[T]:
    """function(row) for each row, in order, by several threads (Pillow decodes outside Python's lock), never far ahead of who takes them."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, tqdm(total=len(rows), desc=what, unit="picture", disable=not progress) as bar:
        for start in range(0, len(rows), CHUNK):
            for result in pool.map(function, rows[start:start + CHUNK]):
                yield result
                bar.update()


def _refuse_broken(broken: dict[int, str], n: int, skip_broken: bool) -> None:
    """PictureError if any picture is broken, or, where they are skipped, more than 1 % of all."""
    if broken and not skip_broken:
        raise PictureError(f"{next(iter(broken.values()))}\nAll problems: python -m train.check_data; to go on without such pictures: --skip-broken")
    if len(broken) > n / 100:
        raise PictureError(f"{len(broken)} of {n} pictures are broken, more than the 1 % that may be skipped:"
                           + "".join(f"\n  {why}" for why in [*broken.values()][:5]))
