"""Samplers against denoisers that are known exactly."""

import math

import pytest
import torch

from imagen_mini.cascade.config import PRESETS
from imagen_mini.diffusion.gaussian import PREDICTION_TYPES, from_x_0
from imagen_mini.diffusion.guidance import make_denoiser
from imagen_mini.diffusion.samplers import (
    SAMPLERS,
    Sampler,
    ddim_invert,
    ddim_step,
    ddpm_step,
    dpmpp_2m_step,
    heun_step,
    posterior_variance,
    sample,
    samplers_with,
)
from imagen_mini.diffusion.schedules import (
    alpha_sigma,
    cosine_log_snr,
    cosine_t,
    linear_log_snr,
    make_schedule,
    sigmoid_log_snr,
    zero_terminal_snr,
)
from imagen_mini.diffusion.timesteps import (
    karras_timesteps,
    log_snr_timesteps,
    spaced_timesteps,
    uniform_timesteps,
)
from imagen_mini.utils.rng import generator, randn

MEAN, STD = 0.3, 0.5
DETERMINISTIC = ("ddim", "dpmpp_2m", "heun")
EVERY_TRAJECTORY = [
    ("ddim", {}),
    ("ddim", {"eta": 0.5}),
    ("ddim", {"eta": 1.0}),
    ("ddpm", {}),
    ("ddpm", {"gamma": 1.0}),
    ("dpmpp_2m", {}),
    ("dpmpp_2m", {"eta": 1.0}),
    ("heun", {}),
]
SCHEDULES = {
    "cosine": cosine_log_snr,
    "linear": linear_log_snr,
    "sigmoid": sigmoid_log_snr,
    "zero terminal": zero_terminal_snr(linear_log_snr),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def gaussian_denoiser(x_t, t, schedule=cosine_log_snr):
    """E[x_0 | x_t] where x_0 is normal with mean MEAN and deviation STD: linear regression."""
    alpha, sigma = alpha_sigma(schedule(t.double()))
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x_t - alpha * MEAN)


def gaussian_flow(x_T, schedule=cosine_log_snr):
    """Where the probability-flow ODE takes x_T: normal at every t, so it keeps each point's
    standardised value.
    """
    (alpha_1, sigma_1), (alpha_0, sigma_0) = (
        alpha_sigma(schedule(torch.tensor(t, dtype=torch.float64))) for t in (1.0, 0.0)
    )
    z = (x_T - alpha_1 * MEAN) / (alpha_1**2 * STD**2 + sigma_1**2).sqrt()
    return alpha_0 * MEAN + (alpha_0**2 * STD**2 + sigma_0**2).sqrt() * z


def noise64(n, *purpose):
    return torch.randn(n, 3, 4, 4, generator=generator(0, *purpose), dtype=torch.float64)


def run(denoise, x_T, steps, **options):
    *_, last = sample(denoise, x_T, uniform_timesteps(steps).double(), cosine_log_snr, **options)
    return last


def fitted_order(steps, error):
    """-slope of the straight line through log(error) over log(steps), by least squares."""
    steps, error = torch.tensor(steps).double().log(), torch.stack(error).log()
    return -(
        (steps - steps.mean()) @ (error - error.mean()) / (steps - steps.mean()).square().sum()
    ).item()


def test_ddim_follows_the_probability_flow_and_its_error_falls_at_first_order():
    x_T = noise64(8, "x_T")
    steps = torch.tensor([64.0, 128.0, 256.0, 512.0])
    error = torch.tensor(
        [(run(gaussian_denoiser, x_T, int(n)).x - gaussian_flow(x_T)).abs().mean() for n in steps]
    )
    slopes = error.log2().diff()  # the number of steps doubles from one to the next
    assert ((-1.25 < slopes) & (slopes < -0.75)).all(), (error, slopes)
    assert error[-1] < 0.01


