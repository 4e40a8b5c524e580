"""The diagram of a U-Net."""

import torch

from imagen_mini.cascade.config import PRESETS
from imagen_mini.evaluation.unet_costs import PROMPT_TOKENS, count_costs
from imagen_mini.viz.style import subplots
from imagen_mini.viz.unet import plot_unet

BASE, SR = (PRESETS["mini"][name].unet for name in ("base", "sr_256"))


def test_the_plotted_unet_has_a_box_for_every_level_and_shares_within_the_total():
    fig, (ax,) = subplots(["base"], "")
    plot_unet(ax, BASE, count_costs(BASE))
    texts = [t.get_text() for t in ax.texts]
    shares = [int(t.split("%")[0]) for t in texts if t.endswith("of FLOPs")]
    assert len(shares) == 2 * len(BASE.channels) + 1 and 60 < sum(shares) <= 103
    assert sum("ch\n" in t for t in texts) == len(shares)
    assert PROMPT_TOKENS > 0 and torch.is_grad_enabled()
