"""Prompt switching: its two ends, what it saves, and how it goes with other edits."""

from copy import deepcopy

import pytest
import torch
from support.scenes import tokens

from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.blending import LocalBlend
from imagen_mini.editing.controls import AttentionInjectionControl, SourcePromptControl
from imagen_mini.editing.prompt_switching import BoundPromptSwitching, PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Refine, Replace, Reweight
from imagen_mini.models.control import AttentionSite

SITES = [AttentionSite("mid.cross", "mid", "cross", 4), AttentionSite("mid.self", "mid", "self", 4)]
SOURCE, TARGET = "a red circle above a blue square", "a red star above a blue square"
QUIET = {"progress": False, "output_type": "pt"}
EXACT = {"seed": 1, "stages": ("base",), "num_inference_steps": 5} | QUIET


@pytest.fixture(scope="module")
def exact_pipe(tiny_pipe):
    pipe = deepcopy(tiny_pipe)
    pipe.stages["base"].double()
    return pipe


def generated(pipe, prompts, edit=None, **options):
    return pipe(prompts, edit=edit, **EXACT | options).stages["base"]


def by_hand(pipe, source, target, switched_after):
    """The definition: one trajectory, whose denoiser reads the source's prompt at first."""
    from imagen_mini.cascade.sampling import sampling_loop
    from imagen_mini.cascade.sampling_options import resolve_sampling_options

    stage = pipe.stages["base"]
    options = resolve_sampling_options(stage, num_inference_steps=5)
    times = stage.timesteps(5, options.timestep_spacing)
    first, then = (stage.denoiser(pipe.text_encoder([prompt])) for prompt in (source, target))

    def denoise(x_t, t):
        return (then if t <= times[switched_after] else first)(x_t, t)

    *_, last = sampling_loop(stage, denoise, [1], options)
    return last.x_0_hat.clamp(-1, 1)[0]


# ---------------------------------------------------------------- what it is


# one target with equally many tokens, and one with more
@pytest.mark.parametrize("target", [TARGET, "a crimson circle above a blue square"])
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_the_target_reads_the_source_s_prompt_first_and_its_own_then(exact_pipe, target, steps):
    source, switched = generated(exact_pipe, [SOURCE, target], PromptSwitching(steps / 5))
    expected = by_hand(exact_pipe, SOURCE, target, steps)
    assert (switched - expected).abs().max() < 1e-9
    assert (switched - source).abs().max() > 1e-4
    assert (source - generated(exact_pipe, [SOURCE])[0]).abs().max() < 1e-9


@pytest.mark.parametrize("target", [TARGET, "a crimson circle above a blue square"])
def test_switched_at_the_end_the_target_is_the_source_to_the_last_bit(tiny_pipe, target):
    with pytest.warns(
        UserWarning, match=r"the edit changes nothing: in all 5 steps of base, .*PromptSwitching"
    ):
        source, switched = generated(tiny_pipe, [SOURCE, target], PromptSwitching(1.0))
    assert torch.equal(source, switched)
    assert torch.equal(source, generated(tiny_pipe, [SOURCE])[0])


def test_switched_at_the_start_it_is_the_target_with_the_same_seed_to_the_last_bit(tiny_pipe):
    plain = generated(tiny_pipe, [SOURCE, TARGET])
    assert torch.equal(generated(tiny_pipe, [SOURCE, TARGET], PromptSwitching(0.0)), plain)


def test_the_default_is_the_first_four_fifths(tiny_pipe):
    assert PromptSwitching() == PromptSwitching(0.8) == PromptSwitching((0.0, 0.8))
    bound = PromptSwitching().bind([tokens("a ring"), tokens("a star")], SITES, 3)
    controls = [bound.control_at(step / 10) for step in range(10)]
    assert [isinstance(c, SourcePromptControl) for c in controls] == [True] * 8 + [False] * 2
    assert controls[8:] == [None, None]  # and no attention is touched


@pytest.mark.parametrize("until", [1.5, -0.1, (0.5, 0.2), (0.2, 1.2), float("nan"), "0.5"])
def test_a_share_outside_of_the_steps_is_an_error(until):
    with pytest.raises(ValueError, match="until=.*expected a share of the steps"):
        PromptSwitching(until)


def test_a_source_without_a_target_is_an_error(tiny_pipe):
    with pytest.raises(ValueError, match="at least one target prompt; got 1"):
        tiny_pipe(SOURCE, edit=PromptSwitching(), **QUIET)


# ---------------------------------------------------------------- what it saves


