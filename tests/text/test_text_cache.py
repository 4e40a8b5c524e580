"""The text cache: it returns what the encoder returned, whatever happens to the file or to a
process that writes it.
"""

import random
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from transformers import T5EncoderModel

from imagen_mini.scenes.captions import training_caption
from imagen_mini.scenes.scene import training_scene
from imagen_mini.text.cache import CachedTextEncoder, exact_digest
from imagen_mini.text.encoder import TextEncoder

PROMPTS = [
    "a red circle",
    "a large striped blue square to the left of a small pink star on a white background",
    "ring",
    "",
    "naïve \0 🎈",
]


@pytest.fixture
def cached(encoder, tmp_path):
    return CachedTextEncoder(encoder, tmp_path)


@pytest.fixture
def encoded(monkeypatch):
    """The prompts that reach the encoder itself, call by call."""
    calls, forward = [], TextEncoder.forward
    monkeypatch.setattr(
        TextEncoder,
        "forward",
        lambda self, prompts: calls.append(prompts) or forward(self, prompts),
    )
    return calls


def same(a, b):
    return torch.equal(a.emb, b.emb) and torch.equal(a.mask, b.mask) and a.emb.dtype == b.emb.dtype


def captions(n, start=0):
    return [training_caption(training_scene(0, i), 0, i).text for i in range(start, start + n)]


# ---------------------------------------------------------------- the same embeddings


def test_what_comes_back_is_bit_for_bit_what_the_encoder_returned_and_nothing_is_encoded_twice(
    encoder, cached, encoded, tmp_path
):
    expected = encoder(PROMPTS)
    again = CachedTextEncoder(encoder, tmp_path)  # as another process would open it
    encoded.clear()
    assert (
        same(cached(PROMPTS), expected)
        and same(cached(PROMPTS), expected)
        and same(again(PROMPTS), expected)
    )
    assert encoded == [PROMPTS]


def test_batches_of_other_lengths_orders_and_repeats_are_assembled_from_the_same_rows(
    encoder, cached, encoded
):
    rows = cached(PROMPTS)
    encoded.clear()
    for order in ([0], [2, 3], [4, 1, 0, 1], [2, 0, 0]):
        text, longest = (
            cached([PROMPTS[i] for i in order]),
            max(int(rows.mask[i].sum()) for i in order),
        )
        assert text.emb.shape[1] == longest
        assert torch.equal(text.emb, rows.emb[order, :longest]) and torch.equal(
            text.mask, rows.mask[order, :longest]
        )
    assert same(cached("ring"), cached(["  ring "])) and encoded == []


def test_only_what_is_not_there_is_encoded(encoder, cached, encoded):
    cached(PROMPTS[:2])
    text = cached([PROMPTS[2], PROMPTS[0], PROMPTS[2]])
    assert encoded == [PROMPTS[:2], [PROMPTS[2]]]
    expected = encoder([PROMPTS[2], PROMPTS[0], PROMPTS[2]])
    # encoded in other batches
    assert torch.equal(text.mask, expected.mask) and torch.allclose(
        text.emb, expected.emb, rtol=0, atol=1e-5
    )


def test_a_file_of_half_precision_rounds_the_same_way_at_the_first_call_and_later(
    encoder, tmp_path
):
    cached, expected = CachedTextEncoder(encoder, tmp_path, torch.bfloat16), encoder(PROMPTS)
    first, later = cached(PROMPTS), cached(PROMPTS)
    assert (
        same(first, later)
        and first.emb.dtype == torch.float32
        and torch.equal(first.emb, expected.emb.bfloat16().float())
    )
    assert not torch.equal(first.emb, expected.emb)


def test_an_encoder_of_half_precision_is_kept_exactly(encoder_folder, tmp_path):
    encoder = TextEncoder.from_pretrained(encoder_folder, torch.bfloat16)
    cached = CachedTextEncoder(encoder, tmp_path)
    assert same(cached(PROMPTS), encoder(PROMPTS)) and same(cached(PROMPTS), encoder(PROMPTS))


def test_it_is_a_text_encoder_in_all_else(encoder, cached):
    assert (
        isinstance(cached, TextEncoder)
        and cached.width == encoder.width
        and cached.tokenize_prompt("a ring") == encoder.tokenize_prompt("a ring")
    )
    with pytest.raises(ValueError, match="lone surrogate"):
        cached("\ud800")
    with pytest.raises(
        ValueError,
        match="a text cache of torch.float16; expected one of torch.float32, torch.bfloat16",
    ):
        CachedTextEncoder(encoder, cached.file.parent, torch.float16)


