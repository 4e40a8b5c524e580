"""Samplers against denoisers that are known exactly."""

import pytest
import torch

from imagen_mini.randomness import generator, randn
from imagen_mini.samplers import SAMPLERS, ddim_step, ddpm_step, dpmpp_2m_step, posterior_variance, sample
from imagen_mini.schedule import alpha_sigma, cosine_log_snr, cosine_t, uniform_times

MEAN, STD = 0.3, 0.5


def gaussian_denoiser(x_t, t):
    """E[x_0 | x_t] where x_0 is normal with mean MEAN and deviation STD: linear regression."""
    alpha, sigma = alpha_sigma(cosine_log_snr(t.double()))
    return MEAN + alpha * STD ** 2 / (alpha ** 2 * STD ** 2 + sigma ** 2) * (x_t - alpha * MEAN)


def gaussian_flow(x_T):
    """Where the probability-flow ODE takes x_T: normal at every t, so it keeps each point's standardised value."""
    (alpha_1, sigma_1), (alpha_0, sigma_0) = (alpha_sigma(cosine_log_snr(torch.tensor(t, dtype=torch.float64))) for t in (1.0, 0.0))
    z = (x_T - alpha_1 * MEAN) / (alpha_1 ** 2 * STD ** 2 + sigma_1 ** 2).sqrt()
    return alpha_0 * MEAN + (alpha_0 ** 2 * STD ** 2 + sigma_0 ** 2).sqrt() * z


def noise64(n, *purpose):
    return torch.randn(n, 3, 4, 4, generator=generator(0, *purpose), dtype=torch.float64)


def run(denoise, x_T, steps, **options):
    *_, last = sample(denoise, x_T, uniform_times(steps).double(), cosine_log_snr, **options)
    return last


def test_ddim_follows_the_probability_flow_and_its_error_falls_at_first_order():
    x_T = noise64(8, "x_T")
    steps = torch.tensor([64.0, 128.0, 256.0, 512.0])
    error = torch.tensor([(run(gaussian_denoiser, x_T, int(n)).x - gaussian_flow(x_T)).abs().mean() for n in steps])
    slopes = error.log2().diff()                       # the number of steps doubles from one to the next
    assert ((-1.25 < slopes) & (slopes < -0.75)).all(), (error, slopes)
    assert error[-1] < 0.01


@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("dpmpp_2m", 2)])
def test_the_error_falls_at_the_order_of_the_method_when_log_snr_is_evenly_spaced(sampler, order):
    x_T = noise64(4, "x_T")
    steps = torch.tensor([32, 64, 128, 256])
    start, end = (cosine_log_snr(torch.tensor(t, dtype=torch.float64)) for t in (1.0, 0.0))
    error = []
    for n in steps:
        times = cosine_t(torch.linspace(start, end, int(n) + 1, dtype=torch.float64))
        *_, last = sample(gaussian_denoiser, x_T, times, cosine_log_snr, sampler)
        error.append((last.x - gaussian_flow(x_T)).abs().mean())
    slopes = torch.stack(error).log2().diff()
    assert ((-order - 0.35 < slopes) & (slopes < -order + 0.35)).all(), (error, slopes)


def test_dpmpp_without_a_step_before_or_with_an_unchanged_estimate_is_ddim():
    x_t, x_0_hat = noise64(2, "x_t"), noise64(2, "x_0")
    r, t, s = (torch.tensor(v, dtype=torch.float64) for v in (-3.0, -1.0, 0.5))
    expected = ddim_step(x_t, x_0_hat, t, s)
    assert torch.equal(dpmpp_2m_step(x_t, x_0_hat, t, s), expected)
    assert torch.equal(dpmpp_2m_step(x_t, x_0_hat, t, s, (x_0_hat, r)), expected)
    assert not torch.allclose(dpmpp_2m_step(x_t, x_0_hat, t, s, (x_0_hat + 1, r)), expected)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_samples_of_a_normal_distribution_have_its_mean_and_deviation(sampler):
    x_T = noise64(1000, "x_T")
    out = run(gaussian_denoiser, x_T, 200, sampler=sampler, noise=lambda step: noise64(1000, step)).x
    assert out.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert out.std().item() == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_of_a_finite_data_set_are_its_points_each_as_often_as_it_should_be(sampler):
    points = torch.tensor([[-0.8, 0.6, 0.1], [0.7, 0.7, -0.9], [0.0, -0.7, 0.8]], dtype=torch.float64)

    def denoise(x_t, t):                               # the mean of the points, weighted by how likely each led to x_t
        alpha, sigma = alpha_sigma(cosine_log_snr(t.double()))
        distance = (x_t[:, None, :, 0, 0] - alpha * points).square().sum(-1)
        return ((-distance / (2 * sigma ** 2)).softmax(1) @ points)[:, :, None, None]

    def draw(*purpose):
        return torch.randn(600, 3, 1, 1, generator=generator(1, *purpose), dtype=torch.float64)

    picture = run(denoise, draw("x_T"), 50, sampler=sampler, noise=lambda step: draw(step)).x_0_hat[:, :, 0, 0]
    distance, nearest = torch.cdist(picture, points).min(1)
    assert (distance < 1e-3).float().mean() > 0.99     # a point midway between two of them may be left
    share = nearest.bincount(minlength=3) / 600
    assert (share - 1 / 3).abs().max() < 0.1, share


