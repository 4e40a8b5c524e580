"""The same mathematics as in the diffusers library, where that is installed; each test says where
the conventions differ.

Its index i = 0 ... 999 is our t = (i + 1) / 1000, its alphas_cumprod[i] is our alpha^2, and after
its last step comes exactly no noise: log_snr = inf, where our own schedules stop at LOG_SNR_MAX.
"""

import pytest
import torch

from imagen_mini.diffusion.gaussian import from_x_0, to_x_0
from imagen_mini.diffusion.guidance import dynamic_threshold, static_threshold
from imagen_mini.diffusion.losses import convert_loss_weight, min_snr_weight, simple_weight
from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import (
    alpha_sigma,
    log_snr_from_betas,
    rescale_terminal_snr,
)

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
TABLE = torch.cat([torch.tensor([float("inf")], dtype=torch.float64), log_snr_from_betas(BETAS)])
MODEL_OUTPUT = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}  # theirs


def schedule(t):
    """Their discrete schedule as a function of our t."""
    return TABLE[(t * 1000).round().long()]


def estimate(x_t, log_snr):
    """Some denoiser that is nobody's optimum, so that no error cancels."""
    alpha, sigma = alpha_sigma(log_snr)
    return (alpha * x_t + 0.3).tanh() * 0.8 - 0.1 * sigma


def x_T(b=2):
    return torch.randn(b, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def noise(step):
    return torch.randn(
        2, 3, 4, 4, generator=torch.Generator().manual_seed(100 + step), dtype=torch.float64
    )


def make(scheduler, prediction_type, n, **options):
    """One of their schedulers in float64, ready for n steps."""
    made = getattr(diffusers, scheduler)(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type=MODEL_OUTPUT[prediction_type],
        **options,
    )
    made.alphas_cumprod = torch.cumprod(1 - BETAS, 0)
    made.set_timesteps(n)
    return made


def theirs(scheduler, prediction_type, step_options):
    """Their loop: the network's output at each timestep, and one step; yields x after each."""
    x = x_T()
    for step, i in enumerate(scheduler.timesteps):
        log_snr = TABLE[i.item() + 1]
        output = from_x_0(estimate(x, log_snr), prediction_type, x, log_snr)
        x = scheduler.step(output, i, x, **step_options(step)).prev_sample
        yield x


def ours(scheduler, sampler, **options):
    """Our loop through the same timesteps."""
    timesteps = torch.cat([(scheduler.timesteps.double() + 1) / 1000, torch.zeros(1)])
    for state in sample(
        lambda x, t: estimate(x, schedule(t)), x_T(), timesteps, schedule, sampler, noise, **options
    ):
        yield state.x


def with_exact_noise_levels(scheduler):
    """The scheduler with its noise levels sigma / alpha, which it keeps in float32, in float64."""
    exact = torch.cat([torch.exp(-TABLE[scheduler.timesteps.long() + 1] / 2), torch.zeros(1)])
    assert torch.allclose(scheduler.sigmas.double(), exact, rtol=1e-4)
    scheduler.sigmas = exact
    return scheduler


@pytest.mark.parametrize("prediction_type", ["eps", "x_0", "v"])
def test_the_conversions(prediction_type):
    scheduler, log_snr = make("DDIMScheduler", prediction_type, 10, clip_sample=False), TABLE[501]
    output = noise(0)
    out = scheduler.step(output, 500, x_T())
    assert torch.allclose(
        to_x_0(output, prediction_type, x_T(), log_snr),
        out.pred_original_sample,
        rtol=0,
        atol=1e-10,
    )


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta, spacing):
    # Differs: diffusers steps to i - 1000 / n whatever the spacing, so with its third one,
    # "linspace", its steps do not meet
    scheduler = make("DDIMScheduler", "eps", 10, clip_sample=False, timestep_spacing=spacing)
    trajectories = list(
        zip(
            theirs(scheduler, "eps", lambda step: {"eta": eta, "variance_noise": noise(step)}),
            ours(scheduler, "ddim", eta=eta),
        )
    )
    assert len(trajectories) == 10
    for a, b in trajectories:
        assert torch.allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("prediction_type", ["eps", "v"])
@pytest.mark.parametrize("variance, gamma", [("fixed_small", 0.0), ("fixed_large", 1.0)])
def test_ddpm(prediction_type, variance, gamma, monkeypatch):
    # Differs: diffusers samples its noise itself, and adds none in the last step, where with the
    # larger variance we add beta
    scheduler = make(
        "DDPMScheduler", prediction_type, 10, clip_sample=False, variance_type=variance
    )
    draws = iter(range(10))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda *args, **options: noise(next(draws)),
    )
    trajectories = list(
        zip(
            theirs(scheduler, prediction_type, lambda step: {}),
            ours(scheduler, "ddpm", gamma=gamma),
        )
    )
    for a, b in trajectories[:-1] if gamma else trajectories:
        assert torch.allclose(a, b, rtol=0, atol=1e-8)
    assert len(trajectories) == 10 and torch.allclose(*trajectories[-1], rtol=0, atol=1e-8) == (
        gamma == 0
    )


