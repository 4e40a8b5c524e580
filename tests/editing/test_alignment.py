"""Which token of a source prompt corresponds to which token of a target prompt."""

import pytest
import torch
from support.scenes import tokens

from imagen_mini.editing.alignment import (
    common_words,
    refinement_mapper,
    replaced_words,
    replacement_mapper,
    token_positions,
    word_indices,
)

SOURCE, TARGET = "a red circle above a blue square", "a red star above a blue square"


def mapper_rows(source, target):
    return replacement_mapper(tokens(source), tokens(target)).tolist()


# ---------------------------------------------------------------- words swapped


def test_words_of_one_piece_correspond_one_to_one():
    assert mapper_rows("a red ring", "a blue ring") == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]


def test_one_piece_is_spread_evenly_over_several_and_what_follows_stays_aligned():
    third = pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])
    assert mapper_rows("red ring", "cr-im-son ring") == [third, [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_several_pieces_are_added_up_for_one_and_what_follows_stays_aligned():
    assert mapper_rows("cr-im-son ring", "red ring") == [
        [1, 0, 0],
        [1, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]


def test_the_sum_of_two_pieces_is_spread_evenly_over_three():
    third = pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert mapper_rows("vio-let", "cr-im-son") == [third, third, [0, 0, 0, 1]]


def test_equally_many_pieces_correspond_one_to_one():
    assert mapper_rows("vio-let", "az-ure") == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_a_repeated_word_is_aligned_by_its_position():
    assert (
        mapper_rows("a red ring above a red star", "a red ring above a blue star")
        == torch.eye(8).tolist()
    )
    assert mapper_rows("red red", "cr-im red") == [[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_punctuation_is_a_separate_word_and_stays_aligned():
    assert mapper_rows("red , ring", "cr-im , ring")[1:] == [
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]


PAIRS = [
    (SOURCE, TARGET),
    ("a red circle, and a star", "a hexagonal circle, and a star"),
    ("a Crimson ring", "a red ring"),
    ("a red circle above a red star", "an emerald circle over a red pentagram"),
    ("a 🔴 ring", "a red ring"),
]


@pytest.mark.parametrize("source, target", [pair for p in PAIRS for pair in (p, p[::-1])])
def test_a_mapper_conserves_attention_and_maps_the_end_to_the_end(encoder, source, target):
    a, b = encoder.tokenize_prompt(source), encoder.tokenize_prompt(target)
    mapper = replacement_mapper(a, b)
    probs = torch.rand(len(a.ids)).softmax(0)
    moved = probs @ mapper
    assert moved.sum().item() == pytest.approx(1)
    for word in range(len(a.words)):  # each word keeps its share of the attention
        assert moved[b.positions_of_word(word)].sum().item() == pytest.approx(
            probs[a.positions_of_word(word)].sum().item()
        )
        if a.words[word].lower() == b.words[word].lower():
            assert torch.equal(moved[b.positions_of_word(word)], probs[a.positions_of_word(word)])
    assert mapper[-1, -1] == mapper[-1].sum() == mapper[:, -1].sum() == 1


@pytest.mark.parametrize(
    "source, target, changed",
    [
        (SOURCE, TARGET, [2]),
        (SOURCE, "a blue circle above a red square", [1, 5]),
        ("A red circle.", "a red star.", [2]),
        ("ring", "hexagonal", [0]),
    ],
)
def test_the_words_that_differ_are_found_by_number(encoder, source, target, changed):
    assert (
        replaced_words(encoder.tokenize_prompt(source), encoder.tokenize_prompt(target)) == changed
    )


@pytest.mark.parametrize("target", ["a large red circle", "a red circle.", "circle", ""])
def test_prompts_of_different_length_are_an_error_that_names_both(encoder, target):
    with pytest.raises(
        ValueError,
        match="'a red circle' has 3 words and '.*' has [0-9] words. Refine adds and removes",
    ):
        replaced_words(encoder.tokenize_prompt("a red circle"), encoder.tokenize_prompt(target))


@pytest.mark.parametrize("target", [SOURCE, SOURCE.upper(), f"  {SOURCE} "])
def test_the_same_prompt_is_an_error(encoder, target):
    with pytest.raises(
        ValueError, match="nothing to replace: both prompts read 'a red circle above"
    ):
        replaced_words(encoder.tokenize_prompt(SOURCE), encoder.tokenize_prompt(target))


# ---------------------------------------------------------------- words added


@pytest.mark.parametrize(
    "source, target, pairs",
    [
        ("a red circle", "a large red circle", [(0, 0), (1, 2), (2, 3)]),
        ("a red circle", "a red circle on a white background", [(0, 0), (1, 1), (2, 2)]),
        # the longest run, not the first "a"
        ("a blue square", "a red circle above a blue square", [(0, 4), (1, 5), (2, 6)]),
        ("a large red circle", "a red circle", [(0, 0), (2, 1), (3, 2)]),  # removed
        ("a red circle", "a small blue circle", [(0, 0), (2, 3)]),  # swapped and added
        ("A Red circle", "a red CIRCLE", [(0, 0), (1, 1), (2, 2)]),
        (
            "a red ring and a red star",
            "a red ring and a small red star",
            [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (6, 7)],
        ),
        ("ring", "star", []),
    ],
)
def test_words_in_common_are_paired_in_order(source, target, pairs):
    assert common_words(tokens(source), tokens(target)) == pairs


def test_new_words_have_zero_columns_and_common_words_keep_all_their_pieces():
    mapper = refinement_mapper(tokens("a cr-im-son ring"), tokens("a sm-all cr-im-son ring"))
    assert mapper.tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize(
    "source, target",
    [
        (SOURCE, SOURCE.replace("blue", "small blue")),
        (SOURCE, SOURCE + " on a white background"),
        (SOURCE, TARGET),
        ("a red ring", "two hexagonal 🔴 rings"),
        (SOURCE, SOURCE),
    ],
)
def test_columns_sum_to_one_or_are_zero_and_equal_prompts_return_the_identity(
    encoder, source, target
):
    a, b = encoder.tokenize_prompt(source), encoder.tokenize_prompt(target)
    mapper = refinement_mapper(a, b)
    in_common = {
        position for _, word in common_words(a, b) for position in b.positions_of_word(word)
    } | {len(b.ids) - 1}
    assert [i for i, column in enumerate(mapper.T) if column.any()] == sorted(in_common)
    # words in common have equal pieces
    assert all(column.sum() == 1 for i, column in enumerate(mapper.T) if i in in_common)
    if source == target:
        assert torch.equal(mapper, torch.eye(len(a.ids)))


# ---------------------------------------------------------------- single words


def test_a_word_is_found_by_its_text_or_its_number():
    assert token_positions(tokens("a cr-im-son Ring"), "ring") == [4] and token_positions(
        tokens("a cr-im-son ring"), 1
    ) == [1, 2, 3]


def test_words_are_numbered_and_a_missing_one_has_no_number():
    assert word_indices(tokens("a red Ring above a ring"), "ring") == [2, 5] and word_indices(
        tokens("a ring"), "star"
    ) == [] == word_indices(tokens("a ring"), 2)


def test_a_missing_word_is_an_error_that_lists_the_words():
    with pytest.raises(
        ValueError, match="no word 'star' in 'a ring'; its words are 0 'a', 1 'ring'"
    ):
        token_positions(tokens("a ring"), "star")
