"""Classifier-free guidance, thresholding and the denoiser."""

import pytest
import torch

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.gaussian import PREDICTION_TYPES, from_x_0, to_x_0
from imagen_mini.diffusion.guidance import (
    apply_threshold,
    classifier_free_guidance,
    dynamic_threshold,
    guidance_interval,
    guide_by_loss,
    make_denoiser,
    static_threshold,
)
from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import (
    alpha_sigma,
    cosine_log_snr,
    cosine_t,
    make_schedule,
    zero_terminal_snr,
)
from imagen_mini.diffusion.timesteps import log_snr_timesteps
from imagen_mini.models.control import AttentionControl


class Network:
    """A cheap stand-in: mixes each image with its own text and noise level, and remembers how it
    was called.
    """

    def __init__(self):
        self.calls = []

    def __call__(self, x_t, log_snr, text, control):
        self.calls.append((len(x_t), control, bool(text.emb.any())))
        return (
            x_t * 0.5
            + text.emb.mean((1, 2))[:, None, None, None] * 3
            + log_snr[:, None, None, None] * 0.1
        ).sin()


@pytest.fixture
def setting(random_text):
    x_t = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x_t, torch.tensor(0.6, dtype=torch.float64), random_text([5, 3], dtype=torch.float64)


def test_guidance_is_on_the_line_through_both_predictions():
    cond, uncond = torch.tensor([2.0]), torch.tensor([1.0])
    assert [classifier_free_guidance(cond, uncond, w).item() for w in (0, 1, 3)] == [1, 2, 4]


def test_a_guidance_scale_of_one_makes_one_call_on_the_undoubled_batch_with_the_prompts(setting):
    x_t, t, text = setting
    network = Network()
    out = make_denoiser(network, text, cosine_log_snr, "x_0", 1.0, "none")(x_t, t)
    assert network.calls == [(2, None, True)]
    assert torch.equal(out, Network()(x_t, cosine_log_snr(t).expand(2), text, None))


def test_guidance_makes_one_call_on_the_doubled_batch(setting):
    x_t, t, text = setting
    network = Network()
    make_denoiser(network, text, cosine_log_snr, "x_0", 3.0, "none")(x_t, t)
    assert [size for size, _, _ in network.calls] == [4]


def test_a_control_splits_guidance_in_two_calls_and_the_unconditional_one_is_not_controlled(
    setting,
):
    x_t, t, text = setting
    network, control = Network(), AttentionControl()
    make_denoiser(network, text, cosine_log_snr, "x_0", 3.0, "none", lambda t: control)(x_t, t)
    assert network.calls == [(2, control, True), (2, None, False)]


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
def test_two_calls_and_one_batched_call_give_the_same(setting, prediction):
    x_t, t, text = setting
    batched = make_denoiser(Network(), text, cosine_log_snr, prediction, 3.0, "dynamic")(x_t, t)
    split = make_denoiser(
        Network(), text, cosine_log_snr, prediction, 3.0, "dynamic", lambda t: AttentionControl()
    )(x_t, t)
    assert torch.allclose(batched, split, rtol=0, atol=1e-12)


def test_the_control_is_asked_for_at_the_time_of_the_step(setting):
    x_t, _, text = setting
    asked = []
    denoise = make_denoiser(
        Network(), text, cosine_log_snr, "x_0", 3.0, "none", lambda t: asked.append(t)
    )
    for t in (0.75, 0.25):
        denoise(x_t, torch.tensor(t))
    assert asked == [0.75, 0.25]


def test_the_guidance_scale_may_be_a_function_of_t_and_where_it_is_one_the_network_is_called_once(
    setting,
):
    x_t, _, text = setting
    network, asked = Network(), []

    def scale(t):
        asked.append(t)
        return 1.0 if t < 0.5 else 4.0

    scheduled = make_denoiser(network, text, cosine_log_snr, "x_0", scale, "none")
    for t, w in ((0.75, 4.0), (0.25, 1.0)):
        fixed = make_denoiser(Network(), text, cosine_log_snr, "x_0", w, "none")
        assert torch.equal(
            scheduled(x_t, torch.tensor(t).double()), fixed(x_t, torch.tensor(t).double())
        )
    assert asked == [0.75, 0.25] and [size for size, _, _ in network.calls] == [4, 2]


