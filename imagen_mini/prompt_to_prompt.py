"""Prompt-to-Prompt: edit a picture by editing its prompt, keeping the attention maps that laid it out.

Source and target are drawn in one batch from one noise. While the source is drawn, its cross-attention probabilities replace the target's, word by
word; what a word *means* (its values) stays the target's. Only the conditional branch is touched.

    Replace     a word is swapped for another:   M_t while t is in the window, then M*_t
    Refine      words are added:                 the source's column A(j) where there is one, else the target's own
    Reweight    a word counts more or less:      column j* times c

Source: Prompt-to-Prompt (Hertz et al., 2022), Algorithm 1 and Section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .alignment import find_word, refinement_matrix, replaced_words, replacement_matrix
from .attention import AttnSite, Control
from .text import Text, Tokens

Window = float | tuple[float, float]
WindowByWord = Window | dict[str, Window]
DEFAULT = "default"                                    # the key of a window for all words that have none of their own


def _window(window: Window, name: str) -> tuple[float, float]:
    start, end = (0.0, window) if isinstance(window, (int, float)) else window
    if not 0 <= start <= end <= 1:
        raise ValueError(f"{name}={window!r}: expected a share of the steps from 0 to 1, or a pair (start, end) of such")
    return float(start), float(end)


# ---------------------------------------------------------------- what is asked for

class Edit:
    """What the pipeline takes as `edit`: anything with this method."""

    def bind(self, tokens: list[Tokens], sites: list[AttnSite], batch_tokens: int) -> Bound:
        """Make the edit ready for prompts (the first is the source) and for a network with these attention sites."""
        return bind([self], tokens, sites, batch_tokens)


@dataclass(frozen=True)
class Chain(Edit):
    """Several edits together: Chain(Replace(), Reweight({"red": 2})). Their order does not matter: the source's attention comes first, weights act on it."""

    edits: tuple[Edit, ...]

    def __init__(self, *edits: Edit):
        object.__setattr__(self, "edits", edits)

    def bind(self, tokens: list[Tokens], sites: list[AttnSite], batch_tokens: int) -> Bound:
        return bind(self.edits, tokens, sites, batch_tokens)


@dataclass(frozen=True)
class Injection(Edit):
    """What Replace and Refine share: when the source's attention is used in drawing the targets.

    `cross_steps`: during which share of the walk from t = 1 to 0 the source's cross-attention is injected: a number f means from 0 to f, a pair is
    (start, end), and a dict gives words of the target windows of their own, {"default": 0.8, "star": 0.3}; `self_steps`: the same for self-attention, on
    grids of at most `self_size` x `self_size`; `source_steps`: the same for reading the source's whole prompt, so that source and target share the
    noisiest part of the walk. Differs from the paper, which has only the first two: a small pixel model places things more finely than its attention
    maps can tell.
    """

    cross_steps: WindowByWord = 0.8
    self_steps: Window = 0.4
    self_size: int = 16
    source_steps: Window = 0.15

    def __post_init__(self):
        by_word = self.cross_steps if isinstance(self.cross_steps, dict) else {DEFAULT: self.cross_steps}
        object.__setattr__(self, "cross_steps", {DEFAULT: (0.0, 0.0)} | {word: _window(w, "cross_steps") for word, w in by_word.items()})
        for name in ("self_steps", "source_steps"):
            object.__setattr__(self, name, _window(getattr(self, name), name))

    def matrix(self, source: Tokens, target: Tokens) -> Tensor:
        raise NotImplementedError


class Replace(Injection):
    """Word swap: the targets differ from the source in single words."""

    def matrix(self, source: Tokens, target: Tokens) -> Tensor:
        replaced_words(source, target)
        return replacement_matrix(source, target)


class Refine(Injection):
    """Added (or removed) words: what prompts have in common keeps the source's attention, new words have their own."""

    def matrix(self, source: Tokens, target: Tokens) -> Tensor:
        return refinement_matrix(source, target)


@dataclass(frozen=True)
class Reweight(Edit):
    """Words that count more, less, or against: their columns of attention are multiplied by c, in [-2, 2], and not renormalised, as in the paper.

    `weights`: c by word, {"red": 2}, or by number of the word; a list has one c for each target, so that one call draws a row of them. `steps`: in
    which share of the walk. Alone it needs targets that read as the source does, and takes the source's attention as `Refine(source_steps=0)` would; with
    a Replace or Refine it acts on what these make, once their `source_steps` are over.
    """

    weights: dict[str | int, float | Sequence[float]] = field(default_factory=dict)
    steps: Window = 1.0

    def __post_init__(self):
        object.__setattr__(self, "steps", _window(self.steps, "steps"))
        if not self.weights:
            raise ValueError("Reweight needs weights, for example Reweight({'red': 2})")
        for word, c in self.weights.items():
            if not all(-2 <= each <= 2 for each in (c if isinstance(c, Sequence) else [c])):
                raise ValueError(f"weight {c!r} of {word!r}: expected numbers from -2 to 2, of which 1 changes nothing")

    def scale(self, targets: list[Tokens], batch_tokens: int) -> Tensor:
        """The factor of each column, [targets, tokens]."""
        out = torch.ones(len(targets), batch_tokens)
        for word, c in self.weights.items():
            each = c if isinstance(c, Sequence) else [c] * len(targets)
            if len(each) != len(targets):
                raise ValueError(f"{len(each)} weights of {word!r} for {len(targets)} targets: expected one each, or a single number")
            for row, tokens, factor in zip(out, targets, each):
                row[find_word(tokens, word)] *= factor
        return out


