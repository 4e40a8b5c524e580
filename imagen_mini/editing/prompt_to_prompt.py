"""Prompt-to-Prompt: edit an image by editing its prompt, with the attention maps that laid it out.

Source and target are sampled in one batch, from one noise. The source's cross-attention
probabilities M_t replace the target's M*_t, word by word. What a word *means* (its values) stays
the target's. Only the conditional branch is touched.

    Replace     a word is swapped for another:   M_t while t is in the window, then M*_t
    Refine      words are added:                 column A(j) of M_t where there is one, else of M*_t
    Reweight    a word counts more or less:      column j* times c
    Chain       several of these, prompt switching (`editing.prompt_switching`), and a blend
                (`editing.blending`)

These three inject attention and do nothing else. How much of an edit is due to that, and what
prompt switching reaches without it, is measured in sample/EDITING.md.

Reference: Prompt-to-Prompt (Hertz et al., 2022), arXiv 2208.01626, Algorithm 1 and Section 3.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import cast

import torch
from torch import Tensor

from imagen_mini.editing.alignment import (
    refinement_mapper,
    replaced_words,
    replacement_mapper,
    token_positions,
)
from imagen_mini.editing.base import BoundEdit, Edit, check_bindable, check_is_edit
from imagen_mini.editing.blending import Blend, BoundBlend, DiffEditMask
from imagen_mini.editing.controls import AttentionInjectionControl
from imagen_mini.editing.feature_injection import BoundFeatureInjection, FeatureInjection
from imagen_mini.editing.prompt_switching import BoundPromptSwitching, PromptSwitching
from imagen_mini.editing.windows import Window, as_window, within, within_each
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import Tokens

WindowByWord = Window | dict[str, Window]
DEFAULT_SELF_STEPS = 0.4  # the window of self-attention where none is given
DEFAULT = "default"  # the key of the window of all words that are not named


@dataclass(frozen=True)
class Chain(Edit):
    """Several edits together, for example
    `Chain(Replace(), Reweight({"red": 2}), LocalBlend("circle", "star"))`.

    Their order does not matter. While the prompt is shared (PromptSwitching), nothing else is done.
    Then the source's attention and features are injected, columns are scaled, and the image that
    comes of it is blended.

    Args:
        edits: At most one each of PromptSwitching, FeatureInjection, Replace or Refine, and a
            blend; any number of Reweight; and other chains of these.
    """

    edits: tuple[Edit, ...]

    def __init__(self, *edits: Edit):
        for one in edits:
            if isinstance(one, type):  # Replace for Replace()
                check_is_edit(one)
        # a chain within a chain stands for its edits
        edits = tuple(e for x in edits for e in (x.edits if isinstance(x, Chain) else (x,)))
        object.__setattr__(self, "edits", edits)
        shared = next((e.until for e in edits if isinstance(e, PromptSwitching)), None)
        if shared is not None:
            for injection in (e for e in edits if isinstance(e, AttentionInjection)):
                _warn_of_windows_without_effect(injection, as_window(shared, "until"), 3)

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundEdit:
        return bind(self.edits, tokens, sites, batch_tokens)


@dataclass(frozen=True)
class AttentionInjection(Edit):
    """What Replace and Refine share: in which steps the targets take the source's attention.

    All windows are shares of the steps, from the first to the last: a number f means from 0 to f,
    and a pair is (start, end). See `editing.windows`. `sample.edit_sweep` measures other windows.

    Args:
        cross_replace_steps: Window of the cross-attention (default 0.8). A dict gives words of the
            target a window each, `{"default": 0.8, "star": 0.3}`; without "default" the other words
            are not injected.
        self_replace_steps: Window of the self-attention. None (the default) is 0.4.
        self_size: Self-attention is injected on grids of at most `self_size` x `self_size`
            (default 16).
        shared_prompt_steps: `Replace(shared_prompt_steps=f)` is the former way to write
            `Chain(PromptSwitching(f), Replace())` (default 0.0: no prompt switching).

    Both defaults are those of the authors' code. The source's maps late in the trajectory damage
    what is edited (sample/EDITING.md).

    While the prompt is shared, all maps are the source's already. A window that lies inside of that
    time has no effect, and a warning says so. To inject attention from the switch to the last step,
    write `Chain(PromptSwitching(0.8), Replace(1.0))`.

    Raises:
        ValueError: A window is out of range.
    """

    cross_replace_steps: WindowByWord = 0.8
    self_replace_steps: Window | None = None
    self_size: int = 16
    shared_prompt_steps: Window = 0.0

    def __post_init__(self):
        windows = self.cross_replace_steps
        windows = windows if isinstance(windows, dict) else {DEFAULT: windows}
        windows = {word: as_window(w, "cross_replace_steps") for word, w in windows.items()}
        object.__setattr__(self, "cross_replace_steps", {DEFAULT: (0.0, 0.0)} | windows)
        shared = as_window(self.shared_prompt_steps, "shared_prompt_steps")
        object.__setattr__(self, "shared_prompt_steps", shared)
        if self.self_replace_steps is not None:
            own = as_window(self.self_replace_steps, "self_replace_steps")
            object.__setattr__(self, "self_replace_steps", own)
        _warn_of_windows_without_effect(self, shared, 4)  # past the generated __init__

    @property
    def self_window(self) -> tuple[float, float]:
        """The window of the self-attention."""
        given = self.self_replace_steps
        return as_window(DEFAULT_SELF_STEPS if given is None else given, "self_replace_steps")

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundEdit:
        return bind([self], tokens, sites, batch_tokens)

    def token_mapper(self, source: Tokens, target: Tokens) -> Tensor:
        """Which source token each target token takes its column from: [source tokens, target
        tokens]. Weights are in [0, 1]. A column is all zero where nothing corresponds to its token;
        the row of a token that has a counterpart adds up to 1.
        """
        raise NotImplementedError


def _warn_of_windows_without_effect(
    injection: AttentionInjection, shared: tuple[float, float], stacklevel: int
) -> None:
    """Warn of windows in which all maps are the source's anyway, because the prompt is shared."""
    given: dict[str, Window | None] = {"self_replace_steps": injection.self_replace_steps}
    for word, window in cast(dict[str, Window], injection.cross_replace_steps).items():
        of = "" if word == DEFAULT else f" of {word!r}"
        given[f"cross_replace_steps{of}"] = window
    for name, of_maps in given.items():
        start, end = (0.0, 0.0) if of_maps is None else as_window(of_maps, name)
        if start < end and shared[0] <= start and end <= shared[1] < 1:
            warnings.warn(
                f"{name}={(start, end)} has no effect: source and target share the prompt in "
                f"{shared}. Pass a window that ends later than {shared[1]:g}, or switch prompts "
                "earlier",
                stacklevel=stacklevel,
            )


