"""TODO."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from imagen_mini.editing.prompt_to_prompt import bind
from imagen_mini.models.control import AttnSite, Control
from imagen_mini.text.encoder import Tokens


class Edit:
    """What the pipeline takes as `edit`: anything with this method."""

    def bind(self, tokens: list[Tokens], sites: list[AttnSite], batch_tokens: int) -> BoundEdit:
        """Make the edit ready for prompts (the first is the source) and for a network with these attention sites."""
        return bind([self], tokens, sites, batch_tokens)


class BoundEdit:
    """An edit that knows its prompts: what the pipeline asks at time t. The base class changes nothing."""

    def control_at(self, t: float) -> Control | None:
        """The control of attention that is active."""
        return None

    def after_denoising(self, x_0_hat: Tensor, t: float) -> Tensor:
        """What becomes of x_0_hat [1 + targets, 3, h, w]."""
        return x_0_hat

    @property
    def needs_source(self) -> bool:
        """Must the source be finished before the walk of the targets?"""
        return False

    def look_at(self, source: Tensor, reread: Callable[[float, int], Tensor]) -> None:
        """The finished source (see `blending.DiffBlending`)."""

    def is_one_picture(self, t: float) -> bool:
        """Are source and targets still the same, from x_T on? Then one of them is drawn for all, without control, of the source's prompt."""
        return False
