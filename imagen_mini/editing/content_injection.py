"""Content injection: an image with the content of one sample and the style of another one, by
mixing the features in the middle of the U-Net.

    h_c, h_s    features of the content and of the style image, after the last block of the middle
    h         = |h_s| slerp(h_s / |h_s|, h_c / |h_c|, share)
    x_s       = alpha_s x_0_hat(x_t | h) + sigma_s eps_hat(x_t | h_s)

The middle of the network carries what an image shows, and its skip connections carry how it looks.
So the style image is sampled with the middle of the content image, by the asymmetric step of
`h_space`. Both are sampled side by side in one batch: the first half of the rows are content
images, which stay what they are; the second half are style images, of which each takes from its
partner.

Reference: Training-free Content Injection using h-space in Diffusion Models (Jeong et al., 2024),
arXiv 2303.15403. Differs from the paper: there is no calibration of the latent after each step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.models.control import AttentionControl, BlockSite


def slerp_features(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Features on the way between two, along a sphere: their length stays that of the first ones.

        h = |a| (sin((1 - share) angle) a / |a| + sin(share angle) b / |b|) / sin(angle)

    A straight mixture would be shorter than both, and networks notice.

    Args:
        start: a, [b, c, g, g].
        end: b, of the same shape.
        share: from 0, which is `start`, to 1, which is `end` with the length of `start`.

    Returns:
        [b, c, g, g].
    """
    wide = torch.promote_types(start.dtype, torch.float32)
    a, b = (x.flatten(1).to(wide) for x in (start, end))
    length = a.norm(dim=1, keepdim=True)
    a, b = a / length, b / b.norm(dim=1, keepdim=True)
    angle = (a * b).sum(1, keepdim=True).clamp(-1, 1).arccos()
    # of parallel features the limit of the formula, a straight line
    small = angle.sin().abs() < 1e-6
    sine = torch.where(small, torch.ones_like(angle), angle.sin())
    of_a = torch.where(small, 1 - share, ((1 - share) * angle).sin() / sine)
    of_b = torch.where(small, share, (share * angle).sin() / sine)
    return (length * (of_a * a + of_b * b)).reshape(start.shape).to(start)


@dataclass(frozen=True)
class MixFeatures(AttentionControl):
    """A control that gives the second half of a batch features of the first half, in one block.

    Attributes:
        site: The block.
        share: As of `slerp_features`: 0 changes nothing.
    """

    site: BlockSite
    share: float

    def needs_features(self, site: BlockSite) -> bool:
        return site == self.site

    def modify_features(self, site: BlockSite, x: Tensor) -> Tensor:
        content, style = x.chunk(2)
        return torch.cat([content, slerp_features(style, content, self.share)])
