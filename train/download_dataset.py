"""Download captioned images from the Hugging Face hub into a folder for training. Needs `pip
install -e ".[hub]"`.

    python -m train.download_dataset OWNER/NAME --split train --limit 1000 --out data/mine
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tqdm.auto import tqdm

from imagen_mini.data.metadata import write_folder
from imagen_mini.utils.scripts import script_parser


def download_dataset(
    name: str,
    out: str | Path,
    split: str = "train",
    image: str = "image",
    text: str = "text",
    limit: int | None = None,
) -> int:
    """Download images of a data set, with their bytes unchanged, and their captions.

    Rows come as a stream: no more is downloaded than is written.

    Args:
        name: OWNER/NAME, or a local folder of a data set.
        out: The new folder.
        split: Of the data set.
        image: The column of images.
        text: The column of captions; a caption is a string or a list of strings.
        limit: Take only so many images. None: all.

    Returns:
        How many images.

    Raises:
        ImportError: The package datasets is not installed.
        ValueError: There is no such column.
    """
    try:
        import fsspec  # comes with datasets
        from datasets import Image, load_dataset
    except ImportError:
        raise ImportError(
            'fetching from the hub needs the package datasets: pip install -e ".[hub]"'
        ) from None
    rows = load_dataset(name, split=split, streaming=True)
    columns = rows.column_names or [image, text]  # not always known
    if missing := {image, text} - set(columns):
        raise ValueError(
            f"{name} has no column {', '.join(sorted(missing))}; it has {', '.join(columns)}"
        )
    rows = rows.cast_column(image, Image(decode=False))  # we decode them, with checks

    def images() -> Iterator[tuple[str, bytes, str | list[str]]]:
        for number, row in enumerate(
            tqdm(islice(rows, limit), total=limit, desc="fetching", unit="image")
        ):
            content, path = row[image]["bytes"], row[image]["path"] or ""
            if content is None:
                # on the hub, in an archive there, or on this machine
                with fsspec.open(path, "rb") as file:
                    content = file.read()
            yield f"{number:08d}{Path(path.split('::')[0]).suffix}", content, row[text]

    return write_folder(out, images())


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
    parser.add_argument("--limit", type=int, help="take only so many images")
    parser.add_argument("--out", type=Path, required=True, help="the new folder")
    args = parser.parse_args(arguments)
    print(
        f"{download_dataset(args.name, args.out, args.split, args.image, args.text, args.limit):,} "
        f"images in {args.out}"
    )


if __name__ == "__main__":
    main()
