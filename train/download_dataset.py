"""Download captioned images from the Hugging Face hub into a folder for training. Needs `pip
install -e ".[hub]"`.

    python -m train.download_dataset OWNER/NAME --split train --limit 1000 --out data/mine

Rows without an image or a caption are left out and counted. If it is interrupted, the same command
goes on where it stopped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from imagen_mini.data.metadata import METADATA, caption_problem, write_folder, written_rows
from imagen_mini.utils.scripts import integer, plain_errors, run_script, script_parser

SOURCE = ".source.json"  # in the new folder: where its images come from


def download_dataset(
    name: str,
    out: str | Path,
    split: str = "train",
    image: str = "image",
    text: str = "text",
    limit: int | None = None,
) -> tuple[int, dict[str, int]]:
    """Download images of a data set, with their bytes unchanged, and their captions.

    Rows come as a stream: no more is downloaded than is written.

    Args:
        name: OWNER/NAME, or a local folder of a data set.
        out: The new folder, or one whose download was interrupted.
        split: Of the data set.
        image: The column of images.
        text: The column of captions; a caption is a string or a list of strings.
        limit: Take only so many images. None: all.

    Returns:
        How many images there are, and how many rows were left out in this call, by reason.

    Raises:
        ImportError: The package datasets is not installed.
        ValueError: There is no such column, or no row that can be used.
        FileExistsError: The folder holds something else.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}; expected at least 1")
    try:
        import fsspec  # comes with datasets
        from datasets import Image, load_dataset
    except ImportError:
        raise ImportError(
            'fetching from the hub needs the package datasets: pip install -e ".[hub]"'
        ) from None
    try:
        rows = load_dataset(name, split=split, streaming=True)
    except Exception as error:  # of many kinds: no such data set, split or access; no connection
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{name} cannot be opened as a data set, split {split} ({type(error).__name__}: "
            f"{reason})"
        ) from error
    columns = rows.column_names or [image, text]  # not always known
    if missing := {image, text} - set(columns):
        raise ValueError(
            f"{name} has no column {', '.join(sorted(missing))}; it has {', '.join(columns)}"
        )
    rows = rows.cast_column(image, Image(decode=False))  # we decode them, with checks

    # 1. a download that was interrupted goes on behind its last image
    out = Path(out)
    source = {"name": str(name), "split": split, "image": image, "text": text}
    done = written_rows(out)
    if done and (not (out / SOURCE).is_file() or json.loads((out / SOURCE).read_text()) != source):
        raise FileExistsError(f"{out} holds a part of something else; expected a new folder")
    first = int(Path(done[-1]["file_name"]).stem) + 1 if done else 0
    # 2. images with captions, until there are enough of them
    left_out: Counter[str] = Counter()

    def images() -> Iterator[tuple[str, bytes, str | list[str]]]:
        (out / SOURCE).write_text(json.dumps(source))
        for number, row in enumerate(islice(rows, first, None), first):
            if why := _why_left_out(row.get(image), row.get(text)):
                left_out[why] += 1
                continue
            content, path = row[image]["bytes"], row[image]["path"] or ""
            if content is None:
                # on the hub, in an archive there, or on this machine
                with fsspec.open(path, "rb") as file:
                    content = file.read()
            yield f"{number:08d}{Path(path.split('::')[0]).suffix}", content, _captions(row[text])

    wanted = None if limit is None else max(0, limit - len(done))
    bar = tqdm(islice(images(), wanted), total=wanted, desc="fetching", unit="image")
    n = write_folder(out, bar)
    if not n:
        (out / METADATA).unlink()
        raise ValueError(f"{name}: no row of the split {split} has an image and a caption")
    return n, dict(left_out)


def _why_left_out(image: dict[str, Any] | None, captions: Any) -> str | None:
    """Why a row is of no use; None: it is."""
    if not isinstance(image, dict) or image.get("bytes") is None and not image.get("path"):
        return "without an image"
    return None if _captions(captions) else "without a caption"


def _captions(captions: Any) -> str | list[str]:
    """The caption or captions that can be used; empty if there is none."""
    if isinstance(captions, Iterable) and not isinstance(captions, (str, dict)):
        return [caption for caption in captions if not caption_problem(caption)]
    return "" if caption_problem(captions) else captions


@plain_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("name", help="of the data set, OWNER/NAME; or a local folder of one")
    parser.add_argument("--split", default="train")
    parser.add_argument(
        "--image", default="image", help="name of the column of images (default: image)"
    )
    parser.add_argument(
        "--text", default="text", help="name of the column of captions (default: text)"
    )
    parser.add_argument("--limit", type=integer(low=1), help="take only so many images")
    parser.add_argument("--out", type=Path, required=True, help="the new folder")
    args = parser.parse_args(arguments)
    n, left_out = download_dataset(
        args.name, args.out, args.split, args.image, args.text, args.limit
    )
    print(f"{n:,} images in {args.out}")
    for why, rows in left_out.items():
        print(f"{rows:,} rows {why} left out")


if __name__ == "__main__":
    run_script(main)
