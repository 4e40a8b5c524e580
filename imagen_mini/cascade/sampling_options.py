"""How one stage is sampled in one call of the pipeline: what was asked for, checked, and the
stage's own defaults for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.guidance import GuidanceScale, check_interval
from imagen_mini.diffusion.guidance import guidance_interval as limited_to
from imagen_mini.diffusion.samplers import SAMPLER_OPTIONS, validate_sampler_options


@dataclass(frozen=True)
class SamplingOptions:
    """How one stage is sampled in one call: what was asked for, and the stage's own defaults for
    the rest.
    """

    num_inference_steps: int
    guidance_scale: GuidanceScale  # w, or a function of t that gives it
    threshold: str
    sampler: str
    spacing: str
    eta: float
    gamma: float
    aug_level: float  # super-resolution only


def resolve_sampling_options(
    stage: DiffusionStage,
    *,
    num_inference_steps: int | dict | None = None,
    guidance_scale: GuidanceScale | dict | None = None,
    guidance_interval: tuple[float, float] | dict | None = None,
    threshold: str | dict | None = None,
    sampler: str | dict | None = None,
    spacing: str | dict | None = None,
    eta: float | dict | None = None,
    gamma: float | dict = 0.0,
    aug_level: float | None = None,
) -> SamplingOptions:
    """The options of the pipeline's call, as they are for one stage. ValueError if they do not go
    together there.

    A stage's own guidance interval goes with its own w: another w is for all noise levels, unless
    an interval is asked for as well. One eta or gamma for all stages holds for those whose sampler
    uses it; a dict by stage name means what it says. A stage's own eta goes with its own sampler:
    another one adds no noise unless it is asked to.
    """
    c = stage.config

    def here(value, default):
        value = value.get(c.name) if isinstance(value, dict) else value
        return default if value is None else value

    sampler = here(sampler, c.sampler)
    own = {"eta": c.eta if sampler == c.sampler else 0.0, "gamma": 0.0}
    eta, gamma = (
        here(value, own[option])
        if isinstance(value, dict) or sampler in SAMPLER_OPTIONS[option]
        else 0.0
        for option, value in (("eta", eta), ("gamma", gamma))
    )
    validate_sampler_options(sampler, eta, gamma)
    w, interval = here(guidance_scale, None), here(guidance_interval, None)
    if w is None:
        w = stage.default_guidance() if interval is None else c.guidance_scale
    if interval is not None:
        check_interval(interval)
        if callable(w):
            raise ValueError(
                f"guidance_interval {interval} and a guidance_scale that is a function of t: "
                "give a number, or let the function be 1 outside"
            )
        if w != 1:
            w = limited_to(w, *interval, stage.log_snr_of)
    level = c.aug_level if aug_level is None else aug_level
    if stage.is_super_resolution and not 0 <= level <= c.max_aug_level:
        raise ValueError(
            f"aug_level {level}: stage {c.name} was trained with levels from 0 to {c.max_aug_level}"
        )
    return SamplingOptions(
        here(num_inference_steps, c.num_inference_steps),
        w,
        here(threshold, c.threshold),
        sampler,
        here(spacing, c.spacing),
        eta,
        gamma,
        level,
    )


def check_unused_options(
    plans: dict[str, SamplingOptions],
    eta: float | dict | None,
    gamma: float | dict,
    negative_prompt,
    guidance_interval,
) -> None:
    """A ValueError for an option that no stage uses: it would change nothing, and nobody would
    know.
    """
    for option, value in (("eta", eta), ("gamma", gamma)):
        if (
            value
            and not isinstance(value, dict)
            and all(plan.sampler not in SAMPLER_OPTIONS[option] for plan in plans.values())
        ):
            samplers = ", ".join(f"{name} with {plan.sampler}" for name, plan in plans.items())
            raise ValueError(
                f"{option} {value} is not used: the stages are sampled {samplers}; "
                "pass "
                f"sampler={' or '.join(map(repr, SAMPLER_OPTIONS[option]))}, "
                "or leave it at 0"
            )
    for option, value in (
        ("negative_prompt", negative_prompt),
        ("guidance_interval", guidance_interval),
    ):
        if value is not None and all(plan.guidance_scale == 1 for plan in plans.values()):
            raise ValueError(
                f"{option} {value!r} is not used: guidance is off (guidance_scale 1) at every "
                "stage; raise guidance_scale, or leave it out"
            )
