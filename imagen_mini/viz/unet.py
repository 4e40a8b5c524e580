"""What a U-Net is made of: its parts in the order of the forward pass, the shapes between them,
where parameters and FLOPs sit, and the drawn U.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from matplotlib.axes import Axes
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
from imagen_mini.viz.style import STYLES

WORDS = 24  # tokens of the prompt that costs are counted with
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
    """What an image passes on its way through the U, in order, by name: the stem, stacks, changes
    of the grid, the last convolution.
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
class Cost:
    """A part of a network: what it is (one of KINDS), the side of its grid (None: it works on no
    grid), its parameters, and the FLOPs that one image takes in it in one forward pass.
    """

    name: str
    kind: str
    grid: int | None
    parameters: int
    flops: int


@torch.enable_grad()  # attention is then written as products, which are counted
def costs(config: UNetConfig) -> list[Cost]:
    """Every part of the network that such a configuration describes, counted on shapes alone:
    nothing is allocated, so any size will do.

    FLOPs are torch's count: matrix products and convolutions, a multiplication and an addition
    each; norms and the like are left out. Together the parts hold all parameters and all FLOPs of
    the network.
    """
    with FakeTensorMode():
        net = UNet(config)
        grids = _grids(net)
        with FlopCounterMode(display=False) as counter:
            forward(net)
    by_module = {
        name.removeprefix("UNet."): sum(flops.values())
        for name, flops in counter.get_flop_counts().items()
    }
    return [
        Cost(
            name,
            kind,
            grids.get(name),
            sum(p.numel() for p in module.parameters()),
            by_module.get(name, 0),
        )
        for name, module, kind in _parts(net)
    ]


def forward(net: UNet) -> Tensor:
    """One image through the network, of zeros, with a prompt of WORDS tokens."""
    c = net.config
    number = torch.zeros(1)
    text = TextEmbeddings(
        torch.zeros(1, WORDS, c.text_width), torch.ones(1, WORDS, dtype=torch.bool)
    )
    low = (
        ()
        if c.low_res_size is None
        else (torch.zeros(1, 3, c.low_res_size, c.low_res_size), number)
    )
    return net(torch.zeros(1, 3, c.image_size, c.image_size), number, text, *low)


def _parts(net: UNet) -> list[tuple[str, nn.Module, str]]:
    """Modules that hold all parameters once: name, module, kind."""
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
    """The side of the grid that each convolution, block and attention layer works on, by name of
    module: that of what it gives, before it is laid out 2x2.
    """
    grids = {}
    for name, module in net.named_modules():
        place, _, rest = name.partition(".")
        if (
            place in ("down", "up", "mid", "downsample", "upsample")
            and rest.split(".")[0].isdigit()
        ):
            grids[name] = net.config.grids[int(rest.split(".")[0])]
        if place == "mid":
            grids[name] = net.config.grids[-1]
    return grids | dict.fromkeys(("stem", "out_norm", "out"), net.config.grids[0])


def total(
    parts: Sequence[Cost], what: str, kind: str | None = None, grid: int | None = None
) -> int:
    """The sum of `what` ("parameters" or "flops") over the parts of this kind and on this grid;
    None: of all.
    """
    return sum(
        getattr(part, what)
        for part in parts
        if kind in (None, part.kind) and grid in (None, part.grid)
    )


@torch.enable_grad()
def flops_of_layer(kind: str, grid: int, channels: int = 128, text_width: int = 128) -> int:
    """What one layer costs on a grid of this side, one image: "residual block", or attention of
    kind "self", "cross" or "hybrid".
    """
    with FakeTensorMode():
        x, text = (
            torch.zeros(1, channels, grid, grid),
            TextEmbeddings(
                torch.zeros(1, WORDS, text_width), torch.ones(1, WORDS, dtype=torch.bool)
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


def ablations(config: UNetConfig) -> dict[str, UNetConfig]:
    """An Efficient U-Net with one thing changed at a time. Patches of half the side make every grid
    twice as fine.
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
    """How many values the residual blocks give, all together, for one image: what a backward pass
    must find again is a small multiple of it.
    """
    levels = list(zip(config.blocks, config.channels, config.grids))
    return (
        sum(2 * blocks * channels * grid**2 for blocks, channels, grid in levels)
        + config.mid_blocks * config.channels[-1] * config.grids[-1] ** 2
    )


# ---------------------------------------------------------------- the drawn U


def plot_unet(panel: Axes, config: UNetConfig, parts: Sequence[Cost] | None = None) -> None:
    """The U of a network: a box for each stack, as high as its level is deep, as wide as it has
    channels, written in it how many residual blocks and what attention; the share of all FLOPs (by
    `parts` of `costs`) below it. Lines across are the skip connections.
    """
    widest, whole = max(config.channels), None if parts is None else total(parts, "flops")
    last = len(config.channels) - 1
    colors = {"down": STYLES[0]["color"], "mid": STYLES[2]["color"], "up": STYLES[1]["color"]}

    def box(
        place: str, level: float, x: float, name: str, channels: int, blocks: int, attention: str
    ) -> None:
        width = 0.35 + 0.75 * channels / widest
        panel.barh(
            -level,
            width,
            height=0.62,
            left=x - width / 2,
            color=colors[place],
            alpha=0.25,
            edgecolor=colors[place],
        )
        inside = f"{channels} ch\n{blocks} block{'s' if blocks != 1 else ''}" + (
            f"\n{attention}" if attention else ""
        )
        panel.text(x, -level, inside, ha="center", va="center", fontsize=7.5)
        if parts is not None:
            flops = sum(part.flops for part in parts if part.name.startswith(name + "."))
            panel.text(
                x,
                -level - 0.33,
                f"{flops / whole:.0%} of FLOPs",
                ha="center",
                va="top",
                fontsize=7,
                color="#555555",
            )

    for i, grid in enumerate(config.grids):
        panel.text(-2.55, -i, f"{grid} x {grid}", ha="right", va="center", fontsize=9)
        panel.plot([-0.9, 0.9], [-i, -i], color="#999999", linewidth=1, linestyle=":")
        box("down", i, -1.6, f"down.{i}", config.channels[i], config.blocks[i], config.attention[i])
        box("up", i, 1.6, f"up.{i}", config.channels[i], config.blocks[i], config.attention[i])
        if i < last:
            panel.annotate(
                "",
                (-1.6, -i - 0.68),
                (-1.6, -i - 0.5),
                arrowprops={"arrowstyle": "->", "color": "#555555"},
            )
            panel.annotate(
                "",
                (1.6, -i - 0.5),
                (1.6, -i - 0.68),
                arrowprops={"arrowstyle": "->", "color": "#555555"},
            )
    box("mid", last + 1, 0, "mid", config.channels[-1], config.mid_blocks, config.attention[-1])
    panel.set_xlim(-3.4, 2.4)
    panel.set_ylim(-last - 1.6, 0.5)
    panel.set_axis_off()
