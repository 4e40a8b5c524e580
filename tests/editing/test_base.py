"""A new edit is two small classes: one written here goes through the pipeline as the others do."""

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
    """The targets read the source's values; where they attend to stays their own."""

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

    def control_at(self, t: float) -> AttentionControl | None:
        return SharedValues() if t > self.until else None

    def after_denoising(self, x_0_hat: Tensor, t: float) -> Tensor:
        kept = x_0_hat.clone()
        half = x_0_hat.shape[-2] // 2
        kept[1:, :, :half] = x_0_hat[:1, :, :half]
        return kept


@pytest.fixture(scope="module")
def exact_pipe(tiny_pipe):
    from copy import deepcopy

    pipe = deepcopy(tiny_pipe)
    pipe.stages["base"].double()
    return pipe


def test_a_new_edit_goes_through_the_pipeline(exact_pipe):
    edited = exact_pipe([SOURCE, TARGET], edit=KeepTop(), **EXACT).stages["base"]
    plain = exact_pipe([SOURCE, TARGET], **EXACT).stages["base"]
    half = edited.shape[-2] // 2
    assert (edited[0] - plain[0]).abs().max() < 1e-9  # the source is not touched
    assert torch.equal(edited[1, :, :half], edited[0, :, :half])
    assert (edited[1, :, half:] - edited[0, :, half:]).abs().max() > 1e-4
    assert (edited[1, :, half:] - plain[1, :, half:]).abs().max() > 1e-4


def test_its_control_is_active_when_it_says_so(exact_pipe):
    early, late = (
        exact_pipe([SOURCE, TARGET], edit=KeepTop(until), **EXACT).stages["base"]
        for until in (1.0, 0.0)
    )
    assert (early[0] - late[0]).abs().max() < 1e-9
    assert (early[1] - late[1]).abs().max() > 1e-4  # never, or in all steps


def test_its_attention_is_recorded_as_that_of_any_edit(exact_pipe):
    store = AttentionStore()
    exact_pipe([SOURCE, TARGET], edit=KeepTop(), attention_store=store, **EXACT)
    steps = exact_pipe.stages["base"].config.num_inference_steps
    assert len(store.times) == steps  # it changes no text, so no step is left out
    assert store.word_map("star", row=1).isfinite().all()


def test_it_says_what_it_cannot_be_bound_to(exact_pipe):
    with pytest.raises(ValueError, match="at least one target prompt; got 1"):
        exact_pipe(SOURCE, edit=KeepTop(), **EXACT)


def test_an_edit_that_does_nothing_changes_nothing(exact_pipe):
    class Nothing(Edit):
        def bind(self, tokens, sites, batch_tokens):
            return BoundEdit()

    assert torch.equal(
        exact_pipe([SOURCE, TARGET], edit=Nothing(), **EXACT).stages["base"],
        exact_pipe([SOURCE, TARGET], **EXACT).stages["base"],
    )


def test_an_edit_without_bind_cannot_be_made():
    class Unfinished(Edit):
        pass

    with pytest.raises(TypeError, match="bind"):
        Unfinished()
