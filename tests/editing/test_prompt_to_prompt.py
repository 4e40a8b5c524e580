"""Edits: when they act, what the injected attention does, and what they leave unchanged."""

from dataclasses import replace

import pytest
import torch
from support.scenes import tokens

from imagen_mini.diffusion.timesteps import uniform_timesteps
from imagen_mini.editing.alignment import replacement_mapper
from imagen_mini.editing.base import BoundEdit, Edit
from imagen_mini.editing.blending import DiffEditMask, LocalBlend
from imagen_mini.editing.controls import AttentionInjectionControl
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import (
    Chain,
    Refine,
    Replace,
    Reweight,
)
from imagen_mini.editing.windows import share_done, within
from imagen_mini.models.control import AttentionSite
from imagen_mini.models.unet import UNet

QUIET = {"progress": False, "output_type": "pt"}
SITES = [AttentionSite("mid.cross", "mid", "cross", 4), AttentionSite("mid.self", "mid", "self", 4)]
SOURCE, TARGET = "a red circle above a blue square", "a red star above a blue square"


def inject(mappers, inject_cross=True, inject_self=False, self_size=16):
    """Every column, unscaled."""
    ones = torch.ones(mappers.shape[0], mappers.shape[2])
    return AttentionInjectionControl(
        mappers, ones.bool(), ones, inject_cross, inject_self, self_size
    )


# ---------------------------------------------------------------- what cannot be edited


def test_a_network_without_attention_to_words_is_an_error():
    with pytest.raises(ValueError, match="no attention to words"):
        Replace().bind([tokens("red"), tokens("blue")], SITES[1:], 2)


def test_a_source_without_a_target_is_an_error(tiny_pipe):
    with pytest.raises(ValueError, match="at least one target prompt; got 1"):
        tiny_pipe(SOURCE, edit=Replace(), **QUIET)


def test_an_edit_from_two_seeds_is_an_error(tiny_pipe):
    with pytest.raises(ValueError, match=r"give one seed; got \[0, 1\]"):
        tiny_pipe([SOURCE, TARGET], seed=[0, 1], edit=Replace(), **QUIET)


@pytest.mark.parametrize(
    "name", ["cross_replace_steps", "self_replace_steps", "shared_prompt_steps"]
)
@pytest.mark.parametrize("window", [1.5, -0.1, (0.5, 0.2), (0.2, 1.2), (-1, 0.5), float("nan")])
def test_a_window_outside_the_steps_is_an_error(name, window):
    with pytest.raises(ValueError, match=f"{name}=.*expected a share of the steps"):
        Replace(**{name: window})


# ---------------------------------------------------------------- when it is active


