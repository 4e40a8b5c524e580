"""Features of images: they encode what is in a scene, and distances by them distinguish sets of
images.
"""

import copy
import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from imagen_mini.evaluation import scene_features as module
from imagen_mini.evaluation.metrics import (
    frechet_distance,
    gaussian_statistics,
    precision_and_recall,
)
from imagen_mini.evaluation.scene_features import (
    WIDTH,
    SceneClassifier,
    features,
    known_labels,
    scene_labels,
)
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject, random_scene, training_scene
from imagen_mini.scenes.world import WORLDS
from sample import distribution_metrics as distances
from train import scene_classifier as training

STUDIO = WORLDS["studio"]
SCENE = Scene(
    (
        SceneObject(10, 50, "ring", "pink", "small", "striped"),
        SceneObject(40, 20, "circle", "red", "large", "solid"),
    ),
    "beige",
)


def test_labels_are_what_the_scene_contains():
    known = known_labels()
    kinds = dict(zip(known, scene_labels(SCENE).split([len(v) for v in known.values()])))
    assert {name: int(x.sum()) for name, x in kinds.items()} == {
        "count": 1,
        "background": 1,
        "shapes": 2,
        "colors": 2,
        "sizes": 2,
        "textures": 2,
        "pairs": 2,
        "places": 2,
    }
    assert (
        kinds["count"][1] == 1
        and kinds["background"][3] == 1
        and kinds["textures"].tolist() == [1, 1, 0, 0]
    )
    assert kinds["pairs"].view(8, 6)[7, 5] == kinds["pairs"].view(8, 6)[0, 0] == 1
    assert kinds["places"].view(4, 4).nonzero().tolist() == [[0, 3], [2, 1]]
    assert not scene_labels(Scene(SCENE.objects * 2, "white"))[:3].any()


def test_the_shipped_features_know_what_is_in_an_image():
    told = training.accuracy(module.classifier(64), 128, "cpu")
    assert (
        told["background"] > 0.99
        and told["count"] > 0.9
        and told["colors"] > 0.9
        and told["shapes"] > 0.7
    )


def test_the_shipped_features_are_frozen_and_do_not_depend_on_the_batch():
    images = render([training_scene(0, i) for i in range(5)], 64)
    together = features(images)
    assert together.shape == (5, WIDTH) and not together.requires_grad
    assert torch.allclose(together, torch.cat([features(p[None]) for p in images]), atol=1e-4)
    assert not any(p.requires_grad for p in module.classifier(64).parameters())


def sets_of(n, change=lambda scenes: scenes, size=64, start=0):
    return features(
        render(change([random_scene(random.Random(f"{start + i}")) for i in range(n)]), size)
    )


def recolored(scenes):
    """The same, but every red object is orange."""
    return [
        Scene(
            tuple(
                SceneObject(
                    o.y, o.x, o.shape, "orange" if o.color == "red" else o.color, o.size, o.texture
                )
                for o in s.objects
            ),
            s.background,
        )
        for s in scenes
    ]


def test_features_are_standardized_and_the_logits_stay():
    net = SceneClassifier(64)
    images, _ = training.batch_of(64, "standardize", 0, 256, "cpu")
    with torch.no_grad():
        before = net(images)
        training.standardize(net, 256, "cpu")
        assert torch.allclose(net(images), before, atol=1e-4)
        found = net.features(images)
    assert found.mean(0).abs().max() < 1e-3 and (found.std(0) - 1).abs().max() < 1e-3
    shipped = features(images)
    assert (
        shipped.mean(0).abs().max() < 0.3
        and 0.8 < shipped.std(0).min()
        and shipped.std(0).max() < 1.25
    )


@pytest.mark.parametrize(
    "change",
    [
        recolored,
        lambda scenes: scenes[:20] * 15,
        lambda scenes: [Scene(s.objects[:1], s.background) for s in scenes],
    ],
    ids=["no red", "few scenes", "one object each"],
)
def test_the_distance_between_two_samples_of_the_world_is_far_smaller_than_to_another_world(change):
    true, again, other = sets_of(300), sets_of(300, start=1000), sets_of(300, change, start=2000)
    by_chance, found = (
        frechet_distance(*gaussian_statistics(true), *gaussian_statistics(x))
        for x in (again, other)
    )
    assert found > 1.5 * by_chance


