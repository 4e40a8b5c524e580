"""Which token of a prompt belongs to which of its words.

What a word is does not depend on the encoder: a run of letters and digits, or one punctuation mark.
A tokenizer says which characters each of its tokens covers, and that decides. Its own numbers of
words would not do: for some tokenizers "circle," is one word, for others the whole prompt is.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence
from itertools import groupby


def word_spans(prompt: str) -> list[tuple[int, int]]:
    """Where the words of a prompt stand.

    Args:
        prompt: Any text.

    Returns:
        (start, end) of each: of a run of characters that are neither space nor punctuation, or of
        one punctuation mark.
    """
    spans, at = [], 0
    for kind, run in groupby(prompt, _kind):
        n = len(list(run))
        if kind == "letters":
            spans.append((at, at + n))
        elif kind == "punctuation":
            spans += [(i, i + 1) for i in range(at, at + n)]
        at += n
    return spans


def _kind(character: str) -> str:
    if character.isspace():
        return "space"
    if character in string.punctuation or unicodedata.category(character).startswith("P"):
        return "punctuation"
    return "letters"


def assign_tokens_to_words(
    prompt: str, offsets: Sequence[tuple[int, int]], special: Sequence[bool]
) -> tuple[list[int | None], list[tuple[int, int]]]:
    """Give each token the word whose characters it covers.

    A token of spaces alone belongs to the word behind it. Words that share a token are one word. A
    word that the tokenizer leaves out (of control characters, say) is none.

    Args:
        prompt: The text.
        offsets: (start, end) of the characters that each token covers, in order.
        special: Whether each token is one that the tokenizer adds, such as the end token.

    Returns:
        The number of each token's word, None for special tokens; and (start, end) of each word.

    Example:
        >>> assign_tokens_to_words("red disc", [(0, 3), (3, 6), (6, 8), (0, 0)], [0, 0, 0, 1])
        ([0, 1, 1, None], [(0, 3), (4, 8)])
    """
    spans = word_spans(prompt)
    # 1. The words that each token touches: first and last.
    touched: list[tuple[int, int] | None] = []
    for (start, end), added in zip(offsets, special):
        if added or not spans:
            touched.append(None)
            continue
        inside = [i for i, (a, b) in enumerate(spans) if start < b and a < end]
        if inside:
            touched.append((inside[0], inside[-1]))
        else:  # spaces alone, or no character at all
            behind = next((i for i, (a, _) in enumerate(spans) if a >= start), len(spans) - 1)
            touched.append((behind, behind))
    # 2. Words that share a token are joined: each word takes the number of the first of its kind.
    first_of = list(range(len(spans)))
    for pair in touched:
        if pair is not None:
            for i in range(pair[0] + 1, pair[1] + 1):
                first_of[i] = first_of[i - 1]
    # 3. What no token covers is left out, and the rest is numbered.
    with_token = sorted({first_of[pair[0]] for pair in touched if pair is not None})
    numbers = {first: number for number, first in enumerate(with_token)}
    words = []
    for first in with_token:
        members = [spans[i] for i, f in enumerate(first_of) if f == first]
        words.append((members[0][0], members[-1][1]))
    return [None if pair is None else numbers[first_of[pair[0]]] for pair in touched], words