@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_the_error_falls_at_the_order_of_the_method_when_log_snr_is_evenly_spaced(sampler, order):
    x_T, steps = noise64(4, "x_T"), [32, 64, 128, 256]
    start, end = (cosine_log_snr(torch.tensor(t, dtype=torch.float64)) for t in (1.0, 0.0))
    error = []
    for n in steps:
        timesteps = cosine_t(torch.linspace(start, end, n + 1, dtype=torch.float64))
        *_, last = sample(gaussian_denoiser, x_T, timesteps, cosine_log_snr, sampler)
        error.append((last.x - gaussian_flow(x_T)).abs().mean())
    assert fitted_order(steps, error) == pytest.approx(order, abs=0.25), error


@every_schedule
@pytest.mark.parametrize("sampler, tolerance", [("ddim", 0.03), ("dpmpp_2m", 0.01), ("heun", 0.01)])
def test_every_deterministic_sampler_follows_the_probability_flow_of_every_schedule(
    schedule, sampler, tolerance
):
    x_T = noise64(8, "x_T")
    *_, last = sample(
        lambda x, t: gaussian_denoiser(x, t, schedule),
        x_T,
        uniform_timesteps(100).double(),
        schedule,
        sampler,
    )
    assert (last.x - gaussian_flow(x_T, schedule)).abs().mean() < tolerance


@pytest.mark.parametrize(
    "schedule", [cosine_log_snr, SCHEDULES["zero terminal"]], ids=["cosine", "zero terminal"]
)
@pytest.mark.parametrize("sampler, options", EVERY_TRAJECTORY)
def test_every_sampler_gives_the_mean_and_the_covariance_of_a_normal_distribution(
    schedule, sampler, options
):
    mean = torch.tensor([0.2, -0.4, 0.1], dtype=torch.float64)
    covariance = torch.tensor(
        [[0.3, 0.15, 0.0], [0.15, 0.2, -0.05], [0.0, -0.05, 0.1]], dtype=torch.float64
    )
    eye = torch.eye(3, dtype=torch.float64)

    def denoise(x_t, t):  # E[x_0 | x_t]: linear regression again, of vectors
        alpha, sigma = alpha_sigma(schedule(t.double()))
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * eye)
        return (mean + (x_t[:, :, 0, 0] - alpha * mean) @ gain.T)[:, :, None, None]

    def generate(*purpose):
        return torch.randn(2500, 3, 1, 1, generator=generator(2, *purpose), dtype=torch.float64)

    steps = 40 if sampler in ("dpmpp_2m", "heun") else 240  # the others are of first order
    *_, last = sample(
        denoise,
        generate("x_T"),
        uniform_timesteps(steps).double(),
        schedule,
        sampler,
        noise=lambda step: generate(step),
        **options,
    )
    x = last.x[:, :, 0, 0]
    assert (x.mean(0) - mean).abs().max() < 0.03, x.mean(0)
    assert (x.T.cov() - covariance).abs().max() < 0.035, x.T.cov()


@pytest.mark.parametrize("spacing", [karras_timesteps, log_snr_timesteps])
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_other_spacings_arrive_at_the_same_place(spacing, sampler):
    x_T = noise64(4, "x_T")
    *_, last = sample(
        gaussian_denoiser,
        x_T,
        spacing(200, make_schedule("cosine")).double(),
        cosine_log_snr,
        sampler,
    )
    assert (last.x - gaussian_flow(x_T)).abs().mean() < 0.02


@pytest.mark.parametrize("sampler, options", EVERY_TRAJECTORY)
def test_the_trajectory_does_not_depend_on_the_parameterisation(sampler, options, random_text):
    def images(prediction_type):
        # makes the same estimate, whatever it is asked to predict
        def network(x_t, log_snr, text, control):
            return from_x_0(
                x_t.tanh() + text.emb.mean((1, 2))[:, None, None, None],
                prediction_type,
                x_t,
                log_snr,
            )

        denoise = make_denoiser(
            network,
            random_text([3, 2], dtype=torch.float64),
            cosine_log_snr,
            prediction_type,
            2.0,
            "dynamic",
        )
        return run(
            denoise,
            noise64(2, "x_T"),
            7,
            sampler=sampler,
            noise=lambda step: noise64(2, step),
            **options,
        ).x

    for prediction_type in PREDICTION_TYPES:
        assert torch.allclose(images(prediction_type), images("x_0"), rtol=0, atol=1e-8), (
            prediction_type
        )


