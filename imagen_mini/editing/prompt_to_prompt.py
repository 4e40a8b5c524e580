"""Prompt-to-Prompt: edit an image by editing its prompt, keeping the attention maps that laid it
out.

Source and target are drawn in one batch from one noise. While the source is drawn, its
cross-attention probabilities replace the target's, word by word; what a word *means* (its values)
stays the target's. Only the conditional branch is touched.

    Replace     a word is swapped for another:   M_t while t is in the window, then M*_t
    Refine      words are added:                 the source's column A(j) where there is one, else the target's own
    Reweight    a word counts more or less:      column j* times c
    LocalBlend  a word's place alone changes:    elsewhere the source's image
    DiffBlend   what the prompts disagree about alone changes

Source: Prompt-to-Prompt (Hertz et al., 2022), Algorithm 1 and Section 3.2; LocalBlend is in its
revised preprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from imagen_mini.editing.alignment import (
    refinement_mapper,
    replaced_words,
    replacement_mapper,
    token_positions,
)
from imagen_mini.editing.base import BoundEdit, Edit, check_bindable
from imagen_mini.editing.blending import Blend, BoundBlend
from imagen_mini.editing.controls import AttentionInjectionControl, SourcePromptControl
from imagen_mini.editing.windows import Window, as_window, within
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import Tokens

WindowByWord = Window | dict[str, Window]
DEFAULT = "default"  # the key of a window for all words that have none of their own


# ---------------------------------------------------------------- what is asked for


@dataclass(frozen=True)
class Chain(Edit):
    """Several edits together: Chain(Replace(), Reweight({"red": 2}), LocalBlend("circle", "star")).
    Their order does not matter: the source's attention comes first, weights act on it, and the
    image that comes of it is blended.
    """

    edits: tuple[Edit, ...]

    def __init__(self, *edits: Edit):
        object.__setattr__(self, "edits", edits)

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundEdit:
        return bind(self.edits, tokens, sites, batch_tokens)


@dataclass(frozen=True)
class AttentionInjection(Edit):
    """What Replace and Refine share: when the source's attention is used in drawing the targets.

    `cross_replace_steps`: during which share of the walk from t = 1 to 0 the source's
    cross-attention is injected: a number f means from 0 to f, a pair is (start, end), and a dict
    gives words of the target windows of their own, {"default": 0.8, "star": 0.3};
    `self_replace_steps`: the same for self-attention, on grids of at most `self_size` x
    `self_size`; `shared_prompt_steps`: the same for reading the source's whole prompt, so that
    source and target share the noisiest part of the walk. Differs from the paper, which has only
    the first two: a small pixel model places things more finely than its attention maps can tell.
    `sample.edit_sweep` shows what other windows do.
    """

    cross_replace_steps: WindowByWord = 1.0
    self_replace_steps: Window = 1.0
    self_size: int = 16
    shared_prompt_steps: Window = 0.9

    def __post_init__(self):
        by_word = (
            self.cross_replace_steps
            if isinstance(self.cross_replace_steps, dict)
            else {DEFAULT: self.cross_replace_steps}
        )
        object.__setattr__(
            self,
            "cross_replace_steps",
            {DEFAULT: (0.0, 0.0)}
            | {word: as_window(w, "cross_replace_steps") for word, w in by_word.items()},
        )
        for name in ("self_replace_steps", "shared_prompt_steps"):
            object.__setattr__(self, name, as_window(getattr(self, name), name))

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundEdit:
        return bind([self], tokens, sites, batch_tokens)

    def matrix(self, source: Tokens, target: Tokens) -> Tensor:
        raise NotImplementedError


class Replace(AttentionInjection):
    """Word swap: the targets differ from the source in single words."""

    def matrix(self, source: Tokens, target: Tokens) -> Tensor:
        replaced_words(source, target)
        return replacement_mapper(source, target)


@dataclass(frozen=True)
class Refine(AttentionInjection):
    """Added (or removed) words: what prompts have in common keeps the source's attention, new words
    have their own.
    """

    self_replace_steps: Window = 0.4

    def matrix(self, source: Tokens, target: Tokens) -> Tensor:
        return refinement_mapper(source, target)


@dataclass(frozen=True)
class Reweight(Edit):
    """Words that count more, less, or against: their columns of attention are multiplied by c, in
    [-2, 2], and not renormalised, as in the paper.

    `weights`: c by word, {"red": 2}, or by number of the word; a list has one c for each target, so
    that one call draws a row of them. `steps`: in which share of the walk. Alone it needs targets
    that read as the source does, and holds on to the source as `Refine(0.8, 0.4,
    shared_prompt_steps=0.5)` would; with a Replace or Refine it acts on what these make, once their
    `shared_prompt_steps` are over. Things that are held on to nearly all the way hardly answer.
    """

    weights: dict[str | int, float | Sequence[float]] = field(default_factory=dict)
    steps: Window = 1.0

    def __post_init__(self):
        object.__setattr__(self, "steps", as_window(self.steps, "steps"))
        if not self.weights:
            raise ValueError("Reweight needs weights, for example Reweight({'red': 2})")
        for word, c in self.weights.items():
            if not all(-2 <= each <= 2 for each in (c if isinstance(c, Sequence) else [c])):
                raise ValueError(
                    f"weight {c!r} of {word!r}: expected numbers from -2 to 2, of which 1 "
                    "changes nothing"
                )

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundEdit:
        return bind([self], tokens, sites, batch_tokens)

    def scale(self, targets: list[Tokens], batch_tokens: int) -> Tensor:
        """The factor of each column, [targets, tokens]."""
        out = torch.ones(len(targets), batch_tokens)
        for word, c in self.weights.items():
            each = c if isinstance(c, Sequence) else [c] * len(targets)
            if len(each) != len(targets):
                raise ValueError(
                    f"{len(each)} weights of {word!r} for {len(targets)} targets: expected one "
                    "each, or a single number"
                )
            for row, tokens, factor in zip(out, targets, each):
                row[token_positions(tokens, word)] *= factor
        return out


def bind(
    edits: Sequence[Edit], tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
) -> BoundEdit:
    """Make edits ready, together, for prompts (the first is the source) and for a network with
    these attention sites.
    """
    check_bindable(tokens, sites)
    injections, weights, blends = (
        [e for e in edits if isinstance(e, kind)] for kind in (AttentionInjection, Reweight, Blend)
    )
    if (
        len(injections) > 1
        or len(blends) > 1
        or len(injections) + len(weights) + len(blends) != len(edits)
        or not edits
    ):
        raise ValueError(
            f"edits {[type(e).__name__ for e in edits]}: expected at most one Replace or "
            "Refine, at most one LocalBlend or DiffBlend, and any number of "
            "Reweight. Refine also aligns prompts in which words were swapped"
        )
    source, targets = tokens[0], tokens[1:]
    if weights and not injections:
        for target in targets:
            if [w.lower() for w in target.words] != [w.lower() for w in source.words]:
                raise ValueError(
                    "Reweight alone needs the same prompt again, but "
                    f"{' '.join(source.words)!r} became {' '.join(target.words)!r}: "
                    "add a Replace() or Refine()"
                )
    bound = BoundEdit()
    if injections or weights:
        injection = injections[0] if injections else Refine(0.8, 0.4, shared_prompt_steps=0.5)
        bound = _bind_attention(injection, weights, source, targets, batch_tokens)
    return BoundBlend(blends[0], blends[0].blending(tokens, sites), bound) if blends else bound


def _bind_attention(
    injection: AttentionInjection,
    weights: Sequence[Reweight],
    source: Tokens,
    targets: Sequence[Tokens],
    batch_tokens: int,
) -> BoundPromptToPrompt:
    """Token matrices, windows and column factors of every target, padded to `batch_tokens`."""
    matrices = torch.zeros(len(targets), batch_tokens, batch_tokens)
    windows = torch.zeros(2, len(targets), batch_tokens)
    for row, target in enumerate(targets):
        own = injection.matrix(source, target)
        matrices[row, : own.shape[0], : own.shape[1]] = own
        windows[:, row] = torch.tensor(injection.cross_replace_steps[DEFAULT])[:, None]
        for word, window in injection.cross_replace_steps.items():
            if word != DEFAULT:
                windows[:, row, token_positions(target, word)] = torch.tensor(window)[:, None]
    return BoundPromptToPrompt(
        injection, matrices, windows, [(w.steps, w.scale(targets, batch_tokens)) for w in weights]
    )


# ---------------------------------------------------------------- what is done


@dataclass(frozen=True)
class BoundPromptToPrompt(BoundEdit):
    """Prompt-to-Prompt, ready."""

    injection: AttentionInjection
    matrices: Tensor  # [targets, source tokens, target tokens]
    windows: Tensor  # [2, targets, target tokens]: start and end of injection
    # window, and factors [targets, target tokens]
    weights: list[tuple[tuple[float, float], Tensor]]

    def rows_identical(self, t: float) -> bool:
        """One noise and one prompt give one image: as long as `shared_prompt_steps` last, if they
        began at the start.
        """
        return self.injection.shared_prompt_steps[0] == 0 and bool(
            within(self.injection.shared_prompt_steps, t)
        )

    def control_at(self, t: float) -> AttentionControl | None:
        # source and targets read one prompt: their maps are the same
        if within(self.injection.shared_prompt_steps, t):
            return SourcePromptControl()
        scale = torch.ones(self.windows.shape[1:])
        for window, factors in self.weights:
            scale = scale * factors if within(window, t) else scale
        injected = within(self.windows, t) & (self.matrices.sum(1) > 0)
        own = bool(within(self.injection.self_replace_steps, t))
        cross = bool(injected.any() or (scale != 1).any())
        return (
            AttentionInjectionControl(
                self.matrices, injected, scale, cross, own, self.injection.self_size
            )
            if cross or own
            else None
        )
