"""h-space: the asymmetric step as it stands in the paper, and directions that are known."""

import copy

import pytest
import torch

from imagen_mini.diffusion.gaussian import eps_from_x_0
from imagen_mini.diffusion.samplers import ddim_step, sample
from imagen_mini.diffusion.schedules import alpha_sigma, make_schedule
from imagen_mini.diffusion.timesteps import log_snr_timesteps
from imagen_mini.editing.h_space import (
    ReadFeatures,
    ShiftFeatures,
    asymmetric_denoiser,
    jacobian_directions,
    middle_site,
    optimize_direction,
    paired_direction,
    sample_with_direction,
)
from imagen_mini.evaluation.analytic_denoisers import mixture_denoiser
from imagen_mini.models.control import BlockSite
from imagen_mini.utils.rng import randn

SCHEDULE = make_schedule("cosine")
T = torch.tensor(0.7)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGES = noise(6, 3, 4, 4, seed=3)
SHIFTED, PLAIN = mixture_denoiser(IMAGES[:2], SCHEDULE), mixture_denoiser(IMAGES, SCHEDULE)
X_T = noise(3, 3, 4, 4, seed=5)
TIMES = log_snr_timesteps(10, SCHEDULE).double()


@pytest.fixture(scope="module")
def stage(tiny_pipe):
    return copy.deepcopy(tiny_pipe.stages["base"]).requires_grad_(False).double()


@pytest.fixture(scope="module")
def denoiser(tiny_pipe, stage):
    """(control, prompt) -> a denoiser."""

    def make(control=None, prompt="a red circle"):
        text = tiny_pipe.text_encoder([prompt])
        at = None if control is None else (lambda t: control)
        return stage.denoiser(text, guidance_scale=1.0, threshold="none", control_at=at)

    return make


def x_at():
    return randn([3], (3, 64, 64), "x", dtype=torch.float64)


# ---------------------------------------------------------------- the step


def test_a_step_shifts_the_image_and_leaves_the_noise():
    """alpha_s P(shifted) + sigma_s D(plain), step by step as the paper has it."""
    denoise = asymmetric_denoiser(SHIFTED, PLAIN, TIMES, SCHEDULE)
    states = list(sample(denoise, X_T, TIMES, SCHEDULE, "ddim"))
    x = X_T
    for state, t, s in zip(states, TIMES[:-1], TIMES[1:]):
        alpha, sigma = alpha_sigma(SCHEDULE(s))
        x = alpha * SHIFTED(x, t) + sigma * eps_from_x_0(PLAIN(x, t), x, SCHEDULE(t))
        if s > 0:
            assert torch.allclose(state.x, x, rtol=0, atol=1e-8)


def test_without_a_shift_the_step_is_plain():
    states = sample(asymmetric_denoiser(PLAIN, PLAIN, TIMES, SCHEDULE), X_T, TIMES, SCHEDULE)
    for state, expected in zip(states, sample(PLAIN, X_T, TIMES, SCHEDULE), strict=True):
        assert torch.allclose(state.x, expected.x, rtol=0, atol=1e-8)


def test_the_three_intervals_are_asymmetric_plain_and_with_fresh_noise():
    fresh = lambda step: randn([0, 1, 2], (3, 4, 4), step, dtype=torch.float64)
    states = list(sample_with_direction(SHIFTED, PLAIN, X_T, TIMES, SCHEDULE, fresh, 0.3, 0.6))
    assert [s.step for s in states] == list(range(10)) and states[0].steps == 10
    x, denoise = X_T, asymmetric_denoiser(SHIFTED, PLAIN, TIMES, SCHEDULE)
    for i, (t, s) in enumerate(zip(TIMES[:-1], TIMES[1:])):
        x_0_hat = denoise(x, t) if i < 3 else PLAIN(x, t)
        x = ddim_step(x, x_0_hat, SCHEDULE(t), SCHEDULE(s), fresh(i), 0.0 if i < 6 else 1.0)
        assert torch.allclose(states[i].x, x, rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match="edit_until 0.9, boost_from 0.8; expected 0 <="):
        next(sample_with_direction(SHIFTED, PLAIN, X_T, TIMES, SCHEDULE, fresh, 0.9))


# ---------------------------------------------------------------- controls


def test_h_is_what_the_last_block_of_the_middle_returns(stage, denoiser):
    site, found = middle_site(stage.net.block_sites), []
    hook = stage.net.mid.blocks[-1].register_forward_hook(lambda m, i, out: found.append(out))
    read = ReadFeatures(site)
    with torch.no_grad():
        plain = denoiser(read)(x_at(), T)
    hook.remove()
    assert torch.equal(read.found[0], found[0])
    assert torch.allclose(plain, denoiser()(x_at(), T), atol=1e-9)
    deeper = [BlockSite("mid.block0", "mid", 4), BlockSite("mid.block1", "mid", 4)]
    assert middle_site([BlockSite("down0.block0", "down", 8), *deeper]).name == "mid.block1"
    with pytest.raises(ValueError, match="no residual block in its middle"):
        middle_site([BlockSite("down0.block0", "down", 8)])


