"""Collections of captioned drawings that Debian packages: Tux Paint's stamps and Open Clip Art.

They are read where the package manager has put them, and never shipped with this project.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imagen_mini.data.image_io import ImageError, open_rgb
from imagen_mini.data.svg import render_svg_png


class Picture(NamedTuple):
    """One file of a collection."""

    source: Path
    file: str  # its name in the new folder
    caption: str


@dataclass(frozen=True)
class Collection:
    """A collection, and what must be known of it."""

    title: str
    package: str  # of Debian
    folder: Path  # where it is installed
    license: str


COLLECTIONS = {
    "tuxpaint": Collection(
        "Tux Paint stamps",
        "tuxpaint-stamps-default",
        Path("/usr/share/tuxpaint/stamps"),
        "The collection is distributed under the GNU General Public License, version 2. Its stamps "
        "are of many authors, and many are in the public domain or under licences of their own: "
        "see the package's documentation before you share them, or weights trained on them.",
    ),
    "openclipart": Collection(
        "Open Clip Art",
        "openclipart-svg",
        Path("/usr/share/openclipart/svg"),
        "The authors have dedicated these drawings to the public domain (Creative Commons Public "
        "Domain Dedication).",
    ),
}

# Titles that name a set or an author, and not what is shown.
OF_A_SET = re.compile(
    r"clip ?art|icon|theme|collection|project|set\b|library|unknown|untitled|sub?mission|symbols?\b"
    r"|openclipart|http|\.svg|@",
    re.IGNORECASE,
)
MANY = 3  # drawings that share a title; more, and it is the title of a set
LONGEST = 80  # characters of a title


def find_pictures(name: str, folder: Path) -> list[Picture]:
    """The captioned images of a collection.

    Args:
        name: A key of `COLLECTIONS`.
        folder: Where it lies.

    Raises:
        FileNotFoundError: There is no such folder, or nothing of the kind in it. The message says
            how to install it.
    """
    find = {"tuxpaint": _stamps, "openclipart": _clip_art}[name]
    pictures = list(find(folder)) if folder.is_dir() else []
    if not pictures:
        what = "has no captioned images" if folder.is_dir() else "is no folder"
        raise FileNotFoundError(
            f"{folder} {what}; expected {COLLECTIONS[name].title}. On Debian and Ubuntu: sudo apt "
            f"install {COLLECTIONS[name].package}; elsewhere unpack that package, and name its "
            "folder with --source"
        )
    return pictures


def _stamps(folder: Path) -> Iterator[Picture]:
    """Stamps: 1.png or 1.svg beside 1.txt, whose first line is the caption in English."""
    for text in sorted(folder.rglob("*.txt")):
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
        caption = " ".join(lines[0].split()).rstrip(".") if lines else ""
        images = [path for s in (".png", ".svg") if (path := text.with_suffix(s)).is_file()]
        if caption and images:
            name = text.relative_to(folder).with_suffix("")
            yield Picture(images[0], f"{'_'.join(name.parts)}.png", caption)


def _clip_art(folder: Path) -> Iterator[Picture]:
    """Drawings with a title of their own."""
    titles = {
        path: title_of(path.read_text(encoding="utf-8", errors="replace"))
        for path in sorted(folder.rglob("*.svg"))
    }
    often = Counter(title.casefold() for title in titles.values())
    for path, title in titles.items():
        if is_caption(title) and often[title.casefold()] <= MANY:
            name = path.relative_to(folder).with_suffix("")
            yield Picture(path, f"{'_'.join(name.parts)}.png", title)


def title_of(svg: str) -> str:
    """The title in the metadata of a drawing, in plain words; empty if it has none."""
    found = re.search(r"<dc:title[^>]*>(.*?)</dc:title>", svg, re.DOTALL) or re.search(
        r"<title[^>]*>(.*?)</title>", svg, re.DOTALL
    )
    if found is None:
        return ""
    words = html.unescape(re.sub(r"<[^>]*>", " ", found[1])).replace("_", " ")
    return re.sub(r"[\s-]*\d+$", "", " ".join(words.split()))  # of several with one title


def is_caption(title: str) -> bool:
    """True for a title that may say what a drawing shows."""
    letters = sum(c.isalpha() for c in title)
    return (
        letters > 0
        and letters >= len(title.replace(" ", "")) * 0.7
        and len(title) <= LONGEST
        and not OF_A_SET.search(title)
    )


def image_file(picture: Picture, size: int) -> bytes:
    """The content of an image: a PNG as it is, a drawing rendered.

    Args:
        picture: From `find_pictures`.
        size: Pixels of the longer side of a drawing.

    Raises:
        ImageError: It cannot be read.
    """
    content = picture.source.read_bytes()
    if picture.source.suffix.lower() != ".svg":
        open_rgb(picture.source)  # a broken one is left out now
        return content
    try:
        return render_svg_png(content, size)
    except ValueError as error:
        raise ImageError(f"{picture.source}: {error}") from error