def test_a_window_is_a_share_of_the_steps_from_its_start_up_to_its_end():
    bound = Replace(cross_replace_steps=(0.25, 0.75), self_replace_steps=0.5).bind(
        [tokens("red"), tokens("blue")], SITES, 2
    )
    controls = [bound.control_at(step / 8) for step in range(8)]
    assert [bool(c and c.inject_cross) for c in controls] == [
        False,
        False,
        True,
        True,
        True,
        True,
        False,
        False,
    ]
    assert [bool(c and c.inject_self) for c in controls] == [
        True,
        True,
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert controls[6] is None


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
def test_a_share_of_the_steps_that_is_a_whole_number_is_that_many_steps(share):
    bound = Replace(cross_replace_steps=share, self_replace_steps=(share, 1.0)).bind(
        [tokens("red"), tokens("blue")], SITES, 2
    )
    for steps in range(10, 210, 10):
        controls = [bound.control_at(step / steps) for step in range(steps)]
        assert (sum(c.inject_cross for c in controls), sum(c.inject_self for c in controls)) == (
            round(share * steps),
            round((1 - share) * steps),
        ), steps


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_a_window_counts_steps_however_their_times_are_spaced(power):
    times = uniform_timesteps(10) ** power
    done = share_done(times)
    assert [done(float(t)) for t in times[:-1]] == [i / 10 for i in range(10)]
    # a solver that looks at a time inside of a step is in that step
    assert done(float(times[3] + times[4]) / 2) == 0.3
    assert sum(within((0.0, 0.8), done(float(t))) for t in times[:-1]) == 8
    assert sum(within((0.3, 0.7), done(float(t))) for t in times[:-1]) == 4


def test_the_share_of_the_steps_is_what_a_pipeline_asks_an_edit_with(tiny_pipe):
    asked = []

    class Asked(BoundEdit, Edit):
        def bind(self, *_):
            return self

        def control_at(self, done):
            asked.append(done)

    tiny_pipe([SOURCE, TARGET], edit=Asked(), seed=0, stages=("base",), progress=False)
    n = tiny_pipe.stages["base"].config.num_inference_steps
    assert sorted(set(asked)) == [i / n for i in range(n)]


@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize(
    "options, name",
    [
        ({}, "cross_replace_steps"),
        ({"cross_replace_steps": 1.0, "self_replace_steps": 0.4}, "self_replace_steps"),
        ({"cross_replace_steps": 1.0, "self_replace_steps": (0.2, 0.8)}, "self_replace_steps"),
        ({"cross_replace_steps": 0.5}, "cross_replace_steps"),
        ({"cross_replace_steps": {"default": 1.0, "star": 0.3}}, "of 'star'"),
    ],
)
def test_a_window_without_effect_says_so_where_it_was_written(options, name, alias):
    with pytest.warns(UserWarning, match=f"{name}.*no effect") as caught:
        if alias:
            Refine(**options, shared_prompt_steps=0.8)
        else:
            Chain(Refine(**options), PromptSwitching(0.8))
    assert [w.filename for w in caught] == [__file__]


@pytest.mark.parametrize(
    "options, shared",
    [
        ({}, 0.8),
        ({"self_replace_steps": 1.0}, 0.8),
        ({"self_replace_steps": 0.0}, 0.8),
        ({"self_replace_steps": 0.4}, 0.0),
        ({"self_replace_steps": 0.4}, (0.2, 0.8)),
    ],
)
def test_a_window_with_an_effect_says_nothing(options, shared, recwarn):
    Refine(1.0, **options, shared_prompt_steps=shared)
    Chain(PromptSwitching(shared), Refine(1.0, **options))
    Refine(1.0, **options)
    Refine(**options)
    assert not recwarn.list


def test_a_window_of_one_covers_every_step_and_of_zero_none():
    for window, expected in ((1.0, True), (0.0, False)):
        bound = Replace(cross_replace_steps=window, self_replace_steps=0.0).bind(
            [tokens("red"), tokens("blue")], SITES, 2
        )
        assert all((bound.control_at(step / 10) is not None) == expected for step in range(10))


@pytest.mark.parametrize("kind", [Replace, Refine])
def test_by_default_words_are_injected_in_four_fifths_of_the_steps_and_pixels_in_two(kind):
    bound = kind().bind([tokens("red"), tokens("blue")], SITES, 2)
    controls = [bound.control_at(step / 10) for step in range(10)]
    assert [bool(c and c.inject_cross) for c in controls] == [True] * 8 + [False] * 2
    assert [bool(c and c.inject_self) for c in controls] == [True] * 4 + [False] * 6


def test_self_attention_is_injected_on_small_grids_only():
    control = inject(torch.eye(2)[None], inject_cross=False, inject_self=True)
    assert control.needs_probs(AttentionSite("a", "mid", "self", 16)) and not control.needs_probs(
        AttentionSite("b", "up", "self", 32)
    )
    assert not control.needs_probs(AttentionSite("c", "mid", "cross", 8))


# ---------------------------------------------------------------- what it does to the probabilities


def test_the_source_row_is_unchanged_and_targets_take_its_words_but_keep_their_pixels():
    m = torch.stack(
        [replacement_mapper(tokens("red ring"), tokens("blue ring")), torch.eye(3).roll(1, 1)]
    )
    probs = torch.rand(3, 2, 4, 3 + 5, generator=torch.Generator().manual_seed(0))
    out = inject(m).modify_probs(AttentionSite("mid.hybrid", "mid", "hybrid", 4), probs, 3)
    assert torch.equal(out[0], probs[0])
    assert torch.allclose(out[1, :, :, :3], probs[0, :, :, :3])
    assert torch.allclose(out[2, :, :, :3], probs[0, :, :, :3].roll(1, -1))
    assert torch.equal(out[1:, :, :, 3:], probs[1:, :, :, 3:])


def test_targets_take_the_self_attention_of_the_source():
    probs = torch.rand(3, 2, 4, 4)
    out = inject(torch.eye(2).expand(2, 2, 2), inject_cross=False, inject_self=True).modify_probs(
        SITES[1], probs, 0
    )
    assert all(torch.equal(row, probs[0]) for row in out)


@pytest.mark.parametrize("hybrid", [False, True])
def test_injecting_the_maps_of_the_same_prompt_and_noise_changes_nothing(
    tiny_pipe, random_text, randomize_zero_init, hybrid
):
    torch.manual_seed(0)
    config = tiny_pipe.stages["base"].config.unet
    net = randomize_zero_init(
        UNet(replace(config, attention=("", "hybrid") if hybrid else config.attention))
    )
    x = torch.randn(1, 3, 64, 64).repeat(2, 1, 1, 1)
    text = random_text([5, 5])[[0, 0]]
    control = inject(torch.eye(5)[None], inject_self=True, self_size=64)
    plain, controlled = net(x, torch.zeros(2), text), net(x, torch.zeros(2), text, control=control)
    assert torch.allclose(plain, controlled, rtol=0, atol=1e-5)
    x[1] += 0.5  # from another noise it changes the output
    plain, controlled = net(x, torch.zeros(2), text), net(x, torch.zeros(2), text, control=control)
    assert torch.allclose(plain[0], controlled[0], rtol=0, atol=1e-5) and not torch.allclose(
        plain[1], controlled[1], atol=1e-3
    )


# ---------------------------------------------------------------- what it does to the images


def test_with_an_empty_window_source_and_target_are_generated_as_without_an_edit(tiny_pipe):
    edited = tiny_pipe(
        [SOURCE, TARGET],
        seed=1,
        edit=Replace(cross_replace_steps=0.0, self_replace_steps=0.0),
        **QUIET,
    ).stages
    plain = tiny_pipe([SOURCE, TARGET], seed=1, **QUIET).stages
    assert all(torch.equal(edited[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    "edit",
    [
        Replace(1.0, 0.0),
        Replace(0.0, 1.0),
        Chain(PromptSwitching(0.8), Replace(1.0)),
    ],
    ids=["cross", "self", "switched, then both"],
)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_edit_changes_the_target_and_leaves_the_source(tiny_pipe, edit, guidance_scale):
    options = {
        "guidance_scale": guidance_scale,
        "seed": 1,
        "stages": ("base",),
        "num_inference_steps": 8,
    } | QUIET
    edited = tiny_pipe([SOURCE, TARGET], edit=edit, **options).stages["base"]
    plain = tiny_pipe([SOURCE, TARGET], **options).stages["base"]
    assert torch.allclose(edited[0], plain[0], rtol=0, atol=1e-4)
    assert (edited[1] - plain[1]).abs().max() > 1e-3
    assert (edited[1] - edited[0]).abs().max() > 1e-4


def test_several_targets_are_edited_as_each_would_be_alone(tiny_pipe):
    targets = [TARGET, "a hexagonal circle above a blue square"]
    edit = Replace()
    options = {"seed": 1, "edit": edit, "stages": ("base",)} | QUIET
    together = tiny_pipe([SOURCE, *targets], **options).images
    for i, target in enumerate(targets):
        assert torch.allclose(
            together[1 + i], tiny_pipe([SOURCE, target], **options).images[1], rtol=0, atol=1e-4
        )


def test_only_the_conditional_branch_has_a_control_and_only_in_its_window(
    tiny_pipe,
):
    net, calls = tiny_pipe.stages["base"].net, []
    null = net.prepare_text(tiny_pipe.text_encoder([SOURCE, TARGET]).null()).emb

    def note(module, args, kwargs):
        text = args[2].emb
        calls.append(
            (
                len(args[0]),
                text.shape == null.shape and torch.equal(text, null),
                kwargs.get("control") is not None,
            )
        )

    hook = net.register_forward_pre_hook(note, with_kwargs=True)
    tiny_pipe(
        [SOURCE, TARGET],
        edit=Replace(0.5, 0.0),
        num_inference_steps=4,
        stages=("base",),
        **QUIET,
    )
    hook.remove()
    assert calls == [
        (2, False, True),
        (2, True, False),
        (2, False, True),
        (2, True, False),
        (4, False, False),
        (4, False, False),
    ]


def test_super_resolution_is_not_controlled(tiny_pipe):
    controls = []
    hook = tiny_pipe.stages["sr_256"].net.register_forward_pre_hook(
        lambda m, a, kw: controls.append(kw["control"]), with_kwargs=True
    )
    tiny_pipe([SOURCE, TARGET], edit=Replace(), **QUIET)
    hook.remove()
    assert controls and set(controls) == {None}


# ---------------------------------------------------------------- added words


def test_new_words_keep_their_attention_and_common_words_take_that_of_the_source():
    source, target = tokens("a ring"), tokens("a red ring")
    bound = Refine(1.0, 0.0).bind([source, target], SITES, 4)
    probs = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    out = bound.control_at(0.0).modify_probs(SITES[0], probs, 4)
    assert torch.equal(out[0], probs[0])
    assert torch.equal(out[1][..., 1], probs[1][..., 1])  # "red"
    assert torch.equal(out[1][..., [0, 2, 3]], probs[0][..., [0, 1, 2]])  # "a", "ring", the end


# ---------------------------------------------------------------- windows of single words


def test_a_single_word_may_have_a_separate_window():
    bound = Replace({"default": 0.5, "star": (0.25, 0.75)}, 0.0).bind(
        [tokens("a red ring"), tokens("a red star")], SITES, 4
    )
    at = [bound.control_at(step / 8) for step in range(8)]
    assert [bool(c and c.injected[0, 2]) for c in at] == [
        False,
        False,
        True,
        True,
        True,
        True,
        False,
        False,
    ]
    assert [bool(c and c.injected[0, 1]) for c in at] == [
        True,
        True,
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert at[6] is None


def test_words_without_a_window_are_not_injected_where_no_default_is_given():
    bound = Replace({"star": 1.0}, 0.0).bind([tokens("a ring"), tokens("a star")], SITES, 3)
    assert bound.control_at(0.0).injected.tolist() == [[False, True, False]]


def test_a_window_of_an_unknown_word_is_an_error_that_lists_the_words():
    with pytest.raises(
        ValueError, match="no word 'circle' in 'a star'; its words are 0 'a', 1 'star'"
    ):
        Replace({"circle": 0.5}).bind([tokens("a ring"), tokens("a star")], SITES, 3)


# ---------------------------------------------------------------- weights


def scaled(edit, source, *targets):
    prompts = [tokens(p) for p in (source, *targets)]
    n = max(len(p.ids) for p in prompts)
    return edit.bind(prompts, SITES, n).control_at(0.6).equalizer.tolist()


def test_every_piece_of_every_such_word_is_scaled_and_nothing_else():
    assert scaled(Reweight({"crimson": -1.5}), *["a cr-im-son ring and a crimson star"] * 2) == [
        [1, -1.5, -1.5, -1.5, 1, 1, 1, -1.5, 1, 1]
    ]
    assert scaled(Reweight({1: 2}), *["red red ring"] * 2) == [[1, 2, 1, 1]]
    assert scaled(Reweight({"Red": 2, "ring": 0}), *["a red ring"] * 2) == [[1, 2, 0, 1]]
    assert scaled(Reweight({"red": [0, 2]}), *["a red ring"] * 3) == [[1, 0, 1, 1], [1, 2, 1, 1]]


def test_the_source_s_columns_are_scaled_and_not_renormalised():
    probs = torch.rand(2, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    out = (
        Reweight({"ring": -2})
        .bind([tokens("red ring")] * 2, SITES, 3)
        .control_at(0.6)
        .modify_probs(SITES[0], probs, 3)
    )
    assert torch.equal(out[0], probs[0])
    assert torch.allclose(out[1], probs[0] * torch.tensor([1.0, -2.0, 1.0]))


def test_weights_act_only_in_their_window():
    bound = Chain(Reweight({"ring": 2}, steps=(0.5, 1.0)), Refine(0.0, 0.0)).bind(
        [tokens("red ring")] * 2, SITES, 3
    )
    assert [
        None if (c := bound.control_at(step / 4)) is None else c.equalizer[0, 1].item()
        for step in range(4)
    ] == [None, None, 2, 2]


def test_a_chain_in_a_chain_stands_for_its_edits():
    nested = Chain(Chain(Replace(), Chain(Reweight({"red": 2.0}))), LocalBlend("circle"))
    assert nested == Chain(Replace(), Reweight({"red": 2.0}), LocalBlend("circle"))


def test_edits_may_be_chained_in_any_order():
    prompts, probs = (
        [tokens("a red ring"), tokens("a red star")],
        torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(0)),
    )
    edits = (
        Replace(1.0, 0.0),
        Reweight({"red": 2}),
        Reweight({"star": 0.5}),
    )
    one, other = (
        Chain(*e).bind(prompts, SITES, 4).control_at(0.0).modify_probs(SITES[0], probs, 4)
        for e in (edits, edits[::-1])
    )
    assert torch.equal(one, other)
    assert torch.allclose(one[1], probs[0] * torch.tensor([1, 2, 0.5, 1]))


def test_a_weight_of_one_scales_nothing():
    assert torch.equal(
        Reweight({"ring": 1}).bind([tokens("red ring")] * 2, SITES, 3).control_at(0.6).equalizer,
        torch.ones(1, 3),
    )


@pytest.mark.parametrize(
    "edit, targets, message",
    [
        (lambda: Reweight({"blue": 2}), ["a red ring"], "no word 'blue' in 'a red ring'"),
        (lambda: Reweight({7: 2}), ["a red ring"], "no word 7 in 'a red ring'"),
        (
            lambda: Reweight({"red": 3}),
            ["a red ring"],
            "weight 3 of 'red': expected numbers from -2 to 2",
        ),
        (lambda: Reweight({"red": [1, -2.5]}), ["a red ring"], r"weight \[1, -2.5\] of 'red'"),
        (lambda: Reweight({"red": float("nan")}), ["a red ring"], "weight nan of 'red'"),
        (lambda: Reweight({}), ["a red ring"], r"needs weights, for example"),
        (lambda: Reweight({"red": [1, 2]}), ["a red ring"], "2 weights of 'red' for 1 targets"),
        (
            lambda: Reweight({"red": 2}),
            ["a red star"],
            r"Reweight alone needs the same prompt again, but 'a red ring' became 'a red star': "
            r"add a Replace\(\) or Refine\(\)",
        ),
        (lambda: Chain(Replace(), Refine()), ["a red star"], "at most one Replace or Refine"),
        (lambda: Chain(), ["a red star"], "at most one Replace or Refine"),
        (lambda: Chain(Replace(), 0.5), ["a red star"], "at most one Replace or Refine"),
    ],
)
def test_what_an_edit_cannot_do_is_an_error_that_says_so(edit, targets, message):
    with pytest.raises(ValueError, match=message):
        edit().bind([tokens("a red ring"), *map(tokens, targets)], SITES, 4)


# ---------------------------------------------------------------- identities, in float64


@pytest.fixture(scope="module")
def exact_pipe(tiny_pipe):
    from copy import deepcopy

    pipe = deepcopy(tiny_pipe)
    pipe.stages["base"].double()
    return pipe


EXACT = {"seed": 1, "stages": ("base",), "num_inference_steps": 5} | QUIET
OFF = {"cross_replace_steps": 0.0, "self_replace_steps": 0.0}


def generated(pipe, prompts, edit=None, **options):
    return pipe(prompts, edit=edit, **EXACT | options).stages["base"]


def test_the_same_prompt_twice_is_the_same_image_whatever_is_injected(exact_pipe):
    source, target = generated(exact_pipe, [SOURCE, SOURCE], Refine(1.0, 1.0))
    assert (source - target).abs().max() < 1e-9


def test_a_weight_of_one_leaves_the_source(exact_pipe):
    source, target = generated(exact_pipe, [SOURCE, SOURCE], Reweight({"red": 1}))
    assert (source - target).abs().max() < 1e-9


@pytest.mark.parametrize(
    "edit",
    [Refine(**OFF), Chain(Refine(**OFF), Reweight({"red": 1}))],
    ids=["refine", "with a weight of 1"],
)
def test_an_empty_window_leaves_the_plain_target(exact_pipe, edit):
    target = SOURCE.replace("red", "large red")
    assert torch.equal(
        generated(exact_pipe, [SOURCE, target], edit), generated(exact_pipe, [SOURCE, target])
    )


@pytest.mark.parametrize(
    "edit, target",
    [
        (Refine(), SOURCE.replace("red", "large red")),
        (Reweight({"red": 2}), SOURCE),
        (Chain(Replace(), Reweight({"star": -1})), TARGET),
    ],
    ids=["refine", "reweight", "chain"],
)
def test_the_edits_change_the_target_and_leave_the_source(exact_pipe, edit, target):
    edited, plain = (
        generated(exact_pipe, [SOURCE, target], edit),
        generated(exact_pipe, [SOURCE, target]),
    )
    assert (edited[0] - plain[0]).abs().max() < 1e-9 and (edited[1] - plain[1]).abs().max() > 1e-4


def test_a_stronger_weight_moves_the_image_further(exact_pipe):
    source, *targets = generated(exact_pipe, [SOURCE] * 5, Reweight({"red": [1, 1.25, 1.5, 2]}))
    moved = [(t - source).square().mean().item() for t in targets]
    assert moved == sorted(moved) and moved[0] < 1e-15 < moved[1]


# ---------------------------------------------------------------- blending by attention

PLACES = [
    AttentionSite("up.cross", "up", "cross", 2),
    AttentionSite("mid.cross", "mid", "cross", 1),
]
AT_ONCE = {"steps": (0.0, 1.0)}


def attention_mask(bound, done, **places):
    """Pass attention on a 2 x 2 grid to a bound edit. `places` holds for each word the cell at
    which it is attended to, one for each row of the batch.
    """
    probs = torch.zeros(2, 1, 4, 3)
    for row in range(2):
        for column, word in enumerate(("a", "ring")):
            probs[row, 0, places[word][row], column] = 1
    bound.control_at(done).modify_probs(PLACES[0], probs, 3)


def test_images_differ_only_where_source_or_target_attend_to_the_words(monkeypatch):
    # growing the mask would cover the whole 2 x 2 grid
    monkeypatch.setattr("imagen_mini.editing.blending.dilate", lambda heat, *_: heat)
    bound = LocalBlend("ring", **AT_ONCE).bind([tokens("a ring"), tokens("a ring")], PLACES, 3)
    attention_mask(bound, 0.0, a=(3, 3), ring=(0, 1))
    x_0_hat = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    blended = bound.after_denoising(x_0_hat, 0.0)
    assert torch.equal(blended[0], x_0_hat[0])
    # cells 0 and 1: the upper half
    assert blended[1, 0].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    bound = LocalBlend("ring", exclude="a", **AT_ONCE).bind(
        [tokens("a ring"), tokens("a ring")], PLACES, 3
    )
    attention_mask(bound, 0.0, a=(1, 3), ring=(0, 1))
    assert bound.after_denoising(x_0_hat, 0.0)[1, 0].tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize(
    "blend",
    [
        LocalBlend("ring", "star", "disc", **AT_ONCE),
        LocalBlend(["ring"], ["star"], ["disc"], **AT_ONCE),
        LocalBlend("ring", "star", ["disc"], **AT_ONCE),
    ],
)
def test_each_of_several_targets_has_a_word_of_its_own(monkeypatch, blend):
    """As in the code of Prompt-to-Prompt: the word of a target counts in its own row alone."""
    monkeypatch.setattr("imagen_mini.editing.blending.dilate", lambda heat, *_: heat)
    prompts = [tokens("a ring"), tokens("a star"), tokens("a disc")]
    bound = blend.bind(prompts, PLACES, 3)
    probs = torch.zeros(3, 1, 4, 3)
    for row, cell in enumerate((0, 1, 2)):
        probs[row, 0, cell, 1] = 1  # the second word
        probs[row, 0, 3, 0] = 1  # "a"
    bound.control_at(0.0).modify_probs(PLACES[0], probs, 3)
    x_0_hat = torch.stack([torch.full((3, 2, 2), float(row)) for row in range(3)])
    _, first, second = bound.after_denoising(x_0_hat, 0.0)[:, 0].tolist()
    assert first == [[1, 1], [0, 0]]  # where the source's or its own word is attended to
    assert second == [[2, 0], [2, 0]]


def test_words_of_one_prompt_are_not_looked_for_in_another(monkeypatch):
    monkeypatch.setattr("imagen_mini.editing.blending.dilate", lambda heat, *_: heat)
    blend = LocalBlend([], ["ring"], exclude=["a", []], **AT_ONCE)
    bound = blend.bind([tokens("a ring"), tokens("a ring")], PLACES, 3)
    attention_mask(bound, 0.0, a=(1, 2), ring=(0, 2))
    x_0_hat = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    # the target's "ring" at cell 2, although its "a" is there, and not the source's at cell 0
    assert bound.after_denoising(x_0_hat, 0.0)[1, 0].tolist() == [[0, 0], [1, 0]]


@pytest.fixture
def blended():
    """A function that passes attention to a LocalBlend of "ring" at one cell of an 8 x 8 grid, row
    3 and column 3, and returns the blend of a black source and a white target.
    """

    def blended(done, **options):
        site = AttentionSite("up.cross", "up", "cross", 8)
        bound = LocalBlend("ring", **options).bind([tokens("a ring"), tokens("a ring")], [site], 3)
        probs = torch.zeros(2, 1, 64, 3)
        probs[:, :, 27, 1] = 1
        bound.control_at(done).modify_probs(site, probs, 3)
        x_0_hat = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
        return bound.after_denoising(x_0_hat, done)[1, 0]

    return blended


def test_masks_are_grown_by_one_grid_cell(blended):
    image = blended(0.0, **AT_ONCE)
    assert image.sum() == 9 and image[2:5, 2:5].all()


@pytest.mark.parametrize("done, blends", [(0.4, False), (0.5, True), (0.7, True), (0.75, False)])
def test_images_are_blended_only_in_the_window(blended, done, blends):
    assert blended(done, steps=(0.5, 0.75)).sum() == (9 if blends else 64)


def test_blended_images_equal_the_source_where_no_word_is_attended_to(exact_pipe):
    """At a threshold that only the highest cells reach, part of the image is the source's to the
    last bit; with this edit alone, and with others.
    """
    blend = LocalBlend("circle", "star", threshold=0.999, **AT_ONCE)
    for edit in (
        blend,
        Chain(Replace(0.5, 0.0), blend),
        Chain(PromptSwitching(0.8), Replace(1.0), Reweight({"red": 2}), blend),
    ):
        source, target = generated(exact_pipe, [SOURCE, TARGET], edit)
        same = (source == target).all(0).float().mean()
        assert 0 < same < 1, same
    source, plain = generated(exact_pipe, [SOURCE, TARGET])
    assert not (source == plain).all(0).any()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LocalBlend(), "needs the words"),
        (lambda: LocalBlend("ring", threshold=1.0), "threshold 1.0"),
        (lambda: LocalBlend("ring", steps=(0.1, 0.2, 0.3)), r"steps=\(0.1, 0.2, 0.3\): expected"),
        (lambda: LocalBlend("ring", steps="0.5"), "steps='0.5': expected"),
        (lambda: Replace(cross_replace_steps=float("nan")), "cross_replace_steps=nan: expected"),
        (lambda: LocalBlend("ring", steps=1.5), "steps=1.5"),
        (lambda: LocalBlend("star").bind([tokens("a ring")] * 2, PLACES, 3), "no word 'star'"),
        (
            lambda: LocalBlend(["ring"], ["star"]).bind([tokens("a ring")] * 2, PLACES, 3),
            "no word 'star' in 'a ring'",
        ),
        (
            lambda: LocalBlend(["ring"], ["ring"]).bind([tokens("a ring")] * 3, PLACES, 3),
            "words for 2 prompts, but there are 3",
        ),
        (
            lambda: LocalBlend("star").bind(
                [tokens("a ring"), tokens("a star"), tokens("a disc")], PLACES, 3
            ),
            "neither the source 'a ring' nor the target 'a disc' has one of 'star'",
        ),
        (
            lambda: LocalBlend("ring", exclude="star").bind([tokens("a ring")] * 2, PLACES, 3),
            "no word 'star'",
        ),
        (
            lambda: LocalBlend("ring", size=16).bind([tokens("a ring")] * 2, PLACES, 3),
            "grids of 1, 2; pass one",
        ),
        (
            lambda: Chain(LocalBlend("ring"), LocalBlend("a")).bind(
                [tokens("a ring")] * 2, PLACES, 3
            ),
            "at most one LocalBlend",
        ),
    ],
)
def test_what_cannot_be_blended_is_an_error_that_says_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- blending by disagreement


def disagreeing(blend, *parsed_scenes, source=None):
    """A bound DiffEditMask that was given a source, and x_0_hat of it by source and target prompt,
    one pair for each noise.
    """
    bound = Chain(Replace(), blend).bind([tokens("a ring"), tokens("a star")], SITES, 3)
    assert (
        bound.needs_source
        and not Replace().bind([tokens("a ring"), tokens("a star")], SITES, 3).needs_source
    )
    bound.set_source(
        torch.zeros(1, 3, 16, 16) if source is None else source, lambda t, i: parsed_scenes[i]
    )
    return bound


def parsed(*places, by=1.0):
    """x_0_hat of a source of 16 x 16 pixels by two prompts: the second differs at these pixels, in
    one channel.
    """
    x_0_hat = torch.zeros(2, 3, 16, 16)
    for y, x in places:
        x_0_hat[1, 1, y, x] = by
    return x_0_hat


def changed(bound, done=0.0):
    """The pixels of a white target in a black source, as (top, bottom, left, right), and their
    number.
    """
    y, x = torch.where(
        bound.after_denoising(torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)]), done)[
            1, 0
        ]
        == 1
    )
    return (
        (y.min().item(), y.max().item(), x.min().item(), x.max().item(), len(y)) if len(y) else None
    )


