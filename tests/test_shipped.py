"""The shipped weights work: what is drawn is what the caption says, far above chance. (The score
itself: python -m sample.evaluate.)
"""

import json
from pathlib import Path

import pytest

from imagen_mini import ImagenPipeline
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.preview import preview
from imagen_mini.evaluation.scoring import evaluate, table
from imagen_mini.scenes.world import WORLDS
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.weights import WEIGHTS, shipped_pipelines
from sample.claims import report as claims
from sample.claims.__main__ import EXPERIMENTS
from train import distill_text_encoder
from train.distill_text_encoder import held_out_losses
from train.model_card import (
    BEGIN,
    END,
    OTHER_ENCODER_REPORT,
    claims_table,
    headline_table,
    shipped_reports,
)

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture(scope="module")
def pipe():
    return ImagenPipeline.from_pretrained("scenes")


def test_one_object_is_generated_as_captioned_and_the_score_is_the_captions_merit(pipe):
    prompts = benchmark(12, seed=7, categories=["one object"])
    results = list(
        evaluate(
            lambda p, s: pipe(p, seed=s, stages=("base",), progress=False).stages["base"],
            prompts,
            batch=12,
        )
    )
    captions = [r.caption for r in results]
    shuffled = sum(
        c.description.fits(r.parsed.scene) for c, r in zip(captions[1:] + captions[:1], results)
    )
    right = sum(r.correct for r in results)
    print(f"one object: {right} of 12 are right, {shuffled} of 12 with shuffled captions")
    assert right >= 6 and shuffled <= 2


def test_super_resolution_generates_the_texture_that_the_text_names(pipe):
    results = preview(pipe.stages["sr_256"], pipe.text_encoder, n=8, categories=["texture"])
    print(f"texture: {table(results)}")
    # the low-resolution image does not show it: chance is 2 of 8
    assert sum(r.correct for r in results) >= 5


@pytest.mark.parametrize("name", WORLDS)
def test_the_text_encoder_gives_the_vectors_of_captions_for_other_words(name, monkeypatch):
    monkeypatch.setattr(distill_text_encoder, "HELD_OUT", 64)
    teacher = TextEncoder.from_pretrained("teacher")
    student = TextEncoder.from_pretrained(shipped_pipelines()[name] / "text_encoder")
    assert student.teacher_digest == teacher.weights_digest()
    errors, untaught = (held_out_losses(encoder, teacher) for encoder in (student, teacher))
    print(errors, untaught)
    assert all(error < 0.12 for error in errors.values())
    assert untaught["rare words"] > 1 and untaught["something absent"] > 1


@pytest.mark.slow  # 30 images of each world
@pytest.mark.parametrize("name", WORLDS)
def test_other_words_are_drawn_as_those_of_captions(name):
    pipe = ImagenPipeline.from_pretrained(name)
    prompts = benchmark(
        10, seed=7, categories=["rare words", "misspellings", "negation"], world=pipe.world
    )
    results = evaluate(
        lambda p, s: pipe(p, seed=s, stages=("base",), progress=False).stages["base"],
        prompts,
        batch=10,
        world=pipe.world,
    )
    right = sum(r.correct for r in results)
    print(f"{name}: {right} of 30 captions in other words are right")
    assert right >= 22  # of 30; with the teacher fewer than 15


@pytest.mark.parametrize("name", WORLDS)
def test_the_report_beside_the_weights_is_of_these_weights(name):
    folder = shipped_pipelines()[name]
    report, card = (
        json.loads((folder / "report.json").read_text()),
        (folder / "README.md").read_text(),
    )
    for name, row in report["text_alignment"].items():
        assert f"| {name} | {row['right']} of {row['n']} |" in card
    other = json.loads((folder / OTHER_ENCODER_REPORT).read_text())
    for name, row in other["text_alignment"].items():
        own = report["text_alignment"][name]
        rights = " | ".join(f"{r['right']} of {r['n']}" for r in (own, row))
        assert f"| {name} | {rights} |" in card


def test_the_rows_of_the_readme_are_those_of_the_reports():
    assert f"{BEGIN}\n{headline_table(shipped_reports())}\n{END}" in README.read_text()


def test_verdicts_of_claims_follow_from_the_numbers_and_are_those_of_page_and_card():
    found = claims.load_claims(WEIGHTS / "claims" / "claims.json")
    assert set(found) == {e.name for e in EXPERIMENTS}
    table = claims_table({e.name: claims.with_verdicts(e, found[e.name]) for e in EXPERIMENTS})
    card = (WEIGHTS / "README.md").read_text()
    assert all(row in card for row in table.splitlines())
    assert claims.page(EXPERIMENTS, found) == (WEIGHTS / "claims" / "claims.md").read_text()


def test_no_shipped_file_is_larger_than_15_mb():
    assert max(f.stat().st_size for f in WEIGHTS.parent.rglob("*") if f.is_file()) <= 15e6
