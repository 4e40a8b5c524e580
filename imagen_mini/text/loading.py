"""A text encoder's model and tokenizer, from a folder in Hugging Face format or from the hub.

Which class of transformers loads it is decided by `model_type` in its config.json. What cannot be
used is refused with the reason: as far as possible before any weights are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "merges.txt")  # files of tokenizers
PICKLES = ("pytorch_model*.bin", "*.pt", "*.ckpt")
# Model types of the T5 family; ByT5 and Flan-T5 call themselves "t5".
T5_FAMILY = ("t5", "mt5", "umt5", "longt5", "t5gemma")
# Classes that transformers' own table of text encoders does not have.
CLASSES = {"t5": "T5EncoderModel", "longt5": "LongT5EncoderModel", "clip": "CLIPTextModel"}
SUPPORTED = (
    f"the T5 family ({', '.join(T5_FAMILY)}; ByT5 is a t5), BERT and its kin (bert, distilbert, "
    "roberta, albert, electra, mpnet, deberta-v2, modernbert, ...), the text model of clip, and "
    "language models with a padding token (gpt2, llama, ...)"
)


def load_model_and_tokenizer(
    path: str | Path, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model that turns tokens into hidden states, and its tokenizer.

    Args:
        path: A local folder (no network is touched) or a hub name.
        dtype: Of the weights.

    Returns:
        The model, and a tokenizer of the fast kind.

    Raises:
        FileNotFoundError: There is no such folder, and the hub has no such model.
        ValueError: It is no text encoder, or not all of one, or overflows in `dtype`.
    """
    from transformers import AutoTokenizer, PretrainedConfig

    local = Path(path).is_dir()
    kind = "text encoder"
    with _quiet(progress=not local):
        try:
            # 1. The configuration says which model it is.
            values, _ = PretrainedConfig.get_config_dict(path, local_files_only=local)
            model_type = values.get("model_type") or ("t5" if "d_kv" in values else None)
            kind = {None: kind, "t5": "T5 text encoder"}.get(
                model_type, f"text encoder ({model_type})"
            )
            problem = _problem_of_type(model_type, values) or _problem_of_dtype(model_type, dtype)
            if problem is None:
                # 2. Tokenizer and weights.
                tokenizer = AutoTokenizer.from_pretrained(
                    path, local_files_only=local, trust_remote_code=False
                )
                model, loading = _model_class(str(model_type)).from_pretrained(
                    path,
                    dtype=dtype,
                    local_files_only=local,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
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
            raise ValueError(
                f"{path} cannot be read as a {kind} ({_hint(Path(path), error)}"
                f"{type(error).__name__}: {error})"
            ) from error
    if problem is not None:
        raise ValueError(f"{path} is no text encoder that can be used here: {problem}")
    # 3. All weights are there. The library would fill missing ones with random numbers.
    missing = sorted(loading["missing_keys"])
    if missing and all(name.startswith("pooler.") for name in missing):
        model.pooler, missing = None, []  # many a BERT comes without it, and nobody needs it
    if missing:
        raise ValueError(
            f"{path} is not all of a {kind}: {len(missing)} tensors are missing, the first is "
            f"{missing[0]!r}. Its weights are of another model than its config.json says, or a "
            "file was not copied; save the model again with save_pretrained"
        )
    # 4. It is of use here.
    with_words = _with_words(tokenizer)
    if problem := _problem_of_model(model, with_words):
        raise ValueError(f"{path} is no text encoder that can be used here: {problem}")
    return model, with_words


@contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Without the library's list of weights that it does not use, as those of a decoder."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    if not progress:
        logging.disable_progress_bar()  # nothing to wait for
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _model_class(model_type: str):
    """The class of transformers that loads the text encoder of this type of model."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    if model_type in CLASSES:
        return getattr(transformers, CLASSES[model_type])
    if model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
        return transformers.AutoModelForTextEncoding
    return transformers.AutoModel


def _problem_of_type(model_type: str | None, config: dict[str, Any]) -> str | None:
    """Why a model of this type is no text encoder; None: it may be one."""
    from transformers import __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    if model_type is None:
        return (
            "its config.json has no model_type, which says what model it is; add it, for example "
            f'"model_type": "bert". Supported are {SUPPORTED}'
        )
    said = f"its model_type is {model_type!r}"
    if model_type in CLASSES or model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
        return None
    if model_type not in CONFIG_MAPPING_NAMES or model_type not in MODEL_MAPPING_NAMES:
        own = " and the code that comes with a model is not run" if "auto_map" in config else ""
        return (
            f"{said}, which transformers {__version__} does not know{own}. Supported are "
            f"{SUPPORTED}"
        )
    if "text_config" in config:
        return (
            f"{said}, and {MODEL_MAPPING_NAMES[model_type]} is more than a text model; save its "
            f"text model by itself. Supported are {SUPPORTED}"
        )
    if config.get("is_encoder_decoder"):
        return (
            f"{said}, and {MODEL_MAPPING_NAMES[model_type]} has a decoder; of such models only "
            f"the T5 family can be used. Supported are {SUPPORTED}"
        )
    return None


def _problem_of_dtype(model_type: str | None, dtype: torch.dtype) -> str | None:
    """Why this model does not run in this dtype; None: nothing is known against it."""
    if dtype == torch.float16 and model_type in T5_FAMILY:
        return (
            f"its model_type is {model_type!r}, and T5 overflows in float16; use torch.bfloat16 "
            "or torch.float32"
        )
    return None


def _hint(folder: Path, error: BaseException) -> str:
    """What is likely to help, as the beginning of a message; "" where nothing is known."""
    if not any(next(folder.glob(name), None) for name in VOCABULARIES):
        return "it has no tokenizer: add its tokenizer.json; "
    if next(folder.glob("*.model"), None) and "sentencepiece" in str(error).lower():
        return (
            "its tokenizer is in sentencepiece's format: pip install sentencepiece protobuf, or "
            "save it as a tokenizer.json; "
        )
    if next(folder.glob("*.safetensors"), None) is None:
        pickled = next((f for name in PICKLES for f in folder.glob(name)), None)
        if pickled is not None:
            return (
                f"{pickled.name} is a pickle, which can run code and is not read: load it where "
                "you trust it, and save it with save_pretrained as safetensors; "
            )
    return ""


def _with_words(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer itself, or an equal one that knows which characters each token covers."""
    from transformers import ByT5Tokenizer

    return fast_byte_tokenizer(tokenizer) if isinstance(tokenizer, ByT5Tokenizer) else tokenizer


def fast_byte_tokenizer(slow: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """ByT5's tokenizer in the fast form, which knows where its tokens stand.

    Each byte of the text is a token. The library has ByT5 in the slow form only. This is a
    byte-pair encoding without pairs, so every character falls back to its bytes.

    Args:
        slow: A `transformers.ByT5Tokenizer`.

    Returns:
        A tokenizer with the same numbers for the same text.

    Reference: ByT5 (Xue et al., 2021), arXiv 2105.13626.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    # 1. The numbers of the special tokens and of the 256 bytes.
    numbers = slow.get_vocab()
    special = {str(token): number for number, token in sorted(slow.added_tokens_decoder.items())}
    byte = {f"<0x{b:02X}>": numbers[chr(b)] for b in range(256)}
    backend = Tokenizer(
        models.BPE(
            vocab=special | byte, merges=[], unk_token=str(slow.unk_token), byte_fallback=True
        )
    )
    backend.add_special_tokens([AddedToken(name, special=True) for name in special])
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    # 2. Every text ends with the end token.
    end = str(slow.eos_token)
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, special[end])]
    )
    named = {str(t) for t in (slow.pad_token, slow.eos_token, slow.unk_token)}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=str(slow.pad_token),
        eos_token=end,
        unk_token=str(slow.unk_token),
        extra_special_tokens=[name for name in special if name not in named],
    )


def reads_bytes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True for a tokenizer whose tokens are single bytes."""
    return len(tokenizer) < 512 and "<0x00>" in tokenizer.get_vocab()


def _problem_of_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why this model does not turn tokens into hidden states [b, n, d]; None: it does."""
    config = model.config
    if not tokenizer.is_fast:
        return (
            f"{type(tokenizer).__name__} is no fast tokenizer, so it does not know its words; "
            "save it as a tokenizer.json"
        )
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
    if config.model_type in T5_FAMILY:
        return None
    # one token in, one vector out
    ids = torch.full((1, 2), max(0, min(vocabulary[t] for t in set(vocabulary) - special)))
    try:
        with torch.no_grad():
            states = model.eval()(
                input_ids=ids, attention_mask=torch.ones_like(ids)
            ).last_hidden_state
        shape = list(states.shape)
    except Exception as error:
        return (
            f"its model_type is {config.model_type!r}, and {type(model).__name__} does not turn "
            f"tokens into hidden states ({type(error).__name__}: {error}). Supported are "
            f"{SUPPORTED}"
        )
    expected = [1, 2, getattr(config, "hidden_size", None)]
    if shape != expected:
        return (
            f"its model_type is {config.model_type!r}, and the hidden states of "
            f"{type(model).__name__} for 2 tokens are {shape}, expected {expected}. Supported "
            f"are {SUPPORTED}"
        )
    return None


def last_position(model: PreTrainedModel) -> int | None:
    """The largest number of tokens that a model has positions for; None: any number.

    A table of positions has an end; T5's relative positions have none. RoBERTa and its kin count
    positions from behind the padding's number.
    """
    size = getattr(model.config, "max_position_embeddings", None)
    if size is None:
        return None
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    first = getattr(table, "padding_idx", None)
    return size if first is None else size - first - 1
