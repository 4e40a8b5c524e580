"""Tests that say when an answer cannot be right. Passing them is necessary, and not enough: the
grader compares values.

    python -m pytest tests/test_hw5.py
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from imagen_mini.editing.alignment import _mapper, common_words
from imagen_mini.editing.blending import LocalBlend
from imagen_mini.editing.controls import AttentionInjectionControl
from imagen_mini.editing.prompt_to_prompt import BoundPromptToPrompt, Replace, Reweight
from imagen_mini.models.control import AttentionSite
from imagen_mini.text.encoder import Tokens

SWAP = "a red ring", "a red rhombus"


def _tokens(text: str) -> Tokens:
    """A prompt in which "rhombus" has two pieces."""
    pieces, of_word = [], []
    for number, word in enumerate(text.split()):
        cut = ["r", "hombus"] if word == "rhombus" else [word]
        pieces, of_word = pieces + cut, of_word + [number] * len(cut)
    ids = tuple(range(len(pieces) + 1))
    return Tokens(ids, (*pieces, "</s>"), (*of_word, None), tuple(text.split()))


def _control(**more) -> AttentionInjectionControl:
    values = {
        "mappers": torch.eye(4)[None],
        "injected": torch.ones(1, 4, dtype=torch.bool),
        "equalizer": torch.ones(1, 4),
        "inject_cross": True,
        "inject_self": True,
        "self_size": 8,
    }
    return AttentionInjectionControl(**(values | more))


def test_a_word_keeps_its_attention_however_many_pieces_it_has():
    pairs = [(0, 0), (1, 1), (2, 2)]
    for source, target in (SWAP, SWAP[::-1]):
        mapper = _mapper(_tokens(source), _tokens(target), pairs)
        assert mapper.shape == (len(_tokens(source).ids), len(_tokens(target).ids))
        found = mapper.sum(1).tolist()
        assert found == pytest.approx([1.0] * len(mapper)), f"sums of the rows: {found}"


def test_words_with_equally_many_pieces_correspond_piece_by_piece():
    tokens = _tokens("a rhombus")
    assert _mapper(tokens, tokens, [(0, 0), (1, 1)]).tolist() == torch.eye(4).tolist()


def test_added_words_have_no_counterpart():
    pairs = common_words(_tokens("a red ring"), _tokens("a large red ring"))
    assert [tuple(p) for p in pairs] == [(0, 0), (1, 2), (2, 3)]
    capital = common_words(_tokens("A red ring"), _tokens("a red ring"))
    assert len(capital) == 3, "a capital letter makes no other word"


def test_self_attention_is_injected_on_small_grids():
    sites = [AttentionSite("x", "up", "self", size) for size in (8, 16)]
    assert [bool(_control().needs_probs(s)) for s in sites] == [True, False]
    assert not _control(inject_self=False).needs_probs(sites[0])


@pytest.mark.parametrize("kind", ["cross", "hybrid"])
def test_attention_to_words_is_controlled_on_every_grid(kind):
    site = AttentionSite("x", "up", kind, 64)
    assert _control().needs_probs(site) and not _control(inject_cross=False).needs_probs(site)


def test_the_source_stays_and_the_target_takes_its_columns():
    probs = torch.rand(2, 1, 3, 4).softmax(-1)
    site = AttentionSite("x", "up", "cross", 4)
    found = _control().modify_probs(site, probs, 4)
    assert torch.allclose(found[0], probs[0]) and torch.allclose(found[1], probs[0])
    none = torch.zeros(1, 4, dtype=torch.bool)
    assert torch.allclose(_control(injected=none).modify_probs(site, probs, 4), probs)
    twice = _control(injected=none, equalizer=torch.full((1, 4), 2.0))
    found = twice.modify_probs(site, probs, 4)
    assert torch.allclose(found[0], probs[0])
    assert torch.allclose(found[1], 2 * probs[1])


def test_a_mapper_moves_columns_of_the_source_and_each_target_has_its_own():
    """Column 0 goes to column 1 in one target, and to column 2 in the other one."""
    probs = torch.rand(3, 1, 2, 3, dtype=torch.float64).softmax(-1)
    mappers = torch.zeros(2, 3, 3)
    mappers[0, 0, 1] = mappers[1, 0, 2] = 1
    injected, equalizer = mappers.sum(1) > 0, torch.full((2, 3), 3.0)
    control = _control(mappers=mappers, injected=injected, equalizer=equalizer)
    before = probs.clone()
    found = control.modify_probs(AttentionSite("x", "up", "cross", 4), probs, 3)
    assert torch.equal(probs, before), "probs were changed in place"
    expected = 3 * probs.clone()
    expected[0] = probs[0]
    expected[1, ..., 1] = expected[2, ..., 2] = 3 * probs[0, ..., 0]
    assert torch.allclose(found, expected)


def test_pixels_are_the_sources_in_self_attention_and_the_targets_own_in_hybrid_attention():
    probs = torch.rand(2, 1, 6, 6).softmax(-1)
    own = _control().modify_probs(AttentionSite("x", "up", "self", 4), probs, 0)
    assert torch.allclose(own[1], probs[0])
    mixed = _control().modify_probs(AttentionSite("x", "up", "hybrid", 4), probs, 4)
    assert torch.allclose(mixed[1, ..., :4], probs[0, ..., :4])
    assert torch.allclose(mixed[1, ..., 4:], probs[1, ..., 4:])


def test_a_weight_scales_all_pieces_of_its_word():
    found = Reweight({"rhombus": 0.5}).equalizer([_tokens("a red rhombus")], 7)
    assert found.tolist() == [[1, 1, 0.5, 0.5, 1, 1, 1]]
    both = Reweight({"red": 2.0, 1: 0.5}).equalizer([_tokens("a red ring")], 4)
    assert both.tolist() == [[1, 1, 1, 1]], "factors of one word are multiplied"
    with pytest.raises(ValueError):
        Reweight({"rhombus": [1.0, 2.0]}).equalizer([_tokens("a red rhombus")], 7)


def test_a_control_exists_only_where_something_is_to_be_done():
    windows = torch.tensor([[[0.0, 0.0, 0.0]], [[0.5, 0.5, 0.0]]])
    mapper = torch.eye(3)[None].clone()
    mapper[0, :, 1] = 0
    bound = BoundPromptToPrompt(Replace(0.5, 0.2), mapper, windows, [])
    control = bound.control_at(0.4)
    assert control.injected.tolist() == [[True, False, False]] and not control.inject_self
    assert bound.control_at(0.1).inject_self and bound.control_at(0.6) is None


def test_every_reweight_counts_in_its_own_window():
    none, factor = torch.zeros(2, 1, 2), torch.tensor([[1.0, 3.0]])
    weights = [((0.0, 0.5), factor), ((0.2, 1.0), factor)]
    bound = BoundPromptToPrompt(Replace(0.0, 0.0), torch.eye(2)[None], none, weights)
    found = [bound.control_at(done).equalizer[0, 1].item() for done in (0.1, 0.3, 0.7)]
    assert found == [3, 9, 3]
    assert bound.control_at(0.3).inject_cross and not bound.control_at(0.3).injected.any()


def test_the_mask_is_around_the_places_of_the_words():
    heat = torch.zeros(5, 6, 6)
    heat[2, 1, 1] = 1.0  # "ring" and the first piece of "rhombus"
    heat[3, 4, 4] = 1.0  # the second piece of "rhombus"
    tokens = [_tokens(text) for text in SWAP]
    maps = SimpleNamespace(tokens=tokens, of_tokens=lambda i, row=0: heat[list(i)].sum(0))
    mask = LocalBlend("ring", "rhombus").mask(maps, 1)
    assert mask.sum() == 18 and mask[0, 0] and mask[5, 5] and not mask[0, 5]
    assert not LocalBlend("ring", "rhombus", exclude="ring").mask(maps, 1)[1, 1]


def test_a_mask_belongs_to_one_target_and_does_not_depend_on_how_much_is_attended():
    """Each target has a place of its own, with maps of another size."""
    texts = ("a red ring", "a red star", "a red cross")
    heat = torch.zeros(3, 9, 9)
    for row, at in enumerate((1, 4, 7)):
        heat[row, at, at] = 0.01 * 10**row
    maps = SimpleNamespace(
        tokens=[_tokens(text) for text in texts],
        of_tokens=lambda i, row=0: heat[row] * (2 in list(i)),
    )
    blend = LocalBlend("ring", "star", "cross")
    for target, at in ((1, 4), (2, 7)):
        mask = blend.mask(maps, target)
        assert mask.sum() == 18 and mask[1, 1] and mask[at, at]
