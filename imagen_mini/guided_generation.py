"""How a guide is joined to a stage: what the guide is told, and the loop that it leads.

The guides themselves are in `editing/guides.py`. `ImagenPipeline` takes one as `guide=`. Without a
pipeline:

    call = guided_call(stage, encoder, prompts, tokens, text, options, timesteps)
    *_, last = guided_sampling_loop(guide, call, stage, denoise, seeds, options)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from imagen_mini.cascade.sampling import sampling_loop, starting_noise
from imagen_mini.cascade.sampling_options import SamplingOptions
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.guidance import Denoiser
from imagen_mini.diffusion.samplers import SamplingState
from imagen_mini.editing.guides import Guide, GuidedCall
from imagen_mini.editing.universal_guidance import sample_with_recurrence
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
    edited: bool = False,
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
        edited: Is there an edit as well?
    """

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
        values_of,
        stage.net.sites,
        stage.net.block_sites,
        stage.schedule,
        timesteps,
        options.guidance_scale,
        options.threshold,
        edited,
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
        guide: Wraps the denoiser, moves x between steps, and takes steps several times. Its control
            has to be in `denoise` already.
        call: What it is told.
        stage: Its name, size, schedule and device are used.
        denoise: (x_t, t) -> x_0_hat of the prompts.
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
    guided, move = guide.wrap(call, denoise), guide.after_step(call)
    # 1. before the first step
    if move is not None:
        x = move(x, -1, float(call.timesteps[0]))
    # 2. plain steps
    if guide.rounds == 1:
        yield from sampling_loop(stage, guided, seeds, options, x, call.timesteps, move)
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
        guided,
        x,
        call.timesteps,
        stage.schedule,
        noise,
        guide.rounds,
        options.sampler,
        options.eta,
    )
