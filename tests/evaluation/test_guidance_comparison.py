"""Rules of guidance side by side: the three that the pipeline has are the pipeline's own."""

import pytest
import torch

from imagen_mini.cascade.sampling_options import resolve_sampling_options
from imagen_mini.evaluation.guidance_comparison import RULES, sample_by_rule

PROMPTS, SEEDS = ["a red circle", "two blue stars on a white background"], [3, 8]


@pytest.fixture
def by_rule(tiny_pipe):
    stage = tiny_pipe.stages["base"]
    options = resolve_sampling_options(stage, num_inference_steps=4, sampler="ddim")

    def images(rule, w, **more):
        text = tiny_pipe.text_encoder(PROMPTS)
        return sample_by_rule(stage, text, SEEDS, options, rule, w, **more)

    return images


@pytest.mark.parametrize("threshold", ["none", "static", "dynamic"])
def test_plain_guidance_is_that_of_the_pipeline(tiny_pipe, by_rule, threshold):
    options = {"num_inference_steps": 4, "sampler": "ddim", "guidance_scale": 3.0}
    out = tiny_pipe(
        PROMPTS, seed=SEEDS, stages=("base",), threshold=threshold, output_type="pt", **options
    )
    assert torch.allclose(by_rule(threshold, 3.0), out.stages["base"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("rule", [r for r in RULES if r not in ("cfg++", "autoguidance")])
def test_at_scale_1_every_rule_is_no_guidance(by_rule, rule):
    expected = by_rule("none", 1.0)
    if RULES[rule].threshold == "dynamic":
        expected = by_rule("dynamic", 1.0)
    if RULES[rule].threshold == "static":
        expected = by_rule("static", 1.0)
    assert torch.allclose(by_rule(rule, 1.0), expected, rtol=0, atol=1e-5)


def test_every_rule_changes_the_images_of_plain_guidance_in_its_own_way(tiny_pipe, by_rule):
    w = {"cfg++": 0.8}
    images = {r: by_rule(r, w.get(r, 8.0)) for r in RULES if r != "autoguidance"}
    names = list(images)
    same = [
        (a, b)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if torch.allclose(images[a], images[b], rtol=0, atol=1e-3)
    ]
    assert same == []


def test_autoguidance_by_the_same_network_is_no_guidance(tiny_pipe, by_rule):
    found = by_rule("autoguidance", 5.0, weaker=tiny_pipe.stages["base"])
    assert torch.allclose(found, by_rule("dynamic", 1.0), rtol=0, atol=1e-4)


def test_a_weaker_stage_belongs_to_autoguidance_alone(tiny_pipe, by_rule):
    with pytest.raises(ValueError, match="autoguidance leads away from a weaker stage; give one"):
        by_rule("autoguidance", 2.0)
    with pytest.raises(ValueError, match="dynamic uses no weaker stage; leave it out"):
        by_rule("dynamic", 2.0, weaker=tiny_pipe.stages["base"])
    with pytest.raises(ValueError, match="guidance rule 'cfg'; expected one of none, static"):
        by_rule("cfg", 2.0)
