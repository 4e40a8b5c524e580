"""Kinds of errors on scenes that have exactly that error; confusion matrices; two reports."""

import json
import random
from pathlib import Path

import pytest

from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.error_analysis import (
    ERROR_TYPES,
    classify_error,
    confusion_matrices,
    error_table,
)
from imagen_mini.evaluation.scoring import Result, sample_scene_matching
from imagen_mini.evaluation.statistics import newcombe_interval
from imagen_mini.scenes.captions import Description, ObjectDescription
from imagen_mini.scenes.parse import ParsedScene, parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject
from sample import compare

RED, BLUE = (
    ObjectDescription("circle", "red", "small", "solid"),
    ObjectDescription("square", "blue", "large", "solid"),
)
LEFT_OF = Description((RED, BLUE), "left of", "white")


def scene(*objects, background="white"):
    """Objects side by side, left to right: (shape, color, size, texture)."""
    return Scene(
        tuple(
            SceneObject(x=12 + 36 * i, y=32, shape=a, color=b, size=c, texture=d)
            for i, (a, b, c, d) in enumerate(objects)
        ),
        background,
    )


C, S = ("circle", "red", "small", "solid"), ("square", "blue", "large", "solid")


def changed(obj, place, value):
    return tuple(value if i == place else v for i, v in enumerate(obj))


