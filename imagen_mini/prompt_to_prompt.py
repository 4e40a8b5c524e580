"""Prompt-to-Prompt: edit a picture by editing its prompt, keeping the attention maps that laid it out.

Source and target are drawn in one batch from one noise. While the source is drawn, its cross-attention probabilities replace the
target's, word by word; what a word *means* (its values) stays the target's. Only the conditional branch is touched.

Source: Prompt-to-Prompt (Hertz et al., 2022), Algorithm 1 and Section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import AttnSite, Control
from .text import Text, Tokens

Window = float | tuple[float, float]


def _window(window: Window, name: str) -> tuple[float, float]:
    start, end = (0.0, window) if isinstance(window, (int, float)) else window
    if not 0 <= start <= end <= 1:
        raise ValueError(f"{name}={window!r}: expected a share of the steps from 0 to 1, or a pair (start, end) of such")
    return float(start), float(end)


def replaced_words(source: Tokens, target: Tokens) -> list[int]:
    """Numbers of the words in which two prompts of equally many words differ (capitals aside)."""
    if len(source.words) != len(target.words):
        raise ValueError(f"Replace swaps words one for one, but {' '.join(source.words)!r} has {len(source.words)} words and "
                         f"{' '.join(target.words)!r} has {len(target.words)} words. It cannot add or remove words")
    changed = [i for i, (a, b) in enumerate(zip(source.words, target.words)) if a.lower() != b.lower()]
    if not changed:
        raise ValueError(f"nothing to replace: both prompts read {' '.join(source.words)!r}")
    return changed


def replacement_matrix(source: Tokens, target: Tokens) -> Tensor:
    """A [source tokens, target tokens]: how each target token's column of attention is made of the source's columns.

    Word i of the source answers word i of the target. With equally many pieces they answer one to one; else the source
    word's whole attention is spread evenly over the target word's pieces. The end token answers the end token.
    """
    matrix = torch.zeros(len(source.ids), len(target.ids))
    for word in range(len(source.words)):
        from_, to = source.of_word(word), target.of_word(word)
        if len(from_) == len(to):
            matrix[from_, to] = 1
        else:
            matrix[torch.tensor(from_)[:, None], torch.tensor(to)[None, :]] = 1 / len(to)
    matrix[[i for i, w in enumerate(source.word_ids) if w is None], [i for i, w in enumerate(target.word_ids) if w is None]] = 1
    return matrix


@dataclass(frozen=True)
class Replace:
    """Word swap: the targets differ from the source in single words.

    `cross_steps`: during which share of the walk from t = 1 to 0 the source's cross-attention is injected (a number f means from 0 to
    f); `self_steps`: the same for self-attention, on grids of at most `self_size` x `self_size`; `source_steps`: the same for reading
    the source's whole prompt, so that source and target share the noisiest part of the walk. Differs from the paper, which has only the
    first two: a small pixel model places things more finely than its attention maps can tell.
    """

    cross_steps: Window = 0.8
    self_steps: Window = 0.4
    self_size: int = 16
    source_steps: Window = 0.15

    def __post_init__(self):
        for name in ("cross_steps", "self_steps", "source_steps"):
            object.__setattr__(self, name, _window(getattr(self, name), name))

    def bind(self, tokens: list[Tokens], sites: list[AttnSite], batch_tokens: int) -> Injection:
        """Make the edit ready for prompts (the first is the source) and for a network with these attention sites."""
        if len(tokens) < 2:
            raise ValueError(f"an edit needs a source and at least one target prompt; got {len(tokens)} prompt")
        for target in tokens[1:]:
            replaced_words(tokens[0], target)
        if not any(s.kind in ("cross", "hybrid") for s in sites):
            raise ValueError("this network has no attention to words, so the edit would change nothing")
        matrices = torch.zeros(len(tokens) - 1, batch_tokens, batch_tokens)
        for m, target in zip(matrices, tokens[1:]):
            own = replacement_matrix(tokens[0], target)
            m[:own.shape[0], :own.shape[1]] = own
        return Injection(self, matrices)


@dataclass(frozen=True)
class Injection:
    """A bound edit: says which control is active at time t."""

    edit: Replace
    matrices: Tensor                                   # [targets, source tokens, target tokens]

    def control_at(self, t: float) -> Control | None:
        done = 1 - t + 1e-6                            # share of the walk, and of the steps where they are even in t; t is rounded
        source, cross, own = (start <= done < end for start, end in (self.edit.source_steps, self.edit.cross_steps, self.edit.self_steps))
        if source:
            return ReadSource()
        return InjectMaps(self.matrices, cross, own, self.edit.self_size) if cross or own else None


class ReadSource(Control):
    """Every row of the batch reads the prompt of row 0."""

    def text(self, text: Text) -> Text:
        return Text(text.emb[:1].expand_as(text.emb), text.mask[:1].expand_as(text.mask))


@dataclass(frozen=True)
class InjectMaps(Control):
    """Row 0 of the batch is the source; the other rows take its probabilities, column by column through `matrices`."""

    matrices: Tensor
    cross: bool
    own: bool
    self_size: int

    def wants(self, site: AttnSite) -> bool:
        return self.own and site.size <= self.self_size if site.kind == "self" else self.cross

    def probs(self, site: AttnSite, probs: Tensor, n_text: int) -> Tensor:
        if site.kind == "self":
            return probs[:1].expand_as(probs)
        words = torch.einsum("hps,bst->bhpt", probs[0, :, :, :n_text], self.matrices.to(probs))
        targets = torch.cat([words, probs[1:, :, :, n_text:]], dim=-1)
        return torch.cat([probs[:1], targets])
