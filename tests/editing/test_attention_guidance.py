"""Guidance by attention: maps are the network's, energies have known values, gradients are true,
and x_t moves as the papers say.
"""

import copy

import pytest
import torch

from imagen_mini.diffusion.guidance_rules import guide_by_classifier
from imagen_mini.diffusion.schedules import make_schedule
from imagen_mini.editing.attention_guidance import (
    DifferentiableMaps,
    attend_and_excite_energy,
    attention_box_energy,
    attention_gradient,
    attention_recorder,
    descend_attention,
    guide_by_attention,
    share_among_words,
    smooth_maps,
)
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.utils.rng import randn

SCHEDULE = make_schedule("cosine")
T = torch.tensor(0.7)
PROMPTS = ["a red circle and a blue square", "a star"]
GRID = 4  # of the tiny cascade's attention


@pytest.fixture(scope="module")
def stage(tiny_pipe):
    return copy.deepcopy(tiny_pipe.stages["base"]).requires_grad_(False)


@pytest.fixture(scope="module")
def text(tiny_pipe):
    return tiny_pipe.text_encoder(PROMPTS)


@pytest.fixture(scope="module")
def tokens(tiny_pipe):
    return [tiny_pipe.text_encoder.tokenize_prompt(p) for p in PROMPTS]


@pytest.fixture(scope="module")
def energy(tokens):
    words = [[2, 6], [1]]  # circle and square; star
    positions = [[t.positions_of_word(w) for w in ws] for t, ws in zip(tokens, words)]
    return attend_and_excite_energy(positions, [range(len(t.ids) - 1) for t in tokens])


def recorder(stage, text, size=GRID):
    return attention_recorder(
        lambda control: stage.denoiser(
            text, guidance_scale=1.0, threshold="none", control_at=lambda t: control
        ),
        size,
    )


def x_at(dtype=torch.float32):
    return randn([3, 4], (3, 64, 64), "x", dtype=dtype)


# ---------------------------------------------------------------- maps


def test_the_maps_are_those_that_an_attention_store_records(tiny_pipe, stage, text):
    store, seen = AttentionStore(max_size=GRID), []
    tiny_pipe(
        PROMPTS,
        seed=[3, 4],
        stages=("base",),
        num_inference_steps=1,
        attention_store=store,
        on_step=lambda name, state: seen.append(state.t),
        progress=False,
    )
    x_T = randn([3, 4], (3, 64, 64), "base", "x_T")
    maps = recorder(stage, text)(x_T, torch.tensor(seen[0]))
    expected = store.probs(GRID)
    assert torch.allclose(maps.flatten(1, 2), expected, atol=1e-5)


def test_a_grid_without_attention_is_an_error(stage, text):
    with pytest.raises(ValueError, match="no attention to words on a grid of 16 x 16"):
        recorder(stage, text, 16)(x_at(), T)


# ---------------------------------------------------------------- energies


def test_smoothing_keeps_the_sum_inside_and_a_constant():
    maps = torch.zeros(1, 6, 6, 2)
    maps[0, 3, 2, 0], maps[..., 1] = 1.0, 0.25
    smooth = smooth_maps(maps)
    assert smooth[..., 0].sum().item() == pytest.approx(1)
    centre = 1 / (1 + 2 * torch.exp(torch.tensor(-2.0))) ** 2
    assert smooth[0, 3, 2, 0].item() == pytest.approx(centre.item())
    assert torch.allclose(smooth[..., 1], maps[..., 1])


def test_shares_among_words_leave_the_end_token_and_padding_out():
    maps = torch.tensor([0.1, 0.3, 0.6, 0.0]).expand(2, 3, 3, 4)
    shares = share_among_words(maps, [range(2), range(3)])
    assert torch.allclose(shares[0, 0, 0], torch.tensor([0.25, 0.75, 0, 0]))
    assert torch.allclose(shares[1, 0, 0], torch.tensor([0.1, 0.3, 0.6, 0]))
    after_start = share_among_words(maps, [range(1, 3), [2]])  # as of CLIP and BERT
    assert torch.allclose(after_start[0, 0, 0], torch.tensor([0, 1 / 3, 2 / 3, 0]))
    assert torch.allclose(after_start[1, 0, 0], torch.tensor([0, 0, 1.0, 0]))


def test_attend_and_excite_looks_at_the_most_neglected_word():
    maps = torch.full((2, 5, 5, 3), 0.0)
    maps[..., 2] = 1.0
    maps[0, :3, :, :2] = torch.tensor([0.7, 0.1])  # word 1 gets 0.1 of 1.8 at best
    maps[0, :3, :, 2] = 0.2
    found = attend_and_excite_energy([[[0], [1]], []], [range(3), range(3)])(maps)
    assert found.tolist() == pytest.approx([0.9, 0.0], abs=0.01)
    both = attend_and_excite_energy([[[0, 1]], []], [range(3), range(3)])(maps)
    assert both[0].item() == pytest.approx(0.6, abs=0.01)


def test_the_energy_of_a_box_is_known_for_all_none_and_half():
    maps = torch.zeros(3, 4, 4, 2)
    maps[0, :2, :2, 0] = maps[1, 2:, 2:, 0] = 0.3
    maps[2, :, :, 0] = 0.1
    box = {(0,): (0.0, 0.0, 0.5, 0.5)}
    assert attention_box_energy([box] * 3)(maps).tolist() == pytest.approx([0, 1, 0.75**2])
    two = box | {(1,): (0.0, 0.0, 1.0, 1.0)}
    maps[..., 1] = 0.5
    assert attention_box_energy([two] * 3)(maps)[1].item() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"box \(0, 0, 0, 1\)"):
        attention_box_energy([{(0,): (0, 0, 0, 1)}])


