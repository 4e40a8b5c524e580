"""The control protocol: how an edit or a recorder reaches into attention, without hooks or patches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from imagen_mini.text.encoder import TextEmbeddings


@dataclass(frozen=True)
class AttentionSite:
    """Where an attention layer stands: its `name`, `place` (down, mid, up), `kind` and `size` (the
    grid is size x size).

    kind "self": keys are pixels; "cross": keys are words; "hybrid": words first, then pixels, in
    one softmax (Imagen, D.3.1).
    """

    name: str
    place: str
    kind: str
    size: int


class AttentionControl:
    """What an edit or a recorder does inside attention. The base class does nothing; methods
    return, they do not store into the network. Heads are kept: q, k, v are [b, heads, tokens, d],
    probs [b, heads, queries, keys].
    """

    def text(self, text: TextEmbeddings) -> TextEmbeddings:
        """Change what the network reads, before anything reads it."""
        return text

    def qkv(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Change queries, keys or values; the fast path is kept."""
        return q, k, v

    def needs_probs(self, site: AttentionSite) -> bool:
        """Does this control need the probabilities at this site? If so they are computed
        explicitly, there.
        """
        return False

    def probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        """Change the probabilities. The leading `n_text` key columns are words."""
        return probs