def test_the_guidance_interval_is_one_of_noise_levels():
    scale = guidance_interval(3.0, 0.5, 2.0, cosine_log_snr)
    at = {
        noise_level: scale(
            cosine_t(torch.tensor(noise_level, dtype=torch.float64).log() * -2).item()
        )
        for noise_level in (0.01, 0.49, 0.51, 1.0, 1.99, 2.01, 100.0)
    }
    assert at == {0.01: 1, 0.49: 1, 0.51: 3, 1.0: 3, 1.99: 3, 2.01: 1, 100.0: 1}
    assert (
        scale(0.5) == 3
        and guidance_interval(3.0, 0.5, 2.0, lambda t: cosine_log_snr(t, -4.0))(0.5) == 1
    )
    assert guidance_interval(3.0, 0.5, float("inf"), zero_terminal_snr(cosine_log_snr))(1.0) == 3


def test_outside_the_guidance_interval_there_is_no_second_call(setting):
    x_t, _, text = setting
    network = Network()
    denoise = make_denoiser(
        network,
        text,
        cosine_log_snr,
        "x_0",
        guidance_interval(3.0, 0.5, 2.0, cosine_log_snr),
        "none",
    )
    for t in (0.9, 0.5, 0.1):
        denoise(x_t, torch.tensor(t))
    assert [size for size, _, _ in network.calls] == [2, 4, 2]


@pytest.mark.parametrize("low, high", [(2.0, 0.5), (1.0, 1.0), (-1.0, 1.0)])
def test_an_empty_guidance_interval_is_an_error(low, high):
    with pytest.raises(ValueError, match=rf"\({low}, {high}\].*low < high"):
        guidance_interval(3.0, low, high, cosine_log_snr)


def test_a_negative_prompt_takes_the_place_of_the_null_text(setting, random_text):
    x_t, t, text = setting
    # longer than the prompts: one of them is padded
    negative = random_text([2, 7], dtype=torch.float64, seed=1)
    log_snr = cosine_log_snr(t).expand(2)
    # padding adds nothing
    network = lambda x, log_snr, text, control: x * 0.5 + text.emb.sum((1, 2))[:, None, None, None]
    expected = 3 * network(x_t, log_snr, text, None) - 2 * network(x_t, log_snr, negative, None)
    out = make_denoiser(network, text, cosine_log_snr, "x_0", 3.0, "none", negative=negative)(
        x_t, t
    )
    split = make_denoiser(
        network, text, cosine_log_snr, "x_0", 3.0, "none", lambda t: AttentionControl(), negative
    )(x_t, t)
    assert torch.allclose(out, expected, rtol=0, atol=1e-9) and torch.allclose(
        split, expected, rtol=0, atol=1e-9
    )
    null = make_denoiser(network, text, cosine_log_snr, "x_0", 3.0, "none", negative=text.null())(
        x_t, t
    )
    assert torch.equal(
        null, make_denoiser(network, text, cosine_log_snr, "x_0", 3.0, "none")(x_t, t)
    )
    assert not torch.allclose(null, out)


def test_the_prompt_as_its_own_negative_prompt_is_no_guidance(setting):
    x_t, t, text = setting
    own = make_denoiser(Network(), text, cosine_log_snr, "x_0", 5.0, "none", negative=text)(x_t, t)
    assert torch.allclose(
        own,
        make_denoiser(Network(), text, cosine_log_snr, "x_0", 1.0, "none")(x_t, t),
        rtol=0,
        atol=1e-12,
    )


