"""Notebook 05: the mean over the real tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.utils.rng import generator


@checks
def check(pool) -> str:
    """`pool(emb, mask)`: emb [b, n, d], mask bool [b, n], True is a real token -> the mean of the
    real tokens' vectors, [b, d].
    """
    emb = torch.randn(3, 6, 4, generator=generator(0, "exercise", "emb"), dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([[6], [4], [1]])

    def ask(emb: Tensor, mask: Tensor) -> Tensor:
        return pool(emb.clone(), mask.clone())

    expect_close(
        ask(emb[:1], mask[:1]),
        emb[:1].mean(1),
        "the vector of a prompt that fills its row",
        "Here the mean over dimension 1, the tokens, is all there is to do.",
    )
    zeroed = emb * mask[:, :, None]
    expected = torch.stack([row[real].mean(0) for row, real in zip(emb, mask)])
    expect_close(
        ask(zeroed, mask),
        expected,
        "with zeros at the padding, the vector",
        "Divide by the number of real tokens of each row, mask.sum(1, "
        "keepdim=True): the padded length depends on what else is in the batch.",
        1e-12,
    )
    expect_close(
        ask(emb, mask),
        expected,
        "with numbers at the padding, the vector",
        "The mask must keep padded vectors out of the sum: multiply by mask[:, :, None].",
        1e-12,
    )
    gaps = torch.tensor([[1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 1], [1, 1, 0, 1, 1, 1]]).bool()
    expect_close(
        ask(emb, gaps),
        torch.stack([row[real].mean(0) for row, real in zip(emb, gaps)]),
        "where real tokens do not come first, the vector",
        "A mask may have gaps: which tokens are real says the mask itself, not their number.",
        1e-12,
    )
    half = ask(emb.float(), mask)
    if half.dtype != torch.float32:
        raise WrongAnswerError(
            f"for vectors in float32 the answer is {half.dtype}; expected float32: let the "
            "mask take the dtype of emb"
        )
    return "A prompt's vector no longer depends on how far its row is padded."
