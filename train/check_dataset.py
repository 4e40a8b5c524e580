"""Check a folder of captioned images, before a training run stops at its first problem.

    python -m train.check_dataset my_images --image sheet.png
    python -m train.check_dataset my_images --rates

The folder holds images and a metadata.jsonl with lines like {"file_name": "1.png", "text": "a
caption"}, or a metadata.csv, or a text file beside each image. Problems stop a run. Notes do not,
but read them. The exit code is 1 if there are problems, else 0. With --rates it also measures how
many images a second are prepared, which happens once, and read, which happens in every step.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from imagen_mini.data.datasets import open_dataset
from imagen_mini.data.folder import ImageFolderDataset
from imagen_mini.data.image_io import ImageError, open_rgb
from imagen_mini.data.metadata import Row, describe_form, read_metadata, unlisted
from imagen_mini.data.prepared import in_parallel
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.encoder_of_run import find_text_encoder
from imagen_mini.utils.images import central_square
from imagen_mini.utils.scripts import check_output_file, plain_errors, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid

# of the histogram, in pixels; 64 and 256 are the sizes of the stages
BOUNDS = (64, 128, 256, 512, 1024)
SHOWN = 24  # images on the contact sheet


@dataclass
class Report:
    """What was found in a folder."""

    problems: list[str] = field(default_factory=list)  # each of them stops a run
    notes: list[str] = field(default_factory=list)  # what is good to know
    form: str = ""  # in which the captions were found
    images: int = 0  # that can be trained on
    captions: int = 0
    # shorter sides of the images: how many are at least so many pixels (0, and BOUNDS)
    sides: Counter = field(default_factory=Counter)

    def histogram(self) -> str:
        """A bar for each range of sizes."""
        rows = [
            (f"{low} px or more" if high is None else f"{low} to {high - 1} px", self.sides[low])
            for low, high in zip((0, *BOUNDS), (*BOUNDS, None))
        ]
        return "\n".join(
            f"  {name:>15} {n:8,} {'#' * -(-40 * n // max(1, self.images))}" for name, n in rows
        )


def check(
    folder: Path,
    encoder: TextEncoder,
    progress: bool = True,
    caption_column: str | None = None,
) -> tuple[Report, list[tuple[Image.Image, str]]]:
    """Check a folder.

    Args:
        folder: With images and their captions.
        encoder: The text encoder that will read the captions.
        progress: Show a progress bar.
        caption_column: Where the captions stand. None: in `text`, `caption` or the like.

    Returns:
        The report, and some of the images with a caption.

    Raises:
        FileNotFoundError: There is no such folder, or there are no captions in it.
    """
    rows, problems = read_metadata(folder, caption_column)
    report, samples, first_with = Report([*problems]), [], {}
    report.form = describe_form(rows) if rows else ""
    one_table = len({row.source for row in rows}) == 1
    if not rows:
        report.problems.append("there is no row that can be used")
    for number, (found, row) in enumerate(
        zip(in_parallel(_examine, rows, "checking images", progress), rows)
    ):
        where = f"line {row.line}, {row.name}" if one_table else f"{row.where}, {row.name}"
        report.notes += [f"{where}: {note}" for note in caption_notes(row.captions, encoder)]
        if isinstance(found, ImageError):
            report.problems.append(f"{row.where}: {found}")
            continue
        (width, height), digest, small = found
        side = min(width, height)
        report.images += 1
        report.captions += len(row.captions)
        report.sides[max(bound for bound in (0, *BOUNDS) if bound <= side)] += 1
        if side < BOUNDS[0]:
            report.notes.append(f"{where}: {width} x {height} px; would be enlarged to {BOUNDS[0]}")
        if max(width, height) > 2 * side:
            report.notes.append(
                f"{where}: {width} x {height} px; only its central square is used, less than half; "
                "all of it with --fit pad"
            )
        if digest in first_with:
            report.notes.append(f"{where}: the same pixels as {first_with[digest]}")
        first_with.setdefault(digest, where)
        if number % -(-len(rows) // SHOWN) == 0:
            samples.append((small, row.captions[0]))
    report.notes += [
        f"{name}: no row names it, so it is not used" for name in unlisted(folder, rows, problems)
    ]
    return report, samples


def _examine(row: Row) -> tuple[tuple[int, int], str, Image.Image] | ImageError:
    """Size, checksum of the pixels, and a small version of an image."""
    try:
        image = open_rgb(row.path)
    except ImageError as error:
        return error
    return (
        image.size,
        hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest(),
        Image.fromarray(central_square(image, 128)),
    )


def caption_notes(captions: tuple[str, ...], encoder: TextEncoder) -> list[str]:
    """Captions that the text encoder would cut."""
    lengths = [
        len(ids) for ids in encoder.tokenizer([" ".join(c.split()) for c in captions])["input_ids"]
    ]
    return [
        f"the caption has {n} tokens; what follows the first {encoder.max_length} is cut off: "
        f"{caption!r:.60}"
        for caption, n in zip(captions, lengths)
        if n > encoder.max_length
    ]


@dataclass
class LoadingRates:
    """Images a second of one process.

    Attributes:
        prepared: Decoded, made smaller, and written to the cache; once for each image.
        read: Read from the cache into a batch, in every step.
    """

    prepared: float
    read: float


def loading_rates(
    folder: Path, sizes: tuple[int, int | None], caption_column: str | None = None, read: int = 1024
) -> LoadingRates:
    """Measure how fast images are loaded, with a cache of their own that is removed again.

    Args:
        folder: The images.
        sizes: Pixels of a side of the images, and of the smaller ones for super-resolution or None.
        caption_column: Where the captions stand.
        read: How many images are read (default: 1024), in batches of 32.
    """
    with TemporaryDirectory() as cache:
        began = time.perf_counter()
        data = open_dataset(
            folder, sizes, cache=cache, skip_broken=True, caption_column=caption_column
        )
        assert isinstance(data, ImageFolderDataset)
        opened = time.perf_counter()
        for at in range(0, read, 32):
            data.batch(range(at, at + 32), *sizes)
        done = time.perf_counter()
    return LoadingRates(len(data) / (opened - began), read / (done - opened))


@plain_errors()
def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--caption-column",
        metavar="NAME",
        help="where the captions stand (default: text, caption, prompt or the like)",
    )
    parser.add_argument(
        "--image",
        "--picture",
        type=Path,
        help=f"write a contact sheet of up to {SHOWN} images with their captions",
    )
    parser.add_argument(
        "--text-encoder",
        help="the text encoder that will read the captions: folder or hub name (default: that of "
        "--run, or the shipped one)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        help="a run, stage or pipeline that is to be trained on the folder: its text encoder reads "
        "the captions",
    )
    parser.add_argument(
        "--rates", action="store_true", help="measure how fast images are prepared and read"
    )
    args = parser.parse_args(arguments)
    if args.image:
        check_output_file(args.image, option="--image")
    if args.run is not None and not args.run.is_dir():
        raise FileNotFoundError(f"--run {args.run}: there is no such folder; expected a run's")
    encoder = TextEncoder.from_pretrained(
        find_text_encoder(args.text_encoder, *([args.run] if args.run else []))
    )
    report, samples = check(args.folder, encoder, caption_column=args.caption_column)
    if report.form:
        print(report.form)
    for title, lines in (("problem", report.problems), ("note", report.notes)):
        print(
            f"{len(lines):,} {title}{'s'[: len(lines) != 1]}{':' if lines else ''}",
            *lines,
            sep="\n  ",
        )
    print(
        f"{report.images:,} images, {report.captions:,} captions; the shorter "
        f"sides:\n{report.histogram()}"
    )
    if samples and args.image:
        images = [
            torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            .reshape(128, 128, 3)
            .permute(2, 0, 1)
            / 127.5
            - 1
            for image, _ in samples
        ]
        image_grid(images, [caption for _, caption in samples], columns=8, cell=128).save(
            args.image
        )
        print(args.image)
    if report.problems:
        raise SystemExit(1)
    for sizes in ((64, None), (256, 64)) if args.rates else ():
        rates = loading_rates(args.folder, sizes, args.caption_column)
        print(
            f"for {sizes[0]} px: {rates.prepared:,.0f} images a second are prepared, once, and "
            f"{rates.read:,.0f} are read, in every step"
        )


if __name__ == "__main__":
    run_script(main)
