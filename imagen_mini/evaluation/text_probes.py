"""The vectors of a text encoder compared: similarities of captions and words, synonyms,
paraphrases.
"""

from __future__ import annotations

import random
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.evaluation.benchmark import related
from imagen_mini.scenes.captions import RARE_WORDS, article_for
from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    OPPOSITE,
    SHAPES,
    SIZES,
    TEXTURES,
)
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder

# For each kind of words that have rare synonyms: the words, and a caption to put one in.
WORD_KINDS = {
    "color": (tuple(COLORS), "a {} circle"),
    "shape": (tuple(SHAPES), "a red {}"),
    "size": (tuple(SIZES), "a {} red circle"),
    "texture": (tuple(TEXTURES), "a {} red circle"),
    "background": (tuple(BACKGROUNDS), "a red circle on a {} background"),
}


def random_encoder_like(encoder: TextEncoder, seed: int = 0) -> TextEncoder:
    """Return the same T5 with the same tokenizer and random weights: what the architecture alone
    does.

    Args:
        encoder: The text encoder.
        seed: Of the weights (default: 0). The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = deepcopy(encoder.model.config)
        return TextEncoder(type(encoder.model)(config), encoder.tokenizer, encoder.max_length)


def masked_mean(text: TextEmbeddings) -> Tensor:
    """Return the mean of the vectors of the real tokens of each prompt, [b, d]."""
    mask = text.mask[:, :, None]
    return (text.emb * mask).sum(1) / mask.sum(1)


def mean_token_vector(text: TextEmbeddings) -> Tensor:
    """Return the mean vector of all real tokens, [d].

    Vectors of a T5 have a large part in common, which carries no information. Subtract it before
    comparing them.
    """
    return text.emb[text.mask].mean(0)


def cosine_similarities(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of each vector in a [n, d] with each in b [m, d]: [n, m], in [-1, 1]."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def set_similarity(a: Tensor, b: Tensor) -> float:
    """Return how similar two captions are as sets of vectors.

    It is the mean cosine of each vector with the most similar one in the other set, in the
    direction in which this is less. Order does not count, as it does not for cross-attention.

    Args:
        a: Vectors [n, d].
        b: Vectors [m, d].
    """
    similar = cosine_similarities(a, b)
    return min(similar.max(1).values.mean().item(), similar.max(0).values.mean().item())


def set_similarity_matrix(text: TextEmbeddings, common: Tensor) -> Tensor:
    """Return `set_similarity` of every two prompts, [b, b], with the common part subtracted."""
    rows = [(emb - common)[mask] for emb, mask in zip(text.emb, text.mask)]
    return torch.tensor([[set_similarity(a, b) for b in rows] for a in rows])


def word_vector(encoder: TextEncoder, word: str, frame: str) -> Tensor:
    """Return the vector [d] of a word in a caption, the mean of its pieces.

    Args:
        encoder: The text encoder.
        word: The word.
        frame: The caption, with {} at the word's place.
    """
    prompt = frame.format(word)
    tokens = encoder.tokenize_prompt(prompt)
    return encoder(prompt).emb[0, tokens.positions_of_word(tokens.words.index(word))].mean(0)


def synonym_similarities(
    encoder: TextEncoder, common: Tensor
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the cosine of each rare word with each common word of its kind.

    All words stand in the same caption.

    Args:
        encoder: The text encoder.
        common: The part that all vectors share; it is subtracted.

    Returns:
        {"color": {"crimson": {"red": 0.8, ...}}}
    """
    out: dict[str, dict[str, dict[str, float]]] = {}
    for kind, (words, frame) in WORD_KINDS.items():
        known = torch.stack([word_vector(encoder, w, frame) for w in words]) - common
        for rare in (r for r, w in RARE_WORDS.items() if w in words):
            similar = cosine_similarities(word_vector(encoder, rare, frame)[None] - common, known)[
                0
            ].tolist()
            out.setdefault(kind, {})[rare] = dict(zip(words, similar))
    return out


def nearest_is_correct(found: dict[str, dict[str, dict[str, float]]]) -> dict[str, bool]:
    """Return for each rare word whether the most similar common word is the one it stands for."""
    return {
        rare: max(similar, key=similar.get) == RARE_WORDS[rare]
        for of_kind in found.values()
        for rare, similar in of_kind.items()
    }


def paraphrase_triples(n: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Return triples of captions: one, the same words in another order (which says something else),
    and that with the opposite relation (which says the same as the first).

    For example "a red circle left of a blue square", "a blue square left of a red circle", "a blue
    square right of a red circle".

    Args:
        n: How many triples.
        seed: Of the captions (default: 0).
    """

    def say(first: str, relation: str, second: str) -> str:
        return f"{article_for(first)} {first} {relation} {article_for(second)} {second}"

    out = []
    for i in range(n):
        d = related(random.Random(f"three ways/{seed}/{i}"))
        a, b = (f"{obj.color} {obj.shape}" for obj in d.objects)
        out.append((say(a, d.relation, b), say(b, d.relation, a), say(b, OPPOSITE[d.relation], a)))
    return out