def test_a_negative_prompt_that_nobody_attends_to_or_of_another_number_is_an_error(setting):
    _, _, text = setting
    with pytest.raises(ValueError, match="guidance_scale 1 never uses the negative prompt"):
        make_denoiser(Network(), text, cosine_log_snr, "x_0", 1.0, "none", negative=text)
    with pytest.raises(ValueError, match="1 negative prompts for 2 prompts"):
        make_denoiser(Network(), text, cosine_log_snr, "x_0", 3.0, "none", negative=text[:1])


def test_eps_from_pure_noise_is_refused_by_the_denoiser_too(setting):
    x_t, _, text = setting
    schedule = zero_terminal_snr(cosine_log_snr)
    network = lambda x, log_snr, text, control: x
    with pytest.raises(ValueError, match="predict 'x_0' or 'v'"):
        make_denoiser(network, text, schedule, "eps")(x_t, torch.tensor(1.0))
    assert make_denoiser(network, text, schedule, "v")(x_t, torch.tensor(1.0)).isfinite().all()


def test_guidance_before_and_after_the_conversion_to_x_0_are_equal(setting):
    x_t, t, _ = setting
    log_snr = cosine_log_snr(t).expand(2)
    g = torch.Generator().manual_seed(1)
    cond, uncond = (torch.randn(x_t.shape, generator=g, dtype=torch.float64) for _ in range(2))
    after = classifier_free_guidance(cond, uncond, 7.5)
    for prediction_type in PREDICTION_TYPES:
        raw = (from_x_0(x, prediction_type, x_t, log_snr) for x in (cond, uncond))
        assert torch.allclose(
            to_x_0(classifier_free_guidance(*raw, 7.5), prediction_type, x_t, log_snr),
            after,
            rtol=0,
            atol=1e-10,
        ), prediction_type


def test_the_denoiser_does_not_depend_on_the_parameterisation(setting):
    x_t, t, text = setting
    oracle = Network()

    def network_of(prediction_type):
        return lambda x, log_snr, text, control: from_x_0(
            oracle(x, log_snr, text, control), prediction_type, x, log_snr
        )

    outs = [
        make_denoiser(
            network_of(prediction_type), text, cosine_log_snr, prediction_type, 4.0, "dynamic"
        )(x_t, t)
        for prediction_type in PREDICTION_TYPES
    ]
    assert torch.allclose(outs[0], outs[1], rtol=0, atol=1e-9) and torch.allclose(
        outs[0], outs[2], rtol=0, atol=1e-9
    )


# ---------------------------------------------------------------- thresholding


def spread(b=4, size=16, scale=3.0, dtype=torch.float32):
    return (torch.randn(b, 3, size, size, generator=torch.Generator().manual_seed(2)) * scale).to(
        dtype
    )


def by_quantile(x):
    """Dynamic thresholding written with torch.quantile, in float64 as in float32 it rounds the
    rank.
    """
    s = (
        torch.quantile(x.double().flatten(1).abs(), 0.995, dim=1)
        .clamp(min=1)
        .to(x.dtype)[:, None, None, None]
    )
    return x.clamp(-s, s) / s


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 16])
def test_the_dynamic_threshold_uses_the_percentile_of_torch_quantile(dtype, size):
    x = spread(size=size, dtype=dtype)
    out = dynamic_threshold(x)
    assert out.dtype == dtype
    assert torch.allclose(out.float(), by_quantile(x).float(), rtol=0, atol=1e-6)


def test_the_dynamic_threshold_puts_half_a_percent_of_the_pixels_on_the_border():
    border = (dynamic_threshold(spread(size=64)).abs() == 1).float().mean((1, 2, 3))
    assert ((0.0045 < border) & (border < 0.0055)).all()


def test_the_dynamic_threshold_is_idempotent():
    once = dynamic_threshold(spread())
    assert once.abs().max() <= 1 and torch.equal(dynamic_threshold(once), once)


def test_the_dynamic_threshold_attends_to_each_image_alone():
    x = spread()
    x[2] *= 50
    together = dynamic_threshold(x)
    for i in range(len(x)):
        assert torch.equal(together[i], dynamic_threshold(x[i : i + 1])[0])


