"""Which token of a source prompt corresponds to which token of a target prompt.

The result is a mapper, by which attention maps of the source's words are given to the target's.
Prompts are aligned word by word and then piece by piece, by the tokenizer's word ids. No begin
token is assumed; the end token corresponds to the end token.

Reference: Prompt-to-Prompt (Hertz et al., 2022), arXiv 2208.01626, Section 3.2.
"""

from __future__ import annotations

from difflib import SequenceMatcher

import torch
from torch import Tensor

from imagen_mini.text.encoder import Tokens


def replaced_words(source: Tokens, target: Tokens) -> list[int]:
    """The words that differ between two prompts with equally many words, ignoring case.

    Args:
        source: The source prompt.
        target: The target prompt.

    Returns:
        The numbers of these words, at least one.

    Raises:
        ValueError: The numbers of words differ, or no word does.
    """
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
    """The words that two prompts share in the same order, ignoring case.

    The longest common run is paired first, then what lies before and after it. Where words repeat
    there can be several ways to pair them, and the longest run need not be the intended one.

    Args:
        source: The source prompt.
        target: The target prompt.

    Returns:
        Pairs (number in the source, number in the target), in ascending order.
    """
    a, b = ([w.lower() for w in tokens.words] for tokens in (source, target))
    return [
        (block.a + i, block.b + i)
        for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        for i in range(block.size)
    ]


def replacement_mapper(source: Tokens, target: Tokens) -> Tensor:
    """The mapper of a word swap: word i of the target corresponds to word i of the source.

    Args:
        source: The source prompt, n words.
        target: The target prompt, n words.

    Returns:
        [source tokens, target tokens]: M_source @ mapper are the columns that the target takes.
        Each column holds weights in [0, 1].
    """
    return _mapper(source, target, [(i, i) for i in range(len(source.words))])


def refinement_mapper(source: Tokens, target: Tokens) -> Tensor:
    """The mapper of added or removed words: words in common correspond to each other.

    Args:
        source: The source prompt.
        target: The target prompt.

    Returns:
        [source tokens, target tokens], as `replacement_mapper`. The columns of the target's other
        words are zero: A(j) = None in the paper.
    """
    return _mapper(source, target, common_words(source, target))


def _mapper(source: Tokens, target: Tokens, pairs: list[tuple[int, int]]) -> Tensor:
    """Return the mapper of these pairs of words.

    Two words with equally many pieces correspond piece by piece. Otherwise the attention of the
    source's word is spread evenly over the pieces of the target's.
    """
    mapper = torch.zeros(len(source.ids), len(target.ids))
    for of_source, of_target in pairs:
        from_, to = source.positions_of_word(of_source), target.positions_of_word(of_target)
        if len(from_) == len(to):
            mapper[from_, to] = 1
        else:
            mapper[torch.tensor(from_)[:, None], torch.tensor(to)[None, :]] = 1 / len(to)
    # The end token belongs to no word.
    mapper[
        [i for i, w in enumerate(source.word_ids) if w is None],
        [i for i, w in enumerate(target.word_ids) if w is None],
    ] = 1
    return mapper


def word_indices(tokens: Tokens, word: str | int) -> list[int]:
    """The numbers of a word in a prompt: of every occurrence, ignoring case.

    Args:
        tokens: The prompt.
        word: A word, or the number of one.

    Returns:
        The numbers; empty if there is no such word.
    """
    return [
        i
        for i, w in enumerate(tokens.words)
        if (i == word if isinstance(word, int) else w.lower() == word.lower())
    ]


def token_positions(tokens: Tokens, word: str | int) -> list[int]:
    """The positions of the tokens of a word: of every occurrence, ignoring case.

    Args:
        tokens: The prompt.
        word: A word, or the number of one.

    Returns:
        The positions, in ascending order.

    Raises:
        ValueError: There is no such word.
    """
    numbers = word_indices(tokens, word)
    if not numbers:
        raise ValueError(
            f"no word {word!r} in {' '.join(tokens.words)!r}; its words are "
            + ", ".join(f"{i} {w!r}" for i, w in enumerate(tokens.words))
        )
    return [position for number in numbers for position in tokens.positions_of_word(number)]


def changed_token_positions(source: Tokens, target: Tokens) -> tuple[list[int], list[int]]:
    """Return the positions of the tokens of each prompt that the other prompt does not have.

    Args:
        source: The source prompt.
        target: The target prompt.

    Returns:
        The positions in the source, and those in the target.
    """
    mapper = refinement_mapper(source, target)
    return [i for i, row in enumerate(mapper) if not row.any()], [
        i for i, column in enumerate(mapper.T) if not column.any()
    ]