@pytest.mark.parametrize(
    "edit, rows",
    [
        # guided in one call for three steps of five; then source and target, both branches at once
        (PromptSwitching(0.6), [2, 2, 2, 4, 4]),
        # then in a call with a control and one without
        (Chain(PromptSwitching(0.6), Replace(1.0)), [2, 2, 2, 2, 2, 2, 2]),
    ],
    ids=["alone", "then attention"],
)
def test_while_source_and_target_are_one_image_one_row_is_computed_for_both(
    exact_pipe, monkeypatch, edit, rows
):
    seen = []
    hook = exact_pipe.stages["base"].net.register_forward_pre_hook(
        lambda _, args: seen.append(len(args[0]))
    )
    edited = generated(exact_pipe, [SOURCE, TARGET], edit)
    hook.remove()
    assert seen == rows
    monkeypatch.setattr(BoundPromptSwitching, "rows_identical", lambda *_: False)
    separate = generated(exact_pipe, [SOURCE, TARGET], edit)
    assert (edited - separate).abs().max() < 1e-9


def test_with_a_negative_prompt_rows_are_computed_separately(exact_pipe):
    seen, edit = [], Chain(PromptSwitching(0.6), Replace(1.0))
    hook = exact_pipe.stages["base"].net.register_forward_pre_hook(
        lambda _, args: seen.append(len(args[0]))
    )
    generated(exact_pipe, [SOURCE, TARGET], edit, negative_prompt="a blue ring")
    hook.remove()
    assert seen == [2] * 10


def test_rows_that_differ_before_their_prompts_are_shared_are_generated_separately():
    bound = PromptSwitching((0.2, 0.6)).bind([tokens("a ring"), tokens("a star")], SITES, 3)
    assert isinstance(bound.control_at(0.5), SourcePromptControl)
    assert not bound.rows_identical(0.5) and not bound.rows_identical(0.0)


def test_no_attention_is_recorded_before_the_switch(tiny_pipe):
    maps = AttentionStore()
    generated(tiny_pipe, [SOURCE, TARGET], PromptSwitching(0.6), attention_store=maps)
    assert len(maps.times) == 2


# ---------------------------------------------------------------- with other edits


@pytest.mark.parametrize(
    "edits",
    [
        (PromptSwitching(0.4), Replace()),
        (PromptSwitching(0.4), Replace(), Reweight({"red": 2})),
        (PromptSwitching(0.4), Replace(), LocalBlend("circle", "star")),
        (PromptSwitching(0.4), LocalBlend("circle", "star")),
    ],
    ids=["replace", "reweight", "blend", "blend alone"],
)
def test_the_order_in_a_chain_does_not_matter(exact_pipe, edits):
    one, other = (
        generated(exact_pipe, [SOURCE, TARGET], Chain(*order)) for order in (edits, edits[::-1])
    )
    assert torch.equal(one, other) and (one[0] - one[1]).abs().max() > 1e-4


def test_after_the_switch_attention_is_injected_and_weights_act():
    chain = Chain(PromptSwitching(0.5), Replace(), Reweight({"star": 2}))
    bound = chain.bind([tokens("red ring"), tokens("red star")], SITES, 3)
    assert isinstance(bound.control_at(0.0), SourcePromptControl)
    after = bound.control_at(0.6)
    assert isinstance(after, AttentionInjectionControl)
    assert after.inject_cross and not after.inject_self and after.equalizer.tolist() == [[1, 2, 1]]


@pytest.mark.parametrize("kind", [Replace, Refine])
@pytest.mark.parametrize("share", [0.0, 0.4, (0.2, 0.6)])
def test_the_former_keyword_is_the_chain(exact_pipe, kind, share):
    former = generated(exact_pipe, [SOURCE, TARGET], kind(shared_prompt_steps=share))
    chain = Chain(kind(), PromptSwitching(share))
    assert torch.equal(former, generated(exact_pipe, [SOURCE, TARGET], chain))


def test_by_default_an_injection_switches_no_prompt(exact_pipe):
    tokens_of = [tokens("a ring"), tokens("a star")]
    for edit in (Replace(), Refine()):
        bound = edit.bind(tokens_of, SITES, 3)
        assert isinstance(bound.control_at(0.0), AttentionInjectionControl)
        assert not bound.rows_identical(0.0)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda: Chain(PromptSwitching(), PromptSwitching()), "at most one PromptSwitching"),
        (
            lambda: Chain(PromptSwitching(0.5), Replace(shared_prompt_steps=0.8)),
            "both say when prompts are switched",
        ),
    ],
)
def test_two_switches_are_an_error(edit, message):
    with pytest.raises(ValueError, match=message):
        edit().bind([tokens("a ring"), tokens("a star")], SITES, 3)
