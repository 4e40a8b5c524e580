"""The score itself: pictures that are right by construction, pictures that are wrong in a known way, and captions read back."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from imagen_mini import evaluation
from imagen_mini.evaluation import (CATEGORIES, HELD_OUT_CATEGORIES, EditScore, Swap, benchmark, edit_table, evaluate,
                                    evaluate_edits, score_edit, swaps, table, wilson_interval)
from imagen_mini.scenes.captions import RARE_WORDS, Caption, Description, Thing, describe, read, write
from imagen_mini.scenes.parse import Reading, parse
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import BACKGROUNDS, COLORS, GAP, GRID, SIZES, TEXTURES, Object, Scene, clear_relation, held_out, random_scene


def scene_of(description, rng, accept=lambda scene: True):
    """A random scene that shows what is described, drawn until it fits. On purpose not the package's own."""
    for _ in range(20_000):
        objects = []
        for thing in description.things:
            size = thing.size or (rng.choice(tuple(SIZES)) if len(description.things) < 3 else "small")
            o = Object(0, 0, thing.shape, thing.color or rng.choice(tuple(COLORS)), size, thing.texture or rng.choice(TEXTURES))
            low, high = int(o.reach + 1.5), int(GRID - o.reach - 0.5)
            for _ in range(20):
                o = replace(o, x=rng.randint(low, high), y=rng.randint(low, high))
                if all((o.x - p.x) ** 2 + (o.y - p.y) ** 2 >= (o.reach + p.reach + GAP) ** 2 for p in objects):
                    objects.append(o)
                    break
        apart = len(objects) == len(description.things)
        clear = apart and (description.relation is None or clear_relation(*objects) == description.relation)
        scene = Scene(tuple(objects), description.background or rng.choice(tuple(BACKGROUNDS)))
        if clear and accept(scene):
            return scene
    raise AssertionError(f"no scene shows {description}")


def right_pictures(prompts, size):
    """A `draw` that knows the truth: for each prompt a picture that shows it."""
    descriptions = {c.text: c.description for _, _, c in prompts}

    def draw(texts, seeds):
        return render([scene_of(descriptions[t], random.Random(f"{t}/{s}")) for t, s in zip(texts, seeds)], size)

    return draw


# ---------------------------------------------------------------- text alignment

@pytest.mark.parametrize("size", [64, 256])
def test_pictures_of_what_the_captions_say_are_all_right(size):
    prompts = benchmark(6 if size == 64 else 2)
    rows = table(list(evaluate(right_pictures(prompts, size), prompts)))
    assert set(rows) == set(CATEGORIES) | set(HELD_OUT_CATEGORIES)
    assert {name: row["accuracy"] for name, row in rows.items()} == {name: 1.0 for name in rows}


NOISE = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("picture", [torch.ones(3, 64, 64), torch.zeros(3, 64, 64), NOISE], ids=["white", "gray", "noise"])
def test_pictures_of_nothing_are_all_wrong(picture):
    prompts = benchmark(3)
    rows = table(list(evaluate(lambda texts, seeds: picture.expand(len(texts), -1, -1, -1), prompts)))
    assert all(row["accuracy"] == 0 and row["right"] == 0 and row["n"] == 3 for row in rows.values())


def test_a_planted_tenth_of_swapped_colors_is_found_as_a_tenth():
    prompts = benchmark(50, categories=["colors"])
    draw = right_pictures(prompts, 64)
    others = list(COLORS)

    def wrong_now_and_then(texts, seeds):
        images = draw(texts, seeds)
        for i, (text, seed) in enumerate(zip(texts, seeds)):
            if seed % 10 == 3:
                scene = scene_of(read(text), random.Random(0))
                o, = scene.objects
                other = others[(others.index(o.color) + 1) % len(others)]
                images[i] = render(replace(scene, objects=(replace(o, color=other),)), 64)[0]
        return images

    row = table(list(evaluate(wrong_now_and_then, prompts)))["colors"]
    assert row["right"] == 45 and row["accuracy"] == 0.9 and row["unreadable"] == 0
    assert row["low"] < 0.9 < row["high"]


def one(shape="circle", color="red", size="large", texture="solid", x=20, y=32):
    return Object(y=y, x=x, shape=shape, color=color, size=size, texture=texture)


@pytest.mark.parametrize("caption, right", [
    ("a red circle", True), ("a large solid red circle on a white background", True), ("a circle", True), ("a crimson disc", True),
    ("a blue circle", False), ("a red ring", False), ("a small red circle", False), ("a striped red circle", False),
    ("a red circle on a black background", False), ("two red circles", False), ("a red circle and a blue star", False)])