def bind(edits: Sequence[Edit], tokens: list[Tokens], sites: list[AttnSite], batch_tokens: int) -> Bound:
    """Make edits ready, together, for prompts (the first is the source) and for a network with these attention sites."""
    if len(tokens) < 2:
        raise ValueError(f"an edit needs a source and at least one target prompt; got {len(tokens)} prompt")
    if not any(s.kind in ("cross", "hybrid") for s in sites):
        raise ValueError("this network has no attention to words, so the edit would change nothing")
    injections, weights = [e for e in edits if isinstance(e, Injection)], [e for e in edits if isinstance(e, Reweight)]
    if len(injections) > 1 or len(injections) + len(weights) != len(edits) or not edits:
        raise ValueError(f"edits {[type(e).__name__ for e in edits]}: expected at most one Replace or Refine, and any number of Reweight. "
                         "Refine also aligns prompts in which words were swapped")
    source, targets = tokens[0], tokens[1:]
    if not injections:
        for target in targets:
            if [w.lower() for w in target.words] != [w.lower() for w in source.words]:
                raise ValueError(f"Reweight alone needs the same prompt again, but {' '.join(source.words)!r} became {' '.join(target.words)!r}: "
                                 "add a Replace() or Refine()")
    injection = injections[0] if injections else Refine(source_steps=0.0)
    matrices = torch.zeros(len(targets), batch_tokens, batch_tokens)
    windows = torch.zeros(2, len(targets), batch_tokens)
    for row, target in enumerate(targets):
        own = injection.matrix(source, target)
        matrices[row, :own.shape[0], :own.shape[1]] = own
        windows[:, row] = torch.tensor(injection.cross_steps[DEFAULT])[:, None]
        for word, window in injection.cross_steps.items():
            if word != DEFAULT:
                windows[:, row, find_word(target, word)] = torch.tensor(window)[:, None]
    return Bound(injection, matrices, windows, [(w.steps, w.scale(targets, batch_tokens)) for w in weights])


# ---------------------------------------------------------------- what is done

@dataclass(frozen=True)
class Bound:
    """An edit that knows its prompts: says which control is active at time t."""

    injection: Injection
    matrices: Tensor                                   # [targets, source tokens, target tokens]
    windows: Tensor                                    # [2, targets, target tokens]: start and end of injection
    weights: list[tuple[tuple[float, float], Tensor]]  # window, and factors [targets, target tokens]

    def control_at(self, t: float) -> Control | None:
        done = 1 - t + 1e-6                            # share of the walk, and of the steps where they are even in t; t is rounded

        def within(window: tuple[float, float]) -> bool:
            return window[0] <= done < window[1]

        if within(self.injection.source_steps):        # source and targets read one prompt: their maps are the same
            return ReadSource()
        scale = torch.ones(self.windows.shape[1:])
        for window, factors in self.weights:
            scale = scale * factors if within(window) else scale
        injected = (self.windows[0] <= done) & (done < self.windows[1]) & (self.matrices.sum(1) > 0)
        own = within(self.injection.self_steps)
        cross = bool(injected.any() or (scale != 1).any())
        return InjectMaps(self.matrices, injected, scale, cross, own, self.injection.self_size) if cross or own else None


class ReadSource(Control):
    """Every row of the batch reads the prompt of row 0."""

    def text(self, text: Text) -> Text:
        return Text(text.emb[:1].expand_as(text.emb), text.mask[:1].expand_as(text.mask))


@dataclass(frozen=True)
class InjectMaps(Control):
    """Row 0 of the batch is the source; the other rows take its probabilities, column by column through `matrices`, where `injected` [targets, tokens]
    says so; then columns are multiplied by `scale` [targets, tokens]."""

    matrices: Tensor
    injected: Tensor
    scale: Tensor
    cross: bool
    own: bool
    self_size: int

    def wants(self, site: AttnSite) -> bool:
        return self.own and site.size <= self.self_size if site.kind == "self" else self.cross

    def probs(self, site: AttnSite, probs: Tensor, n_text: int) -> Tensor:
        if site.kind == "self":
            return probs[:1].expand_as(probs)
        of_source = torch.einsum("hps,bst->bhpt", probs[0, :, :, :n_text], self.matrices.to(probs))
        words = torch.where(self.injected[:, None, None].to(probs.device), of_source, probs[1:, :, :, :n_text]) * self.scale[:, None, None].to(probs)
        return torch.cat([probs[:1], torch.cat([words, probs[1:, :, :, n_text:]], dim=-1)])
