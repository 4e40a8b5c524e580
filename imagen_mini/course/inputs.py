"""Inputs of graded questions, drawn from a salt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imagen_mini.utils.rng import generator


class InputSource:
    """Random inputs of one question, as functions of the salt and of how many came before.

    Args:
        assignment: The name of the assignment.
        salt: Of its manifest.
        question: The name of the question.
        shape: Of an image, [c, h, w].
    """

    def __init__(self, assignment: str, salt: str, question: str, shape: Sequence[int] = (3, 5, 4)):
        self.source = generator(0, assignment, salt, question)
        self.shape = tuple(shape)

    def uniform(self, *shape: int, low: float = -11.0, high: float = 11.0) -> Tensor:
        """Numbers between two ends, in float64."""
        u = torch.rand(shape, generator=self.source, dtype=torch.float64)
        return low + (high - low) * u

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, in float64."""
        return torch.randn(shape, generator=self.source, dtype=torch.float64)

    def image(self, b: int) -> Tensor:
        """Images with values in [-1, 1]."""
        return self.normal(b, *self.shape).tanh()

    def noise(self, b: int) -> Tensor:
        """Noise of the shape of images."""
        return self.normal(b, *self.shape)

    def number(self, low: int, high: int) -> int:
        """A whole number, low <= number < high."""
        return int(torch.randint(low, high, (), generator=self.source))

    def mask(self, b: int, n: int) -> Tensor:
        """Which of n tokens are real, bool [b, n]: other lengths, at least one of them not all."""
        lengths = torch.randint(1, n, (b,), generator=self.source)
        return torch.arange(n) < lengths[:, None]


def in_float32(case: dict) -> dict:
    """A case with its tensors in float32."""
    return {
        k: v.float() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in case.items()
    }
