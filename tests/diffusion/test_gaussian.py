"""The forward process, the three parameterisations and the loss, in float64."""

import itertools
import math
from functools import partial

import pytest
import torch

from imagen_mini.diffusion.gaussian import PREDICTION_TYPES, from_x_0, q_sample, to_x_0
from imagen_mini.diffusion.losses import (
    LOSS_WEIGHTS,
    capped_v_weight,
    convert_loss_weight,
    denoising_loss,
    min_snr_weight,
    p2_weight,
    simple_weight,
    snr_factor,
    sqrt_snr_weight,
)
from imagen_mini.diffusion.schedules import LOG_SNR_MAX, LOG_SNR_MIN, alpha_sigma

LOG_SNR = torch.linspace(LOG_SNR_MIN, LOG_SNR_MAX, 49, dtype=torch.float64)


@pytest.fixture
def images():
    """x_0, eps and the x_t that they make, one for each log-SNR of LOG_SNR."""
    g = torch.Generator().manual_seed(0)
    x_0 = torch.rand(len(LOG_SNR), 3, 5, 4, generator=g, dtype=torch.float64) * 2 - 1
    eps = torch.randn(x_0.shape, generator=g, dtype=torch.float64)
    return x_0, eps, q_sample(x_0, eps, LOG_SNR)


