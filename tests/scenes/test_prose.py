"""The corpus of text: what it says is true, it holds no caption, and what only text has never
leaks into captions.
"""

import random
import re
from collections import Counter
from dataclasses import replace

import pytest

from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.scenes.captions import (
    NUMBERS,
    PHRASES,
    STUDIO_VOCABULARY,
    article_for,
    parse_caption,
)
from imagen_mini.scenes.prose.lines import KINDS, prose_line
from imagen_mini.scenes.prose.phrases import OPENINGS, plural
from imagen_mini.scenes.prose.words import (
    ATTRIBUTE_OF,
    ATTRIBUTES,
    DEFINITIONS,
    GROUPS,
    NUMBER_WORDS,
    OF_COLOUR,
    SYNONYMS,
    TEXT_PHRASES,
    text_only_words,
)
from imagen_mini.scenes.rewording import misspell
from imagen_mini.scenes.scene import BACKGROUNDS, OPPOSITE
from imagen_mini.scenes.world import WORLDS


def training_captions(world, n):
    return [world.training_caption(world.training_scene(0, i), 0, i).text for i in range(n)]


@pytest.fixture(scope="module")
def captions():
    """Training captions of each world."""
    return {name: training_captions(world, 1500) for name, world in WORLDS.items()}


@pytest.fixture(scope="module")
def lines():
    return [prose_line(0, i) for i in range(6000)]


def lines_of(kind, n=1000):
    return [prose_line(1, i, kind) for i in range(n)]


def without_slips(lines):
    """Lines without misspelt words: all their words are common, and no word of images misspelt."""
    right = {*ATTRIBUTE_OF, *SYNONYMS, *NUMBERS}
    right |= {plural(word) for word in right}
    wrong = {misspell(w, random.Random(i)) for w in right for i in range(40)} - right
    found = Counter(word for line in lines for word in set(words(line)))
    return [
        line for line in lines if all(found[word] > 5 and word not in wrong for word in words(line))
    ]


def words(text):
    return re.findall(r"[a-z]+", text)


# ---------------------------------------------------------------- what it holds


def test_a_line_is_a_function_of_its_number(lines):
    assert [prose_line(0, i) for i in (7, 3, 5_999)] == [lines[i] for i in (7, 3, 5_999)]
    assert prose_line(1, 7) != lines[7]
    assert prose_line(0, 10**12)  # there is no last one
    assert len(set(lines)) > 0.95 * len(lines)
    for line in lines:
        assert line == line.lower().strip() and "\n" not in line and "  " not in line


def check_no_captions(lines, captions):
    """No line, and no sentence of one, is a training caption or a prompt of the benchmark."""
    prompts = {
        caption.text for world in WORLDS.values() for _, _, caption in benchmark(30, world=world)
    }
    known = prompts.union(*captions.values())
    assert "a large pink star" in prompts
    sentences = {s.strip() for line in lines for s in re.split(r"[.?!]", line)} | set(lines)
    assert known & sentences == set()


def test_no_line_and_no_sentence_is_a_caption_or_a_prompt_of_the_benchmark(lines, captions):
    check_no_captions(lines, captions)


@pytest.mark.slow
def test_nothing_leaks_in_20000_captions_of_each_world_and_100000_lines():
    captions = {name: training_captions(world, 20_000) for name, world in WORLDS.items()}
    check_no_captions([prose_line(0, i) for i in range(100_000)], captions)
    for of_world in captions.values():
        check_no_leak(of_world)


def check_no_leak(captions):
    """No word and no phrase of text alone is in captions."""
    found = Counter(word for caption in captions for word in words(caption))
    only = text_only_words()
    assert {"crimson", "beneath", "pair", "side", "chrome", "glossy"} <= only
    assert only & set(found) == set()
    phrases = [phrase for of in TEXT_PHRASES.values() for phrase in of]
    assert not [c for c in captions if any(f" {p} " in c for p in phrases)]
    assert len(found) < 60  # captions have few words, and a new one would be noticed here


@pytest.mark.parametrize("world", WORLDS)
def test_what_only_text_has_is_in_no_training_caption(world, captions):
    check_no_leak(captions[world])


