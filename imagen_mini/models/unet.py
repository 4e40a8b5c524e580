"""The text-conditioned U-Net, for the base stage and, in Efficient form, for super-resolution.

    patches -> down blocks -> middle -> up blocks -> patches

A down block halves the grid before its convolutions and an up block doubles it after them, so most
of the work is done on small grids (Imagen, Appendix B.1). Everything that conditions (noise level,
augmentation level, pooled text) is summed into one embedding that scales and shifts every residual
block; the words reach the pixels through attention.

Shapes, for an image of s pixels on a side, patches of p pixels and levels i = 0 .. L - 1:

    x_t           [b, 3, s, s]                    (and low_res, enlarged to it; and known)
    patches       [b, 3 p^2, s/p, s/p]            `pixel_unshuffle`
    level i       [b, channels[i], g, g]          g = s / p / 2^i; the middle is on the last
    emb           [b, emb_dim]                    goes into every residual block
    text          [b, n, text_width]              what the text encoder makes of the words
    words         [b, n, context_width]           go into every attention layer to words
    output        [b, 3, s, s]                    `pixel_shuffle`

Reference: Imagen (Saharia et al., 2022), arXiv 2205.11487, Appendices B and F.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from imagen_mini.models.attention import Attention, TextContext
from imagen_mini.models.control import AttentionControl, AttentionSite, BlockSite
from imagen_mini.models.layers import (
    AttentionPooling,
    Downsample,
    GroupNorm,
    ResBlock,
    ScalarEmbedding,
    TextRefinerBlock,
    Upsample,
)
from imagen_mini.text.encoder import TextEmbeddings
from imagen_mini.utils.configuration import Range, check_ranges

KNOWN_CHANNELS = 4  # of the known part of an image: its colours, and where it is known


@dataclass(frozen=True)
class UNetConfig:
    """The architecture of one U-Net. ValueError, with the value seen and the one expected, for
    what cannot be built. The ranges go far beyond any use, and what is in them is built or refused
    in a moment.
    """

    image_size: Annotated[int, Range(1, 8192)] = 64  # pixels on a side
    # size of the conditioning image of a super-resolution stage
    low_res_size: Annotated[int | None, Range(1, 8192)] = None
    # patch x patch pixels become one position with patch^2 * 3 channels
    patch: Annotated[int, Range(1, 256)] = 2
    # per level; each level's grid is half of the one before
    channels: Annotated[tuple[int, ...], Range(1, 65536)] = (64, 128, 192)
    # residual blocks per level, on the way down and on the way up
    blocks: Annotated[tuple[int, ...], Range(1, 64)] = (1, 1, 2)
    # per level: "", "self", "cross", "self+cross", "hybrid"
    attention: tuple[str, ...] = ("cross", "cross", "self+cross")
    # residual blocks in the middle, on the smallest grid
    mid_blocks: Annotated[int, Range(0, 64)] = 1
    # attention after every residual block, as in Imagen's base; else after a level's last
    attention_every_block: bool = False
    head_dim: Annotated[int, Range(1, 65536)] = 32  # channels per attention head
    emb_dim: Annotated[int, Range(1, 65536)] = 256  # width of the summed embedding
    text_width: Annotated[int, Range(1, 65536)] = 128  # width of the text encoder's embeddings
    # width of the words inside the network, projected from text_width (None: they come as they are)
    cross_attention_dim: Annotated[int | None, Range(1, 65536)] = None
    # transformer layers over the words, before any other layer uses them
    text_layers: Annotated[int, Range(0, 64)] = 2
    skip: str = "concat"  # how an up block takes the down block's output: "concat" or "sum"
    # factor on each residual sum; 1/sqrt(2) in the Efficient U-Net
    skip_scale: Annotated[float, Range(above=0, high=1)] = 1.0
    # takes the known part of an image as further input, to fill in the rest
    inpainting: bool = False

    def __post_init__(self):
        if isinstance(self.attention, str):
            raise ValueError(f"attention {self.attention!r}; expected one text for each level")
        for name in ("channels", "blocks", "attention"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists come from JSON
        check_ranges(self)
        if not self.channels:
            raise ValueError("channels: expected one number a level, at least one; got none")
        if not len(self.channels) == len(self.blocks) == len(self.attention):
            raise ValueError(
                "channels, blocks and attention need one value a level; got "
                f"{len(self.channels)}, "
                f"{len(self.blocks)} and {len(self.attention)}"
            )
        smallest = self.patch * 2 ** (len(self.channels) - 1)
        if self.image_size % smallest:
            raise ValueError(
                f"image_size {self.image_size} is no multiple of {smallest} (patch times 2 for "
                "each level below the first)"
            )
        bad = [c for c in self.channels if c % self.head_dim or c % 16]
        if bad:
            raise ValueError(
                f"channels {bad} are no multiples of 16 and of head_dim {self.head_dim}"
            )
        if self.text_layers and self.context_width % self.head_dim:
            name = "text_width" if self.cross_attention_dim is None else "cross_attention_dim"
            raise ValueError(
                f"{name} {self.context_width} is no multiple of head_dim {self.head_dim}, as "
                "text_layers need"
            )
        for kinds in self.attention:
            if len(set(kinds.split("+"))) < len(kinds.split("+")):
                raise ValueError(f"attention {kinds!r}; expected each kind once")
        unknown = {k for kinds in self.attention for k in kinds.split("+") if k} - {
            "self",
            "cross",
            "hybrid",
        }
        if unknown:
            raise ValueError(
                f"unknown attention {sorted(unknown)}; expected '', 'self', 'cross', 'hybrid' "
                "or a sum like 'self+cross'"
            )
        if self.skip not in ("concat", "sum"):
            raise ValueError(f"skip {self.skip!r}; expected 'concat' or 'sum'")

    @property
    def context_width(self) -> int:
        """Width of the words inside the network."""
        return self.cross_attention_dim or self.text_width

    @property
    def grids(self) -> tuple[int, ...]:
        """Side of the grid at each level."""
        return tuple(self.image_size // self.patch // 2**i for i in range(len(self.channels)))


class UNetLevel(nn.Module):
    """Residual blocks on one grid, and attention: after the last of them, or, with
    `attention_every_block`, after every one.

    Args:
        config: of the whole U-Net.
        name: "down0", "mid", "up1": the names of the sites begin with it.
        place_in_unet: "down", "mid" or "up".
        level: 0 is the finest grid.
        channels_in: of the input; the output has `config.channels[level]`.
        blocks: how many residual blocks.
    """

    def __init__(
        self,
        config: UNetConfig,
        name: str,
        place_in_unet: str,
        level: int,
        channels_in: int,
        blocks: int,
    ):
        super().__init__()
        channels, size = config.channels[level], config.grids[level]
        self.block_sites = [
            BlockSite(f"{name}.block{i}", place_in_unet, size) for i in range(blocks)
        ]
        self.blocks = nn.ModuleList(
            ResBlock(
                channels_in if i == 0 else channels, channels, config.emb_dim, config.skip_scale
            )
            for i in range(blocks)
        )

        def attention(after: str = "") -> nn.ModuleList:
            kinds = [k for k in config.attention[level].split("+") if k]
            return nn.ModuleList(
                Attention(
                    AttentionSite(f"{name}{after}.{kind}", place_in_unet, kind, size),
                    channels,
                    config.context_width,
                    config.head_dim,
                )
                for kind in kinds
            )

        self.between = nn.ModuleList(
            attention(f".block{i}") for i in range(blocks - 1) if config.attention_every_block
        )
        self.attention = attention()
        self.gradient_checkpointing = False

    def forward(
        self, x: Tensor, emb: Tensor, text: TextEmbeddings, control: AttentionControl | None
    ) -> Tensor:
        """x [b, channels_in, size, size] -> [b, channels, size, size]."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            # nothing here is random
            return checkpoint(
                self.run, x, emb, text, control, use_reentrant=False, preserve_rng_state=False
            )
        return self.run(x, emb, text, control)

    def run(
        self, x: Tensor, emb: Tensor, text: TextEmbeddings, control: AttentionControl | None
    ) -> Tensor:
        """As `forward`, without gradient checkpointing."""
        for i, (block, site) in enumerate(zip(self.blocks, self.block_sites)):
            x = block(x, emb)
            if control is not None and control.needs_features(site):
                x = control.modify_features(site, x)
            if i < len(self.between):
                for attention in self.between[i].children():
                    x = attention(x, text, control)
        for attention in self.attention:
            x = attention(x, text, control)
        return x