def test_the_dynamic_threshold_is_the_static_one_when_few_pixels_leave_the_range():
    x = spread(scale=0.2).clamp(-1, 1)
    x[:, 0, 0, 0] = 9.0  # one pixel of 768 is less than half a percent
    assert torch.equal(dynamic_threshold(x), static_threshold(x))
    assert not torch.equal(dynamic_threshold(x), x)


def test_the_static_threshold_clips_and_does_not_rescale():
    assert static_threshold(torch.tensor([-3.0, -0.5, 0.25, 2.0])).tolist() == [-1, -0.5, 0.25, 1]


@pytest.mark.slow
def test_the_dynamic_threshold_of_more_than_16_million_values_in_one_image():
    # the magnitudes are 0 ... 4 in equal steps, in mixed order, so every percentile is known
    n = 3 * 2400 * 2400
    order = torch.arange(n) * 7919 % n  # a permutation: 7919 is prime and does not divide n
    assert n > 2**24 and n % 7919 != 0
    magnitude = order.double().mul_(4 / (n - 1)).float()
    x = torch.where(order % 2 == 0, magnitude, -magnitude).view(1, 3, 2400, 2400)
    for percentile in (0.995, 0.5):
        s = 4 * percentile
        out = dynamic_threshold(x, percentile)
        assert torch.allclose(out, x.clamp(-s, s) / s, rtol=0, atol=1e-6)
        assert (out.abs() == 1).double().mean().item() == pytest.approx(1 - percentile, abs=1e-6)


def test_the_dynamic_threshold_of_more_than_16_million_values_in_a_batch():
    x = spread(b=1, size=256).expand(86, -1, -1, -1)  # 16.9 million values
    assert torch.allclose(dynamic_threshold(x)[85], by_quantile(x[85:])[0], rtol=0, atol=1e-6)


def test_no_threshold_changes_nothing_and_an_unknown_one_is_an_error():
    x = spread()
    assert apply_threshold(x, "none") is x
    with pytest.raises(ValueError, match=r"'clip'.*none.*static.*dynamic"):
        apply_threshold(x, "clip")


# ---------------------------------------------------------------- guidance by any loss

MEAN, STD, OBSERVED_STD = 0.3, 0.5, 0.4


def gaussian_denoiser(x_t, t, schedule=cosine_log_snr):
    """E[x_0 | x_t] where every value of x_0 is normal with mean MEAN and deviation STD."""
    alpha, sigma = alpha_sigma(schedule(t.double()))
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x_t - alpha * MEAN)


def gaussian_variance(t):
    """Var[x_0 | x_t] of the same."""
    alpha, sigma = alpha_sigma(cosine_log_snr(t.double()))
    return STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)


def observe(y):
    """A denoiser guided by an observation y = x_0 + OBSERVED_STD noise, exactly: its loss is
    -log p(y | x_t) = (x_0_hat - y)^2 / (2 (variance + OBSERVED_STD^2)) + const.
    """

    def scale(t):  # (sigma / alpha)^2, and the part of the loss that depends on t
        t = torch.tensor(t, dtype=torch.float64)
        return ((-cosine_log_snr(t)).exp() / (gaussian_variance(t) + OBSERVED_STD**2)).item()

    squared_error = lambda x_0_hat: (x_0_hat - y).square().sum((1, 2, 3)) / 2
    return guide_by_loss(gaussian_denoiser, squared_error, scale, cosine_log_snr)


@pytest.mark.parametrize("t", [0.02, 0.3, 0.6, 0.98])
def test_the_gradient_of_a_loss_is_taken_through_the_denoiser(setting, t):
    x_t, _, _ = setting
    t, y = torch.tensor(t, dtype=torch.float64), torch.full_like(x_t, 0.7)
    half = lambda x_0_hat: (x_0_hat - y).square().sum((1, 2, 3)) / 2
    alpha, sigma = alpha_sigma(cosine_log_snr(t))
    slope = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)  # d x_0_hat / d x_t
    x_0_hat = gaussian_denoiser(x_t, t)
    for scale in (0.5, 3.0):
        guided = guide_by_loss(gaussian_denoiser, half, scale, cosine_log_snr)(x_t, t)
        expected = x_0_hat - scale * alpha * slope * (x_0_hat - y)
        assert torch.allclose(guided, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [0.02, 0.3, 0.6, 0.98])
