"""From one text encoder's vectors to another's: a linear map, fitted to captions.

A network that was trained with one encoder understands the vectors of that one alone. Two encoders
that both know the words of a caption differ in the basis, above all, and a linear map can change
it. So a trained network can go on with another encoder, and need not learn to read anew.

Reference: Exploiting Similarities among Languages for Machine Translation (Mikolov et al., 2013),
    arXiv 1309.4168, which maps word vectors of one language to those of another by least squares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from imagen_mini.text.encoder import TextEncoder, Tokens

ROWS = 128  # captions that are encoded at once
TESTED = 5  # every fifth caption is not fitted to, but tested on


def fit_projection(
    encoder: TextEncoder,
    former: TextEncoder,
    captions: Sequence[str],
    project: Tensor | None = None,
    ridge: float = 1e-5,
) -> tuple[Tensor, float]:
    """The matrix P with P e(w) = f(w), as nearly as possible, for the words w of captions.

    Args:
        encoder: Of the vectors e, with d dimensions.
        former: Of the vectors f, with k dimensions.
        captions: At least five.
        project: Maps the vectors f first, [c, k] (default None: they are taken as they are, c = k).
        ridge: Weight of the penalty on P, as a share of the mean square of e (default: 1e-5).

    Returns:
        P [c, d] in float32, and the share of the variance of f that P e explains, on every fifth
        caption, to which P was not fitted.

    Raises:
        ValueError: The two encoders see no caption as the same words.
    """
    # 1. Vectors of the same words by both encoders, in captions to fit to and to test on.
    fitted = [c for i, c in enumerate(captions) if i % TESTED]
    x, y = _word_vectors(encoder, former, fitted, project)
    # 2. Least squares, by the normal equations: (X^T X + r I) P^T = X^T Y.
    gram = x.T @ x
    penalty = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram + penalty, x.T @ y).T
    # 3. How much of the variance of f does it explain?
    x, y = _word_vectors(encoder, former, captions[::TESTED], project)
    left = (x @ weight.T - y).square().sum() / (y - y.mean(0)).square().sum()
    return weight.float(), 1 - left.item()


def _word_vectors(
    encoder: TextEncoder, former: TextEncoder, captions: Sequence[str], project: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The vectors of all tokens of captions by one encoder [n, d], and what the other makes of the
    same words [n, c], in float64.
    """
    pairs = list(_pairs(encoder, former, captions))
    if not pairs:
        raise ValueError("the two text encoders see no caption as the same words")
    x, y = (torch.cat(vectors).double() for vectors in zip(*pairs))
    return x, y if project is None else y @ project.double().cpu().T


def _pairs(
    encoder: TextEncoder, former: TextEncoder, captions: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each caption that both see as the same words, its vectors by the one, and by the other at
    the same words.
    """
    for at in range(0, len(captions), ROWS):
        some = list(captions[at : at + ROWS])
        own, others = encoder(some), former(some)
        for row, caption in enumerate(some):
            tokens, former_tokens = (e.tokenize_prompt(caption) for e in (encoder, former))
            if tokens.words == former_tokens.words:
                shares = token_shares(tokens, former_tokens)
                emb = others.emb[row, : shares.shape[1]].float().cpu()
                yield own.emb[row, : len(shares)].float().cpu(), shares @ emb


def token_shares(tokens: Tokens, of: Tokens) -> Tensor:
    """Which tokens of another tokenizer stand for each token of a prompt.

    Those of the same word: piece by piece if there are as many, else all of them in equal parts. A
    special token is the other's last special token, or all tokens if it has none.

    Args:
        tokens: n tokens.
        of: m tokens of the same words.

    Returns:
        [n, m]; each row adds up to 1.
    """
    special = [i for i, word in enumerate(of.word_ids) if word is None]
    shares = torch.zeros(len(tokens.ids), len(of.ids))
    for i, word in enumerate(tokens.word_ids):
        if word is None:
            at = special[-1:] or list(range(len(of.ids)))
        else:
            at, pieces = of.positions_of_word(word), tokens.positions_of_word(word)
            at = [at[pieces.index(i)]] if len(at) == len(pieces) else at
        shares[i, at] = 1 / len(at)
    return shares
