"""The attention layer, in which pixels gather information from other pixels and from words.

    probs = softmax(q k^T / sqrt(d)),   out = probs v

Reference: Attention Is All You Need (Vaswani et al., 2017), arXiv 1706.03762, Eq. (1).

Shapes, from the input of `Attention.forward` to its output (b images, c channels, d = c / heads):

    x        [b, c, h, w]                features on a grid
    pixels   [b, h w, c]                 the same, normalised, with positions
    q        [b, heads, h w, d]          one query for each pixel
    k, v     [b, heads, keys, d]         keys: pixels (self), words (cross) or both (hybrid)
    probs    [b, heads, h w, keys]       each row adds up to 1
    out      [b, c, h, w]                added to x

Without a control this is one fused call. A control (`imagen_mini.models.control`) may change q, k
and v, and may ask to see and change `probs`, at the sites it names and only there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.models.layers import GroupNorm, LayerNorm, positional_encoding_2d
from imagen_mini.text.encoder import TextEmbeddings


def attention_probs(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)), computed explicitly, in float32 at least.

    Args:
        q: queries [b, heads, queries, d].
        k: keys [b, heads, keys, d].
        mask: which keys are there, bool [b, 1, 1, keys]; None: all.

    Returns:
        Probabilities [b, heads, queries, keys]; masked keys get exactly 0.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) @ k.to(wide).transpose(-1, -2)) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, without showing the probabilities.

    One fused kernel, but for training on the CPU: there the backward pass of the fused kernel takes
    2 to 5 times as long as that of the three separate operations on grids as small as ours. Keys
    stand before queries then, [b, heads, keys, queries]: a softmax along the last axis is slow
    where that is as short as a caption.

    Args:
        q: queries [b, heads, queries, d].
        k: keys [b, heads, keys, d].
        v: values [b, heads, keys, d].
        mask: which keys are there, bool [b, 1, 1, keys]; None: all.

    Returns:
        [b, heads, queries, d].
    """
    if q.device.type == "cpu" and torch.is_grad_enabled():
        scores = (k / math.sqrt(k.shape[-1])) @ q.transpose(-1, -2)
        if mask is not None:
            # not -inf: exp underflows to exactly 0 all the same
            scores = scores.masked_fill(~mask.transpose(-1, -2), -1e9)
        return scores.softmax(-2).to(v.dtype).transpose(-1, -2) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@dataclass(frozen=True)
class TextContext(TextEmbeddings):
    """Text as one network uses it (`UNet.prepare_text`): all that does not change from step to
    step, computed once for an image.

    Args:
        emb: after the network's own text layers, [b, n, d].
        mask: bool [b, n].
        pooled: one vector for each prompt, [b, emb_dim].
        kv: by the name of the attention site, the words' keys and values [b, n, 2 channels].
    """

    pooled: Tensor
    kv: dict[str, Tensor]