def test_guidance_by_a_likelihood_is_the_posterior_mean(setting, t):
    x_t, _, _ = setting
    t, y = torch.tensor(t, dtype=torch.float64), torch.full_like(x_t, -0.6)
    prior, observed = 1 / gaussian_variance(t), 1 / OBSERVED_STD**2
    expected = (prior * gaussian_denoiser(x_t, t) + observed * y) / (prior + observed)
    assert torch.allclose(observe(y)(x_t, t), expected, rtol=0, atol=1e-12)


def test_samples_guided_by_a_likelihood_have_the_mean_and_the_deviation_of_the_posterior():
    x_T = torch.randn(500, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    timesteps = log_snr_timesteps(100, make_schedule("cosine")).double()
    *_, last = sample(
        observe(torch.full_like(x_T, -0.6)), x_T, timesteps, cosine_log_snr, "dpmpp_2m"
    )
    precision = 1 / STD**2 + 1 / OBSERVED_STD**2
    mean = (MEAN / STD**2 + -0.6 / OBSERVED_STD**2) / precision
    assert last.x.mean().item() == pytest.approx(mean, abs=0.01)
    assert last.x.std().item() == pytest.approx(precision**-0.5, abs=0.01)


def test_a_loss_may_be_one_for_each_image_or_their_sum_and_images_do_not_mix(setting):
    x_t, t, _ = setting
    each = lambda x_0_hat: x_0_hat.square().sum((1, 2, 3))
    together = lambda x_0_hat: x_0_hat.square().sum()
    guided = [
        guide_by_loss(gaussian_denoiser, loss, 0.5, cosine_log_snr)(x, t)
        for loss, x in ((each, x_t), (together, x_t), (each, x_t[1:]))
    ]
    assert torch.equal(guided[0], guided[1]) and torch.equal(guided[0][1:], guided[2])


def test_without_a_scale_it_is_the_denoiser_and_records_nothing(setting):
    x_t, t, _ = setting
    recorded = []

    def denoise(x_t, t):
        recorded.append(torch.is_grad_enabled())
        return gaussian_denoiser(x_t, t)

    loss = lambda x_0_hat: x_0_hat.square().sum()
    scale = lambda t: 2.0 if t < 0.5 else 0.0
    guided = guide_by_loss(denoise, loss, scale, cosine_log_snr)
    out = guided(x_t, t)
    assert torch.equal(out, gaussian_denoiser(x_t, t)) and not out.requires_grad
    with torch.no_grad():  # as in a sampling loop
        out = guided(x_t, torch.tensor(0.4))
    assert not torch.allclose(out, gaussian_denoiser(x_t, torch.tensor(0.4)))
    assert recorded == [False, True] and not out.requires_grad


def test_a_stage_samples_images_of_a_lower_loss_and_its_weights_get_no_gradient(random_text):
    torch.manual_seed(0)
    stage = DiffusionStage(PRESETS["tiny"]["base"]).eval()
    torch.nn.init.normal_(stage.net.out.weight, std=0.02)  # an untrained one predicts zeros
    text, size = random_text([4, 2]), stage.config.unet.image_size
    x_T = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    loss = lambda x_0_hat: (x_0_hat - 0.5).square().sum((1, 2, 3)) / 2
    losses = []
    for scale in (0.0, 1.0):
        denoise = stage.denoiser(text, guidance_scale=2.0, threshold="dynamic")
        guided = guide_by_loss(denoise, loss, scale, stage.schedule)
        *_, last = sample(guided, x_T, stage.timesteps(4), stage.schedule)
        losses.append(loss(last.x_0_hat))
    assert (losses[1] < losses[0]).all()
    assert all(parameter.grad is None for parameter in stage.parameters())