@pytest.mark.parametrize(
    "shown, kind",
    [
        (scene(C, S), "right"),
        (None, "unreadable"),
        (scene(C), "too few"),
        (scene(C, S, C), "too many"),
        (scene(changed(C, 0, "ring"), S), "shape"),
        (scene(changed(C, 1, "green"), S), "color"),
        (scene(C, changed(S, 2, "small")), "size"),
        (scene(C, changed(S, 3, "dotted")), "texture"),
        (scene(changed(C, 1, "blue"), changed(S, 1, "red")), "binding"),
        (scene(changed(C, 2, "large"), changed(S, 2, "small")), "binding"),
        (scene(S, C), "relation"),
        (scene(C, S, background="black"), "background"),
        (scene(S, C, background="black"), "relation"),
        (scene(changed(C, 1, "blue"), S), "color"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_each_kind_of_error_is_distinguished_from_the_others(shown, kind):
    parsed = (
        ParsedScene(None, None, (), ("x",))
        if shown is None
        else ParsedScene(shown, shown.background, shown.objects, ())
    )
    assert classify_error(LEFT_OF, parsed) == kind and kind in ERROR_TYPES
    assert (kind == "right") == LEFT_OF.fits(shown)


def results_of(change=lambda scene, rng: scene, n=20):
    """The benchmark with its own scenes as images, perhaps changed."""
    prompts = benchmark(n, seed=3)
    rng = random.Random(0)
    scenes = [
        change(sample_scene_matching(caption.description, rng), rng) for _, _, caption in prompts
    ]
    images = render(scenes, 256)
    return [
        Result(category, seed, caption, image, parsed)
        for (category, seed, caption), image, parsed in zip(prompts, images, parse_image(images))
    ]


def test_true_images_have_no_errors_and_lie_on_the_diagonal():
    results = results_of(n=6)
    assert all(kinds == {"right": 6} for kinds in error_table(results).values())
    for attribute, matrix in confusion_matrices(results).items():
        assert (
            sum(
                n
                for said, generated in matrix.items()
                for value, n in generated.items()
                if value != said
            )
            == 0
        )
        assert sum(n for generated in matrix.values() for n in generated.values()) > 0, attribute


def test_a_planted_share_of_swapped_colours_is_found_as_that_share():
    planted = []

    def repaint(scene, rng):
        planted.append(len(scene.objects) == 1 and rng.random() < 0.3)
        if not planted[-1]:
            return scene
        (o,) = scene.objects
        color = {"red": "green"}.get(o.color, "red")
        return Scene(
            (
                SceneObject(
                    x=o.x, y=o.y, shape=o.shape, color=color, size=o.size, texture=o.texture
                ),
            ),
            scene.background,
        )

    results = results_of(repaint, n=12)
    incorrect = sum(of.get("color", 0) for of in error_table(results).values())
    said = sum(
        p and r.caption.description.objects[0].color is not None for p, r in zip(planted, results)
    )
    assert incorrect == said > 5
    matrix = confusion_matrices(results)["color"]
    assert (
        sum(n for of, generated in matrix.items() for value, n in generated.items() if value != of)
        == incorrect
    )
    assert all(
        value in ("red", "green")
        for of, generated in matrix.items()
        for value, n in generated.items()
        if n and value != of
    )


# ---------------------------------------------------------------- comparing


def test_the_interval_of_a_difference_is_newcombes():
    # his first example, a and b exchanged
    difference, low, high = newcombe_interval(48, 80, 56, 70)
    assert (difference, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert newcombe_interval(0, 10, 0, 10)[0] == 0 and newcombe_interval(0, 10, 10, 10)[1] > 0.5
    for a, b in ((3, 17), (10, 10)):
        d, low, high = newcombe_interval(a, 20, b, 20)
        assert newcombe_interval(b, 20, a, 20) == pytest.approx((-d, -high, -low))


def test_the_interval_holds_the_difference_about_nineteen_times_of_twenty():
    rng, inside, n = random.Random(0), 0, 2000
    for _ in range(n):
        a, b = (
            sum(rng.random() < 0.7 for _ in range(30)),
            sum(rng.random() < 0.85 for _ in range(40)),
        )
        _, low, high = newcombe_interval(a, 30, b, 40)
        inside += low <= 0.15 <= high
    assert 0.93 < inside / n < 0.98


def report(path, correct, seed=0, edits=None):
    rows = {name: {"right": k, "n": n} for name, (k, n) in correct.items()}
    path.write_text(
        json.dumps({"benchmark_seed": seed, "text_alignment": rows, "edits": edits or {}})
    )
    return str(path)


def test_two_reports_are_compared_by_category(tmp_path, capsys):
    edit = {"color swap": {"good": 0.5, "source_right": 40}}
    a = report(
        tmp_path / "a.json",
        {"binding": (3, 30), "counting": (20, 30), "only here": (1, 2)},
        edits=edit,
    )
    b = report(tmp_path / "b.json", {"binding": (25, 30), "counting": (21, 30)}, edits=edit, seed=1)
    compare.main([a, b])
    out = capsys.readouterr().out
    assert "different prompts (seeds 0 and 1)" in out and "only here" not in out
    binding, counting, swap = (
        next(line for line in out.splitlines() if line.startswith(name))
        for name in ("binding", "counting", "color swap")
    )
    assert (
        "better" in binding
        and "+73.3 %" in binding
        and "may be chance" in counting
        and "+0.0 %" in swap
    )
    compare.main([b, a])
    assert "worse" in capsys.readouterr().out


def test_rows_of_edits_are_found_by_the_names_of_earlier_reports(tmp_path):
    row = {"good": 0.5, "source_right": 40}
    before = report(
        tmp_path / "a.json",
        {},
        edits={
            "color swap, prompt-to-prompt": row,
            "color swap, all attention injected": row,
            "color swap, same seed, new prompt": row,
            "color swap, and only where prompts disagree": row,
        },
    )
    names = (
        "switching, then attention",
        "attention",
        "same seed",
        "both, only where prompts disagree",
    )
    after = report(tmp_path / "b.json", {}, edits={f"color swap: {name}": row for name in names})
    rows = compare.compare(compare.load_report(Path(before)), compare.load_report(Path(after)))
    assert {r["category"] for r in rows} == {f"color swap: {name}" for name in names}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"benchmark_seed": 0, "text_alignment": [], "edits": {}}']
)
def test_what_is_no_report_is_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SystemExit, match="x.json is no report"):
        compare.main([str(tmp_path / "x.json")] * 2)


def test_reports_without_a_common_category_are_an_error(tmp_path):
    with pytest.raises(SystemExit, match="no category in common"):
        compare.main(
            [report(tmp_path / "a.json", {"x": (1, 2)}), report(tmp_path / "b.json", {"y": (1, 2)})]
        )
