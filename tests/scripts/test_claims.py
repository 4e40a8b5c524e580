"""The papers' claims in miniature: verdicts follow from intervals, both ways; the command resumes
where it was interrupted.
"""

import itertools
import json
import math
import random
from dataclasses import replace

import pytest
import torch
from PIL import Image

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.serialization import load_stage
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.statistics import (
    Difference,
    difference_of_means,
    exact_paired_p,
    paired_agresti_min,
    t_quantile,
)
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import HELD_OUT_SEED, HELD_OUT_TEXTURE_SHAPE, training_scene
from imagen_mini.training.config import TRAIN_PRESETS, override_run
from imagen_mini.weights import WEIGHTS
from sample import compare_claims
from sample.claims import __main__ as claims
from sample.claims import cascade, editing, guidance, report, trained
from sample.claims.claim import (
    FAILS,
    HOLDS,
    UNCLEAR,
    all_of,
    beats,
    gain,
    has_room,
    is_above,
    is_most,
    tally,
)
from train import variants

N = 100


def share(k, n=N, first=True):
    """k of n correct: the first ones, or the last."""
    return tally([(i < k) == first if first else i >= n - k for i in range(n)])


# ---------------------------------------------------------------- statistics


def test_the_interval_of_paired_shares_is_that_of_agresti_and_min():
    # by their formula: 10 / 52 +- 1.96 sqrt(15 - 100 / 52) / 52
    d = paired_agresti_min([1] * 12 + [-1] * 2 + [0] * 36)
    assert (d.mean, d.low, d.high, d.n) == (
        pytest.approx(0.2),
        pytest.approx(0.0560, abs=1e-4),
        pytest.approx(0.3286, abs=1e-4),
        50,
    )


def test_prompts_that_all_agree_do_not_make_an_interval_of_width_0():
    none, all_better = paired_agresti_min([0] * 20), paired_agresti_min([1] * 20)
    assert (
        none.low < 0 < none.high and none.mean == 0 and 0.5 < all_better.low < all_better.high <= 1
    )
    assert paired_agresti_min([]).n == 0 and paired_agresti_min([]).high > 0.5


@pytest.mark.parametrize("paired", [True, False], ids=["binary", "shares of several images"])
def test_the_interval_holds_the_difference_about_nineteen_times_of_twenty(paired):
    rng, inside, times = random.Random(0), 0, 1500
    for _ in range(times):
        easy = [rng.random() for _ in range(40)]
        images = 1 if paired else 4
        a, b = (
            [sum(rng.random() < p * e for _ in range(images)) / images for e in easy]
            for p in (0.6, 0.9)
        )
        d = paired_agresti_min([y - x for x, y in zip(a, b)])
        inside += d.low <= 0.15 <= d.high
    assert 0.93 < inside / times < 0.985


@pytest.mark.parametrize(
    "freedom, quantile",
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (10, 2.228), (29, 2.045), (100, 1.984)],
)
def test_quantiles_of_students_t_are_those_of_the_tables(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=6e-4)


