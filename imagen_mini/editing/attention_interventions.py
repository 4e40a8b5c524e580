"""Attention controls for experiments: one records queries, keys and values, one mixes the attention
to tokens by a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from imagen_mini.editing.alignment import token_positions
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import Tokens


@dataclass(frozen=True)
class QKVRecorder(AttentionControl):
    """A control that changes nothing and records the inputs of each attention layer.

    Attributes:
        recorded: By the site's name (q, k, v), each [b, heads, tokens, d], of the latest call.
    """

    recorded: dict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def modify_qkv(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.recorded[site.name] = (q, k, v)
        return q, k, v


@dataclass(frozen=True)
class TokenColumnMixer(AttentionControl):
    """A control that mixes the columns of attention to text tokens: probs <- probs @ matrix.

    The identity changes nothing. A permutation exchanges words. A zero on the diagonal silences a
    word.

    Attributes:
        matrix: [b, n_text, n_text], one for each prompt.
        fixed_probs: By the site's name probabilities [b, heads, queries, n_text] that replace the
            network's first, for example `store.edited[t]` of an earlier run (default: none).
    """

    matrix: Tensor  # [b, n_text, n_text]
    fixed_probs: dict[str, Tensor] | None = None

    def needs_probs(self, site: AttentionSite) -> bool:
        return site.kind != "self"

    def modify_probs(self, site: AttentionSite, probs: Tensor, n_text: int) -> Tensor:
        words = (
            probs[..., :n_text]
            if self.fixed_probs is None
            else self.fixed_probs[site.name].to(probs)
        )
        return torch.cat([words @ self.matrix[:, None].to(probs), probs[..., n_text:]], dim=-1)


def column_swap_matrices(
    tokens: Sequence[Tokens], words: Sequence[tuple[str, str]], n_text: int
) -> Tensor:
    """Return for each prompt the matrix that exchanges the columns of two of its words.

    Args:
        tokens: The tokens of each prompt.
        words: Two words of each prompt.
        n_text: The number of text tokens in the batch.

    Returns:
        [b, n_text, n_text].

    Raises:
        ValueError: If two words do not have equally many pieces.
    """
    out = torch.eye(n_text).repeat(len(tokens), 1, 1)
    for matrix, of_prompt, (a, b) in zip(out, tokens, words):
        first, second = token_positions(of_prompt, a), token_positions(of_prompt, b)
        if len(first) != len(second):
            raise ValueError(
                f"{a!r} has {len(first)} pieces and {b!r} has {len(second)}; expected words of "
                "as many pieces"
            )
        matrix[first + second] = matrix[second + first]
    return out


def column_mask_matrices(tokens: Sequence[Tokens], words: Sequence[str], n_text: int) -> Tensor:
    """Return for each prompt the matrix that sets the columns of one of its words to zero.

    The remaining probabilities are not renormalised.

    Args:
        tokens: The tokens of each prompt.
        words: One word of each prompt.
        n_text: The number of text tokens in the batch.

    Returns:
        [b, n_text, n_text].
    """
    out = torch.eye(n_text).repeat(len(tokens), 1, 1)
    for matrix, of_prompt, word in zip(out, tokens, words):
        matrix[token_positions(of_prompt, word)] = 0
    return out


def replace_words(prompt: str, new: dict[str, str]) -> str:
    """Return the prompt with words replaced, all at once.

    Args:
        prompt: The prompt.
        new: The replacement of each word; {"red": "blue", "blue": "red"} exchanges two.
    """
    return " ".join(new.get(word, word) for word in prompt.split())