def test_dpmpp_without_a_step_before_or_with_an_unchanged_estimate_is_ddim():
    x_t, x_0_hat = noise64(2, "x_t"), noise64(2, "x_0")
    r, t, s = (torch.tensor(v, dtype=torch.float64) for v in (-3.0, -1.0, 0.5))
    expected = ddim_step(x_t, x_0_hat, t, s)
    assert torch.equal(dpmpp_2m_step(x_t, x_0_hat, t, s), expected)
    assert torch.equal(dpmpp_2m_step(x_t, x_0_hat, t, s, (x_0_hat, r)), expected)
    assert not torch.allclose(dpmpp_2m_step(x_t, x_0_hat, t, s, (x_0_hat + 1, r)), expected)
    noise = noise64(2, "noise")
    for previous in (None, (x_0_hat, r)):
        assert torch.equal(
            dpmpp_2m_step(x_t, x_0_hat, t, s, previous, noise, eta=0.7),
            ddim_step(x_t, x_0_hat, t, s, noise, eta=0.7),
        )


STEPS_OF_A_BATCH = {
    "ddim": lambda x, x_0, t, s, r, noise: ddim_step(x, x_0, t, s),
    "ddim, eta": lambda x, x_0, t, s, r, noise: ddim_step(x, x_0, t, s, noise, 0.7),
    "ddpm": lambda x, x_0, t, s, r, noise: ddpm_step(x, x_0, t, s, noise, 0.4),
    "dpmpp_2m": lambda x, x_0, t, s, r, noise: dpmpp_2m_step(x, x_0, t, s, (x_0.sin(), r)),
    "dpmpp_2m, eta": lambda x, x_0, t, s, r, noise: dpmpp_2m_step(
        x, x_0, t, s, (x_0.sin(), r), noise, 0.7
    ),
    "heun": lambda x, x_0, t, s, r, noise: heun_step(x, x_0, t, s, torch.sin),
}


@pytest.mark.parametrize("step", STEPS_OF_A_BATCH.values(), ids=STEPS_OF_A_BATCH)
@pytest.mark.parametrize("b", [2, 4])  # 4 is also the width: a level must not act along it
def test_a_step_takes_a_noise_level_for_each_image(step, b):
    x_t, x_0_hat, noise = (noise64(b, name) for name in ("x_t", "x_0", "noise"))
    t = torch.linspace(-2, 1, b, dtype=torch.float64)
    r, s = t - torch.linspace(0.5, 2, b, dtype=torch.float64), t + 0.8
    together = step(x_t, x_0_hat, t, s, r, noise)
    for i in range(b):
        row = slice(i, i + 1)
        alone = step(x_t[row], x_0_hat[row], t[i], s[i], r[i], noise[row])
        assert torch.equal(together[row], alone)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_of_a_finite_data_set_are_its_points_each_as_often_as_it_should_be(sampler):
    points = torch.tensor(
        [[-0.8, 0.6, 0.1], [0.7, 0.7, -0.9], [0.0, -0.7, 0.8]], dtype=torch.float64
    )

    def denoise(x_t, t):  # the mean of the points, weighted by how likely each led to x_t
        alpha, sigma = alpha_sigma(cosine_log_snr(t.double()))
        distance = (x_t[:, None, :, 0, 0] - alpha * points).square().sum(-1)
        return ((-distance / (2 * sigma**2)).softmax(1) @ points)[:, :, None, None]

    def generate(*purpose):
        return torch.randn(600, 3, 1, 1, generator=generator(1, *purpose), dtype=torch.float64)

    image = run(
        denoise, generate("x_T"), 50, sampler=sampler, noise=lambda step: generate(step)
    ).x_0_hat[:, :, 0, 0]
    distance, nearest = torch.cdist(image, points).min(1)
    assert (distance < 1e-3).float().mean() > 0.99  # a point midway between two of them may be left
    share = nearest.bincount(minlength=3) / 600
    assert (share - 1 / 3).abs().max() < 0.1, share


