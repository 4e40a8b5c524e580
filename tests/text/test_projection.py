"""A linear map from one encoder's vectors to another's: words are matched, and truth is found."""

import pytest
import torch
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from imagen_mini.evaluation.text_probes import random_encoder_like
from imagen_mini.scenes.world import WORLDS
from imagen_mini.text.encoder import TextEncoder, Tokens
from imagen_mini.text.projection import fit_projection, token_shares


@pytest.fixture(scope="module")
def captions():
    world = WORLDS["scenes"]
    scenes = [world.training_scene(0, i) for i in range(300)]
    return [world.training_caption(scene, 0, i).text for i, scene in enumerate(scenes)]


def tokens(*words: tuple[str, int], end: bool = True) -> Tokens:
    """Words in so many pieces, and an end token."""
    ids = [i for i, (_, pieces) in enumerate(words) for _ in range(pieces)]
    word_ids = (*ids, None) if end else tuple(ids)
    n = len(word_ids)
    return Tokens(tuple(range(n)), ("",) * n, word_ids, tuple(word for word, _ in words))


def test_tokens_are_matched_by_the_words_that_they_belong_to():
    shares = token_shares(tokens(("red", 1), ("circle", 3)), tokens(("red", 2), ("circle", 3)))
    assert shares.tolist() == [
        [0.5, 0.5, 0, 0, 0, 0],  # one piece is all pieces of the other
        [0, 0, 1, 0, 0, 0],  # as many pieces: one by one
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],  # the end token
    ]
    without_end = token_shares(tokens(("red", 1)), tokens(("red", 2), end=False))
    assert without_end.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_an_encoder_is_projected_to_itself_by_the_identity(encoder, captions):
    weight, explained = fit_projection(encoder, encoder, captions, ridge=1e-10)
    assert explained > 1 - 1e-6
    vectors = encoder(captions[:50])
    moved = (vectors.emb @ weight.T - vectors.emb).norm() / vectors.emb.norm()
    assert moved < 1e-3


def test_what_follows_the_former_encoder_is_part_of_the_map(encoder, captions):
    matrix = torch.randn(16, encoder.width, generator=torch.Generator().manual_seed(0))
    weight, explained = fit_projection(encoder, encoder, captions, matrix, ridge=1e-10)
    assert weight.shape == (16, encoder.width) and explained > 1 - 1e-6
    emb = encoder(captions[:50]).emb
    assert (emb @ (weight - matrix).T).norm() < 1e-3 * (emb @ matrix.T).norm()


def test_encoders_of_other_tokens_are_matched(encoder, captions, tmp_path):
    """Of random weights: little is explained, yet more than by the mean."""
    torch.manual_seed(0)
    config = T5Config(vocab_size=384, d_model=32, d_ff=64, num_layers=1, num_heads=4, d_kv=8)
    T5EncoderModel(config).save_pretrained(tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    letters = TextEncoder.from_pretrained(tmp_path)
    weight, explained = fit_projection(letters, encoder, captions)
    assert weight.shape == (encoder.width, 32) and 0 < explained < 0.9


def test_encoders_that_see_other_words_are_refused(encoder):
    other = random_encoder_like(encoder)
    other.tokenize_prompt = lambda prompt: tokens((prompt, 1))
    with pytest.raises(ValueError, match="see no caption as the same words"):
        fit_projection(encoder, other, ["a red circle"] * 5)
