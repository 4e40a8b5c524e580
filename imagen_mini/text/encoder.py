"""The frozen text encoder: prompts to embeddings, and which tokens make up which word.

A T5 encoder is shipped and the default. Any other text encoder of Hugging Face transformers whose
hidden states are [b, n, d] can be used as well, with a U-Net trained with it.

Reference: Imagen (Saharia et al., 2022), arXiv 2205.11487, Section 2.1: a large frozen language
model trained on text only encodes the prompt.
"""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from imagen_mini.text.loading import (
    T5_FAMILY,
    last_position,
    load_model_and_tokenizer,
    reads_bytes,
)
from imagen_mini.text.packaged import PackagedEncoder
from imagen_mini.text.words import assign_tokens_to_words
from imagen_mini.weights import shipped_text_encoders

if TYPE_CHECKING:  # transformers takes seconds to import, so only `from_pretrained` does
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_LENGTH = 128  # tokens; the paper does not state its limit
MAX_BYTES = 512  # of a tokenizer whose tokens are bytes, about as much text
# A tokenizer keeps in itself whether it pads and cuts, and each call switches that. So one thread
# calls at a time; to tokenize takes far less time than to encode.
TOKENIZING = threading.Lock()


@dataclass(frozen=True)
class TextEmbeddings:
    """Encoded prompts.

    Args:
        emb: [b, n, d].
        mask: bool [b, n], True is a real token. Every row has at least one.
    """

    emb: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.emb)

    def __getitem__(self, rows) -> TextEmbeddings:
        """Some of the rows: a slice, a list of numbers or a mask."""
        return TextEmbeddings(self.emb[rows], self.mask[rows])

    def to(self, *args, **kwargs) -> TextEmbeddings:
        """As `torch.Tensor.to`; the mask moves along and stays bool."""
        emb = self.emb.to(*args, **kwargs)
        return TextEmbeddings(emb, self.mask.to(emb.device))

    def null(self) -> TextEmbeddings:
        """The unconditional text: embeddings zeroed (Imagen, Section 4.1: conditioning is dropped
        by zeroing).
        """
        return TextEmbeddings(torch.zeros_like(self.emb), self.mask)

    def pad(self, n: int) -> TextEmbeddings:
        """The same with `n` columns of padding behind: zeros, masked."""
        return TextEmbeddings(
            nn.functional.pad(self.emb, (0, 0, 0, n)), nn.functional.pad(self.mask, (0, n))
        )

    def drop(self, dropped: Tensor) -> TextEmbeddings:
        """Zero the embeddings of the rows where `dropped` [b] (bool) is True."""
        return TextEmbeddings(self.emb.masked_fill(dropped[:, None, None], 0), self.mask)


def concatenate(texts: Sequence[TextEmbeddings]) -> TextEmbeddings:
    """Stack texts along the batch; shorter ones are padded, masked, to the longest."""
    n = max(t.emb.shape[1] for t in texts)
    texts = [t.pad(n - t.emb.shape[1]) for t in texts]
    return TextEmbeddings(torch.cat([t.emb for t in texts]), torch.cat([t.mask for t in texts]))


@dataclass(frozen=True)
class Tokens:
    """The tokens of one prompt.

    Args:
        ids: their numbers in the vocabulary.
        pieces: the text of each.
        word_ids: the number of the word that each belongs to; None for special tokens, as the end
            token.
        words: the words themselves, as the prompt has them.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    word_ids: tuple[int | None, ...]
    words: tuple[str, ...]

    def positions_of_word(self, word: int) -> list[int]:
        """Positions of the tokens of word number `word`."""
        return [i for i, w in enumerate(self.word_ids) if w == word]


def check_prompts(prompts: str | Sequence[str], name: str = "a prompt") -> list[str]:
    """One string or several -> a list of strings that can be encoded.

    Line breaks, tabs and spaces in a row become one space, as in T5's vocabulary: they are no
    words.

    Args:
        prompts: as the caller gives them.
        name: what they are, for the message.

    Raises:
        TypeError: for anything but a string or a non-empty list of strings.
        ValueError: for a string that is no text.
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, (list, tuple)) or not prompts:
        hint = ". Decode bytes first, for example data.decode('utf-8')"
        raise TypeError(
            f"{name} must be a string or a non-empty list of strings; got "
            f"{type(prompts).__name__}{hint if isinstance(prompts, bytes) else ''}"
        )
    for p in prompts:
        if not isinstance(p, str):
            raise TypeError(f"each prompt must be a string; got {type(p).__name__}: {p!r:.80}")
        try:
            p.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the prompt holds a lone surrogate at character {error.start}, which is no "
                f"text: {p!r:.80}; "
                "remove it, or decode the source with errors='replace'"
            ) from None
    return [" ".join(p.split()) for p in prompts]


