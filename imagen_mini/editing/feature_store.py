"""The features of residual blocks, recorded while a network denoises."""

from __future__ import annotations

from torch import Tensor

from imagen_mini.models.control import AttentionControl, BlockSite


class FeatureStore(AttentionControl):
    """Keeps what every residual block of one part of the network returns, and changes nothing.

    Args:
        place_in_unet: "down", "mid" or "up" (default: the decoder).

    Attributes:
        features: By name of the block, in the order of the network, [b, c, size, size] of the last
            call.
    """

    def __init__(self, place_in_unet: str = "up"):
        if place_in_unet not in ("down", "mid", "up"):
            raise ValueError(f"place_in_unet {place_in_unet!r}; expected 'down', 'mid' or 'up'")
        self.place_in_unet = place_in_unet
        self.features: dict[str, Tensor] = {}

    def needs_features(self, site: BlockSite) -> bool:
        return site.place_in_unet == self.place_in_unet

    def modify_features(self, site: BlockSite, x: Tensor) -> Tensor:
        self.features[site.name] = x.detach()
        return x
