"""What Prompt-to-Prompt does inside attention: its two controls.

Row 0 of the batch is the source. `imagen_mini.prompt_to_prompt` decides when each is active, and
makes the matrices.

Source: Prompt-to-Prompt (Hertz et al., 2022), Section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import TextEmbeddings


class SourcePromptControl(AttentionControl):
    """Every row of the batch reads the prompt of row 0."""

    def modify_text(self, text: TextEmbeddings) -> TextEmbeddings:
        return TextEmbeddings(text.emb[:1].expand_as(text.emb), text.mask[:1].expand_as(text.mask))


@dataclass(frozen=True)
class AttentionInjectionControl(AttentionControl):
    """Row 0 of the batch is the source; the other rows take its probabilities, column by column
    through `matrices`, where `injected` [targets, tokens] says so; then columns are multiplied by
    `scale` [targets, tokens].
    """

    matrices: Tensor
    injected: Tensor
    scale: Tensor
    cross: bool
    own: bool
    self_size: int

    def needs_probs(self, site: AttentionSite) -> bool:
        return self.own and site.size <= self.self_size if site.kind == "self" else self.cross

    def modify_probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        if site.kind == "self":
            return probs[:1].expand_as(probs)
        of_source = torch.einsum("hps,bst->bhpt", probs[0, :, :, :n_text], self.matrices.to(probs))
        words = torch.where(
            self.injected[:, None, None].to(probs.device), of_source, probs[1:, :, :, :n_text]
        ) * self.scale[:, None, None].to(probs)
        return torch.cat([probs[:1], torch.cat([words, probs[1:, :, :, n_text:]], dim=-1)])
