"""How a stage is sampled in one call of the pipeline.

The caller's options are checked, and the stage's defaults fill in the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias, TypedDict, TypeVar

from torch import Tensor

from imagen_mini.cascade.config import StageConfig
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.guidance import THRESHOLDS, GuidanceScale, check_interval, scale_at
from imagen_mini.diffusion.guidance import guidance_interval as limited_to
from imagen_mini.diffusion.samplers import SAMPLERS, samplers_with, validate_sampler_options
from imagen_mini.diffusion.timesteps import TIMESTEP_SPACINGS
from imagen_mini.utils.checks import as_integer, as_number
from imagen_mini.utils.configuration import check_choice

T = TypeVar("T")
# one value for all stages, or one for each by stage name; None: the stage's default
PerStage: TypeAlias = T | dict[str, T] | None
Interval = tuple[float, float]  # noise levels sigma / alpha in (low, high]


class RequestedOptions(TypedDict, total=False):
    """The options as the caller gives them: each one value, or a dict by stage name, or None."""

    num_inference_steps: PerStage[int]
    guidance_scale: PerStage[GuidanceScale]
    guidance_interval: PerStage[Interval]
    threshold: PerStage[str]
    sampler: PerStage[str]
    timestep_spacing: PerStage[str]
    eta: PerStage[float]
    gamma: PerStage[float]


@dataclass(frozen=True)
class SamplingOptions:
    """How one stage is sampled: the caller's options, and the stage's defaults for the rest."""

    num_inference_steps: int
    guidance_scale: GuidanceScale  # w, or a function of t that returns it
    threshold: str
    sampler: str
    timestep_spacing: str
    eta: float
    gamma: float
    aug_level: float  # super-resolution only


def resolve_sampling_options(
    stage: DiffusionStage,
    *,
    num_inference_steps: PerStage[int] = None,
    guidance_scale: PerStage[GuidanceScale] = None,
    guidance_interval: PerStage[Interval] = None,
    threshold: PerStage[str] = None,
    sampler: PerStage[str] = None,
    timestep_spacing: PerStage[str] = None,
    eta: PerStage[float] = None,
    gamma: PerStage[float] = 0.0,
    aug_level: PerStage[float] = None,
) -> SamplingOptions:
    """The options of one stage: those of `ImagenPipeline.__call__`, or the stage's defaults.

    Two of the stage's defaults hold only together with another one:

    - `guidance_interval` holds for the default `guidance_scale`. A `guidance_scale` that is passed
      acts at all noise levels, unless an interval is passed, too.
    - `eta` holds for the default `sampler`. Another sampler adds no fresh noise unless `eta` is
      passed.

    One `eta` or `gamma` for all stages is 0 at a stage whose sampler does not use it. A value that
    a dict sets for this stage has to fit.

    Args:
        stage: The stage that is to be sampled.
        num_inference_steps, guidance_scale, guidance_interval, threshold, sampler,
            timestep_spacing, eta, gamma, aug_level: As in `ImagenPipeline.__call__`.

    Returns:
        The options, with nothing left to decide.

    Raises:
        TypeError: An option is of the wrong type.
        ValueError: An option is out of range, or two of them do not go together.
    """
    c = stage.config

    # 1. the sampler, and the noise that it adds
    sampler = _for_stage(sampler, c, c.sampler)
    check_choice("sampler", sampler, tuple(SAMPLERS))
    eta = _noise_option("eta", eta, c, sampler, c.eta if sampler == c.sampler else 0.0)
    gamma = _noise_option("gamma", gamma, c, sampler, 0.0)
    validate_sampler_options(sampler, eta, gamma)

    # 2. guidance: how much, and where
    w = _guidance(stage, guidance_scale, guidance_interval)

    # 3. noise-conditioning augmentation
    level = as_number("aug_level", _for_stage(aug_level, c, c.aug_level))
    if not 0 <= level <= 1:
        raise ValueError(f"aug_level {level}; expected a number from 0 to 1")
    if stage.is_super_resolution and level > c.max_aug_level:
        raise ValueError(
            f"aug_level {level}: stage {c.name} was trained with levels from 0 to {c.max_aug_level}"
        )

    # 4. the steps
    steps = _for_stage(num_inference_steps, c, c.num_inference_steps)
    threshold = _for_stage(threshold, c, c.threshold)
    check_choice("threshold", threshold, THRESHOLDS)
    spacing = _for_stage(timestep_spacing, c, c.timestep_spacing)
    check_choice("timestep_spacing", spacing, tuple(TIMESTEP_SPACINGS))
    steps = as_integer("num_inference_steps", steps, low=1)

    # 5. a function of the caller's is asked once for every step, before anything is computed
    given = guidance_scale.get(c.name) if isinstance(guidance_scale, dict) else guidance_scale
    if callable(given):
        timesteps = stage.timesteps(steps, spacing)
        for t in timesteps[:-1]:
            scale_at(guidance_by_step(given, timesteps), t)
    return SamplingOptions(
        num_inference_steps=steps,
        guidance_scale=w,
        threshold=threshold,
        sampler=sampler,
        timestep_spacing=spacing,
        eta=eta,
        gamma=gamma,
        aug_level=level,
    )


def guidance_by_step(scale: GuidanceScale, timesteps: Tensor) -> GuidanceScale:
    """A guidance scale that says at which step it went wrong.

    Args:
        scale: w, or a function of t that returns it.
        timesteps: The times of the steps, [steps + 1].

    Returns:
        A number as it is. A function as one that returns a finite float, or raises a ValueError or
        a TypeError that names the step and its time.
    """
    if not callable(scale):
        return scale
    times = timesteps[:-1].tolist()

    def checked(t: float) -> float:
        step = min(range(len(times)), key=lambda i: abs(times[i] - t))
        where = f"guidance_scale at step {step + 1} of {len(times)}, t = {t:.4g}"
        try:
            w = scale(t)
        except Exception as error:  # it is the caller's, and may do anything
            raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
        return as_number(where, w)

    return checked


def _for_stage(value: PerStage[T], config: StageConfig, default: T) -> T:
    """The value for one stage: the caller's, looked up by name in a dict, or the default."""
    if isinstance(value, dict):
        value = value.get(config.name)
    return default if value is None else value