def test_the_target_changes_where_the_prompts_disagree_and_in_a_margin_around_it():
    at_once = DiffEditMask(grow=1, noises=1)
    # smoothed by one pixel, grown by one
    assert changed(disagreeing(at_once, parsed((8, 8)))) == (6, 10, 6, 10, 25)
    assert changed(disagreeing(DiffEditMask(grow=2, noises=1), parsed((8, 8)))) == (
        5,
        11,
        5,
        11,
        49,
    )
    # the gap between is closed
    assert changed(disagreeing(at_once, parsed((8, 5), (8, 11)))) == (6, 10, 3, 13, 55)
    weak = parsed((8, 8)) + parsed((2, 2), by=0.2)
    # too small relative to the largest
    assert changed(disagreeing(at_once, weak)) == (6, 10, 6, 10, 25)
    assert (
        changed(
            disagreeing(
                DiffEditMask(grow=1, noises=2), parsed((8, 8)), parsed((8, 8), (2, 2), by=0.6)
            )
        )
        is not None
    )


def test_differences_are_means_over_noises():
    bound = disagreeing(
        DiffEditMask(grow=0, noises=2, threshold=0.4),
        parsed((12, 12)) + parsed((4, 4), by=0.9),
        parsed((12, 12)) - parsed((4, 4), by=0.2),
    )
    assert changed(bound)[:4] == (3, 13, 3, 13)  # 1 and (0.9 + 0.2) / 2
    bound = disagreeing(
        DiffEditMask(grow=0, noises=2, threshold=0.4),
        parsed((12, 12)) + parsed((4, 4), by=0.5),
        parsed((12, 12)),
    )
    assert changed(bound) == (11, 13, 11, 13, 9)


