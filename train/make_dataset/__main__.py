"""Make a folder of captioned images to train on, of packages that you fetch yourself.

    python -m train.make_dataset emoji --styles noto twemoji openmoji fluent --output-dir data/emoji
    python -m train.make_dataset emoji --font --output-dir data/font_emoji
    python -m train.make_dataset tuxpaint --output-dir data/stamps
    python -m train.make_dataset openclipart --output-dir data/clip_art
    python -m train.train --stage base --data data/emoji

emoji: drawings in up to four styles, captioned "green apple, openmoji style" or "woman running,
noto style, dark skin tone". OUTPUT_DIR/train is trained on; OUTPUT_DIR/test holds combinations
that training never shows, though each of their parts. With --font: the emoji of one colour font,
with their Unicode names, and nothing held out.

Interrupted, the same command goes on where it stopped. The folder appears when it is complete.
"""

from __future__ import annotations

import argparse
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from imagen_mini.data.image_io import ImageError
from imagen_mini.data.svg import MISSING, can_render_svg, render_svg_png
from imagen_mini.utils.images import to_rgb
from imagen_mini.utils.scripts import (
    check_output_folder,
    color,
    integer,
    plain_errors,
    run_script,
    script_parser,
)
from train.make_dataset.building import (
    SPLITS,
    building,
    checksum,
    find_image,
    place_images,
    write_whole,
)
from train.make_dataset.clip_art import COLLECTIONS, find_pictures, image_file
from train.make_dataset.composition import combinations_held_out
from train.make_dataset.emoji import (
    NAMES,
    STYLES,
    Drawing,
    license_text,
    open_packages,
    read_drawings,
)
from train.make_dataset.font import emoji_images, find_font