def truth(prediction_type, x_0, eps):
    """What the network should predict, from its definition in x_0 and eps alone."""
    alpha, sigma = (c[:, None, None, None] for c in alpha_sigma(LOG_SNR))
    return {"x_0": x_0, "eps": eps, "v": alpha * eps - sigma * x_0}[prediction_type]


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_target_is_the_one_of_the_definition(prediction_type, images):
    x_0, eps, x_t = images
    assert torch.allclose(
        from_x_0(x_0, prediction_type, x_t, LOG_SNR),
        truth(prediction_type, x_0, eps),
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("one, other", list(itertools.permutations(PREDICTION_TYPES, 2)))
def test_one_parameterisation_to_another_and_back_changes_nothing(one, other, images):
    x_0, eps, x_t = images
    start = truth(one, x_0, eps)
    there = from_x_0(to_x_0(start, one, x_t, LOG_SNR), other, x_t, LOG_SNR)
    back = from_x_0(to_x_0(there, other, x_t, LOG_SNR), one, x_t, LOG_SNR)
    assert torch.allclose(there, truth(other, x_0, eps), rtol=0, atol=1e-9)
    assert torch.allclose(back, start, rtol=0, atol=1e-9)


def test_each_image_is_noised_by_its_own_log_snr():
    x_0, eps = torch.ones(3, 3, 2, 2), torch.zeros(3, 3, 2, 2)
    log_snr = torch.tensor([-2.0, 0.0, 2.0])
    assert torch.allclose(q_sample(x_0, eps, log_snr)[:, 0, 0, 0], torch.sigmoid(log_snr).sqrt())


def test_q_sample_is_the_image_at_one_end_and_the_noise_at_the_other(images):
    x_0, eps, _ = images
    clean = q_sample(x_0, eps, torch.full((len(x_0),), LOG_SNR_MAX, dtype=torch.float64))
    noise = q_sample(x_0, eps, torch.full((len(x_0),), LOG_SNR_MIN, dtype=torch.float64))
    assert (clean - x_0).abs().max() < 0.0025 * (eps.abs().max() + 1)  # sigma = e^-6
    assert (noise - eps).abs().max() < 0.0025 * (eps.abs().max() + 1)


@pytest.mark.parametrize("convert", [to_x_0, from_x_0])
def test_an_unknown_parameterisation_is_an_error_that_lists_the_known_ones(convert, images):
    x_0, _, x_t = images
    with pytest.raises(ValueError, match=r"'epsilon'.*'eps', 'x_0', 'v'"):
        convert(x_0, "epsilon", x_t, LOG_SNR)


@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_of_one_and_scalars_keep_shape_and_dtype(b, dtype):
    x_0, eps = torch.ones(b, 3, 4, 4, dtype=dtype), torch.zeros(b, 3, 4, 4, dtype=dtype)
    for log_snr in (torch.tensor(0.5, dtype=dtype), torch.full((b,), 0.5, dtype=dtype)):
        x_t = q_sample(x_0, eps, log_snr)
        for prediction_type in PREDICTION_TYPES:
            there = from_x_0(x_0, prediction_type, x_t, log_snr)
            back = to_x_0(there, prediction_type, x_t, log_snr)
            assert there.shape == back.shape == x_0.shape and there.dtype == back.dtype == dtype
            assert torch.allclose(back, x_0, atol=1e-5)


def test_from_pure_noise_v_and_x_0_say_what_the_image_is_and_eps_is_refused():
    x_0, eps = (
        torch.rand(2, 3, 2, 2, dtype=torch.float64),
        torch.randn(2, 3, 2, 2, dtype=torch.float64),
    )
    log_snr = torch.tensor([-math.inf, 0.0], dtype=torch.float64)
    x_t = q_sample(x_0, eps, log_snr)
    assert torch.equal(x_t[0], eps[0])
    for prediction_type in PREDICTION_TYPES:
        assert from_x_0(x_0, prediction_type, x_t, log_snr).isfinite().all(), prediction_type
    for prediction_type in ("x_0", "v"):
        assert torch.allclose(
            to_x_0(from_x_0(x_0, prediction_type, x_t, log_snr), prediction_type, x_t, log_snr),
            x_0,
            rtol=0,
            atol=1e-12,
        ), prediction_type
        assert (
            denoising_loss(torch.zeros_like(x_0), prediction_type, x_0, x_t, log_snr)
            .isfinite()
            .all()
        )
    with pytest.raises(ValueError, match="log_snr -inf.*predict 'x_0' or 'v'"):
        to_x_0(eps, "eps", x_t, log_snr)
    with pytest.raises(ValueError, match="log_snr -inf.*predict 'x_0' or 'v'"):
        denoising_loss(eps, "eps", x_0, x_t, log_snr)


# ---------------------------------------------------------------- loss


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_loss_of_the_perfect_prediction_is_zero(prediction_type, images):
    x_0, eps, x_t = images
    loss = denoising_loss(truth(prediction_type, x_0, eps), prediction_type, x_0, x_t, LOG_SNR)
    assert loss.shape == (len(x_0),) and loss.max() < 1e-10


def test_the_loss_is_the_weighted_squared_error_of_x_0_in_every_parameterisation(images):
    x_0, _, x_t = images
    x_0_hat = x_0 + torch.linspace(-0.5, 0.5, x_0[0].numel(), dtype=torch.float64).view(
        x_0[0].shape
    )
    sigma = alpha_sigma(LOG_SNR)[1]
    expected = torch.minimum(1 / sigma**2, torch.tensor(5.0)) * (x_0_hat - x_0).square().mean(
        (1, 2, 3)
    )
    for prediction_type in PREDICTION_TYPES:
        loss = denoising_loss(
            from_x_0(x_0_hat, prediction_type, x_t, LOG_SNR), prediction_type, x_0, x_t, LOG_SNR
        )
        # the error itself is taken in float32
        assert torch.allclose(loss, expected, rtol=2e-3), prediction_type


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_squared_error_of_x_0_grows_in_another_space_as_stated(prediction_type, images):
    x_0, _, x_t = images
    error = (
        (
            from_x_0(x_0 + 0.1, prediction_type, x_t, LOG_SNR)
            - from_x_0(x_0, prediction_type, x_t, LOG_SNR)
        )
        .square()
        .mean((1, 2, 3))
    )
    assert torch.allclose(error, snr_factor(prediction_type, LOG_SNR) * 0.01, rtol=1e-6)


def test_without_its_cap_the_loss_is_the_plain_squared_error_of_v(images):
    x_0, _, x_t = images
    v = torch.zeros_like(x_0)
    plain = (v - from_x_0(x_0, "v", x_t, LOG_SNR)).square().mean((1, 2, 3))
    assert torch.allclose(
        denoising_loss(v, "v", x_0, x_t, LOG_SNR, weight=partial(capped_v_weight, cap=math.inf)),
        plain,
        rtol=1e-5,
    )


def test_the_weight_never_exceeds_its_cap_and_reaches_it():
    weight = capped_v_weight(LOG_SNR, 5.0)
    assert weight.max() == 5 and weight.min() == pytest.approx(1, abs=1e-4)


# ---------------------------------------------------------------- weights

SNR = LOG_SNR.exp()
WEIGHTS = {"simple": simple_weight, **LOSS_WEIGHTS}


def test_the_sqrt_snr_weight_is_one_in_noise_then_the_root_of_the_snr_from_its_knee_to_its_cap():
    at = torch.tensor([-20.0, -5.0, 0.0, 2.0, 12.0], dtype=torch.float64)
    assert torch.allclose(
        sqrt_snr_weight(at, cap=60.0),
        torch.tensor([1.0, 2**0.5, math.exp(2.5), math.exp(3.5), 60.0], dtype=torch.float64),
        rtol=1e-2,
    )
    assert torch.allclose(
        sqrt_snr_weight(at, math.inf, knee=0.0)[3:], (at[3:] / 2).exp(), rtol=0.08
    )


@pytest.mark.parametrize(
    "prediction_type, expected",
    [
        ("eps", SNR.clamp(max=5) / SNR),
        ("x_0", SNR.clamp(max=5)),
        ("v", SNR.clamp(max=5) / (SNR + 1)),
    ],
)
def test_min_snr_is_the_weight_that_its_paper_gives_for_each_parameterisation(
    prediction_type, expected
):
    assert torch.allclose(
        convert_loss_weight(prediction_type, min_snr_weight(LOG_SNR), LOG_SNR), expected, rtol=1e-12
    )


@pytest.mark.parametrize("gamma, k", [(0.5, 1.0), (1.0, 1.0), (2.0, 0.3)])
def test_p2_divides_the_plain_loss_on_eps(gamma, k):
    assert torch.allclose(
        convert_loss_weight("eps", p2_weight(LOG_SNR, gamma=gamma, k=k), LOG_SNR),
        (k + SNR) ** -gamma,
        rtol=1e-10,
    )


def test_p2_with_gamma_zero_and_min_snr_without_a_bound_are_the_plain_loss_on_eps():
    assert torch.allclose(p2_weight(LOG_SNR, gamma=0.0), simple_weight(LOG_SNR), rtol=1e-12)
    assert torch.equal(min_snr_weight(LOG_SNR, gamma=math.inf), simple_weight(LOG_SNR))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_loss_is_the_same_in_every_parameterisation(prediction_type, name, images):
    x_0, eps, x_t = images
    x_0_hat = x_0 + torch.linspace(-0.5, 0.5, x_0[0].numel(), dtype=torch.float64).view(
        x_0[0].shape
    )
    expected = WEIGHTS[name](LOG_SNR) * (x_0_hat - x_0).square().mean((1, 2, 3))
    loss = denoising_loss(
        from_x_0(x_0_hat, prediction_type, x_t, LOG_SNR),
        prediction_type,
        x_0,
        x_t,
        LOG_SNR,
        weight=WEIGHTS[name],
    )
    assert torch.allclose(loss, expected, rtol=2e-3)  # the error itself is taken in float32


def test_the_simple_weight_is_the_plain_squared_error_of_eps(images):
    x_0, eps, x_t = images
    plain = eps.square().mean((1, 2, 3))
    assert torch.allclose(
        denoising_loss(torch.zeros_like(eps), "eps", x_0, x_t, LOG_SNR, weight=simple_weight),
        plain,
        rtol=1e-5,
    )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_stay_finite_and_positive_far_beyond_the_schedules(prediction_type, name):
    log_snr = torch.tensor([-60.0, -12.0, 0.0, 12.0, 60.0])
    weight = convert_loss_weight(prediction_type, WEIGHTS[name](log_snr), log_snr)
    assert weight.dtype == torch.float32 and weight.isfinite().all() and (weight > 0).all()


def test_the_cap_of_p2_is_one_of_the_weight_and_never_reached_by_default():
    assert p2_weight(LOG_SNR).max() < 1 and p2_weight(LOG_SNR, 5.0).max() < 1
    assert torch.equal(p2_weight(LOG_SNR, 0.25), p2_weight(LOG_SNR).clamp(max=0.25))


@pytest.mark.parametrize("name", LOSS_WEIGHTS)
def test_every_weight_in_the_table_takes_the_cap_as_its_second_argument(name):
    assert LOSS_WEIGHTS[name](LOG_SNR, 0.5).max() <= 0.5


def test_the_former_name_of_a_weight_is_still_known():
    assert LOSS_WEIGHTS["balanced"] is LOSS_WEIGHTS["sqrt_snr"] is sqrt_snr_weight
