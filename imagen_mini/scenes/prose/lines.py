"""The corpus of text: an endless list of lines, each a function of its number."""

from __future__ import annotations

import random
from collections.abc import Callable

from imagen_mini.scenes.prose.comparisons import comparison_line
from imagen_mini.scenes.prose.instructions import instruction_line
from imagen_mini.scenes.prose.meaning import meaning_line
from imagen_mini.scenes.prose.negation import negation_line
from imagen_mini.scenes.prose.numbers import number_line
from imagen_mini.scenes.prose.relations import relation_line
from imagen_mini.scenes.prose.spelling import spelling_line, with_slips
from imagen_mini.scenes.prose.stories import story_line

# Kinds of lines, with their shares in percent.
KINDS: dict[str, tuple[Callable[[random.Random], str], int]] = {
    "relations": (relation_line, 24),
    "meaning": (meaning_line, 20),
    "negation": (negation_line, 14),
    "spelling": (spelling_line, 13),
    "numbers": (number_line, 11),
    "comparisons": (comparison_line, 6),
    "instructions": (instruction_line, 6),
    "stories": (story_line, 6),
}
SLIPS = 0.01  # share of the words that are misspelt in all other lines


def prose_line(seed: int, index: int, kind: str | None = None) -> str:
    """Line `index` of the corpus `seed`: a pure function of its arguments.

    Args:
        seed: Which corpus.
        index: Number of the line, from 0; there is no last one.
        kind: A key of `KINDS` (default: any of them, by its share).

    Returns:
        One line without a line break, in lower case. It is never a caption.
    """
    rng = random.Random(f"prose/{seed}/{index}")
    if kind is None:
        (kind,) = rng.choices(tuple(KINDS), [share for _, share in KINDS.values()])
    line = KINDS[kind][0](rng)
    return line if kind == "spelling" else with_slips(line, rng, SLIPS)
