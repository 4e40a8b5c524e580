"""The text encoder's corpus: lines are true of one scene, and hold what captions never say."""

import random
import re

import pytest

from imagen_mini.scenes.captions import HELD_OUT_PHRASES, NUMBERS, RARE_WORDS, parse_caption
from imagen_mini.scenes.corpus import sample_corpus_line


@pytest.fixture(scope="module")
def lines():
    rng = random.Random("lines")
    return [sample_corpus_line(rng) for _ in range(1500)]


def test_a_line_is_a_function_of_its_source_of_randomness(lines):
    rng = random.Random("lines")
    assert [sample_corpus_line(rng) for _ in range(20)] == lines[:20]


def test_both_captions_of_a_line_say_the_same(lines):
    """The second one names the objects in the other order, with the opposite relation."""
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    compared = 0
    for line in lines:
        first, *rest = line.split(". ")
        if not rest or rest[0].startswith(("the ", "there are")):
            continue
        try:
            a, b = parse_caption(first), parse_caption(rest[0])
        except ValueError:
            continue  # a misspelt word
        compared += 1
        assert sorted(map(str, a.objects)) == sorted(map(str, b.objects)), line
        assert a.background == b.background, line
        if a.relation is not None:
            assert b.objects == a.objects[::-1] and b.relation == opposite[a.relation], line
    assert compared > 300


def test_what_is_concluded_follows_from_the_caption(lines):
    counted = 0
    for line in lines:
        found = re.search(r"there are (\w+) things", line)
        if found and found.group(1) in NUMBERS:
            try:
                objects = parse_caption(line.split(". ")[0]).objects
            except ValueError:
                continue
            assert NUMBERS[len(objects)] == found.group(1), line
            counted += 1
    assert counted > 50


def test_words_that_no_caption_has_are_read_here(lines):
    text = " ".join(lines)
    assert all(f" {word}" in f" {text}" for word in RARE_WORDS)
    assert all(phrase in text for phrase in HELD_OUT_PHRASES.values())
    assert "another word for" in text and re.search(r"\bfive\b", text)
