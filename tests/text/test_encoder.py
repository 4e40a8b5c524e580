"""The frozen text encoder: masks, words, and whatever people may type."""

import re
import warnings

import pytest
import torch
from transformers import T5EncoderModel

from imagen_mini.text.encoder import TextEmbeddings, TextEncoder, concatenate

PROMPTS = [
    "a red circle",
    "a large striped blue square to the left of a small pink star on a white background",
    "ring",
]


def test_the_mask_is_true_for_exactly_the_tokens_of_each_prompt(encoder):
    text = encoder(PROMPTS)
    assert text.mask.dtype == torch.bool and text.emb.shape == (*text.mask.shape, encoder.width)
    for row, prompt in zip(text.mask, PROMPTS):
        n = len(encoder.tokenize_prompt(prompt).ids)
        assert row.tolist() == [True] * n + [False] * (len(row) - n)


def test_embeddings_at_padding_are_zero_and_others_are_not(encoder):
    text = encoder(PROMPTS)
    assert not text.emb[~text.mask].any()
    assert text.emb[text.mask].abs().amax(-1).min() > 0


def test_a_prompt_is_encoded_the_same_by_itself_and_in_a_batch(encoder):
    together = encoder(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        alone = encoder(prompt)
        n = alone.mask.sum()
        assert torch.allclose(alone.emb[0, :n], together.emb[i, :n], rtol=0, atol=1e-5)


def test_different_prompts_are_encoded_differently(encoder):
    a, b = encoder(["a red circle above a blue star", "a blue circle above a red star"]).emb
    assert (a - b).abs().max() > 0.1


def test_the_empty_prompt_is_its_end_token(encoder):
    text, tokens = encoder(""), encoder.tokenize_prompt("")
    assert text.mask.tolist() == [[True]] and text.emb.isfinite().all()
    assert tokens.word_ids == (None,) and tokens.words == ()


def test_ten_thousand_words_are_cut_with_a_warning_that_shows_what_is_left_out(encoder):
    with pytest.warns(
        UserWarning, match=r"more than 128 tokens; left out: '.*red circle red.*' \.\.\."
    ):
        text = encoder("red circle " * 5000)
    assert text.emb.shape[1] == 128 and text.emb.isfinite().all()


def test_the_warning_shows_the_words_after_the_last_token_that_fits(encoder):
    fits = " ".join(["red"] * 127)  # and the end token makes 128
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoder(fits).mask.sum() == 128
    with pytest.warns(UserWarning, match="left out: 'star on gray'"):
        encoder(["ring", fits + " star on gray"])


@pytest.mark.parametrize(
    "prompt, error, message",
    [
        (b"a red circle", TypeError, "Decode bytes first"),
        (None, TypeError, "NoneType"),
        ([], TypeError, "non-empty"),
        (3, TypeError, "int"),
        (["ring", None], TypeError, "each prompt must be a string; got NoneType"),
        ([b"ring"], TypeError, "got bytes"),
        ("a \ud800 circle", ValueError, "lone surrogate at character 2"),
    ],
)
def test_what_is_no_text_is_an_error_that_says_so(encoder, prompt, error, message):
    with pytest.raises(error, match=message):
        encoder(prompt)


ODD = (
    "a 🔴 circle",
    "ein grüner Kreis",
    "赤い円",
    "a\tred\ncircle",
    "\x00\x7f",
    "x" * 500,
    "<unk> </s>",
    "é",
    "🏳️‍🌈",
)


@pytest.mark.filterwarnings("ignore:the prompt has more")
@pytest.mark.parametrize("prompt", ODD)
def test_no_character_is_unknown(encoder, prompt):
    ids = encoder.tokenize_prompt(prompt).ids
    unknown = encoder.tokenizer.unk_token_id
    assert encoder(prompt).emb.isfinite().all() and len(ids) > 1
    if "<unk>" not in prompt:
        assert unknown not in ids


def test_unknown_characters_keep_their_identity(encoder):
    assert encoder.tokenize_prompt("🔴").ids != encoder.tokenize_prompt("🔵").ids


def joined(pieces):
    """The text of pieces; bytes stand as <0x21>, spaces as the Metaspace sign."""
    raw = b"".join(
        bytes([int(p[3:5], 16)]) if re.fullmatch("<0x[0-9A-F]{2}>", p) else p.encode()
        for p in pieces
    )
    return raw.decode().replace("▁", "")


@pytest.mark.parametrize(
    "prompt",
    [
        *PROMPTS,
        "A Crimson hexagonal circle, above an azure star!",
        "  two   red  circles ",
        "ein grüner 🔴 Kreis",
    ],
)
def test_the_pieces_of_a_word_join_back_to_the_word(encoder, prompt):
    tokens = encoder.tokenize_prompt(prompt)
    assert len(tokens.ids) == len(tokens.pieces) == len(tokens.word_ids)
    for i, word in enumerate(tokens.words):
        assert joined(tokens.pieces[k] for k in tokens.positions_of_word(i)) == word.lower()
    assert "" not in tokens.words
    assert "".join(tokens.words) == "".join(prompt.split())
    # the end token only
    assert [i for i, w in enumerate(tokens.word_ids) if w is None] == [len(tokens.ids) - 1]


def test_every_token_belongs_to_one_word_in_order(encoder):
    words = [w for w in encoder.tokenize_prompt(PROMPTS[1]).word_ids if w is not None]
    assert words == sorted(words) and set(words) == set(range(len(PROMPTS[1].split())))


@pytest.mark.parametrize(
    "prompt", ["A Red CIRCLE", " a red circle ", "a  red   circle", "a\tred\ncircle"]
)
def test_capitals_and_spaces_do_not_change_the_tokens_nor_the_encoding(encoder, prompt):
    assert encoder.tokenize_prompt(prompt).ids == encoder.tokenize_prompt("a red circle").ids
    assert torch.equal(encoder(prompt).emb, encoder("a red circle").emb)


def test_the_null_text_is_zero_with_the_same_mask(encoder):
    text = encoder(PROMPTS)
    null = text.null()
    assert not null.emb.any() and torch.equal(null.mask, text.mask) and text.emb.any()


def test_dropping_zeroes_the_rows_asked_for_and_leaves_the_others(encoder):
    text = encoder(PROMPTS)
    dropped = text.drop(torch.tensor([False, True, False]))
    assert (
        not dropped.emb[1].any()
        and torch.equal(dropped.emb[::2], text.emb[::2])
        and torch.equal(dropped.mask, text.mask)
    )


def test_concatenating_pads_the_shorter_text_and_masks_the_padding(random_text):
    a, b = random_text([3, 2]), random_text([5])
    both = concatenate([a, b])
    assert both.mask.sum(1).tolist() == [3, 2, 5] and both.emb.shape == (3, 5, 128)
    assert (
        torch.equal(both.emb[:2, :3], a.emb)
        and not both.emb[:2, 3:].any()
        and torch.equal(both[2:].emb, b.emb)
    )


def test_text_moves_to_another_dtype_and_its_mask_stays_bool(random_text):
    text = random_text([3]).to(torch.bfloat16)
    assert (
        isinstance(text, TextEmbeddings)
        and text.emb.dtype == torch.bfloat16
        and text.mask.dtype == torch.bool
    )


def test_float16_is_refused(encoder_folder):
    with pytest.raises(ValueError, match="overflows in float16.*bfloat16"):
        TextEncoder.from_pretrained(encoder_folder, dtype=torch.float16)


def test_the_encoder_is_frozen_and_never_in_training_mode(encoder):
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder("ring").emb.requires_grad
    encoder.train()
    assert not any(m.training for m in encoder.modules())


def test_an_encoder_comes_back_from_disk_as_it_was(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    again = TextEncoder.from_pretrained(tmp_path)
    assert torch.equal(again(PROMPTS).emb, encoder(PROMPTS).emb)
    assert all(again.tokenize_prompt(p) == encoder.tokenize_prompt(p) for p in PROMPTS)


def test_pre_training_binds_attributes_and_relations_to_their_objects(encoder):
    from imagen_mini.evaluation.linear_probe import linear_probe

    torch.manual_seed(0)
    random = TextEncoder(T5EncoderModel(encoder.model.config), encoder.tokenizer)
    trained, untrained = linear_probe(encoder, captions=600), linear_probe(random, captions=600)
    print("trained", trained, "random", untrained)
    assert all(trained[task] > untrained[task] + 0.2 for task in ("color", "relation"))
