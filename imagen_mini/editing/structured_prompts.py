"""StructureDiffusion: each noun phrase of a prompt is also read alone, so that adjectives stay with
their nouns.

In "a red circle and a blue square" the encoder lets every word look at all others, and "square"
may come out a little red. The phrase "a blue square" by itself knows of no red. Where an image
attends (the keys, hence the maps) stays that of the whole prompt. What it finds there (the values)
is averaged over the whole prompt and the phrases.

    V_0      the values of the whole prompt
    V_i      the same, but those of phrase i read alone stand in its span
    out    = mean over i of (M V_i) = M (mean over i of V_i)

Reference: Training-Free Structured Diffusion Guidance for Compositional Text-to-Image Synthesis
(Feng et al., 2022), arXiv 2212.05032.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.text.encoder import TextEmbeddings, Tokens

# a phrase begins with one of these
DETERMINERS = frozenset(
    "a an the one two three four five six seven eight nine ten some any no this that these those "
    "my your his her its our their".split()
)
# and ends before one of these, or before punctuation
JOINING = frozenset(
    "and or but to of in on at by from with without above below over under beneath beside behind "
    "near next left right is are lies stands".split()
)


def noun_phrases(tokens: Tokens) -> list[tuple[int, int]]:
    """Find the noun phrases of a prompt, without a parser of English.

    A phrase begins with an article, a number or the like, and ends before the next one, before a
    word that joins two things, or at punctuation. The paper takes them from a constituency parser.

    Args:
        tokens: the prompt.

    Returns:
        (first word, last word + 1) of each phrase with at least two words, in order.
    """
    found: list[tuple[int, int]] = []
    start: int | None = None
    for i, word in enumerate([*tokens.words, "and"]):
        bare = re.sub(r"\W+$", "", word).lower()
        if start is not None and (not bare or bare in JOINING or bare in DETERMINERS):
            found.append((start, i))
            start = None
        if bare in DETERMINERS:
            start = i
        if start is not None and bare and re.search(r"[,.;:!?]$", word):
            found.append((start, i + 1))
            start = None
    return [(a, b) for a, b in found if b - a > 1]


def is_negated(tokens: Tokens, phrase: tuple[int, int]) -> bool:
    """Does a noun phrase say what is not there: "no star", "without a star"?

    Args:
        tokens: the prompt.
        phrase: (first word, last word + 1), as from `noun_phrases`.
    """
    start, _ = phrase
    before = tokens.words[start - 1].lower() if start else ""
    return before in ("without", "not") or tokens.words[start].lower() == "no"


@dataclass(frozen=True)
class StructuredValues(AttentionControl):
    """Attention to words with these values in the place of the network's own.

    Attributes:
        values: By the site's name, [b, n, channels].
    """

    values: Mapping[str, Tensor]

    def modify_qkv(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if site.kind == "self":
            return q, k, v
        words = rearrange(self.values[site.name], "b n (h d) -> b h n d", h=v.shape[1]).to(v)
        return q, k, torch.cat([words, v[:, :, words.shape[2] :]], dim=2)


def structured_values(
    values_of: Callable[[TextEmbeddings], Mapping[str, Tensor]],
    text: TextEmbeddings,
    tokens: Sequence[Tokens],
    read_alone: Callable[[str], tuple[Tokens, TextEmbeddings]],
    phrases: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> StructuredValues:
    """The control that makes a network read the phrases of prompts alone as well.

    Args:
        values_of: text -> by the site's name the words' values [b, n, channels], for example the
            second half of `kv` of `UNet.prepare_text`.
        text: the prompts, encoded, b rows.
        tokens: of each prompt.
        read_alone: a phrase -> its tokens, and its encoding of one row.
        phrases: of each prompt (first word, last word + 1) (default: `noun_phrases`).

    Returns:
        A control, which leaves the keys and so the maps as they are.

    Raises:
        ValueError: a phrase by itself has other tokens than in its prompt.

    Reference:
        Training-Free Structured Diffusion Guidance (Feng et al., 2022), arXiv 2212.05032. Differs
        from the paper: a phrase is read alone by the network's own text layers, too, and there is
        one key, that of the whole prompt.
    """
    if phrases is None:
        phrases = [noun_phrases(t) for t in tokens]
    values = {name: v.clone() for name, v in values_of(text).items()}
    whole = {name: v.clone() for name, v in values.items()}
    for row, (of_prompt, spans) in enumerate(zip(tokens, phrases, strict=True)):
        for first, end in spans:
            # 1. where the phrase stands in the prompt, and where by itself
            there = [p for w in range(first, end) for p in of_prompt.positions_of_word(w)]
            phrase = " ".join(of_prompt.words[first:end])
            alone, encoded = read_alone(phrase)
            here = [p for p, word in enumerate(alone.word_ids) if word is not None]
            if [of_prompt.ids[p] for p in there] != [alone.ids[p] for p in here]:
                raise ValueError(
                    f"the phrase {phrase!r} has other tokens by itself than in its prompt; give "
                    "other phrases"
                )
            # 2. one of the len(spans) + 1 members of the mean has the phrase's own values
            for name, own in values_of(encoded).items():
                change = own[0, here] - whole[name][row, there]
                values[name][row, there] += change / (len(spans) + 1)
    return StructuredValues(values)