def test_a_picture_is_right_if_it_shows_what_is_said_and_nothing_else(caption, right):
    reading, = parse(render(Scene((one(),), "white"), 256))
    assert read(caption).fits(reading.scene) == right


@pytest.mark.parametrize("caption, right", [
    ("a red circle to the left of a blue star", True), ("a blue star to the right of a red circle", True),
    ("a red circle and a blue star", True),
    ("a blue star and a red circle", True), ("a circle on the left side of a star", True),
    ("a red circle to the right of a blue star", False), ("a red circle above a blue star", False),
    ("a blue star to the left of a red circle", False),
    ("a blue circle to the left of a red star", False), ("a red circle", False)])
def test_a_relation_is_right_in_its_order_only(caption, right):
    reading, = parse(render(Scene((one(), one("star", "blue", "small", x=48, y=30)), "gray"), 64))
    assert read(caption).fits(reading.scene) == right


def test_a_picture_that_cannot_be_read_is_wrong():
    assert not read("a red circle").fits(None)


# ---------------------------------------------------------------- prompts

def test_the_benchmark_is_the_same_for_the_same_seed_and_another_for_another():
    assert benchmark(5, 1) == benchmark(5, 1)
    assert benchmark(3, 1) == [p for p in benchmark(5, 1) if p[1] < 1003]      # more prompts do not change the first ones
    assert {c.text for _, _, c in benchmark(5, 1)} != {c.text for _, _, c in benchmark(5, 2)}


def test_the_benchmark_has_n_of_each_category_asked_for():
    assert Counter(c for c, _, _ in benchmark(4)) == {name: 4 for name in (*CATEGORIES, *HELD_OUT_CATEGORIES)}
    assert {c for c, _, _ in benchmark(2, categories=["binding"])} == {"binding"}
    with pytest.raises(ValueError, match=r"unknown categories \['colours'\]; there are one object,"):
        benchmark(2, categories=["colours"])


def test_every_prompt_reads_back_as_its_description():
    for category, _, caption in benchmark(30):
        got, meant = read(caption.text), caption.description
        assert Counter(got.things) == Counter(meant.things), category
        assert (got.relation, got.background) == (meant.relation, meant.background), category


def test_prompts_of_the_distribution_can_be_shown_without_touching_what_is_held_out():
    for category, _, caption in benchmark(20, categories=list(CATEGORIES)):
        scene_of(caption.description, random.Random(0), accept=lambda scene: not held_out(scene))


@pytest.mark.parametrize("category, split", [
    ("held-out color and shape", "color-shape"), ("held-out texture and shape", "texture-shape"), ("held-out relation", "relation"),
    ("held-out count", "count"), ("conflicting", "conflict")])
def test_prompts_of_a_held_out_category_cannot_be_shown_without_touching_it(category, split):
    for _, _, caption in benchmark(20, categories=[category]):
        for seed in range(3):
            assert split in held_out(scene_of(caption.description, random.Random(seed)))


def test_prompts_of_the_held_out_phrases_use_words_that_training_captions_do_not():
    phrases = ("on the left side of", "on the right side of", "on top of", "beneath")
    assert all(any(p in c.text for p in phrases) for _, _, c in benchmark(20, categories=["held-out phrase"]))
    rng = random.Random(0)
    for _ in range(500):
        text = write(describe(random_scene(rng), rng), rng).text
        assert not any(p in text for p in phrases) and not set(text.split()) & set(RARE_WORDS)


def test_the_package_s_own_scenes_show_the_prompts_too():
    for category, seed, caption in benchmark(10):
        assert caption.description.fits(evaluation.scene_of(caption.description, random.Random(seed))), category


# ---------------------------------------------------------------- intervals

