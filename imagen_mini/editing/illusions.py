"""Two denoisers, one image: visual anagrams, and images whose parts (frequencies, colours, halves)
follow different prompts.

Both are denoisers made of denoisers, to be given to `sample`. Neither knows anything of networks:
a denoiser is (x_t, t) -> x_0_hat.

References: Visual Anagrams (Geng et al., 2023), arXiv 2311.17919; Factorized Diffusion
(Geng et al., 2024), arXiv 2404.11615.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.utils.images import blur

Part = Callable[[Tensor], Tensor]  # a linear map of images [b, 3, h, w]


class View(NamedTuple):
    """An orthogonal map of images [b, 3, h, w] and its inverse. It may move pixels and change
    signs, so that noise stays standard normal.
    """

    forward: Part
    inverse: Part


VIEWS = {
    "upright": View(lambda x: x, lambda x: x),
    "turned": View(lambda x: x.rot90(2, (-2, -1)), lambda x: x.rot90(2, (-2, -1))),
    "quarter turn": View(lambda x: x.rot90(1, (-2, -1)), lambda x: x.rot90(-1, (-2, -1))),
    "upside down": View(lambda x: x.flip(-2), lambda x: x.flip(-2)),
    "mirrored": View(lambda x: x.flip(-1), lambda x: x.flip(-1)),
    "negative": View(lambda x: -x, lambda x: -x),
}


def anagram(denoisers: Sequence[Denoiser], views: Sequence[View]) -> Denoiser:
    """An image that each denoiser sees in a view of its own.

        x_0_hat = mean over i of inverse_i(denoise_i(forward_i(x_t), t))

    The paper takes the mean of eps_hat. As eps_hat = (x_t - alpha x_0_hat) / sigma and views are
    linear, that is the same.

    Args:
        denoisers: One for each view.
        views: See `VIEWS`.

    Returns:
        A denoiser (x_t, t) -> x_0_hat.

    Raises:
        ValueError: Not one denoiser for each view.

    Reference: Visual Anagrams (Geng et al., 2023), arXiv 2311.17919.
    """
    if len(denoisers) != len(views) or not views:
        raise ValueError(
            f"{len(denoisers)} denoisers for {len(views)} views; expected one for each"
        )
    return lambda x_t, t: torch.stack(
        [view.inverse(denoise(view.forward(x_t), t)) for denoise, view in zip(denoisers, views)]
    ).mean(0)


def frequency_parts(sigma: float) -> tuple[Part, Part]:
    """Low and high frequencies: what a blur by `sigma` (in 1/64 of the width) leaves, and what it
    takes away.
    """
    return lambda x: blur(x, sigma), lambda x: x - blur(x, sigma)


def color_parts() -> tuple[Part, Part]:
    """Brightness and colour: the mean of the three channels, and what is left."""
    return lambda x: x.mean(1, keepdim=True).expand_as(x), lambda x: x - x.mean(1, keepdim=True)


def mask_parts(mask: Tensor) -> tuple[Part, Part]:
    """Where the mask [h, w] is 1, and where it is 0."""
    return lambda x: mask * x, lambda x: (1 - mask) * x


def factorized_diffusion(denoisers: Sequence[Denoiser], parts: Sequence[Part]) -> Denoiser:
    """An image of which each denoiser determines one part.

        x_0_hat = sum over i of part_i(denoise_i(x_t, t)),   where the parts of an image sum to it

    The paper combines eps_hat. As the parts are linear and sum to x_t, too, that is the same.

    Args:
        denoisers: One for each part.
        parts: See `frequency_parts`, `color_parts` and `mask_parts`.

    Returns:
        A denoiser (x_t, t) -> x_0_hat.

    Raises:
        ValueError: Not one denoiser for each part.

    Reference: Factorized Diffusion (Geng et al., 2024), arXiv 2404.11615.
    """
    if len(denoisers) != len(parts) or not parts:
        raise ValueError(
            f"{len(denoisers)} denoisers for {len(parts)} parts; expected one for each"
        )
    return lambda x_t, t: reduce(
        torch.add, [part(denoise(x_t, t)) for denoise, part in zip(denoisers, parts)]
    )