def test_images_that_nobody_would_take_for_true_have_no_precision():
    true = sets_of(200)
    noise = features(
        torch.randn(200, 3, 64, 64, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    )
    assert (
        precision_and_recall(true, noise)[0]
        < 0.05
        < 0.7
        < precision_and_recall(true, sets_of(200, start=1000))[0]
    )


def test_images_of_another_size_and_a_missing_classifier_are_errors_that_say_what_to_do(
    monkeypatch, tmp_path
):
    with pytest.raises(ValueError, match=r"\[b, 3, 64, 64\]; got \[1, 3, 32, 32\]"):
        SceneClassifier(64).features(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="multiple of 32"):
        SceneClassifier(50)
    with pytest.raises(FileNotFoundError, match="scene_classifier --world scenes --size 128"):
        features(torch.zeros(1, 3, 128, 128))


def test_labels_of_a_studio_scene_tell_materials_and_light_as_well():
    known = known_labels(STUDIO)
    scene = STUDIO.training_scene(0, 3)
    kinds = dict(zip(known, scene_labels(scene, STUDIO).split([len(v) for v in known.values()])))
    assert set(known) == {*known_labels(), "materials", "light"}
    shown = {
        kind: {v for v, occurs in zip(known[kind], kinds[kind]) if occurs}
        for kind in ("background", "materials", "light")
    }
    assert shown == {
        "background": {scene.background},
        "materials": {o.material for o in scene.objects},
        "light": {scene.light},
    }
    net = SceneClassifier(64, STUDIO)
    images, truth = training.batch_of(64, "test", 0, 2, "cpu", STUDIO)
    assert net(images).shape == truth.shape and set(training.accuracy(net, 4, "cpu")) == set(known)


def test_missing_features_of_a_world_are_named_with_their_command(monkeypatch):
    monkeypatch.setattr(module, "weights_of", lambda size, world: Path("nowhere"))
    with pytest.raises(FileNotFoundError, match="--world studio --size 128"):
        module.classifier(128, STUDIO)


@pytest.mark.slow
def test_training_the_features_lowers_their_error_and_leaves_them_on_disk(tmp_path, capsys):
    out = tmp_path / "f.safetensors"
    training.main(
        ["--size", "64", "--steps", "40", "--batch", "16", "--out", str(out), "--device", "cpu"]
    )
    assert "accuracy: count" in capsys.readouterr().out
    from safetensors.torch import load_file

    net, fresh = SceneClassifier(64), SceneClassifier(64)
    net.load_state_dict(load_file(out))
    images, truth = training.batch_of(64, "test", 0, 64, "cpu")
    assert truth.shape == (64, len(scene_labels(SCENE)))
    with torch.no_grad():
        trained, untrained = (
            torch.nn.functional.binary_cross_entropy_with_logits(n(images), truth)
            for n in (net, fresh)
        )
    assert trained < 0.6 * untrained


def test_other_rules_of_guidance_are_measured_beside_the_thresholds(tiny_pipe, tmp_path, capsys):
    """Between a network and itself, autoguidance does nothing: as plain guidance with w = 1."""
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    few = ["--pipeline", str(tmp_path / "pipe"), "--n", "5", "--true", "8", "--scales", "1"]
    command = [*few, "--thresholds", "dynamic", "--out", str(tmp_path / "out")]
    weaker = ["--rules", "cfg++", "autoguidance", "--weaker", str(tmp_path / "pipe" / "base")]
    distances.main([*command, *weaker])
    lines = json.loads((tmp_path / "out" / "distances.json").read_text())["lines"]
    assert [row["w"] for row in lines["cfg++"]] == list(distances.STRENGTHS)
    (same,), (plain,) = lines["autoguidance"], lines["dynamic"]
    assert same["frechet"] == pytest.approx(plain["frechet"], rel=1e-3)
    with pytest.raises(SystemExit):
        distances.main([*command, "--rules", "autoguidance"])
    with pytest.raises(SystemExit):
        distances.main([*command, *weaker[:-1], str(tmp_path)])
    with pytest.raises(SystemExit):
        distances.main([*command, "--rules", "rescaled", "--stage", "sr_256"])
    err = capsys.readouterr().err
    assert "--rules autoguidance and --weaker STAGE belong together" in err
    assert "is no stage: it has no config.json" in err
    assert "only for the first stage, and not sr_256" in err


def test_what_was_measured_is_kept_and_two_pipelines_stand_side_by_side(
    tiny_pipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        distances,
        "make_feature_extractor",
        lambda name: lambda images: images.flatten(1)[:, ::2000],
    )
    tiny_pipe.save_pretrained(tmp_path / "one")
    other = copy.deepcopy(tiny_pipe)
    with torch.no_grad():
        other.stages["base"].net.out.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "two")
    command = ["--pipeline", str(tmp_path / "one"), "--beside", str(tmp_path / "two"),
               "--n", "4", "--true", "6", "--thresholds", "static", "--steps", "1",
               "--out", str(tmp_path / "out")]  # fmt: skip
    distances.main([*command, "--scales", "2", "--rules", "rescaled"])
    first = json.loads((tmp_path / "out" / "distances.json").read_text())
    (beside,) = first["beside"]
    assert beside["lines"]["static"][0]["frechet"] != first["lines"]["static"][0]["frechet"]
    one, two = (report["lines"].keys() for report in (first, beside))
    assert list(one) == list(two) == ["static", "rescaled"] and first["steps"] == 1
    with Image.open(tmp_path / "out" / "distances.png") as image:
        assert image.height > 600
    # a second run measures what is new, --fresh all of it
    calls = []
    monkeypatch.setattr(
        distances, "sample_by_rule", lambda *a, **k: calls.append(a[5]) or torch.zeros(4, 3, 64, 64)
    )
    distances.main([*command, "--scales", "2", "3", "--rules", "rescaled"])
    more = json.loads((tmp_path / "out" / "distances.json").read_text())
    assert calls == [3.0, 3.0]
    assert [line[0] for line in more["lines"].values()] == [
        line[0] for line in first["lines"].values()
    ]
    distances.main([*command[:2], *command[4:], "--scales", "2", "--rules", "rescaled", "--fresh"])
    assert calls == [3.0, 3.0, 2.0]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        weaker = ["--rules", "autoguidance", "--weaker", str(tmp_path / "one" / "base")]
        distances.main([*command, *weaker])
    assert "--weaker is a stage of one pipeline: leave out --beside" in capsys.readouterr().err


def test_the_distances_of_a_pipeline_are_measured_and_generated(tiny_pipe, tmp_path, capsys):
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    own = tiny_pipe.stages["base"].config
    distances.main(
        [
            "--pipeline",
            str(tmp_path / "pipe"),
            "--n",
            "6",
            "--true",
            "12",
            "--scales",
            f"{own.guidance_scale}",
            "1",
            "--thresholds",
            "static",
            "dynamic",
            "--out",
            str(tmp_path / "out"),
            "--batch",
            "4",
        ]
    )
    page = capsys.readouterr().out
    assert "true images of other scenes" in page and "by default" in page
    found = json.loads((tmp_path / "out" / "distances.json").read_text())
    alike = next(row for row in found["lines"][own.threshold] if row["w"] == own.guidance_scale)
    assert (
        own.guidance_interval is None
        and {"w": own.guidance_scale} | {k: v for k, v in found["own"].items() if k in alike}
        == alike
    )
    with Image.open(tmp_path / "out" / "distances.png") as image:
        assert image.width > 600


def test_too_few_images_for_a_distance_are_refused(capsys):
    with pytest.raises(SystemExit):
        distances.main(["--n", "2"])
    assert "at least 4 images" in capsys.readouterr().err
