"""A text encoder that knows nothing: the vector of a word is a one at the word's own place.

It is a T5 without layers, so it is saved and loaded as any other encoder. Words that no training
caption has share one vector. Nothing is known of a word's neighbours, of its spelling, or of its
likeness to other words.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from imagen_mini.text.encoder import TextEncoder
from imagen_mini.text.words import word_spans

PADDING, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def one_hot_encoder(captions: Iterable[str]) -> TextEncoder:
    """A text encoder whose width is the number of different words.

    Args:
        captions: Their words are known.

    Returns:
        The encoder. A vector is the square root of its width at the number of its token, else 0,
        so that its values have the mean square 1, as after T5's last norm.
    """
    # 1. the words, after the special tokens
    words = sorted({caption[a:b].lower() for caption in captions for a, b in word_spans(caption)})
    vocabulary = {word: i for i, word in enumerate((PADDING, END, UNKNOWN, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, 1)]
    )
    # 2. a table that is the identity, and no layer
    width = len(vocabulary)
    config = T5Config(
        vocab_size=width,
        d_model=width,
        num_layers=0,
        num_heads=1,
        d_kv=8,
        d_ff=8,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = T5EncoderModel(config)
    with torch.no_grad():
        model.shared.weight.copy_(torch.eye(width))
    return TextEncoder(
        model,
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token=PADDING,
            eos_token=END,
            unk_token=UNKNOWN,
            model_max_length=512,
        ),
    )
