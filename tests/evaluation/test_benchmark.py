"""The benchmark's captions: they say what they are meant to and can be shown, and it is known which
of them occur in training.
"""

import random
from collections import Counter
from pathlib import Path

import pytest
from support.scenes import scene_of

from imagen_mini.evaluation import scoring as evaluation
from imagen_mini.evaluation.benchmark import (
    ATTRIBUTES_OF_TWO,
    CATEGORIES,
    HELD_OUT_CATEGORIES,
    STUDIO_CATEGORIES,
    benchmark,
    seen_in_training,
)
from imagen_mini.scenes.captions import (
    HELD_OUT_PHRASES,
    PHRASES,
    RARE_WORDS,
    caption_from,
    describe,
    parse_caption,
    training_caption,
)
from imagen_mini.scenes.rewording import reword
from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    SURFACES,
    TEXTURES,
    conflicts,
    held_out,
    random_scene,
    relation,
    training_scene,
    unambiguous_relation,
)
from imagen_mini.scenes.world import WORLDS

STUDIO = WORLDS["studio"]


def test_the_benchmark_is_the_same_for_the_same_seed_and_another_for_another():
    assert benchmark(5, 1) == benchmark(5, 1)
    # more prompts do not change the first ones
    assert benchmark(3, 1) == [p for p in benchmark(5, 1) if p[1] < 1003]
    assert {c.text for _, _, c in benchmark(5, 1)} != {c.text for _, _, c in benchmark(5, 2)}


def test_the_benchmark_has_n_of_each_category_asked_for():
    assert Counter(c for c, _, _ in benchmark(4)) == {
        name: 4 for name in (*CATEGORIES, *HELD_OUT_CATEGORIES)
    }
    assert {c for c, _, _ in benchmark(2, categories=["binding"])} == {"binding"}
    with pytest.raises(
        ValueError, match=r"unknown categories \['colours'\]; there are one object,"
    ):
        benchmark(2, categories=["colours"])


def test_every_prompt_reads_back_as_its_description_but_the_misspelt_ones():
    for category, _, caption in benchmark(30):
        if category == "misspellings":
            continue
        got, meant = parse_caption(caption.text), caption.description
        assert Counter(got.objects) == Counter(meant.objects), category
        assert (got.relation, got.background) == (meant.relation, meant.background), category


def test_prompts_of_the_distribution_can_be_shown_without_touching_what_is_held_out():
    for _, _, caption in benchmark(20, categories=list(CATEGORIES)):
        scene_of(caption.description, random.Random(0), accept=lambda scene: not held_out(scene))


@pytest.mark.parametrize(
    "category, split",
    [
        ("held-out color and shape", "color-shape"),
        ("held-out texture and shape", "texture-shape"),
        ("held-out relation", "relation"),
        ("held-out count", "count"),
        ("conflicting", "conflict"),
    ],
)
def test_prompts_of_a_held_out_category_cannot_be_shown_without_touching_it(category, split):
    for _, _, caption in benchmark(20, categories=[category]):
        for seed in range(3):
            assert split in held_out(scene_of(caption.description, random.Random(seed)))


def test_prompts_of_the_held_out_phrases_use_words_that_training_captions_do_not():
    phrases = ("on the left side of", "on the right side of", "on top of", "beneath")
    assert all(
        any(p in c.text for p in phrases)
        for _, _, c in benchmark(20, categories=["held-out phrase"])
    )
    rng = random.Random(0)
    for _ in range(500):
        text = caption_from(describe(random_scene(rng), rng), rng).text
        assert not any(p in text for p in phrases) and not set(text.split()) & set(RARE_WORDS)


def test_sampled_scenes_show_the_prompts_too():
    for category, seed, caption in benchmark(10):
        assert caption.description.fits(
            evaluation.sample_scene_matching(caption.description, random.Random(seed))
        ), category


# ---------------------------------------------------------------- single categories


def test_the_committed_list_is_what_the_function_gives():
    lines = (Path(evaluation.__file__).parent / "benchmark.tsv").read_text().splitlines()
    assert lines == [
        "category\tseed\tcaption",
        *(f"{category}\t{seed}\t{caption.text}" for category, seed, caption in benchmark(30)),
    ]


