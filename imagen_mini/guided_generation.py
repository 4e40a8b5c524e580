"""How a guide is joined to a stage: what the guide is told, and the loop that it leads.

The guides themselves are in `editing/guides.py`. `ImagenPipeline` takes one as `guide=`. Without a
pipeline:

    call = guided_call(stage, encoder, prompts, tokens, text, options, timesteps)
    guided = guide.wrap(call, denoise)
    *_, last = guided_sampling_loop(guide, call, stage, guided, seeds, options)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from imagen_mini.cascade.sampling import sampling_loop, starting_noise
from imagen_mini.cascade.sampling_options import SamplingOptions
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.diffusion.samplers import SamplingState
from imagen_mini.editing.base import BoundEdit
from imagen_mini.editing.guides import ControlAt, Guide, GuidedCall
from imagen_mini.editing.universal_guidance import sample_with_recurrence
from imagen_mini.models.control import AttentionControl
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder, Tokens
from imagen_mini.utils.rng import randn


def guided_call(
    stage: DiffusionStage,
    encoder: TextEncoder,
    prompts: Sequence[str],
    tokens: Sequence[Tokens],
    text: TextEmbeddings,
    options: SamplingOptions,
    timesteps: Tensor,
    controlled: Callable[[ControlAt], Denoiser] | None = None,
) -> GuidedCall:
    """What a guide is told of a call.

    Args:
        stage: A stage that generates from text alone.
        encoder: The text encoder.
        prompts: b captions.
        tokens: Of each.
        text: The captions encoded, b rows.
        options: The guidance scale and the threshold are used.
        timesteps: Of the sampler, [steps + 1], falling.
        controlled: control_at -> the denoiser of the call with one more control. None: that of the
            captions.
    """

    def of_captions(control_at: ControlAt) -> Denoiser:
        return stage.denoiser(
            text,
            guidance_scale=options.guidance_scale,
            threshold=options.threshold,
            control_at=control_at,
        )

    def values_of(text: TextEmbeddings) -> Mapping[str, Tensor]:
        prepared = stage.net.prepare_text(text.to(stage.net.out.weight.dtype))
        return {name: kv.chunk(2, dim=-1)[1] for name, kv in prepared.kv.items()}

    return GuidedCall(
        prompts,
        tokens,
        text,
        encoder,
        encoder.tokenize_prompt,
        stage.denoiser,
        controlled or of_captions,
        values_of,
        stage.net.sites,
        stage.net.block_sites,
        stage.schedule,
        timesteps,
        options.guidance_scale,
        options.threshold,
    )


def check_guide(
    guide: Guide,
    control: AttentionControl | None,
    edit: BoundEdit | None,
    negative: TextEmbeddings | None,
    done: Sequence[float],
) -> None:
    """Raise ValueError if a guide does not go with what else a call asks for.

    Args:
        guide: The guide.
        control: Its control of attention and features.
        edit: The edit.
        negative: The negative prompts.
        done: The shares of the steps that are done, before each step.
    """
    if guide.composes_prompts:
        for there, what, instead in (
            (edit, "the prompts that an edit is between", ""),
            (negative, "a negative prompt", "write it as a part with a negative weight, or "),
            (control, "the prompts that another guide reads inside the network", ""),
        ):
            if there is not None:
                raise ValueError(
                    f"composed prompts take the place of {what}; {instead}leave one of them out"
                )
    controls = [] if edit is None else [edit.control_at(share) for share in done[:-1]]
    if guide.reads_prompts and any(c is not None and c.changes_text for c in controls):
        raise ValueError(
            "this guide treats each image by its own prompt, and the edit lets all read the "
            "source's in some steps (PromptSwitching); leave one of them out"
        )


def guided_sampling_loop(
    guide: Guide,
    call: GuidedCall,
    stage: DiffusionStage,
    denoise: Denoiser,
    seeds: Sequence[int],
    options: SamplingOptions,
    x_T: Tensor | None = None,
) -> Iterator[SamplingState]:
    """Sample from a stage as a guide wants it, and yield a state after every step.

    Args:
        guide: Moves x between steps, and takes steps several times. `denoise` has to be wrapped by
            it, and under its control, already.
        call: What it is told.
        stage: Its name, size, schedule and device are used.
        denoise: (x_t, t) -> x_0_hat.
        seeds: One for each image. They determine x_T and all fresh noise.
        options: The sampler and its options.
        x_T: Where to start. None: `starting_noise(stage, seeds)`.

    Yields:
        The state after each step.

    Raises:
        ValueError: Steps are to be taken several times by a sampler that remembers the last one, or
            with moves between them; or the guide needs another sampler.
    """
    if guide.needs_ddim and (options.sampler != "ddim" or options.eta > 0):
        raise ValueError(
            f"this guide needs the sampler ddim with eta 0, and the sampler is {options.sampler} "
            f"with eta {options.eta:g}; pass sampler='ddim'"
        )
    x = starting_noise(stage, seeds) if x_T is None else x_T
    move = guide.after_step(call)
    # 1. before the first step
    if move is not None:
        x = move(x, -1, float(call.timesteps[0]))
    # 2. plain steps
    if guide.rounds == 1:
        yield from sampling_loop(stage, denoise, seeds, options, x, call.timesteps, move)
        return
    # 3. steps taken several times
    if options.sampler not in ("ddim", "ddpm") or move is not None:
        raise ValueError(
            f"rounds {guide.rounds} with the sampler {options.sampler}"
            + (" and a guide that moves x between steps" if move is not None else "")
            + "; expected ddim or ddpm, and a guide that wraps the denoiser alone"
        )

    def noise(purpose: str, number: int) -> Tensor:
        name = stage.config.name
        return randn(seeds, x.shape[1:], name, "rounds", purpose, number, device=x.device)

    yield from sample_with_recurrence(
        denoise,
        x,
        call.timesteps,
        stage.schedule,
        noise,
        guide.rounds,
        options.sampler,
        options.eta,
        options.gamma,
    )