class Attention(nn.Module):
    """x + out(attention(norm(x))). Pixels [b, c, h, w] are the queries; the site's kind says what
    the keys are.

    Args:
        site: where the layer stands; `site.kind` is "self", "cross" or "hybrid".
        channels: of x; a multiple of `head_dim`.
        text_width: width of the text embeddings; needed unless the kind is "self".
        head_dim: channels per head (default 32).

    Raises:
        ValueError: if these do not fit together.
    """

    def __init__(
        self, site: AttentionSite, channels: int, text_width: int | None = None, head_dim: int = 32
    ):
        super().__init__()
        if channels % head_dim:
            raise ValueError(
                f"attention {site.name}: {channels} channels are no multiple of the head width "
                f"{head_dim}"
            )
        if site.kind not in ("self", "cross", "hybrid"):
            raise ValueError(
                f"attention {site.name}: kind {site.kind!r}; expected 'self', 'cross' or 'hybrid'"
            )
        self.site, self.heads = site, channels // head_dim
        self.norm = GroupNorm(channels // head_dim, channels)
        # 'To the left' means nothing to a pixel that does not know where it stands. Learned, from
        # sines and cosines, as in ViT. Differs from the paper, whose U-Net knows places by the
        # padding of its convolutions alone.
        self.position = nn.Parameter(positional_encoding_2d(site.size, channels))
        self.to_q = nn.Linear(channels, channels, bias=False)
        # QK norm keeps q k^T in range at any learning rate (ViT-22B, 2023). Differs from the paper,
        # which has none.
        self.q_norm, self.k_norm = LayerNorm(head_dim), LayerNorm(head_dim)
        if site.kind != "cross":
            self.pixels_to_kv = nn.Linear(channels, 2 * channels, bias=False)
        if site.kind != "self":
            if text_width is None:
                raise ValueError(f"attention {site.name}: kind {site.kind!r} needs a text_width")
            # Imagen, Section 2.5: a LayerNorm on the text embeddings, in attention too, helps
            # considerably.
            self.text_norm = nn.LayerNorm(text_width)
            self.text_to_kv = nn.Linear(text_width, 2 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        nn.init.normal_(self.out.weight, std=0.2 / math.sqrt(channels))
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, text: TextEmbeddings | None = None, control: AttentionControl | None = None
    ) -> Tensor:
        """Attend, and add the result to x.

        Args:
            x: features [b, c, h, w], with h = w = `site.size`.
            text: b rows; not needed by self-attention.
            control: changes q, k, v and the probabilities (default None: nothing does).

        Returns:
            Features [b, c, h, w].

        Raises:
            ValueError: if the keys are words and there is no text.
        """
        # 1. Pixels in reading order, each with its position.
        height, width = x.shape[-2:]
        pixels = rearrange(self.norm(x), "b c h w -> b (h w) c")
        pixels = pixels + self.position.to(pixels.dtype)

        # 2. Queries of the pixels; keys and values of pixels, words or both.
        q = rearrange(self.to_q(pixels), "b n (h d) -> b h n d", h=self.heads)
        k, v, mask, n_text = self.keys_and_values(pixels, text)
        q, k = self.q_norm(q), self.k_norm(k)
        if control is not None:
            q, k, v = control.modify_qkv(self.site, q, k, v)

        # 3. probs v, explicitly only where a control asks for the probabilities.
        if control is not None and control.needs_probs(self.site):
            probs = control.modify_probs(self.site, attention_probs(q, k, mask), n_text)
            out = probs.to(v.dtype) @ v
        else:
            out = fused_attention(q, k, v, mask)

        # 4. Heads side by side again, mixed, back on the grid, added to the input.
        out = self.out(rearrange(out, "b h n d -> b n (h d)"))
        return x + rearrange(out, "b (h w) c -> b c h w", h=height, w=width)

    def keys_and_values(
        self, pixels: Tensor, text: TextEmbeddings | None
    ) -> tuple[Tensor, Tensor, Tensor | None, int]:
        """What the queries attend to.

        Args:
            pixels: [b, h w, c].
            text: b rows; not needed by self-attention.

        Returns:
            k and v [b, heads, keys, d]; which keys are there (bool [b, 1, 1, keys], None: all); how
            many of them are words.
        """
        if self.site.kind == "self":
            return *self._split(self.pixels_to_kv(pixels)), None, 0
        if text is None:
            raise ValueError(f"attention {self.site.name} is of kind {self.site.kind!r}: pass text")
        kv = text.kv[self.site.name] if isinstance(text, TextContext) else self.project_text(text)
        mask = text.mask
        if self.site.kind == "hybrid":
            kv = torch.cat([kv, self.pixels_to_kv(pixels)], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(mask), pixels.shape[1])], dim=1)
        return *self._split(kv), mask[:, None, None, :], text.mask.shape[1]

    def project_text(self, text: TextEmbeddings) -> Tensor:
        """The words' keys and values, beside one another: [b, n, 2 channels]."""
        return self.text_to_kv(self.text_norm(text.emb))

    def _split(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """[b, n, 2 channels] -> k and v, each [b, heads, n, d]."""
        k, v = rearrange(kv, "b n (two h d) -> two b h n d", two=2, h=self.heads)
        return k, v

    @torch.no_grad()
    def revive_dead_channels(self) -> int:
        """Let channels learn again whose queries and keys have both lost their gain. Returns how
        many there were.

        A channel adds g_q g_k q_hat k_hat to the logits, so the gradient of either gain is a
        multiple of the other one. A layer that is put into a trained network may first learn to
        change nothing, and once both are 0, no gradient brings them back: it attends to everything
        alike for ever. With g_q = 1 and g_k = 0 the logits are what they were, and g_k can learn.
        """
        dead = (self.q_norm.weight.abs() < DEAD_GAIN) & (self.k_norm.weight.abs() < DEAD_GAIN)
        self.q_norm.weight[dead], self.k_norm.weight[dead] = 1.0, 0.0
        return int(dead.sum())


DEAD_GAIN = 1e-4  # two gains below this have no effect: their product adds nothing to the logits
