"""Rules of guidance against what they are known to be: plain guidance in their limits, CFG++ as it
stands in its paper, and exact posteriors where the data and the classifier are known.
"""

import pytest
import torch

from imagen_mini.diffusion.gaussian import eps_from_x_0
from imagen_mini.diffusion.guidance import (
    apply_threshold,
    classifier_free_guidance,
    dynamic_threshold,
    guide_denoisers,
    make_denoiser,
    static_threshold,
)
from imagen_mini.diffusion.guidance_rules import (
    cfg_plus_plus_scale,
    compose,
    guide_by_classifier,
    projected_guidance,
    rescaled_guidance,
)
from imagen_mini.diffusion.samplers import ddpm_step, sample
from imagen_mini.diffusion.schedules import alpha_sigma, cosine_log_snr, make_schedule
from imagen_mini.diffusion.timesteps import log_snr_timesteps
from imagen_mini.evaluation.analytic_denoisers import mixture_denoiser

SCHEDULE = make_schedule("cosine")
T = torch.tensor(0.6, dtype=torch.float64)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


COND, UNCOND = noise(4, 3, 8, 8, seed=1), noise(4, 3, 8, 8, seed=2)
IMAGES = noise(6, 3, 4, 4, seed=3)  # all the images of a little world
KNOWN = mixture_denoiser(IMAGES[:2], SCHEDULE)  # of those that a prompt asks for
ANY = mixture_denoiser(IMAGES, SCHEDULE)


