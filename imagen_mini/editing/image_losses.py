"""Losses of an estimated image: what sampling may be led by.

Each function returns a loss, which takes images [b, 3, h, w] in [-1, 1] and returns a number for
each of them, [b]. All are differentiable, so `guide_by_loss` and `guide_backward` take them, and a
sum of them:

    red_here = color_loss(COLORS["red"], box_mask((0.1, 0.1, 0.4, 0.4), 64))
    denoise = guide_by_loss(stage.denoiser(text), red_here, 5.0, stage.schedule)

Colours are RGB in [0, 1], as in `scenes.scene.COLORS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ImageLoss = Callable[[Tensor], Tensor]  # images [b, 3, h, w] in [-1, 1] -> [b]
Color = Sequence[float]  # RGB in [0, 1]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in shares of the image

# how far a colour is recognised, in units of [-1, 1]: half of what neighbouring colours of the
# built-in worlds are apart
WIDTH = 0.3


def check_box(box: Box) -> Box:
    """A box as it is; ValueError unless it has an area inside the image."""
    values = tuple(float(edge) for edge in box)
    if len(values) != 4 or not (
        0 <= values[0] < values[2] <= 1 and 0 <= values[1] < values[3] <= 1
    ):
        raise ValueError(
            f"box {tuple(box)}; expected (left, top, right, bottom) in shares of the image, with "
            "0 <= left < right <= 1 and 0 <= top < bottom <= 1"
        )
    return values[0], values[1], values[2], values[3]


def box_mask(box: Box, size: int, device: torch.device | str | None = None) -> Tensor:
    """The mask of a box: the share of each pixel that lies in it.

    Args:
        box: (left, top, right, bottom), in shares of the image.
        size: of the image, in pixels.
        device: of the mask (default: CPU).

    Returns:
        [size, size] in [0, 1].

    Raises:
        ValueError: the box has no area inside the image.
    """
    left, top, right, bottom = (edge * size for edge in check_box(box))
    start = torch.arange(size, dtype=torch.float32, device=device)

    def covered(low: float, high: float) -> Tensor:
        return ((start + 1).clamp(max=high) - start.clamp(min=low)).clamp(0, 1)

    return covered(top, bottom)[:, None] * covered(left, right)[None, :]


def _in_range(color: Color, like: Tensor) -> Tensor:
    """A colour as the value of a pixel in [-1, 1], [3, 1, 1]."""
    if len(color) != 3 or not all(0 <= channel <= 1 for channel in color):
        raise ValueError(f"colour {tuple(color)}; expected red, green and blue, each from 0 to 1")
    return 2 * torch.tensor(tuple(color), dtype=like.dtype, device=like.device)[:, None, None] - 1


def color_similarity(images: Tensor, color: Color, width: float = WIDTH) -> Tensor:
    """How much each pixel has a colour: exp(-|pixel - colour|^2 / (2 width^2)).

    Args:
        images: [b, 3, h, w] in [-1, 1].
        color: RGB in [0, 1].
        width: the distance at which this falls to 0.6 (default: 0.3).

    Returns:
        [b, h, w] in (0, 1].
    """
    far = (images - _in_range(color, images)).square().sum(1)
    return torch.exp(-far / (2 * width**2))


def color_loss(color: Color, mask: Tensor) -> ImageLoss:
    """A colour at a place: half the mean squared distance to it, over the pixels of a mask.

    Args:
        color: RGB in [0, 1].
        mask: [h, w] in [0, 1], not all 0.

    Returns:
        images [b, 3, h, w] -> [b]; 0 where the place has this colour.

    Raises:
        ValueError: the mask is empty, or the colour is none.
    """
    if mask.dim() != 2 or not mask.any():
        raise ValueError(
            f"mask {list(mask.shape)} with sum {float(mask.sum()):g}; expected [h, w] and at least "
            "one pixel"
        )

    def loss(images: Tensor) -> Tensor:
        weights = mask.to(images)
        far = (images - _in_range(color, images)).square().sum(1)
        return (weights * far).sum((1, 2)) / (2 * weights.sum())

    _in_range(color, mask)
    return loss


def box_loss(color: Color, box: Box, width: float = WIDTH) -> ImageLoss:
    """What has a colour lies in a box: (1 - its share inside the box)^2.

        m = colour similarity of each pixel,   loss = (1 - sum of m in the box / sum of m)^2

    Args:
        color: RGB in [0, 1].
        box: (left, top, right, bottom), in shares of the image.
        width: of `color_similarity` (default: 0.3).

    Returns:
        images [b, 3, h, w] -> [b], from 0 (all in the box) to 1 (nothing in it).

    Raises:
        ValueError: the box has no area inside the image.
    """
    check_box(box)

    def loss(images: Tensor) -> Tensor:
        there = color_similarity(images, color, width)
        inside = (there * box_mask(box, images.shape[-1], images.device).to(images)).sum((1, 2))
        return (1 - inside / there.sum((1, 2)).clamp(min=1e-12)).square()

    return loss


def segment_loss(labels: Tensor, palette: Sequence[Color], width: float = WIDTH) -> ImageLoss:
    """A segment mask: every pixel has the colour of its segment, by cross-entropy.

        p_k = softmax over k of -|pixel - palette_k|^2 / (2 width^2)
        loss = mean over pixels of -log p_label

    Args:
        labels: the number of the segment of each pixel, long [h, w].
        palette: the colour of each segment, RGB in [0, 1].
        width: as in `color_similarity` (default: 0.3).

    Returns:
        images [b, 3, h, w] -> [b].

    Raises:
        ValueError: a label that the palette has no colour for.
    """
    if labels.min() < 0 or labels.max() >= len(palette):
        raise ValueError(
            f"labels from {int(labels.min())} to {int(labels.max())} with a palette of "
            f"{len(palette)} colours; expected labels from 0 to {len(palette) - 1}"
        )

    def loss(images: Tensor) -> Tensor:
        colors = torch.stack([_in_range(color, images) for color in palette])  # [k, 3, 1, 1]
        far = (images[:, None] - colors).square().sum(2)  # [b, k, h, w]
        log_p = (-far / (2 * width**2)).log_softmax(1)
        chosen = labels.to(images.device).expand(len(images), 1, *labels.shape)
        return -log_p.gather(1, chosen).mean((1, 2, 3))

    return loss


def image_loss(target: Tensor) -> ImageLoss:
    """Closeness to an image: half the squared distance to it.

    With `guide_by_loss` this is reconstruction guidance (Video Diffusion Models, Ho et al., 2022).

    Args:
        target: [1 or b, 3, h, w] in [-1, 1].

    Returns:
        images [b, 3, h, w] -> [b].
    """
    return lambda images: (images - target.to(images)).square().sum((1, 2, 3)) / 2


def classifier_loss(log_p: Callable[[Tensor], Tensor]) -> ImageLoss:
    """What a classifier of clean images does not believe: -log p(y | x_0_hat).

    It is asked about the estimate, which is blurred while there is much noise.
    `diffusion.guidance_rules.guide_by_classifier` asks a classifier of noisy images about x_t.

    Args:
        log_p: images [b, 3, h, w] -> log p(y | image), [b], differentiable; for example
            `evaluation.noisy_classifier.NoisyClassifier.log_probability` without noise.

    Returns:
        images [b, 3, h, w] -> [b].
    """
    return lambda images: -log_p(images)