def test_outside_of_the_mask_the_target_is_the_finished_source_in_the_window():
    source = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    bound = disagreeing(
        DiffEditMask(grow=0, noises=1, steps=(0.5, 1.0)), parsed((8, 8)), source=source
    )
    x_0_hat = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    assert torch.equal(bound.after_denoising(x_0_hat, 0.2), x_0_hat)
    blended = bound.after_denoising(x_0_hat, 0.6)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[7:10, 7:10] = True
    assert torch.equal(blended[0], x_0_hat[0]) and torch.equal(
        blended[1], torch.where(inside, x_0_hat[1], source[0])
    )


@pytest.mark.parametrize("options", [{}, {"negative_prompt": "a blue ring"}])
def test_with_a_diff_blend_the_source_is_unchanged_and_part_of_the_target_equals_it(
    exact_pipe, options
):
    source = generated(exact_pipe, [SOURCE], **options)[0]
    edited = generated(
        exact_pipe,
        [SOURCE, TARGET],
        Chain(Replace(), DiffEditMask(threshold=0.9, grow=0)),
        **options,
    )
    assert (edited[0] - source).abs().max() < 1e-9
    same = (edited[1] - edited[0]).abs().amax(0) < 1e-9
    assert 0.1 < same.double().mean() < 1
    assert (
        generated(
            exact_pipe,
            [SOURCE, SOURCE],
            Chain(Refine(), DiffEditMask()),
            **options,
        )[1]
        - source
    ).abs().max() < 1e-9


