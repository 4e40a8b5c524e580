"""The classifier of noisy images: its labels are true of scenes and captions, and its gradient is
that of a probability.
"""

import random
from dataclasses import replace

import pytest
import torch

from imagen_mini.diffusion.guidance_rules import guide_by_classifier
from imagen_mini.diffusion.schedules import alpha_sigma, make_schedule
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.noisy_classifier import (
    NoisyClassifier,
    classification_loss,
    facts_of_description,
    facts_of_scene,
    load_noisy_classifier,
    noisy_labels,
    save_noisy_classifier,
)
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject, random_scene
from imagen_mini.scenes.world import SCENES, WORLDS
from train import noisy_classifier as training

SCENE = Scene(
    (
        SceneObject(10, 50, "ring", "pink", "small", "striped"),
        SceneObject(40, 20, "circle", "red", "large", "solid"),
    ),
    "beige",
)
KINDS = noisy_labels()


def by_kind(facts):
    parts = facts.split([len(values) for values in KINDS.values()])
    return {
        kind: {v for v, holds in zip(values, part) if holds}
        for (kind, values), part in zip(KINDS.items(), parts)
    }


def test_the_facts_of_a_scene_are_true():
    found = by_kind(facts_of_scene(SCENE))
    assert found.pop("relations") == set()  # 30 to the side and 30 down: the diagonal
    assert found == {
        "count": {2},
        "colors": {"pink", "red"},
        "shapes": {"ring", "circle"},
        "pairs": {("pink", "ring"), ("red", "circle")},
    }
    lower = Scene((SCENE.objects[0], replace(SCENE.objects[1], y=41)), "beige")
    assert by_kind(facts_of_scene(lower))["relations"] == {("ring", "above", "circle")}
    higher = Scene((SCENE.objects[0], replace(SCENE.objects[1], y=39)), "beige")
    assert by_kind(facts_of_scene(higher))["relations"] == {("circle", "left of", "ring")}


def test_what_is_stated_of_a_caption_holds_in_every_scene_that_shows_it():
    """For captions of every category, and three scenes of each."""
    for category, seed, caption in benchmark(2, seed=5):
        holds, stated = facts_of_description(caption.description)
        for i in range(3):
            scene = SCENES.scene_matching(
                caption.description, random.Random(f"{category}{seed}{i}")
            )
            true = facts_of_scene(scene)
            assert torch.equal(holds[stated > 0], true[stated > 0]), (caption.text, scene)


def test_a_caption_states_only_what_it_says():
    say = lambda text: facts_of_description(SCENES.parse_caption(text))
    holds, stated = say("a red circle to the right of a star")
    assert by_kind(holds)["relations"] == {("star", "left of", "circle")}
    assert by_kind(stated)["relations"] == {("star", "left of", "circle")}
    assert by_kind(stated)["colors"] == {"red"} and by_kind(stated)["pairs"] == {("red", "circle")}
    holds, stated = say("a red circle and a blue star")
    assert len(by_kind(stated)["colors"]) == 8 and len(by_kind(stated)["pairs"]) == 48
    assert by_kind(stated)["relations"] == set() and by_kind(holds)["count"] == {2}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return NoisyClassifier().eval().requires_grad_(False)


def test_log_probability_is_that_of_the_loss(net):
    """Of a caption that says all, both are the same; for scenes, the loss knows every label."""
    g = torch.Generator().manual_seed(0)
    x_t, log_snr = torch.randn(2, 3, 64, 64, generator=g), torch.tensor([-3.0, 2.0])
    captions = ["a red circle and a blue star", "two green rings"]
    found = net.log_probability(captions)(x_t, log_snr)
    logits = net(x_t, log_snr).double()
    for row, caption in enumerate(captions):
        holds, stated = facts_of_description(SCENES.parse_caption(caption))
        p = logits[row].sigmoid()
        p[:5] = logits[row, :5].softmax(0)
        chance = torch.where(holds.bool(), p, 1 - p)
        chance[:5] = torch.where(holds[:5].bool(), p[:5], torch.ones(5, dtype=torch.float64))
        assert found[row].item() == pytest.approx(
            chance[stated.bool()].log().sum().item(), rel=1e-4
        )
    facts = torch.stack([facts_of_scene(SCENE)] * 2)
    p = logits.sigmoid()
    by_hand = -logits[:, :5].log_softmax(1)[:, 1] - torch.where(
        facts[:, 5:].bool(), p[:, 5:], 1 - p[:, 5:]
    ).log().sum(1)
    assert classification_loss(logits, facts).item() == pytest.approx(by_hand.mean().item())


