"""Other ways to guide than the plain one: rules for a large scale, several prompts, a classifier.

    D(x_t, c), D(x_t)      x_0_hat with the prompt and without it, not thresholded
    d = D(x_t, c) - D(x_t) what the prompt adds

A rule is a function (cond, uncond, w) -> x_0_hat, and `classifier_free_guidance` is the plain one.
`guide_denoisers` asks two denoisers and applies one; so rules, samplers and networks know nothing
of each other:

    with_text = stage.denoiser(text, guidance_scale=1.0, threshold="none")
    without = stage.denoiser(text.null(), guidance_scale=1.0, threshold="none")
    guided = guide_denoisers(with_text, without, 8.0, projected_guidance(), "static")
    *_, last = sample(guided, x_T, stage.timesteps(), stage.schedule)

Any two denoisers will do. With the same prompts and a worse network as the second one, the plain
rule is autoguidance. CFG++ is the plain rule with a scale that depends on the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from imagen_mini.diffusion.guidance import (
    Denoiser,
    GuidanceRule,
    GuidanceScale,
    apply_threshold,
    classifier_free_guidance,
    scale_at,
)
from imagen_mini.diffusion.schedules import ScheduleFunction, alpha_sigma

# of a part of `compose`: a number, one for each image [b], or a function of t that returns either
PartWeight = float | Tensor | Callable[[float], float | Tensor]


# ---------------------------------------------------------------- rules for a large scale


def rescaled_guidance(phi: float = 0.7) -> GuidanceRule:
    """Guidance whose result has, in part, the standard deviation of the estimate with the prompt.

        x_cfg = w cond + (1 - w) uncond
        x     = x_cfg std(cond) / std(x_cfg)              for each image
        phi x + (1 - phi) x_cfg

    Args:
        phi: from 0, plain guidance, to 1 (default: 0.7, as in the paper).

    Raises:
        ValueError: phi is not in [0, 1].

    Reference:
        Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2023), arXiv
        2305.08891, Section 3.4, which rescales the prediction of v. Here it is x_0_hat.
    """
    if not 0 <= phi <= 1:
        raise ValueError(f"phi {phi}; expected a number from 0 to 1")

    def rule(cond: Tensor, uncond: Tensor, w: float) -> Tensor:
        guided = classifier_free_guidance(cond, uncond, w)
        deviation, wanted = (x.flatten(1).std(1)[:, None, None, None] for x in (guided, cond))
        return phi * guided * wanted / deviation + (1 - phi) * guided

    return rule


def projected_guidance(
    eta: float = 0.0, radius: float | None = None, momentum: float = 0.0
) -> GuidanceRule:
    """Guidance with less of the part that only makes the estimate larger: adaptive projected
    guidance.

        d         = cond - uncond + momentum * (d of the step before)
        d         = d min(1, radius / |d|)                for each image
        parallel  = (d . cond) cond / |cond|^2            what scales the estimate
        cond + (w - 1) (d - parallel + eta parallel)

    Args:
        eta: how much of the parallel part is kept; 1 with the other defaults is plain guidance
            (default: 0, as in the paper).
        radius: the largest length of d, over all values of an image (default: no limit).
        momentum: of d over the steps; negative, from -0.75 to -0.25, in the paper (default: 0).

    Returns:
        A rule. With a momentum it has a memory: make a new one for each run of the sampler.

    Reference:
        Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models (Sadat
        et al., 2024), arXiv 2410.02416.
    """
    before: list[Tensor] = []

    def rule(cond: Tensor, uncond: Tensor, w: float) -> Tensor:
        # 1. What the prompt adds, with what it added before.
        d = cond - uncond
        if momentum:
            d = d + momentum * before.pop() if before else d
            before.append(d)
        # 2. At most so long.
        over_image = (1, 2, 3)
        if radius is not None:
            length = d.square().sum(over_image, keepdim=True).sqrt()
            d = d * (radius / length.clamp(min=torch.finfo(d.dtype).tiny)).clamp(max=1)
        # 3. Its part along the estimate, and the rest.
        squared = cond.square().sum(over_image, keepdim=True)
        along = (d * cond).sum(over_image, keepdim=True)
        parallel = along / squared.clamp(min=torch.finfo(d.dtype).tiny) * cond
        return cond + (w - 1) * (d - parallel + eta * parallel)

    return rule


def cfg_plus_plus_scale(
    strength: float, timesteps: Tensor, schedule: ScheduleFunction
) -> Callable[[float], float]:
    """The scale w(t) with which a DDIM step of plain guidance is a step of CFG++.

    CFG++ guides x_0_hat by a strength from 0 to 1, and renoises it with eps of the *unconditional*
    prediction. With eps = eps_uncond + w (eps_cond - eps_uncond), x_s of a DDIM step from t to s is
    linear in w. Equal coefficients of eps_cond - eps_uncond give

        w(t) = strength / (1 - (sigma_s / alpha_s) / (sigma_t / alpha_t))

    which is large where a step lowers the noise level by a small share, and is the strength at the
    last step, where sigma_s = 0. It holds without a threshold, and for DDIM with eta = 0.

    Args:
        strength: lambda of the paper, from 0 to 1.
        timesteps: the times of the steps, [steps + 1], falling.
        schedule: t -> log-SNR.

    Returns:
        A function t -> w, for the times of the steps.

    Raises:
        ValueError: the strength is not in [0, 1].

    Reference:
        CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models (Chung et al.,
        2024), arXiv 2406.08070.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength {strength}; expected a number from 0 to 1")
    # the noise level sigma / alpha = e^(-log_snr / 2) at every time; none at the end
    log_snr = schedule(timesteps.double())
    level = torch.exp(-log_snr / 2)
    level[-1] = torch.where(timesteps[-1] == 0, 0.0, level[-1])
    scales = (strength / (1 - level[1:] / level[:-1])).tolist()
    times = timesteps[:-1].tolist()

    def scale(t: float) -> float:
        return scales[min(range(len(times)), key=lambda i: abs(times[i] - t))]

    return scale


