"""The U-Net's small parts: the embedding of the noise level, the residual block, changes of resolution, pooled text."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .text import Text


def sinusoids(value: Tensor, width: int, shortest: float, longest: float) -> Tensor:
    """sin and cos of a number [b] at wavelengths spaced geometrically from `shortest` to `longest`: [b, width]."""
    half = width // 2
    wavelength = torch.logspace(math.log10(shortest), math.log10(longest), half, device=value.device)
    angle = 2 * math.pi * value.float()[:, None] / wavelength
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class NumberEmbedding(nn.Module):
    """A number that conditions the network, [b] -> [b, width]: sinusoids, then two linear layers."""

    def __init__(self, width: int, shortest: float, longest: float):
        super().__init__()
        self.shortest, self.longest = shortest, longest
        self.mlp = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, value: Tensor) -> Tensor:
        return self.mlp(sinusoids(value, 64, self.shortest, self.longest).to(self.mlp[0].weight.dtype))


class PooledText(nn.Module):
    """One vector for the whole prompt, [b, width]: attention pooling over the real tokens.

    Source: Imagen (2022), Section 2.5: a pooled embedding, LayerNorm-ed, is added to the time embedding.
    """

    def __init__(self, text_width: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(text_width)
        self.score = nn.Linear(text_width, 1)
        self.mlp = nn.Sequential(nn.Linear(text_width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, text: Text) -> Tensor:
        emb = self.norm(text.emb)
        weight = self.score(emb)[..., 0].float().masked_fill(~text.mask, -math.inf).softmax(1).to(emb.dtype)
        return self.mlp((weight[:, None] @ emb)[:, 0])


class ResBlock(nn.Module):
    """GroupNorm, swish, 3x3; GroupNorm, scale and shift by the embedding, swish, 3x3; plus a (1x1 projected) shortcut.

    Source: Imagen (2022), Fig. A.27 and "use_scale_shift_norm". The sum is multiplied by `skip_scale` (Appendix B.1: 1/sqrt(2)
    in the Efficient U-Net; the paper does not say on what, and the works it cites scale the residual sum).
    """

    def __init__(self, channels_in: int, channels: int, emb_width: int, skip_scale: float = 1.0):
        super().__init__()
        self.skip_scale = skip_scale
        self.norm1 = nn.GroupNorm(channels_in // 16, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.emb = nn.Linear(emb_width, 2 * channels)
        self.norm2 = nn.GroupNorm(channels // 16, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.emb(emb)[:, :, None, None].to(h.dtype).chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), scale + 1)
        h = self.conv2(F.silu(h))
        h = self.shortcut(x) + h
        return h if self.skip_scale == 1 else h * self.skip_scale


class Downsample(nn.Conv2d):
    """Halves the grid: 3x3 with stride 2."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__(channels_in, channels, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    """Doubles the grid: a 1x1 convolution to four values a pixel, which are laid out 2x2."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__(channels_in, 4 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(super().forward(x), 2)
