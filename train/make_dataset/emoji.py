"""Emoji in several hands: each is a subject, perhaps with a skin tone, in a style.

The captions compose: "green apple, openmoji style", "woman running, noto style, dark skin tone".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.make_dataset.iconify import IconSet, Package, find_packages

NAMES = "emojibase-data"  # the package with the names of emoji
NAMES_VERSION = "17.0.0"
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")  # numbered from 1
# as Unicode orders them; their numbers in emojibase begin with 0
GROUPS = (
    *("faces", "people", "components", "animals and plants", "food and drink"),
    *("travel and places", "activities", "objects", "symbols", "flags"),
)
LETTERS = "regional indicator"  # of these, two make a flag; alone they show nothing


@dataclass(frozen=True)
class Style:
    """One hand that has drawn all emoji, and the package of its drawings."""

    package: str
    version: str  # that the counts in the documentation are of
    title: str
    author: str
    license: str
    license_url: str
    url: str


STYLES = {
    "noto": Style(
        "@iconify-json/noto",
        "1.2.9",
        "Noto Emoji",
        "Google Inc",
        "Apache-2.0",
        "https://www.apache.org/licenses/LICENSE-2.0",
        "https://github.com/googlefonts/noto-emoji",
    ),
    "twemoji": Style(
        "@iconify-json/twemoji",
        "1.2.5",
        "Twemoji",
        "Twitter, Inc and other contributors",
        "CC-BY-4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        "https://github.com/jdecked/twemoji",
    ),
    "openmoji": Style(
        "@iconify-json/openmoji",
        "1.2.29",
        "OpenMoji",
        "OpenMoji, the open-source emoji and icon project",
        "CC-BY-SA-4.0",
        "https://creativecommons.org/licenses/by-sa/4.0/",
        "https://github.com/hfg-gmuend/openmoji",
    ),
    "fluent": Style(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "Fluent Emoji",
        "Microsoft Corporation",
        "MIT",
        "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
        "https://github.com/microsoft/fluentui-emoji",
    ),
}


@dataclass(frozen=True)
class Drawing:
    """One emoji in one style."""

    style: str
    subject: str  # "woman running"
    tone: str | None  # "dark", or "dark and light" of two people; None: none is stated
    code: str  # code points, as hexadecimal numbers with hyphens
    svg: str
    group: str | None = None  # one of `GROUPS`

    @property
    def caption(self) -> str:
        """What the image shows, in words."""
        return caption_of(self.subject, self.style, self.tone)

    @property
    def file(self) -> str:
        """The name of its image."""
        return f"{self.style}/{self.code.lower()}.png"


def caption_of(subject: str, style: str, tone: str | None) -> str:
    """The caption of a subject in a style, as drawings have it.

    Args:
        subject: For example "woman running".
        style: For example "noto".
        tone: One of `TONES`, or two with "and" between them. None: it is not stated.
    """
    tones = "tones" if tone is not None and " and " in tone else "tone"
    return f"{subject}, {style} style" + ("" if tone is None else f", {tone} skin {tones}")


def license_text(name: str, version: str, size: int) -> str:
    """What must stand beside the images of a style: who drew them, and what is allowed."""
    style = STYLES[name]
    return (
        f"{style.title}, by {style.author}\n{style.url}\n\n"
        f"Licence: {style.license}, {style.license_url}\n\n"
        f"Changes: the drawings of the npm package {style.package} {version} were rendered at "
        f"{size} x {size} pixels.\n"
    )


def npm_command(styles: Sequence[str], folder: Path) -> str:
    """The command that fetches the packages of some styles, and the names."""
    packages = [f"{STYLES[name].package}@{STYLES[name].version}" for name in styles]
    return (
        f"mkdir -p {folder} && npm pack --pack-destination {folder} "
        f"{' '.join(packages)} {NAMES}@{NAMES_VERSION}"
    )


def open_packages(styles: Sequence[str], places: Sequence[Path]) -> dict[str, Package]:
    """The packages of some styles by name of style, and that of the names under `NAMES`.

    Args:
        styles: Keys of `STYLES`.
        places: Where they may lie, as for `find_packages`.

    Raises:
        FileNotFoundError: A package is missing. The message has the command that fetches it.
    """
    there = [place for place in places if place.exists()]
    folder = places[0].parent if places[0].is_file() else places[0]
    found = find_packages(there)
    wanted = {**{name: STYLES[name].package for name in styles}, NAMES: NAMES}
    if missing := [package for package in wanted.values() if package not in found]:
        said = f"; it has {', '.join(sorted(found))}" if found else ""
        raise FileNotFoundError(
            f"{' '.join(map(str, places))} has no {', '.join(missing)}{said}. This command fetches "
            f"all that is needed:\n  {npm_command(styles, folder)}\nThen run this one again; if "
            "they lie elsewhere, name their folder or archives with --packages"
        )
    return {name: found[package] for name, package in wanted.items()}


def read_drawings(packages: dict[str, Package]) -> list[Drawing]:
    """All emoji of the packages that have a name, by subject, tone and style.

    Args:
        packages: From `open_packages`.

    Raises:
        ValueError: A package holds something else.
    """
    names = _read_names(packages[NAMES].read_json("en/data.json"))
    drawings = []
    for style, package in packages.items():
        if style == NAMES:
            continue
        try:
            icons = IconSet.of(package.read_json("icons.json"))
            for code, icon in package.read_json("chars.json").items():
                if (name := names.get(_plain_code(code))) is not None:
                    subject, tone, hexcode, group = name
                    svg = icons.svg(icon)
                    drawings.append(Drawing(style, subject, tone, hexcode, svg, group))
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{package.path} holds no drawings in Iconify's format ({error})"
            ) from error
    return sorted(drawings, key=lambda d: (d.subject, d.code, d.style))


def _read_names(
    emoji: list[dict[str, Any]],
) -> dict[str, tuple[str, str | None, str, str | None]]:
    """Subject, tone, code and group of each emoji by its plain code."""
    names = {}
    for one in emoji:
        if one["label"].startswith(LETTERS):
            continue
        subject = subject_of(one["label"])
        group = GROUPS[one["group"]] if "group" in one else None
        for variant in (one, *one.get("skins", ())):
            numbers = variant.get("tone", [])
            numbers = [numbers] if isinstance(numbers, int) else numbers
            tone = " and ".join(TONES[number - 1] for number in numbers) or None
            names[_plain_code(variant["hexcode"])] = subject, tone, variant["hexcode"], group
    return names


def _plain_code(code: str) -> str:
    """Code points without the selectors that make no other emoji."""
    return re.sub("-FE0[EF]", "", code.upper())


def subject_of(label: str) -> str:
    """A label of emojibase in words: 'flag: Peru' -> 'flag of Peru'."""
    kind, colon, rest = label.partition(": ")
    if not colon:
        return label
    if kind in ("flag", "keycap"):
        return f"flag of {rest}" if kind == "flag" else f"keycap {rest}"
    *first, last = rest.split(", ")
    return f"{kind}, {' and '.join(filter(None, (', '.join(first), last)))}"