# ---------------------------------------------------------------- several prompts


def compose(
    unconditional: Denoiser,
    parts: Sequence[tuple[Denoiser, PartWeight]],
    threshold: str = "dynamic",
) -> Denoiser:
    """A denoiser for several prompts at once: a product of what each of them asks for.

        x_0_hat = D(x_t) + sum_i w_i (D(x_t, c_i) - D(x_t))

    It samples from p(x) prod_i (p(x | c_i) / p(x))^w_i, as far as a guided sampler samples from
    what its score says. A positive weight is AND, a negative one NOT. One part is classifier-free
    guidance. A step calls the network once for every part, and once more.

    Args:
        unconditional: without a prompt, without guidance and threshold.
        parts: (denoiser of a prompt, weight), at least one. A weight is a number, or one for each
            image, [b], or a function of t that returns either.
        threshold: "none", "static" or "dynamic" (default: "dynamic").

    Returns:
        A function (x_t [b, c, h, w], t scalar) -> x_0_hat [b, c, h, w].

    Raises:
        ValueError: there are no parts.

    Reference:
        Compositional Visual Generation with Composable Diffusion Models (Liu et al., 2022), arXiv
        2206.01714, whose conjunction and negation are of eps; x_0_hat is affine in it.
    """
    if not parts:
        raise ValueError("no prompts to compose; give at least one (denoiser, weight)")

    def composed(x_t: Tensor, t: Tensor) -> Tensor:
        base = unconditional(x_t, t)
        total = base + sum(
            _weight_at(w, t, base) * (denoise(x_t, t) - base) for denoise, w in parts
        )
        return apply_threshold(total, threshold)

    return composed


def _weight_at(weight: PartWeight, t: Tensor, like: Tensor) -> float | Tensor:
    """A weight at time t, shaped to multiply images."""
    value = weight(float(t)) if callable(weight) else weight
    return value.to(like)[:, None, None, None] if isinstance(value, Tensor) else value


# ---------------------------------------------------------------- a classifier


def guide_by_classifier(
    denoise: Denoiser,
    log_p: Callable[[Tensor, Tensor], Tensor],
    scale: GuidanceScale,
    schedule: ScheduleFunction,
) -> Denoiser:
    """A denoiser that follows a classifier of noisy images.

        eps     = eps(x_t) - scale sigma d log p(y | x_t) / d x_t
        x_0_hat = x_0_hat(x_t) + scale (sigma^2 / alpha) d log p(y | x_t) / d x_t

    Both lines say the same. With a classifier that is exact, and scale 1, this is E[x_0 | x_t, y].
    In a step of DDIM it is the paper's form for DDIM. In an ancestral step from t to s it shifts
    the mean by scale * beta * gradient * alpha_s / alpha_t, where beta is the variance of x_t given
    x_s, which the step adds with gamma = 1: the paper's form for DDPM, but for the last factor,
    which nears 1 as steps get shorter.

    Args:
        denoise: (x_t, t) -> x_0_hat; it needs no gradient.
        log_p: (x_t [b, c, h, w], log_snr [b]) -> log p(y | x_t), [b], differentiable in x_t: a
            classifier that was trained on noisy images.
        scale: s of the paper, or a function of t. 0 is off.
        schedule: t -> log-SNR.

    Returns:
        A function (x_t [b, c, h, w], t scalar) -> x_0_hat [b, c, h, w], without gradients. It comes
        after the threshold of `denoise`, if that has one.

    Reference:
        Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), arXiv 2105.05233,
        Section 4.
    """

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        s = scale_at(scale, t)
        x_0_hat = denoise(x_t, t).detach()
        if s == 0:
            return x_0_hat
        # 1. The gradient of the classifier, in float32 or better.
        log_snr = schedule(t)
        with torch.enable_grad():
            at = x_t.detach().to(torch.promote_types(x_t.dtype, torch.float32)).requires_grad_()
            (gradient,) = torch.autograd.grad(log_p(at, log_snr.expand(len(at))).sum(), at)
        # 2. The estimate, shifted along it.
        alpha, sigma = alpha_sigma(log_snr)
        return x_0_hat + (s * sigma.square() / alpha).to(x_t) * gradient.to(x_t)

    return guided
