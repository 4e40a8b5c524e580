"""Noise schedules, in float64."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from imagen_mini.diffusion import schedules
from imagen_mini.diffusion.schedules import (
    LOG_SNR_MAX,
    LOG_SNR_MIN,
    Schedule,
    alpha_sigma,
    as_schedule,
    cosine_log_snr,
    cosine_t,
    interpolated_log_snr,
    linear_log_snr,
    linear_t,
    log_snr_from_betas,
    make_schedule,
    numeric_t,
    rescale_terminal_snr,
    resolution_shift,
    sigmoid_log_snr,
    sigmoid_t,
    zero_terminal_snr,
)
from imagen_mini.diffusion.timesteps import (
    karras_timesteps,
    log_snr_timesteps,
    mixed_timesteps,
    spaced_timesteps,
    uniform_timesteps,
)
from sample import plot_schedules

T = torch.linspace(0, 1, 1001, dtype=torch.float64)
SCHEDULES = {  # each with its inverse
    "cosine": make_schedule("cosine"),
    "cosine, shifted": make_schedule("cosine", shift=-2.0),
    "linear": make_schedule("linear"),
    "linear, shifted": make_schedule("linear", shift=1.5),
    "sigmoid": make_schedule("sigmoid"),
    "sigmoid, other numbers": Schedule(
        partial(sigmoid_log_snr, shift=-1.0, start=0, end=3, tau=0.7),
        partial(sigmoid_t, shift=-1.0, start=0, end=3, tau=0.7),
    ),
    "interpolated": Schedule(partial(interpolated_log_snr, size=256, low=32, high=128)),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@pytest.mark.parametrize("shift", [0.0, -1.0, 2.5])
def test_alpha_squared_and_sigma_squared_add_up_to_one(shift):
    alpha, sigma = alpha_sigma(cosine_log_snr(T, shift))
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(T), rtol=0, atol=1e-14)


def test_alpha_and_sigma_have_the_log_snr_they_were_made_from():
    log_snr = torch.linspace(-12, 12, 97, dtype=torch.float64)
    alpha, sigma = alpha_sigma(log_snr)
    assert torch.allclose(torch.log(alpha**2 / sigma**2), log_snr, rtol=0, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_log_snr_falls_strictly_in_t(schedule, dtype):
    log_snr = schedule(T.to(dtype))
    assert log_snr.dtype == dtype and (log_snr.diff() < 0).all()


@every_schedule
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_the_inverse_finds_the_time_of_a_log_snr(schedule, dtype, tolerance):
    t = T.to(dtype)
    assert (
        schedule.inverse(schedule(t)).dtype == dtype
        and (schedule.inverse(schedule(t)) - t).abs().max() < tolerance
    )


@pytest.mark.parametrize(
    "schedule, last",
    [(cosine_log_snr, LOG_SNR_MIN), (sigmoid_log_snr, LOG_SNR_MIN), (linear_log_snr, -10.05)],
)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-4), (torch.float32, 1e-2)])
def test_the_ends_are_clipped_and_an_end_inside_the_range_is_kept(schedule, last, dtype, tolerance):
    ends = schedule(torch.tensor([0.0, 1.0], dtype=dtype))
    assert ends.tolist() == pytest.approx([LOG_SNR_MAX, last], abs=tolerance)


@pytest.mark.parametrize("schedule", [linear_log_snr, sigmoid_log_snr])
def test_the_shift_is_added_after_the_clipping(schedule):
    assert torch.allclose(schedule(T, shift=-1.25), schedule(T) - 1.25, rtol=0, atol=1e-12)


def test_between_the_ends_it_is_the_cosine_up_to_the_clipping():
    # alpha = cos(pi t / 2) in the papers; clipping squeezes t by less than 0.4 % at either end
    alpha, _ = alpha_sigma(cosine_log_snr(T))
    assert (alpha - torch.cos(math.pi * T / 2)).abs().max() < 0.004


def test_it_is_symmetric_alpha_at_t_is_sigma_at_one_minus_t():
    alpha, sigma = alpha_sigma(cosine_log_snr(T))
    assert torch.allclose(alpha, sigma.flip(0), rtol=0, atol=1e-12)


def test_between_the_ends_linear_and_sigmoid_are_their_formulas_up_to_the_clipping():
    linear, sigmoid = (
        alpha_sigma(schedule(T))[0] ** 2 for schedule in (linear_log_snr, sigmoid_log_snr)
    )
    g = torch.sigmoid(6 * T - 3)
    assert (linear - torch.exp(-0.1 * T - 9.95 * T**2)).abs().max() < 3e-4
    assert (sigmoid - (g[-1] - g) / (g[-1] - g[0])).abs().max() < 3e-5


def test_a_large_tau_makes_the_sigmoid_schedule_a_straight_line_of_alpha_squared():
    assert (alpha_sigma(sigmoid_log_snr(T, tau=100.0))[0] ** 2 - (1 - T)).abs().max() < 1e-3
    assert (alpha_sigma(sigmoid_log_snr(T, tau=1.0))[0] ** 2 - (1 - T)).abs().max() > 0.05


def test_the_shift_is_added_to_the_log_snr():
    assert torch.allclose(cosine_log_snr(T, -1.25), cosine_log_snr(T) - 1.25, rtol=0, atol=1e-12)


def test_a_negative_shift_is_noisier_at_every_t():
    assert (alpha_sigma(cosine_log_snr(T, -1.0))[1] > alpha_sigma(cosine_log_snr(T))[1]).all()


def test_a_schedule_object_is_its_function_its_inverse_and_its_alpha_and_sigma():
    schedule = make_schedule("linear", shift=-1.5)
    log_snr = linear_log_snr(T, shift=-1.5)
    assert torch.equal(schedule(T), log_snr) and torch.equal(schedule.log_snr(T), log_snr)
    assert torch.equal(schedule.inverse(log_snr), linear_t(log_snr, shift=-1.5))
    assert all(map(torch.equal, schedule.alpha_sigma(T), alpha_sigma(log_snr)))


def test_a_function_is_taken_for_a_schedule_and_inverted_by_bisection():
    schedule = as_schedule(cosine_log_snr)
    assert as_schedule(schedule) is schedule and torch.equal(schedule(T), cosine_log_snr(T))
    log_snr = cosine_log_snr(T)
    assert torch.equal(schedule.inverse(log_snr), numeric_t(log_snr, cosine_log_snr))
    assert (schedule.inverse(log_snr) - cosine_t(log_snr)).abs().max() < 1e-12


def test_every_schedule_in_the_table_can_be_made_by_its_name_and_has_a_closed_inverse():
    assert list(schedules.SCHEDULES) == list(schedules.SCHEDULE_INVERSES)
    for name, function in schedules.SCHEDULES.items():
        assert torch.equal(make_schedule(name, 0.5)(T), function(T, 0.5))
    with pytest.raises(ValueError, match="'quadratic'; expected one of cosine, linear, sigmoid"):
        make_schedule("quadratic")


def test_a_schedule_without_a_closed_inverse_needs_one_row_only(monkeypatch):
    # alpha^2 falls in a straight line from 0.99 to 0.01
    straight = lambda t, shift=0.0: torch.logit(0.99 - 0.98 * t) + shift
    monkeypatch.setitem(schedules.SCHEDULES, "straight", straight)
    schedule = make_schedule("straight", shift=-1.0)
    assert (schedule.inverse(straight(T) - 1) - T).abs().max() < 1e-12


# ---------------------------------------------------------------- larger images, pure noise


def test_the_resolution_shift_makes_up_for_the_noise_that_averaging_removes():
    noise = torch.randn(
        4, 3, 256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    left = F.avg_pool2d(noise, 4).std()  # of one unit of noise, in the same image at 64 px
    alpha, sigma = alpha_sigma(cosine_log_snr(T, resolution_shift(256)))
    assert torch.allclose(
        torch.log(alpha**2 / (left * sigma) ** 2), cosine_log_snr(T), rtol=0, atol=0.02
    )


@pytest.mark.parametrize("schedule", [cosine_log_snr, linear_log_snr])
def test_the_interpolated_schedule_goes_from_the_larger_image_s_to_the_smaller_one_s(schedule):
    log_snr = interpolated_log_snr(T, 512, low=32, high=256, schedule=schedule)
    low, high = (schedule(T, shift=2 * math.log(reference / 512)) for reference in (32, 256))
    assert torch.allclose(log_snr, T * low + (1 - T) * high, rtol=0, atol=1e-12)
    assert log_snr[0] == high[0] and log_snr[-1] == low[-1] and (low < high).all()


def test_an_interpolation_that_need_not_fall_is_refused():
    with pytest.raises(ValueError, match="low 256 is larger than high 32"):
        interpolated_log_snr(T, 512, low=256, high=32)


@pytest.mark.parametrize("schedule", [cosine_log_snr, linear_log_snr, sigmoid_log_snr])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zero_terminal_snr_ends_in_pure_noise_keeps_the_first_and_is_invertible(schedule, dtype):
    t, rescaled = T.to(dtype), zero_terminal_snr(schedule)
    log_snr = rescaled(t)
    assert (
        log_snr.dtype == dtype
        and log_snr[-1] == -math.inf
        and log_snr[:-1].isfinite().all()
        and (log_snr.diff() < 0).all()
    )
    assert rescaled(t[-1]) == -math.inf  # of a scalar, too
    assert log_snr[0].item() == pytest.approx(schedule(T[0]).item(), abs=1e-5)
    assert [c.item() for c in alpha_sigma(log_snr[-1])] == [0, 1]
    assert (numeric_t(log_snr, rescaled) - t).abs().max() < (
        1e-9 if dtype == torch.float64 else 1e-6
    )


def test_zero_terminal_snr_moves_alpha_along_a_straight_line():
    before, after = (
        alpha_sigma(schedule(T))[0]
        for schedule in (linear_log_snr, zero_terminal_snr(linear_log_snr))
    )
    slope = (after[0] - after[-1]) / (before[0] - before[-1])
    assert torch.allclose(after, slope * (before - before[-1]), rtol=0, atol=1e-9)


# ---------------------------------------------------------------- DDPM's discrete steps

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


def betas_from_log_snr(log_snr):
    """beta_i = 1 - alpha_bar_i / alpha_bar_(i - 1), from alpha_bar_0 = 1."""
    alpha_bar = torch.cat([torch.ones(1, dtype=log_snr.dtype), torch.sigmoid(log_snr)])
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


def test_alpha_bar_is_alpha_squared():
    alpha_bar = torch.cumprod(1 - BETAS, 0)
    alpha, sigma = alpha_sigma(log_snr_from_betas(BETAS))
    assert torch.allclose(alpha**2, alpha_bar, rtol=1e-12) and torch.allclose(
        sigma**2, 1 - alpha_bar, rtol=1e-12
    )


def test_betas_to_log_snr_and_back():
    assert torch.allclose(betas_from_log_snr(log_snr_from_betas(BETAS)), BETAS, rtol=1e-9)


@every_schedule
def test_log_snr_to_betas_and_back(schedule):
    log_snr = schedule(T[1:])
    betas = betas_from_log_snr(log_snr)
    assert ((0 < betas) & (betas < 1)).all()
    assert torch.allclose(log_snr_from_betas(betas), log_snr, rtol=0, atol=1e-8)


def test_a_last_beta_of_one_is_pure_noise():
    log_snr = log_snr_from_betas(torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64))
    assert log_snr[-1] == -math.inf and betas_from_log_snr(log_snr).tolist() == pytest.approx(
        [0.1, 0.5, 1.0]
    )


def test_the_linear_schedule_is_ddpm_s_in_continuous_time():
    error = (linear_log_snr(T[1:]) - log_snr_from_betas(BETAS)).abs()
    assert error.max() < 0.16 and error[5:].max() < 0.1
    # an index off by one shows
    assert (log_snr_from_betas(BETAS)[:-1] - linear_log_snr(T[2:])).abs()[:9].max() > 0.16


def test_rescaling_discrete_steps_leaves_the_first_and_empties_the_last():
    log_snr = log_snr_from_betas(BETAS)
    rescaled = rescale_terminal_snr(log_snr, log_snr[0], log_snr[-1])
    assert (
        rescaled[0].item() == pytest.approx(log_snr[0].item(), abs=1e-9)
        and rescaled[-1] == -math.inf
    )
    assert (rescaled[1:] < log_snr[1:]).all()


def test_rescaling_takes_what_rounding_makes_of_the_last_for_the_last():
    first, last = torch.tensor(5.0).double(), torch.tensor(-9.0).double()
    rounded = torch.stack([torch.nextafter(last, end) for end in (first, last - 1)])
    assert (
        rescale_terminal_snr(rounded, first, last).tolist() == [-math.inf] * 2
        and rescale_terminal_snr(last + 1e-6, first, last).isfinite()
    )


# ---------------------------------------------------------------- where the sampler stops


def test_uniform_timesteps_fall_from_one_to_zero_in_equal_steps():
    timesteps = uniform_timesteps(8)
    assert timesteps.tolist() == [1 - i / 8 for i in range(9)]
    assert uniform_timesteps(1).tolist() == [1, 0]


@pytest.mark.parametrize("steps", [0, -3])
def test_fewer_than_one_step_is_refused(steps):
    with pytest.raises(ValueError, match=f"at least 1; got {steps}"):
        uniform_timesteps(steps)


@every_schedule
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_other_spacings_also_fall_from_one_to_zero(schedule, steps):
    for timesteps in (
        spacing(steps, schedule)
        for spacing in (log_snr_timesteps, karras_timesteps, mixed_timesteps)
    ):
        assert timesteps.dtype == uniform_timesteps(steps).dtype and len(timesteps) == steps + 1
        assert timesteps[0] == 1 and timesteps[-1] == 0 and (timesteps.diff() < 0).all()


@every_schedule
def test_the_spacings_are_even_in_what_they_say(schedule):
    def even(values):  # up to the float32 of the times
        return torch.allclose(
            values.diff(),
            values.diff().mean(),
            rtol=0,
            atol=0.01 * values.diff().abs().mean().item(),
        )

    log_snr = schedule(log_snr_timesteps(12, schedule).double())
    assert even(log_snr) and not even(schedule(uniform_timesteps(12).double()))
    for rho in (1.0, 7.0):
        alpha, sigma = alpha_sigma(schedule(karras_timesteps(12, schedule, rho).double()))
        assert even((sigma / alpha) ** (1 / rho)) and not even((sigma / alpha) ** (1 / (rho + 3)))


@every_schedule
def test_a_spacing_by_its_name_needs_no_closed_inverse(schedule):
    for spacing, expected in (
        ("uniform", uniform_timesteps(9)),
        ("log_snr", log_snr_timesteps(9, schedule)),
        ("karras", karras_timesteps(9, schedule)),
        ("mixed", mixed_timesteps(9, schedule)),
    ):
        assert torch.allclose(
            spaced_timesteps(spacing, 9, schedule.log_snr), expected, rtol=0, atol=1e-6
        )


def test_mixed_timesteps_have_the_mean_of_both_log_snrs_and_their_ends():
    even_in_t, even_in_log_snr = (
        cosine_log_snr(timesteps.double())
        for timesteps in (uniform_timesteps(10), log_snr_timesteps(10, make_schedule("cosine")))
    )
    for share in (0.0, 0.3, 1.0):
        mixed = cosine_log_snr(mixed_timesteps(10, make_schedule("cosine"), share).double())
        assert torch.allclose(mixed, (1 - share) * even_in_t + share * even_in_log_snr, atol=1e-2)


@pytest.mark.parametrize("spacing", [log_snr_timesteps, karras_timesteps, mixed_timesteps])
def test_infinity_cannot_be_divided_into_steps(spacing):
    schedule = zero_terminal_snr(cosine_log_snr)
    with pytest.raises(ValueError, match="from log_snr -inf to 12.*uniform_timesteps"):
        spacing(5, schedule)


@pytest.mark.parametrize("spacing", [log_snr_timesteps, karras_timesteps, mixed_timesteps])
def test_fewer_than_one_step_is_refused_by_every_spacing(spacing):
    with pytest.raises(ValueError, match="at least 1; got 0"):
        spacing(0, make_schedule("cosine"))


# ---------------------------------------------------------------- the plot


def test_the_image_shows_every_schedule(tmp_path):
    plot_schedules.main(["--out", str(tmp_path / "of" / "schedules.png")])
    with Image.open(tmp_path / "of" / "schedules.png") as image:
        image.load()
    log_snr, alpha, sigma = plot_schedules.plot_schedule_curves(plot_schedules.SCHEDULES).axes
    for curves in zip(log_snr.lines, alpha.lines, sigma.lines, strict=True):
        t, expected = (
            torch.as_tensor(curves[0].get_xdata()),
            plot_schedules.SCHEDULES[curves[0].get_label()],
        )
        values = [torch.as_tensor(curve.get_ydata()) for curve in curves]
        assert torch.equal(values[0], expected(t)) and all(
            map(torch.equal, values[1:], alpha_sigma(values[0]))
        )
    assert (
        len(log_snr.lines)
        == len(plot_schedules.SCHEDULES)
        == len({line.get_color() for line in log_snr.lines})
    )
