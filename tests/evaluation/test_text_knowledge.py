"""Probes of what an encoder knows find what is written into its vectors, and only that."""

import random
import zlib

import pytest
import torch

from imagen_mini.evaluation.text_knowledge import (
    FRAMES,
    VARIANTS,
    absence_probe,
    another_letter,
    caption_variant,
    count_probe,
    misspelt_words,
    nearest_words,
    share_of_nearest,
    transfer_probes,
    two_slips,
)
from imagen_mini.scenes.captions import RARE_WORDS, parse_caption
from imagen_mini.scenes.prose.words import ATTRIBUTE_OF, ATTRIBUTES, SYNONYMS
from imagen_mini.scenes.rewording import misspell
from imagen_mini.text.encoder import TextEmbeddings, Tokens
from imagen_mini.text.words import word_spans

WIDTH = 96


class WordEncoder:
    """An encoder whose vectors are known: a random one for each word's meaning; a shape's vector
    has those of its adjectives, too, and a mark where it is absent.

    Args:
        meaning: Word -> the word whose vector it has (default: its own).
    """

    def __init__(self, meaning=None):
        self.meaning = meaning or {}

    def vector(self, word):
        word = self.meaning.get(word, word)
        return torch.randn(
            WIDTH, generator=torch.Generator().manual_seed(zlib.crc32(word.encode()))
        )

    def tokenize_prompt(self, prompt):
        words = tuple(prompt[a:b] for a, b in word_spans(prompt))
        return Tokens(tuple(range(len(words))), words, tuple(range(len(words))), words)

    def encode_prompt(self, prompt):
        rows, phrase, absent = [], torch.zeros(WIDTH), False
        for word in self.tokenize_prompt(prompt).words:
            vector = self.vector(word)
            absent |= word in ("no", "without")
            common = self.meaning.get(word, word)
            if ATTRIBUTE_OF.get(common) in ("colour", "size"):
                phrase = phrase + vector
            if ATTRIBUTE_OF.get(common.removesuffix("s").removesuffix("e"), "") == "shape" or (
                ATTRIBUTE_OF.get(common) == "shape"
            ):
                vector = vector + phrase + absent * self.vector("absent")
                phrase = torch.zeros(WIDTH)
            rows.append(vector)
        return torch.stack(rows)

    def __call__(self, prompts):
        rows = [self.encode_prompt(p) for p in ([prompts] if isinstance(prompts, str) else prompts)]
        emb = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        n = torch.tensor([len(r) for r in rows])
        return TextEmbeddings(emb, torch.arange(emb.shape[1])[None] < n[:, None])


@pytest.fixture(scope="module")
def knows():
    wrong = {w: right for w, (_, right) in misspelt_words(40).items()}
    return WordEncoder(wrong | SYNONYMS)


@pytest.fixture(scope="module")
def ignorant():
    return WordEncoder()


RARE = {rare: (ATTRIBUTE_OF[common], common) for rare, common in RARE_WORDS.items()}


def test_the_nearest_word_is_the_one_with_the_same_vector(knows, ignorant):
    found = nearest_words(knows, {"crimson": "colour", "hoop": "shape"})
    assert found["crimson"][0] == "red" and found["hoop"][0] == "ring"
    assert sorted(found["crimson"]) == sorted(ATTRIBUTES["colour"])
    assert share_of_nearest(knows, RARE) == 1 and share_of_nearest(ignorant, RARE) < 0.5
    wrong = misspelt_words()
    assert share_of_nearest(knows, wrong) == 1 and share_of_nearest(ignorant, wrong) < 0.5


def test_words_stand_in_captions_of_their_kind():
    for kind, frames in FRAMES.items():
        for frame in frames:
            assert frame.count("{}") == 1 and "crimson" not in frame
            for word in ATTRIBUTES[kind]:
                assert frame.format(word).split().count(word) == 1
    wrong = misspelt_words()
    assert len(wrong) > 80 and not set(wrong) & set(ATTRIBUTE_OF)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_the_words_and_not_the_description(variant):
    rng = random.Random(0)
    captions = [caption_variant(variant, rng) for _ in range(40)]
    for caption in captions:
        words = {w.text for w in caption.words}
        if variant != "misspelt words":
            assert parse_caption(caption.text) == caption.description
        if variant == "rare words":
            assert len(words & set(RARE_WORDS)) >= 5  # six, of which two may be the same
    text = " ".join(c.text for c in captions)
    assert ("beneath" in text) == (variant == "unseen phrases")


def test_what_is_learnt_on_captions_holds_for_words_with_the_same_vector(knows, ignorant):
    for encoder, low, high in ((knows, 0.9, 1), (ignorant, 0, 0.6)):
        found = transfer_probes(encoder, 150)
        for question in ("shape", "colour"):
            assert found[question]["seen words"] > 0.9
            for variant in ("rare words", "misspelt words"):
                assert low <= found[question][variant] <= high, (question, variant, found)
        assert found["place"]["seen words"] < 0.6  # these vectors say nothing of it


def test_numbers_and_absence_are_found_where_they_are_written(knows):
    assert absence_probe(knows, 80) > 0.95
    silent = WordEncoder()
    silent.vector = lambda word: torch.zeros(WIDTH)
    assert 0.3 < absence_probe(silent, 80) < 0.7
    assert count_probe(knows, 200) > count_probe(silent, 200) + 0.2


def test_other_slips_are_not_those_of_text():
    rng = random.Random(0)
    for _ in range(200):
        wrong = another_letter("triangle", rng)
        assert len(wrong) == 8 and sum(a != b for a, b in zip(wrong, "triangle")) == 1
        assert (wrong[0], wrong[-1]) == ("t", "e")
    once = {misspell("triangle", rng) for _ in range(400)}
    assert not once & {another_letter("triangle", rng) for _ in range(400)}
    twice = misspelt_words(slip=two_slips)
    assert len({wrong for wrong, (_, right) in twice.items() if right == "triangle"} - once) >= 2