def test_padding_is_not_stored(cached, encoder):
    cached(PROMPTS)
    rows = dict(cached.rows.execute("SELECT prompt, length(emb) FROM text"))
    assert rows == {p: len(encoder.tokenize_prompt(p).ids) * encoder.width * 4 for p in PROMPTS}


def test_a_step_of_64_captions_costs_less_than_encoding_them(encoder, cached):
    prompts = captions(64)

    def seconds(call):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call(prompts)
            times.append(time.perf_counter() - start)
        return min(times)

    cached(prompts)
    assert seconds(cached) < 0.5 * seconds(encoder)


# ---------------------------------------------------------------- other encoders


def other_encoders(encoder):
    torch.manual_seed(0)
    weights = T5EncoderModel(encoder.model.config)
    weights.load_state_dict(encoder.model.state_dict())
    with torch.no_grad():
        weights.encoder.final_layer_norm.weight[0] += 1e-6  # the last bits of one number
    tokenizer = type(encoder.tokenizer)(
        tokenizer_object=encoder.tokenizer.backend_tokenizer, eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.add_tokens(["chartreuse"])
    config = T5EncoderModel(
        type(encoder.model.config)(**encoder.model.config.to_dict() | {"layer_norm_epsilon": 1e-5})
    )
    config.load_state_dict(encoder.model.state_dict())
    return {
        "weights": TextEncoder(weights, encoder.tokenizer),
        "tokenizer": TextEncoder(encoder.model, tokenizer),
        "config": TextEncoder(config, encoder.tokenizer),
        "length limit": TextEncoder(encoder.model, encoder.tokenizer, max_length=4),
    }


@pytest.mark.parametrize("what", ["weights", "tokenizer", "config", "length limit"])
@pytest.mark.filterwarnings("ignore:the prompt has more than 4 tokens")
def test_another_encoder_or_length_limit_never_hits(encoder, cached, encoded, what):
    cached(PROMPTS)
    other = CachedTextEncoder(other_encoders(encoder)[what], cached.file.parent)
    assert other.file != cached.file
    encoded.clear()
    other(PROMPTS)
    assert encoded == [PROMPTS]


def test_the_exact_digest_depends_neither_on_use_nor_on_the_folder(
    encoder, encoder_folder, tmp_path
):
    encoder(PROMPTS)  # leaves its padding set in the tokenizer
    encoder.save_pretrained(tmp_path)
    assert (
        exact_digest(encoder)
        == exact_digest(TextEncoder.from_pretrained(tmp_path))
        == exact_digest(TextEncoder.from_pretrained(encoder_folder))
    )


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "damage",
    [
        "emb = zeroblob(length(emb))",
        "emb = substr(emb, 1, length(emb) - 512)",
        "emb = x''",
        "emb = NULL",
        "emb = 'words'",
        "emb = 7",
        "checksum = NULL",
        "checksum = 'x'",
        "prompt = 'ring'",
    ],
)
def test_a_damaged_row_is_encoded_anew_and_replaced(encoder, cached, encoded, damage):
    cached(PROMPTS[:2])
    expected = encoder("a red circle" if "prompt" not in damage else "ring")
    cached.rows.execute(f"UPDATE text SET {damage} WHERE prompt = ?", (PROMPTS[0],))
    asked = "ring" if "prompt" in damage else PROMPTS[0]
    encoded.clear()
    assert torch.allclose(cached(asked).emb, expected.emb, atol=1e-5) and torch.allclose(
        cached(asked).emb, expected.emb, atol=1e-5
    )
    assert encoded == [[asked]]


def test_a_row_with_a_flipped_bit_is_encoded_anew(encoder, cached, encoded):
    cached(PROMPTS)
    blob = bytearray(
        cached.rows.execute("SELECT emb FROM text WHERE prompt = 'ring'").fetchone()[0]
    )
    blob[100] ^= 1
    cached.rows.execute("UPDATE text SET emb = ? WHERE prompt = 'ring'", (bytes(blob),))
    encoded.clear()
    assert torch.allclose(cached("ring").emb, encoder("ring").emb, atol=1e-5)
    assert encoded[0] == ["ring"]