# ---------------------------------------------------------------- gradients


def test_the_gradient_through_the_network_is_that_of_differences(stage, text, energy):
    exact = copy.deepcopy(stage).double()
    record, x_t = recorder(exact, text), x_at(torch.float64)
    _, gradient = attention_gradient(record, energy, x_t, T.double())
    direction = gradient / gradient.norm()
    h = 1e-5
    up, down = (energy(record(x_t + sign * h * direction, T.double())) for sign in (1, -1))
    slope = (up - down).sum().item() / (2 * h)
    assert slope == pytest.approx(gradient.norm().item(), rel=1e-4) and slope > 1e-6


@pytest.mark.parametrize("kind", ["bfloat16", "checkpointing", "trainable"])
def test_gradients_survive_bfloat16_checkpointing_and_weights_that_learn(stage, text, energy, kind):
    values, expected = attention_gradient(recorder(stage, text), energy, x_at(), T)
    other = copy.deepcopy(stage)
    if kind == "bfloat16":
        other = other.bfloat16()
    if kind == "checkpointing":
        other.net.enable_gradient_checkpointing(True)
    if kind == "trainable":
        other.requires_grad_(True)
    record = recorder(other, text)
    attention_gradient(record, energy, x_at(), T)  # a second call may not find a spent graph
    again, found = attention_gradient(record, energy, x_at(), T)
    alike = torch.nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1))
    assert alike.min() > (0.9 if kind == "bfloat16" else 0.99999)
    assert torch.allclose(again, values, atol=0.02 if kind == "bfloat16" else 1e-5)
    assert all(p.grad is None for p in other.parameters())


# ---------------------------------------------------------------- moving x_t

TIMES = torch.linspace(1, 0, 11)


def toy(x_t, t):
    """Maps [b, 2, 2, 1] that are a plain function of the first four pixels."""
    return x_t[:, 0, 0, :4].sigmoid().reshape(-1, 2, 2, 1)


def distance(maps):
    return maps.square().sum((1, 2, 3))


def test_a_move_is_the_step_of_the_paper_and_stops_halfway():
    x = randn([0, 1], (3, 4, 4), "x")
    _, gradient = attention_gradient(toy, distance, x, T)
    s = x[:, 0, 0, :4].sigmoid()
    assert torch.allclose(gradient[:, 0, 0, :4], 2 * s * s * (1 - s), atol=1e-6)
    move = descend_attention(toy, distance, TIMES, rate=3.0, until=0.5)
    assert torch.allclose(move(x, -1, 1.0), x - 3 * gradient)
    assert torch.allclose(move(x, 3, float(TIMES[4])), x - 3 * 0.8**0.5 * gradient)
    assert torch.equal(move(x, 4, float(TIMES[5])), x)
    assert torch.equal(move(x, 9, 0.0), x)


def test_refinement_goes_on_until_the_target_and_leaves_who_has_reached_it():
    x = randn([0, 1], (3, 4, 4), "x")
    x[1, 0, 0, :4] = -9.0  # there already
    move = descend_attention(toy, distance, TIMES, 1.0, targets={0.0: 0.5, 0.2: 0.1}, most=200)
    first = move(x, -1, 1.0)
    assert distance(toy(x, T))[0] > 0.5 >= distance(toy(first, T))[0] > 0.3
    assert torch.equal(first[1], x[1])
    later = move(first, 1, float(TIMES[2]))
    assert distance(toy(later, T))[0] <= 0.1
    few = descend_attention(toy, distance, TIMES, 1.0, targets={0.0: 0.0}, most=2)
    twice = descend_attention(toy, distance, TIMES, 1.0, repeat=2)
    assert torch.allclose(few(x, -1, 1.0), twice(x, -1, 1.0))


def test_moves_lower_the_energy_of_a_network(stage, text, energy):
    record, x = recorder(stage, text), x_at()
    before, gradient = attention_gradient(record, energy, x, T)
    rate = 0.01 * (before / gradient.square().sum((1, 2, 3))).min().item()
    move = descend_attention(record, energy, TIMES, rate, repeat=3)
    assert (energy(record(move(x, 2, 0.7), T)) < before).all()


def test_as_a_denoiser_it_is_a_classifier_whose_log_probability_is_minus_the_energy():
    x, plain = randn([0, 1], (3, 4, 4), "x"), lambda x_t, t: x_t * 0.5
    guided = guide_by_attention(plain, toy, distance, 0.7, SCHEDULE)(x, T)
    expected = guide_by_classifier(
        plain, lambda x_t, log_snr: -distance(toy(x_t, None)), 0.7, SCHEDULE
    )(x, T)
    assert torch.allclose(guided, expected, atol=1e-6) and not torch.allclose(guided, plain(x, T))
    refuse = lambda x_t, t: pytest.fail("maps were read")
    off = guide_by_attention(plain, refuse, distance, lambda t: 0.0, SCHEDULE)
    assert torch.equal(off(x, T), plain(x, T))


def test_bad_moves_are_errors():
    with pytest.raises(ValueError, match="rate 0, until 0.5"):
        descend_attention(toy, distance, TIMES, rate=0)
    with pytest.raises(ValueError, match="until 2"):
        descend_attention(toy, distance, TIMES, until=2)


def test_the_control_that_reads_changes_nothing(stage, text):
    plain = stage.denoiser(text, guidance_scale=1.0)
    control = DifferentiableMaps(GRID)
    read = stage.denoiser(text, guidance_scale=1.0, control_at=lambda t: control)
    with torch.no_grad():
        assert torch.allclose(plain(x_at(), T), read(x_at(), T), atol=1e-5)