def test_ddim_with_eta_one_is_ddpm_with_the_smaller_variance():
    log_snr = cosine_log_snr(torch.linspace(1, 0, 11, dtype=torch.float64))
    x_t, x_0_hat, noise = (noise64(2, name) for name in "abc")
    for t, s in zip(log_snr, log_snr[1:]):
        ddim, ddpm = (
            ddim_step(x_t, x_0_hat, t, s, noise, eta=1.0),
            ddpm_step(x_t, x_0_hat, t, s, noise, gamma=0.0),
        )
        assert torch.allclose(ddim, ddpm, rtol=1e-9, atol=1e-9)


def test_a_trajectory_with_eta_one_is_a_trajectory_of_ddpm():
    trajectories = [
        run(
            gaussian_denoiser,
            noise64(2, "x_T"),
            10,
            sampler=sampler,
            noise=lambda step: noise64(2, step),
            eta=eta,
        ).x
        for sampler, eta in (("ddim", 1.0), ("ddpm", 0.0), ("ddim", 0.5))
    ]
    assert torch.allclose(
        trajectories[0], trajectories[1], rtol=0, atol=1e-9
    ) and not torch.allclose(trajectories[0], trajectories[2])


def test_heun_is_ddim_without_a_second_call_and_where_the_noise_stays_the_same():
    x_0, eps, incorrect = noise64(2, "x_0"), noise64(2, "eps"), noise64(2, "incorrect")
    t, s = torch.tensor(-1.0).double(), torch.tensor(2.0).double()
    alpha, sigma = alpha_sigma(t)
    x_t = alpha * x_0 + sigma * eps
    assert torch.equal(heun_step(x_t, incorrect, t, s, None), ddim_step(x_t, incorrect, t, s))
    assert torch.allclose(
        heun_step(x_t, x_0, t, s, lambda x_s: x_0), ddim_step(x_t, x_0, t, s), rtol=0, atol=1e-12
    )
    assert not torch.allclose(
        heun_step(x_t, x_0, t, s, lambda x_s: incorrect), ddim_step(x_t, x_0, t, s)
    )


def test_heun_is_the_trapezium_rule_in_edm_s_variables():
    x_t, x_0_hat = noise64(2, "x_t"), noise64(2, "x_0")
    t, s = torch.tensor(-1.5).double(), torch.tensor(0.5).double()
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    denoise = lambda x_s: (x_s / alpha_s).sin()
    y, noisy, less = x_t / alpha_t, sigma_t / alpha_t, sigma_s / alpha_s
    slope = (y - x_0_hat) / noisy
    euler = y + (less - noisy) * slope
    slope_s = (euler - denoise(alpha_s * euler)) / less
    expected = alpha_s * (y + (less - noisy) * (slope + slope_s) / 2)
    assert torch.allclose(heun_step(x_t, x_0_hat, t, s, denoise), expected, rtol=0, atol=1e-12)


