"""A new edit is two small classes: edits that are defined here run through the pipeline."""

import math
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.base import BoundEdit, Edit, check_bindable
from imagen_mini.models.control import AttentionControl

SOURCE, TARGET = "a red circle above a blue square", "a red star above a blue square"
EXACT = {"seed": 1, "progress": False, "output_type": "pt", "stages": ("base",)}


@dataclass(frozen=True)
class SharedValues(AttentionControl):
    """The targets take the source's values; their attention probabilities are unchanged."""

    def modify_qkv(self, site, q, k, v):
        return (q, k, v[:1].expand_as(v)) if site.kind == "cross" else (q, k, v)


@dataclass(frozen=True)
class KeepTop(Edit):
    """Share the source's values in the first steps, and keep its upper half in all steps."""

    until: float = 0.5

    def bind(self, tokens, sites, batch_tokens):
        check_bindable(tokens, sites)
        return BoundKeepTop(self.until)


@dataclass(frozen=True)
class BoundKeepTop(BoundEdit):
    until: float

    def control_at(self, done: float) -> AttentionControl | None:
        return SharedValues() if done < self.until else None

    def after_denoising(self, x_0_hat: Tensor, done: float) -> Tensor:
        kept = x_0_hat.clone()
        half = x_0_hat.shape[-2] // 2
        kept[1:, :, :half] = x_0_hat[:1, :, :half]
        return kept


@dataclass(frozen=True)
class BlendHalfway(Edit):
    """From a share of the steps on, blend the estimate of each target halfway with the source's."""

    after: float = 0.5

    def bind(self, tokens, sites, batch_tokens):
        check_bindable(tokens, sites)
        return BoundBlendHalfway(self.after)


@dataclass(frozen=True)
class BoundBlendHalfway(BoundEdit):
    after: float

    def after_denoising(self, x_0_hat: Tensor, done: float) -> Tensor:
        if done < self.after:
            return x_0_hat
        return torch.cat([x_0_hat[:1], (x_0_hat[1:] + x_0_hat[:1]) / 2])


@pytest.fixture(scope="module")
def exact_pipe(tiny_pipe):
    pipe = deepcopy(tiny_pipe)
    pipe.stages["base"].double()
    return pipe


def estimates(pipe, **options):
    """x_0_hat of source and target [2, 3, h, w], as the sampler takes it, by time t."""
    by_time = {}
    pipe(
        [SOURCE, TARGET],
        on_step=lambda _, state: by_time.update({state.t: state.x_0_hat.clone()}),
        **EXACT,
        **options,
    )
    return by_time


# ---------------------------------------------------------------- an edit of the estimate


def test_a_new_edit_of_the_estimate_runs_through_every_stage_and_leaves_the_source(tiny_pipe):
    options = {"seed": 0, "progress": False, "output_type": "pt"}
    edited = tiny_pipe([SOURCE, TARGET], edit=BlendHalfway(), **options).stages
    plain = tiny_pipe([SOURCE, TARGET], **options).stages
    assert list(edited) == ["base", "sr_256"]
    assert all(edited[name].isfinite().all() for name in edited)
    assert torch.equal(edited["base"][0], plain["base"][0])
    assert (edited["base"][1] - plain["base"][1]).abs().max() > 1e-3


def test_an_edit_of_the_estimate_acts_in_the_steps_that_it_names(exact_pipe):
    plain, edited = estimates(exact_pipe), estimates(exact_pipe, edit=BlendHalfway())
    assert list(edited) == list(plain)
    half = math.ceil(len(plain) / 2)
    early, late = list(plain)[:half], list(plain)[half:]
    assert early and late
    # 1. In the first half of the steps no estimate changes.
    assert all(torch.equal(edited[t], plain[t]) for t in early)
    # 2. In the first step after it, both trajectories are still at the same x_t.
    source, target = plain[late[0]]
    assert torch.allclose(edited[late[0]][1], (source + target) / 2, rtol=0, atol=1e-9)
    # 3. In all steps the source is unchanged, and the target is nearer to it than without an edit.
    for t in late:
        assert torch.equal(edited[t][0], plain[t][0])
        assert (edited[t][1] - plain[t][0]).norm() < (plain[t][1] - plain[t][0]).norm()


# ---------------------------------------------------------------- an edit with a control


def test_a_new_edit_with_a_control_changes_the_target_and_leaves_the_source(exact_pipe):
    edited = exact_pipe([SOURCE, TARGET], edit=KeepTop(), **EXACT).stages["base"]
    plain = exact_pipe([SOURCE, TARGET], **EXACT).stages["base"]
    half = edited.shape[-2] // 2
    assert (edited[0] - plain[0]).abs().max() < 1e-9  # the source is unchanged
    assert torch.equal(edited[1, :, :half], edited[0, :, :half])
    assert (edited[1, :, half:] - edited[0, :, half:]).abs().max() > 1e-4
    assert (edited[1, :, half:] - plain[1, :, half:]).abs().max() > 1e-4


def test_the_control_of_a_new_edit_is_active_only_at_the_times_that_it_names(exact_pipe):
    early, late = (
        exact_pipe([SOURCE, TARGET], edit=KeepTop(until), **EXACT).stages["base"]
        for until in (1.0, 0.0)
    )
    assert (early[0] - late[0]).abs().max() < 1e-9
    assert (early[1] - late[1]).abs().max() > 1e-4  # never, or in all steps


def test_attention_is_recorded_while_a_new_edit_is_active(exact_pipe):
    store = AttentionStore()
    exact_pipe([SOURCE, TARGET], edit=KeepTop(), attention_store=store, **EXACT)
    steps = exact_pipe.stages["base"].config.num_inference_steps
    assert len(store.times) == steps  # it changes no text, so no step is left out
    assert store.word_map("star", row=1).isfinite().all()


def test_a_new_edit_without_a_target_is_an_error(exact_pipe):
    with pytest.raises(ValueError, match="at least one target prompt; got 1"):
        exact_pipe(SOURCE, edit=KeepTop(), **EXACT)


def test_an_edit_that_overrides_nothing_changes_no_image(exact_pipe):
    class Nothing(Edit):
        def bind(self, tokens, sites, batch_tokens):
            return BoundEdit()

    assert torch.equal(
        exact_pipe([SOURCE, TARGET], edit=Nothing(), **EXACT).stages["base"],
        exact_pipe([SOURCE, TARGET], **EXACT).stages["base"],
    )


def test_an_edit_without_bind_cannot_be_instantiated():
    class Unfinished(Edit):
        pass

    for unfinished in (Edit, Unfinished):
        with pytest.raises(TypeError, match="bind"):
            unfinished()
