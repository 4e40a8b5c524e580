"""Notebook 04: scale and shift, by which the noise level reaches a residual block."""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.utils.rng import randn


@checks
def check(modulate) -> str:
    """`modulate(h, emb, weight, bias)`: (1 + s) h + b, [s, b] = emb weight^T + bias, one of each
    for a channel of an image; in float64.
    """
    images, channels, width = 2, 4, 6
    h = randn(range(images), (channels, 3, 4), "nb04", "h", dtype=torch.float64)
    emb = randn(range(images), (width,), "nb04", "emb", dtype=torch.float64)
    weight, bias = (
        randn(range(2 * channels), shape, "nb04", name, dtype=torch.float64)
        for shape, name in (((width,), "weight"), ((), "bias"))
    )
    scale, shift = (part[:, :, None, None] for part in linear(emb, weight, bias).chunk(2, dim=1))
    expected = h * (1 + scale) + shift
    seen = modulate(h.clone(), emb.clone(), weight.clone(), bias.clone())
    without = [part[:, :, None, None] for part in linear(emb, weight).chunk(2, dim=1)]
    for name, other, hint in (
        (
            "scale times h",
            h * scale + shift,
            "The factor is 1 + s: where the layer says 0, h must pass unchanged",
        ),
        (
            "the halves the other way round",
            h * (1 + shift) + scale,
            "The first half is the scale, the second half is the shift",
        ),
        (
            "the layer without its bias",
            h * (1 + without[0]) + without[1],
            "A linear layer is emb @ weight.T + bias",
        ),
        ("h shifted first and then scaled", (h + shift) * (1 + scale), "Scale first, then shift"),
    ):
        if (
            isinstance(seen, torch.Tensor)
            and seen.shape == expected.shape
            and torch.allclose(seen.double(), other)
        ):
            raise WrongAnswerError(
                f"this is {name}: {seen[0, 0, 0, 0]:.4g} at [0, 0, 0, 0], expected "
                f"{expected[0, 0, 0, 0]:.4g}. {hint}"
            )
    expect_close(
        seen,
        expected,
        "the modulated h",
        "An image has one scale and one shift for each channel, the same at every place: [b, "
        "c, 1, 1]",
    )
    return "One number, the noise level, reaches every channel of every block in this way."
