"""The control protocol: how an edit or a recorder reaches into the U-Net, without patching it.

A control can act in three places: on the text before the network uses it, in attention layers (each
has an `AttentionSite`), and on the features after a residual block (each has a `BlockSite`).
Prompt switching changes the text, Prompt-to-Prompt acts in attention, and Plug-and-Play in
attention and on features.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from imagen_mini.text.encoder import TextEmbeddings


@dataclass(frozen=True)
class AttentionSite:
    """Where an attention layer stands.

    Args:
        name: unique in its network, for example "up0.cross".
        place_in_unet: "down", "mid" or "up".
        kind: what the keys are. "self": pixels; "cross": words; "hybrid": words first, then pixels,
            in one softmax (Imagen, D.3.1).
        size: the grid is size x size.
    """

    name: str
    place_in_unet: str
    kind: str
    size: int


@dataclass(frozen=True)
class BlockSite:
    """Where a residual block stands.

    Args:
        name: unique in its network, for example "up0.block1".
        place_in_unet: "down", "mid" or "up".
        size: the grid is size x size.
    """

    name: str
    place_in_unet: str
    size: int


class AttentionControl:
    """What an edit or a recorder does inside the network.

    The base class does nothing, so a control overrides only what it needs. Methods return their
    result, they store nothing in the network. Heads are kept: q, k, v are [b, heads, tokens, d],
    probs [b, heads, queries, keys].

    In one layer the order is `modify_qkv`, then, where `needs_probs` says so, `modify_probs`. After
    a residual block comes, where `needs_features` says so, `modify_features`.
    """

    #: Does `modify_text` change anything? Its maps are then not those of the rows' own prompts.
    changes_text: bool = False

    def modify_text(self, text: TextEmbeddings) -> TextEmbeddings:
        """Change the text [b, n, d], before any layer of the network uses it. A control that does
        sets `changes_text`.
        """
        return text

    def modify_qkv(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Change queries, keys or values; attention stays one fused call."""
        return q, k, v

    def needs_probs(self, site: AttentionSite) -> bool:
        """Does this control need the probabilities at this site? If so they are computed
        explicitly, there.
        """
        return False

    def modify_probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        """Change the probabilities [b, heads, queries, keys]. The leading `n_text` key columns are
        words.
        """
        return probs

    def needs_features(self, site: BlockSite) -> bool:
        """Does this control need the features after this residual block?"""
        return False

    def modify_features(self, site: BlockSite, x: Tensor) -> Tensor:
        """Change the features [b, c, size, size]: the output of a residual block, its shortcut
        included.

        Reference: Plug-and-Play Diffusion Features (Tumanyan et al., 2022), arXiv 2211.12572, which
        lets a target image take the features of a source image at the same step. Its code takes
        them before the shortcut is added, so that the target keeps its own shortcut.
        """
        return x


# ---------------------------------------------------------------- two controls


def both_controls(
    first: AttentionControl | None, second: AttentionControl | None
) -> AttentionControl | None:
    """One control that does what two do, the first one first; None if there is none."""
    if first is None or second is None:
        return second if first is None else first
    return ControlChain(first, second)


@dataclass(frozen=True)
class ControlChain(AttentionControl):
    """Does what `first` does, and then what `second` does."""

    first: AttentionControl
    second: AttentionControl

    @property
    def changes_text(self) -> bool:  # type: ignore[override]
        return self.first.changes_text or self.second.changes_text

    def modify_text(self, text: TextEmbeddings) -> TextEmbeddings:
        return self.second.modify_text(self.first.modify_text(text))

    def modify_qkv(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.second.modify_qkv(site, *self.first.modify_qkv(site, q, k, v))

    def needs_probs(self, site: AttentionSite) -> bool:
        return self.first.needs_probs(site) or self.second.needs_probs(site)

    def modify_probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        for control in (self.first, self.second):
            if control.needs_probs(site):
                probs = control.modify_probs(site, probs, n_text)
        return probs

    def needs_features(self, site: BlockSite) -> bool:
        return self.first.needs_features(site) or self.second.needs_features(site)

    def modify_features(self, site: BlockSite, x: Tensor) -> Tensor:
        for control in (self.first, self.second):
            if control.needs_features(site):
                x = control.modify_features(site, x)
        return x
