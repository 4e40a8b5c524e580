"""Comparing the vectors of captions, and what can be read off them."""

import pytest
import torch

from imagen_mini.evaluation.linear_probe import linear_probe
from imagen_mini.evaluation.text_probes import (
    cosine_similarities,
    masked_mean,
    mean_token_vector,
    nearest_is_correct,
    paraphrase_triples,
    random_encoder_like,
    set_similarity,
    set_similarity_matrix,
    synonym_similarities,
    word_vector,
)
from imagen_mini.scenes.captions import RARE_WORDS, parse_caption
from imagen_mini.text.encoder import TextEmbeddings


def test_a_random_encoder_has_the_same_shape_and_leaves_the_random_state_alone(
    encoder,
):
    state = torch.get_rng_state()
    twin, again, other = (
        random_encoder_like(encoder),
        random_encoder_like(encoder),
        random_encoder_like(encoder, seed=1),
    )
    assert torch.equal(torch.get_rng_state(), state)
    first = {name: p for name, p in twin.model.named_parameters()}
    assert {n: p.shape for n, p in first.items()} == {
        n: p.shape for n, p in encoder.model.named_parameters()
    }
    assert torch.equal(twin("a ring").emb, again("a ring").emb) and not torch.allclose(
        twin("a ring").emb, other("a ring").emb
    )
    assert not torch.allclose(twin("a ring").emb, encoder("a ring").emb)
    assert twin.tokenize_prompt("a red ring") == encoder.tokenize_prompt("a red ring")


def test_means_are_of_real_tokens_only():
    text = TextEmbeddings(
        torch.tensor(
            [[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]]
        ),
        torch.tensor([[True, True, False], [True, True, True]]),
    )
    assert torch.equal(masked_mean(text), torch.tensor([[2.0, 3.0], [7.0, 8.0]]))
    assert torch.equal(mean_token_vector(text), torch.tensor([5.0, 6.0]))


def test_captions_are_compared_as_sets():
    a, b = torch.eye(4)[[0, 1, 2]], torch.eye(4)[[2, 0, 1]]
    assert (
        set_similarity(a, b) == pytest.approx(1) and cosine_similarities(a, b).diagonal().sum() == 0
    )
    assert set_similarity(a, torch.eye(4)[[3]]) == 0
    # the lesser of both ways
    assert (
        set_similarity(a, torch.eye(4)[[0]])
        == pytest.approx(1 / 3)
        == set_similarity(torch.eye(4)[[0]], a)
    )
    text = TextEmbeddings(
        torch.stack([a, torch.eye(4)[[1, 0, 3]]]) + 1,
        torch.tensor([[True, True, True], [True, True, False]]),
    )
    assert torch.allclose(
        set_similarity_matrix(text, torch.ones(4)), torch.tensor([[1, 2 / 3], [2 / 3, 1]])
    )


def test_a_word_s_vector_is_the_mean_of_its_pieces(encoder):
    emb, of = (
        encoder("a turquoise circle").emb[0],
        encoder.tokenize_prompt("a turquoise circle").positions_of_word(1),
    )
    assert len(of) > 1 and torch.allclose(
        word_vector(encoder, "turquoise", "a {} circle"), emb[of].mean(0), atol=1e-6
    )


def test_every_rare_word_is_compared_with_the_words_of_its_kind(encoder):
    found = synonym_similarities(encoder, torch.zeros(encoder.width))
    assert sorted(rare for of_kind in found.values() for rare in of_kind) == sorted(RARE_WORDS)
    assert all(
        RARE_WORDS[rare] in similar and max(similar.values()) <= 1
        for of_kind in found.values()
        for rare, similar in of_kind.items()
    )
    assert nearest_is_correct(
        {"color": {"crimson": {"red": 0.9, "blue": 0.2}, "azure": {"red": 0.5, "blue": 0.2}}}
    ) == {"crimson": True, "azure": False}


def test_triples_say_the_same_and_something_else():
    triples = paraphrase_triples(30)
    assert len(set(triples)) > 25
    for caption, same_words, same_meaning in triples:
        assert sorted(caption.replace("an ", "a ").split()) == sorted(
            same_words.replace("an ", "a ").split()
        )
        first, other, same = map(parse_caption, (caption, same_words, same_meaning))
        assert (
            other.objects == same.objects == first.objects[::-1]
            and other.relation == first.relation != same.relation
        )


def test_a_probe_finds_what_is_written_into_the_vectors_and_pooling_dilutes_it(encoder):
    trained, untrained = (
        linear_probe(encoder, captions=200),
        linear_probe(random_encoder_like(encoder), captions=200),
    )
    assert set(trained) == {"color", "place", "relation", "relation, pooled"} and all(
        0 <= share <= 1 for share in trained.values()
    )
    assert (
        trained["color"] > untrained["color"] + 0.15
        and trained["relation"] > untrained["relation"] + 0.15
    )
    nothing = linear_probe(encoder, captions=200, read=lambda text: text.null())
    assert all(share < 0.5 for share in nothing.values())
