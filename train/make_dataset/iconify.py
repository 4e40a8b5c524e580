"""Packages of drawings in Iconify's format, and the names of emoji: what npm fetches.

A package is a folder, or an archive as `npm pack` writes it, with these files:

    package.json    its name and version
    icons.json      "icons": {name: {"body": SVG elements}}, "aliases": {name: {"parent": name}}
    chars.json      {code points, as hexadecimal numbers with hyphens: name}
    info.json       author and licence
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError)  # of files and archives
DEPTH = 4  # folders inside each other in which packages are looked for
TURNS = 4  # of 90 degrees


@dataclass(frozen=True)
class Package:
    """A package of npm, unpacked or not."""

    path: Path  # its folder, or its archive
    name: str
    version: str

    def read_json(self, file: str) -> Any:
        """The content of one of its JSON files.

        Raises:
            ValueError: The file is missing, or no JSON.
        """
        try:
            if self.path.is_dir():
                return json.loads((self.path / file).read_bytes())
            return json.loads(_member(self.path, file))
        except (KeyError, ValueError, *DAMAGED) as error:
            raise ValueError(
                f"{self.path}: {file} of the package {self.name} cannot be read ({error}); fetch "
                "it again"
            ) from error


def find_packages(places: Sequence[Path]) -> dict[str, Package]:
    """Packages by name. Of two of a name, the one found first is taken.

    Args:
        places: Archives, unpacked packages, or folders that hold some of them.

    Raises:
        FileNotFoundError: One of the places does not exist.
        ValueError: An archive is damaged.
    """
    found: dict[str, Package] = {}
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"{place}: there is no such file or folder")
        for path in [place] if place.is_file() else _candidates(place):
            package = _open(path)
            if package is not None:
                found.setdefault(package.name, package)
    return found


def _candidates(folder: Path) -> Iterable[Path]:
    """Folders with a package.json and archives in a folder, not too deep."""
    for depth in range(DEPTH):
        level = "/".join(["*"] * depth)
        for parent in sorted(folder.glob(level)) if depth else [folder]:
            if (parent / "package.json").is_file():
                yield parent
            elif parent.name.endswith(".tgz") and parent.is_file():
                yield parent


def _open(path: Path) -> Package | None:
    """The package at a path; None if there is none."""
    try:
        if path.is_dir():
            values = json.loads((path / "package.json").read_bytes())
        else:
            values = json.loads(_member(path, "package.json"))
        return Package(path, values["name"], values["version"])
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch it again") from error
    except (LookupError, TypeError, ValueError):
        return None


def _member(archive: Path, file: str) -> bytes:
    """A file of an archive, in which all lie in a folder `package`."""
    with tarfile.open(archive) as tar:
        content = tar.extractfile(f"package/{file}")
        if content is None:
            raise KeyError(file)
        return content.read()


@dataclass(frozen=True)
class IconSet:
    """The drawings of a package by name."""

    icons: dict[str, dict[str, Any]]
    aliases: dict[str, dict[str, Any]]
    box: dict[str, float]  # left, top, width and height, where a drawing names no others

    @classmethod
    def of(cls, values: dict[str, Any]) -> IconSet:
        """From the content of an icons.json."""
        box = {"left": 0, "top": 0, "width": 16, "height": 16}
        box |= {name: values[name] for name in box if name in values}
        return cls(values["icons"], values.get("aliases", {}), box)

    def svg(self, name: str) -> str:
        """A drawing as a file of its own.

        Args:
            name: Its name, or an alias of it, which may flip and turn it.

        Raises:
            ValueError: There is no such drawing.
        """
        # 1. the drawing behind the alias, and how often it is flipped and turned on the way
        flip = {"hFlip": False, "vFlip": False}
        turns, seen, boxes = 0, {name}, []
        while name not in self.icons:
            alias = self.aliases.get(name, {})
            parent = alias.get("parent")
            if parent is None or parent in seen:
                raise ValueError(f"there is no drawing {name!r}")
            for key in flip:
                flip[key] ^= bool(alias.get(key, False))
            turns += alias.get("rotate", 0)
            boxes.append(alias)
            name = parent
            seen.add(name)
        icon = self.icons[name]
        box = dict(self.box)
        for values in (icon, *reversed(boxes)):
            box |= {key: values[key] for key in box if key in values}
        left, top, width, height = box["left"], box["top"], box["width"], box["height"]
        # 2. the transformation: first the flips, each about the middle of the box, then the turns
        steps = []
        across, down = left + width / 2, top + height / 2
        if turns % TURNS:
            steps.append(f"rotate({90 * (turns % TURNS)} {across:g} {down:g})")
        if flip["hFlip"]:
            steps.append(f"translate({2 * across:g} 0) scale(-1 1)")
        if flip["vFlip"]:
            steps.append(f"translate(0 {2 * down:g}) scale(1 -1)")
        if turns % 2:  # about the same middle, so the box lies across
            left, top = across - height / 2, down - width / 2
            width, height = height, width
        body = icon["body"]
        if steps:
            body = f'<g transform="{" ".join(steps)}">{body}</g>'
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left:g} {top:g} {width:g} {height:g}">{body}</svg>'
        )
