"""Opening a data set. Scripts use this function and never ask which kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imagen_mini.data.base import Dataset
from imagen_mini.data.folder import ImageFolderDataset
from imagen_mini.data.synthetic import OBJECT_COUNT_WEIGHTS, SceneDataset


def open_dataset(
    path: str | Path | None = None,
    sizes: Sequence[int | None] = (),
    seed: int = 0,
    object_count_weights: Sequence[float] = OBJECT_COUNT_WEIGHTS,
    skip_broken: bool = False,
    cache: str | Path | None = None,
    progress: bool = True,
    world: str = "scenes",
    caption_column: str | None = None,
    fit: str = "crop",
    background: str = "white",
    held_out: float = 0.0,
    part: str = "train",
    label_columns: Sequence[str] = (),
) -> Dataset:
    """Open a folder of captioned images, or a built-in world.

    Args:
        path: The folder. None: a built-in world.
        sizes: Pixels of a side of the images that will be asked for; None in it is ignored. A
            built-in world renders any size.
        seed: Of the order of the images and their captions, or of the scenes.
        object_count_weights: Of a built-in world: how often a scene has 1, 2, 3, 4 objects.
        skip_broken: Of a folder: leave broken images out, up to 1 %.
        cache: Of a folder: where its prepared images are kept. None: `path/.prepared`.
        progress: Of a folder: show a progress bar while images are prepared.
        world: Which built-in world: "scenes" (default) or "studio".
        caption_column: Of a folder: where its captions stand. None: in `text`, `caption` or
            another of `metadata.CAPTION_COLUMNS`.
        fit: Of a folder: how an image becomes a square, "crop" (default) or "pad".
        background: Of a folder: the colour that transparent pixels are put on, and that of bars.
        held_out: Of a folder: this share of its images is held out, so that no caption is on both
            sides.
        label_columns: Of a folder: further columns, see `ImageFolderDataset.labels`.
        part: Of a folder: "train" (default), or "held_out" for the images that are held out.

    Returns:
        The data set.

    Raises:
        ValueError: The folder's metadata cannot be used, or an image cannot be read; or there is
            no such world.
        FileNotFoundError: There is no such folder, or no metadata in it.
    """
    if path is None:
        return SceneDataset(seed, object_count_weights, world)
    sizes = [size for size in sizes if size is not None]
    return ImageFolderDataset(
        path,
        sizes,
        seed,
        skip_broken,
        cache,
        progress,
        caption_column,
        fit,
        background,
        held_out,
        part,
        label_columns,
    )


# what a checkpoint remembers of a folder, beside its path, with the types that it may have
FOLDER_OPTIONS: dict[str, type | tuple[type, ...]] = {
    "caption_column": str,
    "cache": str,
    "skip_broken": bool,
    "fit": str,
    "background": str,
    "held_out": (int, float),
}


def remembered_options(saved: dict | None) -> dict:
    """The options of `open_dataset` for a folder, as a checkpoint remembers them.

    Args:
        saved: `data` in the state of a checkpoint. None: there is none.

    Raises:
        ValueError: One of them is of another type.
    """
    options = {name: v for name, v in (saved or {}).items() if name in FOLDER_OPTIONS}
    for name, value in options.items():
        if value is not None and not isinstance(value, FOLDER_OPTIONS[name]):
            raise ValueError(f"the checkpoint has {name} {value!r} for its data; it is damaged")
    return {name: value for name, value in options.items() if value is not None}
