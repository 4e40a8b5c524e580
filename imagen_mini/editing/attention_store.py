"""What pixels attend to: attention maps, recorded while an image is sampled, and read by word,
layer, head and step.

    maps = AttentionStore()
    pipe("a red circle above a blue square", seed=0, attention_store=maps)
    maps.word_map("circle", size=16)       # [16, 16]: how much each place attends to the word

A map is a column of the attention probabilities: the softmax over the words of the prompt, of every
query, that is of every place on the grid. Only the conditional branch is recorded. With an edit,
both the network's probabilities and the edited ones are kept.

Reference: Prompt-to-Prompt (Hertz et al., 2022), arXiv 2208.01626, Section 3 and Figure 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from imagen_mini.editing.alignment import token_positions
from imagen_mini.models.control import AttentionControl, AttentionSite, BlockSite
from imagen_mini.text.encoder import Tokens


class AttentionLayer(Protocol):
    """What is asked of an attention layer: where it stands, and how many heads it has."""

    site: AttentionSite
    heads: int


def bytes_needed(
    layers: Sequence[AttentionLayer], rows: int, n_text: int, steps: int, copies: int = 1
) -> int:
    """Memory in bytes that recording takes, in float32: heads x queries x keys for each attention
    layer, row of the batch, step, and copy (2 with an edit). Keys are the words; in self-attention,
    the places.
    """

    def keys(site: AttentionSite) -> int:
        return site.size**2 if site.kind == "self" else n_text

    return (
        4
        * rows
        * steps
        * copies
        * sum(layer.heads * layer.site.size**2 * keys(layer.site) for layer in layers)
    )


@dataclass
class AttentionStore:
    """A record of attention, filled by a call of the pipeline and then read.

    Steps in which an edit shares the source's prompt are left out: there the targets have no maps
    of their own.

    Args:
        stage: The stage that is recorded; None (the default): the first.
        kinds: Kinds of attention, of "cross", "hybrid" and "self" (default: the first two).
        max_size: The largest grid that is recorded (default 64).
        max_bytes: The memory that it may take, checked before anything is sampled (default 1 GiB).

    Attributes:
        raw: By time t and by the site's name, probabilities [b, heads, queries, words] (in
            self-attention [b, heads, queries, queries]) as the network computed them.
        edited: The same as an edit left them; without an edit, the same tensors.
    """

    stage: str | None = None
    kinds: tuple[str, ...] = ("cross", "hybrid")
    max_size: int = 64
    max_bytes: int = 2**30
    sites: list[AttentionSite] = field(default_factory=list, init=False)
    tokens: list[Tokens] = field(default_factory=list, init=False)
    raw: dict[float, dict[str, Tensor]] = field(default_factory=dict, init=False)
    edited: dict[float, dict[str, Tensor]] = field(default_factory=dict, init=False)

    # ------------------------------------------------------------ recording

    def check_memory(
        self, layers: Sequence[AttentionLayer], rows: int, n_text: int, steps: int, edited: bool
    ) -> None:
        """Raise ValueError if recording these steps would take more than `max_bytes`."""
        chosen = [layer for layer in layers if self.needs_probs(layer.site)]
        needed = bytes_needed(chosen, rows, n_text, steps, 1 + edited)
        if needed > self.max_bytes:
            raise ValueError(
                f"recording {len(chosen)} attention layers of {rows} images over {steps} steps "
                f"takes {needed / 2**20:,.1f} MiB, max_bytes "
                f"allows {self.max_bytes / 2**20:,.1f}: sample fewer images, "
                f"lower max_size ({self.max_size}), or raise max_bytes"
            )

    def needs_probs(self, site: AttentionSite) -> bool:
        return site.kind in self.kinds and site.size <= self.max_size

    def reset(self, tokens: list[Tokens], sites: Sequence[AttentionSite]) -> None:
        """Forget what was recorded, and get ready for these prompts and sites. ValueError if there
        is nothing to record.
        """
        self.sites, self.tokens, self.raw, self.edited = (
            [s for s in sites if self.needs_probs(s)],
            tokens,
            {},
            {},
        )
        if not self.sites:
            raise ValueError(
                f"no attention to record: kinds {', '.join(self.kinds)} on grids of at most "
                f"{self.max_size} were asked for, the network has "
                + (", ".join(f"{s.name} ({s.kind}, {s.size} x {s.size})" for s in sites) or "none")
            )

    def wrap_schedule(
        self, control_at: Callable[[float], AttentionControl | None] | None
    ) -> Callable[[float], AttentionControl]:
        """`control_at`, with every control it returns recorded."""
        return lambda t: self.wrap(control_at(t) if control_at else None, t)

    def wrap(self, control: AttentionControl | None, t: float) -> AttentionControl:
        """A control that does what `control` does and records the probabilities at time t."""
        control = control or AttentionControl()
        return control if control.changes_text else Recording(control, self, t)

    def store(
        self, t: float, site: AttentionSite, raw: Tensor, edited: Tensor, n_text: int
    ) -> None:
        """Keep the probabilities of a site at time t; of attention to words, the words' columns."""
        columns = slice(None) if site.kind == "self" else slice(n_text)
        stored = raw[..., columns].detach().float()
        self.raw.setdefault(t, {})[site.name] = stored
        if edited is not raw:
            stored = edited[..., columns].detach().float()
        self.edited.setdefault(t, {})[site.name] = stored

    # ------------------------------------------------------------ reading

    @property
    def times(self) -> list[float]:
        """The times of the steps recorded, from noise to image."""
        return sorted(self.edited, reverse=True)

    @property
    def sizes(self) -> list[int]:
        """The grids recorded, largest first."""
        return sorted({s.size for s in self.sites}, reverse=True)

    def probs(
        self,
        size: int | None = None,
        site: str | None = None,
        times: Sequence[float] | None = None,
        head: int | None = None,
        edited: bool = True,
    ) -> Tensor:
        """Probabilities [b, places, words] on one grid, averaged over what is not chosen: attention
        layers, steps and heads.

        Args:
            size: The grid (default: that of `site`, else the largest recorded).
            site: The name of one attention layer (default: all on this grid).
            times: Some of `self.times` (default: all).
            head: The number of one head (default: all).
            edited: As an edit left them (the default), or as the network computed them.

        Raises:
            ValueError: Nothing of that kind is recorded.
        """
        if not self.edited:
            raise ValueError(
                "nothing is recorded yet: pass this object as attention_store= to the pipeline's "
                "call. Steps in which an edit shares the source's prompt are left out"
            )
        if site is not None and site not in {s.name for s in self.sites}:
            raise ValueError(
                f"no attention layer {site!r} is recorded; there are "
                f"{', '.join(s.name for s in self.sites)}"
            )
        chosen = [s for s in self.sites if s.kind != "self" and (s.name == site or site is None)]
        if not chosen:
            raise ValueError(
                "self-attention is recorded, and no attention to words: pass kinds=('cross', "
                "'hybrid'), or read its maps in `edited`, by time and site"
            )
        size = size or max(s.size for s in chosen)
        chosen = [s for s in chosen if s.size == size]
        if not chosen:
            raise ValueError(
                f"no attention to words on a grid of {size} is recorded; there are grids of "
                f"{', '.join(map(str, self.sizes))}"
            )
        times = self.times if times is None else times
        if unknown := [t for t in times if t not in self.edited]:
            raise ValueError(f"times {unknown} are not recorded; there are {self.times}")
        recorded = self.edited if edited else self.raw
        each = [recorded[t][s.name] for t in times for s in chosen]
        if head is not None and not 0 <= head < each[0].shape[1]:
            raise ValueError(f"head {head}; expected one from 0 to {each[0].shape[1] - 1}")
        return torch.stack([(p.mean(1) if head is None else p[:, head]) for p in each]).mean(0)

    def of_tokens(self, positions: Sequence[int], row: int = 0, **chosen) -> Tensor:
        """The map [size, size] of some tokens of prompt number `row`, summed. `chosen`: as in
        `probs`.
        """
        column = self.probs(**chosen)[row, :, list(positions)].sum(-1)
        return rearrange(column, "(h w) -> h w", h=int(len(column) ** 0.5))

    def word_map(self, word: str | int, row: int = 0, **chosen) -> Tensor:
        """The map [size, size] of a word of prompt number `row`: of every word that reads so, or of
        word number `word`. `chosen`: the arguments of `probs`.
        """
        return self.of_tokens(token_positions(self.tokens[row], word), row, **chosen)

    def token_shares(self, row: int = 0, **chosen) -> Tensor:
        """The share of all attention that each token of prompt number `row` gets, [tokens], the end
        token included. They sum to 1; in hybrid attention, pixels take the rest. A token that gets
        much everywhere is an attention sink.
        """
        return self.probs(**chosen)[row].mean(0)[: len(self.tokens[row].ids)]


@dataclass(frozen=True)
class Recording(AttentionControl):
    """Does what `inner` does, and records the probabilities before and after it."""

    inner: AttentionControl
    maps: AttentionStore
    t: float

    def modify_qkv(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.inner.modify_qkv(site, q, k, v)

    def needs_probs(self, site: AttentionSite) -> bool:
        return site in self.maps.sites or self.inner.needs_probs(site)

    def modify_probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        after = probs
        if self.inner.needs_probs(site):
            after = self.inner.modify_probs(site, probs, n_text)
        if site in self.maps.sites:
            self.maps.store(self.t, site, probs, after, n_text)
        return after

    def needs_features(self, site: BlockSite) -> bool:
        return self.inner.needs_features(site)

    def modify_features(self, site: BlockSite, x: Tensor) -> Tensor:
        return self.inner.modify_features(site, x)
