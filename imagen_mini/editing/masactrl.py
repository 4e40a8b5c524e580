"""MasaCtrl: the targets look up what things look like in the source, wherever they now are.

Prompt-to-Prompt and Plug-and-Play keep the layout. MasaCtrl keeps the looks and lets the layout
change: the target's own queries ask, the source's keys and values answer. The first steps stay the
target's own, for there the layout is decided.

Reference: MasaCtrl (Cao et al., 2023), arXiv 2304.08465, Section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.editing.base import BoundEdit, Edit, check_bindable
from imagen_mini.editing.plug_and_play import check_self_attention, in_decoder
from imagen_mini.editing.windows import Window, as_window, within
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import Tokens


@dataclass(frozen=True)
class MasaCtrl(Edit):
    """Mutual self-attention: in the decoder's self-attention the targets have keys and values of
    the source, and queries of their own.

    Differs from the paper: its optional masks of the foreground are left out, and so is its window
    of layers. The authors' code begins at layer 10 of 16, after the first ones of the decoder.

    Args:
        steps: Window of the steps in which it is active (default (0.1, 1.0): from a tenth on; the
            authors' code begins at step 4 of 50). A number f means (0, f).

    Raises:
        ValueError: The window is out of range, or the network has no self-attention in its decoder.
    """

    steps: Window = (0.1, 1.0)

    def __post_init__(self):
        object.__setattr__(self, "steps", as_window(self.steps, "steps"))

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundMasaCtrl:
        check_bindable(tokens, sites)
        check_self_attention(sites)
        return BoundMasaCtrl(as_window(self.steps, "steps"))


@dataclass(frozen=True)
class BoundMasaCtrl(BoundEdit):
    """MasaCtrl in its window."""

    window: tuple[float, float]

    controls_both_branches = True

    def control_at(self, done: float) -> AttentionControl | None:
        return MutualSelfAttention() if within(self.window, done) else None


class MutualSelfAttention(AttentionControl):
    """Every row has the keys and values of row 0 in the decoder's self-attention."""

    def modify_qkv(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not in_decoder(site):
            return q, k, v
        return q, torch.cat([k[:1]] * len(k)), torch.cat([v[:1]] * len(v))