@pytest.mark.parametrize("prediction_type", ["eps", "x_0", "v"])
@pytest.mark.parametrize("n", [1, 2, 10, 25])
def test_dpm_solver_pp_2m(prediction_type, n):
    # Differs: diffusers computes each step in float32, whatever it is given, which is why the
    # tolerance is that of float32
    scheduler = with_exact_noise_levels(
        make(
            "DPMSolverMultistepScheduler",
            prediction_type,
            n,
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
        )
    )
    trajectories = list(
        zip(theirs(scheduler, prediction_type, lambda step: {}), ours(scheduler, "dpmpp_2m"))
    )
    assert len(trajectories) == n
    for a, b in trajectories:
        assert torch.allclose(a, b, rtol=0, atol=2e-5)


def test_sde_dpm_solver_pp_2m(monkeypatch):
    # Differs: as above, and diffusers samples its noise itself
    draws = iter(range(10))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_dpmsolver_multistep.randn_tensor",
        lambda *args, **options: noise(next(draws)),
    )
    scheduler = with_exact_noise_levels(
        make(
            "DPMSolverMultistepScheduler",
            "eps",
            10,
            algorithm_type="sde-dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
        )
    )
    trajectories = list(
        zip(theirs(scheduler, "eps", lambda step: {}), ours(scheduler, "dpmpp_2m", eta=1.0))
    )
    assert len(trajectories) == 10
    for a, b in trajectories:
        assert torch.allclose(a, b, rtol=0, atol=2e-5)


@pytest.mark.parametrize("n", [1, 2, 10, 25])
def test_heun(n):
    # Differs: diffusers steps through y = x_t / alpha_t with EDM's noise level sigma / alpha, and
    # lists each middle time twice, once for each of the two calls
    scheduler = with_exact_noise_levels(
        make("HeunDiscreteScheduler", "eps", n, timestep_spacing="trailing")
    )
    assert len(scheduler.timesteps) == 2 * n - 1
    y, ends = x_T() / alpha_sigma(TABLE[int(scheduler.timesteps[0]) + 1])[0], []
    for call, i in enumerate(scheduler.timesteps):
        log_snr = TABLE[int(i) + 1]
        x = alpha_sigma(log_snr)[0] * y
        y = scheduler.step(from_x_0(estimate(x, log_snr), "eps", x, log_snr), i, y).prev_sample
        if call % 2 == 1:  # after the second call: y is at the time of the next call
            ends.append(alpha_sigma(TABLE[int(scheduler.timesteps[call + 1]) + 1])[0] * y)
    ends.append(y)  # no noise: alpha = 1
    scheduler.timesteps = torch.cat([scheduler.timesteps[:1], scheduler.timesteps[1::2]])
    trajectory = list(ours(scheduler, "heun"))
    assert len(trajectory) == len(ends) == n
    for a, b in zip(ends, trajectory):
        assert torch.allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [0.2, 3.0])
def test_dynamic_thresholding(scale):
    # Differs: their sample_max_value caps s, and its default of 1 makes their dynamic threshold the
    # static one
    x = (
        torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        * scale
    )
    dynamic, default = (
        make(
            "DDPMScheduler",
            "eps",
            10,
            thresholding=True,
            dynamic_thresholding_ratio=0.995,
            **options,
        )
        for options in ({"sample_max_value": 1e9}, {})
    )
    assert torch.allclose(dynamic._threshold_sample(x), dynamic_threshold(x), rtol=0, atol=1e-12)
    assert torch.equal(default._threshold_sample(x), static_threshold(x))


def test_snr_and_min_snr_weights():
    # Their training scripts multiply the squared error of eps by min(SNR, gamma) / SNR, and that of
    # v by min(SNR, gamma) / (SNR + 1)
    compute_snr = pytest.importorskip("diffusers.training_utils").compute_snr
    i = torch.arange(1000)
    snr, log_snr = compute_snr(make("DDPMScheduler", "eps", 10), i).double(), TABLE[i + 1]
    assert torch.allclose(simple_weight(log_snr), snr, rtol=1e-5)
    for prediction_type, base in (("eps", snr), ("v", snr + 1)):
        assert torch.allclose(
            convert_loss_weight(prediction_type, min_snr_weight(log_snr, 5.0), log_snr),
            snr.clamp(max=5) / base,
            rtol=1e-5,
        ), prediction_type


def test_rescaling_to_zero_terminal_snr():
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    log_snr = log_snr_from_betas(BETAS)
    rescaled = torch.sigmoid(rescale_terminal_snr(log_snr, log_snr[0], log_snr[-1]))
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), rescaled])
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    assert betas[-1] == 1 and torch.allclose(
        betas, rescale_zero_terminal_snr(BETAS), rtol=0, atol=1e-10
    )
