"""What holds of the diffusion mathematics whatever it is given: sizes, precisions, noise levels
from end to end, any number of steps.
"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_mini.diffusion.gaussian import PREDICTION_TYPES, from_x_0, q_sample, to_x_0
from imagen_mini.diffusion.guidance import classifier_free_guidance, dynamic_threshold
from imagen_mini.diffusion.samplers import SAMPLERS, ddim_step, sample, samplers_with
from imagen_mini.diffusion.schedules import SCHEDULES, alpha_sigma
from imagen_mini.diffusion.timesteps import TIMESTEP_SPACINGS, spaced_timesteps
from imagen_mini.utils.rng import generator

settings.register_profile("imagen_mini", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("imagen_mini")

log_snrs = st.floats(-20, 20)
seeds = st.integers(0, 2**31)
shapes = st.tuples(st.integers(1, 4), st.just(3), st.integers(1, 9), st.integers(1, 9))
schedules = st.sampled_from(list(SCHEDULES.values()))


def normal(seed, shape, name, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed, name), dtype=torch.float64).to(dtype)


@given(
    seeds,
    shapes,
    st.lists(log_snrs, min_size=4, max_size=4),
    st.sampled_from(PREDICTION_TYPES),
    st.sampled_from(PREDICTION_TYPES),
)
def test_predictions_convert_into_each_other_and_back(seed, shape, log_snr, one, other):
    log_snr = torch.tensor(log_snr[: shape[0]], dtype=torch.float64)
    x_0, eps = normal(seed, shape, "x_0"), normal(seed, shape, "eps")
    x_t = q_sample(x_0, eps, log_snr)
    as_one = from_x_0(x_0, one, x_t, log_snr)
    as_other = from_x_0(to_x_0(as_one, one, x_t, log_snr), other, x_t, log_snr)
    again = from_x_0(to_x_0(as_other, other, x_t, log_snr), one, x_t, log_snr)
    # e^10 lies between eps and x_0 at the ends
    assert again.shape == shape and torch.allclose(again, as_one, rtol=1e-5, atol=1e-5)


@given(seeds, shapes, log_snrs, st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_noising_keeps_shape_and_precision_and_is_finite(seed, shape, log_snr, dtype):
    x_t = q_sample(
        normal(seed, shape, "x_0", dtype),
        normal(seed, shape, "eps", dtype),
        torch.tensor(log_snr, dtype=dtype),
    )
    assert x_t.shape == shape and x_t.dtype == dtype and x_t.isfinite().all()


@given(seeds, shapes, st.lists(log_snrs, min_size=3, max_size=3).map(sorted))
def test_two_ddim_steps_with_one_estimate_are_one(seed, shape, log_snr):
    t, middle, s = torch.tensor(log_snr, dtype=torch.float64)
    x_0_hat, x_t = normal(seed, shape, "x_0"), normal(seed, shape, "x_t")
    halfway = ddim_step(x_t, x_0_hat, t, middle)
    assert torch.allclose(
        ddim_step(halfway, x_0_hat, middle, s), ddim_step(x_t, x_0_hat, t, s), rtol=0, atol=1e-9
    )


@given(
    seeds,
    shapes,
    st.floats(1e-3, 1e3),
    st.floats(0.5, 1.0),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_the_dynamic_threshold_of_anything(seed, shape, scale, percentile, dtype):
    x = normal(seed, shape, "x", dtype) * scale
    y = dynamic_threshold(x, percentile)
    assert y.shape == shape and y.dtype == dtype and y.abs().max() <= 1
    assert torch.equal(dynamic_threshold(-x, percentile), -y)  # odd
    assert torch.equal(dynamic_threshold(x.flip(0), percentile), y.flip(0))  # each image alone
    assert (x.sign() == y.sign()).all() and (y.abs() <= x.abs()).all()  # towards 0, never across it


@given(seeds, shapes, st.floats(-10, 10), st.floats(-10, 10))
def test_guidance_of_a_guided_prediction_multiplies_the_weights(seed, shape, v, w):
    cond, uncond = normal(seed, shape, "cond"), normal(seed, shape, "uncond")
    once = classifier_free_guidance(classifier_free_guidance(cond, uncond, v), uncond, w)
    assert torch.allclose(once, classifier_free_guidance(cond, uncond, v * w), rtol=0, atol=1e-9)


@given(schedules, st.integers(1, 60), st.sampled_from(TIMESTEP_SPACINGS), st.floats(-4, 4))
def test_every_spacing_of_every_schedule_falls_from_one_to_zero(schedule, steps, spacing, shift):
    timesteps = spaced_timesteps(spacing, steps, lambda t: schedule(t, shift))
    assert len(timesteps) == steps + 1 and timesteps[0] == 1 and timesteps[-1] == 0
    assert (timesteps.diff() < 0).all()


@given(
    seeds,
    shapes,
    schedules,
    st.integers(1, 12),
    st.sampled_from(TIMESTEP_SPACINGS),
    st.sampled_from(list(SAMPLERS)),
    st.floats(0, 1),
)
def test_every_trajectory_towards_a_known_image_ends_at_it(
    seed, shape, schedule, steps, spacing, sampler, eta
):
    x_0 = normal(seed, shape, "x_0")
    states = list(
        sample(
            lambda x, t: x_0.expand_as(x),
            normal(seed, shape, "x_T"),
            spaced_timesteps(spacing, steps, schedule).double(),
            schedule,
            sampler,
            lambda step: normal(seed, shape, step),
            eta=eta if sampler in samplers_with("eta") else 0.0,
        )
    )
    assert len(states) == steps and torch.equal(states[-1].x_0_hat, x_0)
    # where the schedule ends, a little noise is left
    alpha, sigma = alpha_sigma(schedule(torch.zeros((), dtype=torch.float64)))
    assert (states[-1].x - alpha * x_0).abs().max() < 8 * sigma < 0.1
