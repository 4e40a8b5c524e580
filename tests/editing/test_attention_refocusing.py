"""Attention refocusing: both losses on maps made by hand, where they are least, and where their
gradient leads; and through a network.
"""

import copy
import math

import pytest
import torch

from imagen_mini.editing.attention_guidance import attention_gradient, descend_attention
from imagen_mini.editing.attention_refocusing import (
    DifferentiableRefocusMaps,
    RefocusMaps,
    cross_refocus_loss,
    refocus_energy,
    refocus_recorder,
    self_refocus_loss,
)
from imagen_mini.models.control import AttentionSite
from imagen_mini.utils.rng import randn

T = torch.tensor(0.7)
SIZE = 8
LEFT, RIGHT = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)
BOXES = [{(0,): LEFT, (1,): RIGHT}]
PROMPTS = ["a red circle and a blue square", "a star"]
GRID = 4  # of the tiny cascade's attention


def word_maps(**where):
    """Maps [1, 8, 8, 3] of two words and a third one that gets the rest. Each word has the share 1
    in the blocks [rows, columns] given for it.
    """
    maps = torch.zeros(1, SIZE, SIZE, 3)
    for name, blocks in where.items():
        for rows, columns, share in blocks:
            maps[0, rows, columns, int(name[-1])] = share
    maps[..., 2] = 1 - maps[..., :2].sum(-1)
    return maps


FIRST, LAST = slice(0, 4), slice(4, 8)
GOOD = {"word0": [(FIRST, FIRST, 1.0)], "word1": [(LAST, LAST, 1.0)]}


# ---------------------------------------------------------------- words


def test_words_that_fill_their_boxes_and_nothing_else_have_nearly_no_loss():
    """What is left is the seam, where the filter of 3 x 3 carries a share over to neighbours. A
    place away from it, nothing is left.
    """
    loss = cross_refocus_loss(BOXES, [range(3)])
    over = math.exp(-2) / (1 + 2 * math.exp(-2))  # to the place beside; over^2 across the corner
    assert loss(word_maps(**GOOD)).item() == pytest.approx(over / 2 + over**2, abs=1e-5)
    full = {"word0": [(slice(0, 3), slice(0, 3), 1.0)], "word1": [(slice(5, 8), slice(5, 8), 1.0)]}
    assert loss(word_maps(**full)).item() == pytest.approx(0, abs=1e-6)


def test_the_terms_of_the_loss_of_words_have_their_weights():
    """Word 0 in its box; then also in the other one's; then on the background as well."""
    loss = cross_refocus_loss([{(0,): LEFT, (1,): RIGHT}], [range(3)])
    own, corner = (slice(0, 3), slice(0, 3)), (slice(5, 8), slice(5, 8))
    apart = (slice(0, 3), slice(5, 8))
    value = lambda *blocks: loss(word_maps(word0=[(*b, s) for b, s in blocks])).item()
    nothing = value()
    assert nothing == pytest.approx(1.0)  # each word has 1 - 0, halved by the mean of two
    assert value((own, 1.0)) == pytest.approx(0.5)
    assert value((own, 0.4)) == pytest.approx(0.8)
    assert value((own, 1.0), (corner, 0.6)) == pytest.approx(0.5 + 0.6 / 2)
    assert value((own, 1.0), (apart, 0.6)) == pytest.approx(0.5 + 0.6 / 4)
    assert value((corner, 1.0)) == pytest.approx(1.5)


def test_special_tokens_do_not_count_and_a_prompt_without_boxes_has_no_loss():
    maps = 0.1 * word_maps(word0=[(slice(0, 3), slice(0, 3), 1.0)])
    ends = torch.full((1, SIZE, SIZE, 1), 0.9)
    both = torch.cat([maps, ends], dim=-1).repeat(2, 1, 1, 1)
    found = cross_refocus_loss([{(0,): LEFT}, {}], [range(3), range(3)])(both)
    assert found.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_overlapping_boxes_share_what_they_share():
    """A place in both boxes is no place in the other one's."""
    loss = cross_refocus_loss([{(0,): (0, 0, 1, 1), (1,): (0, 0, 1, 1)}], [range(3)])
    maps = word_maps(word0=[(FIRST, slice(0, 8), 1.0)], word1=[(LAST, slice(0, 8), 1.0)])
    assert loss(maps).item() == pytest.approx(0, abs=1e-6)


def test_descending_the_loss_of_words_moves_attention_into_the_boxes():
    """From nearly even maps, by gradient steps on their logits."""
    logits = randn([0], (SIZE, SIZE, 3), "logits") * 0.1
    loss = cross_refocus_loss(BOXES, [range(3)])
    before = logits.softmax(-1)
    for _ in range(300):
        logits = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(logits.softmax(-1)).sum(), logits)
        logits = logits - 10 * gradient
    after = logits.softmax(-1).detach()
    assert loss(after).item() < 0.3 * loss(before).item()
    for word, (rows, columns) in enumerate([(FIRST, FIRST), (LAST, LAST)]):
        share = [m[0, rows, columns, word].sum() / m[0, ..., word].sum() for m in (before, after)]
        assert share[1] > share[0] + 0.2
        assert after[0, rows, columns, word].amax() > 0.9


# ---------------------------------------------------------------- pixels


