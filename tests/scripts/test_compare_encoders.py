"""Encoders compared at equal training: what is measured, and that a stopped comparison goes on."""

import json

import pytest
import torch

from imagen_mini.cascade.serialization import load_stage
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.scenes.captions import RARE_WORDS
from imagen_mini.scenes.world import SCENES
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.weights import WEIGHTS
from train import compare_encoders
from train.compare_encoders import in_rare_words, score_of, summarize, table_of
from train.one_hot_encoder import one_hot_encoder


def test_a_one_hot_encoder_knows_words_apart_and_nothing_else(tmp_path):
    encoder = one_hot_encoder(["a red circle above a blue ring", "Two rings, on sand"])
    assert encoder.width == 3 + 11  # the words, of which the comma is one
    text = encoder(["a red ring", "RED", "a crimson ring"])
    assert torch.allclose(text.emb.square().mean(-1), text.mask.float(), atol=1e-4)
    assert text.emb.ne(0).sum(-1)[text.mask].eq(1).all()  # one place each
    # 1. the same word anywhere, 2. other words are orthogonal, 3. unknown ones are one and the same
    assert torch.equal(text.emb[0, 1], text.emb[1, 0])
    products = text.emb[0, :3] @ text.emb[0, :3].T
    assert torch.allclose(products, encoder.width * torch.eye(3), atol=1e-3)
    assert torch.equal(text.emb[2, 1], encoder(["zzz"]).emb[0, 0])
    encoder.save_pretrained(tmp_path / "encoder")
    again = TextEncoder.from_pretrained(tmp_path / "encoder")
    assert torch.equal(again(["a red ring"]).emb, encoder(["a red ring"]).emb)
    assert again.tokenize_prompt("a red, zzz ring").words == ("a", "red", ",", "zzz", "ring")


def test_rare_words_say_the_same_in_words_of_text_alone():
    changed = 0
    for i in range(60):
        scene = SCENES.training_scene(1, i)
        caption = SCENES.training_caption(scene, 1, i)
        rare = in_rare_words(caption)
        assert rare.description == caption.description and len(rare.words) == len(caption.words)
        for a, b in zip(caption.words, rare.words):
            assert (
                a.text == b.text
                or {a.text, b.text} == {"a", "an"}
                or RARE_WORDS.get(b.text) == a.text
            )
        changed += rare.text != caption.text
    assert changed > 40


def test_the_score_counts_correct_images_by_category(monkeypatch):
    asked = benchmark(2, categories=[c for of in compare_encoders.WORDS.values() for c in of])

    class Half:
        def __init__(self, category, i):
            self.category, self.correct = category, i % 2 == 0

    def judged(generate, prompts, batch, world):
        assert [p[2].text for p in prompts] == [p[2].text for p in asked]
        return [Half(category, i) for i, (category, _, _) in enumerate(prompts)]

    monkeypatch.setattr(compare_encoders, "evaluate", judged)
    found = score_of(None, None, SCENES, 2)
    assert len(found) == 8 and all(pair == [1, 2] for pair in found.values())


def result(right, frechet):
    categories = [c for of in compare_encoders.WORDS.values() for c in of]
    return {
        **{"encoder_parameters": 2_000_000, "stage_parameters": 1, "width": 8},
        "correct": {c: [right, 10] for c in categories},
        "frechet": {"seen words": frechet, "text-only words": 2 * frechet},
    }


def test_runs_of_an_encoder_are_added_up_and_stand_in_the_order_of_the_comparison():
    found = {"bert/0": result(1, 9.0), "one-hot/0": result(4, 1.0), "one-hot/1": result(6, 3.0)}
    summary = summarize(found)
    assert list(summary) == ["one-hot", "bert"] and summary["one-hot"]["runs"] == 2
    assert summary["one-hot"]["seen words"] == [40, 80]
    assert summary["one-hot"]["frechet, text-only words"] == 4
    row = table_of(found).splitlines()[2]
    assert row.startswith("| one-hot | 2.0 M | 2 | 40 of 80 (39% to 61%) | 40 of 80 (39% to 61%) |")
    assert row.endswith("| 2.00 | 4.00 |")


def run(out, *options):
    threads = torch.get_num_threads()
    try:
        compare_encoders.main(
            [
                *("--out", str(out), "--given", f"text-large={WEIGHTS / 'text_encoder'}"),
                *("--encoders", "one-hot", "random", "--steps", "1"),
                *(() if "--init-from" in options else ("--preset", "tiny")),
                *("--n", "1", "--images", "3", "--device", "cpu", "batch_size=2", "warmup=1"),
                *("stage.num_inference_steps=1", *options),
            ]
        )
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow  # seconds: two stages
def test_a_stopped_comparison_goes_on_and_keeps_what_it_has(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare_encoders, "KNOWN_CAPTIONS", 200)
    with pytest.raises(SystemExit, match="stopped before .* the same command goes on"):
        run(tmp_path, "--time-limit", "0")
    run(tmp_path, "--runs", "1")
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["found"]) == {"one-hot/0", "random/0"}
    kept = results["found"]["random/0"]
    assert all(n == 1 for _, n in kept["correct"].values()) and kept["frechet"]["seen words"] > 0
    assert kept["width"] == 128 and results["found"]["one-hot/0"]["width"] > 40
    # all is there: nothing is trained, and nothing is measured, again
    monkeypatch.setattr(compare_encoders, "score_of", None)
    monkeypatch.setattr(compare_encoders.train, "main", None)
    run(tmp_path)
    assert "| one-hot |" in capsys.readouterr().out and (tmp_path / "figure.png").is_file()
    with pytest.raises(ValueError, match="holds a comparison with n 1, not 2"):
        run(tmp_path, "--n", "2")
    own = tmp_path / "encoders"
    run(tmp_path, "--given", f"captions={own / 'random'}")  # one more
    with pytest.raises(ValueError, match="with given .*random'.*, not .*one-hot'"):
        run(tmp_path, "--given", f"captions={own / 'one-hot'}")


@pytest.mark.slow  # seconds: two stages
def test_a_comparison_may_start_from_a_trained_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_encoders, "KNOWN_CAPTIONS", 200)
    monkeypatch.setattr(compare_encoders.train, "FITTED_CAPTIONS", 100)
    options = ("--preset", "tiny", "--device", "cpu", "--output-dir", str(tmp_path / "base"))
    compare_encoders.train.main(["--stage", "base", "steps=1", "batch_size=2", *options])
    run(tmp_path / "out", "--init-from", str(tmp_path / "base"))
    for name in ("one-hot", "random"):
        unet = load_stage(tmp_path / "out" / "runs" / f"{name}-0" / "stage").config.unet
        assert unet.cross_attention_dim == 128
    with pytest.raises(ValueError, match="preset None, not 'tiny'"):
        run(tmp_path / "out")
    with pytest.raises(ValueError, match="leave --preset out"):
        run(tmp_path / "out", "--init-from", "scenes", "--preset", "tiny")


def test_encoders_that_are_given_are_named_correctly(tmp_path):
    with pytest.raises(ValueError, match="expected NAME=FOLDER, with one of one-hot, random"):
        compare_encoders.read_given([f"t5={tmp_path}"])
    assert compare_encoders.read_given([f"bert={tmp_path}"]) == {"bert": tmp_path}
