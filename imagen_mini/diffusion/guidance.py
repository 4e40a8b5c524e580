"""From a network to a denoiser: classifier-free guidance, conversion to x_0, thresholding.

network -> guidance -> x_0_hat -> threshold          `make_denoiser` chains the four
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from imagen_mini.diffusion.gaussian import to_x_0
from imagen_mini.text.encoder import TextEmbeddings, concatenate

# (x_t [b, 3, h, w], t scalar) -> x_0_hat [b, 3, h, w]
Denoiser = Callable[[Tensor, Tensor], Tensor]
Network = Callable[..., Tensor]  # (x_t, log_snr [b], text, control) -> prediction
GuidanceScale = float | Callable[[float], float]  # w, or a function of t that gives it
THRESHOLDS = ("none", "static", "dynamic")


def classifier_free_guidance(cond: Tensor, uncond: Tensor, w: float) -> Tensor:
    """w cond + (1 - w) uncond; w = 1 is off. Source: Imagen (2022), Eq. (2)."""
    return w * cond + (1 - w) * uncond


def guidance_interval(
    w: float, low: float, high: float, log_snr_of: Callable[[Tensor], Tensor]
) -> Callable[[float], float]:
    """A guidance scale for `make_denoiser`: w at times whose noise level low < sigma / alpha <=
    high, else 1, which costs one call.

    sigma / alpha = e^(-log_snr / 2) is the noise level of EDM. Guidance does harm where there is
    much noise and little where there is little.

    Source: Kynkäänniemi et al. (2024), "Applying Guidance in a Limited Interval Improves Sample and
    Distribution Quality".
    """
    check_interval((low, high))

    def scale(t: float) -> float:
        noise_level = torch.exp(-log_snr_of(torch.tensor(t, dtype=torch.float64)) / 2).item()
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


def static_threshold(x_0_hat: Tensor) -> Tensor:
    """Clip to [-1, 1]. Source: Imagen (2022), Section 2.3."""
    return x_0_hat.clamp(-1, 1)


def dynamic_threshold(x_0_hat: Tensor, percentile: float = 0.995) -> Tensor:
    """s = that percentile of |x_0_hat|, per image, at least 1; clip to [-s, s] and divide by s.

    Source: Imagen (2022), Section 2.3; 99.5 % from Fig. A.10b.
    """
    magnitude = (
        x_0_hat.detach().flatten(1).abs().to(torch.promote_types(x_0_hat.dtype, torch.float32))
    )
    # kthvalue with linear interpolation, as torch.quantile, which refuses more than 16 million
    # values
    position = percentile * (magnitude.shape[1] - 1)
    below, above = int(position), min(int(position) + 1, magnitude.shape[1] - 1)
    low, high = (
        magnitude.kthvalue(below + 1, dim=1).values,
        magnitude.kthvalue(above + 1, dim=1).values,
    )
    s = torch.lerp(low, high, position - below).clamp(min=1).to(x_0_hat.dtype)[:, None, None, None]
    return torch.maximum(torch.minimum(x_0_hat, s), -s) / s


def apply_threshold(x_0_hat: Tensor, threshold: str) -> Tensor:
    """`threshold` is one of THRESHOLDS."""
    if threshold == "none":
        return x_0_hat
    if threshold == "static":
        return static_threshold(x_0_hat)
    if threshold == "dynamic":
        return dynamic_threshold(x_0_hat)
    raise ValueError(f"threshold {threshold!r}; expected one of {THRESHOLDS}")


def make_denoiser(
    network: Network,
    text: TextEmbeddings,
    log_snr_of: Callable[[Tensor], Tensor],
    prediction: str,
    guidance_scale: GuidanceScale = 1.0,
    threshold: str = "dynamic",
    control_at: Callable[[float], object] | None = None,
    negative: TextEmbeddings | None = None,
) -> Denoiser:
    """The denoiser (x_t, t) -> x_0_hat of a network for given prompts.

    `network(x_t, log_snr, text, control)` predicts what `prediction` names; `log_snr_of` is the
    schedule. `guidance_scale` is w or a function of t; where it is 1 the network is called once,
    with the prompts. `control_at(t)` gives the attention control of the conditional branch at time
    t, or None; the unconditional branch is never controlled. `negative` (as many rows as `text`)
    takes the place of the null text, so that guidance leads away from it. Guidance is linear in the
    prediction and eps, x_0 and v are affine in each other, so it may be applied to any of them.
    """
    if negative is not None and len(negative) != len(text):
        raise ValueError(
            f"{len(negative)} negative prompts for {len(text)} prompts; give each prompt its "
            "own, repeated if need be"
        )
    if negative is not None and guidance_scale == 1:
        raise ValueError(
            "guidance_scale 1 never looks at the negative prompt; raise it, or leave the "
            "negative prompt out"
        )
    away_from = text.null() if negative is None else negative
    both = concatenate([text, away_from])

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        log_snr = log_snr_of(t).expand(len(x_t))
        control = control_at(float(t)) if control_at is not None else None
        w = guidance_scale(float(t)) if callable(guidance_scale) else guidance_scale
        if w == 1:
            out = network(x_t, log_snr, text, control)
        elif control is None:  # one call on a doubled batch
            cond, uncond = network(x_t.repeat(2, 1, 1, 1), log_snr.repeat(2), both, None).chunk(2)
            out = classifier_free_guidance(cond, uncond, w)
        else:
            out = classifier_free_guidance(
                network(x_t, log_snr, text, control), network(x_t, log_snr, away_from, None), w
            )
        return apply_threshold(to_x_0(out, prediction, x_t, log_snr), threshold)

    return denoise
