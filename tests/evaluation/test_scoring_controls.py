"""Controls of the score, whose answer is known beforehand."""

import random

from support.scenes import one

from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.error_analysis import error_table
from imagen_mini.evaluation.scoring import evaluate, sample_scene_matching
from imagen_mini.evaluation.scoring_controls import chance_accuracy, sample_mixed, swap_colors
from imagen_mini.scenes.captions import parse_caption
from imagen_mini.scenes.parse import ParsedScene
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene

PROMPTS = benchmark(10, categories=["colors", "positional"])


def results_of(every=None):
    """Results of true images, one in `every` with other colours."""
    rng = random.Random(0)
    scenes = [sample_scene_matching(c.description, rng) for _, _, c in PROMPTS]
    images = render(scenes if every is None else swap_colors(scenes, every), 64)
    return list(evaluate(lambda texts, seeds: images, PROMPTS, batch=len(PROMPTS)))


def test_a_planted_share_is_found_and_called_by_its_name():
    assert all(r.correct for r in results_of())
    results = results_of(every=5)
    assert [i for i, r in enumerate(results) if not r.correct] == [0, 5, 10, 15]
    assert error_table(results) == {
        name: {"right": 8, "color": 2} for name in ("colors", "positional")
    }


def test_swapped_colors_change_nothing_else():
    scene = Scene((one(), one("star", "pink", x=48)), "gray")
    changed, kept = swap_colors([scene, scene], every=2)
    assert kept == scene and all(
        a.color != b.color and (a.shape, a.x, a.size) == (b.shape, b.x, b.size)
        for a, b in zip(scene.objects, changed.objects)
    )


def test_chance_is_the_mean_over_all_pairs():
    parsed_scenes = [
        ParsedScene(scene, "white", scene.objects, ())
        for scene in (Scene((one(color=c),), "white") for c in ("red", "red", "blue"))
    ] + [ParsedScene(None, None, (), ("x",))]
    assert (
        chance_accuracy(
            [parse_caption("a red circle"), parse_caption("a circle"), parse_caption("a star")],
            parsed_scenes,
        )
        == (2 + 3 + 0) / 12
    )


def test_mixed_results_are_some_of_them_in_another_order():
    results = results_of()
    some = sample_mixed(results, 12)
    assert (
        len({id(r) for r in some}) == 12
        and {id(r) for r in some} <= {id(r) for r in results}
        and [id(r) for r in some] != [id(r) for r in results[:12]]
    )


def test_mixed_results_hold_as_many_mistakes_as_are_asked_for():
    results = results_of(every=5)
    mistakes = [r for r in results if not r.correct]
    for wrong in (2, len(mistakes) + 3):
        some = sample_mixed(results, 12, incorrect=wrong)
        assert len({id(r) for r in some}) == 12 and sum(not r.correct for r in some) >= min(
            wrong, len(mistakes)
        )
