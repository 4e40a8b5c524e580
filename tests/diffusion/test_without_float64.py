"""Sampling on a device without float64, as Apple's GPUs are. The device is emulated."""

from functools import partial

import pytest
import torch
from support.no_float64 import NoFloat64

from imagen_mini.diffusion.guidance import guide_by_loss
from imagen_mini.diffusion.samplers import SAMPLERS, ddim_invert, sample
from imagen_mini.diffusion.schedules import cosine_log_snr, make_schedule, zero_terminal_snr
from imagen_mini.editing.guided_sampling import repaint, sdedit

SCHEDULE = make_schedule("cosine", -2.0)


def on_device(*tensors):
    return [x.as_subclass(NoFloat64) for x in tensors]


def denoise(x_t, t):
    """The best denoiser of standard normal pixels."""
    log_snr = cosine_log_snr(t)
    return torch.sigmoid(log_snr).sqrt() * x_t


def noise(*purpose):
    g = torch.Generator().manual_seed(hash(purpose) % 1000)
    return torch.randn(2, 3, 8, 8, generator=g)


def last(states):
    *_, state = states
    return state.x_0_hat


X_T, TIMES = noise(1), torch.linspace(1, 0, 5)
IMAGE, MASK = noise(2).clamp(-1, 1), (noise(3)[:1, :1] > 0).float()

LOOPS = {
    **{
        name: lambda x, t, image, mask, name=name: sample(
            denoise, x, t, SCHEDULE, name, lambda step: noise(4, step).as_subclass(type(x))
        )
        for name in SAMPLERS
    },
    "pure noise at t = 1": lambda x, t, image, mask: sample(
        denoise, x, t, zero_terminal_snr(SCHEDULE)
    ),
    "inversion": lambda x, t, image, mask: ddim_invert(denoise, image, t, SCHEDULE),
    "SDEdit": lambda x, t, image, mask: sdedit(denoise, image, 0.6, x, t, SCHEDULE),
    "RePaint": lambda x, t, image, mask: repaint(
        denoise,
        image,
        mask,
        x,
        t,
        SCHEDULE,
        lambda purpose, step: noise(purpose, step).as_subclass(type(x)),
        rounds=2,
    ),
    "guidance by a loss": lambda x, t, image, mask: sample(
        guide_by_loss(denoise, lambda x_0_hat: x_0_hat.square().mean(), 1.0, SCHEDULE),
        x,
        t,
        SCHEDULE,
    ),
}


def test_the_emulated_device_has_no_float64():
    (x,) = on_device(X_T)
    for ask in (
        partial(NoFloat64.double, x),
        partial(x.to, torch.float64),
        partial(torch.zeros_like, x, dtype=torch.float64),
    ):
        with pytest.raises(TypeError, match="float64"):
            ask()
    assert x.cpu().double().dtype == torch.float64
    assert isinstance(torch.zeros(1, dtype=torch.float64).to(x), NoFloat64)


@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_returns_the_same_images_there_as_on_the_cpu(loop):
    expected = last(LOOPS[loop](X_T, TIMES, IMAGE, MASK))
    found = last(LOOPS[loop](*on_device(X_T, TIMES, IMAGE, MASK)))
    assert isinstance(found, NoFloat64) and torch.equal(found.cpu(), expected)
