"""Notebook 11: which token of the source answers which token of the target, and which edits are due
to which part of a method.
"""

from __future__ import annotations

from torch import Tensor

from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.editing.alignment import replacement_mapper
from imagen_mini.text.encoder import Tokens


def made_of(*words: str) -> Tokens:
    """Tokens of words whose pieces are parted by dashes, and an end token: made_of("a",
    "tur-quoise", "ring").
    """
    pieces = [(piece, number) for number, word in enumerate(words) for piece in word.split("-")]
    return Tokens(
        tuple(range(2, 2 + len(pieces))) + (1,),
        tuple(piece for piece, _ in pieces) + ("</s>",),
        tuple(number for _, number in pieces) + (None,),
        tuple(word.replace("-", "") for word in words),
    )


ONE, TWO, OTHER_TWO, THREE = (
    made_of("a", word, "ring") for word in ("red", "tur-quoise", "ma-roon", "ma-gen-ta")
)


@checks
def check(alignment) -> str:
    """`alignment(source, target)`: A [source tokens, target tokens], word i answers word i, piece
    by piece or spread evenly; the end answers the end.
    """

    def answer(source: Tokens, target: Tokens) -> Tensor:
        seen = alignment(source, target)
        if isinstance(seen, Tensor) and seen.shape == (len(target.ids), len(source.ids)) != (
            len(source.ids),
            len(target.ids),
        ):
            raise WrongAnswerError(
                f"the matrix has the shape {list(seen.shape)}, expected "
                f"{[len(source.ids), len(target.ids)]}: a row for each token of the source, a "
                "column for each token of the target. Yours is transposed"
            )
        return seen

    same = answer(ONE, made_of("a", "blue", "ring"))
    if isinstance(same, Tensor) and same.shape == (4, 4) and same[3, 3] != 1:
        raise WrongAnswerError(
            f"the end token of the target takes {same[3, 3]:g} of the source's, expected 1: it "
            "belongs to no word (word_ids has None), and "
            "answers the end token"
        )
    expect_close(
        same,
        replacement_mapper(ONE, made_of("a", "blue", "ring")),
        "the matrix of 'a red ring' and 'a blue ring'",
        "With a piece for each word it is the identity",
        1e-5,
    )
    longer = answer(ONE, TWO)
    if isinstance(longer, Tensor) and longer.shape == (4, 5) and longer[2, 3] == 0:
        raise WrongAnswerError(
            "in 'a tur-quoise ring' the token 'ring' is number 3, in 'a red ring' it is number "
            "2, and your matrix has a 0 there: after a word of more "
            "pieces everything moves on. Find a word's positions in each prompt by "
            "itself, with positions_of_word"
        )
    expect_close(
        longer,
        replacement_mapper(ONE, TWO),
        "the matrix of 'a red ring' and 'a tur-quoise ring'",
        "The attention of 'red' is spread over the two pieces of the new word, "
        "and must still add up to what 'red' had: 1 / 2 each",
        1e-5,
    )
    expect_close(
        answer(THREE, TWO),
        replacement_mapper(THREE, TWO),
        "the matrix of 'a ma-gen-ta ring' and 'a tur-quoise ring'",
        "Each piece of the target takes 1 / 2 (it has two pieces) of each of the "
        "source's three: rows of a word add up to 1, columns need not",
        1e-5,
    )
    expect_close(
        answer(TWO, OTHER_TWO),
        replacement_mapper(TWO, OTHER_TWO),
        "the matrix of 'a tur-quoise ring' and 'a ma-roon ring'",
        "With equally many pieces they answer one to one, first to first and second to second",
        1e-5,
    )
    return (
        "Each row adds up to 1: all attention that the source gave to a word goes to the word "
        "that replaces it."
    )


# by edit: is it good with a part of the method, and is it good without that part?
WITH = [True, True, False, True, False, True]
WITHOUT = [True, False, True, False, False, False]


@checks
def check_ablation(gained_and_lost) -> str:
    """`gained_and_lost(with_it, without)`: how many edits are good only with a part of the method,
    and how many only without it, each edit compared with itself.
    """
    seen = tuple(gained_and_lost(WITH, WITHOUT))
    if seen == (1, 3):
        raise WrongAnswerError(
            "got (1, 3), expected (3, 1): gained are the edits that are good with the part and not "
            "without it. Yours are exchanged"
        )
    if seen in ((4, 2), (2, 0)):
        raise WrongAnswerError(
            f"got {seen}, expected (3, 1): compare each edit with itself, by zip, before you "
            "count. Two totals hide that one edit was lost where another was gained"
        )
    if seen != (3, 1):
        raise WrongAnswerError(
            f"got {seen}, expected (3, 1): of the pairs {list(zip(WITH, WITHOUT))}, three are "
            "(True, False) and one is (False, True)"
        )
    if tuple(gained_and_lost(WITH, WITH)) != (0, 0):
        raise WrongAnswerError(
            f"a method compared with itself gives {tuple(gained_and_lost(WITH, WITH))}, expected "
            "(0, 0)"
        )
    return "Where both numbers are 0, the part does nothing that the rest does not do already."
