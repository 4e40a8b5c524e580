"""The two halves of every edit: what is asked for, and the same once it knows its prompts.

An edit reaches the network through a control of attention and block features, and the sampler
through what becomes of x_0_hat. Nothing else is changed. So a new edit is two small classes, and no
change to the pipeline:

    class MyEdit(Edit):                       # what the user writes: edit=MyEdit(strength=0.5)
        def bind(self, tokens, sites, batch_tokens):
            check_bindable(tokens, sites)
            return MyBoundEdit(...)           # knows the prompts and the network

    class MyBoundEdit(BoundEdit):
        def control_at(self, done):           # which control is active in a step, or None
            return MyControl(...) if done < 0.5 else None    # a subclass of AttentionControl
        def after_denoising(self, x_0_hat, done):            # what the sampler takes as estimate
            return x_0_hat.clamp(-1, 1)

Both methods are optional. `done` is the share of the steps that are done: 0 in the first one, i / n
in step i of n. Before you write a control, read `models.control.AttentionControl`: its
methods return their result and store nothing in the network. Rows are independent samples: row 0 is
the source, row i target number i. Then `pipe([source, target], edit=MyEdit(...))` runs it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import Tokens


class Edit(ABC):
    """What the pipeline takes as `edit`. Source and targets are sampled in one batch, from one
    noise; row 0 is the source.
    """

    @abstractmethod
    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundEdit:
        """Make the edit ready for prompts and for a network.

        Args:
            tokens: The prompts, the source first.
            sites: The attention layers of the network.
            batch_tokens: Tokens to which the prompts are padded in the batch.

        Raises:
            ValueError: The edit does not fit the prompts or the network.
        """


class BoundEdit:
    """An edit that knows its prompts: what the pipeline asks in each step. The base class changes
    nothing, so a subclass overrides only what it needs. `done` is the share of the steps that are
    done, in [0, 1).
    """

    def control_at(self, done: float) -> AttentionControl | None:
        """The control that is active in the conditional branch in this step, or None."""
        return None

    def after_denoising(self, x_0_hat: Tensor, done: float) -> Tensor:
        """What becomes of the estimate x_0_hat [1 + targets, 3, h, w] in this step."""
        return x_0_hat

    @property
    def controls_both_branches(self) -> bool:
        """Does the control belong in the unconditional branch as well? Only `pipe.edit` asks."""
        return False

    @property
    def needs_source(self) -> bool:
        """Must the source be finished before the targets are sampled?"""
        return False

    def set_source(
        self, source: Tensor, renoise_and_denoise: Callable[[float, int], Tensor]
    ) -> None:
        """Take the finished source. Called before sampling if `needs_source`.

        Args:
            source: The source's image, [1, 3, h, w] in [-1, 1].
            renoise_and_denoise: A function of a time t and the number i of a noise: x_0_hat
                [1 + targets, 3, h, w] by every prompt, of the source noised to time t.
        """

    def rows_identical(self, done: float) -> bool:
        """Are source and targets still the same image, from x_T to this step? Then the pipeline
        samples one row for all, with the source's prompt and without a control.
        """
        return False


def check_is_edit(one: object) -> None:
    """Raise TypeError unless this is an edit: not the class of one, nor anything else."""
    named = isinstance(one, type) and issubclass(one, Edit)
    if named or not callable(getattr(one, "bind", None)):
        name = one.__name__ if isinstance(one, type) else repr(one)
        raise TypeError(
            f"edit={name}: expected an edit such as {name + '(...)' if named else 'Replace()'}, "
            "from imagen_mini.prompt_to_prompt, or a list of edits"
        )


def check_bindable(tokens: Sequence[Tokens], sites: Sequence[AttentionSite]) -> None:
    """Raise ValueError unless there is a source, a target and a network that attends to words."""
    if len(tokens) < 2:
        raise ValueError(
            f"an edit needs a source and at least one target prompt; got {len(tokens)} prompt"
        )
    if not any(s.kind in ("cross", "hybrid") for s in sites):
        raise ValueError("this network has no attention to words, so the edit would change nothing")
