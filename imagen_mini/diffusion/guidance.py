"""From a network to a denoiser: guidance, conversion to x_0_hat, thresholding.

    x_t          = alpha x_0 + sigma eps, the noisy image at time t (0: image, 1: noise)
    log_snr      = log(alpha^2 / sigma^2), a function of t: the schedule
    x_0_hat      the estimate of the clean image x_0 from x_t

    network -> guidance -> x_0_hat -> threshold

A network predicts eps, x_0 or v = alpha eps - sigma x_0. A *denoiser* is a function
(x_t, t) -> x_0_hat, and all that a sampler needs to know. `make_denoiser` builds one from a network
and prompts, and chains the four. `guide_denoisers` guides from one denoiser to another one, by any
rule. `guide_by_loss` takes any denoiser and returns another one, whose
x_0_hat is shifted towards a lower loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from imagen_mini.diffusion.gaussian import to_x_0
from imagen_mini.diffusion.schedules import ScheduleFunction, alpha_sigma, in_float64
from imagen_mini.text.encoder import TextEmbeddings, concatenate

# (x_t [b, 3, h, w], t scalar) -> x_0_hat [b, 3, h, w]
Denoiser = Callable[[Tensor, Tensor], Tensor]
Network = Callable[..., Tensor]  # (x_t, log_snr [b], text, control) -> prediction
GuidanceScale = float | Callable[[float], float]  # w, or a function of t that returns it
# (cond [b, c, h, w], uncond [b, c, h, w], w) -> guided x_0_hat [b, c, h, w]; cond where w is 1
GuidanceRule = Callable[[Tensor, Tensor, float], Tensor]
THRESHOLDS = ("none", "static", "dynamic")


def scale_at(scale: GuidanceScale, t: Tensor) -> float:
    """The guidance scale at time t (a scalar)."""
    return scale(float(t)) if callable(scale) else scale


# ---------------------------------------------------------------- classifier-free guidance


def classifier_free_guidance(cond: Tensor, uncond: Tensor, w: float) -> Tensor:
    """w cond + (1 - w) uncond; w = 1 is off.

    Args:
        cond: the prediction with the prompt, any shape.
        uncond: the prediction without it, of the same shape.
        w: the guidance scale.

    Returns:
        The guided prediction, of the same shape.

    Reference:
        Classifier-free diffusion guidance (Ho and Salimans, 2022), arXiv 2207.12598, whose w is
        one less; GLIDE (Nichol et al., 2021), arXiv 2112.10741, for text; in the form of Imagen,
        arXiv 2205.11487, Eq. (2).
    """
    return w * cond + (1 - w) * uncond


def guidance_interval(
    w: float, low: float, high: float, schedule: ScheduleFunction
) -> Callable[[float], float]:
    """A guidance scale that is w in an interval of noise levels, and 1 outside of it.

    sigma / alpha = e^(-log_snr / 2) is the noise level of EDM. Guidance does harm where there is
    much noise, and has little effect where there is little. Where the scale is 1, the denoiser
    calls the network once instead of twice.

    Args:
        w: the guidance scale inside.
        low, high: the interval: low < sigma / alpha <= high.
        schedule: t -> log-SNR.

    Returns:
        A function t -> scale for `make_denoiser`.

    Raises:
        ValueError: no interval of noise levels.

    Reference:
        Applying Guidance in a Limited Interval Improves Sample and Distribution Quality
        (Kynkäänniemi et al., 2024), arXiv 2404.07724.
    """
    check_interval((low, high))

    def scale(t: float) -> float:
        noise_level = torch.exp(-schedule(torch.tensor(t, dtype=torch.float64)) / 2).item()
        return w if low < noise_level <= high else 1.0

    return scale


def check_interval(interval: Sequence[float]) -> None:
    """A ValueError for what is no interval of noise levels."""
    numbers = isinstance(interval, (tuple, list)) and all(
        isinstance(level, (int, float)) for level in interval
    )
    if not numbers or len(interval) != 2 or not 0 <= interval[0] < interval[1]:
        shown = f"({', '.join(map(str, interval))}]" if numbers else repr(interval)
        raise ValueError(
            f"the guidance interval is {shown}; expected noise levels sigma / alpha with 0 <= "
            "low < high, for example (2, 60)"
        )


# ---------------------------------------------------------------- thresholding


def static_threshold(x_0_hat: Tensor) -> Tensor:
    """Clip to [-1, 1].

    Reference:
        Imagen, arXiv 2205.11487, Section 2.3.
    """
    return x_0_hat.clamp(-1, 1)


def dynamic_threshold(x_0_hat: Tensor, percentile: float = 0.995) -> Tensor:
    """Clip each image to [-s, s] and divide it by s.

        s = max(1, the percentile of |x_0_hat| over the channels and pixels of the image)

    Args:
        x_0_hat: estimates of the clean images, [b, c, h, w].
        percentile: from 0 to 1 (default: 0.995).

    Returns:
        Images in [-1, 1], [b, c, h, w]. s counts as a constant for gradients.

    Reference:
        Imagen, arXiv 2205.11487, Section 2.3; 99.5 % from Fig. A.10b.
    """
    # 1. The magnitudes of each image [b, n], at least in float32.
    magnitude = (
        x_0_hat.detach().flatten(1).abs().to(torch.promote_types(x_0_hat.dtype, torch.float32))
    )
    # 2. Their percentile, interpolated linearly between two ranks. kthvalue finds a rank without
    #    sorting, for any number of values; the position stays in float64 here, where torch.quantile
    #    computes it in the precision of the values.
    position = percentile * (magnitude.shape[1] - 1)
    below, above = int(position), min(int(position) + 1, magnitude.shape[1] - 1)
    low, high = (
        magnitude.kthvalue(below + 1, dim=1).values,
        magnitude.kthvalue(above + 1, dim=1).values,
    )
    # 3. s, at least 1, shaped to divide the images.
    s = torch.lerp(low, high, position - below).clamp(min=1).to(x_0_hat.dtype)[:, None, None, None]
    # 4. Clip and rescale.
    return torch.maximum(torch.minimum(x_0_hat, s), -s) / s


def apply_threshold(x_0_hat: Tensor, threshold: str) -> Tensor:
    """x_0_hat after the threshold of this name, one of THRESHOLDS."""
    if threshold == "none":
        return x_0_hat
    if threshold == "static":
        return static_threshold(x_0_hat)
    if threshold == "dynamic":
        return dynamic_threshold(x_0_hat)
    raise ValueError(f"threshold {threshold!r}; expected one of {THRESHOLDS}")


# ---------------------------------------------------------------- the denoiser


def make_denoiser(
    network: Network,
    text: TextEmbeddings,
    schedule: ScheduleFunction,
    prediction_type: str,
    guidance_scale: GuidanceScale = 1.0,
    threshold: str = "dynamic",
    control_at: Callable[[float], object] | None = None,
    negative: TextEmbeddings | None = None,
) -> Denoiser:
    """The denoiser (x_t, t) -> x_0_hat of a network for given prompts.

    Guidance is linear in the prediction, and eps, x_0 and v are affine in each other, so it may be
    applied to any of them.

    Args:
        network: (x_t [b, 3, h, w], log_snr [b], text, control) -> prediction [b, 3, h, w].
        text: the encoded prompts, b rows.
        schedule: t -> log-SNR.
        prediction_type: what the network predicts: "eps", "x_0" or "v".
        guidance_scale: w, or a function of t (default: 1). Where it is 1, the network is called
            once, with the prompts.
        threshold: "none", "static" or "dynamic" (default: "dynamic").
        control_at: the attention control of the conditional branch at time t, or None. The
            unconditional branch is never controlled.
        negative: encoded negative prompts, b rows: they replace the null text, so that guidance
            leads away from them (default: the null text).

    Returns:
        A function (x_t [b, 3, h, w], t scalar) -> x_0_hat [b, 3, h, w].

    Raises:
        ValueError: negative prompts of another number than the prompts, or without guidance.

    Reference:
        Imagen, arXiv 2205.11487, Sections 2.2 and 2.3.
    """
    if negative is not None and len(negative) != len(text):
        raise ValueError(
            f"{len(negative)} negative prompts for {len(text)} prompts; give each prompt its "
            "own, repeated if need be"
        )
    if negative is not None and guidance_scale == 1:
        raise ValueError(
            "guidance_scale 1 never uses the negative prompt; raise it, or leave the "
            "negative prompt out"
        )
    uncond_text = text.null() if negative is None else negative
    both_texts = concatenate([text, uncond_text])

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        # 1. The noise level, the attention control and the guidance scale at time t.
        log_snr = schedule(t).expand(len(x_t))
        control = control_at(float(t)) if control_at is not None else None
        w = scale_at(guidance_scale, t)
        # 2. The prediction of the network, guided.
        if w == 1:
            prediction = network(x_t, log_snr, text, control)
        elif control is None:  # one call on a doubled batch
            cond, uncond = network(
                x_t.repeat(2, 1, 1, 1), log_snr.repeat(2), both_texts, None
            ).chunk(2)
            prediction = classifier_free_guidance(cond, uncond, w)
        else:  # two calls: the control must not reach the unconditional branch
            cond = network(x_t, log_snr, text, control)
            uncond = network(x_t, log_snr, uncond_text, None)
            prediction = classifier_free_guidance(cond, uncond, w)
        # 3. As an estimate of the clean image, kept in range.
        return apply_threshold(to_x_0(prediction, prediction_type, x_t, log_snr), threshold)

    return denoise


def guide_denoisers(
    cond: Denoiser,
    uncond: Denoiser,
    guidance_scale: GuidanceScale,
    rule: GuidanceRule = classifier_free_guidance,
    threshold: str = "none",
) -> Denoiser:
    """Guidance that leads from what one denoiser estimates to what another one does.

        x_0_hat = threshold(rule(cond(x_t, t), uncond(x_t, t), w))

    The plain rule is w cond + (1 - w) uncond. As x_0_hat is affine in eps, this is the guidance of
    eps. The two denoisers may differ in more than the text: in their attention control, from step
    to step, or in their network. Other rules are in `guidance_rules`.

    Args:
        cond: (x_t, t) -> x_0_hat with the prompt, without guidance and threshold.
        uncond: the same without the prompt; or with a negative one, or of a worse network. Where w
            is 1 it is not called, for every rule is off there.
        guidance_scale: w, or a function of t that returns it.
        rule: how the two estimates become one (default: classifier-free guidance). A rule with a
            memory is made anew for each run.
        threshold: "none", "static" or "dynamic" (default: "none").

    Returns:
        A function (x_t [b, c, h, w], t scalar) -> x_0_hat [b, c, h, w].

    Reference:
        Guiding a Diffusion Model with a Bad Version of Itself (Karras et al., 2024), arXiv
        2406.02507, for a worse network in the place of no prompt: autoguidance.
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        w = scale_at(guidance_scale, t)
        x_0_hat = cond(x_t, t)
        if w != 1:
            x_0_hat = rule(x_0_hat, uncond(x_t, t), w)
        return apply_threshold(x_0_hat, threshold)

    return denoise


