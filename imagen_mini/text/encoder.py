"""The frozen text encoder: a T5 encoder, its tokens, and which tokens make up which word.

Source: Imagen (2022), Section 2.1: a large frozen language model trained on text only encodes the
prompt.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

MAX_LENGTH = 128  # tokens; the paper does not state its limit
NO_FLOAT16 = "T5 overflows in float16; use torch.bfloat16 or torch.float32"


@dataclass(frozen=True)
class TextEmbeddings:
    """Encoded prompts. `emb` [b, n, d]; `mask` bool [b, n], True is a real token. Every row has at
    least one.
    """

    emb: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.emb)

    def __getitem__(self, rows) -> TextEmbeddings:
        return TextEmbeddings(self.emb[rows], self.mask[rows])

    def to(self, *args, **kwargs) -> TextEmbeddings:
        emb = self.emb.to(*args, **kwargs)
        return TextEmbeddings(emb, self.mask.to(emb.device))

    def null(self) -> TextEmbeddings:
        """The unconditional text: embeddings zeroed (Imagen, Section 4.1: conditioning is dropped
        by zeroing).
        """
        return TextEmbeddings(torch.zeros_like(self.emb), self.mask)

    def pad(self, n: int) -> TextEmbeddings:
        """`n` more tokens, which are not there."""
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
    """The tokens of one prompt: their `ids`, the text of each `pieces`, the word each belongs to
    (`word_ids`, None for the end token), and the `words` themselves as the prompt has them.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    word_ids: tuple[int | None, ...]
    words: tuple[str, ...]

    def positions_of_word(self, word: int) -> list[int]:
        """Positions of the tokens of word number `word`."""
        return [i for i, w in enumerate(self.word_ids) if w == word]


def check_prompts(prompts: str | Sequence[str]) -> list[str]:
    """One string or several -> a list of strings that can be encoded; TypeError or ValueError for
    anything else.

    Line breaks, tabs and spaces in a row become one space, as in T5's own vocabulary: they are no
    words.
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, (list, tuple)) or not prompts:
        raise TypeError(
            "a prompt must be a string or a non-empty list of strings; got "
            f"{type(prompts).__name__}. "
            "Decode bytes first, for example data.decode('utf-8')"
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
    """A frozen T5 encoder. Make one with `TextEncoder.from_pretrained`."""

    def __init__(self, model: nn.Module, tokenizer, max_length: int = MAX_LENGTH):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_length = max_length

    @classmethod
    def from_pretrained(
        cls, path: str | Path, dtype: torch.dtype = torch.float32, max_length: int = MAX_LENGTH
    ) -> TextEncoder:
        """Load any T5 encoder in Hugging Face format: a local folder (no network is touched) or a
        hub name.

        float16 is refused: T5's feed-forward overflows in it. A local folder that is no T5 encoder,
        or not all of one, is a ValueError.
        """
        from transformers import AutoTokenizer, T5EncoderModel
        from transformers.utils import logging

        if dtype == torch.float16:
            raise ValueError(NO_FLOAT16)
        local = Path(path).is_dir()
        if local:
            logging.disable_progress_bar()  # nothing to wait for
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=local)
            model, info = T5EncoderModel.from_pretrained(
                path,
                dtype=dtype,
                local_files_only=local,
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as error:  # a folder may hold anything, and so may what the library raises
            if not local:
                raise
            raise ValueError(
                f"{path} cannot be read as a T5 text encoder ({type(error).__name__}: {error})"
            ) from error
        # which the library would fill with random numbers
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"{path} is not all of a T5 text encoder: {len(missing)} tensors are missing, "
                f"the first is {missing[0]!r}"
            )
        return cls(model, tokenizer, max_length)

    def save_pretrained(self, path: str | Path) -> None:
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)

    @property
    def width(self) -> int:
        """Size of a token's embedding."""
        return self.model.config.d_model

    def weights_digest(self) -> str:
        """A short hash of the vocabulary and of the weights, rounded to bfloat16: the same in
        float32 and bfloat16, and with any library that loads them. A stage says by it which text
        encoder it was trained with.
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

    def train(self, mode: bool = True) -> TextEncoder:
        return super().train(False)  # frozen: never in training mode, so never with dropout

    def tokens(self, prompt: str) -> Tokens:
        """The tokens of one prompt, with the tokenizer's own word ids: never decode and count."""
        (prompt,) = check_prompts(prompt)
        encoding = self.tokenizer(prompt, truncation=True, max_length=self.max_length)
        word_ids = encoding.word_ids(0)
        count = max((w for w in word_ids if w is not None), default=-1) + 1
        spans = [encoding.word_to_chars(0, w) for w in range(count)]
        return Tokens(
            tuple(encoding["input_ids"]),
            tuple(self.tokenizer.convert_ids_to_tokens(encoding["input_ids"])),
            tuple(word_ids),
            tuple(prompt[s.start : s.end].strip() for s in spans),
        )

    def forward(self, prompts: str | Sequence[str]) -> TextEmbeddings:
        """Encode prompts, padded to the longest of them: Text with emb [b, n, d]. Embeddings at
        padding are zero.

        A prompt of more than `max_length` tokens is cut, with a warning that shows the text
        removed.
        """
        return self.encode(*tokenize(self.tokenizer, self.max_length, prompts))

    def tokenize_fn(self) -> Callable[[Sequence[str]], tuple[Tensor, Tensor]] | None:
        """prompts -> what `encode` takes, for another process to call: reading words can take
        longer than the network. None: give the prompts themselves.
        """
        return partial(tokenize, self.tokenizer, self.max_length)

    @torch.no_grad()
    def encode(self, ids: Tensor, mask: Tensor) -> TextEmbeddings:
        """Encode tokens [b, n], of which `mask` (bool) says which are real."""
        if self.model.dtype == torch.float16:
            raise ValueError(NO_FLOAT16)
        ids, mask = (x.to(self.model.device, non_blocking=True) for x in (ids, mask))
        emb = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return TextEmbeddings(emb * mask[:, :, None], mask)


def tokenize(tokenizer, max_length: int, prompts: str | Sequence[str]) -> tuple[Tensor, Tensor]:
    """Tokens [b, n] and which of them are real, bool [b, n]; a prompt that is too long is cut, with
    a warning.
    """
    prompts = check_prompts(prompts)
    encoding = tokenizer(
        prompts,
        truncation=True,
        max_length=max_length,
        padding=True,
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
    return encoding["input_ids"], encoding["attention_mask"].bool()