class Replace(AttentionInjection):
    """Word swap: the targets differ from the source in single words.

    `pipe([source, target], edit=Replace())` returns the source's image, then the target's. For the
    arguments see `AttentionInjection`.
    """

    def token_mapper(self, source: Tokens, target: Tokens) -> Tensor:
        replaced_words(source, target)  # a ValueError if more than words were swapped
        return replacement_mapper(source, target)


@dataclass(frozen=True)
class Refine(AttentionInjection):
    """Added (or removed) words: common words keep the source's attention, new words have the
    target's. For the arguments see `AttentionInjection`.
    """

    def token_mapper(self, source: Tokens, target: Tokens) -> Tensor:
        return refinement_mapper(source, target)


@dataclass(frozen=True)
class Reweight(Edit):
    """Words that count more, less, or against: their columns of attention are multiplied by c and
    not renormalised, as in the paper.

    Alone it needs targets with the same words as the source, and injects attention as `Refine()`
    would. From the first step on, a weight may change all that depends on the word: where an object
    is, even its shape. With a PromptSwitching it scales only after the switch: the later that is,
    the less it changes. With a Replace or Refine it scales what these make.

    Args:
        weights: c in [-2, 2] by word, `{"red": 2}`, or by the number of the word. A list has one c
            for each target, so that one call samples a row of them. 1 changes nothing.
        steps: Window of the steps in which columns are scaled (default 1.0, all of them).

    Raises:
        ValueError: No weights, or one out of range.
    """

    weights: dict[str | int, float | Sequence[float]] = field(default_factory=dict)
    steps: Window = 1.0

    def __post_init__(self):
        object.__setattr__(self, "steps", as_window(self.steps, "steps"))
        if not self.weights:
            raise ValueError("Reweight needs weights, for example Reweight({'red': 2})")
        if not isinstance(self.weights, dict):
            raise TypeError(f"weights {self.weights!r}; expected a dict such as {{'red': 2}}")
        for word, c in self.weights.items():
            several = c if isinstance(c, Sequence) else [c]
            if not all(isinstance(each, Real) for each in several):
                raise TypeError(f"weight of {word!r}: expected numbers; got {c!r}")
            if not all(-2 <= each <= 2 for each in several):
                raise ValueError(
                    f"weight {c!r} of {word!r}: expected numbers from -2 to 2, of which 1 "
                    "changes nothing"
                )

    def bind(
        self, tokens: list[Tokens], sites: list[AttentionSite], batch_tokens: int
    ) -> BoundEdit:
        return bind([self], tokens, sites, batch_tokens)

    def equalizer(self, targets: Sequence[Tokens], batch_tokens: int) -> Tensor:
        """The factor of each column, [targets, batch_tokens]."""
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
    """Make edits ready, together, for prompts and for a network.

    Args:
        edits: What a `Chain` takes.
        tokens: The prompts, the source first.
        sites: The attention layers of the network.
        batch_tokens: Tokens to which the prompts are padded in the batch.

    Raises:
        ValueError: The edits do not go together, or do not fit the prompts or the network.
    """
    # 1. which edits there are
    check_bindable(tokens, sites)
    combine = (PromptSwitching, AttentionInjection, Reweight, Blend, FeatureInjection)
    for edit in edits:
        if isinstance(edit, Edit) and not isinstance(edit, combine):
            if len(edits) == 1:
                return edit.bind(tokens, sites, batch_tokens)
            raise ValueError(
                f"{type(edit).__name__} does not combine with other edits: pass it alone"
            )
    switches = [e for e in edits if isinstance(e, PromptSwitching)]
    injections = [e for e in edits if isinstance(e, AttentionInjection)]
    weights = [e for e in edits if isinstance(e, Reweight)]
    blends = [e for e in edits if isinstance(e, Blend)]
    features = [e for e in edits if isinstance(e, FeatureInjection)]
    of_each = len(switches), len(features), len(injections), len(blends)
    if max(of_each) > 1 or sum(of_each) + len(weights) != len(edits) or not edits:
        raise ValueError(
            f"edits {[type(e).__name__ for e in edits]}: expected at most one Replace or "
            "Refine, at most one LocalBlend or DiffEditMask, at most one PromptSwitching, at most "
            "one FeatureInjection, and any number of Reweight. Refine also aligns prompts in "
            "which words were swapped"
        )
    shared = [as_window(e.until, "until") for e in switches]
    for injection in injections:
        window = as_window(injection.shared_prompt_steps, "shared_prompt_steps")
        if window[1] > window[0] and shared:
            raise ValueError(
                f"shared_prompt_steps={window} of {type(injection).__name__} and "
                f"PromptSwitching({shared[0]}) both say when prompts are switched: leave out "
                "shared_prompt_steps"
            )
        shared += [window] if window[1] > window[0] else []

    # 2. Reweight: the same words if it is alone, and no mask of what other words change
    source, targets = tokens[0], tokens[1:]
    for target in targets if weights else ():
        same = [w.lower() for w in target.words] == [w.lower() for w in source.words]
        if not same and not injections:
            raise ValueError(
                "Reweight alone needs the same prompt again, but "
                f"{' '.join(source.words)!r} became {' '.join(target.words)!r}: "
                "add a Replace() or Refine()"
            )
        if same and any(isinstance(blend, DiffEditMask) for blend in blends):
            raise ValueError(
                f"source and target both read {' '.join(source.words)!r}, so DiffEditMask finds "
                "nowhere that they disagree, and Reweight could change nothing: take LocalBlend "
                "with the word"
            )

    # 3. what happens in attention and to features; around it the switch of prompts, then the blend
    bound = BoundEdit()
    if injections or weights:
        injection = injections[0] if injections else Refine()
        bound = _bind_attention(injection, weights, source, targets, batch_tokens)
    if features:
        window = as_window(features[0].until, "until")
        bound = BoundFeatureInjection(window, features[0].grid(sites), bound)
    if shared:
        bound = BoundPromptSwitching(shared[0], bound)
    return BoundBlend(blends[0], blends[0].blender(tokens, sites), bound) if blends else bound


