"""Imagic: a text and a copy of the network are fitted to one image, then the text is moved towards
what it should show.

    1. e_opt = argmin_e   loss(image, e)          the text that describes the image best
    2. theta = argmin     loss(image, e_opt)      the network that generates it from that text
    3. sample from e = eta e_tgt + (1 - eta) e_opt

Nothing is inverted and no attention is injected, so objects may take another pose, size or place.

Reference: Imagic (Kawar et al., 2022), arXiv 2210.09276, Section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from imagen_mini.diffusion.guidance import Denoiser, GuidanceScale
from imagen_mini.models.control import AttentionControl
from imagen_mini.text.encoder import TextEmbeddings

GOLDEN = (5**0.5 - 1) / 2


class TrainableCopy(Protocol):
    """A copy of a stage that may be trained; the stage itself stays as it is."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """The weights of the copy."""

    def loss(self, x_0: Tensor, text: TextEmbeddings, t: Tensor, eps: Tensor) -> Tensor:
        """`DiffusionStage.loss` of the copy, [b]."""

    def denoiser(
        self,
        text: TextEmbeddings,
        guidance_scale: GuidanceScale = 1.0,
        control_at: Callable[[float], AttentionControl | None] | None = None,
    ) -> Denoiser:
        """`DiffusionStage.denoiser` of the copy."""


# (text of one row, number of the step) -> the loss of the image, a scalar
TextLoss = Callable[[TextEmbeddings, int], Tensor]


def spread_times(step: int, n: int) -> Tensor:
    """n times in [0, 1), one in each of n equal parts, [n]. From step to step they move by the
    golden ratio, so that they soon cover all noise levels evenly, and nothing is random.

    Args:
        step: The number of the step.
        n: How many times.
    """
    return (torch.arange(n, dtype=torch.float64) + step * GOLDEN % 1) / n


def optimize_text(
    loss: TextLoss, text: TextEmbeddings, steps: int, learning_rate: float
) -> Iterator[TextEmbeddings]:
    """Find the text that describes an image best, by Adam, the network being fixed.

    Args:
        loss: The denoising loss of the image with a text.
        text: Where to begin, one row: the target's prompt.
        steps: Steps of Adam.
        learning_rate: Of Adam.

    Yields:
        The text after each step.
    """
    emb = text.emb.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([emb], lr=learning_rate)
    for step in range(steps):
        with torch.enable_grad():
            (emb.grad,) = torch.autograd.grad(loss(TextEmbeddings(emb, text.mask), step), emb)
        optimizer.step()
        yield TextEmbeddings(emb.detach().clone(), text.mask)


def fine_tune(
    loss: TextLoss,
    text: TextEmbeddings,
    parameters: Iterable[nn.Parameter],
    steps: int,
    learning_rate: float,
) -> Iterator[float]:
    """Fit a network to an image, given its text, by Adam.

    Args:
        loss: The denoising loss of the image with a text.
        text: The text that describes the image, one row.
        parameters: Of the network, changed in place.
        steps: Steps of Adam.
        learning_rate: Of Adam.

    Yields:
        The loss before each step.
    """
    weights = [p.requires_grad_() for p in parameters]
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    for step in range(steps):
        with torch.enable_grad():
            found = loss(text, step)
            for p, grad in zip(weights, torch.autograd.grad(found, weights, allow_unused=True)):
                p.grad = grad
        optimizer.step()
        yield found.item()
    for p in weights:
        p.requires_grad_(False).grad = None


def interpolate(optimized: TextEmbeddings, target: TextEmbeddings, eta: float) -> TextEmbeddings:
    """eta e_tgt + (1 - eta) e_opt: 0 is the image's own text, 1 the target's."""
    return TextEmbeddings(eta * target.emb + (1 - eta) * optimized.emb, target.mask)
