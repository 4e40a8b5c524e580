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

if TYPE_CHECKING:  # transformers takes seconds to import, so only `from_pretrained` does
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_LENGTH = 128  # tokens; the paper does not state its limit
# A tokenizer keeps in itself whether it pads and cuts, and each call switches that. So one thread
# calls at a time; to tokenize takes far less time than to encode.
TOKENIZING = threading.Lock()
VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "merges.txt")  # files of tokenizers
NO_FLOAT16 = (
    "T5 overflows in float16, so no text encoder runs in it; use torch.bfloat16 or torch.float32"
)


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


def check_prompts(prompts: str | Sequence[str]) -> list[str]:
    """One string or several -> a list of strings that can be encoded.

    Line breaks, tabs and spaces in a row become one space, as in T5's vocabulary: they are no
    words.

    Raises:
        TypeError: for anything but a string or a non-empty list of strings.
        ValueError: for a string that is no text.
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
    """A frozen text encoder of Hugging Face transformers, T5 by default. Make one with
    `TextEncoder.from_pretrained`.

    Args:
        model: returns `last_hidden_state` [b, n, d] for `input_ids` and `attention_mask`.
        tokenizer: the model's, of the fast kind, which knows where each word stands.
        max_length: prompts of more tokens are cut (default 128); never more than the model has
            positions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = MAX_LENGTH,
    ):
        super().__init__()
        self.model: PreTrainedModel = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        # A table of positions has an end; T5's relative positions have none.
        positions = getattr(model.config, "max_position_embeddings", None)
        self.max_length = (
            max_length
            if positions is None
            else min(max_length, positions, tokenizer.model_max_length)
        )

    @classmethod
    def from_pretrained(
        cls, path: str | Path, dtype: torch.dtype = torch.float32, max_length: int = MAX_LENGTH
    ) -> TextEncoder:
        """Load a text encoder in Hugging Face format: T5 and its kin, BERT, the text model of CLIP,
        or a language model.

        Args:
            path: a local folder (no network is touched) or a hub name.
            dtype: torch.float32 (default) or torch.bfloat16.
            max_length: prompts of more tokens are cut (default 128).

        Raises:
            ValueError: for float16, in which T5's feed-forward overflows, and for a local folder
                that is no text encoder, or not all of one.
        """
        from transformers import AutoTokenizer, PretrainedConfig
        from transformers.utils import logging

        if dtype == torch.float16:
            raise ValueError(NO_FLOAT16)
        local = Path(path).is_dir()
        if local:
            logging.disable_progress_bar()  # nothing to wait for
        kind = "text encoder"
        try:
            # 1. The configuration says which model it is.
            config, _ = PretrainedConfig.get_config_dict(path, local_files_only=local)
            model_type = config.get("model_type", "t5")
            kind = "T5 text encoder" if model_type == "t5" else f"text encoder ({model_type})"
            # 2. Tokenizer and weights.
            tokenizer = AutoTokenizer.from_pretrained(
                path, local_files_only=local, trust_remote_code=False
            )
            loaded = _model_class(model_type).from_pretrained(
                path,
                dtype=dtype,
                local_files_only=local,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            model, missing = loaded[0], sorted(loaded[1]["missing_keys"])
        except BaseException as error:  # a folder may hold anything
            # and so may what the libraries raise: a panic of Rust is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            if not local:
                reason = str(error).strip().partition("\n")[0]
                raise FileNotFoundError(
                    f"no text encoder {path}: there is no such folder in {Path.cwd()}, and it "
                    f"could not be loaded from the Hugging Face hub ({type(error).__name__}: "
                    f"{reason})"
                ) from error
            has_vocabulary = any(next(Path(path).glob(name), None) for name in VOCABULARIES)
            hint = "" if has_vocabulary else "it has no tokenizer: add its tokenizer.json; "
            raise ValueError(
                f"{path} cannot be read as a {kind} ({hint}{type(error).__name__}: {error})"
            ) from error
        # 3. All weights are there. The library would fill missing ones with random numbers.
        if missing and all(name.startswith("pooler.") for name in missing):
            model.pooler, missing = None, []  # many a BERT comes without it, and nobody needs it
        if missing:
            raise ValueError(
                f"{path} is not all of a {kind}: {len(missing)} tensors are missing, "
                f"the first is {missing[0]!r}"
            )
        # 4. It is of use here.
        if problem := _problem(model, tokenizer):
            raise ValueError(f"{path} is no text encoder that can be used here: {problem}")
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

    def train(self, mode: bool = True) -> TextEncoder:
        return super().train(False)  # frozen: never in training mode, so never with dropout

    def tokenize_prompt(self, prompt: str) -> Tokens:
        """The tokens of one prompt, cut to `max_length`.

        Which token belongs to which word is the tokenizer's to say: decoding and counting would
        fail for words of several pieces.
        """
        (prompt,) = check_prompts(prompt)
        with TOKENIZING:
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
        if self.model.dtype == torch.float16:
            raise ValueError(NO_FLOAT16)
        ids, mask = (x.to(self.model.device, non_blocking=True) for x in (ids, mask))
        emb = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return TextEmbeddings(emb * mask[:, :, None], mask)


def _model_class(model_type: str):
    """The class of transformers that loads the text encoder of this type of model."""
    from transformers import AutoModel, AutoModelForTextEncoding, T5EncoderModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    if model_type == "t5":
        return T5EncoderModel
    return (
        AutoModelForTextEncoding
        if model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
        else AutoModel
    )


def _problem(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why this model does not turn tokens into hidden states [b, n, d]; None: it does."""
    config = model.config
    if hasattr(config, "text_config"):
        return f"{type(model).__name__} is more than a text model; save its text model by itself"
    if config.is_encoder_decoder and not type(model).__name__.endswith("EncoderModel"):
        return (
            f"{type(model).__name__} has a decoder; of such models only the T5 family can be used"
        )
    if not tokenizer.is_fast:
        return f"{type(tokenizer).__name__} is no fast tokenizer, so it does not know its words"
    if tokenizer.pad_token is None:
        return f"{type(tokenizer).__name__} has no padding token; set its pad_token and save it"
    # the library makes up a vocabulary of special tokens where it finds no file with one
    vocabulary = tokenizer.get_vocab()
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if len(set(vocabulary) - special) < 2:
        return (
            f"its tokenizer has no vocabulary ({len(vocabulary)} tokens, none of which are of "
            "text), so all captions would be alike; add its tokenizer.json, or save the tokenizer "
            "of the model to the same folder"
        )
    known = getattr(config, "vocab_size", None)
    if known is not None and (largest := max(vocabulary.values())) >= known:
        return (
            f"its tokenizer is that of another model: token {largest} is beyond the {known} that "
            "the model knows"
        )
    return None


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
    return encoding["input_ids"], encoding["attention_mask"].bool()