def test_a_file_with_flipped_bytes_anywhere_is_refused_or_returns_what_the_encoder_returns(
    encoder, tmp_path
):
    prompts = captions(40)
    expected = encoder(prompts)
    cached = CachedTextEncoder(encoder, tmp_path)
    cached(prompts)
    cached.rows.close()
    whole, rng, refused = cached.file.read_bytes(), random.Random(0), 0
    for trial in range(60):
        damaged = bytearray(whole)
        at = trial if trial < 30 else rng.randrange(len(whole))  # the header, then anywhere
        for i in range(at, min(at + 4, len(whole))):
            damaged[i] ^= 0xFF
        cached.file.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                again = CachedTextEncoder(encoder, tmp_path)
            except OSError as error:
                assert "delete it" in str(error)
                refused += 1
                continue
            text = again(prompts)
            again.rows.close()
        assert torch.equal(text.mask, expected.mask) and torch.allclose(
            text.emb, expected.emb, atol=1e-5
        )
    assert 0 < refused < 60


def test_a_file_cut_short_is_refused_or_returns_what_the_encoder_returns(encoder, cached):
    expected = encoder(PROMPTS)
    cached(PROMPTS)
    cached.rows.close()
    whole = cached.file.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 4096, 100, 1, 0):
        cached.file.write_bytes(whole[:size])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                text = CachedTextEncoder(encoder, cached.file.parent)(PROMPTS)
                assert torch.equal(text.mask, expected.mask) and torch.allclose(
                    text.emb, expected.emb, atol=1e-5
                )
            except OSError as error:
                assert "delete it" in str(error)


def test_a_cache_that_fails_during_a_run_warns_and_the_text_comes_all_the_same(encoder, cached):
    cached(PROMPTS[0])
    cached.rows.execute("PRAGMA max_page_count = 1")  # a full disk
    long = captions(64)
    with pytest.warns(UserWarning, match="text cache .*failed: database or disk is full"):
        text = cached(long)
    assert same(text, encoder(long))


def test_a_folder_that_cannot_hold_a_cache_is_an_error_at_once(encoder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        CachedTextEncoder(encoder, tmp_path / "file")


# ---------------------------------------------------------------- several processes, and their end

WRITE = """
import os, sys, time
from pathlib import Path
import torch
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.text.cache import CachedTextEncoder
from tests.text.test_text_cache import captions
torch.set_num_threads(1)
encoder, folder, start, batches, writers = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
encoder = TextEncoder.from_pretrained(encoder)
(folder / f"ready{os.getpid()}").touch()
while len(list(folder.glob("ready*"))) < writers:      # all open the file at once
    time.sleep(0.001)
cached = CachedTextEncoder(encoder, folder)
for batch in range(batches):
    cached(captions(8, start + 8 * batch))
"""


def writers(count, *arguments):
    command = [sys.executable, "-c", WRITE, *map(str, arguments), str(count)]
    return [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(count)]


@pytest.mark.slow
def test_two_processes_that_write_the_same_prompts_at_once_leave_each_row_once_and_correct(
    encoder, encoder_folder, tmp_path, encoded
):
    assert [process.wait(120) for process in writers(2, encoder_folder, tmp_path, 0, 20)] == [0, 0]
    cached, prompts = CachedTextEncoder(encoder, tmp_path), captions(160)
    text, expected = cached(prompts), encoder(prompts)
    assert encoded == [prompts]  # by the encoder alone, on the line above
    assert torch.allclose(text.emb, expected.emb, atol=1e-5)
    assert (
        cached.rows.execute("SELECT count(*), count(DISTINCT prompt) FROM text").fetchone()
        == (len(set(prompts)),) * 2
    )


@pytest.mark.slow
def test_what_was_returned_survives_a_kill_at_any_moment_and_the_next_process_continues(
    encoder, encoder_folder, tmp_path
):
    rows, rng = [], random.Random(0)
    for kill in range(3):
        (writer,) = writers(1, encoder_folder, tmp_path, 100_000 * kill, 10_000)
        deadline = time.monotonic() + 60
        while count(tmp_path) <= sum(rows) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.1))
        writer.kill()
        assert writer.wait() == -signal.SIGKILL  # it had not ended by itself
        rows.append(count(tmp_path) - sum(rows))
    assert min(rows) > 0
    cached = CachedTextEncoder(encoder, tmp_path)
    stored = [prompt for (prompt,) in cached.rows.execute("SELECT prompt FROM text")]
    assert len(cached._read(stored)) == len(stored) == sum(rows)  # each with its checksum
    assert torch.allclose(cached(stored).emb, encoder(stored).emb, atol=1e-5)
    assert cached.rows.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def count(folder):
    """Rows that another process sees."""
    for file in folder.glob("*.sqlite"):
        try:
            with sqlite3.connect(file, timeout=5) as rows:
                return rows.execute("SELECT count(*) FROM text").fetchone()[0]
        except sqlite3.OperationalError:  # not made yet
            pass
    return 0