class UNet(nn.Module):
    """(x_t, log-SNR, text) -> what the stage predicts (eps, x_0 or v), of the shape of x_t.

    A super-resolution U-Net (`low_res_size` set) also takes the noise-augmented low-resolution
    image and its level.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        channels, last = config.channels, len(config.channels) - 1
        # 1. What conditions: noise level, words, pooled text, augmentation level.
        self.log_snr_embedding = ScalarEmbedding(config.emb_dim, shortest=1.0, longest=60.0)
        # without a bias: the unconditional text, which is 0, stays 0
        self.text_projection = (
            nn.Identity()
            if config.cross_attention_dim is None
            else nn.Linear(config.text_width, config.cross_attention_dim, bias=False)
        )
        self.text_layers = nn.ModuleList(
            TextRefinerBlock(config.context_width, config.head_dim)
            for _ in range(config.text_layers)
        )
        self.pooled_text = AttentionPooling(config.context_width, config.emb_dim)
        if config.low_res_size is not None:
            self.aug_level_embedding = ScalarEmbedding(config.emb_dim, shortest=0.1, longest=4.0)
        # 2. From patches down to the smallest grid.
        images = 1 if config.low_res_size is None else 2
        inputs = 3 * images + (KNOWN_CHANNELS if config.inpainting else 0)
        self.stem = nn.Conv2d(inputs * config.patch**2, channels[0], 3, padding=1)
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        for i in range(last + 1):
            self.downsample.append(Downsample(channels[i - 1], channels[i]) if i else nn.Identity())
            self.down.append(
                UNetLevel(config, f"down{i}", "down", i, channels[i], config.blocks[i])
            )
        self.mid = UNetLevel(config, "mid", "mid", last, channels[last], config.mid_blocks)
        # 3. Up to patches again. The last convolution starts at zero.
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for i in range(last + 1):
            width = channels[i] * (2 if config.skip == "concat" else 1)
            self.up.append(UNetLevel(config, f"up{i}", "up", i, width, config.blocks[i]))
            self.upsample.append(Upsample(channels[i], channels[i - 1]) if i else nn.Identity())
        self.out_norm = GroupNorm(channels[0] // 16, channels[0])
        self.out = nn.Conv2d(channels[0], 3 * config.patch**2, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x_t: Tensor,
        log_snr: Tensor,
        text: TextEmbeddings,
        low_res: Tensor | None = None,
        aug_level: Tensor | None = None,
        control: AttentionControl | None = None,
        use_pooled: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Predict what the stage is trained to predict, from one noisy image each.

        Args:
            x_t: noisy images [b, 3, image_size, image_size].
            log_snr: log(alpha^2 / sigma^2) of each, [b].
            text: b rows, or `prepare_text` of them.
            low_res: [b, 3, low_res_size, low_res_size] in [-1, 1], already augmented; for a
                super-resolution U-Net, and only there.
            aug_level: how much `low_res` was augmented, [b] in [0, 1]; likewise.
            control: reaches into attention and features (default None: nothing does), see
                `imagen_mini.models.control.AttentionControl`.
            use_pooled: [b], 0 or 1; 0 leaves the pooled text out, as training does at times so that
                the words are used too (default None: all 1).
            known: the known part of each image, for a U-Net with `inpainting`, and only there:
                [b, 4, image_size, image_size], the image with 0 where it is not known, and 1 where
                it is (default None: nothing is known, all 0).

        Returns:
            eps, x_0 or v, [b, 3, image_size, image_size].

        Raises:
            ValueError: if an input has another shape than this U-Net takes.
        """
        self._check(x_t, text, low_res, aug_level, known)

        # 1. The input image: noisy pixels and, for super-resolution, the enlarged low-res pixels;
        #    for inpainting, what is known.
        x = x_t
        if low_res is not None:
            x = torch.cat(
                [x, F.interpolate(low_res, size=x.shape[-2:], mode="bilinear", antialias=False)],
                dim=1,
            )
        if self.config.inpainting:
            nothing = x.new_zeros(len(x), KNOWN_CHANNELS, *x.shape[-2:])
            x = torch.cat([x, nothing if known is None else known], dim=1)

        # 2. The words, refined by the network's own text layers.
        if control is not None:
            text = control.modify_text(text)
        if not isinstance(text, TextContext):
            text = self.through_text_layers(text)

        # 3. One embedding [b, emb_dim] of all that conditions.
        emb = self.embed(log_snr, text, aug_level, use_pooled)

        # 4. Pixels to patches, patches to features.
        x = self.stem(_in_fastest_layout(F.pixel_unshuffle(x, self.config.patch)))

        # 5. Down: halve the grid, then residual blocks and attention; keep each level's output.
        skips = []
        for downsample, level in zip(self.downsample, self.down):
            x = level(downsample(x), emb, text, control)
            skips.append(x)

        # 6. The middle, on the smallest grid.
        x = self.mid(x, emb, text, control)

        # 7. Up: join the output kept at this level, residual blocks and attention, double the grid.
        for upsample, level in zip(reversed(self.upsample), reversed(self.up)):
            skip = skips.pop()
            x = (
                torch.cat([x, skip], dim=1)
                if self.config.skip == "concat"
                else (x + skip) * 0.5**0.5
            )
            x = upsample(level(x, emb, text, control))

        # 8. Features to patches, patches to pixels.
        x = self.out(F.silu(self.out_norm(x)))
        return F.pixel_shuffle(x, self.config.patch)

    def through_text_layers(self, text: TextEmbeddings) -> TextEmbeddings:
        """The words after the projection and the network's own transformer layers,
        [b, n, context_width].
        """
        text = TextEmbeddings(self.text_projection(text.emb), text.mask)
        for layer in self.text_layers:
            text = TextEmbeddings(layer(text.emb, text.mask), text.mask)
        return text

    def embed(
        self,
        log_snr: Tensor,
        text: TextEmbeddings,
        aug_level: Tensor | None,
        use_pooled: Tensor | None,
    ) -> Tensor:
        """The summed embedding [b, emb_dim], after the swish that every block would apply.

        Args:
            log_snr: [b].
            text: after the text layers, or `prepare_text` of it.
            aug_level: [b], for super-resolution.
            use_pooled: [b], 0 or 1; None: all 1.
        """
        pooled = text.pooled if isinstance(text, TextContext) else self.pooled_text(text)
        if use_pooled is not None:
            pooled = pooled * use_pooled[:, None]
        # finite where a schedule ends in pure noise
        emb = self.log_snr_embedding(log_snr.clamp(-20, 20)) + pooled
        if aug_level is not None:
            emb = emb + self.aug_level_embedding(aug_level)
        return F.silu(emb)

    def prepare_text(self, text: TextEmbeddings) -> TextContext:
        """All that the network computes from text alone: text layers, pooled vector, keys and
        values.

        Sampling does this once for an image. Training, where each text is used once, leaves it to
        `forward`.
        """
        text = self.through_text_layers(text)
        return TextContext(
            text.emb,
            text.mask,
            self.pooled_text(text),
            {
                layer.site.name: layer.project_text(text)
                for layer in self.attention_layers
                if layer.site.kind != "self"
            },
        )

    @property
    def attention_layers(self) -> list[Attention]:
        """Every attention layer, in the order of the modules."""
        return [m for m in self.modules() if isinstance(m, Attention)]

    @property
    def sites(self) -> list[AttentionSite]:
        """Every attention layer's site, in the order of the modules."""
        return [layer.site for layer in self.attention_layers]

    @property
    def block_sites(self) -> list[BlockSite]:
        """Every residual block's site, in the order of `levels`."""
        return [site for level in self.levels() for site in level.block_sites]

    def levels(self) -> list[UNetLevel]:
        """Every level: down from the finest grid, the middle, up from the finest grid."""
        return [*self.down, self.mid, *self.up]

    def enable_gradient_checkpointing(self, on: bool) -> None:
        """Keep only the input of each level for the backward pass, which then computes the level
        again.

        Reference: Training Deep Nets with Sublinear Memory Cost (Chen et al., 2016), arXiv
        1604.06174.
        """
        for level in self.levels():
            level.gradient_checkpointing = on

    def _check(
        self,
        x_t: Tensor,
        text: TextEmbeddings,
        low_res: Tensor | None,
        aug_level: Tensor | None,
        known: Tensor | None,
    ) -> None:
        c = self.config
        if x_t.shape[1:] != (3, c.image_size, c.image_size):
            raise ValueError(
                f"this U-Net takes images [b, 3, {c.image_size}, {c.image_size}]; got "
                f"{list(x_t.shape)}"
            )
        width = c.context_width if isinstance(text, TextContext) else c.text_width
        if len(text) != len(x_t) or text.emb.shape[-1] != width:
            raise ValueError(
                f"expected text for {len(x_t)} images of width {width}; got "
                f"{list(text.emb.shape)}. "
                "Another text encoder needs a U-Net trained with it"
            )
        enlarges = c.low_res_size is not None
        if (low_res is not None) != enlarges or (aug_level is not None) != enlarges:
            raise ValueError(
                f"this U-Net has low_res_size={c.low_res_size}: low_res and aug_level are "
                f"{'both needed' if enlarges else 'for super-resolution only'}"
            )
        if low_res is not None and low_res.shape[1:] != (3, c.low_res_size, c.low_res_size):
            raise ValueError(
                f"this U-Net enlarges images [b, 3, {c.low_res_size}, {c.low_res_size}]; got "
                f"{list(low_res.shape)}"
            )
        if known is not None and not c.inpainting:
            raise ValueError(
                "this U-Net has inpainting=False, and takes no known part of an image: fine-tune "
                "it by python -m train.inpainting, or use the method 'blend' or 'repaint'"
            )
        if known is not None and known.shape != (len(x_t), KNOWN_CHANNELS, *x_t.shape[-2:]):
            raise ValueError(
                f"known: expected {[len(x_t), KNOWN_CHANNELS, *x_t.shape[-2:]]}, the image and "
                f"where it is known; got {list(known.shape)}"
            )


def _in_fastest_layout(x: Tensor) -> Tensor:
    """In the memory layout that the device computes fastest: channels last on a CPU; on a GPU as it
    is, since GroupNorm would turn it back there in every block.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x
