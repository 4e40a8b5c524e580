"""What edits do inside the network: the source's prompt for all, and the source's attention.

Row 0 of the batch is the source. `imagen_mini.editing.prompt_switching` and
`imagen_mini.editing.prompt_to_prompt` decide when each control is active; the latter computes the
mappers.

Reference: Prompt-to-Prompt (Hertz et al., 2022), arXiv 2208.01626, Section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import TextEmbeddings


class SourcePromptControl(AttentionControl):
    """Every row of the batch has the prompt of row 0."""

    changes_text = True

    def modify_text(self, text: TextEmbeddings) -> TextEmbeddings:
        return TextEmbeddings(text.emb[:1].expand_as(text.emb), text.mask[:1].expand_as(text.mask))


@dataclass(frozen=True)
class AttentionInjectionControl(AttentionControl):
    """The targets take the source's attention, then columns are scaled:

        M_target <- equalizer * (M_source @ mapper   where injected, else M_target)

    Args:
        mappers: [targets, source tokens, target tokens]: which source token a target token takes
            its column from (see `editing.alignment`).
        injected: Bool [targets, target tokens]: the columns that are taken.
        equalizer: Factors of the columns, [targets, target tokens].
        inject_cross: Is anything done in attention to words?
        inject_self: Do the targets take the source's self-attention?
        self_size: Self-attention is taken on grids of at most this size.
    """

    mappers: Tensor
    injected: Tensor
    equalizer: Tensor
    inject_cross: bool
    inject_self: bool
    self_size: int

    def needs_probs(self, site: AttentionSite) -> bool:
        if site.kind == "self":
            return self.inject_self and site.size <= self.self_size
        return self.inject_cross

    def modify_probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        if site.kind == "self":
            return probs[:1].expand_as(probs)
        # 1. the source's columns, in the order of each target's tokens
        source, target = probs[0, :, :, :n_text], probs[1:, :, :, :n_text]
        mapped = torch.einsum("hps,bst->bhpt", source, self.mappers.to(probs))
        # 2. injected columns instead of the target's, and the factors
        injected = self.injected[:, None, None].to(probs.device)
        words = torch.where(injected, mapped, target) * self.equalizer[:, None, None].to(probs)
        # 3. pixels' columns (hybrid attention) stay the target's
        return torch.cat([probs[:1], torch.cat([words, probs[1:, :, :, n_text:]], dim=-1)])
