"""Attention refocusing: two losses on attention maps, with which objects come to lie in boxes.

    CAR     words: each attends somewhere in its own box, and neither in the boxes of the others nor
            on the background
    SAR     pixels: those of a box attend to no pixel outside of it

CAR says where an object is, SAR keeps objects from mixing. Both are read in one call of the
network, and x_t follows the gradient of their sum, as with the energies of `attention_guidance`:

    record = refocus_recorder(lambda control: stage.denoiser(
        text, guidance_scale=1.0, threshold="none", control_at=lambda t: control), 16, 8)
    energy = refocus_energy(boxes, word_tokens)
    move = descend_attention(record, energy, times)

Reference: Grounded Text-to-Image Synthesis with Attention Refocusing (Phung et al., 2023), arXiv
2306.05427.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.editing.attention_guidance import (
    DifferentiableMaps,
    Energy,
    share_among_words,
    smooth_maps,
)
from imagen_mini.editing.image_losses import Box, box_mask
from imagen_mini.models.control import AttentionControl, AttentionSite

Boxes = Sequence[Mapping[tuple[int, ...], Box]]  # for each prompt: positions of a word -> its box


class RefocusMaps(NamedTuple):
    """What attention refocusing looks at.

    Args:
        words: the attention of every place to every word, [b, size, size, words].
        pixels: the attention of every place to every place, in reading order,
            [b, size, size, size * size], on a grid of its own; None where it is not read.
    """

    words: Tensor
    pixels: Tensor | None


# ---------------------------------------------------------------- reading maps


@dataclass(frozen=True)
class DifferentiableRefocusMaps(DifferentiableMaps):
    """A control that changes nothing and keeps, with its graph, what one call attends to: words on
    one grid, pixels on another one.

    Attributes:
        self_size: The grid whose attention to pixels is kept; None: of none.
        pixel_maps: By the site's name, probabilities [b, heads, queries, pixels] of the latest
            call.
    """

    self_size: int | None = None
    pixel_maps: dict[str, Tensor] = field(default_factory=dict)

    def _reads_pixels(self, site: AttentionSite) -> bool:
        return site.kind != "cross" and site.size == self.self_size

    def needs_probs(self, site: AttentionSite) -> bool:
        return super().needs_probs(site) or self._reads_pixels(site)

    def modify_probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        if super().needs_probs(site):
            super().modify_probs(site, probs, n_text)
        if self._reads_pixels(site):
            # in a hybrid layer words have a share as well; what is left is made to add up to 1
            pixels = probs[..., n_text:]
            self.pixel_maps[site.name] = pixels / pixels.sum(-1, keepdim=True).clamp(min=1e-12)
        return probs

    def mean_pixels(self) -> Tensor:
        """The attention to pixels [b, size, size, size * size], averaged over layers and heads.

        Raises:
            ValueError: No layer on this grid attends to pixels.
        """
        if not self.pixel_maps:
            raise ValueError(
                f"no attention to pixels on a grid of {self.self_size} x {self.self_size}; choose "
                "a size that the network has: [site.size for site in stage.net.sites if site.kind "
                "!= 'cross'], or None"
            )
        mean = torch.stack([probs.mean(1) for probs in self.pixel_maps.values()]).mean(0)
        return rearrange(mean, "b (h w) n -> b h w n", h=self.self_size)


def refocus_recorder(
    denoiser: Callable[[AttentionControl], Denoiser], size: int = 16, self_size: int | None = 16
) -> Callable[[Tensor, Tensor], RefocusMaps]:
    """A function that reads attention to words and to pixels at a noisy image, in one call.

    Args:
        denoiser: control -> the denoiser of the prompts, under that control in every step; without
            guidance, for only the conditional branch has maps.
        size: the grid of the attention to words (default: 16, as in the paper's code).
        self_size: the grid of the attention to pixels (default: 16, as there). None: it is not
            read.

    Returns:
        (x_t [b, 3, h, w], t scalar) -> `RefocusMaps`.
    """

    def record(x_t: Tensor, t: Tensor) -> RefocusMaps:
        control = DifferentiableRefocusMaps(size, self_size=self_size)
        denoiser(control)(x_t, t)
        return RefocusMaps(control.mean(), None if self_size is None else control.mean_pixels())

    return record


# ---------------------------------------------------------------- losses


def cross_refocus_loss(boxes: Boxes, word_tokens: Sequence[Sequence[int]]) -> Energy:
    """CAR: a word's attention has its peak in its box, and none in other boxes or outside of all.

        a_i  = the map of word i among words, smoothed
        loss = mean over words i of 1 - (max of a_i in box i) + sum over j of (max of a_i in box j)
                                    + (max of a_i outside of all boxes) / 2

    A box j counts without what it shares with box i.

    Args:
        boxes: for each prompt, by the positions of a word's tokens, its box (left, top, right,
            bottom) in shares of the image. A prompt without boxes has the loss 0.
        word_tokens: for each prompt, the positions of its tokens that belong to words.

    Returns:
        maps [b, size, size, tokens] -> [b], at least 0.

    Raises:
        ValueError: a box has no area inside the image.

    Reference:
        Phung et al. (2023), arXiv 2306.05427: cross-attention refocusing. Differs from the paper's
        code: there the terms weigh up to six times as much while they are bad, and a factor of 100
        sharpens the softmax over words.
    """
    _check_boxes(boxes)

    def loss(maps: Tensor) -> Tensor:
        smooth = smooth_maps(share_among_words(maps, word_tokens))
        each = []
        for row, of_prompt in zip(smooth, boxes, strict=True):
            masks = [box_mask(box, len(row), row.device).to(row) for box in of_prompt.values()]
            total = 0 * row.sum()
            for i, tokens in enumerate(of_prompt):
                word = row[..., list(tokens)].mean(-1)
                elsewhere = torch.ones_like(word)
                for j, mask in enumerate(masks):
                    elsewhere = elsewhere * (1 - mask)
                    if j == i:
                        total = total + 1 - (word * mask).amax()
                    else:
                        total = total + (word * mask * (1 - masks[i])).amax()
                total = total + (word * elsewhere).amax() / 2
            each.append(total / max(len(masks), 1))
        return torch.stack(each)

    return loss


def self_refocus_loss(boxes: Boxes) -> Energy:
    """SAR: pixels of a box attend to no pixel outside of it.

        loss = mean over boxes of the mean over places in the box of (attention to places outside)

    Args:
        boxes: as for `cross_refocus_loss`; the words do not matter.

    Returns:
        maps [b, size, size, size * size] -> [b] in [0, 1].

    Raises:
        ValueError: a box has no area inside the image.

    Reference:
        Phung et al. (2023), arXiv 2306.05427: self-attention refocusing.
    """
    _check_boxes(boxes)

    def loss(maps: Tensor) -> Tensor:
        each = []
        for row, of_prompt in zip(maps, boxes, strict=True):
            total = 0 * row.sum()
            for box in of_prompt.values():
                mask = box_mask(box, len(row), row.device).to(row)
                outside = (row * (1 - mask).flatten()).sum(-1)
                total = total + (outside * mask).sum() / mask.sum()
            each.append(total / max(len(of_prompt), 1))
        return torch.stack(each)

    return loss


def refocus_energy(
    boxes: Boxes, word_tokens: Sequence[Sequence[int]], self_weight: float = 1.0
) -> Callable[[RefocusMaps], Tensor]:
    """The energy of attention refocusing: CAR + self_weight SAR.

    Args:
        boxes: as for `cross_refocus_loss`.
        word_tokens: as there.
        self_weight: of SAR (default: 1, as in the paper's code). 0: CAR alone, and no attention to
            pixels is needed.

    Returns:
        maps -> [b].

    Raises:
        ValueError: a box has no area inside the image.
    """
    car, sar = cross_refocus_loss(boxes, word_tokens), self_refocus_loss(boxes)

    def energy(maps: RefocusMaps) -> Tensor:
        if self_weight == 0 or maps.pixels is None:
            return car(maps.words)
        return car(maps.words) + self_weight * sar(maps.pixels)

    return energy


def _check_boxes(boxes: Boxes) -> None:
    """ValueError for a box without an area inside the image."""
    for of_prompt in boxes:
        for box in of_prompt.values():
            box_mask(box, 1)
