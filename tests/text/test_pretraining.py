"""Pre-training of the shipped text encoder: spans are hidden and can be put back, no character is
unknown, and a short run learns.
"""

import json
import random

import pytest

from imagen_mini.text.encoder import TextEncoder
from train.text_encoder import SENTINELS, corrupt, main, pad, small_config, train_tokenizer

FIRST = 1000  # the number of the first sentinel


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(vocab_size=400, lines=200)


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
    monkeypatch.setattr("train.text_encoder.train_tokenizer", lambda: train_tokenizer(400, 200))
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
