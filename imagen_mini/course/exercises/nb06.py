"""Notebook 06: attention by hand."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.utils.rng import generator


@checks
def check(attention) -> str:
    """`attention(q, k, v, mask)`: q [b, h, queries, d], k and v [b, h, keys, d], mask bool [b, 1,
    1, keys], True is a real key -> [b, h, queries, d_v].
    """
    q, k = (
        torch.randn(2, 3, n, 8, generator=generator(0, "exercise", name), dtype=torch.float64)
        for n, name in ((5, "q"), (4, "k"))
    )
    v = torch.randn(2, 3, 4, 6, generator=generator(0, "exercise", "v"), dtype=torch.float64)
    everything = torch.ones(2, 1, 1, 4, dtype=torch.bool)
    some = everything.clone()
    some[1, ..., 2:] = False

    def ask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return attention(q.clone(), k.clone(), v.clone(), mask.clone())

    same = torch.ones_like(v)
    expect_close(
        ask(q, k, same, everything),
        torch.ones(2, 3, 5, 6, dtype=torch.float64),
        "with all values 1, the output",
        "The probabilities of a query add up to 1 over the keys, the last axis of "
        "q k^T: is the softmax along that axis?",
    )
    scaled = F.scaled_dot_product_attention(q, k, v)
    seen = ask(q, k, v, everything)
    if (
        isinstance(seen, Tensor)
        and seen.shape == scaled.shape
        and torch.allclose(seen, F.scaled_dot_product_attention(q * math.sqrt(8), k, v))
    ):
        raise WrongAnswerError(
            "the scores are not divided by sqrt(d): without that the softmax gets harder the "
            "wider a head is"
        )
    if (
        isinstance(seen, Tensor)
        and seen.shape == scaled.shape
        and torch.allclose(seen, F.scaled_dot_product_attention(q / math.sqrt(8), k, v))
    ):
        raise WrongAnswerError(
            "the scores are divided by d; expected sqrt(d), which keeps their spread at 1 "
            "whatever d is"
        )
    expect_close(
        seen,
        scaled,
        "with all keys there, the output",
        "Look at q k^T / sqrt(d), the softmax over the keys, and the product with v.",
        1e-9,
    )
    seen, expected = ask(q, k, v, some), F.scaled_dot_product_attention(q, k, v, attn_mask=some)
    if isinstance(seen, Tensor) and seen.shape == scaled.shape and torch.allclose(seen, scaled):
        raise WrongAnswerError(
            "two keys of row 1 are masked, and the output is as if they were there: set their "
            "scores to -inf before the softmax"
        )
    probs = (
        F.scaled_dot_product_attention(q, k, torch.eye(4, dtype=torch.float64).expand(2, 3, 4, 4))
        * some
    )
    if isinstance(seen, Tensor) and seen.shape == scaled.shape and torch.allclose(seen, probs @ v):
        raise WrongAnswerError(
            "masked keys are taken out after the softmax, so what is left adds up to less than "
            "1: set their scores to -inf before it"
        )
    expect_close(
        seen,
        expected,
        "with two keys of row 1 masked, the output",
        "Where the mask is False the score should be -inf, so that its probability is exactly 0.",
        1e-9,
    )
    return "Yours and the fused kernel of PyTorch are one function."