def test_the_interval_of_a_mean_is_students():
    d = difference_of_means([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (d.mean, d.low, d.high) == (
        3,
        pytest.approx(3 - 2.776 * math.sqrt(0.5), abs=1e-3),
        pytest.approx(3 + 2.776 * math.sqrt(0.5), abs=1e-3),
    )
    assert difference_of_means([1.0]).low == -math.inf


def test_tallies_are_paired_prompt_by_prompt():
    a, b = tally([True, True, False, False]), tally([True, False, True, True])
    assert (a["each"], a["right"], a["n"]) == ("1100", 2, 4) and a["low"] < a["accuracy"] < a[
        "high"
    ]
    assert gain(a, b).mean == 0.25 and gain(b, a).mean == -0.25
    with pytest.raises(ValueError, match="tallies of 4 and 3 prompts cannot be paired"):
        gain(a, tally([True] * 3))


@pytest.mark.parametrize(
    "low, high, outcome",
    [
        (0.01, 0.4, HOLDS),
        (-0.2, -0.01, FAILS),
        (-0.04, 0.09, FAILS),
        (-0.04, 0.11, UNCLEAR),
        (0.01, 0.02, HOLDS),
    ],
)
def test_a_verdict_follows_from_the_interval(low, high, outcome):
    assert is_above(Difference((low + high) / 2, low, high, 9)) == outcome


def test_majorities_and_several_parts():
    assert [is_most(share(k)) for k in (65, 50, 35)] == [HOLDS, UNCLEAR, FAILS]
    assert (
        all_of(HOLDS, HOLDS) == HOLDS
        and all_of(HOLDS, UNCLEAR) == UNCLEAR
        and all_of(UNCLEAR, FAILS, HOLDS) == FAILS
    )


@pytest.mark.parametrize("k, m", [(0, 5), (3, 10), (5, 10), (1, 9)])
def test_the_exact_paired_test_counts_all_patterns_of_signs_that_are_as_uneven(k, m):
    patterns = [sum(signs) for signs in itertools.product((0, 1), repeat=m)]
    expected = sum(abs(2 * n - m) >= abs(2 * k - m) for n in patterns) / len(patterns)
    assert exact_paired_p([1] * k + [-1] * (m - k) + [0] * 20) == pytest.approx(expected)


def test_without_a_difference_the_exact_paired_test_sees_none():
    assert exact_paired_p([]) == exact_paired_p([0, 0]) == 1


def test_an_interval_that_the_exact_test_does_not_confirm_decides_nothing():
    before = tally([True] * 8 + [False] * 52)
    after = tally([False] + [True] * 13 + [False] * 46)  # 6 against 1: p = 0.125
    assert gain(before, after).low < 0.03 and beats(before, after) == UNCLEAR
    only_better = tally([True] * 14 + [False] * 46)  # 6 against 0: p = 0.031
    assert beats(before, only_better) == HOLDS


@pytest.mark.parametrize("k, outcome", [(99, UNCLEAR), (100, UNCLEAR), (80, FAILS)])
def test_where_the_baseline_is_at_the_ceiling_only_a_loss_can_be_told(k, outcome):
    """A gain of 10 points over 99 % is impossible, so its absence says nothing."""
    before = share(99)
    assert not has_room(before) and beats(before, share(k)) == outcome
    assert beats(share(60), share(60)) == FAILS  # there was room, and no gain


# ---------------------------------------------------------------- judges, with planted numbers

THREE = pytest.mark.parametrize("better, outcome", [(90, HOLDS), (55, UNCLEAR), (10, FAILS)])


@THREE
def test_thresholds_are_judged_at_the_largest_w_alone(better, outcome):
    def row(k, w):
        return {"w": w, **share(k), "mean_abs": 0.5, "saturated": 0.1}

    numbers = {
        "true_pictures": {"mean_abs": 0.6, "saturated": 0.3},
        "lines": {
            "none": [row(99, 2), row(50, 10)],
            "static": [row(1, 2), row(better, 10) | share(better, first=False)],
        },
    }
    assert guidance.judge_thresholds(numbers, "none", "static").outcome == outcome


def diversity(correct, correct_on, spread, spread_on):
    def row(w, k, s):
        return {
            "w": w,
            **share(k, 120),
            "recall": 0.5,
            "spread": [s + 0.1 * (i % 3) for i in range(19)] + [None],
        }

    return {
        "own_w": 2.0,
        "seeds": 6,
        "rows": [row(1.0, correct, spread), row(2.0, correct_on, spread_on), row(8.0, 5, 0.1)],
    }


@pytest.mark.parametrize(
    "right_on, spread_on, outcome",
    [(110, 3.0, HOLDS), (110, 4.0, FAILS), (110, 4.5, FAILS), (40, 3.0, FAILS)],
)
def test_guidance_must_cost_diversity_and_bring_alignment(right_on, spread_on, outcome):
    assert guidance.judge_diversity(diversity(60, right_on, 4.0, spread_on)).outcome == outcome


def augmentation(clean_0, made_0, clean, made, largest=50):
    def rows(at_0, at_own, at_largest):
        return [
            {"level": level, **share(k)}
            for level, k in ((0.0, at_0), (0.1, at_own), (0.3, at_own), (0.5, at_largest))
        ]

    return {
        "own_level": 0.1,
        "levels": [0.0, 0.1, 0.3, 0.5],
        "clean": rows(clean_0, clean, clean),
        "generated": rows(made_0, made, largest),
    }


def test_where_hardly_an_image_is_correct_nothing_can_be_told():
    numbers = augmentation(1, 1, 1, 1, largest=1)
    assert cascade.judge_gap(numbers).outcome == cascade.judge_sweep(numbers).outcome == UNCLEAR
    # solid every time: one of four textures
    assert cascade.judge_gap(augmentation(25, 25, 25, 25)).outcome == UNCLEAR
    numbers = {
        "own caption": share(1),
        "no text": share(0),
        "other textures": share(0),
        "as told otherwise": share(1),
    }
    assert cascade.judge_text(numbers).outcome == UNCLEAR
    assert guidance.judge_diversity(diversity(2, 2, 4.0, 3.0)).outcome == UNCLEAR
    assert [beats(share(1), share(k)) for k in (1, 40)] == [UNCLEAR, HOLDS] and [
        beats(share(k), share(k)) for k in (40, 100)
    ] == [FAILS, UNCLEAR]


@pytest.mark.parametrize(
    "numbers, outcome",
    [
        (augmentation(90, 30, 90, 80), HOLDS),
        (augmentation(90, 30, 90, 30), FAILS),
        (augmentation(90, 30, 90, 10), FAILS),
        (augmentation(90, 90, 90, 90), FAILS),
        (augmentation(60, 52, 60, 60), UNCLEAR),
        (augmentation(99, 99, 99, 99), UNCLEAR),
    ],
    ids=["closed", "left as it was", "wider", "no gap", "small gap", "no room for a gap"],
)
def test_a_gap_must_be_there_and_become_smaller(numbers, outcome):
    if numbers["generated"][0]["right"] == 52:  # either way: 8 points, give or take 14
        numbers["generated"][0] |= share(52, first=False)
    verdict = cascade.judge_gap(numbers)
    assert verdict.outcome == outcome and ("no gap" in verdict.numbers) == (
        numbers["generated"][0]["right"] == 90
    )


@pytest.mark.parametrize(
    "numbers, outcome",
    [
        (augmentation(90, 30, 90, 80, largest=40), HOLDS),
        (augmentation(90, 30, 90, 80, largest=80), FAILS),
        (augmentation(90, 80, 90, 80, largest=40), FAILS),
    ],
    ids=["best in between", "as good at the largest", "as good without"],
)
def test_the_recommended_levels_must_beat_both_ends(numbers, outcome):
    assert cascade.judge_sweep(numbers).outcome == outcome


@pytest.mark.parametrize(
    "own, none, other, outcome",
    [(90, 25, 5, HOLDS), (30, 25, 28, FAILS), (90, 25, 90, FAILS), (20, 60, 60, FAILS)],
)
def test_super_resolution_needs_the_text_if_both_others_do_harm(own, none, other, outcome):
    numbers = {
        "own caption": share(own),
        "no text": share(none),
        "other textures": share(other),
        "as told otherwise": share(70),
    }
    assert cascade.judge_text(numbers).outcome == outcome


@pytest.mark.parametrize(
    "seed, attention, outcomes",
    [
        (20, 85, (HOLDS, HOLDS)),
        (20, 30, (HOLDS, FAILS)),
        (85, 87, (FAILS, FAILS)),
        (50, 80, (UNCLEAR, HOLDS)),
        (20, 50, (HOLDS, UNCLEAR)),
    ],
)
def test_seed_and_attention_are_judged_by_layouts_kept(seed, attention, outcomes):
    numbers = edit_numbers(seed, attention, [share(seed)] * len(editing.TOLERANCES))
    assert (
        editing.judge_seed(numbers).outcome,
        editing.judge_attention(numbers).outcome,
    ) == outcomes


def edit_numbers(seed, attention, within):
    shares = {editing.SAME_SEED: seed, editing.ATTENTION: attention}
    layout = {name: share(shares.get(name, 100)) for name in editing.METHODS}
    return {
        "source_right": N,
        "layout": layout,
        "success": layout,
        "layout_within": {editing.SAME_SEED: within},
    }


def test_what_the_tolerance_decides_cannot_be_told():
    rows = [share(10 * most) for most in editing.TOLERANCES]  # 60 % of the layouts within 6/64
    verdict = editing.judge_seed(edit_numbers(30, 90, rows))
    assert verdict.outcome == UNCLEAR and "3/64: 30%" in verdict.numbers


def test_prompt_switching_is_told_beside_attention_and_does_not_judge_it():
    verdict = editing.judge_attention(edit_numbers(20, 85, []))
    assert verdict.outcome == HOLDS
    assert "attention against it -15 points" in verdict.numbers


@pytest.mark.parametrize(
    "first, second, outcome", [(90, 10, HOLDS), (10, 90, FAILS), (30, 30, UNCLEAR)]
)
def test_early_steps_are_judged_by_whose_layout_a_switch_at_half_leaves(first, second, outcome):
    def row(steps, a, b):
        return {
            "steps": steps,
            "log_snr": steps - 8.0,
            "first_layout": share(a),
            "second_layout": share(b, first=False),
            "second_word": share(N - a),
        }

    verdict = editing.judge_early(
        {"steps": 16, "both_right": N, "rows": [row(0, 0, N), row(8, first, second), row(16, N, 0)]}
    )
    assert (
        verdict.outcome == outcome
        and f"after {8 if first == 90 else 16} steps"
        in verdict.numbers.lower().partition("prompt. ")[2]
    )


def network(gain, own=0.1, correct=50, n=60, noise=0.1):
    each = {"own": [own] * n, "other": [own + gain * (1 + noise * (-1) ** i) for i in range(n)]}
    return {
        "steps": 100,
        "parameters": 10**6,
        "encoder_parameters": 10**5,
        "score": share(correct),
        "errors": {"each": each, "own": [own], "other": [own + gain]},
    }


@pytest.mark.parametrize(
    "worse, better, outcome",
    [
        (network(0.02, correct=10), network(0.0201), HOLDS),
        (network(0.02), network(0.0199, correct=10), FAILS),
        (network(0.02, correct=40), network(0.02) | {"score": share(45, first=False)}, UNCLEAR),
        (network(0.02, correct=10), network(0.015, noise=0.01), HOLDS),
        (network(0.01), network(0.02, correct=5), FAILS),
        (network(0.0005, correct=10), network(0.001), UNCLEAR),
    ],
    ids=[
        "more correct",
        "fewer correct",
        "hardly more correct",
        "more correct, although hurt less by wrong captions",
        "fewer correct, although hurt more by wrong captions",
        "nothing learned",
    ],
)
def test_networks_are_judged_by_the_images_that_show_their_caption(worse, better, outcome):
    verdict = trained.compare_networks(
        {"networks": {"pooled-only": worse, "reference": better}},
        variants.POOLED,
        variants.REFERENCE,
    )
    assert verdict.outcome == outcome


@pytest.mark.parametrize(
    "seconds, error, outcome",
    [
        (0.8, 0.1, HOLDS),
        (0.8, 0.09, HOLDS),
        (0.8, 0.12, FAILS),
        (1.2, 0.1, FAILS),
        (1.0, 0.1, FAILS),
    ],
)
def test_an_efficient_network_is_faster_and_no_worse(seconds, error, outcome):
    numbers = {
        "networks": {"standard-unet": network(0.01), "efficient-unet": network(0.01, own=error)},
        "step_seconds": {
            "standard-unet": [1.0, 1.01, 0.99, 1.0],
            "efficient-unet": [seconds * f for f in (1.0, 1.0, 1.01, 0.99)],
        },
    }
    assert trained.judge_efficient(numbers).outcome == outcome
    for of in numbers["networks"].values():
        of["score"] = share(0)  # without a score, only being slower can decide
    assert trained.judge_efficient(numbers).outcome == (UNCLEAR if seconds == 0.8 else FAILS)


@pytest.mark.parametrize(
    "clean_a, made_a, clean_b, made_b, outcome",
    [
        (95, 30, 90, 85, HOLDS),
        (95, 30, 95, 30, FAILS),
        (85, 84, 90, 85, FAILS),
        (95, 94, 90, 85, UNCLEAR),
    ],
)
def test_augmentation_in_training_is_judged_by_the_gap_it_leaves(
    clean_a, made_a, clean_b, made_b, outcome
):
    def found(level, clean, made):
        return {
            "own_level": level,
            "clean": [{"level": level, **share(clean)}],
            "generated": [{"level": level, **share(made)}],
        }

    numbers = {
        "networks": {
            "without-augmentation": found(0.0, clean_a, made_a),
            "with-augmentation": found(0.1, clean_b, made_b),
        }
    }
    assert trained.judge_training_augmentation(numbers).outcome == outcome


# ---------------------------------------------------------------- what is measured


def test_the_clean_counterpart_of_an_image_is_the_same_scene_without_textures():
    scenes = [training_scene(HELD_OUT_SEED, i) for i in range(6)]
    images = render(scenes, 64)
    equivalents = render(
        [cascade.without_textures(parsed.scene) for parsed in parse_image(images)], 64
    )
    assert torch.allclose(equivalents, images, atol=1e-5)


def test_the_other_caption_differs_in_its_textures_alone():
    for _, _, caption in benchmark(10, categories=["texture", "two textures"]):
        own, other = cascade.with_other_textures(caption)
        assert (
            own.description == caption.description
            and own.text != other.text
            and len(own.text.split()) == len(other.text.split())
        )
        for a, b in zip(own.description.objects, other.description.objects):
            assert (
                a.texture != b.texture
                and replace(a, texture=None) == replace(b, texture=None)
                and (b.texture, b.shape) not in HELD_OUT_TEXTURE_SHAPE
            )


def test_spread_is_of_the_correct_images_of_each_caption():
    found = torch.zeros(2 * guidance.SEEDS, 1)
    found[1], found[2], found[7] = 3.0, 100.0, 4.0
    correct = [i in (0, 1, 7) for i in range(len(found))]
    assert guidance.spreads(found, correct) == [3.0, None]
    assert guidance.by_caption(tally([True, True, False, True]), 2) == [1.0, 0.5]


def test_a_prompt_that_changes_on_the_way_leaves_both_ends_as_they_are(tiny_pipe):
    first, then, seeds = ["a red circle", "a blue ring"], ["a green circle", "a blue star"], [3, 4]
    plain = {
        steps: tiny_pipe(
            prompts, seed=seeds, stages=("base",), output_type="pt", progress=False
        ).stages["base"]
        for steps, prompts in ((0, then), (4, first))
    }
    for steps in (0, 4):
        assert torch.allclose(
            editing.sample_with_switched_prompt(tiny_pipe, first, then, seeds, steps),
            plain[steps],
            atol=1e-4,
        )
    middle = editing.sample_with_switched_prompt(tiny_pipe, first, then, seeds, 2)
    assert not torch.allclose(middle, plain[0], atol=1e-3) and not torch.allclose(
        middle, plain[4], atol=1e-3
    )


def test_encoders_differ_in_weights_or_in_depth(encoder):
    random_one, small = (variants.encoder_named(name, encoder) for name in ("random", "small"))
    assert variants.encoder_named("trained", encoder) is encoder
    assert {k: v.shape for k, v in random_one.state_dict().items()} == {
        k: v.shape for k, v in encoder.state_dict().items()
    }
    assert random_one.weights_digest() not in (encoder.weights_digest(), small.weights_digest())
    assert random_one.weights_digest() == variants.encoder_named("random", encoder).weights_digest()
    assert small.model.config.num_layers == 1 and encoder.model.config.num_layers == 4
    own, first = encoder.model.state_dict(), small.model.state_dict()
    assert len(first) < len(own) and all(torch.equal(own[k], v) for k, v in first.items())
    assert small("a red circle").emb.shape == encoder("a red circle").emb.shape


@pytest.mark.parametrize("preset", ["tiny", "mini"])
def test_variants_differ_in_what_they_say(preset):
    def built(variant):
        config, stage = override_run(
            TRAIN_PRESETS[preset][variant.stage],
            PRESETS[preset][variant.stage],
            variant.changes(PRESETS[preset][variant.stage]),
        )
        return config, stage, DiffusionStage(stage)

    config, _, reference = built(variants.REFERENCE)
    assert (
        config.pooled_drop_prob == 0
        and not reference.net.text_layers
        and any(site.kind == "cross" for site in reference.net.sites)
    )
    _, _, pooled = built(variants.POOLED)
    assert {site.kind for site in pooled.net.sites} == {"self"}
    parameters = [
        sum(p.numel() for p in built(v)[2].parameters())
        for v in (variants.REFERENCE, variants.SMALL_UNET)
    ]
    assert parameters[1] < 0.5 * parameters[0]
    (_, standard, _), (_, efficient, _) = built(variants.STANDARD), built(variants.EFFICIENT)
    assert (
        sum(standard.unet.blocks) == sum(efficient.unet.blocks)
        and standard.unet.channels == efficient.unet.channels
    )
    assert (standard.unet.skip, efficient.unet.skip) == ("concat", "sum") and list(
        efficient.unet.blocks
    ) == sorted(efficient.unet.blocks)
    assert (
        built(variants.CLEAN_ONLY)[1].max_aug_level
        == 0
        < built(variants.AUGMENTED)[1].max_aug_level
    )


class Knows(torch.nn.Module):
    """Predicts the image whose caption it reads, half as bright."""

    def __init__(self, images, text):
        super().__init__()
        self.images, self.known, self.out = (
            images,
            [tuple(row[:4, :4].flatten().tolist()) for row in text.emb],
            torch.nn.Linear(1, 1),
        )

    def forward(self, x_t, log_snr, text):
        return (
            torch.stack(
                [
                    self.images[self.known.index(tuple(row[:4, :4].flatten().tolist()))]
                    for row in text.emb
                ]
            )
            / 2
        )


@pytest.mark.parametrize("world", ["scenes", "studio"])
def test_errors_are_of_the_own_caption_and_of_anothers(encoder, world):
    n, stage = 5, DiffusionStage(replace(PRESETS["tiny"]["base"], world=world))
    x_0, _, captions = SceneDataset(HELD_OUT_SEED, world=world).batch(range(n), 64)
    stage.net = Knows(x_0, encoder(captions))
    found = variants.errors_by_caption(stage, encoder, n, batch=n)
    assert found["each"]["own"] == pytest.approx(
        (x_0 / 2).square().mean((1, 2, 3)).tolist(), abs=1e-5
    )
    assert found["each"]["other"] == pytest.approx(
        (x_0.roll(-1, 0) / 2 - x_0).square().mean((1, 2, 3)).tolist(), abs=1e-5
    )
    assert len(found["own"]) == len(found["log_snr"]) and found["own"] == pytest.approx(
        [sum(found["each"]["own"]) / n] * len(found["own"]), abs=1e-5
    )


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(tiny_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipe.save_pretrained(folder)
    return folder


def options(folder, out, *more):
    return [
        "--pipeline",
        str(folder),
        "--out",
        str(out),
        "--n",
        "2",
        "--precision",
        "fp32",
        "--device",
        "cpu",
        *more,
    ]


UNTRAINED = [e.name for e in claims.EXPERIMENTS if not e.variants]


@pytest.mark.slow
def test_all_that_needs_no_training_is_measured_once(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(guidance, "WEIGHTS", (1.0, 4.0))
    monkeypatch.setattr(cascade, "LEVELS", (0.0, 0.5))
    claims.main(options(folder, tmp_path))
    found = json.loads((tmp_path / "claims.json").read_text())["experiments"]
    assert list(found) == UNTRAINED
    page = (tmp_path / "claims.md").read_text()
    for e in claims.EXPERIMENTS:
        assert all(claim.sentence in page for claim in e.claims)
        if not e.variants:
            assert (
                f"python -m sample.claims --only {e.name} --n 2 --pipeline" in page
                and f"![{e.name}: the numbers]({e.name}.png)" in page
            )
            assert [v["claim"] for v in found[e.name]["verdicts"]] == [c.sentence for c in e.claims]
            assert all(
                v["outcome"] in (HOLDS, FAILS, UNCLEAR) and v["numbers"] in page
                for v in found[e.name]["verdicts"]
            )
            for end in ("", "_images"):
                with Image.open(tmp_path / f"{e.name}{end}.png") as image:
                    assert image.width > 100
    assert "## Not measured" in page and page.count("needs `--train MINUTES`") == sum(
        len(e.claims) for e in claims.EXPERIMENTS if e.variants
    )

    def no_more(*_, **__):
        raise AssertionError("generated again")

    monkeypatch.setattr(ImagenPipeline, "sample_stage", no_more)
    monkeypatch.setattr(editing, "sample_with_switched_prompt", no_more)
    capsys.readouterr()
    claims.main(options(folder, tmp_path))
    assert capsys.readouterr().out.count("kept from before") == len(UNTRAINED)
    assert json.loads((tmp_path / "claims.json").read_text())["experiments"] == found
    for changed in (["--n", "3"], ["--fresh"]):
        with pytest.raises(AssertionError, match="generated again"):
            claims.main(options(folder, tmp_path, "--only", "thresholding", *changed))
    # what was asked for and failed took nothing with it
    assert json.loads((tmp_path / "claims.json").read_text())["experiments"] == found
    (tmp_path / "thresholding.png").unlink()
    with pytest.raises(AssertionError, match="generated again"):
        claims.main(options(folder, tmp_path, "--only", "thresholding"))


def test_the_sampler_that_is_asked_for_samples(folder, tmp_path, monkeypatch):
    used, sample_stage = [], ImagenPipeline.sample_stage

    def watched(self, name, request, options, **more):
        used.append((options.sampler, options.num_inference_steps))
        return sample_stage(self, name, request, options, **more)

    monkeypatch.setattr(ImagenPipeline, "sample_stage", watched)
    todo = options(folder, tmp_path, "--only", "thresholding", "--sampler", "ddpm", "--steps", "3")
    claims.main(todo)
    assert set(used) == {("ddpm", 3)}
    entry = json.loads((tmp_path / "claims.json").read_text())["experiments"]["thresholding"]
    assert "--sampler ddpm --steps 3" in entry["command"]
    assert "sampler ddpm, num inference steps 3" in (tmp_path / "claims.md").read_text()
    used.clear()
    claims.main(todo)
    assert not used  # kept


def test_another_sampler_does_not_inherit_the_stages_eta():
    config = replace(PRESETS["mini"]["base"], sampler="dpmpp_2m", eta=1.0)
    assert claims.with_sampling(config, {"sampler": "ddpm"}).eta == 0.0
    same = claims.with_sampling(config, {"sampler": "dpmpp_2m", "num_inference_steps": 5})
    assert (same.eta, same.num_inference_steps) == (1.0, 5)
    assert claims.with_sampling(config, {}) == config


def test_other_weights_of_the_same_shapes_are_another_pipeline(
    folder, tiny_pipe, randomize_zero_init
):
    torch.manual_seed(1)
    other = ImagenPipeline(
        tiny_pipe.text_encoder,
        [randomize_zero_init(DiffusionStage(stage.config)) for stage in tiny_pipe.stages.values()],
    )
    assert (
        len(
            {
                report.pipeline_identity(p)
                for p in (tiny_pipe, other, ImagenPipeline.from_pretrained(folder))
            }
        )
        == 2
    )


@pytest.mark.slow
def test_what_depends_on_the_text_encoder_alone_is_kept_when_other_stages_come(
    tiny_pipe, randomize_zero_init, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(trained, "IMAGES", {"base": 4, "sr_256": 4})
    monkeypatch.setattr(variants, "PACE_ROUNDS", 1)
    folder = tmp_path / "pipeline"
    tiny_pipe.save_pretrained(folder)
    todo = options(
        folder,
        tmp_path / "claims",
        "--only",
        "cross-attention",
        "early-steps",
        "--preset",
        "tiny",
        "--train",
        "0.0001",
    )
    claims.main(todo)
    assert "kept from before" not in capsys.readouterr().out
    torch.manual_seed(2)
    ImagenPipeline(
        tiny_pipe.text_encoder,
        [randomize_zero_init(DiffusionStage(stage.config)) for stage in tiny_pipe.stages.values()],
    ).save_pretrained(folder)
    claims.main(todo)
    out = capsys.readouterr().out
    assert "cross-attention: kept from before" in out and "early-steps: kept" not in out


@pytest.mark.slow
def test_what_needs_training_is_trained_once_and_a_changed_plan_is_refused(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(trained, "IMAGES", {"base": 4, "sr_256": 4})
    monkeypatch.setattr(trained, "ROUNDS", 2)
    monkeypatch.setattr(variants, "PACE_ROUNDS", 1)
    todo = options(folder, tmp_path, "--only", "encoder-or-unet", "--preset", "tiny")
    claims.main([*todo, "--train", "0.0001"])
    out = capsys.readouterr().out
    assert (
        "training: 3 of 3 networks" in out and out.count("python -m train.train --stage base") == 3
    )
    found = json.loads((tmp_path / "claims.json").read_text())["experiments"]["encoder-or-unet"][
        "numbers"
    ]["networks"]
    assert list(found) == ["small-encoder", "small-unet", "reference"] and {
        of["steps"] for of in found.values()
    } == {2}
    assert (
        found["small-encoder"]["encoder_parameters"]
        < found["reference"]["encoder_parameters"]
        == found["small-unet"]["encoder_parameters"]
    )
    plan = tmp_path / "runs" / "plan.json"
    plan.write_text(plan.read_text().replace('"base": 2', '"base": 3'))
    with pytest.raises(
        SystemExit,
        match="small-encoder was stopped before its last step; the same command resumes it",
    ):
        claims.main([*todo, "--train", "0.0001", "--n", "3"])
    assert "--resume" in capsys.readouterr().out
    plan.write_text(plan.read_text().replace('"base": 3', '"base": 2'))
    (tmp_path / "claims.json").unlink()  # the numbers are lost, the networks are not
    claims.main([*todo, "--train", "0.0001"])
    out = capsys.readouterr().out
    assert "training: 0 of 3 networks" in out and "python -m train.train" not in out
    with pytest.raises(
        SystemExit, match="0.0001 minutes each, .* asked for are preset tiny, 1 minutes"
    ):
        claims.main([*todo, "--train", "1"])
    with pytest.raises(SystemExit, match="asked for are preset tiny, 2 steps each"):
        claims.main([*todo, "--train-steps", "2"])


def test_networks_can_be_asked_for_by_steps_and_by_how_they_are_trained(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(trained, "IMAGES", {"base": 4, "sr_256": 4})
    todo = options(
        folder,
        tmp_path,
        "--only",
        "cross-attention",
        "--preset",
        "tiny",
        "--train-steps",
        "3",
        "--recipe",
        "batch_size=5",
        "seed=8",
    )
    claims.main(todo)
    assert "2 of 2 networks (pooled-only, reference), 3 steps each" in capsys.readouterr().out
    found = json.loads((tmp_path / "claims.json").read_text())["experiments"]["cross-attention"]
    assert {of["steps"] for of in found["numbers"]["networks"].values()} == {3} and found[
        "settings"
    ]["recipe"] == "batch_size=5 seed=8"
    assert found["command"].endswith(
        f"--train-steps 3 --preset tiny --recipe batch_size=5 seed=8 --pipeline {folder}"
    )
    for name in ("pooled-only", "reference"):
        (phase,) = json.loads((tmp_path / "runs" / name / "stage" / "config.json").read_text())[
            "training"
        ]["training_phases"]
        assert (phase["steps"], phase["train"]["batch_size"], phase["train"]["seed"]) == (3, 5, 8)
    for changed in (["--recipe", "batch_size=6"], ["--train-steps", "4"]):
        with pytest.raises(
            SystemExit,
            match="holds runs of preset tiny, 3 steps each, batch_size=5 seed=8.* asked for are",
        ):
            claims.main([*todo, *changed])
    claims.main(todo)
    assert "kept from before" in capsys.readouterr().out


def test_networks_that_are_built_alike_can_begin_from_trained_weights(
    folder, tmp_path, monkeypatch
):
    """With hardly any learning rate both end where they began."""
    monkeypatch.setattr(cascade, "LEVELS", (0.0, 0.5))
    begun = str(folder / "sr_256")
    todo = options(folder, tmp_path, "--only", "training-augmentation", "--preset", "tiny")
    todo += ["--train-steps", "2", "--init-from", begun]
    claims.main([*todo, "--recipe", "learning_rate=1e-9", "batch_size=2"])
    found = json.loads((tmp_path / "claims.json").read_text())["experiments"]
    entry = found["training-augmentation"]
    assert f"--init-from {begun}" in entry["command"] and entry["settings"]["init_from"] == begun
    assert f"from the weights of {begun}" in entry["verdicts"][0]["numbers"]
    weights = load_stage(folder / "sr_256").state_dict()
    for name, most in (("without-augmentation", 0.0), ("with-augmentation", 0.5)):
        stage = load_stage(tmp_path / "runs" / name / "stage")
        assert stage.config.max_aug_level == most
        for key, value in stage.state_dict().items():
            assert torch.allclose(value, weights[key], atol=1e-6), key
    with pytest.raises(SystemExit, match=f"from the weights of {begun}.* asked for are"):
        claims.main([*todo[:-2], "--recipe", "learning_rate=1e-9", "batch_size=2"])


def test_networks_learn_the_world_of_the_pipeline(tiny_pipe, tmp_path):
    stages = [DiffusionStage(replace(s.config, world="studio")) for s in tiny_pipe.stages.values()]
    pipe = ImagenPipeline(tiny_pipe.text_encoder, stages)
    runs = variants.Runs(tmp_path, "tiny", None, pipe, steps=2)
    for variant in (variants.REFERENCE, variants.CLEAN_ONLY):
        assert runs.trainee(variant).stage.config.world == "studio"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--only", "thresholds"], "invalid choice: 'thresholds'"),
        (
            ["--only", "cross-attention"],
            "--only cross-attention needs networks trained for it: add --train MINUTES",
        ),
        (["--n", "1"], "expected an integer of at least 2"),
        (["--train", "0"], "--train: 0; expected a number above 0"),
        (["--train", "1", "--train-steps", "9"], "expected one of them"),
        (["--train-steps", "9", "--recipe", "steps=64"], "the number of steps is --train-steps"),
        (["--recipe", "batch_size=64"], "add --train MINUTES or --train-steps STEPS"),
        (["--init-from", "studio"], "add --train MINUTES or --train-steps STEPS"),
        (
            ["--train", "1", "--init-from", "studio"],
            "cannot begin from the same weights: add --only training-augmentation",
        ),
        (["--train", "1", "--sampler", "ddpm"], "--sampler and --steps are of the given pipeline"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_loaded(
    arguments, message, capsys, monkeypatch
):
    monkeypatch.setattr(claims, "load_pipeline", lambda _: pytest.fail("loaded"))
    with pytest.raises(SystemExit):
        claims.main(arguments)
    assert message in capsys.readouterr().err


def test_a_pipeline_without_super_resolution_leaves_its_claims_out(tiny_pipe, tmp_path):
    base = ImagenPipeline(tiny_pipe.text_encoder, [tiny_pipe.stages["base"]])
    args = claims.parse_arguments([])
    assert [e.name for e in claims.chosen(args, base)] == [
        "thresholding",
        "guidance",
        "fixed-attention",
        "early-steps",
    ]
    with pytest.raises(SystemExit, match="augmentation: scenes has no super-resolution, only base"):
        claims.chosen(claims.parse_arguments(["--only", "augmentation"]), base)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"experiments": {"thresholding": {}}}'])
def test_a_file_that_is_something_else_is_not_written_over(folder, tmp_path, content):
    (tmp_path / "claims.json").write_text(content)
    with pytest.raises(SystemExit, match="is no claims.json of this command; pass --fresh"):
        claims.main(options(folder, tmp_path, "--only", "early-steps"))
    assert (tmp_path / "claims.json").read_text() == content


def test_help_is_for_newcomers(capsys):
    with pytest.raises(SystemExit) as stop:
        claims.main(["--help"])
    out = capsys.readouterr().out
    assert (
        stop.value.code == 0
        and all(name in out for name in claims.NAMES)
        and "python -m sample.claims" in out
    )


def test_claims_of_two_worlds_stand_side_by_side(tmp_path, capsys):
    """What one has not measured is said so; where verdicts differ stands in the table."""
    shipped = report.load_claims(WEIGHTS / "claims" / "claims.json")
    other = {name: json.loads(json.dumps(shipped[name])) for name in ("thresholding", "guidance")}
    other["guidance"]["settings"]["pipeline"] = other["thresholding"]["settings"]["pipeline"] = (
        "a/b"
    )
    for lines in other["thresholding"]["numbers"]["lines"].values():
        for line in lines:
            wrong = lines is other["thresholding"]["numbers"]["lines"]["static"]
            line.update(tally([not wrong] * line["n"]))
    for name, experiments in (("one", shipped), ("two", other)):
        (tmp_path / name).mkdir()
        report.save_claims(tmp_path / name / "claims.json", experiments)
    compare_claims.main([str(tmp_path / "one"), str(tmp_path / "two")])
    table = {row.split(" | ")[0]: row for row in capsys.readouterr().out.splitlines()}
    assert table["| claim"] == "| claim | scenes | b | same verdict? |"
    dynamic = table["| At large w, dynamic thresholding beats static thresholding."]
    assert dynamic.endswith(f"| {UNCLEAR} | {HOLDS} | **no** |"), dynamic
    assert table["| Guidance trades diversity for alignment."].endswith("| yes |")
    assert table["| Super-resolution needs the text."].endswith(f"| {HOLDS} | not measured |  |")
    compare_claims.main([str(tmp_path / "one"), "--out", str(tmp_path / "page.md")])
    assert "| claim | scenes |" in (tmp_path / "page.md").read_text()
    with pytest.raises(ValueError, match="page.txt ends in .txt; expected one of .md"):
        compare_claims.main([str(tmp_path / "one"), "--out", str(tmp_path / "page.txt")])
    sampled = {"pipeline": "w/studio", "sampler": "ddpm", "num_inference_steps": 64}
    assert compare_claims.world_of({"a": {"settings": sampled}}) == "studio, ddpm, 64 steps"
    with pytest.raises(SystemExit, match="was measured with scenes, as another folder was"):
        compare_claims.main([str(tmp_path / "one"), str(tmp_path / "one")])
    with pytest.raises(SystemExit, match="has no experiments"):
        compare_claims.main([str(tmp_path)])
