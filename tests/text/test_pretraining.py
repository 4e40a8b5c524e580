"""Pre-training of the shipped text encoder: spans are hidden and can be put back, no character is
unknown, and a short run learns.
"""

import json
import random
import re

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, T5EncoderModel, T5ForConditionalGeneration

from imagen_mini.text.encoder import TextEncoder
from train import probe_text_encoder
from train.text_encoder import (
    CORPORA,
    SENTINELS,
    SIZES,
    corrupt,
    denoising_losses,
    main,
    pad,
    pretrain,
    size_of,
    small_config,
    span_batches,
    train_tokenizer,
)

FIRST = 1000  # the number of the first sentinel


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(vocab_size=400, lines=200)


@pytest.fixture(autouse=True)
def few_held_out_lines(monkeypatch):
    monkeypatch.setattr("train.text_encoder.HELD_OUT_LINES", 8)


@pytest.mark.parametrize("seed", range(20))
def test_what_was_hidden_can_be_put_back(seed):
    ids = list(range(seed * 7))
    inputs, target = corrupt(ids, random.Random(seed), FIRST)
    hidden, spans = [], {}
    for token in target:
        if token >= FIRST:
            hidden = spans.setdefault(token, [])
        else:
            hidden.append(token)
    restored = []
    for token in inputs:
        restored += spans[token] if token >= FIRST else [token]
    assert restored == ids
    marks = [token for token in inputs if token >= FIRST]
    assert marks == list(range(FIRST, FIRST + len(marks))) and len(marks) <= SENTINELS


def test_a_fifth_of_the_tokens_is_hidden_on_average():
    rng = random.Random(0)
    kept = sum(sum(i < FIRST for i in corrupt(list(range(40)), rng, FIRST)[0]) for _ in range(500))
    assert 0.77 < kept / (500 * 40) < 0.83


def test_rows_are_padded_to_the_longest():
    assert pad([[1, 2, 3], [4]], -100).tolist() == [[1, 2, 3], [4, -100, -100]]