def pixel_maps(to):
    """Maps [1, 8, 8, 64]: every place attends evenly to the places that `to` (row, column) -> mask
    says.
    """
    maps = torch.stack([to(i, j).float().flatten() for i in range(SIZE) for j in range(SIZE)])
    return (maps / maps.sum(-1, keepdim=True)).reshape(1, SIZE, SIZE, SIZE * SIZE)


def quarter(rows, columns):
    mask = torch.zeros(SIZE, SIZE)
    mask[rows, columns] = 1
    return mask


def test_the_loss_of_pixels_is_the_share_that_leaves_the_box():
    everywhere = pixel_maps(lambda i, j: torch.ones(SIZE, SIZE))
    own = pixel_maps(lambda i, j: quarter(FIRST if i < 4 else LAST, FIRST if j < 4 else LAST))
    away = pixel_maps(lambda i, j: quarter(LAST if i < 4 else FIRST, FIRST if j < 4 else LAST))
    loss = self_refocus_loss(BOXES)
    assert [loss(m).item() for m in (own, everywhere, away)] == pytest.approx([0, 0.75, 1])
    assert self_refocus_loss([{}])(away).item() == 0
    half = self_refocus_loss([{(0,): (0, 0, 0.5, 1)}])  # two quarters are inside then
    assert [half(m).item() for m in (own, everywhere, away)] == pytest.approx([0, 0.5, 0])


def test_only_pixels_of_a_box_have_a_gradient_and_it_leads_into_the_box():
    maps = pixel_maps(lambda i, j: torch.ones(SIZE, SIZE)).requires_grad_()
    (gradient,) = torch.autograd.grad(self_refocus_loss([{(0,): LEFT}])(maps).sum(), maps)
    inside = quarter(FIRST, FIRST).bool()
    assert gradient[0][~inside].abs().max() == 0
    of_box = gradient[0][inside]  # a row of 64 for each place of the box
    assert (of_box[:, inside.flatten()] == 0).all() and (of_box[:, ~inside.flatten()] > 0).all()


def test_a_box_without_area_is_an_error():
    for make in (lambda b: cross_refocus_loss(b, [range(1)]), self_refocus_loss):
        with pytest.raises(ValueError, match=r"box \(0, 0, 0, 1\)"):
            make([{(0,): (0, 0, 0, 1)}])


# ---------------------------------------------------------------- together, and in a network


def test_the_energy_is_the_weighted_sum():
    maps = RefocusMaps(word_maps(**GOOD), pixel_maps(lambda i, j: torch.ones(SIZE, SIZE)))
    car = cross_refocus_loss(BOXES, [range(3)])(maps.words)
    assert torch.allclose(refocus_energy(BOXES, [range(3)], 2.0)(maps), car + 1.5)
    assert torch.equal(refocus_energy(BOXES, [range(3)], 0.0)(RefocusMaps(maps.words, None)), car)


def test_of_a_hybrid_layer_the_pixels_share_is_made_to_add_up():
    control = DifferentiableRefocusMaps(2, self_size=2)
    probs = torch.tensor([0.5, 0.1, 0.2, 0.2, 0.0, 0.0]).expand(1, 2, 4, 6)
    site = AttentionSite("up0", "up", "hybrid", 2)
    assert control.needs_probs(site)
    assert torch.equal(control.modify_probs(site, probs, 2), probs)
    assert torch.allclose(control.mean()[0, 0, 0], torch.tensor([0.5, 0.1]))
    assert torch.allclose(control.mean_pixels()[0, 1, 1], torch.tensor([0.5, 0.5, 0, 0]))


@pytest.fixture(scope="module")
def stage(tiny_pipe):
    return copy.deepcopy(tiny_pipe.stages["base"]).requires_grad_(False)


@pytest.fixture(scope="module")
def denoiser(tiny_pipe, stage):
    text = tiny_pipe.text_encoder(PROMPTS)
    return lambda control: stage.denoiser(
        text, guidance_scale=1.0, threshold="none", control_at=lambda t: control
    )


def test_moves_lower_the_energy_of_a_network(tiny_pipe, denoiser):
    tokens = [tiny_pipe.text_encoder.tokenize_prompt(p) for p in PROMPTS]
    position = lambda which, word: tuple(tokens[which].positions_of_word(word))
    boxes = [{position(0, 2): LEFT, position(0, 6): RIGHT}, {position(1, 1): RIGHT}]
    energy = refocus_energy(boxes, [range(len(t.ids) - 1) for t in tokens])
    record, x = refocus_recorder(denoiser, GRID, GRID), randn([3, 4], (3, 64, 64), "x")
    maps = record(x, T)
    assert torch.allclose(maps.pixels.sum(-1), torch.ones(2, GRID, GRID), atol=1e-5)
    before, gradient = attention_gradient(record, energy, x, T)
    rate = 0.01 * (before / gradient.square().sum((1, 2, 3))).min().item()
    times = torch.linspace(1, 0, 11)
    move = descend_attention(record, energy, times, rate, repeat=3)
    assert (energy(record(move(x, 2, 0.7), T)) < before).all()


def test_a_grid_without_attention_to_pixels_is_an_error(denoiser):
    with pytest.raises(ValueError, match="no attention to pixels on a grid of 16 x 16"):
        refocus_recorder(denoiser, GRID, 16)(randn([3, 4], (3, 64, 64), "x"), T)