@pytest.mark.parametrize("threshold", ["none", "static", "dynamic"])
def test_the_plain_rule_between_two_denoisers_is_guidance_inside_one(random_text, threshold):
    network = lambda x_t, log_snr, text, control: (
        x_t * text.emb.mean((1, 2))[:, None, None, None] + log_snr[:, None, None, None] * 0.1
    )
    text, x_t = random_text([5, 3], dtype=torch.float64), noise(2, 3, 4, 4)
    scale = lambda t: 1 + 3 * t
    part = lambda emb, w, kind: make_denoiser(network, emb, cosine_log_snr, "v", w, kind)
    guided = guide_denoisers(
        part(text, 1.0, "none"), part(text.null(), 1.0, "none"), scale, threshold=threshold
    )
    expected = part(text, scale, threshold)(x_t, T)
    assert torch.allclose(guided(x_t, T), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("threshold", ["none", "dynamic"])
def test_where_w_is_1_the_other_denoiser_is_not_called_and_no_bit_changes(tiny_pipe, threshold):
    """The images of a network, beside guidance that calls both denoisers at every step."""
    stage, calls = tiny_pipe.stages["base"], []
    text = tiny_pipe.text_encoder(["a red circle", "two blue stars"])
    raw = {"guidance_scale": 1.0, "threshold": "none"}
    cond, null = stage.denoiser(text, **raw), stage.denoiser(text.null(), **raw)
    uncond = lambda x_t, t: calls.append(float(t)) or null(x_t, t)
    scale = lambda t: 3.0 if 0.3 < t < 0.8 else 1.0
    always = lambda x_t, t: apply_threshold(
        classifier_free_guidance(cond(x_t, t), null(x_t, t), scale(float(t))), threshold
    )
    times, x_T = stage.timesteps(5), noise(2, 3, 64, 64).float()
    with torch.no_grad():
        expected = list(sample(always, x_T, times, stage.schedule, "ddim"))
        guided = guide_denoisers(cond, uncond, scale, threshold=threshold)
        found = list(sample(guided, x_T, times, stage.schedule, "ddim"))
    assert all(torch.equal(a.x, b.x) for a, b in zip(found, expected, strict=True))
    assert calls == [float(t) for t in times[:-1] if scale(float(t)) > 1] and 0 < len(calls) < 5


def test_a_worse_network_as_the_other_one_is_autoguidance():
    """A world whose worse network also believes in four more images: leading away from it weighs
    these down.
    """
    x_t = 0.5 * IMAGES[:1] + 0.8 * noise(1, 3, 4, 4, seed=7)
    guided = guide_denoisers(KNOWN, ANY, 2.0)(x_t, T)
    assert torch.allclose(guided, 2 * KNOWN(x_t, T) - ANY(x_t, T), rtol=0, atol=1e-12)


def test_rescaled_guidance_has_the_deviation_of_the_estimate_with_the_prompt():
    rule = rescaled_guidance(phi=1.0)
    found = rule(COND, UNCOND, 7.0)
    deviations = [x.flatten(1).std(1) for x in (found, COND)]
    assert torch.allclose(*deviations, rtol=1e-12)
    plain = classifier_free_guidance(COND, UNCOND, 7.0)
    assert torch.allclose(rescaled_guidance(phi=0.0)(COND, UNCOND, 7.0), plain)
    half = rescaled_guidance(phi=0.5)(COND, UNCOND, 7.0)
    assert torch.allclose(half, (found + plain) / 2)
    assert plain.flatten(1).std(1).min() > 3 * deviations[1].max()  # there was something to do
    with pytest.raises(ValueError, match=r"phi 1.5; expected a number from 0 to 1"):
        rescaled_guidance(phi=1.5)


def test_projected_guidance_that_keeps_all_is_plain_guidance():
    rule = projected_guidance(eta=1.0)
    plain = classifier_free_guidance(COND, UNCOND, 5.0)
    assert torch.allclose(rule(COND, UNCOND, 5.0), plain, rtol=0, atol=1e-12)


def test_projected_guidance_adds_nothing_along_the_estimate_and_images_do_not_mix():
    added = projected_guidance()(COND, UNCOND, 5.0) - COND
    along = (added * COND).sum((1, 2, 3))
    assert along.abs().max() < 1e-9 and added.abs().max() > 1
    alone = projected_guidance()(COND[2:3], UNCOND[2:3], 5.0)
    assert torch.allclose(alone[0], COND[2] + added[2], rtol=0, atol=1e-12)


def test_the_length_of_what_projected_guidance_adds_is_limited():
    added = projected_guidance(eta=1.0, radius=2.0)(COND, UNCOND, 3.0) - COND
    lengths = added.square().sum((1, 2, 3)).sqrt()
    assert torch.allclose(lengths, torch.full_like(lengths, (3 - 1) * 2.0), rtol=1e-12)
    unlimited = projected_guidance(eta=1.0, radius=1e6)(COND, UNCOND, 3.0)
    assert torch.allclose(unlimited, classifier_free_guidance(COND, UNCOND, 3.0))


def test_the_momentum_of_projected_guidance_carries_the_steps_before():
    rule = projected_guidance(eta=1.0, momentum=-0.5)
    first, second, third = (rule(COND, UNCOND, 2.0) - COND for _ in range(3))
    d = COND - UNCOND  # w - 1 is 1
    assert torch.allclose(first, d)
    assert torch.allclose(second, 0.5 * d)
    assert torch.allclose(third, 0.75 * d)


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_cfg_plus_plus_is_plain_guidance_with_a_scale_that_depends_on_the_step(strength):
    """Against the paper's own step: x_0_hat guided by the strength, eps without the prompt."""
    timesteps, x_T = log_snr_timesteps(12, SCHEDULE).double(), noise(3, 3, 4, 4, seed=5)
    scale = cfg_plus_plus_scale(strength, timesteps, SCHEDULE)
    *_, last = sample(guide_denoisers(KNOWN, ANY, scale), x_T, timesteps, SCHEDULE, "ddim")
    x = x_T
    for t, s in zip(timesteps[:-1], timesteps[1:]):
        cond, uncond = KNOWN(x, t), ANY(x, t)
        x_0_hat = uncond + strength * (cond - uncond)
        eps = eps_from_x_0(uncond, x, SCHEDULE(t))
        alpha, sigma = alpha_sigma(SCHEDULE(s))
        x = alpha * x_0_hat + sigma * eps if s > 0 else x_0_hat
    assert torch.allclose(last.x_0_hat, x, rtol=0, atol=1e-8)


def test_the_scale_of_cfg_plus_plus_ends_at_its_strength_and_a_strength_above_one_is_refused():
    timesteps = log_snr_timesteps(8, SCHEDULE).double()
    scale = cfg_plus_plus_scale(0.6, timesteps, SCHEDULE)
    found = [scale(float(t)) for t in timesteps[:-1]]
    assert found[-1] == pytest.approx(0.6) and min(found) >= 0.6
    with pytest.raises(ValueError, match="strength 7.5; expected a number from 0 to 1"):
        cfg_plus_plus_scale(7.5, timesteps, SCHEDULE)


# ---------------------------------------------------------------- several prompts


def normal(mean, deviation):
    """The denoiser of numbers [b, 2, 1, 1] that are independent and normal."""
    mean, deviation = (
        torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, deviation)
    )

    def denoise(x_t, t):
        alpha, sigma = alpha_sigma(SCHEDULE(t))
        gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
        return mean + gain * (x_t - alpha * mean)

    return denoise


def test_composing_prompts_of_independent_things_is_exact():
    """One prompt asks for something of the first number, the other one for something of the second.
    Both at once ask for both.
    """
    prior = normal([0.0, 0.0], [1.0, 1.0])
    one, other = normal([0.8, 0.0], [0.2, 1.0]), normal([0.0, -0.5], [1.0, 0.3])
    x_t = noise(64, 2, 1, 1)
    both = compose(prior, [(one, 1.0), (other, 1.0)], "none")(x_t, T)
    assert torch.allclose(both, normal([0.8, -0.5], [0.2, 0.3])(x_t, T), rtol=0, atol=1e-12)