def test_the_noise_level_is_seen_and_images_do_not_mix(net):
    images = render([SCENE, random_scene(random.Random(0))])
    low, high = net(images, torch.full((2,), -5.0)), net(images, torch.full((2,), 5.0))
    assert not torch.allclose(low, high, atol=1e-3)
    assert torch.allclose(net(images[1:], torch.tensor([5.0])), high[1:], atol=1e-5)
    # a schedule may end in pure noise
    assert net(images, torch.full((2,), -torch.inf)).isfinite().all()


def test_it_guides_a_denoiser_along_the_gradient_of_differences(net):
    exact = NoisyClassifier().double()
    exact.load_state_dict(net.state_dict())
    log_p, schedule = exact.log_probability(["a red circle"]), make_schedule("cosine", -4.0)
    g, t = torch.Generator().manual_seed(1), torch.tensor(0.4, dtype=torch.float64)
    x_t = torch.randn(1, 3, 64, 64, generator=g, dtype=torch.float64)
    plain = lambda x, t: torch.zeros_like(x)
    shift = guide_by_classifier(plain, log_p, 2.0, schedule)(x_t, t)
    alpha, sigma = alpha_sigma(schedule(t))
    gradient = shift * alpha / (2 * sigma**2)
    direction, level, h = gradient / gradient.norm(), schedule(t).expand(1), 1e-5
    slope = (log_p(x_t + h * direction, level) - log_p(x_t - h * direction, level)) / (2 * h)
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=1e-5) and slope > 0


def test_a_classifier_is_saved_with_its_world_and_read_again(tmp_path, net):
    save_noisy_classifier(net, tmp_path / "n.safetensors")
    again = load_noisy_classifier(tmp_path / "n.safetensors")
    assert again.size == 64 and again.world is SCENES
    x = render(SCENE)
    assert torch.equal(again(x, torch.zeros(1)), net(x, torch.zeros(1)))
    assert not any(p.requires_grad for p in again.parameters())


def test_what_is_no_classifier_is_an_error(tmp_path, net):
    with pytest.raises(FileNotFoundError, match="train one with python -m train.noisy_classifier"):
        load_noisy_classifier(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no classifier of noisy images"):
        load_noisy_classifier(tmp_path / "bad.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is no classifier of noisy images"):
        load_noisy_classifier(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"\[b, 3, 64, 64\]; got \[1, 3, 32, 32\]"):
        net(torch.zeros(1, 3, 32, 32), torch.zeros(1))
    with pytest.raises(ValueError, match="multiple of 32"):
        NoisyClassifier(50)


def test_batches_are_functions_of_their_number_and_are_noised_as_they_say():
    x_t, level, facts = training.noisy_batch(64, "train", 3, 4, "cpu", SCENES)
    again = training.noisy_batch(64, "train", 3, 4, "cpu", SCENES)
    assert all(torch.equal(a, b) for a, b in zip((x_t, level, facts), again))
    other, *_ = training.noisy_batch(64, "test", 3, 4, "cpu", SCENES)
    assert not torch.equal(x_t, other)
    pure, *_ = training.noisy_batch(64, "train", 3, 64, "cpu", SCENES, -10.0)
    assert pure.std().item() == pytest.approx(1, abs=0.02)
    x_t, level, facts = training.noisy_batch(64, "train", 0, 2, "cpu", WORLDS["studio"])
    assert facts.shape == (2, sum(map(len, KINDS.values())))


@pytest.mark.slow
def test_training_lowers_the_loss_and_leaves_a_classifier(tmp_path, capsys):
    out = tmp_path / "n.safetensors"
    training.main(["--steps", "60", "--batch", "16", "--out", str(out), "--device", "cpu"])
    assert "log-SNR +8: count" in capsys.readouterr().out
    batch = training.noisy_batch(64, "test", 0, 64, "cpu", SCENES)
    torch.manual_seed(0)
    with torch.no_grad():
        trained, fresh = (
            classification_loss(n(*batch[:2]), batch[2])
            for n in (load_noisy_classifier(out), NoisyClassifier())
        )
    assert trained < 0.5 * fresh