def test_text_has_every_word_that_the_benchmark_asks_for(lines):
    found = Counter(word for line in lines for word in words(line))
    text = " . ".join(lines)
    for world in WORLDS.values():
        for rare in world.vocabulary.rare_words:
            assert found[rare] > 10, rare
        for caption in (c for _, _, c in benchmark(60, world=world, categories=["binding"])):
            assert all(found[w.text] > 10 for w in caption.words if w.text != ",")
    for of in ATTRIBUTES.values():
        assert all(found[word] > 10 for word in of)
    for of in TEXT_PHRASES.values():
        assert all(text.count(phrase) > 10 for phrase in of)
    assert "lit from the left" in text and "on a wooden surface" in text


def test_text_has_misspelt_words_of_each_pattern_with_their_right_forms():
    text = lines_of("spelling", 5000)
    found = Counter(word for line in text for word in words(line))
    for wrong in ("puprle", "purle", "purrple", "sqaure", "squre", "squuare"):  # swap, drop, double
        assert found[wrong], wrong
    meant = [re.fullmatch(r"([a-z]+) should be ([a-z]+)", line) for line in text]
    pairs = [m.groups() for m in meant if m]
    assert len(pairs) > 50
    for wrong, right in pairs:
        assert wrong != right and (right in SYNONYMS or right in ATTRIBUTE_OF)
        missing, added = Counter(right) - Counter(wrong), Counter(wrong) - Counter(right)
        assert (missing.total(), added.total()) in ((0, 0), (1, 0), (0, 1)), (wrong, right)


def test_prompts_of_rare_words_are_made_of_words_that_text_explains():
    """Each rare word stands in some line beside the common word that it means."""
    text = lines_of("meaning", 1500)
    for world in WORLDS.values():
        for rare, common in world.vocabulary.rare_words.items():
            together = [line for line in text if {rare, common} <= set(words(line))]
            assert len(together) > 3, (rare, common)


def test_every_kind_has_its_share(lines):
    assert sum(share for _, share in KINDS.values()) == 100
    told_twice = sum(" lies " in line or " is " in line for line in lines)
    assert told_twice > len(lines) / 2


# ---------------------------------------------------------------- what it says is true


def plain(line):
    """A line in the words of captions; rare words and phrases replaced."""
    for relation, phrases in TEXT_PHRASES.items():
        for phrase in sorted(phrases, key=len, reverse=True):
            line = re.sub(rf"\b{phrase}\b", PHRASES[relation][0], line)
    line = re.sub("[a-z]+", lambda m: SYNONYMS.get(m.group(), m.group()), line)
    common = line.split(" ")
    for i, word in enumerate(common[:-1]):
        if word in ("a", "an"):
            common[i] = article_for(common[i + 1])
    return " ".join(common)


def test_synonyms_lead_to_words_of_captions():
    assert set(SYNONYMS.values()) <= set(ATTRIBUTE_OF)
    assert not set(SYNONYMS) & set(ATTRIBUTE_OF)
    assert set(DEFINITIONS) <= set(ATTRIBUTE_OF)
    assert set(OF_COLOUR) <= {*ATTRIBUTES["colour"], *ATTRIBUTES["background"]}


def test_a_scene_told_twice_is_the_same_scene():
    opening = f"(?:{'|'.join(OPENINGS)})"
    vocabulary = replace(
        STUDIO_VOCABULARY, backgrounds=(*STUDIO_VOCABULARY.backgrounds, *BACKGROUNDS)
    )
    checked = concluded = 0
    for line in lines_of("relations"):
        first, *rest = plain(line).split(". ")
        twice = rest and re.fullmatch(rf"[a-z ]+, {opening} (.*)", rest[0])
        once = re.fullmatch(rf"{opening} (.*)", first)
        if not (once and twice):
            continue
        try:
            a, b = (parse_caption(m.group(1), vocabulary) for m in (once, twice))
        except ValueError:
            continue  # a misspelt word, or a background of the other world
        assert a.objects == b.objects[::-1] and b.relation == OPPOSITE[a.relation], line
        assert (a.background, a.light) == (b.background, b.light), line
        checked += 1
        phrases = {phrase: name for name, of in PHRASES.items() for phrase in of}
        for said in rest[1:]:
            for phrase, name in phrases.items():
                if m := re.fullmatch(rf"the (\w+) is {phrase} the (\w+)", said):
                    shapes = [o.shape for o in a.objects]
                    if set(m.groups()) == set(shapes):
                        assert m.groups() == tuple(shapes) and name == a.relation, line
                        concluded += 1
    assert checked > 200 and concluded > 50