class TextEncoder(nn.Module):
    """A frozen text encoder of Hugging Face transformers, T5 by default. Make one with
    `TextEncoder.from_pretrained`.

    Args:
        model: returns `last_hidden_state` [b, n, d] for `input_ids` and `attention_mask`.
        tokenizer: the model's, of the fast kind, which knows where each word stands.
        max_length: prompts of more tokens are cut (default 128, or 512 where tokens are bytes);
            never more than the model has positions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
    ):
        super().__init__()
        self.model: PreTrainedModel = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        if max_length is None:
            max_length = MAX_BYTES if reads_bytes(tokenizer) else MAX_LENGTH
        positions = last_position(model)
        self.max_length = (
            max_length
            if positions is None
            else min(max_length, positions, tokenizer.model_max_length)
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        dtype: torch.dtype = torch.float32,
        max_length: int | None = None,
    ) -> TextEncoder:
        """Load a text encoder in Hugging Face format: T5 and its kin (ByT5, mT5, UMT5), BERT and
        its kin, the text model of CLIP, or a language model.

        Args:
            path: "distilled" or "teacher", which are shipped; a local folder (no network is
                touched), which may name the encoder of an installed package; or a hub name.
            dtype: torch.float32 (default) or torch.bfloat16. torch.float16 is refused for the T5
                family, whose feed-forward overflows in it.
            max_length: prompts of more tokens are cut (default 128, or 512 where tokens are
                bytes).

        Raises:
            FileNotFoundError: There is no such folder, and the hub has no such model.
            ModuleNotFoundError: The folder names a package that is not installed.
            ValueError: It is no text encoder, or not all of one, or a T5 in float16.
        """
        path = shipped_text_encoders().get(str(path), path)
        packaged = PackagedEncoder.named_in(path)
        path = path if packaged is None else packaged.find()
        model, tokenizer = load_model_and_tokenizer(path, dtype)
        return cls(model, tokenizer, max_length)

    def save_pretrained(self, path: str | Path) -> None:
        """Write the model and its tokenizer to a folder, as `from_pretrained` reads it."""
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)

    def check_can_be_saved(self) -> None:
        """Check that a saved pipeline will read captions as this encoder does.

        Some tokenizers are read back as another class, which cannot be used here. A training run
        asks at its start.

        Raises:
            ValueError: It would not.
        """
        from transformers import AutoTokenizer

        text = "a red circle, 3 Blue squares"
        with TemporaryDirectory() as folder:
            try:
                self.model.config.save_pretrained(folder)
                self.tokenizer.save_pretrained(folder)
                again = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                alike = again.is_fast and again(text)["input_ids"] == self.tokenizer(text).input_ids
            except Exception as error:
                raise ValueError(
                    f"this text encoder could not be read back once it is saved: {error}"
                ) from error
        if not alike:
            raise ValueError(
                f"{type(self.tokenizer).__name__} is read back as {type(again).__name__} once it "
                "is saved, which splits captions in another way, so a pipeline of it could not "
                "sample; save it as a tokenizer.json"
            )

    @property
    def width(self) -> int:
        """Size of a token's embedding."""
        return self.model.config.hidden_size

    def weights_digest(self) -> str:
        """A short hash of the vocabulary and of the weights, rounded to bfloat16.

        It is the same in float32 and bfloat16, and with any library that loads them. A stage's
        configuration records it, to say which text encoder the stage was trained with. (For the
        hash of every bit see `imagen_mini.text.cache.exact_digest`.)

        Returns:
            16 hexadecimal digits.
        """
        digest = hashlib.sha256(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode())
        tensors = {
            hashlib.sha256(
                t.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy()
            ).digest()
            for t in self.model.state_dict().values()
        }
        for tensor in sorted(tensors):  # their names are the library's; a tied one may come twice
            digest.update(tensor)
        return digest.hexdigest()[:16]

    @property
    def teacher_digest(self) -> str | None:
        """The digest of the encoder whose vectors this one was taught to give
        (`python -m train.distill_text_encoder`). None: it was not.
        """
        return getattr(self.model.config, "teacher_digest", None)

    def is_read_as(self, digest: str) -> bool:
        """True if a network that was trained with the encoder of this digest can read this one."""
        return digest in (self.teacher_digest, self.weights_digest())

    def train(self, mode: bool = True) -> TextEncoder:
        return super().train(False)  # frozen: never in training mode, so never with dropout

    def tokenize_prompt(self, prompt: str) -> Tokens:
        """The tokens of one prompt, cut to `max_length`.

        Which token belongs to which word is read off the characters that the tokenizer says it
        covers: decoding and counting would fail for words of several pieces.
        """
        (prompt,) = check_prompts(prompt)
        with TOKENIZING:
            encoding = self.tokenizer(
                prompt,
                truncation=True,
                max_length=self.max_length,
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
            )
        word_ids, spans = assign_tokens_to_words(
            prompt, encoding["offset_mapping"], encoding["special_tokens_mask"]
        )
        return Tokens(
            tuple(encoding["input_ids"]),
            tuple(self.tokenizer.convert_ids_to_tokens(encoding["input_ids"])),
            tuple(word_ids),
            tuple(prompt[start:end] for start, end in spans),
        )

    def forward(self, prompts: str | Sequence[str]) -> TextEmbeddings:
        """Encode prompts, padded to the longest of them.

        A prompt of more than `max_length` tokens is cut, with a warning that shows the text
        removed.

        Args:
            prompts: one, or a non-empty list.

        Returns:
            Embeddings [b, n, d], zero at padding.

        Raises:
            TypeError, ValueError: for what is no text, see `check_prompts`.
        """
        return self.encode(*tokenize(self.tokenizer, self.max_length, prompts))

    def tokenize_fn(self) -> Callable[[Sequence[str]], tuple[Tensor, Tensor]] | None:
        """A function from prompts to the arguments of `encode`, for another process to call: to
        tokenize can take longer than the network. None: pass the prompts themselves.
        """
        return partial(tokenize, self.tokenizer, self.max_length)

    @torch.no_grad()
    def encode(self, ids: Tensor, mask: Tensor) -> TextEmbeddings:
        """Encode tokens.

        Args:
            ids: numbers in the vocabulary [b, n].
            mask: bool [b, n], True is a real token.

        Returns:
            Embeddings [b, n, d], zero at padding.
        """
        half = self.model.dtype == torch.float16
        if half and self.model.config.model_type in T5_FAMILY:
            raise ValueError("T5 overflows in float16; use torch.bfloat16 or torch.float32")
        ids, mask = (x.to(self.model.device, non_blocking=True) for x in (ids, mask))
        emb = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        if half and not emb[mask].isfinite().all():
            raise ValueError(
                f"this text encoder ({self.model.config.model_type}) overflows in float16; use "
                "torch.bfloat16 or torch.float32"
            )
        return TextEmbeddings(emb * mask[:, :, None], mask)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, max_length: int, prompts: str | Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Tokens of prompts, padded behind to the longest; a prompt that is too long is cut, with a
    warning.

    Args:
        tokenizer: of the fast kind.
        max_length: in tokens.
        prompts: one, or a non-empty list.

    Returns:
        ids [b, n], and which of them are real, bool [b, n].
    """
    prompts = check_prompts(prompts)
    with TOKENIZING:
        encoding = tokenizer(
            prompts,
            truncation=True,
            max_length=max_length,
            padding=True,
            padding_side="right",  # language models pad in front by default
            return_tensors="pt",
            return_offsets_mapping=True,
        )
    if encoding["input_ids"].shape[1] == max_length:
        for prompt, offsets in zip(prompts, encoding["offset_mapping"].tolist()):
            rest = prompt[max(end for _, end in offsets) :].strip()
            if rest:
                warnings.warn(
                    f"the prompt has more than {max_length} tokens; left out: "
                    f"{rest[:60]!r}{' ...' if len(rest) > 60 else ''}",
                    stacklevel=3,
                )
    ids, mask = encoding["input_ids"], encoding["attention_mask"].bool()
    if ids.shape[1] == 0:  # empty prompts alone, of an encoder without special tokens
        ids = torch.full((len(prompts), 1), tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids, dtype=torch.bool)
    # attention needs something to attend to: of an empty row its first padding
    mask[:, 0] |= ~mask.any(1)
    return ids, mask