@pytest.mark.parametrize("k", range(1, 7))
def test_k_attributes_are_k_said_of_two_objects(k):
    ways = set()
    for _, _, caption in benchmark(60, categories=[f"{k} attribute{'s' * (k > 1)}"]):
        d = caption.description
        assert len(d.objects) == 2 and d.objects[0].shape != d.objects[1].shape
        said = [
            getattr(obj, name) for obj in d.objects for name in ("color", "size", "texture")
        ] + [d.relation, d.background]
        assert sum(value is not None for value in said) == k
        ways.add(tuple(value is not None for value in said))
    # every way to say k
    assert len(ways) == sum(
        1
        for i in range(1, 16)
        if sum(n for j, n in enumerate(ATTRIBUTES_OF_TWO.values()) if i >> j & 1) == k
    )


VOCABULARY = {
    *COLORS,
    *SHAPES,
    *SIZES,
    *TEXTURES,
    *BACKGROUNDS,
    *RARE_WORDS,
    *(w for p in (*PHRASES.values(), HELD_OUT_PHRASES.values()) for q in p for w in q.split()),
    "a",
    "an",
    "and",
    "picture",
    "image",
    "of",
    "on",
    "background",
    ",",
    "but",
    "no",
    "without",
}


def test_a_misspelt_prompt_has_one_word_that_is_none_and_says_something():
    for _, _, caption in benchmark(60, categories=["misspellings"]):
        misspelt = [w for w in caption.words if w.text not in VOCABULARY]
        assert len(misspelt) == 1 and misspelt[0].role in ("color", "size", "shape")
        assert [caption.text[w.start : w.end] for w in caption.words] == [
            w.text for w in caption.words
        ]
        (obj,) = caption.description.objects
        assert sorted({obj.shape, obj.color, obj.size} - {w.text for w in caption.words}) != []


def test_prompts_of_rare_words_have_two_or_more_of_them_and_no_common_word_that_has_one():
    for _, _, caption in benchmark(60, categories=["rare words"]):
        words = [w.text for w in caption.words]
        assert sum(w in RARE_WORDS for w in words) >= 2 and not set(words) & set(
            RARE_WORDS.values()
        )


def test_what_a_negation_names_is_not_in_the_image():
    for _, _, caption in benchmark(60, categories=["negation"]):
        (obj,) = caption.description.objects
        *_, color, shape = caption.text.split()
        assert color in COLORS and shape in SHAPES and (color != obj.color) and (shape != obj.shape)
        assert parse_caption(caption.text).objects == (obj,) and any(
            w in ("no", "without") for w in caption.text.split()
        )


@pytest.mark.parametrize(
    "text",
    [
        "a red circle without a star on a white background",
        "a red circle on a white background and no star",
        "on a white background , a red circle but no star",
    ],
)
def test_a_negation_may_stand_before_or_after_a_background(text):
    d = parse_caption(text)
    assert [t.shape for t in d.objects] == ["circle"] and d.background == "white"


@pytest.mark.parametrize(
    "text", ["a red circle and no elephant", "a red circle without a", "no red circle"]
)
def test_a_negation_that_names_nothing_known_or_leaves_nothing_is_not_read(text):
    with pytest.raises(ValueError, match="cannot read|nothing to see"):
        parse_caption(text)


def test_words_that_training_never_uses_are_in_no_training_caption():
    seen = {
        word
        for i in range(2000)
        for word in training_caption(training_scene(0, i), 0, i).text.split()
    }
    assert not seen & (set(RARE_WORDS) | {"no", "but", "without"})


def test_other_words_keep_their_places_their_objects_and_the_article():
    caption = caption_from(parse_caption("a red circle above an orange square"), random.Random(3))
    at = {w.text: i for i, w in enumerate(caption.words)}
    new = reword(caption, {at["red"]: "azure", at["orange"]: "rose"})
    assert "an azure circle" in new.text and "a rose square" in new.text
    assert [(w.objects, w.role) for w in new.words] == [(w.objects, w.role) for w in caption.words]
    assert [new.text[w.start : w.end] for w in new.words] == [w.text for w in new.words]
    assert new.description == caption.description