# ---------------------------------------------------------------- guidance by any loss


def guide_by_loss(
    denoise: Denoiser,
    loss: Callable[[Tensor], Tensor],
    scale: GuidanceScale,
    schedule: ScheduleFunction,
) -> Denoiser:
    """A denoiser whose estimate is shifted towards a lower loss of it.

        x_0_hat(x_t) - scale alpha d loss(x_0_hat(x_t)) / d x_t

    The gradient passes through the denoiser, so a loss of a few pixels moves all that depends on
    them. Gradients are enabled inside, so it works where they are disabled, as in `sample`:

        reconstruct = lambda x_0_hat: (mask * (x_0_hat - known)).square().sum((1, 2, 3)) / 2
        guided = guide_by_loss(stage.denoiser(text), reconstruct, 2.0, stage.schedule)
        *_, last = sample(guided, x_T, stage.timesteps(), stage.schedule)

    The shift comes after the threshold of `denoise`, if it has one, and is not thresholded again.
    If the loss is -log p(y | x_t) for something y that is known of the image, the scale
    (sigma / alpha)^2 makes the result exactly E[x_0 | x_t, y].

    Args:
        denoise: (x_t [b, c, h, w], t scalar) -> x_0_hat [b, c, h, w], differentiable in x_t.
        loss: x_0_hat -> the loss of each image, [b], or of all of them together, scalar.
        scale: the weight w_r of the paper, or a function of t. Where it is 0, `denoise` is called
            without gradients.
        schedule: t -> log-SNR.

    Returns:
        A function (x_t [b, c, h, w], t scalar) -> shifted x_0_hat [b, c, h, w], without gradients.

    Reference:
        Video Diffusion Models (Ho et al., 2022), arXiv 2204.03458, Section 3.1: reconstruction
        guidance, with half the squared error as the loss. Universal Guidance for Diffusion Models
        (Bansal et al., 2023), arXiv 2302.07121: its forward guidance, which adds
        s(t) d loss / d x_t to eps, is the scale s(t) sigma / alpha^2 here.
    """

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        w = scale_at(scale, t)
        if w == 0:
            with torch.no_grad():
                return denoise(x_t, t)
        # 1. The estimate and its loss, recorded from x_t on.
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            x_0_hat = denoise(x_t, t)
            total = loss(x_0_hat).sum()
        # 2. How the loss changes with x_t; the weights of the network get no gradient.
        (gradient,) = torch.autograd.grad(total, x_t)
        # 3. The shifted estimate.
        alpha, _ = alpha_sigma(schedule(in_float64(t)))
        return x_0_hat.detach() - (w * alpha).to(x_t) * gradient

    return guided
