"""Tokens that the other prompt does not have."""

from support.scenes import tokens

from imagen_mini.editing.alignment import changed_token_positions


def test_changed_tokens_are_those_that_the_other_prompt_does_not_have():
    assert changed_token_positions(tokens("a red ring"), tokens("a small blue ring")) == (
        [1],
        [1, 2],
    )