def test_heun_calls_the_denoiser_twice_a_step_and_once_in_the_last():
    asked = []
    list(
        sample(
            lambda x, t: asked.append(float(t)) or x,
            torch.zeros(1, 3, 2, 2),
            uniform_timesteps(4),
            cosine_log_snr,
            "heun",
        )
    )
    assert asked == [1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("sampler, options", EVERY_TRAJECTORY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trajectory_from_exactly_no_signal_to_exactly_no_noise_is_finite_and_ends_at_the_estimate(
    sampler, options, dtype
):
    def schedule(t):  # -inf at t = 1, inf at t = 0
        return torch.log((1 - t) / t)

    noise = lambda step: noise64(1, step).to(dtype)
    states = list(
        sample(
            lambda x, t: x.tanh(),
            noise64(1, "x_T").to(dtype),
            uniform_timesteps(5).to(dtype),
            schedule,
            sampler,
            noise,
            **options,
        )
    )
    assert all(state.x.isfinite().all() and state.x.dtype == dtype for state in states)
    if options != {"gamma": 1.0}:  # the larger variance is not 0 at s = 0
        assert torch.allclose(states[-1].x, states[-1].x_0_hat, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "log_snr_t, log_snr_s",
    [(-12.0, -11.9), (-40.0, 40.0), (11.9, 12.0), (-math.inf, -30.0), (-30.0, math.inf)],
)
def test_steps_at_extreme_log_snrs_are_finite_in_float32(log_snr_t, log_snr_s):
    t, s, x, x_0_hat = (
        torch.tensor(log_snr_t),
        torch.tensor(log_snr_s),
        noise64(1, "x").float(),
        noise64(1, "x_0").float(),
    )
    for x_s in (
        ddim_step(x, x_0_hat, t, s),
        ddim_step(x, x_0_hat, t, s, x, 0.5),
        ddpm_step(x, x_0_hat, t, s, x),
        ddpm_step(x, x_0_hat, t, s, x, 1.0),
        dpmpp_2m_step(x, x_0_hat, t, s),
        heun_step(x, x_0_hat, t, s, None),
    ):
        assert x_s.isfinite().all() and x_s.dtype == torch.float32 and x_s.abs().max() < 10


@pytest.mark.parametrize(
    "spacing, fair",
    [(PRESETS["mini"]["base"].timestep_spacing, True), ("karras", True), ("uniform", False)],
)
def test_backgrounds_are_as_frequent_as_in_the_data_only_if_no_step_leaps_over_the_noisiest_times(
    spacing, fair
):
    """A finite data set of plain images, with the shipped base stage's schedule and sampler, 20
    steps.
    """
    c, n, levels = (
        PRESETS["mini"]["base"],
        128,
        torch.tensor([-1.0, -0.3, 0.3, 1.0], dtype=torch.float64),
    )
    pixels = 3 * c.unet.image_size**2

    def schedule(t):
        return SCHEDULES[c.schedule](t, c.log_snr_shift)

    # in two numbers an image, its mean and one other direction: all that a plain image changes
    def denoise(x_t, t):
        alpha, sigma = alpha_sigma(schedule(t.double()))
        posterior = (-((x_t[:, :1] - alpha * levels) ** 2) * pixels / (2 * sigma**2)).softmax(1)
        return torch.cat(
            [posterior @ levels[:, None], torch.zeros(n, 1, dtype=torch.float64)], dim=1
        )

    x_T = torch.randn(n, 2, generator=generator(0), dtype=torch.float64) / pixels**0.5
    *_, last = sample(
        denoise, x_T, spaced_timesteps(spacing, 20, schedule).double(), schedule, c.sampler
    )
    shares = [
        ((last.x_0_hat[:, 0] - level).abs() < 0.05).double().mean().item() for level in levels
    ]
    print(spacing, shares)
    assert (min(shares) > 0.15 and max(shares) < 0.35) == fair


# ---------------------------------------------------------------- inversion


def test_inversion_and_sampling_lead_back_and_the_error_falls_with_the_steps():
    x_0, steps, error = noise64(4, "x_0") * STD + MEAN, [50, 100, 200, 400], []
    for n in steps:
        timesteps = uniform_timesteps(n).double()
        *_, noisy = ddim_invert(gaussian_denoiser, x_0, timesteps, cosine_log_snr)
        *_, last = sample(gaussian_denoiser, noisy.x, timesteps, cosine_log_snr)
        error.append((last.x - x_0).abs().mean())
    assert fitted_order(steps, error) == pytest.approx(1, abs=0.25), error
    assert error[-1] < 0.01


def test_inversion_finds_the_noise_that_the_flow_starts_from():
    x_T = noise64(4, "x_T")
    states = list(
        ddim_invert(
            gaussian_denoiser, gaussian_flow(x_T), uniform_timesteps(400).double(), cosine_log_snr
        )
    )
    assert (states[0].t, states[-1].s) == (0, 1) and all(state.t < state.s for state in states)
    assert (states[-1].x - x_T).abs().mean() < 0.03


# ---------------------------------------------------------------- one step, and the generator


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_the_variance_goes_from_that_given_x_0_to_that_of_one_forward_step(gamma):
    log_snr_t, log_snr_s = (
        torch.tensor([-1.0], dtype=torch.float64),
        torch.tensor([0.5], dtype=torch.float64),
    )
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
    forward = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2  # of x_t given x_s
    given_x_0 = sigma_s**2 / sigma_t**2 * forward
    expected = torch.exp((1 - gamma) * given_x_0.log() + gamma * forward.log())
    assert torch.allclose(
        posterior_variance(log_snr_t, log_snr_s, torch.zeros(1, 3, 1, 1), gamma).flatten(), expected
    )


def test_a_step_with_the_true_x_0_and_ddim_stays_on_the_forward_process():
    x_0, eps = noise64(2, "x_0"), noise64(2, "eps")
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        alpha_sigma(torch.tensor(v, dtype=torch.float64)) for v in (-1.0, 2.0)
    )
    x_s = ddim_step(
        alpha_t * x_0 + sigma_t * eps, x_0, torch.tensor(-1.0).double(), torch.tensor(2.0).double()
    )
    assert torch.allclose(x_s, alpha_s * x_0 + sigma_s * eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_gives_the_denoiser_s_estimate_from_pure_noise(sampler):
    x_T = noise64(2, "x_T")
    states = list(
        sample(
            gaussian_denoiser,
            x_T,
            uniform_timesteps(1),
            cosine_log_snr,
            sampler,
            lambda step: noise64(2, step),
        )
    )
    assert len(states) == 1 and (states[0].t, states[0].s) == (1, 0)
    assert torch.equal(states[0].x_0_hat, gaussian_denoiser(x_T, torch.tensor(1.0)))
    # at t = 0 a little noise is left
    assert torch.allclose(states[0].x, states[0].x_0_hat, rtol=0, atol=0.02)


def test_a_state_is_yielded_after_every_step_and_the_trajectory_can_be_left_early():
    calls = []
    trajectory = sample(
        lambda x, t: calls.append(t) or x * 0, noise64(1, 0), uniform_timesteps(5), cosine_log_snr
    )
    first = next(trajectory)
    assert len(calls) == 1 and (first.step, first.steps) == (0, 5)
    rest = list(trajectory)
    assert [s.step for s in rest] == [1, 2, 3, 4] and rest[-1].s == 0
    assert all(a.s == b.t for a, b in zip([first, *rest], rest))


def test_after_step_changes_what_the_next_step_starts_from():
    seen, told = [], []

    def after_step(x, step, s):
        told.append((step, s))
        return torch.full_like(x, step + 10.0)

    states = list(
        sample(
            lambda x, t: seen.append(x.mean().item()) or x,
            torch.zeros(1, 3, 2, 2),
            uniform_timesteps(4),
            cosine_log_snr,
            after_step=after_step,
        )
    )
    assert seen == [0, 10, 11, 12] and states[-1].x.mean() == 13
    assert told == [(0, 0.75), (1, 0.5), (2, 0.25), (3, 0.0)]


@pytest.mark.parametrize("sampler, options", EVERY_TRAJECTORY)
def test_only_ddpm_and_ddim_with_eta_ask_for_noise_once_a_step(sampler, options):
    asked = []
    list(
        sample(
            lambda x, t: x,
            torch.zeros(1, 3, 2, 2),
            uniform_timesteps(3),
            cosine_log_snr,
            sampler,
            lambda step: asked.append(step) or torch.zeros(1, 3, 2, 2),
            **options,
        )
    )
    assert asked == ([0, 1, 2] if sampler == "ddpm" or "eta" in options else [])


@pytest.mark.parametrize("sampler, options", EVERY_TRAJECTORY)
def test_options_change_the_image(sampler, options):
    trajectories = [
        run(
            gaussian_denoiser,
            noise64(1, "x_T"),
            5,
            sampler=sampler,
            noise=lambda step: noise64(1, step),
            **o,
        ).x
        for o in (options, {})
    ]
    assert torch.equal(*trajectories) == (not options)


def test_an_unknown_sampler_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="'euler'.*ddim, ddpm"):
        run(gaussian_denoiser, noise64(1, 0), 2, sampler="euler")


@pytest.mark.parametrize(
    "sampler, eta, message",
    [("ddpm", 0.0, "the ddpm sampler adds"), ("ddim", 0.3, "the ddim sampler with eta 0.3 adds")],
)
def test_noise_is_missed_where_it_is_needed(sampler, eta, message):
    with pytest.raises(ValueError, match=f"{message}.*pass noise="):
        run(gaussian_denoiser, noise64(1, 0), 2, sampler=sampler, eta=eta)


@pytest.mark.parametrize(
    "sampler, options, message",
    [
        ("heun", {"eta": 0.5}, "eta 0.5 with the heun sampler.*sampler='ddim' or 'dpmpp_2m'"),
        ("ddim", {"gamma": 0.5}, "gamma 0.5 with the ddim sampler.*sampler='ddpm'"),
        ("ddim", {"eta": 1.5}, "eta 1.5; expected a number from 0 to 1"),
        ("ddpm", {"gamma": -0.1}, "gamma -0.1; expected a number from 0 to 1"),
    ],
)
def test_an_option_that_would_be_ignored_or_is_out_of_range_is_an_error(sampler, options, message):
    with pytest.raises(ValueError, match=message):
        run(
            gaussian_denoiser,
            noise64(1, 0),
            2,
            sampler=sampler,
            noise=lambda step: noise64(1, step),
            **options,
        )


# ---------------------------------------------------------------- the table


def test_a_new_sampler_is_one_update_and_one_row(monkeypatch):
    """Every input that a row may name arrives, and only those that it names."""
    given = []

    def record(x_t, x_0_hat, log_snr_t, log_snr_s, **inputs):
        given.append(inputs)
        return ddim_step(x_t, x_0_hat, log_snr_t, log_snr_s)

    everything = ("noise", "previous", "denoise_s", "eta", "gamma")
    monkeypatch.setitem(SAMPLERS, "all", Sampler(record, everything, always_noisy=True))
    monkeypatch.setitem(SAMPLERS, "none", Sampler(record))
    x_T, noise = noise64(1, "x_T"), lambda step: noise64(1, step)
    last = run(gaussian_denoiser, x_T, 3, sampler="all", noise=noise, eta=0.5, gamma=0.2)
    assert torch.equal(last.x, run(gaussian_denoiser, x_T, 3).x)
    first, middle, end = given
    assert all(set(inputs) == set(everything) for inputs in given)
    assert all(torch.equal(inputs["noise"], noise(step)) for step, inputs in enumerate(given))
    assert {(inputs["eta"], inputs["gamma"]) for inputs in given} == {(0.5, 0.2)}
    assert first["previous"] is None and end["previous"] is None and end["denoise_s"] is None
    x_0_hat, log_snr = middle["previous"]
    t, s = uniform_timesteps(3)[[0, 2]].double()
    assert torch.equal(x_0_hat, gaussian_denoiser(x_T, t)) and log_snr == cosine_log_snr(t)
    assert torch.equal(middle["denoise_s"](x_T), gaussian_denoiser(x_T, s))
    given.clear()
    run(gaussian_denoiser, x_T, 2, sampler="none")
    assert given == [{}, {}]
    assert samplers_with("eta") == ("ddim", "dpmpp_2m", "all")
    with pytest.raises(ValueError, match="the all sampler adds fresh noise"):
        run(gaussian_denoiser, x_T, 2, sampler="all")
    with pytest.raises(ValueError, match="gamma 0.5 with the none sampler.*'ddpm' or 'all'"):
        run(gaussian_denoiser, x_T, 2, sampler="none", gamma=0.5)


def test_the_update_itself_misses_fresh_noise_too():
    x, t, s = noise64(1, "x"), torch.tensor(-1.0).double(), torch.tensor(1.0).double()
    with pytest.raises(ValueError, match="eta 0.5 adds fresh noise: pass noise="):
        ddim_step(x, x, t, s, eta=0.5)


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