@pytest.mark.parametrize("text", ["a red circle", "crimson disc", "Zürich 漢字 🙂", ""])
def test_no_character_is_unknown_and_every_text_ends_with_the_end_token(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids and ids[-1] == tokenizer.eos_token_id


def test_the_shipped_encoder_has_this_configuration(encoder):
    own, shipped = small_config(encoder.model.config.vocab_size), encoder.model.config
    for name in ("d_model", "d_kv", "num_heads", "d_ff", "num_layers", "feed_forward_proj"):
        assert getattr(own, name) == getattr(shipped, name), name


def test_a_short_run_is_saved_with_its_history_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("train.text_encoder.linear_probe", lambda _: {})
    monkeypatch.setattr(
        "train.text_encoder.train_tokenizer", lambda *_, line: train_tokenizer(400, 200, line)
    )
    main(["--out", str(tmp_path / "a"), "--steps", "3", "--batch", "4"])
    main(
        ["--out", str(tmp_path / "b"), "--steps", "2", "--batch", "4"]
        + ["--init-from", str(tmp_path / "a")]
    )
    phases = json.loads((tmp_path / "b" / "training.json").read_text())
    assert [phase["steps"] for phase in phases] == [3, 2]
    a, b = (TextEncoder.from_pretrained(tmp_path / name) for name in "ab")
    assert a(["a red circle"]).emb.shape == b(["a red circle"]).emb.shape
    assert a.weights_digest() != b.weights_digest()
    assert "saved in" in capsys.readouterr().out


@pytest.mark.parametrize("corpus", CORPORA)
def test_every_corpus_is_an_endless_source_of_lines(corpus):
    rng, again = random.Random(0), random.Random(0)
    lines = [CORPORA[corpus](rng) for _ in range(50)]
    assert lines == [CORPORA[corpus](again) for _ in range(50)] and len(set(lines)) > 40
    assert all(line.strip() and "\n" not in line for line in lines)


def test_captions_alone_are_training_captions_of_both_worlds():
    rng = random.Random(0)
    text = " ".join(CORPORA["captions"](rng) for _ in range(400))
    assert "metallic" in text and "beige background" in text
    assert not {"crimson", "beneath", "there"} & set(text.split())


def test_the_largest_size_has_at_most_four_million_parameters():
    counts = [
        sum(p.numel() for p in T5EncoderModel(small_config(1280, size)).parameters())
        for size in SIZES
    ]
    assert counts == sorted(counts) and 3e6 < counts[-1] <= 4e6
    assert {small_config(1280, size).d_model for size in SIZES} == {128}


def test_pieces_are_split_at_random_in_training_alone(tokenizer):
    before = tokenizer("a red circle above a blue square")["input_ids"]
    config = small_config(len(tokenizer))
    _, log = pretrain(tokenizer, config, 2, 2, 1e-3, 0, 1e6, bpe_dropout=0.9, eval_every=1)
    assert tokenizer("a red circle above a blue square")["input_ids"] == before
    assert [point[0] for point in log["curve"]] == [1, 2]
    assert log["held_out_loss"] == log["curve"][-1][3] > 0


def test_batches_of_like_length_have_the_loss_and_gradient_of_one_batch(tokenizer, monkeypatch):
    """In float64, and with less padding."""
    rng = random.Random(0)
    lines = [CORPORA["text"](rng) for _ in range(15)]
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(small_config(len(tokenizer))).double()
    found = {}
    for parts in (1, 4):
        monkeypatch.setattr("train.text_encoder.PARTS", parts)
        batches = span_batches(tokenizer, lines, random.Random(1))
        model.zero_grad()
        losses = list(denoising_losses(model, batches, "cpu"))
        sum(losses).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        found[parts] = sum(losses).item(), gradient, sum(x.numel() for x, _ in batches)
    assert len(batches) == 4 and sum(len(inputs) for inputs, _ in batches) == 15
    assert found[1][0] == pytest.approx(found[4][0], rel=1e-9)
    off = found[1][1] - found[4][1]  # T5 normalizes in float32
    assert off.norm() < 1e-5 * found[1][1].norm()
    assert found[4][2] < 0.8 * found[1][2]


def test_a_run_that_is_stopped_saves_what_it_has(tokenizer, monkeypatch):
    def stop(model, batches, device, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return denoising_losses(model, batches, device)

    monkeypatch.setattr("train.text_encoder.denoising_losses", stop)
    _, log = pretrain(tokenizer, small_config(len(tokenizer)), 100, 2, 1e-3, 0, 1e6)
    assert log["steps"] == 2 and len(log["curve"]) == 1  # the third was not taken


def test_a_run_that_is_stopped_before_its_first_step_says_so(tokenizer):
    with pytest.raises(SystemExit, match="stopped before its first step"):
        pretrain(tokenizer, small_config(len(tokenizer)), 100, 2, 1e-3, 0, 1e-9)


def test_an_encoder_takes_the_tokenizer_of_another_and_draws_its_curve(
    tmp_path, monkeypatch, tokenizer, encoder_folder
):
    monkeypatch.setattr("train.text_encoder.linear_probe", lambda _: {})
    main(
        ["--out", str(tmp_path / "a"), "--corpus", "text", "--tokenizer", str(encoder_folder)]
        + ["--steps", "2", "--batch", "2", "--figure", str(tmp_path / "curve.png")]
    )
    shipped, trained = (
        TextEncoder.from_pretrained(f).tokenize_prompt("a crimson ring").ids
        for f in (encoder_folder, tmp_path / "a")
    )
    assert shipped == trained and (tmp_path / "curve.png").stat().st_size > 1000
    (phase,) = json.loads((tmp_path / "a" / "training.json").read_text())
    assert phase["corpus"] == "text" and phase["bpe_dropout"] == 0.1
    with pytest.raises(ValueError, match="of another size; expected one of small, medium, large"):
        encoder = TextEncoder.from_pretrained(encoder_folder)
        encoder.model.config.num_layers = 5
        size_of(encoder)


def test_a_tokenizer_without_sentinels_is_refused(tmp_path):
    other = train_tokenizer(400, 200)
    names = [f"<extra_id_{i}>" for i in range(SENTINELS)]
    text = other.backend_tokenizer.to_str()
    for name in names:
        text = text.replace(name, name.replace("extra", "other"))
    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    TextEncoder(T5EncoderModel(small_config(len(plain))), plain).save_pretrained(tmp_path / "c")
    with pytest.raises(ValueError, match="has no sentinels <extra_id_0>"):
        main(["--out", str(tmp_path / "d"), "--tokenizer", str(tmp_path / "c")])


def test_the_probe_prints_a_column_for_each_encoder(monkeypatch, capsys, tmp_path, encoder_folder):
    monkeypatch.setattr(probe_text_encoder, "measure", lambda encoder, n: {"a": 0.5, "b": 1.0})
    probe_text_encoder.main([str(encoder_folder), "--out", str(tmp_path / "probe.json")])
    out = capsys.readouterr().out
    assert "random weights" in out and out.count("50%") == 2 and out.count("100%") == 2
    found = json.loads((tmp_path / "probe.json").read_text())
    assert list(found) == [str(encoder_folder), f"{encoder_folder}, random weights"]


def test_the_probe_shows_the_neighbours_of_a_rare_word(capsys):
    probe_text_encoder.main(["--neighbours", "crimson", "hoop"])
    out = capsys.readouterr().out
    assert re.search(r"crimson +\w+, \w+, \w+, \w+\n", out) and "hoop" in out
    with pytest.raises(ValueError, match="'red' is no rare word; expected one of crimson"):
        probe_text_encoder.main(["--neighbours", "red"])
