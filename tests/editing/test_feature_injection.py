"""Feature injection: which features are taken, when, and how it goes with other edits."""

from copy import deepcopy

import pytest
import torch
from support.scenes import tokens

from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.feature_injection import FeatureInjection
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Replace
from imagen_mini.models.control import AttentionSite, BlockSite

SITES = [
    AttentionSite("mid.cross", "mid", "cross", 4),
    AttentionSite("up0.cross", "up", "cross", 8),
]
SOURCE, TARGET = "a red circle above a blue square", "a red star above a blue square"
EXACT = {
    "seed": 1,
    "stages": ("base",),
    "num_inference_steps": 5,
    "progress": False,
    "output_type": "pt",
}


@pytest.fixture(scope="module")
def exact_pipe(tiny_pipe):
    pipe = deepcopy(tiny_pipe)
    pipe.stages["base"].double()
    return pipe


def generated(pipe, prompts, edit=None, **options):
    return pipe(prompts, edit=edit, **EXACT | options).stages["base"]


def bound(**options):
    return FeatureInjection(**options).bind([tokens("a ring"), tokens("a star")], SITES, 3)


@pytest.mark.parametrize("size, expected", [(None, [4]), (4, [4]), (8, [4, 8]), (16, [4, 8, 16])])
def test_features_are_those_of_the_decoder_on_coarse_grids(size, expected):
    control = bound(size=size).control_at(0.0)
    grids = (4, 8, 16, 32)
    assert [g for g in grids if control.needs_features(BlockSite("b", "up", g))] == expected
    for place in ("down", "mid"):
        assert not any(control.needs_features(BlockSite("b", place, g)) for g in grids)


def test_every_row_takes_the_features_of_the_source():
    x = torch.rand(3, 2, 4, 4)
    out = bound().control_at(0.0).modify_features(BlockSite("b", "up", 4), x)
    assert out.shape == x.shape and all(torch.equal(row, x[0]) for row in out)


def test_features_are_injected_in_the_window_only():
    controls = [bound(until=(0.2, 0.6)).control_at(step / 5) for step in range(5)]
    assert [c is not None for c in controls] == [False, True, True, False, False]


def test_an_empty_window_leaves_the_plain_target(tiny_pipe):
    plain = generated(tiny_pipe, [SOURCE, TARGET])
    assert torch.equal(generated(tiny_pipe, [SOURCE, TARGET], FeatureInjection(0.0)), plain)


def test_the_target_changes_and_the_source_does_not(exact_pipe):
    edited = generated(exact_pipe, [SOURCE, TARGET], FeatureInjection())
    plain = generated(exact_pipe, [SOURCE, TARGET])
    assert (edited[0] - plain[0]).abs().max() < 1e-9
    assert (edited[1] - plain[1]).abs().max() > 1e-6
    assert (edited[1] - edited[0]).abs().max() > 1e-6


def test_the_same_prompt_twice_is_the_same_image(exact_pipe):
    source, target = generated(exact_pipe, [SOURCE, SOURCE], FeatureInjection(1.0))
    assert (source - target).abs().max() < 1e-9


def test_several_targets_are_edited_as_each_would_be_alone(exact_pipe):
    targets = [TARGET, "a hexagonal circle above a blue square"]
    together = generated(exact_pipe, [SOURCE, *targets], FeatureInjection())
    for i, target in enumerate(targets):
        alone = generated(exact_pipe, [SOURCE, target], FeatureInjection())
        # text encoded in another batch differs in its last bits
        assert (together[1 + i] - alone[1]).abs().max() < 1e-5


def test_in_a_chain_attention_is_injected_as_well_and_the_order_does_not_matter(exact_pipe):
    edits = (FeatureInjection(0.6), Replace(), PromptSwitching(0.2))
    one, other = (
        generated(exact_pipe, [SOURCE, TARGET], Chain(*order)) for order in (edits, edits[::-1])
    )
    assert torch.equal(one, other)
    for fewer in (Chain(*edits[:2]), Chain(*edits[1:]), Chain(edits[0], edits[2])):
        assert (generated(exact_pipe, [SOURCE, TARGET], fewer)[1] - one[1]).abs().max() > 1e-9


def test_attention_is_recorded_while_features_are_injected(exact_pipe):
    maps = AttentionStore()
    edit = Chain(Replace(), FeatureInjection())
    recorded = generated(exact_pipe, [SOURCE, TARGET], edit, attention_store=maps)
    plain = generated(exact_pipe, [SOURCE, TARGET], edit)
    assert len(maps.times) == 5 and (recorded - plain).abs().max() < 1e-9


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: FeatureInjection(1.5), "until=1.5: expected a share of the steps"),
        (lambda: bound(size=2), r"size=2.: the coarsest grid with attention is 4 x 4"),
        (
            lambda: Chain(FeatureInjection(), FeatureInjection()).bind(
                [tokens("a ring"), tokens("a star")], SITES, 3
            ),
            "at most one FeatureInjection",
        ),
        (lambda: FeatureInjection().bind([tokens("a ring")], SITES, 3), "at least one target"),
    ],
)
def test_what_cannot_be_injected_is_an_error_that_says_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()
