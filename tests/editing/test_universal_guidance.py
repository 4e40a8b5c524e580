"""Universal guidance against its paper's algorithm written out, and against exact posteriors."""

import pytest
import torch

from imagen_mini.diffusion.gaussian import eps_from_x_0, x_0_from_eps
from imagen_mini.diffusion.guidance import guide_by_loss
from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import alpha_sigma, make_schedule
from imagen_mini.diffusion.timesteps import log_snr_timesteps
from imagen_mini.editing.image_losses import image_loss
from imagen_mini.editing.universal_guidance import guide_backward, sample_with_recurrence
from imagen_mini.evaluation.analytic_denoisers import gaussian_denoiser, mixture_denoiser
from imagen_mini.utils.rng import randn

SCHEDULE = make_schedule("cosine")
T = torch.tensor(0.6, dtype=torch.float64)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X_T, TARGET = noise(3, 3, 4, 4), noise(1, 3, 4, 4, seed=1)
DENOISE = gaussian_denoiser(0.2, 0.5, SCHEDULE)


def fresh(purpose, number):
    return randn([0, 1, 2], (3, 4, 4), purpose, number, dtype=torch.float64)


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_backward_guidance_descends_a_quadratic_loss_as_it_must(steps):
    """Every step leaves the share 1 - rate of the distance to the minimum."""
    guided = guide_backward(DENOISE, image_loss(TARGET), steps, 0.3)(X_T, T)
    plain = DENOISE(X_T, T)
    assert torch.allclose(guided, TARGET + 0.7**steps * (plain - TARGET), rtol=0, atol=1e-12)
    assert not guided.requires_grad


def test_backward_guidance_moves_only_what_the_loss_looks_at():
    corner = torch.zeros(4, 4, dtype=torch.float64)
    corner[0, 0] = 1
    loss = lambda x: (corner * (x - TARGET)).square().sum((1, 2, 3)) / 2
    moved = guide_backward(DENOISE, loss, 50, 0.3)(X_T, T) - DENOISE(X_T, T)
    assert not moved[..., 1:].any() and not moved[..., 1:, :].any()
    assert torch.allclose((DENOISE(X_T, T) + moved)[..., 0, 0], TARGET[..., 0, 0].expand(3, 3))


def test_forward_backward_and_recurrence_are_the_algorithm_of_the_paper():
    """Algorithm 1 as it stands there, in eps and alpha-bar, with DDIM as its sampler S."""
    times, rounds, weight = log_snr_timesteps(5, SCHEDULE).double(), 3, 0.4
    loss = image_loss(TARGET)

    def scale(t):  # s(t) = weight / sigma of the paper
        alpha, _ = alpha_sigma(SCHEDULE(torch.tensor(t, dtype=torch.float64)))
        return float(weight / alpha**2)

    forward = guide_by_loss(DENOISE, loss, scale, SCHEDULE)
    denoise = guide_backward(forward, loss, 2, 0.25)
    states = list(sample_with_recurrence(denoise, X_T, times, SCHEDULE, fresh, rounds))

    z = X_T
    for step, (t, s) in enumerate(zip(times[:-1], times[1:])):
        log_snr_t, log_snr_s = SCHEDULE(t), SCHEDULE(s)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(log_snr_t), alpha_sigma(log_snr_s)
        for number in range(step * rounds, (step + 1) * rounds):
            # forward: eps + s(t) d loss / d z_t, where s(t) is weight / sigma
            at = z.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(DENOISE(at, t)).sum(), at)
            eps = eps_from_x_0(DENOISE(z, t), z, log_snr_t) + weight / sigma_t * gradient
            # backward: two steps of gradient descent on z_0
            z_0, delta = x_0_from_eps(eps, z, log_snr_t), 0
            for _ in range(2):
                delta = delta - 0.25 * (z_0 + delta - TARGET)
            eps = eps - alpha_t / sigma_t * delta
            # S(z_t, eps, t), and back
            z = alpha_s * x_0_from_eps(eps, z, log_snr_t) + sigma_s * eps
            if number < (step + 1) * rounds - 1:
                ratio = alpha_t**2 / alpha_s**2
                z = ratio.sqrt() * z + (1 - ratio).sqrt() * fresh("again", number)
        assert torch.allclose(states[step].x, z, rtol=0, atol=1e-8)
    assert [(s.step, s.steps) for s in states] == [(i, 5) for i in range(5)]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_one_round_is_plain_sampling(sampler):
    times = log_snr_timesteps(4, SCHEDULE).double()
    one = sample_with_recurrence(DENOISE, X_T, times, SCHEDULE, fresh, 1, sampler)
    plain = sample(DENOISE, X_T, times, SCHEDULE, sampler, lambda step: fresh("step", step))
    for found, expected in zip(one, plain, strict=True):
        assert torch.equal(found.x, expected.x) and found.s == expected.s


def test_recurrence_keeps_the_distribution_of_every_time():
    """Of one image, steps there and back are exact: x_s stays alpha_s x_0 + sigma_s noise."""
    times = log_snr_timesteps(3, SCHEDULE).double()
    one_image = mixture_denoiser(torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64), SCHEDULE)
    rows = list(range(4000))
    many = lambda purpose, number: randn(
        [0], (len(rows), 1, 1, 1), purpose, number, dtype=torch.float64
    )[0]
    states = sample_with_recurrence(one_image, many("start", 0), times, SCHEDULE, many, 4, "ddpm")
    first = next(iter(states))
    alpha, sigma = alpha_sigma(SCHEDULE(times[1]))
    assert first.x.mean().item() == pytest.approx(float(0.7 * alpha), abs=0.05)
    assert first.x.std().item() == pytest.approx(float(sigma), rel=0.05)


def test_recurrence_lets_a_guided_sample_obey_more():
    times, target = log_snr_timesteps(8, SCHEDULE).double(), 0.8 * torch.ones(1, 3, 4, 4).double()
    denoise = guide_by_loss(DENOISE, image_loss(target), 1.0, SCHEDULE)
    far = []
    for rounds in (1, 6):
        *_, last = sample_with_recurrence(denoise, X_T, times, SCHEDULE, fresh, rounds, "ddpm")
        far.append((last.x_0_hat - target).square().mean().item())
    assert far[1] < far[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, "rounds 0; expected ddim or ddpm, and at least one round"),
        ({"sampler": "dpmpp_2m"}, "sampler 'dpmpp_2m'"),
    ],
)
def test_bad_recurrences_are_errors(arguments, message):
    times = log_snr_timesteps(3, SCHEDULE).double()
    with pytest.raises(ValueError, match=message):
        next(sample_with_recurrence(DENOISE, X_T, times, SCHEDULE, fresh, **arguments))


def test_bad_descents_are_errors():
    with pytest.raises(ValueError, match="steps -1, rate 0.1; expected 0 or more steps"):
        guide_backward(DENOISE, image_loss(TARGET), -1)
    with pytest.raises(ValueError, match="steps 5, rate 0; expected"):
        guide_backward(DENOISE, image_loss(TARGET), rate=0)