def test_super_resolution_may_be_edited_with_a_diff_blend(tiny_pipe):
    options = {"edit_stages": ("sr_256",), "seed": 2} | QUIET
    edited = tiny_pipe([SOURCE, TARGET], edit=Chain(Replace(), DiffEditMask()), **options).images
    assert edited[1].shape == (3, 256, 256) and torch.isfinite(edited[1]).all()


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"at": 0.0},
        {"at": 1.0},
        {"noises": 0},
        {"grow": -1},
        {"steps": 1.5},
    ],
)
def test_a_diff_blend_out_of_range_is_an_error(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*expected"):
        DiffEditMask(**options)


def test_weights_and_a_mask_of_where_the_prompts_disagree_need_prompts_that_do():
    same = [tokens("a red ring"), tokens("a red ring")]
    with pytest.raises(ValueError, match="both read 'a red ring'.*take LocalBlend"):
        Chain(Reweight({"red": 2}), DiffEditMask()).bind(same, SITES, 4)
    Chain(Reweight({"red": 2}), LocalBlend("ring")).bind(same, SITES, 4)


def test_two_blends_are_an_error():
    with pytest.raises(ValueError, match="at most one LocalBlend or DiffEditMask"):
        Chain(Replace(), LocalBlend("ring"), DiffEditMask()).bind(
            [tokens("a ring"), tokens("a star")], SITES, 3
        )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Reweight("red"), "weights 'red'; expected a dict"),
        (lambda: Reweight({"red": "2"}), "weight of 'red': expected numbers; got '2'"),
        (lambda: LocalBlend("ring", threshold="0.3"), "threshold: expected a number"),
        (lambda: LocalBlend("ring", 3), "words has 3"),
        (lambda: DiffEditMask(noises=2.5), "noises: expected an integer"),
    ],
)
def test_arguments_of_another_type_are_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()
