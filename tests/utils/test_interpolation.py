"""Interpolation between noises."""

import math

import pytest
import torch

from imagen_mini.utils.interpolation import slerp
from imagen_mini.utils.rng import randn


def test_spherical_interpolation_keeps_the_length_and_meets_both_ends():
    a, b = randn([0, 1], (3, 64, 64), "noise", dtype=torch.float64)
    assert torch.allclose(slerp(a, b, 0.0), a) and torch.allclose(slerp(a, b, 1.0), b)
    assert slerp(a, b, 0.5).std() == pytest.approx(1, abs=0.02) and torch.lerp(
        a, b, 0.5
    ).std() == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert torch.allclose(slerp(a, a, 0.3), a)
