"""The two halves of every edit: what is asked for, and the same once it knows its prompts.

An edit reaches the network through a control of attention, and the sampler through what becomes of
x_0_hat. Nothing else is changed, so a new edit is two small classes and no change to the pipeline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import Tokens


class Edit(ABC):
    """What the pipeline takes as `edit`: anything with this method."""

    @abstractmethod
    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundEdit:
        """Make the edit ready for prompts (the first is the source) and for a network with these
        attention sites.
        """


class BoundEdit:
    """An edit that knows its prompts: what the pipeline asks at time t. The base class changes
    nothing.
    """

    def control_at(self, t: float) -> AttentionControl | None:
        """The control of attention that is active."""
        return None

    def after_denoising(self, x_0_hat: Tensor, t: float) -> Tensor:
        """What becomes of x_0_hat [1 + targets, 3, h, w]."""
        return x_0_hat

    @property
    def needs_source(self) -> bool:
        """Must the source be finished before the walk of the targets?"""
        return False

    def set_source(
        self, source: Tensor, renoise_and_denoise: Callable[[float, int], Tensor]
    ) -> None:
        """The finished source (see `blending.DiffEditBlender`)."""

    def rows_identical(self, t: float) -> bool:
        """Are source and targets still the same, from x_T on? Then one of them is drawn for all,
        without control, of the source's prompt.
        """
        return False


def check_bindable(tokens: Sequence[Tokens], sites: Sequence[AttentionSite]) -> None:
    """ValueError unless there is a source, a target and a network that attends to words."""
    if len(tokens) < 2:
        raise ValueError(
            f"an edit needs a source and at least one target prompt; got {len(tokens)} prompt"
        )
    if not any(s.kind in ("cross", "hybrid") for s in sites):
        raise ValueError("this network has no attention to words, so the edit would change nothing")
