"""The ways to large guidance scales side by side: each samples the same captions from the same
noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imagen_mini.cascade.sampling import sampling_loop
from imagen_mini.cascade.sampling_options import SamplingOptions
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.guidance import (
    GuidanceRule,
    GuidanceScale,
    classifier_free_guidance,
    guidance_interval,
    guide_denoisers,
)
from imagen_mini.diffusion.guidance_rules import (
    cfg_plus_plus_scale,
    projected_guidance,
    rescaled_guidance,
)
from imagen_mini.text.encoder import TextEmbeddings

# The largest length of what "projected-limited" adds, over the values of a 64 px image.
RADIUS = 5.0
# The interval of noise levels in which guidance acts, for a stage whose config has none.
INTERVAL = (2.0, 60.0)


def _plain(stage: DiffusionStage, w: float, timesteps: Tensor) -> GuidanceScale:
    return w


def _interval(stage: DiffusionStage, w: float, timesteps: Tensor) -> GuidanceScale:
    limits = stage.config.guidance_interval or INTERVAL
    return guidance_interval(w, *limits, stage.schedule)


def _cfg_plus_plus(stage: DiffusionStage, w: float, timesteps: Tensor) -> GuidanceScale:
    return cfg_plus_plus_scale(w, timesteps, stage.schedule)


def _plain_rule() -> GuidanceRule:
    return classifier_free_guidance


@dataclass(frozen=True)
class RuleSetting:
    """A way to guide: its scale, its rule, and how x_0_hat is kept in range then."""

    threshold: str
    scale: Callable[[DiffusionStage, float, Tensor], GuidanceScale] = _plain
    rule: Callable[[], GuidanceRule] = _plain_rule


# Autoguidance is the plain rule with a worse network in place of the one without a prompt.
RULES: dict[str, RuleSetting] = {
    "none": RuleSetting("none"),
    "static": RuleSetting("static"),
    "dynamic": RuleSetting("dynamic"),
    "interval": RuleSetting("dynamic", _interval),
    "rescaled": RuleSetting("static", rule=rescaled_guidance),
    "projected": RuleSetting("static", rule=lambda: projected_guidance(momentum=-0.5)),
    "projected-limited": RuleSetting("static", rule=lambda: projected_guidance(radius=RADIUS)),
    "cfg++": RuleSetting("none", _cfg_plus_plus),
    "autoguidance": RuleSetting("dynamic"),
}


@torch.no_grad()
def sample_by_rule(
    stage: DiffusionStage,
    text: TextEmbeddings,
    seeds: Sequence[int],
    options: SamplingOptions,
    rule: str,
    w: float,
    weaker: DiffusionStage | None = None,
) -> Tensor:
    """Sample images of the first stage of a cascade, guided by a rule.

    Args:
        stage: A stage without a low-resolution image.
        text: Encoded prompts, b rows.
        seeds: One for each of them.
        options: The sampler and its steps; its guidance scale and threshold are not used. For
            "cfg++" the sampler is DDIM without fresh noise.
        rule: A key of RULES.
        w: The guidance scale. For "cfg++" the strength, from 0 to 1.
        weaker: For "autoguidance": a stage that was trained for a shorter time, or is smaller.

    Returns:
        Images [b, 3, size, size] in [-1, 1].

    Raises:
        ValueError: The rule is unknown, or "autoguidance" has no weaker stage.
    """
    if rule not in RULES:
        raise ValueError(f"guidance rule {rule!r}; expected one of {', '.join(RULES)}")
    if (rule == "autoguidance") != (weaker is not None):
        raise ValueError(
            "autoguidance leads away from a weaker stage; give one"
            if weaker is None
            else f"{rule} uses no weaker stage; leave it out"
        )
    if rule == "cfg++":
        options = replace(options, sampler="ddim", eta=0.0, gamma=0.0)
    setting = RULES[rule]
    timesteps = stage.timesteps(options.num_inference_steps, options.timestep_spacing)
    denoise = stage.denoiser(text, guidance_scale=1.0, threshold="none")
    other = (
        stage.denoiser(text.null(), guidance_scale=1.0, threshold="none")
        if weaker is None
        else weaker.denoiser(text, guidance_scale=1.0, threshold="none")
    )
    scale = setting.scale(stage, w, timesteps)
    guided = guide_denoisers(denoise, other, scale, setting.rule(), setting.threshold)
    *_, last = sampling_loop(stage, guided, seeds, options, timesteps=timesteps)
    return last.x_0_hat.clamp(-1, 1)
