"""The U-Net's small parts, in this order: embeddings of numbers and positions, norms, layers over
the words, the residual block, changes of resolution.

    ScalarEmbedding     [b] -> [b, width]                         noise level, augmentation level
    TextRefinerBlock    [b, n, d] -> [b, n, d]                    words
    AttentionPooling    [b, n, d] -> [b, width]                   one vector for the prompt
    ResBlock            [b, c_in, h, w], [b, width] -> [b, c, h, w]
    Downsample          [b, c_in, h, w] -> [b, c, h / 2, w / 2]
    Upsample            [b, c_in, h, w] -> [b, c, 2 h, 2 w]
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from imagen_mini.text.encoder import TextEmbeddings

# ------------------------------------------------------------ numbers and positions


def sinusoidal_embedding(value: Tensor, width: int, shortest: float, longest: float) -> Tensor:
    """sin and cos of a number at wavelengths spaced geometrically.

    Args:
        value: numbers [b].
        width: of the embedding; even.
        shortest: the first wavelength.
        longest: the last wavelength.

    Returns:
        [b, width]: all sines, then all cosines.
    """
    half = width // 2
    wavelength = torch.logspace(
        math.log10(shortest), math.log10(longest), half, device=value.device
    )
    angle = 2 * math.pi * value.float()[:, None] / wavelength
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def positional_encoding_2d(size: int, width: int) -> Tensor:
    """Where each pixel of a grid is, in reading order: [size^2, width], half of it for y and half
    for x.
    """
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.cat(
        [sinusoidal_embedding(axis.flatten(), width // 2, 4.0, 2.0 * size) for axis in (y, x)],
        dim=1,
    )


class ScalarEmbedding(nn.Module):
    """A number that conditions the network, [b] -> [b, width]: sinusoids, two linear layers."""

    def __init__(self, width: int, shortest: float, longest: float):
        super().__init__()
        self.shortest, self.longest = shortest, longest
        self.mlp = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, value: Tensor) -> Tensor:
        sinusoids = sinusoidal_embedding(value, 64, self.shortest, self.longest)
        return self.mlp(sinusoids.to(next(self.mlp.parameters()).dtype))


# ------------------------------------------------------------ norms


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm whose output has the number format of its input. Autocast has a GPU return
    float32, twice the bytes, though it computes in it anyway.

    On a CPU, an x that needs no gradient, since all before it is frozen, is laid out channels
    first: torch's backward pass for channels last would write its gradient to address 0 there,
    which ends the process (PyTorch 2.13).
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return super().forward(
                x.contiguous() if torch.is_grad_enabled() and not x.requires_grad else x
            )
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(
                x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps
            )


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm without a bias, as `GroupNorm`. On a GPU in single operations: torch's kernel
    starts a block of threads for every row, and millions of rows of 16 numbers, as an attention
    head has, are faster without it.
    """

    def __init__(self, width: int):
        super().__init__(width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.eps) if x.is_cuda else super().forward(x)


