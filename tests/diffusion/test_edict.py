"""EDICT: exact inversion of any denoiser, and sampling as DDIM's."""

import pytest
import torch

from imagen_mini.diffusion.edict import edict_invert, edict_sample, edict_step, edict_step_back
from imagen_mini.diffusion.guidance import guide_denoisers
from imagen_mini.diffusion.samplers import ddim_invert, ddim_step, sample
from imagen_mini.diffusion.schedules import alpha_sigma, cosine_log_snr
from imagen_mini.diffusion.timesteps import uniform_timesteps
from imagen_mini.utils.rng import randn

MEAN, STD = 0.3, 0.5


def gaussian_denoiser(x_t, t):
    """E[x_0 | x_t] for x_0 ~ N(MEAN, STD^2)."""
    alpha, sigma = alpha_sigma(cosine_log_snr(t.double()))
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x_t - alpha * MEAN)


def crooked_denoiser(x_t, t):
    """What no data has: nonlinear, and mixing pixels."""
    return torch.tanh(3 * x_t.roll(1, -1) - x_t.mean((2, 3), keepdim=True)) * (1 - t)


def image(seed=0):
    return randn([seed], (3, 5, 5), "image", dtype=torch.float64).clamp(-1, 1)


def times(n):
    return uniform_timesteps(n).double()


def last(states):
    *_, final = states
    return final


@pytest.mark.parametrize("denoise", [gaussian_denoiser, crooked_denoiser])
@pytest.mark.parametrize("p", [0.93, 1.0])
def test_the_way_back_is_exact_whatever_the_denoiser_and_however_few_the_steps(denoise, p):
    for n in (2, 7, 32):
        x_T, y_T = last(edict_invert(denoise, image(), times(n), cosine_log_snr, p))
        back = last(edict_sample(denoise, x_T, y_T, times(n), cosine_log_snr, p))
        assert (back.x - image()).abs().max() < 1e-9 and torch.equal(back.x, back.x_0_hat)


def test_ddim_is_not_its_own_inverse_there():
    noisy = last(ddim_invert(crooked_denoiser, image(), times(7), cosine_log_snr)).x
    back = last(sample(crooked_denoiser, noisy, times(7), cosine_log_snr)).x
    assert (back - image()).abs().max() > 0.05


def test_it_is_exact_under_guidance_too():
    guided = guide_denoisers(gaussian_denoiser, crooked_denoiser, 7.5)
    pair = last(edict_invert(guided, image(), times(16), cosine_log_snr))
    back = last(edict_sample(guided, *pair, times(16), cosine_log_snr))
    # guidance of something this crooked is chaotic: rounding grows, and yet
    assert (back.x - image()).abs().max() < 1e-6
    # with another w it leads elsewhere
    other = guide_denoisers(gaussian_denoiser, crooked_denoiser, 2.0)
    assert (last(edict_sample(other, *pair, times(16), cosine_log_snr)).x - image()).abs().max() > 1


def test_a_step_back_undoes_a_step():
    log_snr_t, log_snr_s = (torch.tensor(v, dtype=torch.float64) for v in (-2.0, 1.0))
    t = torch.tensor(0.6, dtype=torch.float64)
    levels = crooked_denoiser, t, log_snr_t, log_snr_s
    x, y = edict_step(image(1), image(2), *levels)
    assert not torch.allclose(x, image(1))
    x_t, y_t = edict_step_back(x, y, *levels)
    assert torch.allclose(x_t, image(1), atol=1e-12) and torch.allclose(y_t, image(2), atol=1e-12)


def test_without_mixing_the_first_update_is_a_ddim_step():
    log_snr_t, log_snr_s = (torch.tensor(v, dtype=torch.float64) for v in (-2.0, 1.0))
    t = torch.tensor(0.6, dtype=torch.float64)
    x, _ = edict_step(image(1), image(1), crooked_denoiser, t, log_snr_t, log_snr_s, p=1.0)
    ddim = ddim_step(image(1), crooked_denoiser(image(1), t), log_snr_t, log_snr_s)
    assert torch.allclose(x, ddim, atol=1e-12)


def test_sampling_comes_close_to_the_flow_as_steps_are_added():
    """The exact flow of a Gaussian scales by STD and shifts by MEAN, as alpha_1 is nearly 0."""
    x_T, error = image(3) * 2, []
    for n in (50, 200, 800):
        state = last(edict_sample(gaussian_denoiser, x_T, x_T, times(n), cosine_log_snr))
        error.append((state.x - (MEAN + STD * x_T)).abs().mean().item())
    assert error[0] > 1.5 * error[1] > 2 * error[2] and error[2] < 0.02, error


@pytest.mark.parametrize("p", [0, -0.5, 1.1])
def test_a_mixing_share_out_of_range_is_refused(p):
    with pytest.raises(ValueError, match="expected a share above 0"):
        next(edict_invert(gaussian_denoiser, image(), times(4), cosine_log_snr, p))
