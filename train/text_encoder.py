"""Pre-train the shipped text encoder: a T5 of about one million parameters, by span corruption on
text of the built-in world.

    python -m train.text_encoder --out runs/text_encoder

Text only, as in Imagen: the encoder never sees an image. Spans of the input are replaced by
sentinels, and the decoder writes what they hid. Only the encoder is kept.

Reference: T5 (Raffel et al., 2020), arXiv 1910.10683, Section 3.1.4.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from imagen_mini.evaluation.linear_probe import linear_probe
from imagen_mini.scenes.corpus import sample_corpus_line
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.optimizers import Muon
from imagen_mini.utils.scripts import check_output_folder, integer, number, run_script

SENTINELS = 16
TRAINING_HISTORY = "training.json"  # beside the encoder: how it was trained, run by run


def train_tokenizer(vocab_size: int = 768, lines: int = 20_000) -> PreTrainedTokenizerFast:
    """Train a BPE tokenizer without unknown characters: what it has no piece for is split into
    bytes.

    Args:
        vocab_size: pieces, the 256 bytes and the special tokens included.
        lines: how many lines of the corpus to train on.
    """
    # 1. Pieces, from text of the built-in world.
    special = ["<pad>", "</s>", "<unk>"] + [f"<extra_id_{i}>" for i in range(SENTINELS)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    rng = random.Random("tokenizer")
    corpus = (sample_corpus_line(rng) for _ in range(lines))
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocab_size - 256,
            special_tokens=special,
            initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789.,'-"),
            show_progress=False,
        ),
    )

    # 2. One more piece for each byte.
    state = json.loads(tokenizer.to_str())["model"]
    vocab = state["vocab"] | {f"<0x{byte:02X}>": len(state["vocab"]) + byte for byte in range(256)}
    tokenizer.model = models.BPE(
        vocab=vocab,
        merges=[tuple(m) for m in state["merges"]],
        unk_token="<unk>",
        byte_fallback=True,
    )
    # 3. Every text ends with the end token.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=special[3:],
        model_max_length=512,
    )


def corrupt(
    ids: list[int],
    rng: random.Random,
    first_sentinel: int,
    rate: float = 0.25,
    mean_span: float = 2.0,
) -> tuple[list[int], list[int]]:
    """Span corruption of one line.

    Args:
        ids: its tokens, without the end token.
        rng: decides which spans are hidden.
        first_sentinel: the number of the first sentinel; the others follow it.
        rate: rate / mean_span is the chance that a span begins at a token. After a span one token
            is always kept, so the defaults hide a fifth of the tokens and not a quarter.
        mean_span: tokens in a hidden span, on average.

    Returns:
        The input, with a sentinel for each hidden span, and the target, each sentinel followed by
        what it hid; both without end tokens.
    """
    inputs, target, sentinel, i = [], [], 0, 0
    while i < len(ids):
        if rng.random() < rate / mean_span and sentinel < SENTINELS:
            span = 1 + int(rng.expovariate(1 / (mean_span - 0.5)))
            mark = first_sentinel + sentinel
            inputs.append(mark)
            target += [mark, *ids[i : i + span]]
            sentinel, i = sentinel + 1, i + span
        inputs += ids[i : i + 1]
        i += 1
    return inputs, target


def pad(rows: list[list[int]], value: int) -> Tensor:
    """Rows of different lengths as one tensor [rows, longest], filled up with `value`."""
    n = max(map(len, rows))
    return torch.tensor([row + [value] * (n - len(row)) for row in rows])


def pretrain(
    tokenizer,
    config: T5Config,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    time_limit: float,
    init: T5EncoderModel | None = None,
) -> tuple[T5ForConditionalGeneration, dict]:
    """Train a T5 to fill in hidden spans.

    Args:
        tokenizer: of `train_tokenizer`.
        config: of the model.
        steps: at most this many.
        batch: lines of text a step.
        lr: highest learning rate; it falls linearly to 2 % of itself.
        seed: of the initial weights and of the corpus.
        time_limit: in seconds; the learning rate reaches its end with it, if it comes before
            `steps`.
        init: an encoder to start from (default None: random weights).

    Returns:
        The model, and what the run took: steps, seconds, loss.
    """
    # 1. The model; Muon for its matrices, AdamW for the rest.
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config).train()
    if init is not None:
        model.load_state_dict(init.state_dict(), strict=False)
    matrices = [
        p
        for name, p in model.named_parameters()
        if p.ndim == 2 and "shared" not in name and "bias" not in name
    ]
    chosen = {id(p) for p in matrices}
    optimizers = [
        Muon(matrices, lr),
        torch.optim.AdamW(
            [p for p in model.parameters() if id(p) not in chosen], lr=lr, weight_decay=0.0
        ),
    ]
    # 2. The loop.
    first_sentinel, end = tokenizer.convert_tokens_to_ids("<extra_id_0>"), tokenizer.eos_token_id
    rng, start, average = random.Random(f"corpus/{seed}"), time.monotonic(), None
    bar = tqdm(range(steps), desc="text encoder")
    for step in bar:
        spent = (time.monotonic() - start) / time_limit
        if spent >= 1:
            break
        progress = max(step / steps, spent)
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = lr * min((step + 1) / 200, 1.0) * max(1 - progress, 0.02)
        lines = tokenizer(
            [sample_corpus_line(rng) for _ in range(batch)], add_special_tokens=False
        )["input_ids"]
        pairs = [corrupt(ids, rng, first_sentinel) for ids in lines]
        inputs = pad([a + [end] for a, _ in pairs], tokenizer.pad_token_id)
        labels = pad([b + [end] for _, b in pairs], -100)
        loss = model(
            input_ids=inputs, attention_mask=inputs != tokenizer.pad_token_id, labels=labels
        ).loss
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{average:.3f}")
    return model, {
        "steps": step + 1,
        "seconds": round(time.monotonic() - start),
        "loss": round(average, 4),
    }


def small_config(vocab_size: int) -> T5Config:
    """The configuration of the shipped encoder."""
    return T5Config(
        vocab_size=vocab_size,
        d_model=128,
        d_kv=32,
        num_heads=4,
        d_ff=352,
        num_layers=4,
        num_decoder_layers=1,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=64,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Pre-train the shipped T5 on text of the built-in world."
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/text_encoder"),
        help="folder for the encoder and its tokenizer",
    )
    parser.add_argument("--steps", type=integer(low=1), default=4000)
    parser.add_argument("--batch", type=integer(low=1), default=96, help="lines of text a step")
    parser.add_argument("--lr", type=number(above=0), default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--time-limit",
        type=number(above=0),
        default=3600,
        help="seconds; the learning rate reaches its end with it",
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        help="resume from an encoder (its decoder is trained from scratch)",
    )
    args = parser.parse_args(arguments)
    check_output_folder(args.out)

    # 1. Tokenizer and model, trained.
    start = None if args.init_from is None else TextEncoder.from_pretrained(args.init_from)
    tokenizer = train_tokenizer() if start is None else start.tokenizer
    config = small_config(len(tokenizer))
    model, log = pretrain(
        tokenizer,
        config,
        args.steps,
        args.batch,
        args.lr,
        args.seed,
        args.time_limit,
        start and start.model,
    )
    # 2. The encoder alone, saved with its history.
    encoder = T5EncoderModel(config)
    missing = encoder.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith(("decoder", "lm_head"))},
        strict=False,
    )
    assert not missing.missing_keys, missing
    trained = TextEncoder(encoder, tokenizer)
    trained.save_pretrained(args.out)
    phases = (
        json.loads((args.init_from / TRAINING_HISTORY).read_text())
        if args.init_from and (args.init_from / TRAINING_HISTORY).is_file()
        else []
    )
    phases.append(
        log
        | {
            "batch": args.batch,
            "learning_rate": args.lr,
            "seed": args.seed,
            "device": f"CPU, {torch.get_num_threads()} threads",
        }
    )
    (args.out / TRAINING_HISTORY).write_text(json.dumps(phases, indent=1) + "\n")
    print(
        f"{sum(p.numel() for p in encoder.parameters()):,} parameters, {log}, saved in {args.out}"
    )
    # 3. What it knows that random weights do not.
    print("probe, trained:", linear_probe(trained))
    torch.manual_seed(args.seed)
    print("probe, random: ", linear_probe(TextEncoder(T5EncoderModel(config), tokenizer)))


if __name__ == "__main__":
    run_script(main)
