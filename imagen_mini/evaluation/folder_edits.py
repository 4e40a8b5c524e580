"""Edits of generated images that no parser can read: one value of the caption is swapped, and a
classifier of the folder says what the edit shows.

The folder itself says what an ideal edit is, where it has images of both captions. These pairs are
scored as the edits are.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from imagen_mini.data.metadata import NO_VALUE
from imagen_mini.evaluation.folder_classifier import FolderClassifier, Labels
from imagen_mini.evaluation.statistics import wilson_interval


@dataclass(frozen=True)
class ValueSwap:
    """Two images of a folder whose captions differ in the value of one column.

    Attributes:
        source, target: The numbers of the images.
        captions: Their captions, such as "elf, noto style" and "elf, fluent style".
        values: Their values, such as "noto" and "fluent".
    """

    source: int
    target: int
    captions: tuple[str, str]
    values: tuple[str, str]


def find_value_swaps(
    captions: Sequence[str], labels: Sequence[Labels], column: str, n: int, seed: int = 0
) -> list[ValueSwap]:
    """Find pairs of images between whose captions one value of a column is swapped.

    Args:
        captions: Of each image.
        labels: Of each image, by column.
        column: The column.
        n: How many pairs at most. No two have the same source.
        seed: Of the choice (default 0).

    Raises:
        ValueError: There is no such pair.
    """
    number = {caption: i for i, caption in enumerate(captions)}
    value_of = [of[column][0] if len(of.get(column, ())) == 1 else NO_VALUE for of in labels]
    values = sorted(set(value_of) - {NO_VALUE})
    rng, found = random.Random(f"value swaps/{seed}"), []
    for i in rng.sample(range(len(captions)), len(captions)):
        if len(found) == n:
            break
        targets = []
        for new in values:
            caption = swapped(captions[i], value_of[i], new)
            if caption is not None and value_of[number.get(caption, i)] == new:
                targets.append((caption, new))
        if targets:
            caption, new = rng.choice(targets)
            pair = (captions[i], caption), (value_of[i], new)
            found.append(ValueSwap(i, number[caption], *pair))
    if not found:
        raise ValueError(
            f"no two captions differ in the value of {column!r} alone; expected pairs such as "
            "'elf, noto style' and 'elf, fluent style', with values of as many words"
        )
    return found


def swapped(caption: str, old: str, new: str) -> str | None:
    """The caption with one value in place of another. None where the old one is not in it once, or
    the new one has more or fewer words: word swaps need as many.
    """
    words = [len(re.findall(r"\w+", value)) for value in (old, new)]
    if old in (new, NO_VALUE) or words[0] != words[1]:
        return None
    changed, times = re.subn(rf"(?<![\w-]){re.escape(old)}(?![\w-])", lambda _: new, caption)
    return changed if times == 1 else None


def score_value_swaps(
    judge: FolderClassifier,
    column: str,
    swaps: Sequence[ValueSwap],
    sources: Tensor,
    edits: Tensor,
) -> dict[str, float]:
    """Score edits of one method.

    An edit counts if its source image shows the old value. It is made if the edited image shows the
    new one, and the rest is kept if all other columns are read as in the source image.

    Args:
        judge: Reads the images.
        column: The column whose value is swapped.
        swaps: The edits.
        sources: Their source images [n, 3, h, w] in [-1, 1].
        edits: Their edited images, of the same form.

    Returns:
        "n", the number of edits that count; of these "made", "kept" and "both"; the ends "low" and
        "high" of the 95 % interval of the share of "both"; "changed", the mean difference of a
        value, as a share of its range.
    """
    before, after = judge.recognize(sources), judge.recognize(edits)
    counts = [told[column] == swap.values[0] for told, swap in zip(before, swaps)]
    verdicts = [
        (new[column] == swap.values[1], others(new, column) == others(old, column))
        for old, new, swap, counted in zip(before, after, swaps, counts)
        if counted
    ]
    difference = (edits - sources).abs().mean((1, 2, 3)) / 2
    both = sum(made and kept for made, kept in verdicts)
    low, high = wilson_interval(both, len(verdicts))
    return {
        "n": len(verdicts),
        "made": sum(made for made, _ in verdicts),
        "kept": sum(kept for _, kept in verdicts),
        **{"both": both, "low": low, "high": high},
        "changed": sum(d for d, of in zip(difference.tolist(), counts) if of)
        / max(len(verdicts), 1),
    }


def others(told: Mapping[str, str], column: str) -> dict[str, str]:
    """What is read of all other columns."""
    return {name: value for name, value in told.items() if name != column}