def test_ddim_with_eta_one_is_ddpm_with_the_smaller_variance():
    log_snr = cosine_log_snr(torch.linspace(1, 0, 11, dtype=torch.float64))
    x_t, x_0_hat, noise = (noise64(2, name) for name in "abc")
    for t, s in zip(log_snr, log_snr[1:]):
        ddim, ddpm = ddim_step(x_t, x_0_hat, t, s, noise, eta=1.0), ddpm_step(x_t, x_0_hat, t, s, noise, gamma=0.0)
        assert torch.allclose(ddim, ddpm, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_the_variance_goes_from_that_given_x_0_to_that_of_one_forward_step(gamma):
    log_snr_t, log_snr_s = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
    forward = sigma_t ** 2 - (alpha_t / alpha_s) ** 2 * sigma_s ** 2           # of x_t given x_s
    given_x_0 = sigma_s ** 2 / sigma_t ** 2 * forward
    expected = torch.exp((1 - gamma) * given_x_0.log() + gamma * forward.log())
    assert torch.allclose(posterior_variance(log_snr_t, log_snr_s, torch.zeros(1, 3, 1, 1), gamma).flatten(), expected)


def test_a_step_with_the_true_x_0_and_ddim_stays_on_the_forward_process():
    x_0, eps = noise64(2, "x_0"), noise64(2, "eps")
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (alpha_sigma(torch.tensor(v, dtype=torch.float64)) for v in (-1.0, 2.0))
    x_s = ddim_step(alpha_t * x_0 + sigma_t * eps, x_0, torch.tensor(-1.0).double(), torch.tensor(2.0).double())
    assert torch.allclose(x_s, alpha_s * x_0 + sigma_s * eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_gives_the_denoiser_s_estimate_from_pure_noise(sampler):
    x_T = noise64(2, "x_T")
    states = list(sample(gaussian_denoiser, x_T, uniform_times(1), cosine_log_snr, sampler, lambda step: noise64(2, step)))
    assert len(states) == 1 and (states[0].t, states[0].s) == (1, 0)
    assert torch.equal(states[0].x_0_hat, gaussian_denoiser(x_T, torch.tensor(1.0)))
    assert torch.allclose(states[0].x, states[0].x_0_hat, rtol=0, atol=0.02)   # at t = 0 a little noise is left


def test_a_state_is_yielded_after_every_step_and_the_walk_can_be_left_early():
    calls = []
    walk = sample(lambda x, t: calls.append(t) or x * 0, noise64(1, 0), uniform_times(5), cosine_log_snr)
    first = next(walk)
    assert len(calls) == 1 and (first.step, first.steps) == (0, 5)
    rest = list(walk)
    assert [s.step for s in rest] == [1, 2, 3, 4] and rest[-1].s == 0
    assert all(a.s == b.t for a, b in zip([first, *rest], rest))


def test_after_step_changes_what_the_next_step_starts_from():
    seen, told = [], []

    def after_step(x, step, s):
        told.append((step, s))
        return torch.full_like(x, step + 10.0)

    states = list(sample(lambda x, t: seen.append(x.mean().item()) or x, torch.zeros(1, 3, 2, 2), uniform_times(4), cosine_log_snr,
                         after_step=after_step))
    assert seen == [0, 10, 11, 12] and states[-1].x.mean() == 13
    assert told == [(0, 0.75), (1, 0.5), (2, 0.25), (3, 0.0)]


def test_only_ddpm_asks_for_noise_once_a_step():
    for sampler, expected in (("ddim", []), ("dpmpp_2m", []), ("ddpm", [0, 1, 2])):
        asked = []
        list(sample(lambda x, t: x, torch.zeros(1, 3, 2, 2), uniform_times(3), cosine_log_snr, sampler,
                    lambda step: asked.append(step) or torch.zeros(1, 3, 2, 2)))
        assert asked == expected


def test_an_unknown_sampler_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="'euler'.*ddim, ddpm"):
        run(gaussian_denoiser, noise64(1, 0), 2, sampler="euler")


def test_ddpm_without_a_source_of_noise_is_an_error():
    with pytest.raises(ValueError, match="pass noise="):
        run(gaussian_denoiser, noise64(1, 0), 2, sampler="ddpm")


# ---------------------------------------------------------------- randomness

def test_noise_depends_on_its_own_seed_and_purpose_alone():
    together = randn([3, 7, 3], (2, 2), "base", "x_T")
    assert torch.equal(together[1], randn([7], (2, 2), "base", "x_T")[0])
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[0], randn([3], (2, 2), "base", "step", 0)[0])


def test_noise_does_not_depend_on_the_global_generator():
    torch.manual_seed(1)
    first = randn([0], (4,), "x")
    torch.manual_seed(2)
    assert torch.equal(first, randn([0], (4,), "x"))