def test_the_shift_between_two_networks_inputs_turns_one_into_the_other(stage, denoiser):
    """With all of h exchanged, nothing but h of the first input is left on the smallest grid."""
    site = middle_site(stage.net.block_sites)
    read = ReadFeatures(site)
    with torch.no_grad():
        denoiser(read)(x_at(), T)
        zero = ShiftFeatures(site, torch.zeros_like(read.found[0]))
        some = ShiftFeatures(site, 0.5 * read.found[0])
        assert torch.allclose(denoiser(zero)(x_at(), T), denoiser()(x_at(), T), atol=1e-9)
        assert not torch.allclose(denoiser(some)(x_at(), T), denoiser()(x_at(), T), atol=1e-4)


# ---------------------------------------------------------------- directions


def test_a_paired_direction_is_the_mean_difference():
    read = lambda x_t, t, which: x_t[:, :, :2, :2] * (1 + which) + 3 * which
    found = paired_direction(read, X_T, T)
    assert torch.allclose(found, (X_T[:, :, :2, :2] + 3).mean(0, keepdim=True))


def test_an_optimised_direction_of_a_linear_network_is_the_one_that_solves_the_loss():
    """x_0_hat = x_t + delta: the loss |x_0_hat - target|^2 is solved where delta says so."""
    target = noise(1, 3, 4, 4, seed=9)
    x_t = noise(1, 3, 4, 4, seed=8)
    plain = lambda x, t: x
    found = optimize_direction(
        lambda delta: lambda x, t: x + delta,
        plain,
        lambda x: (x - target).square().sum((1, 2, 3)),
        [(x_t, T)],
        (3, 4, 4),
        steps=400,
        rate=0.05,
        keep=0.0,
    )
    assert torch.allclose(found, target - x_t, atol=1e-3)
    with pytest.raises(ValueError, match="no noisy images to find a direction on"):
        optimize_direction(lambda d: plain, plain, lambda x: x, [], (3, 4, 4))


def test_an_optimised_direction_lowers_the_loss_of_a_network(stage, denoiser):
    site, loss = middle_site(stage.net.block_sites), lambda x: x.mean((1, 2, 3))
    shape = (stage.config.unet.channels[-1], site.size, site.size)
    shifted = lambda delta: denoiser(ShiftFeatures(site, delta))
    found = optimize_direction(shifted, denoiser(), loss, [(x_at(), T)], shape, 5, keep=0.0)
    with torch.no_grad():
        assert loss(shifted(found)(x_at(), T)) < loss(denoiser()(x_at(), T)) - 1e-3


def test_subspace_iteration_finds_the_singular_vectors_of_a_matrix():
    left, _ = torch.linalg.qr(noise(7, 7))
    right, _ = torch.linalg.qr(noise(5, 5, seed=1))
    singular = torch.tensor([5.0, 3.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    matrix = left[:, :5] * singular @ right.T
    found, values = jacobian_directions(
        lambda h: matrix @ h.flatten(), torch.zeros(5, 1, dtype=torch.float64), 3, 30
    )
    assert found.shape == (3, 5, 1)
    assert torch.allclose(values, singular[:3], rtol=1e-6)
    overlap = (found.flatten(1) @ right).abs()
    assert torch.allclose(overlap[:, :3], torch.eye(3, dtype=torch.float64), atol=1e-5)


def test_subspace_iteration_through_a_network_finds_what_changes_it_most(stage, denoiser):
    """J of a few numbers of h, formed by differences, has these singular values."""
    site = middle_site(stage.net.block_sites)
    channels = stage.config.unet.channels[-1]
    x, few = x_at(), 4

    def function(h):  # the shift of the first channels, the same everywhere
        padded = torch.cat([h, h.new_zeros(channels - few)])[None, :, None, None]
        return denoiser(ShiftFeatures(site, padded))(x, T)

    at = torch.zeros(few, dtype=torch.float64)
    found, values = jacobian_directions(function, at, 2, 6)
    h = 1e-4
    with torch.no_grad():
        columns = [
            (function(h * e) - function(-h * e)).flatten() / (2 * h)
            for e in torch.eye(few, dtype=torch.float64)
        ]
    _, expected, directions = torch.linalg.svd(torch.stack(columns, 1), full_matrices=False)
    assert torch.allclose(values, expected[:2], rtol=1e-2)
    assert (found[0] @ directions[0]).abs().item() == pytest.approx(1, abs=1e-2)


def test_a_number_of_directions_that_h_does_not_have_is_an_error():
    with pytest.raises(ValueError, match="count 6; expected 1 to 5"):
        jacobian_directions(lambda h: h, torch.zeros(5), 6)
    with pytest.raises(ValueError, match="iterations 0; expected at least one"):
        jacobian_directions(lambda h: h, torch.zeros(5), 1, 0)
