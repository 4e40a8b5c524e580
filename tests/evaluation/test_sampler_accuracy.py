"""Network calls of samplers, and the order at which their errors fall."""

import pytest
import torch

from imagen_mini.diffusion.samplers import SAMPLERS, sample
from imagen_mini.diffusion.schedules import cosine_log_snr
from imagen_mini.diffusion.timesteps import uniform_timesteps
from imagen_mini.evaluation.sampler_accuracy import (
    fitted_order,
    integration_errors,
    nearest_shares,
    network_calls,
)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_network_calls_are_as_many_as_are_made(sampler):
    asked = []
    list(
        sample(
            lambda x, t: asked.append(t) or x,
            torch.zeros(1, 3, 2, 2),
            uniform_timesteps(5),
            cosine_log_snr,
            sampler,
            lambda step: torch.zeros(1, 3, 2, 2),
        )
    )
    assert len(asked) == network_calls(sampler, 5)


@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_errors_fall_at_the_order_of_the_method(sampler, order):
    calls, error = zip(*integration_errors(sampler, [32, 64, 128], cosine_log_snr))
    assert calls == tuple(network_calls(sampler, n) for n in (32, 64, 128))
    assert fitted_order(calls, error) == pytest.approx(order, abs=0.3), error


def test_the_fitted_order_of_a_power_is_its_exponent():
    assert fitted_order([2, 4, 8], [5 * n**-1.5 for n in (2, 4, 8)]) == pytest.approx(1.5)


def test_shares_count_the_nearest():
    of = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert nearest_shares(
        torch.tensor([[0.1, 0.0], [0.9, 1.0], [1.2, 1.0], [0.0, -3.0]]), of
    ).tolist() == [
        0.5,
        0.5,
        0,
    ]
