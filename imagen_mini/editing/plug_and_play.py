"""Plug-and-Play: the targets take the source's features and self-attention maps in the decoder.

Features say what stands where, self-attention says what belongs together. Neither names a word, so
no prompt of the source is needed: its layout is kept, and the target's prompt decides the rest.

Reference: Plug-and-Play Diffusion Features (Tumanyan et al., 2022), arXiv 2211.12572, Section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.editing.base import BoundEdit, Edit, check_bindable
from imagen_mini.editing.feature_injection import FeatureInjection, SourceFeatures
from imagen_mini.editing.windows import Window, as_window, within
from imagen_mini.models.control import AttentionControl, AttentionSite, both_controls
from imagen_mini.text.encoder import Tokens


@dataclass(frozen=True)
class PlugAndPlay(Edit):
    """The targets take features of the decoder's coarse residual blocks from the source, and the
    queries and keys of its self-attention, so that they have its self-attention maps.

    With `pipe.edit(image, ...)` the source is a given image, and both branches of guidance are
    controlled, as in the authors' code. With `pipe([source, target], edit=PlugAndPlay())` it is a
    generated one, and the conditional branch alone is.

    Differs from the paper: a block's output is taken with its shortcut, which the authors' code
    leaves to the target; and self-attention is injected in all of the decoder, where their code
    leaves out its coarsest layers.

    Args:
        features_until: Share of the steps in which features are injected (default 0.8). A pair is a
            window (start, end).
        attention_until: Share of the steps in which queries and keys are injected (default 0.5).
        size: Features are injected on the decoder's grids of at most size x size. None (the
            default): on the coarsest that has attention. The paper takes one layer of the
            second-coarsest grid of a U-Net of four.

    Raises:
        ValueError: A window is out of range, or the network has no self-attention in its decoder,
            or no attention on so coarse a grid.
    """

    features_until: Window = 0.8
    attention_until: Window = 0.5
    size: int | None = None

    def __post_init__(self):
        for name in ("features_until", "attention_until"):
            object.__setattr__(self, name, as_window(getattr(self, name), name))

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundPlugAndPlay:
        check_bindable(tokens, sites)
        check_self_attention(sites)
        return BoundPlugAndPlay(
            as_window(self.features_until, "features_until"),
            as_window(self.attention_until, "attention_until"),
            FeatureInjection(size=self.size).grid(sites),
        )


def check_self_attention(sites: list[AttentionSite]) -> None:
    """Raise ValueError unless the decoder has self-attention."""
    if not any(in_decoder(site) for site in sites):
        raise ValueError(
            "this network has no self-attention in its decoder, whose maps could be injected; "
            f"its sites are {', '.join(site.name for site in sites) or 'none'}"
        )


def in_decoder(site: AttentionSite) -> bool:
    """Is this self-attention of the decoder?"""
    return site.kind == "self" and site.place_in_unet == "up"


@dataclass(frozen=True)
class BoundPlugAndPlay(BoundEdit):
    """Plug-and-Play with its windows, and the finest grid on which features are injected."""

    features: tuple[float, float]
    attention: tuple[float, float]
    size: int

    controls_both_branches = True

    def control_at(self, done: float) -> AttentionControl | None:
        return both_controls(
            SourceFeatures(self.size) if within(self.features, done) else None,
            SourceSelfAttention() if within(self.attention, done) else None,
        )


class SourceSelfAttention(AttentionControl):
    """Every row has the queries and keys of row 0 in the decoder's self-attention, and so its
    maps.
    """

    def modify_qkv(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not in_decoder(site):
            return q, k, v
        return torch.cat([q[:1]] * len(q)), torch.cat([k[:1]] * len(k)), v