@pytest.mark.parametrize("successes, n, low, high", [
    (0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (95, 100, 0.8882, 0.9785)])
def test_the_interval_is_wilson_s(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_of_nothing_the_interval_is_everything():
    assert wilson_interval(0, 0) == (0, 1)


def test_the_interval_solves_the_equation_that_defines_it():
    for successes, n in ((3, 20), (17, 40)):
        for p in wilson_interval(successes, n):        # p is as far from the observed share as 1.96 of its own deviations
            assert abs(successes / n - p) == pytest.approx(1.96 * (p * (1 - p) / n) ** 0.5)


# ---------------------------------------------------------------- edits

FROM_TO = [f"a {color} circle to the left of a blue star" for color in ("red", "green")]
SWAP = Swap("color", 0, 0, *(Caption(text, (), read(text)) for text in FROM_TO))
BEFORE = Scene((one(), one("star", "blue", "small", x=48, y=30)), "gray")


def judged(after, before=BEFORE, swap=SWAP, size=64):
    source, edited = parse(torch.cat([render(before, size), render(after, size)]))
    return score_edit(swap, source, edited)


def edited(circle=None, star=None, background="gray"):
    """BEFORE with a green circle, as SWAP asks for, and perhaps other changes."""
    first, second = BEFORE.objects[::-1]
    return Scene((replace(first, **{"color": "green"} | (circle or {})), replace(second, **star or {})), background)


@pytest.mark.parametrize("size", [64, 256])
def test_an_edit_that_changes_what_was_asked_for_and_nothing_else_is_good(size):
    assert judged(edited(), size=size) == EditScore(True, True, True, True) and judged(edited(), size=size).good


def test_an_edit_may_move_things_by_a_little():
    assert judged(edited(circle={"x": 22, "y": 31}, star={"x": 46})).good


@pytest.mark.parametrize("after, success", [
    (edited(star={"y": 45}), True), (edited(circle={"x": 12}), True), (edited(star={"color": "pink"}), False), (edited(star={"shape": "ring"}), False),
    (edited(star={"size": "large"}), True),
], ids=["moved", "itself moved", "recolored", "reshaped", "resized"])
def test_an_edit_that_moves_anything_or_changes_another_thing_has_not_kept_the_layout(after, success):
    assert judged(after) == EditScore(True, success, False, False)


@pytest.mark.parametrize("after, success", [
    (edited(circle={"size": "small"}), True), (edited(background="white"), True), (edited(circle={"shape": "square"}), False),
], ids=["itself resized", "background", "itself reshaped"])
def test_an_edit_that_changes_more_in_its_place_has_kept_the_layout_but_not_all_else(after, success):
    assert judged(after) == EditScore(True, success, True, False)


def test_a_texture_that_changes_is_seen_in_the_large_picture():
    assert not judged(edited(star={"texture": "striped"}), size=256).layout
    assert judged(edited(circle={"texture": "striped"}), size=256) == EditScore(True, True, True, False)


@pytest.mark.parametrize("circle", [{"color": "red"}, {"color": "orange"}, {"color": "blue"}])
def test_an_edit_to_another_color_than_asked_for_is_kept_but_no_success(circle):
    assert judged(edited(circle=circle)) == EditScore(True, False, True, True)


ONE_MORE = (*edited().objects, one("ring", "pink", "small", x=34, y=10))


@pytest.mark.parametrize("objects", [(), BEFORE.objects[:1], ONE_MORE], ids=["none", "one gone", "one more"])
def test_an_edit_that_loses_or_adds_a_thing_is_neither(objects):
    score = judged(Scene(objects, "gray"))
    assert not score.success and not score.layout and not score.kept


def test_an_edit_of_a_source_that_is_wrong_already_does_not_count():
    score = judged(edited(), before=Scene(BEFORE.objects[:1], "gray"))
    assert not score.source_right and not score.layout
    unreadable = Reading(None, None, (), ("noise",))
    assert score_edit(SWAP, unreadable, parse(render(edited(), 64))[0]) == EditScore(False, True, False, False)
    assert score_edit(SWAP, parse(render(BEFORE, 64))[0], unreadable) == EditScore(True, False, False, False)


def test_one_of_two_like_things_can_be_edited():
    swap = Swap("color", 0, 0, *(Caption(t, (), read(t)) for t in ("two red circles", "a green circle and a red circle")))
    before = Scene((one(x=20), one(x=45)), "white")
    assert judged(Scene((one(x=20, color="green"), one(x=45)), "white"), before, swap).good
    assert not judged(before, before, swap).success


@pytest.mark.parametrize("attribute", ["color", "shape"])
def test_a_swap_changes_one_word_of_one_thing(attribute):
    list_of_swaps = swaps(attribute, 40)
    assert [len(s.source.description.things) for s in list_of_swaps] == [1, 2] * 20
    for s in list_of_swaps:
        a, b = s.source.text.split(), s.target.text.split()
        words = [(x, y) for x, y in zip(a, b) if x != y and {x, y} != {"a", "an"}]
        before, after = s.source.description.things[s.thing], s.target.description.things[s.thing]
        assert len(a) == len(b) and words == [(getattr(before, attribute), getattr(after, attribute))]
        assert replace(before, **{attribute: ""}) == replace(after, **{attribute: ""})
        assert read(s.target.text) == s.target.description
    assert swaps(attribute, 5) == list_of_swaps[:5]


def test_perfect_edits_score_one_and_unedited_pictures_zero():
    list_of_swaps = swaps("color", 8)
    by_text = {s.source.text: s for s in list_of_swaps}

    def draw(prompts, seed, edit=True):
        s = by_text[prompts[0]]
        source = scene_of(s.source.description, random.Random(seed))
        objects = list(s.source.description.assign(source))
        if edit:
            objects[s.thing] = replace(objects[s.thing], color=s.target.description.things[s.thing].color)
        return render([source, replace(source, objects=tuple(objects))], 64)

    perfect = edit_table([score for _, _, (score,) in evaluate_edits(draw, list_of_swaps)])
    assert perfect["n"] == perfect["source_right"] == 8
    assert perfect["good"] == perfect["success"] == perfect["all_kept"] == perfect["good_high"] == 1
    unedited = edit_table([score for _, _, (score,) in evaluate_edits(lambda p, seed: draw(p, seed, False), list_of_swaps)])
    assert unedited["success"] == unedited["good"] == unedited["all_kept"] == 0 and unedited["layout"] == 1


def test_rates_are_taken_over_the_edits_whose_source_was_right():
    row = edit_table([EditScore(True, True, True, True), EditScore(True, True, True, False), EditScore(True, False, True, True),
                      EditScore(True, True, False, False), EditScore(False, True, False, False)])
    assert (row["n"], row["source_right"], row["success"], row["layout"], row["good"], row["all_kept"]) == (5, 4, 0.75, 0.75, 0.5, 0.25)
    assert edit_table([])["n"] == 0


# ---------------------------------------------------------------- captions

@pytest.mark.parametrize("paraphrase", [False, True])
def test_what_is_written_of_a_thousand_scenes_reads_back_as_what_was_described(paraphrase):
    rng = random.Random(5)
    for _ in range(1000):
        scene = random_scene(rng, exclude_held_out=False)
        description = describe(scene, rng)
        got = read(write(description, rng, paraphrase).text)
        assert description.fits(scene) and got.fits(scene)
        assert Counter(got.things) == Counter(description.things)
        assert (got.relation, got.background) == (description.relation, description.background)
        if got.relation is not None:
            assert got.things == description.things    # the order matters


def test_a_caption_knows_where_its_words_stand_and_what_they_speak_of():
    rng = random.Random(6)
    for _ in range(300):
        caption = write(describe(random_scene(rng), rng), rng)
        things = caption.description.things
        for word in caption.words:
            assert caption.text[word.start:word.end] == word.text
            if word.role in ("color", "size", "texture"):
                assert all(getattr(things[i], word.role) == word.text for i in word.things)
            if word.role == "shape":
                assert all(word.text in (things[i].shape, things[i].shape + "s", things[i].shape + "es") for i in word.things)
        spoken = Counter(i for w in caption.words if w.role == "shape" for i in w.things)
        assert spoken == {i: 1 for i in range(len(things))}


@pytest.mark.parametrize("text, things, relation, background", [
    ("a crimson disc", [Thing("circle", "red")], None, None),
    ("three tiny spotted hoops on a gray background", [Thing("ring", None, "small", "dotted")] * 3, None, "gray"),
    ("A red circle, a star and a blue box", [Thing("circle", "red"), Thing("star"), Thing("square", "blue")], None, None),
    ("an image of a huge rose star beneath a cross", [Thing("star", "pink", "large"), Thing("cross")], "below", None),
    ("on a black background, a ring", [Thing("ring")], None, "black"),
])
def test_captions_are_read_rare_words_and_all(text, things, relation, background):
    assert read(text) == Description(tuple(things), relation, background)


@pytest.mark.parametrize("text, message", [
    ("", "nothing to see"), ("a cat", "'a?.?cat'"), ("a red blue circle", "'blue'"), ("a fuzzy circle", "'fuzzy'"),
    ("a circle on a teal background", "no background 'teal'"), ("a red", "expected one of circle")])
def test_what_the_grammar_does_not_have_is_an_error_that_names_the_word(text, message):
    with pytest.raises(ValueError, match=message):
        read(text)
