"""The ways to large guidance scales side by side: each samples the same captions from the same
noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from imagen_mini.cascade.sampling import sampling_loop
from imagen_mini.cascade.sampling_options import SamplingOptions
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.guidance import guidance_interval
from imagen_mini.diffusion.guidance_rules import (
    GuidanceRule,
    cfg_plus_plus_scale,
    guide_by_rule,
    plain_guidance,
    projected_guidance,
    rescaled_guidance,
)
from imagen_mini.text.encoder import TextEmbeddings

# The interval of noise levels in which guidance acts, for a stage whose config has none.
INTERVAL = (2.0, 60.0)


def _plain(stage: DiffusionStage, w: float, timesteps: Tensor) -> GuidanceRule:
    return plain_guidance(w)


def _interval(stage: DiffusionStage, w: float, timesteps: Tensor) -> GuidanceRule:
    limits = stage.config.guidance_interval or INTERVAL
    return plain_guidance(guidance_interval(w, *limits, stage.schedule))


def _rescaled(stage: DiffusionStage, w: float, timesteps: Tensor) -> GuidanceRule:
    return rescaled_guidance(w)


def _projected(stage: DiffusionStage, w: float, timesteps: Tensor) -> GuidanceRule:
    return projected_guidance(w, momentum=-0.5)


def _cfg_plus_plus(stage: DiffusionStage, w: float, timesteps: Tensor) -> GuidanceRule:
    return plain_guidance(cfg_plus_plus_scale(w, timesteps, stage.schedule))


# How each rule guides, and how x_0_hat is kept in range then. Autoguidance is the plain rule with a
# worse network in place of the one without a prompt.
RULES: dict[str, tuple[Callable[[DiffusionStage, float, Tensor], GuidanceRule], str]] = {
    "none": (_plain, "none"),
    "static": (_plain, "static"),
    "dynamic": (_plain, "dynamic"),
    "interval": (_interval, "dynamic"),
    "rescaled": (_rescaled, "static"),
    "projected": (_projected, "static"),
    "cfg++": (_cfg_plus_plus, "none"),
    "autoguidance": (_plain, "dynamic"),
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
    make, threshold = RULES[rule]
    timesteps = stage.timesteps(options.num_inference_steps, options.timestep_spacing)
    denoise = stage.denoiser(text, guidance_scale=1.0, threshold="none")
    other = (
        stage.denoiser(text.null(), guidance_scale=1.0, threshold="none")
        if weaker is None
        else weaker.denoiser(text, guidance_scale=1.0, threshold="none")
    )
    guided = guide_by_rule(denoise, other, make(stage, w, timesteps), threshold)
    *_, last = sampling_loop(stage, guided, seeds, options, timesteps=timesteps)
    return last.x_0_hat.clamp(-1, 1)