def _bind_attention(
    injection: AttentionInjection,
    weights: Sequence[Reweight],
    source: Tokens,
    targets: Sequence[Tokens],
    batch_tokens: int,
) -> BoundPromptToPrompt:
    """Mappers, windows and column factors of every target, padded to `batch_tokens`."""
    mappers = torch.zeros(len(targets), batch_tokens, batch_tokens)
    windows = torch.zeros(2, len(targets), batch_tokens)
    by_word = cast(dict[str, tuple[float, float]], injection.cross_replace_steps)
    for row, target in enumerate(targets):
        mapper = injection.token_mapper(source, target)
        mappers[row, : mapper.shape[0], : mapper.shape[1]] = mapper
        windows[:, row] = torch.tensor(by_word[DEFAULT])[:, None]
        for word, window in by_word.items():
            if word != DEFAULT:
                windows[:, row, token_positions(target, word)] = torch.tensor(window)[:, None]
    return BoundPromptToPrompt(
        injection,
        mappers,
        windows,
        [(as_window(w.steps, "steps"), w.equalizer(targets, batch_tokens)) for w in weights],
    )


@dataclass(frozen=True)
class BoundPromptToPrompt(BoundEdit):
    """Prompt-to-Prompt that knows its prompts.

    Args:
        injection: The windows.
        mappers: [targets, source tokens, target tokens].
        windows: [2, targets, target tokens]: start and end of injection.
        weights: For each Reweight its window, and its factors [targets, target tokens].
    """

    injection: AttentionInjection
    mappers: Tensor
    windows: Tensor
    weights: list[tuple[tuple[float, float], Tensor]]

    def control_at(self, done: float) -> AttentionControl | None:
        # 1. which columns are injected, and their factors
        injected = within_each(self.windows, done) & (self.mappers.sum(1) > 0)
        equalizer = torch.ones(self.windows.shape[1:])
        for window, factors in self.weights:
            equalizer = equalizer * factors if within(window, done) else equalizer
        # 2. a control, if there is anything to do
        inject_cross = bool(injected.any() or (equalizer != 1).any())
        inject_self = within(self.injection.self_window, done)
        if not inject_cross and not inject_self:
            return None
        return AttentionInjectionControl(
            self.mappers,
            injected,
            equalizer,
            inject_cross,
            inject_self,
            self.injection.self_size,
        )