def test_a_negative_weight_leads_away():
    """NOT of the left half of a little world of numbers: most samples lie in the right one."""
    spots = torch.tensor([-0.9, -0.6, 0.6, 0.9], dtype=torch.float64).reshape(4, 1, 1, 1)
    anything, left = mixture_denoiser(spots, SCHEDULE), mixture_denoiser(spots[:2], SCHEDULE)
    timesteps, x_T = log_snr_timesteps(64, SCHEDULE).double(), noise(200, 1, 1, 1)
    share = {}
    for w in (0.0, -1.0):
        denoise = compose(anything, [(left, w)], "static")
        *_, last = sample(denoise, x_T, timesteps, SCHEDULE, "ddim")
        share[w] = (last.x_0_hat > 0).double().mean().item()
    assert 0.4 < share[0.0] < 0.6 and share[-1.0] > 0.75


def test_a_weight_may_depend_on_the_image_and_on_the_time():
    x_t = noise(2, 3, 4, 4)
    each = torch.tensor([3.0, 0.5], dtype=torch.float64)
    found = compose(ANY, [(KNOWN, lambda t: each * t), (KNOWN, 0.2)], "none")(x_t, T)
    for row, w in enumerate((3.0 * 0.6 + 0.2, 0.5 * 0.6 + 0.2)):
        expected = compose(ANY, [(KNOWN, w)], "none")(x_t, T)[row]
        assert torch.allclose(found[row], expected, rtol=0, atol=1e-12)


def test_one_part_is_classifier_free_guidance_and_none_is_an_error():
    x_t = noise(2, 3, 4, 4)
    composed = compose(ANY, [(KNOWN, 3.0)], "dynamic")(x_t, T)
    plain = classifier_free_guidance(KNOWN(x_t, T), ANY(x_t, T), 3.0)
    assert torch.allclose(composed, dynamic_threshold(plain), rtol=0, atol=1e-12)
    static = guide_denoisers(KNOWN, ANY, 3.0, threshold="static")(x_t, T)
    assert torch.allclose(static, static_threshold(plain), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="no prompts to compose"):
        compose(ANY, [])


# ---------------------------------------------------------------- a classifier


def log_share(x_t, log_snr):
    """log p(the image is one of the first two | x_t), exactly."""
    alpha, sigma = (c[:, None] for c in alpha_sigma(log_snr))
    far = (x_t.flatten(1)[:, None] - alpha[..., None] * IMAGES.flatten(1)).square().sum(2)
    return (-far / (2 * sigma**2)).log_softmax(1)[:, :2].logsumexp(1)


@pytest.mark.parametrize("t", [0.2, 0.6, 0.9])
def test_an_exact_classifier_turns_the_prior_into_the_posterior(t):
    t, x_t = torch.tensor(t, dtype=torch.float64), noise(5, 3, 4, 4)
    guided = guide_by_classifier(ANY, log_share, 1.0, SCHEDULE)(x_t, t)
    assert torch.allclose(guided, KNOWN(x_t, t), rtol=0, atol=1e-9)
    assert not torch.allclose(ANY(x_t, t), KNOWN(x_t, t), rtol=0, atol=1e-3)


def test_in_an_ancestral_step_a_classifier_shifts_the_mean_by_variance_times_gradient():
    t, s = (torch.tensor(v, dtype=torch.float64) for v in (0.6, 0.597))
    x_t, none = noise(5, 3, 4, 4), torch.zeros(5, 3, 4, 4, dtype=torch.float64)
    step = lambda denoise: ddpm_step(x_t, denoise(x_t, t), SCHEDULE(t), SCHEDULE(s), none)
    shift = step(guide_by_classifier(ANY, log_share, 2.0, SCHEDULE)) - step(ANY)
    at = x_t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(log_share(at, SCHEDULE(t).expand(5)).sum(), at)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(SCHEDULE(t)), alpha_sigma(SCHEDULE(s))
    beta = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    assert torch.allclose(shift, 2.0 * beta * gradient * alpha_s / alpha_t, rtol=1e-9, atol=1e-12)


def test_a_classifier_with_scale_0_is_not_asked():
    def refuse(x_t, log_snr):
        raise AssertionError("asked")

    x_t = noise(2, 3, 4, 4)
    guided = guide_by_classifier(ANY, refuse, lambda t: 0.0, SCHEDULE)(x_t, T)
    assert torch.equal(guided, ANY(x_t, T))