def test_arithmetic_is_correct():
    value, checked = {w: n for n, w in enumerate(NUMBER_WORDS)}, 0
    forms = {
        r"(\w+) and (\w+) make (\w+)": lambda a, b, c: a + b == c,
        r"(\w+) plus (\w+) is (\w+)": lambda a, b, c: a + b == c,
        r"(\w+) minus (\w+) is (\w+)": lambda a, b, c: a - b == c,
        r"(\w+) less than (\w+) is (\w+)": lambda a, b, c: b - a == c,
        r"(\w+) more than (\w+) is (\w+)": lambda a, b, c: a + b == c,
        r"take (\w+) from (\w+) and (\w+) is left": lambda a, b, c: b - a == c,
        r"between (\w+) and (\w+) comes (\w+)": lambda a, b, c: a + 1 == c == b - 1,
    }
    for line in without_slips(lines_of("numbers")):
        for sentence in line.split(". "):
            for form, holds in forms.items():
                m = re.fullmatch(form, sentence)
                if m and all(g in value for g in m.groups()):
                    assert holds(*(value[g] for g in m.groups())), sentence
                    checked += 1
    assert checked > 200


def test_things_are_counted_correctly():
    checked = 0
    for line in without_slips(lines_of("numbers")):
        for sentence in plain(line).split(". "):
            if m := re.fullmatch(r"we count (\w+) [a-z ]+: (.*)", sentence):
                listed = re.split(r", | and ", m.group(2))
                assert NUMBERS.index(m.group(1)) == len(listed), sentence
                checked += 1
            if m := re.fullmatch(r"we see (.*): (.*) and (.*), which is (\w+) things", sentence):
                listed = re.split(r", | and ", m.group(1))
                assert NUMBERS.index(m.group(4)) == len(listed), sentence
                parts = [p.split(" ")[0] for p in m.groups()[1:3]]
                each = [NUMBERS.index(p) if p in NUMBERS else 1 for p in parts]
                assert sum(each) == len(listed), sentence
                checked += 1
    assert checked > 50
    assert GROUPS["pair"] == 2 and GROUPS["quintet"] == 5


def test_what_is_absent_is_not_there_afterwards():
    checked, shapes = 0, set(ATTRIBUTES["shape"])
    leads = r"(?:and no|but no|without an?|and not an?|but not any|, and there is no)"
    for line in without_slips(lines_of("negation")):
        sentences = plain(line).split(". ")
        for first, then in zip(sentences, sentences[1:]):
            m = re.fullmatch(rf"([a-z ]+?) ?{leads} ([a-z ]+)", first)
            if not m or not (absent := shapes & set(m.group(2).split(" on ")[0].split())):
                continue
            there = shapes & set(words(m.group(1)))
            if then.startswith(("so there is only", "all that is there", "that makes")):
                assert there == shapes & set(words(then)), line
                assert not absent & set(words(then)), line
                checked += 1
    assert checked > 30


def test_the_larger_thing_is_large():
    checked = 0
    for line in without_slips(lines_of("comparisons")):
        for sentence in plain(line).split(". "):
            if m := re.fullmatch(r"the ([a-z ]+) is (larger|smaller) than the ([a-z ]+)", sentence):
                size = {"larger": "large", "smaller": "small"}[m.group(2)]
                other = {"large": "small", "small": "large"}[size]
                if {"large", "small"} <= set(words(sentence)):
                    assert size in m.group(1).split() and other in m.group(3).split(), line
                    checked += 1
    assert checked > 100
