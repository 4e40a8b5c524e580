"""Feature injection: the targets take the source's features on a coarse grid of the decoder.

Attention maps say where each word acts. Where the objects are, the coarse features of the decoder
say too: activation patching finds the layout there when maps alone lose it
(`sample.edit_patching`). Each target still reads its own prompt from the first step on.

Reference: Plug-and-Play Diffusion Features (Tumanyan et al., 2022), arXiv 2211.12572, Section 4,
which injects the features of one decoder layer, and self-attention. Differs from the paper: the
source was generated, and not inverted. And a block's output is taken with its shortcut; the
authors' code takes it without.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.editing.base import BoundEdit, Edit, check_bindable
from imagen_mini.editing.windows import Window, as_window, within
from imagen_mini.models.control import AttentionControl, AttentionSite, BlockSite, both_controls
from imagen_mini.text.encoder import Tokens


@dataclass(frozen=True)
class FeatureInjection(Edit):
    """The targets take what the source's residual blocks return on the decoder's coarsest grid.

    It injects no attention; `Chain(FeatureInjection(), Replace())` does both.

    Args:
        until: Share of the steps in which features are injected, from the first on (default 0.8).
            A pair is a window (start, end). Too long a window keeps the source's shapes.
        size: Features are injected in the decoder on grids of at most size x size. None (the
            default): on the coarsest that has attention.

    Raises:
        ValueError: `until` is out of range, or the network has no attention on so coarse a grid.
    """

    until: Window = 0.8
    size: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "until", as_window(self.until, "until"))

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundFeatureInjection:
        check_bindable(tokens, sites)
        return BoundFeatureInjection(as_window(self.until, "until"), self.grid(sites))

    def grid(self, sites: list[AttentionSite]) -> int:
        """The finest grid on which features are injected, for a network with these sites."""
        coarsest = min(site.size for site in sites)
        if self.size is not None and self.size < coarsest:
            raise ValueError(
                f"FeatureInjection(size={self.size}): the coarsest grid with attention is "
                f"{coarsest} x {coarsest}; pass at least that, or None"
            )
        return coarsest if self.size is None else self.size


@dataclass(frozen=True)
class BoundFeatureInjection(BoundEdit):
    """Feature injection in a window, around what other edits do (by default nothing)."""

    window: tuple[float, float]
    size: int
    inner: BoundEdit = BoundEdit()

    def control_at(self, done: float) -> AttentionControl | None:
        control = self.inner.control_at(done)
        if not within(self.window, done):
            return control
        return both_controls(control, SourceFeatures(self.size))

    def after_denoising(self, x_0_hat: Tensor, done: float) -> Tensor:
        return self.inner.after_denoising(x_0_hat, done)


@dataclass(frozen=True)
class SourceFeatures(AttentionControl):
    """Every row has the features of row 0 in the decoder, on grids of at most `size`."""

    size: int

    def needs_features(self, site: BlockSite) -> bool:
        return site.place_in_unet == "up" and site.size <= self.size

    def modify_features(self, site: BlockSite, x: Tensor) -> Tensor:
        return torch.cat([x[:1]] * len(x))