def _noise_option(
    option: str, value: PerStage[float], config: StageConfig, sampler: str, default: float
) -> float:
    """`eta` or `gamma` for one stage; one value for all stages is 0 where it is not used."""
    if isinstance(value, dict) or sampler in samplers_with(option):
        return as_number(option, _for_stage(value, config, default))
    return 0.0


def _guidance(
    stage: DiffusionStage, scale: PerStage[GuidanceScale], interval: PerStage[Interval]
) -> GuidanceScale:
    """The guidance scale for one stage, limited to the interval where there is one."""
    c = stage.config
    w = scale.get(c.name) if isinstance(scale, dict) else scale
    limits = interval.get(c.name) if isinstance(interval, dict) else interval
    if w is not None and not callable(w):
        w = as_number("guidance_scale", w)
    if limits is None:
        return stage.default_guidance() if w is None else w
    check_interval(limits)
    w = c.guidance_scale if w is None else w
    if callable(w):
        raise ValueError(
            f"guidance_interval {limits} and a guidance_scale that is a function of t: "
            "give a number, or let the function be 1 outside"
        )
    return w if w == 1 else limited_to(w, *limits, stage.schedule)


def resolve_options_by_stage(
    stages: Mapping[str, DiffusionStage],
    names: Collection[str],
    requested: RequestedOptions,
    aug_level: PerStage[float] = None,
    negative_prompt: str | list[str] | None = None,
    settled: Mapping[str, SamplingOptions] = MappingProxyType({}),
) -> dict[str, SamplingOptions]:
    """The options of every stage that is sampled.

    Args:
        stages: All stages of the cascade, by name.
        names: The stages that are sampled.
        requested: The caller's options.
        aug_level: Augmentation level of super-resolution, from 0 to the stage's `max_aug_level`;
            as the others, one value or a dict.
        negative_prompt: Only checked: is there any guidance that uses it?
        settled: Stages whose options are resolved already, by name.

    Returns:
        A `SamplingOptions` for each of `names`, in their order.

    Raises:
        TypeError: An option is of the wrong type.
        ValueError: An option is out of range, names a stage that does not exist, or is used by no
            stage.
    """
    for option, value in {**requested, "aug_level": aug_level}.items():
        if isinstance(value, dict) and (unknown := [k for k in value if k not in stages]):
            raise ValueError(f"{option}: no stage {unknown}; there are {list(stages)}")
    options = {
        name: settled.get(name)
        or resolve_sampling_options(stages[name], aug_level=aug_level, **requested)
        for name in names
    }
    check_unused_options(options, requested, negative_prompt)
    if isinstance(aug_level, (int, float)) and not any(
        stages[name].is_super_resolution for name in names
    ):
        raise ValueError(
            f"aug_level {aug_level} is not used: no stage that enlarges images is sampled; "
            "leave it out"
        )
    return options


def check_unused_options(
    options: Mapping[str, SamplingOptions],
    requested: RequestedOptions,
    negative_prompt: str | list[str] | None = None,
) -> None:
    """Refuse an option that no stage uses: it would change nothing, and nobody would notice.

    Args:
        options: The options of every stage that is sampled, by name.
        requested: The caller's options.
        negative_prompt: The caller's negative prompt.

    Raises:
        ValueError: `eta` or `gamma` without a sampler that uses it; a negative prompt or a
            guidance interval without guidance.
    """
    noise = {"eta": requested.get("eta"), "gamma": requested.get("gamma")}
    for option, value in noise.items():
        if not value or isinstance(value, dict):
            continue
        if all(o.sampler not in samplers_with(option) for o in options.values()):
            samplers = ", ".join(f"{name} with {o.sampler}" for name, o in options.items())
            raise ValueError(
                f"{option} {value} is not used: the stages are sampled {samplers}; pass "
                f"sampler={' or '.join(map(repr, samplers_with(option)))}, or leave it at 0"
            )
    guided = {
        "negative_prompt": negative_prompt,
        "guidance_interval": requested.get("guidance_interval"),
    }
    intervals = requested.get("guidance_interval")
    for name, interval in intervals.items() if isinstance(intervals, dict) else ():
        if interval is not None and name in options and options[name].guidance_scale == 1:
            raise ValueError(
                f"guidance_interval {interval} of {name} is not used: its guidance is off "
                "(guidance_scale 1); raise guidance_scale, or leave it out"
            )
    for option, given in guided.items():
        if given is not None and all(o.guidance_scale == 1 for o in options.values()):
            raise ValueError(
                f"{option} {given!r} is not used: guidance is off (guidance_scale 1) at every "
                "stage; raise guidance_scale, or leave it out"
            )
