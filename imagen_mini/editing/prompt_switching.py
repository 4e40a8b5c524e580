"""Prompt switching: the targets read the source's prompt first and their own afterwards.

Until the switch, source and targets are one image. So the switch keeps all of the source that is
settled by then, and touches no attention. It is the control that a claim about attention needs: how
far does an edit come without it? It is close to SDEdit, which noises a finished image and denoises
it with a new prompt. Here x_t is that of the source's own trajectory.

Reference: eDiff-I (Balaji et al., 2022), arXiv 2211.01324, which switches prompts to find out when
a prompt acts.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from imagen_mini.editing.base import BoundEdit, Edit, check_bindable
from imagen_mini.editing.controls import SourcePromptControl
from imagen_mini.editing.windows import Window, as_window, within
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import Tokens


@dataclass(frozen=True)
class PromptSwitching(Edit):
    """The targets read the source's prompt in the first share of the steps, and their own in the
    rest. Alone it injects no attention; `Chain(PromptSwitching(0.8), Replace(1.0))` does so after
    the switch.

    Args:
        until: Share of the steps at which the prompts are switched, from 0 (never: the target with
            the source's seed) to 1 (the target is the source); default 0.8. A pair is a window
            (start, end).

    Raises:
        ValueError: `until` is out of range.
    """

    until: Window = 0.8

    def __post_init__(self):
        object.__setattr__(self, "until", as_window(self.until, "until"))

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundPromptSwitching:
        check_bindable(tokens, sites)
        return BoundPromptSwitching(as_window(self.until, "until"))


@dataclass(frozen=True)
class BoundPromptSwitching(BoundEdit):
    """Prompt switching in a window, around what other edits do after it (by default nothing)."""

    window: tuple[float, float]
    inner: BoundEdit = BoundEdit()

    def control_at(self, done: float) -> AttentionControl | None:
        if within(self.window, done):
            return SourcePromptControl()
        return self.inner.control_at(done)

    def after_denoising(self, x_0_hat: Tensor, done: float) -> Tensor:
        return self.inner.after_denoising(x_0_hat, done)

    def rows_identical(self, done: float) -> bool:
        """One noise and one prompt give one image: as long as the prompt is shared, if it was from
        the start.
        """
        return self.window[0] == 0 and within(self.window, done)
