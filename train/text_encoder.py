"""Pre-train a text encoder: a T5 of one to four million parameters, by span corruption on text of
the built-in worlds.

    python -m train.text_encoder --out runs/text_encoder
    python -m train.text_encoder --corpus text --size large --out runs/text_encoder_text
    python -m train.probe_text_encoder runs/text_encoder_text

Text only, as in Imagen: the encoder never sees an image. Spans of the input are replaced by
sentinels, and the decoder writes what they hid. Only the encoder is kept.

There are three corpora. `scenes` is what the shipped encoder has read: captions of the flat world,
and sentences about their words. `captions` is training captions of both worlds, and nothing else.
`text` is text that is no caption, with words that no image shows.

Reference: T5 (Raffel et al., 2020), arXiv 1910.10683, Section 3.1.4. Pieces that are split at
random: BPE-dropout (Provilkov et al., 2020), arXiv 1910.13267.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from imagen_mini.evaluation.linear_probe import linear_probe
from imagen_mini.scenes.corpus import sample_corpus_line
from imagen_mini.scenes.prose.lines import prose_line
from imagen_mini.scenes.world import WORLDS
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.utils.devices import available_device, device_name
from imagen_mini.utils.scripts import (
    FIGURES,
    check_output_file,
    check_output_folder,
    integer,
    number,
    run_script,
)
from imagen_mini.viz.style import STYLES, save_figure, subplots
from imagen_mini.weights import shipped_text_encoders
from train.text_encoder_loop import fit

SENTINELS = 16
HELD_OUT_LINES = 256  # of the corpus, on which the loss is measured
PARTS = 4  # of a batch: lines of like length go through the network together
# Depths and inner widths. All have vectors of width 128, so a network can go on with another one.
SIZES = {
    "small": {"num_layers": 4, "d_ff": 352},
    "medium": {"num_layers": 8, "d_ff": 352},
    "large": {"num_layers": 12, "d_ff": 512},
}


def training_caption_line(rng: random.Random) -> str:
    """A training caption of a random built-in world."""
    world, index = WORLDS[rng.choice(tuple(WORLDS))], rng.getrandbits(40)
    return world.training_caption(world.training_scene(0, index), 0, index).text


# What can be read: a function from a source of randomness to a line.
CORPORA: dict[str, Callable[[random.Random], str]] = {
    "scenes": sample_corpus_line,
    "captions": training_caption_line,
    "text": lambda rng: prose_line(0, rng.getrandbits(40)),
}
# Pieces of the vocabulary, the 256 bytes and the special tokens included.
VOCABULARY_SIZES = {"scenes": 768, "captions": 768, "text": 1280}
TRAINING_HISTORY = "training.json"  # beside the encoder: how it was trained, run by run


def train_tokenizer(
    vocab_size: int = 768,
    lines: int = 20_000,
    line: Callable[[random.Random], str] = sample_corpus_line,
) -> PreTrainedTokenizerFast:
    """Train a BPE tokenizer without unknown characters: what it has no piece for is split into
    bytes.

    Args:
        vocab_size: pieces, the 256 bytes and the special tokens included.
        lines: how many lines of the corpus to train on.
        line: one of `CORPORA` (default: that of `scenes`).
    """
    # 1. Pieces, from text of the built-in world.
    special = ["<pad>", "</s>", "<unk>"] + [f"<extra_id_{i}>" for i in range(SENTINELS)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    rng = random.Random("tokenizer")
    corpus = (line(rng) for _ in range(lines))
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
    line: Callable[[random.Random], str] = sample_corpus_line,
    bpe_dropout: float = 0.0,
    device: str = "cpu",
    eval_every: int = 200,
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
        line: one of `CORPORA` (default: that of `scenes`).
        bpe_dropout: how often a pair of pieces stays unmerged, in [0, 1] (default: 0), so that
            words are read in other pieces each time, as a misspelt one would be.
        device: where to train (default: "cpu").
        eval_every: steps between two measurements on lines that are not trained on (default: 200).

    Returns:
        The model, and what the run took: steps, seconds, loss, the held-out loss, and the curve,
        a list of [step, seconds, loss, held-out loss]. Ctrl-C ends the run early.
    """
    # 1. The model.
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config).train()
    if init is not None:
        model.load_state_dict(init.state_dict(), strict=False)
    model.to(device)
    # 2. Lines to learn from, and others to measure on.
    rng, held_out = random.Random(f"corpus/{seed}"), random.Random("held out")
    unseen = span_batches(tokenizer, [line(held_out) for _ in range(HELD_OUT_LINES)], held_out)
    merges = tokenizer.backend_tokenizer.model

    def learn() -> float:
        merges.dropout = bpe_dropout or None
        try:
            batches = span_batches(tokenizer, [line(rng) for _ in range(batch)], rng)
        finally:
            merges.dropout = None
        loss = 0.0
        for part in denoising_losses(model, batches, device):
            part.backward()
            loss += part.item()
        return loss

    @torch.no_grad()
    def measure() -> float:
        losses = denoising_losses(model, unseen, device)
        return round(sum(part.item() for part in losses), 4)

    # 3. The loop.
    log = fit(
        model,
        learn,
        measure,
        steps,
        lr,
        time_limit,
        eval_every,
        warmup=200,
        least=0.02,
        name="text encoder",
    )
    return model, log | {"held_out_loss": log["curve"][-1][3]}