def layer_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight along the last axis, computed in float32 at least.

    Reference: Layer Normalization (Ba et al., 2016), arXiv 1607.06450, without its bias.
    """
    centered = x.to(torch.promote_types(x.dtype, torch.float32))
    centered = centered - centered.mean(-1, keepdim=True)
    return (centered * (torch.rsqrt(centered.square().mean(-1, keepdim=True) + eps) * weight)).to(
        x.dtype
    )


# ------------------------------------------------------------ words


class TextRefinerBlock(nn.Module):
    """A transformer layer over the words, [b, n, width] -> [b, n, width], trained with the U-Net.

    The frozen encoder decides what a word means in its sentence. What the image needs to know of
    each word (is this the object on the left?) is not what a language model must keep in it. Here
    the loss on images decides. Differs from the paper, which has no such layers; later models on
    frozen language models do ("token refiner": HunyuanVideo, 2024).

    Args:
        width: of the text embeddings; a multiple of `head_dim`.
        head_dim: channels per attention head (default 32).
    """

    REACH = 8  # words further apart than this share one relative bias, as in T5

    def __init__(self, width: int, head_dim: int = 32):
        super().__init__()
        self.heads = width // head_dim
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        # Half of the heads start out attending to earlier words, half to later ones: 'left of'
        # makes what is before it the object on the left.
        offset, direction = torch.arange(-self.REACH, self.REACH + 1), torch.ones(self.heads, 1)
        direction[::2] = -1
        self.relative_bias = nn.Parameter(-3.0 * (offset * direction > 0))
        self.out = nn.Linear(width, width)
        expand, contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(expand, nn.SiLU(), contract)
        for last in (self.out, contract):
            nn.init.normal_(last.weight, std=0.2 / math.sqrt(last.in_features))
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [b, n, width] and mask, bool [b, n], True is a real token -> [b, n, width]."""
        # 1. Queries, keys and values [b, heads, n, d] of every word.
        q, k, v = rearrange(
            self.to_qkv(self.norm1(x)), "b n (three h d) -> three b h n d", three=3, h=self.heads
        )
        # 2. Scores [b, heads, n, n], with a learned bias for the distance of two words.
        at = torch.arange(x.shape[1], device=x.device)
        offset = (at[None, :] - at[:, None]).clamp(-self.REACH, self.REACH) + self.REACH
        scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1]) + self.relative_bias[
            :, offset
        ]
        # 3. Attention to the real words, then the two-layer perceptron.
        probs = scores.masked_fill(~mask[:, None, None, :], -math.inf).softmax(-1).to(v.dtype)
        x = x + self.out(rearrange(probs @ v, "b h n d -> b n (h d)"))
        return x + self.mlp(self.norm2(x))


class AttentionPooling(nn.Module):
    """One vector for the whole prompt, [b, width]: attention pooling over the real tokens.

    Reference: Imagen (Saharia et al., 2022), arXiv 2205.11487, Section 2.5: a pooled embedding,
    LayerNorm-ed, is added to the time embedding.
    """

    def __init__(self, text_width: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(text_width)
        # without a bias: a softmax ignores what is added to all of its scores
        self.score = nn.Linear(text_width, 1, bias=False)
        self.mlp = nn.Sequential(nn.Linear(text_width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, text: TextEmbeddings) -> Tensor:
        emb = self.norm(text.emb)
        weight = (
            self.score(emb)[..., 0]
            .float()
            .masked_fill(~text.mask, -math.inf)
            .softmax(1)
            .to(emb.dtype)
        )
        return self.mlp((weight[:, None] @ emb)[:, 0])


# ------------------------------------------------------------ images


class ResBlock(nn.Module):
    """GroupNorm, swish, 3x3; GroupNorm, scale and shift by the embedding, swish, 3x3; plus a (1x1
    projected) shortcut.

    The sum is multiplied by `skip_scale` (Appendix B.1: 1/sqrt(2) in the Efficient U-Net; the paper
    does not say on what, and the works it cites scale the residual sum).

    Args:
        channels_in: of x; a multiple of 16.
        channels: of the output; a multiple of 16.
        emb_dim: width of the embedding that scales and shifts.
        skip_scale: factor on the residual sum (default 1).

    Reference: Imagen (Saharia et al., 2022), arXiv 2205.11487, Fig. A.27 and
    "use_scale_shift_norm".
    """

    def __init__(self, channels_in: int, channels: int, emb_dim: int, skip_scale: float = 1.0):
        super().__init__()
        self.skip_scale = skip_scale
        self.norm1 = GroupNorm(channels_in // 16, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.emb = nn.Linear(emb_dim, 2 * channels)
        self.norm2 = GroupNorm(channels // 16, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = (
            nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        )
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)  # the block starts as its shortcut

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [b, channels_in, h, w] and emb [b, emb_dim] -> [b, channels, h, w]."""
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
