"""What a U-Net is made of: its parts in the order of the forward pass, the grids they work on, and
where parameters and FLOPs sit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from imagen_mini.models.attention import Attention
from imagen_mini.models.control import AttentionSite
from imagen_mini.models.layers import (
    AttentionPooling,
    Downsample,
    ResBlock,
    TextRefinerBlock,
    Upsample,
)
from imagen_mini.models.unet import UNet, UNetConfig
from imagen_mini.text.encoder import TextEmbeddings

PROMPT_TOKENS = 24  # tokens of the prompt that costs are counted with


COST_KINDS = (
    "residual blocks",
    "attention to words",
    "attention to pixels",
    "changing the grid",
    "first and last layer",
    "reading the words",
    "embeddings",
)


def forward_stages(net: UNet) -> list[tuple[str, nn.Module]]:
    """Return what an image passes through in the U-Net, in order, by name: stem, levels,
    resampling, last convolution.
    """
    out: list[tuple[str, nn.Module]] = [("stem", net.stem)]
    levels = range(len(net.down))
    for i in levels:
        out += ([(f"halve {i}", net.downsample[i])] if i else []) + [(f"down {i}", net.down[i])]
    out.append(("middle", net.mid))
    for i in reversed(levels):
        out += [(f"up {i}", net.up[i])] + ([(f"double {i}", net.upsample[i])] if i else [])
    return [*out, ("out", net.out)]


@dataclass(frozen=True)
class LayerCost:
    """The cost of a part of a network.

    Attributes:
        name: The module's name.
        kind: One of COST_KINDS.
        grid: The side of its grid; None if it works on no grid.
        parameters: Their number.
        flops: FLOPs of one forward pass with one image.
    """

    name: str
    kind: str
    grid: int | None
    parameters: int
    flops: int


@torch.enable_grad()  # attention is then written as products, which are counted
def count_costs(config: UNetConfig) -> list[LayerCost]:
    """Count the cost of every part of a network that a configuration describes.

    Nothing is allocated (shapes alone are computed), so any size will do. FLOPs are torch's count:
    matrix products and convolutions, with a multiplication and an addition each; norms are left
    out. Together the parts hold all parameters and all FLOPs of the network.
    """
    with FakeTensorMode():
        net = UNet(config)
        grids = _grids(net)
        with FlopCounterMode(display=False) as counter:
            forward_zeros(net)
    by_module = {
        name.removeprefix("UNet."): sum(flops.values())
        for name, flops in counter.get_flop_counts().items()
    }
    return [
        LayerCost(
            name,
            kind,
            grids.get(name),
            sum(p.numel() for p in module.parameters()),
            by_module.get(name, 0),
        )
        for name, module, kind in _parts(net)
    ]


def forward_zeros(net: UNet) -> Tensor:
    """Pass one image of zeros through the network, with a prompt of PROMPT_TOKENS tokens."""
    c = net.config
    number = torch.zeros(1)
    text = TextEmbeddings(
        torch.zeros(1, PROMPT_TOKENS, c.text_width), torch.ones(1, PROMPT_TOKENS, dtype=torch.bool)
    )
    low = (
        ()
        if c.low_res_size is None
        else (torch.zeros(1, 3, c.low_res_size, c.low_res_size), number)
    )
    return net(torch.zeros(1, 3, c.image_size, c.image_size), number, text, *low)


def _parts(net: UNet) -> list[tuple[str, nn.Module, str]]:
    """Return modules that hold all parameters once: name, module, kind."""
    out = []
    for name, module in net.named_modules():
        if isinstance(module, ResBlock):
            out.append((name, module, "residual blocks"))
        elif isinstance(module, Attention):
            out.append(
                (
                    name,
                    module,
                    "attention to pixels" if module.site.kind == "self" else "attention to words",
                )
            )
        elif isinstance(module, Downsample | Upsample):
            out.append((name, module, "changing the grid"))
        elif name in ("stem", "out_norm", "out"):
            out.append((name, module, "first and last layer"))
        elif isinstance(module, AttentionPooling | TextRefinerBlock):
            out.append((name, module, "reading the words"))
        elif name in ("log_snr_embedding", "aug_level_embedding"):
            out.append((name, module, "embeddings"))
    return out


def _grids(net: UNet) -> dict[str, int]:
    """Return the side of the grid that each convolution, block and attention layer works on, by
    name of module: that of its output, before pixels are moved from channels to positions.
    """
    grids = {}
    for name, _ in net.named_modules():
        place, _, rest = name.partition(".")
        if (
            place in ("down", "up", "mid", "downsample", "upsample")
            and rest.split(".")[0].isdigit()
        ):
            grids[name] = net.config.grids[int(rest.split(".")[0])]
        if place == "mid":
            grids[name] = net.config.grids[-1]
    return grids | dict.fromkeys(("stem", "out_norm", "out"), net.config.grids[0])


def sum_costs(
    parts: Sequence[LayerCost], what: str, kind: str | None = None, grid: int | None = None
) -> int:
    """Return the sum over the parts of one kind and on one grid.

    Args:
        parts: What `count_costs` returns.
        what: "parameters" or "flops".
        kind: One of COST_KINDS (default: all).
        grid: The side of a grid (default: all).
    """
    return sum(
        getattr(part, what)
        for part in parts
        if kind in (None, part.kind) and grid in (None, part.grid)
    )


@torch.enable_grad()
def layer_flops(kind: str, grid: int, channels: int = 128, text_width: int = 128) -> int:
    """Return the FLOPs of one layer for one image.

    Args:
        kind: "residual block", or attention of kind "self", "cross" or "hybrid".
        grid: The side of its grid.
        channels: Its channels (default: 128).
        text_width: The width of the text embeddings (default: 128).
    """
    with FakeTensorMode():
        x, text = (
            torch.zeros(1, channels, grid, grid),
            TextEmbeddings(
                torch.zeros(1, PROMPT_TOKENS, text_width),
                torch.ones(1, PROMPT_TOKENS, dtype=torch.bool),
            ),
        )
        if kind == "residual block":
            module, inputs = ResBlock(channels, channels, 256), (x, torch.zeros(1, 256))
        else:
            module, inputs = (
                Attention(AttentionSite("layer", "mid", kind, grid), channels, text_width),
                (x, text),
            )
        with FlopCounterMode(display=False) as counter:
            module(*inputs)
    return counter.get_total_flops()


def unet_ablations(config: UNetConfig) -> dict[str, UNetConfig]:
    """Return an Efficient U-Net with one choice changed at a time, by name.

    Patches of half the side make every grid twice as fine.
    """
    return {
        "as it is": config,
        "patches of half the side": replace(config, patch=config.patch // 2),
        "most blocks on the finest grid": replace(config, blocks=config.blocks[::-1]),
        "skips laid beside, not added": replace(config, skip="concat"),
        "all attention on every grid": replace(
            config, attention=("self+cross",) * len(config.blocks)
        ),
    }


def activation_count(config: UNetConfig) -> int:
    """Return the number of values that the residual blocks return for one image.

    The memory of a backward pass is a small multiple of it.
    """
    levels = list(zip(config.blocks, config.channels, config.grids))
    return (
        sum(2 * blocks * channels * grid**2 for blocks, channels, grid in levels)
        + config.mid_blocks * config.channels[-1] * config.grids[-1] ** 2
    )