def save_history(folder: Path, start: str | Path | None, phase: dict, device: str) -> list[dict]:
    """Write beside an encoder how it was trained: as the one it started from, and then this phase.

    Args:
        folder: Of the encoder.
        start: The encoder that it started from; None: random weights.
        phase: What the run took, and its settings.
        device: Where it was trained.

    Returns:
        All phases.
    """
    phases = []
    if start is not None:
        history = Path(shipped_text_encoders().get(str(start), start)) / TRAINING_HISTORY
        phases = json.loads(history.read_text()) if history.is_file() else []
    where = available_device(device)
    on_cpu = where.type == "cpu"
    hardware = f"CPU, {torch.get_num_threads()} threads" if on_cpu else device_name(where)
    phases.append(phase | {"device": hardware})
    (folder / TRAINING_HISTORY).write_text(json.dumps(phases, indent=1) + "\n")
    return phases


def span_batches(tokenizer, lines: list[str], rng: random.Random) -> list[tuple[Tensor, Tensor]]:
    """Lines with hidden spans, as batches of like length, so that little is padding.

    Args:
        tokenizer: of `train_tokenizer`.
        lines: of the corpus.
        rng: decides which spans are hidden.

    Returns:
        Inputs and labels [lines, tokens] of each batch. Labels are padded with -100.
    """
    first_sentinel, end = tokenizer.convert_tokens_to_ids("<extra_id_0>"), tokenizer.eos_token_id
    ids = tokenizer(lines, add_special_tokens=False)["input_ids"]
    pairs = sorted((corrupt(of, rng, first_sentinel) for of in ids), key=lambda pair: len(pair[0]))
    edges = [part * len(pairs) // PARTS for part in range(PARTS + 1)]
    return [
        (
            pad([inputs + [end] for inputs, _ in pairs[low:high]], tokenizer.pad_token_id),
            pad([target + [end] for _, target in pairs[low:high]], -100),
        )
        for low, high in zip(edges, edges[1:])
        if low < high
    ]


def denoising_losses(
    model: T5ForConditionalGeneration, batches: list[tuple[Tensor, Tensor]], device: str
) -> Iterator[Tensor]:
    """The share of each batch in the mean cross-entropy of all hidden spans; they add up to it."""
    hidden = sum(int((labels != -100).sum()) for _, labels in batches)
    for inputs, labels in batches:
        inputs, labels = inputs.to(device), labels.to(device)
        mask = inputs != model.config.pad_token_id
        loss = model(input_ids=inputs, attention_mask=mask, labels=labels).loss
        yield loss * ((labels != -100).sum() / hidden)


def small_config(vocab_size: int, size: str = "small") -> T5Config:
    """The configuration of an encoder.

    Args:
        vocab_size: Of its tokenizer.
        size: A key of `SIZES` (default: "small", which is the shipped encoder's).
    """
    return T5Config(
        vocab_size=vocab_size,
        d_model=128,
        d_kv=32,
        num_heads=4,
        **SIZES[size],
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


def size_of(encoder: TextEncoder) -> str:
    """The key of `SIZES` of an encoder.

    Raises:
        ValueError: It has none of these sizes.
    """
    config = encoder.model.config
    for name, size in SIZES.items():
        if all(getattr(config, key, None) == value for key, value in size.items()):
            return name
    raise ValueError(
        f"--init-from: an encoder of {config.model_type} of another size; expected one of "
        f"{', '.join(SIZES)} that this script has trained"
    )


def plot_curve(phases: list[dict], path: Path) -> None:
    """Draw the losses of all phases over the steps.

    That of unseen text is the lower one where pieces are split at random in training alone.

    Args:
        phases: The history of an encoder; a phase without a curve is left out.
        path: The figure's file.
    """
    sheet, (panel,) = subplots(["loss of span corruption"], "step")
    before, labels = 0, ("text that is trained on", "text that is not")
    for phase in phases:
        if curve := phase.get("curve"):
            steps = [before + point[0] for point in curve]
            for column, style, label in zip((2, 3), STYLES, labels):
                panel.plot(steps, [point[column] for point in curve], **style, label=label)
            labels = ("", "")  # the legend names each line once
        before += phase["steps"]
    save_figure(sheet, path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/text_encoder"),
        help="folder for the encoder and its tokenizer",
    )
    parser.add_argument(
        "--corpus", choices=tuple(CORPORA), default="scenes", help="what to read (default: scenes)"
    )
    parser.add_argument(
        "--size",
        choices=tuple(SIZES),
        default="small",
        help="about 1, 2 or 3 million parameters (default: small)",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="take the tokenizer of this encoder (default: train one on the corpus)",
    )
    parser.add_argument(
        "--bpe-dropout",
        type=number(0, 1),
        help="how often a pair of pieces stays unmerged (default: 0.1 for text, else 0)",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--figure", type=Path, help="draw the curve of the losses to this file")
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
    if args.figure is not None:
        check_output_file(args.figure, FIGURES)
    available_device(args.device)
    if args.bpe_dropout is None:
        args.bpe_dropout = 0.1 if args.corpus == "text" else 0.0

    # 1. Tokenizer and model, trained.
    line = CORPORA[args.corpus]
    start = None if args.init_from is None else TextEncoder.from_pretrained(args.init_from)
    if start is not None:
        tokenizer = start.tokenizer
    elif args.tokenizer is not None:
        tokenizer = TextEncoder.from_pretrained(args.tokenizer).tokenizer
    else:
        tokenizer = train_tokenizer(VOCABULARY_SIZES[args.corpus], line=line)
    if tokenizer.convert_tokens_to_ids("<extra_id_0>") in (None, tokenizer.unk_token_id):
        raise ValueError(
            f"the tokenizer of {args.init_from or args.tokenizer} has no sentinels <extra_id_0>, "
            "...; expected one that this script has trained"
        )
    config = small_config(len(tokenizer), args.size if start is None else size_of(start))
    model, log = pretrain(
        tokenizer,
        config,
        args.steps,
        args.batch,
        args.lr,
        args.seed,
        args.time_limit,
        start and start.model,
        line,
        args.bpe_dropout,
        args.device,
    )
    model.cpu()
    # 2. The encoder alone, saved with its history.
    encoder = T5EncoderModel(config)
    missing = encoder.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith(("decoder", "lm_head"))},
        strict=False,
    )
    assert not missing.missing_keys, missing
    trained = TextEncoder(encoder, tokenizer)
    trained.save_pretrained(args.out)
    settings = {"batch": args.batch, "learning_rate": args.lr, "seed": args.seed}
    settings |= {"corpus": args.corpus, "bpe_dropout": args.bpe_dropout}
    phases = save_history(args.out, args.init_from, log | settings, args.device)
    if args.figure is not None:
        plot_curve(phases, args.figure)
        print(args.figure)
    said = {name: value for name, value in log.items() if name != "curve"}
    print(
        f"{sum(p.numel() for p in encoder.parameters()):,} parameters, {said}, saved in {args.out}"
    )
    # 3. What it knows that random weights do not.
    print("probe, trained:", linear_probe(trained))
    torch.manual_seed(args.seed)
    print("probe, random: ", linear_probe(TextEncoder(T5EncoderModel(config), tokenizer)))


if __name__ == "__main__":
    run_script(main)
