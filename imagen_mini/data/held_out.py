"""Which images of a folder are held out of training, so that no caption is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def plain_caption(caption: str) -> str:
    """A caption without what makes no difference: capitals, and spaces around and between words."""
    return " ".join(caption.casefold().split())


def rows_held_out(
    captions: Sequence[Sequence[str]], images: Sequence[str], share: float
) -> set[int]:
    """Choose a share of the images, by their captions.

    Images that share a caption, or are the same, stay together. The groups are taken in an order
    that is a function of their words alone, as far as they fit into the share. So the choice does
    not depend on the order of the images, and hardly on others that are added.

    Args:
        captions: The captions of each image.
        images: What tells equal images, for example checksums.
        share: About how many are held out, in (0, 1); at least one group is.

    Returns:
        Indices of the images held out.

    Raises:
        ValueError: All images would be held out, as all of them share captions.
    """
    # 1. groups of images that share a caption or their content
    group_of: dict[tuple[str, str], int] = {}
    parent = list(range(len(images)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, (texts, image) in enumerate(zip(captions, images)):
        for key in (("image", image), *(("caption", plain_caption(text)) for text in texts)):
            parent[root(i)] = root(group_of.setdefault(key, i))
    groups: dict[int, list[int]] = {}
    for i in range(len(images)):
        groups.setdefault(root(i), []).append(i)
    if len(groups) == 1:
        raise ValueError(
            f"nothing can be held out of {len(images)} images: all of them share captions"
        )

    # 2. group by group, in the order of a hash of their first caption in the alphabet
    def place(rows: list[int]) -> bytes:
        first = min(plain_caption(text) for i in rows for text in captions[i])
        return hashlib.sha256(first.encode()).digest()

    in_order = sorted(groups.values(), key=place)
    room, chosen = min(round(share * len(images)), len(images) - 1), set[int]()
    for rows in in_order:
        if len(chosen) + len(rows) <= room:
            chosen.update(rows)
    return chosen or set(min(in_order, key=len))
