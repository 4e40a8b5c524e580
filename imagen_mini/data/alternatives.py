"""Training on mixtures of images, which only a world with a renderer can do.

A sampling trajectory passes through images in which x_0_hat has not yet decided which object
stands where. Plain training never shows such images to the network. The built-in world knows for
each caption a second scene that it describes equally well (`scenes.equivalents`) and one that
contradicts it (`scenes.contradictions`), so it can show images between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MIX_BELOW_LOG_SNR = 1.0  # above this log-SNR a sampling trajectory has decided everything


class Alternatives(NamedTuple):
    """Two other images for each image, or the image itself where there is none of a kind."""

    # [b, 3, size, size]: the caption describes it equally well (see `scenes.equivalents`)
    equivalents: Tensor
    # [b, 1, size, size]: 1 on the side of the first of the two places in which these differ, else 0
    side: Tensor
    # [b, 3, size, size]: it contradicts the caption (see `scenes.contradictions`)
    contradictions: Tensor


@dataclass(frozen=True)
class AlternativeMixing:
    """The `LossExtras` of the built-in world.

    Args:
        equivalent_prob: How many images are mixed with an equivalent one, in [0, 1].
        contradiction_prob: How many are mixed with one that contradicts the caption, in [0, 1].
    """

    equivalent_prob: float
    contradiction_prob: float

    def draw(self, batch_size: int, generator: torch.Generator, dropped: Tensor) -> dict:
        """How far each image is on its way, in [0, 1]: "equivalent_mix" [b, 2] towards an
        equivalent, "contradiction" [b] towards a contradiction. An image without its caption
        contradicts nothing.
        """
        b, g = batch_size, generator
        which = torch.rand(b, 1, generator=g)
        equivalent = which < self.equivalent_prob
        contradicts = ~equivalent & (which < self.equivalent_prob + self.contradiction_prob)
        mix = equivalent_mix_weights(b, g)
        contradiction = torch.where(
            torch.rand(b, generator=g) < 0.5, 1.0, torch.rand(b, generator=g)
        )
        return {
            "equivalent_mix": mix * equivalent,
            "contradiction": contradiction * contradicts.squeeze(1) * ~dropped,
        }

    def loss_inputs(
        self, x_0: Tensor, extra: Alternatives, variables: dict[str, Tensor], log_snr: Tensor
    ) -> dict[str, Tensor]:
        """`mix_alternatives` with this step's weights."""
        return mix_alternatives(
            x_0, extra, variables["equivalent_mix"], variables["contradiction"], log_snr
        )


def equivalent_mix_weights(b: int, g: torch.Generator) -> Tensor:
    """Weights [b, 2] in [0, 1]. Half of the time one place is half way and the other stays as it
    is; otherwise both are anywhere.
    """
    one = torch.eye(2)[torch.randint(2, (b,), generator=g)] / 2
    return torch.where(torch.rand(b, 1, generator=g) < 0.5, one, torch.rand(b, 2, generator=g))


def mix_alternatives(
    x_0: Tensor,
    alternatives: Alternatives,
    equivalent_mix: Tensor,
    contradiction: Tensor,
    log_snr: Tensor,
) -> dict[str, Tensor]:
    """The image to be noised instead of x_0, and the second image that is as likely as x_0.

    Towards an equivalent image, each of the two places has its own weight. Where one place is half
    way, only the other place tells what belongs there. Towards a contradiction, the full image has
    one weight, and the target stays x_0. Above `MIX_BELOW_LOG_SNR` the image to be noised is x_0.

    Args:
        x_0: Images [b, 3, h, w].
        alternatives: Their alternatives.
        equivalent_mix: [b, 2] in [0, 1], how far each place is towards the equivalent image.
        contradiction: [b] in [0, 1], how far the image is towards the contradiction.
        log_snr: [b].

    Returns:
        "noised_image" and "alternative_x_0" for `DiffusionStage.loss`, both [b, 3, h, w].
    """
    undecided = (log_snr < MIX_BELOW_LOG_SNR).to(x_0.dtype)[:, None, None, None]
    first, second = equivalent_mix[:, :, None, None, None].unbind(1)
    contradiction = contradiction[:, None, None, None]
    # 1. towards the equivalent image, each side with its own weight
    side_weight = torch.lerp(second, first, alternatives.side)
    noised = torch.lerp(x_0, alternatives.equivalents, undecided * side_weight)
    # 2. towards the contradiction
    noised = torch.lerp(noised, alternatives.contradictions, undecided * contradiction)
    return {
        "noised_image": noised,
        "alternative_x_0": torch.where(contradiction > 0, x_0, alternatives.equivalents),
    }