PACKAGES = Path("data/packages")  # where npm puts the packages, and they are looked for
SYSTEM_FONT = Path("the first of the system")
SHOWN = 5  # of drawings that cannot be rendered


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="NAME")
    helps = {
        "emoji": "emoji in four styles, or of a font",
        **{name: f"{c.title}, of the package {c.package}" for name, c in COLLECTIONS.items()},
    }
    for kind, text in helps.items():
        of_kind = kinds.add_parser(
            kind,
            help=text,
            description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        of_kind.add_argument("--output-dir", type=Path, required=True, help="the new folder")
        of_kind.add_argument(
            "--size",
            type=integer(low=8),
            default=256,
            help="pixels that drawings are rendered at (default: 256)",
        )
        of_kind.add_argument(
            "--limit", type=integer(low=1), metavar="N", help="take about N images (default: all)"
        )
        of_kind.add_argument(
            "--background",
            type=color,
            metavar="COLOUR",
            help="put the images on this colour (default: they stay transparent, and --background "
            "of train.train decides)",
        )
        if kind == "emoji":
            add_emoji_options(of_kind)
        else:
            of_kind.add_argument(
                "--source",
                type=Path,
                default=COLLECTIONS[kind].folder,
                help=f"where the collection lies (default: {COLLECTIONS[kind].folder})",
            )
    args = parser.parse_args(arguments)
    check_output_folder(args.output_dir.parent, "--output-dir")
    started = time.monotonic()
    make: Callable[[argparse.Namespace], None] = make_collection
    if args.kind == "emoji":
        make = make_emoji if args.font is None else make_font_emoji
    make(args)
    print(f"{args.output_dir} ({time.monotonic() - started:.0f} s)")


def add_emoji_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `emoji`."""
    parser.add_argument(
        "--styles",
        nargs="+",
        choices=tuple(STYLES),
        default=list(STYLES),
        help=f"whose drawings (default: {' '.join(STYLES)})",
    )
    parser.add_argument(
        "--packages",
        nargs="+",
        type=Path,
        default=[PACKAGES],
        metavar="PATH",
        help="the npm packages: a folder that holds them, unpacked or as archives, or each of them "
        f"(default: {PACKAGES})",
    )
    parser.add_argument(
        "--font",
        nargs="?",
        type=Path,
        const=SYSTEM_FONT,
        metavar="FILE",
        help="instead: the emoji of this colour font, or of the first on the system",
    )


# ---------------------------------------------------------------- emoji in four styles


def make_emoji(args: argparse.Namespace) -> None:
    """Emoji in several styles, with combinations held out."""
    # 1. the drawings, before any work: what is missing is said at once
    if not can_render_svg():
        raise ImportError(MISSING)
    styles = list(dict.fromkeys(args.styles))
    packages = open_packages(styles, args.packages)
    recipe = {
        "kind": args.kind,
        "packages": {name: package.version for name, package in packages.items()},
        "size": args.size,
        "limit": args.limit,
        "background": args.background,
    }
    with building(args.output_dir, recipe) as folder:
        print("reading the packages ...", flush=True)
        drawings = whole_subjects(read_drawings(packages), args.limit)
        # 2. the images
        problems = render_all(
            folder,
            [(d.file, d.caption, lambda d=d: render_svg_png(d.svg, args.size)) for d in drawings],
            args.background,
        )
        drawings = [drawing for drawing in drawings if drawing.file not in problems]
        report_problems(problems)
        # 3. equal images become one, with the captions of all
        alike: dict[str, list[Drawing]] = {}
        for drawing in drawings:
            alike.setdefault(checksum(_image(folder, drawing.file)), []).append(drawing)
        merged = {drawing for of in alike.values() if len(of) > 1 for drawing in of}
        reasons = combinations_held_out(drawings, merged)
        # 4. metadata and licences
        rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for of in alike.values():
            reason = reasons.get(of[0])
            rows["train" if reason is None else "test"].append(emoji_row(of, reason))
            for other in of[1:]:
                _image(folder, other.file).unlink()
        for split in SPLITS:
            place_images(folder, split, rows[split])
            for style in styles:
                if (folder / split / style).is_dir():
                    text = license_text(style, packages[style].version, args.size)
                    write_whole(folder / split / style / "LICENSE.txt", text.encode())
        write_whole(folder / "README.md", emoji_readme(args, packages, rows, len(merged)).encode())
    why = Counter(row["split_reason"] for row in rows["test"])
    n = sum(map(len, rows.values()))
    print(
        f"{n:,} images; {len(drawings):,} drawings, {len(drawings) - n:,} of them the same as "
        f"another\nheld out: {len(rows['test']):,} ({len(rows['test']) / n:.1%}): "
        + ", ".join(f"{count:,} {reason}" for reason, count in why.items())
    )
    for style in styles:
        print(f"licence of {style}: {STYLES[style].license} ({STYLES[style].license_url})")


def whole_subjects(drawings: list[Drawing], limit: int | None) -> list[Drawing]:
    """About `limit` drawings: all of a subject, in every style and tone, subject by subject."""
    if limit is None or limit >= len(drawings):
        return drawings
    of_subject: dict[str, list[Drawing]] = {}
    for drawing in drawings:
        of_subject.setdefault(drawing.subject, []).append(drawing)
    # spread over the alphabet, as neighbours in it are alike
    subjects = list(of_subject)
    step = max(1, int(len(drawings) / limit))
    chosen: list[Drawing] = []
    for start in range(step):
        for subject in subjects[start::step]:
            if len(chosen) >= limit:
                return chosen
            chosen += of_subject[subject]
    return chosen


def emoji_row(alike: list[Drawing], reason: str | None) -> dict[str, Any]:
    """The row of an image that one drawing is, or several equal ones are."""

    def values(name: str) -> Any:
        found = list(dict.fromkeys(getattr(drawing, name) for drawing in alike))
        return found[0] if len(found) == 1 else found

    row = {"file_name": alike[0].file, "text": values("caption")}
    row |= {name: values(name) for name in ("subject", "style", "tone", "group", "code")}
    return row if reason is None else {**row, "split_reason": reason}


def emoji_readme(args: argparse.Namespace, packages: dict, rows: dict, merged: int) -> str:
    """What the folder holds, in words."""
    styles = [name for name in packages if name != NAMES]
    count = Counter(str(row["style"]) for of in rows.values() for row in of)
    lines = [
        f"# Emoji in {len(styles)} styles",
        "",
        f"{sum(map(len, rows.values())):,} images of {args.size} x {args.size} pixels. `train` is "
        f"trained on. `test` holds {len(rows['test']):,} combinations that `train` never shows; "
        "`split_reason` says which parts of each it shows.",
        "",
        f"{merged:,} drawings are equal to another one. Each such image has the captions of all.",
        "",
        "| style | images | by | licence |",
        "|---|---|---|---|",
        *(
            f"| {name} | {count[name]:,} | [{STYLES[name].title}, {STYLES[name].author}]"
            f"({STYLES[name].url}) | [{STYLES[name].license}]({STYLES[name].license_url}) |"
            for name in styles
        ),
        "",
        f"Names: the npm package {NAMES} {packages[NAMES].version} (MIT), from Unicode's CLDR.",
        "",
        "Made by `python -m train.make_dataset emoji`.",
    ]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- a font, and collections


def make_font_emoji(args: argparse.Namespace) -> None:
    """The emoji of a colour font."""
    font = find_font() if args.font == SYSTEM_FONT else args.font
    recipe = {"kind": "font", "font": str(font), "limit": args.limit, "background": args.background}
    with building(args.output_dir, recipe) as folder:
        rows = []
        for name, content, caption in emoji_images(font):
            write_whole(folder / name, on_background(content, args.background))
            rows.append({"file_name": name, "text": caption})
            if len(rows) == args.limit:
                break
        place_images(folder, ".", rows)
    print(f"{len(rows):,} emoji of {font}")


def make_collection(args: argparse.Namespace) -> None:
    """A collection of Debian's."""
    collection = COLLECTIONS[args.kind]
    pictures = find_pictures(args.kind, args.source)
    if any(p.source.suffix.lower() == ".svg" for p in pictures) and not can_render_svg():
        raise ImportError(MISSING)
    if args.limit is not None:
        pictures = pictures[:: max(1, len(pictures) // args.limit)][: args.limit]
    recipe = {
        "kind": args.kind,
        "files": [str(p.source.relative_to(args.source)) for p in pictures],
        "size": args.size,
        "background": args.background,
    }
    with building(args.output_dir, recipe) as folder:
        problems = render_all(
            folder,
            [(p.file, p.caption, lambda p=p: image_file(p, args.size)) for p in pictures],
            args.background,
        )
        report_problems(problems)
        alike: dict[str, dict[str, Any]] = {}
        for picture in pictures:
            if picture.file in problems:
                continue
            image = _image(folder, picture.file)
            row = alike.setdefault(
                checksum(image), {"file_name": picture.file, "text": [picture.caption]}
            )
            if picture.caption not in row["text"]:
                row["text"].append(picture.caption)
            if row["file_name"] != picture.file:
                image.unlink()
        rows = list(alike.values())
        place_images(folder, "train", rows)
        text = (
            f"{collection.title}, from Debian's package {collection.package}\n\n"
            f"{collection.license}\n"
        )
        write_whole(folder / "train" / "LICENSE.txt", text.encode())
    print(
        f"{len(rows):,} images of {collection.title}; {len(pictures) - len(problems):,} files, "
        f"{len(pictures) - len(problems) - len(rows):,} of them the same as another\n"
        f"licence: {collection.license}"
    )


# ---------------------------------------------------------------- images


def render_all(
    folder: Path,
    images: Iterable[tuple[str, str, Callable[[], bytes]]],
    background: str | None,
) -> dict[str, str]:
    """Make the images that an unfinished folder does not hold yet.

    Args:
        folder: The unfinished folder.
        images: File name, caption, and what makes the content, a PNG.
        background: A colour to put them on. None: they stay transparent.

    Returns:
        By file name, what is wrong with those that cannot be made.
    """
    problems = {}
    for file, caption, make in tqdm(list(images), desc="making images", unit="image"):
        if find_image(folder, file) is None:
            try:
                content = on_background(make(), background)
            except (ImageError, ValueError) as error:
                problems[file] = f"{caption}: {error}"
                continue
            write_whole(folder / SPLITS[0] / file, content)
    return problems


def on_background(png: bytes, background: str | None) -> bytes:
    """The content of an image, put on a colour; as it is without one."""
    if background is None:
        return png
    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        to_rgb(image, background=background).save(out, "PNG")
    return out.getvalue()


def report_problems(problems: dict[str, str]) -> None:
    """Say which images are left out."""
    for problem in list(problems.values())[:SHOWN]:
        print(f"left out: {problem}")
    if len(problems) > SHOWN:
        print(f"left out: {len(problems) - SHOWN:,} more")


def _image(folder: Path, name: str) -> Path:
    """An image of an unfinished folder."""
    path = find_image(folder, name)
    assert path is not None, name
    return path


main = plain_errors()(main)

if __name__ == "__main__":
    run_script(main)
