"""Which token of a source prompt answers which token of a target prompt: how attention maps of one
are laid on the words of the other.

Prompts are aligned word by word and then piece by piece, by the tokenizer's own word ids. No begin
token is assumed; the end token answers the end token.
"""

from __future__ import annotations

from difflib import SequenceMatcher

import torch
from torch import Tensor

from imagen_mini.text.encoder import Tokens


def replaced_words(source: Tokens, target: Tokens) -> list[int]:
    """Numbers of the words in which two prompts of equally many words differ (capitals aside)."""
    if len(source.words) != len(target.words):
        raise ValueError(
            f"Replace swaps words one for one, but {' '.join(source.words)!r} has "
            f"{len(source.words)} words and "
            f"{' '.join(target.words)!r} has {len(target.words)} words. "
            "Refine adds and removes words"
        )
    changed = [
        i for i, (a, b) in enumerate(zip(source.words, target.words)) if a.lower() != b.lower()
    ]
    if not changed:
        raise ValueError(f"nothing to replace: both prompts read {' '.join(source.words)!r}")
    return changed


def common_words(source: Tokens, target: Tokens) -> list[tuple[int, int]]:
    """Pairs of words that two prompts share, in the same order in both: the longest run first, then
    what lies before and after it. Capitals aside.

    Where words repeat there may be several ways to pair them, and the longest run need not be the
    one that was meant.
    """
    a, b = ([w.lower() for w in tokens.words] for tokens in (source, target))
    return [
        (block.a + i, block.b + i)
        for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        for i in range(block.size)
    ]


def replacement_mapper(source: Tokens, target: Tokens) -> Tensor:
    """A [source tokens, target tokens]: how each target token's column of attention is made of the
    source's columns. Word i answers word i.
    """
    return _matrix(source, target, [(i, i) for i in range(len(source.words))])


def refinement_mapper(source: Tokens, target: Tokens) -> Tensor:
    """As `replacement_mapper`, for prompts of which one has words more: words in common answer one
    another, and the columns of all other words of the target are zero: A(j) = None in the paper's
    words.
    """
    return _matrix(source, target, common_words(source, target))


def _matrix(source: Tokens, target: Tokens, pairs: list[tuple[int, int]]) -> Tensor:
    """With equally many pieces two words answer one to one; else the source word's whole attention
    is spread evenly over the target word's pieces.
    """
    matrix = torch.zeros(len(source.ids), len(target.ids))
    for of_source, of_target in pairs:
        from_, to = source.positions_of_word(of_source), target.positions_of_word(of_target)
        if len(from_) == len(to):
            matrix[from_, to] = 1
        else:
            matrix[torch.tensor(from_)[:, None], torch.tensor(to)[None, :]] = 1 / len(to)
    matrix[
        [i for i, w in enumerate(source.word_ids) if w is None],
        [i for i, w in enumerate(target.word_ids) if w is None],
    ] = 1
    return matrix


def word_indices(tokens: Tokens, word: str | int) -> list[int]:
    """Numbers of the words that read so (capitals aside), or `word` itself if it is the number of
    one; none if there is no such word.
    """
    return [
        i
        for i, w in enumerate(tokens.words)
        if (i == word if isinstance(word, int) else w.lower() == word.lower())
    ]


def token_positions(tokens: Tokens, word: str | int) -> list[int]:
    """Positions of the tokens of a word: of every one that reads so (capitals aside), or of word
    number `word`.
    """
    numbers = word_indices(tokens, word)
    if not numbers:
        raise ValueError(
            f"no word {word!r} in {' '.join(tokens.words)!r}; its words are "
            + ", ".join(f"{i} {w!r}" for i, w in enumerate(tokens.words))
        )
    return [position for number in numbers for position in tokens.positions_of_word(number)]


def changed_token_positions(source: Tokens, target: Tokens) -> tuple[list[int], list[int]]:
    """Return the positions of the tokens of each prompt that the other prompt does not have."""
    matrix = refinement_mapper(source, target)
    return [i for i, row in enumerate(matrix) if not row.any()], [
        i for i, column in enumerate(matrix.T) if not column.any()
    ]
