"""A U-Net as a diagram."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from imagen_mini.evaluation.unet_costs import LayerCost, sum_costs
from imagen_mini.models.unet import UNetConfig
from imagen_mini.viz.style import STYLES


def plot_unet(ax: Axes, config: UNetConfig, parts: Sequence[LayerCost] | None = None) -> None:
    """The diagram of a U-Net: a box for each level, dotted lines for the skip connections.

    A box is as wide as its level has channels. In it stand its residual blocks and its attention.

    Args:
        ax: The axes to plot into.
        config: The network's configuration.
        parts: What `count_costs` returns: the share of all FLOPs is then written below each box
            (default: left out).
    """
    widest, whole = max(config.channels), None if parts is None else sum_costs(parts, "flops")
    last = len(config.channels) - 1
    colors = {"down": STYLES[0]["color"], "mid": STYLES[2]["color"], "up": STYLES[1]["color"]}

    def box(
        place: str, level: float, x: float, name: str, channels: int, blocks: int, attention: str
    ) -> None:
        width = 0.35 + 0.75 * channels / widest
        ax.barh(
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
        ax.text(x, -level, inside, ha="center", va="center", fontsize=7.5)
        if parts is not None:
            flops = sum(part.flops for part in parts if part.name.startswith(name + "."))
            ax.text(
                x,
                -level - 0.33,
                f"{flops / whole:.0%} of FLOPs",
                ha="center",
                va="top",
                fontsize=7,
                color="#555555",
            )

    for i, grid in enumerate(config.grids):
        ax.text(-2.55, -i, f"{grid} x {grid}", ha="right", va="center", fontsize=9)
        ax.plot([-0.9, 0.9], [-i, -i], color="#999999", linewidth=1, linestyle=":")
        box("down", i, -1.6, f"down.{i}", config.channels[i], config.blocks[i], config.attention[i])
        box("up", i, 1.6, f"up.{i}", config.channels[i], config.blocks[i], config.attention[i])
        if i < last:
            ax.annotate(
                "",
                (-1.6, -i - 0.68),
                (-1.6, -i - 0.5),
                arrowprops={"arrowstyle": "->", "color": "#555555"},
            )
            ax.annotate(
                "",
                (1.6, -i - 0.5),
                (1.6, -i - 0.68),
                arrowprops={"arrowstyle": "->", "color": "#555555"},
            )
    box("mid", last + 1, 0, "mid", config.channels[-1], config.mid_blocks, config.attention[-1])
    ax.set_xlim(-3.4, 2.4)
    ax.set_ylim(-last - 1.6, 0.5)
    ax.set_axis_off()
