"""Where an edit may change the picture, and where it stays the source's: the two ways of `prompt_to_prompt.LocalBlend` and `DiffBlend` at work.

Both blend x_0_hat, not x: outside the mask the picture is the source's to the last bit, whatever the sampler remembers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.alignment import find_word, word_numbers
from imagen_mini.models.control import AttnSite, Control
from imagen_mini.attention_maps import AttentionMaps
from imagen_mini.text.encoder import Tokens

if TYPE_CHECKING:
    from imagen_mini.prompt_to_prompt import DiffBlend, LocalBlend


class Blending:
    """A LocalBlend at work: it watches the maps of the words."""

    needs_source = False

    def __init__(self, blend: LocalBlend, tokens: list[Tokens], sites: list[AttnSite]):
        self.blend, self.maps = blend, AttentionMaps()
        of_words = [site for site in sites if site.kind != "self"]
        sizes = sorted({site.size for site in of_words})
        size = sizes[-1] if blend.size is None else blend.size
        if size not in sizes:
            raise ValueError(f"LocalBlend(size={size}): this network attends to words on grids of {', '.join(map(str, sizes))}; pass one of these")
        for word in blend.words + blend.exclude:
            for target in tokens[1:]:
                if not word_numbers(tokens[0], word):
                    find_word(target, word)            # an error that says what words there are
        self.maps.start(tokens, [site for site in of_words if site.size == size])

    def watch(self, control: Control | None, t: float) -> Control | None:
        return self.maps.watch(control, t)

    def __call__(self, x_0_hat: Tensor, active: bool) -> Tensor:
        if not active or not self.maps.after:          # nothing recorded yet: source and targets read one prompt
            return x_0_hat
        masks = torch.stack([self.blend.mask(self.maps, target) for target in range(1, len(x_0_hat))])
        masks = F.interpolate(masks[:, None].to(x_0_hat), size=x_0_hat.shape[-2:], mode="nearest")
        return torch.cat([x_0_hat[:1], torch.where(masks > 0, x_0_hat[1:], x_0_hat[:1])])


def grown(mask: Tensor, by: int) -> Tensor:
    """A mask of 0 and 1 [b, 1, h, w], larger by so many pixels on all sides."""
    return F.max_pool2d(mask, 2 * by + 1, 1, by)


def closed(mask: Tensor, by: int) -> Tensor:
    """A mask without its gaps and holes of up to twice so many pixels: grown, and shrunk again."""
    around = F.pad(mask, [by] * 4)
    return 1 - grown(1 - grown(around, by), by)[..., by:-by, by:-by]


class DiffBlending:
    """A DiffBlend at work: it is shown the source's finished picture before the walk."""

    needs_source = True

    def __init__(self, blend: DiffBlend):
        self.blend = blend
        self.source = self.masks = None

    def look_at(self, source: Tensor, reread: Callable[[float, int], Tensor]) -> None:
        """`source` [1, 3, h, w]; `reread(t, i)`: x_0_hat [1 + targets, 3, h, w] by every prompt of the source, noised to time t with noise number i."""
        reads = torch.stack([reread(self.blend.at, i) for i in range(self.blend.noises)])
        self.source, self.masks = source, self.mask((reads[:, 1:] - reads[:, :1]).abs().amax(2, keepdim=True).mean(0))

    def mask(self, difference: Tensor) -> Tensor:
        """Differences [targets, 1, h, w] -> where targets may differ from the source, bool of that shape."""
        unit = max(1, difference.shape[-1] // 64)
        smooth = F.avg_pool2d(difference, 2 * unit + 1, 1, unit, count_include_pad=False)
        mask = (smooth > self.blend.threshold * smooth.amax((1, 2, 3), keepdim=True)).to(difference.dtype)
        return grown(closed(mask, 4 * unit), self.blend.grow * unit) > 0

    def watch(self, control: Control | None, t: float) -> Control | None:
        return control

    def __call__(self, x_0_hat: Tensor, active: bool) -> Tensor:
        return torch.cat([x_0_hat[:1], torch.where(self.masks, x_0_hat[1:], self.source)]) if active else x_0_hat
