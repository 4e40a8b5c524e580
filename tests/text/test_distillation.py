"""A text encoder that learns other words by text: tokens are matched, nothing is lost where nothing
is said otherwise, and a short run learns.
"""

import json
import random

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from imagen_mini.evaluation.text_probes import random_encoder_like
from imagen_mini.scenes.prose.restatements import WORDINGS
from imagen_mini.text.encoder import TextEncoder
from train import distill_text_encoder
from train.distill_text_encoder import (
    distill,
    held_out_losses,
    main,
    matching_tokens,
    random_restatement,
    squared_errors,
    variance_of,
)


@pytest.fixture(scope="module")
def encoder():
    """The teacher."""
    return TextEncoder.from_pretrained("teacher")


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    monkeypatch.setattr("train.distill_text_encoder.HELD_OUT", 8)


def test_tokens_are_matched_part_by_part(encoder):
    parts = [("an", "a"), ("emerald", "green"), ("disc", "circle"), ("on top of", "above")]
    parts += [("a", "a"), ("rnig", "ring"), ("and no star", "")]
    said = encoder.tokenize_prompt("an emerald disc on top of a rnig and no star")
    plain = encoder.tokenize_prompt("a green circle above a ring")
    matching = matching_tokens(parts, said, plain)
    words = [plain.words[w] if (w := plain.word_ids[at]) is not None else "" for at in matching]
    by_word = [
        {words[at] for at in said.positions_of_word(number)} for number in range(len(said.words))
    ]
    assert by_word == [
        *({"a"}, {"green"}, {"circle"}, {"above"}, {"above"}, {"above"}, {"a"}, {"ring"}),
        *({""}, {""}, {""}),  # what is absent: the end token
    ]
    assert matching[-1] == len(plain.ids) - 1


def test_a_phrase_is_matched_in_order(encoder):
    parts = [("on the left side of", "to the left of")]
    said = encoder.tokenize_prompt("on the left side of")
    plain = encoder.tokenize_prompt("to the left of")
    matching = matching_tokens(parts, said, plain)
    assert matching == sorted(matching) and set(matching) == set(range(len(plain.ids)))


def test_sides_that_are_other_words_are_refused(encoder):
    tokens = encoder.tokenize_prompt("a red circle")
    with pytest.raises(ValueError, match="expected 2 words, those of the parts; got"):
        matching_tokens([("a", "a"), ("circle", "circle")], tokens, tokens)


def test_the_teacher_makes_no_error_in_its_own_words(encoder):
    rng, plain = random.Random(0), WORDINGS["as captions say it"][0]
    batch = [random_restatement(rng, plain) for _ in range(16)]
    assert squared_errors(encoder, encoder, batch).max() < 1e-6
    # and the mean of all vectors an error of the variance
    assert variance_of(encoder) > 0
    losses = held_out_losses(encoder, encoder)
    assert losses["as captions say it"] == 0 and losses["rare words"] > 0.1


def test_a_batch_in_parts_has_the_gradient_of_the_whole_batch(encoder, monkeypatch):
    found = []
    for parts in (1, 4):
        monkeypatch.setattr("train.distill_text_encoder.PARTS", parts)
        student = random_encoder_like(encoder)
        distill(student, encoder, 1, 6, 1e-3, 0, 1e9)
        found.append(torch.cat([p.flatten() for p in student.model.parameters()]))
    assert (found[0] - found[1]).abs().max() < 1e-4


@pytest.mark.slow
def test_a_short_run_learns_and_is_saved_with_its_history(tmp_path, capsys):
    out, figure = tmp_path / "student", tmp_path / "curve.png"
    main(["--out", str(out), "--figure", str(figure), "--steps", "60", "--batch", "8"])
    student = TextEncoder.from_pretrained(out)
    assert not any(p.requires_grad for p in student.parameters()) and figure.is_file()
    log = json.loads((out / "training.json").read_text())[-1]
    before, after = log["curve"][0][3], log["held_out_losses"]
    assert after["something absent"] < before["something absent"]
    assert (log["steps"], log["corpus"]) == (60, "restatements")
    assert "before: 0.000" in capsys.readouterr().out


def test_a_run_that_is_stopped_saves_what_it_has(encoder, monkeypatch):
    def stop(*_, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return random_restatement(random.Random(len(calls)))

    student = random_encoder_like(encoder)
    monkeypatch.setattr(distill_text_encoder, "PARTS", 1)
    losses = held_out_losses(encoder, encoder)
    monkeypatch.setattr(distill_text_encoder, "held_out_losses", lambda *_: losses)
    monkeypatch.setattr(distill_text_encoder, "variance_of", lambda _: 1.0)
    monkeypatch.setattr(distill_text_encoder, "random_restatement", stop)
    log = distill(student, encoder, 100, 2, 1e-3, 0, 1e9)
    assert log["steps"] == 1 and not any(p.requires_grad for p in student.parameters())


def test_a_student_of_another_width_is_refused(tmp_path, encoder):
    config = T5Config(vocab_size=len(encoder.tokenizer), d_model=32, num_layers=1, num_heads=1)
    TextEncoder(T5EncoderModel(config), encoder.tokenizer).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ValueError, match="expected a t5 of width 128.* of width 32"):
        main(["--student", str(tmp_path / "narrow"), "--out", str(tmp_path / "out")])