# ---------------------------------------------------------------- what occurs in training


def test_captions_that_occur_in_training_are_counted():
    seen = [training_caption(training_scene(0, i), 0, i) for i in (3, 41)]
    unseen = caption_from(parse_caption("a huge crimson disc"), random.Random(0))
    other = training_caption(training_scene(5, 0), 5, 0)  # of another training set
    prompts = [("a", 0, seen[0]), ("a", 1, unseen), ("b", 2, seen[1]), ("b", 3, seen[1])]
    prompts += [("c", 4, other)]
    assert seen_in_training(prompts, 60) == {"a": 1, "b": 2, "c": 0}
    assert seen_in_training(prompts, 40) == {"a": 1, "b": 0, "c": 0}


@pytest.mark.parametrize("n", [1_500, pytest.param(200_000, marks=pytest.mark.slow)])
def test_held_out_captions_never_occur_in_training_and_short_ones_of_its_words_do(n):
    counts = seen_in_training(benchmark(30), n)
    assert all(counts[name] == 0 for name in HELD_OUT_CATEGORIES)
    assert sum(counts.values()) > (5 if n < 10_000 else 150)
    assert counts["one object"] > counts["description"]


@pytest.mark.parametrize("n", [2_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_no_large_object_stands_clearly_above_a_small_one_in_training(n):
    above = clearly = 0
    for i in range(n):
        objects = training_scene(0, i).objects
        pairs = [(a, b) for a in objects for b in objects if a is not b and conflicts(a, b)]
        above += sum(relation(a, b) == "above" for a, b in pairs)
        clearly += sum(unambiguous_relation(a, b) == "above" for a, b in pairs)
    assert clearly == 0 < above  # what is said is "clearly", and not "never"


# ---------------------------------------------------------------- the world studio


def test_studio_has_the_same_captions_with_its_own_backgrounds_and_more_categories():
    flat, studio = benchmark(20), benchmark(20, world=STUDIO)
    assert {c for c, _, _ in studio} == {c for c, _, _ in flat} | set(STUDIO_CATEGORIES)
    of_studio = {(category, seed): caption for category, seed, caption in studio}
    backgrounds = set()
    for category, seed, caption in flat:
        there = of_studio[category, seed]
        if caption.description.background is None and category != "misspellings":
            assert there == caption
        elif category != "misspellings":
            backgrounds.add(there.description.background)
    assert backgrounds == set(SURFACES)


def test_studio_prompts_read_back_and_can_be_shown():
    said = set()
    for category, _, caption in benchmark(20, world=STUDIO):
        d = caption.description
        if category != "misspellings":
            got = STUDIO.parse_caption(caption.text)
            assert Counter(got.objects) == Counter(d.objects), caption.text
            assert (got.relation, got.background, got.light) == (d.relation, d.background, d.light)
        assert d.fits(STUDIO.scene_matching(d, random.Random(0))), category
        said |= {obj.material for obj in d.objects} | {d.light}
    assert said == {None, *MATERIALS, *LIGHTS}


def test_two_materials_differ_and_a_full_description_leaves_nothing_open():
    for _, _, caption in benchmark(30, categories=["two materials"], world=STUDIO):
        a, b = caption.description.objects
        assert a.material != b.material and a.color != b.color and a.shape != b.shape
    for _, _, caption in benchmark(30, categories=["full description"], world=STUDIO):
        d = caption.description
        assert None not in (d.relation, d.background, d.light)
        assert all(
            None not in (o.color, o.size, o.texture, o.material) and o.shape for o in d.objects
        )


def test_the_flat_world_has_no_words_for_materials():
    with pytest.raises(ValueError, match=r"unknown categories \['material'\]"):
        benchmark(2, categories=["material"])


def test_seen_captions_are_looked_for_in_the_world_s_own_training_set():
    scene = STUDIO.training_scene(0, 7)
    prompts = [("one object", 0, STUDIO.training_caption(scene, 0, 7))]
    assert seen_in_training(prompts, 8, world=STUDIO) == {"one object": 1}
    assert seen_in_training(prompts, 7, world=STUDIO) == {"one object": 0}
