"""`ImagenPipeline`: prompts in, images out.

It loads a text encoder and the stages, checks that they fit, and runs the stages one after the
other.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from imagen_mini.cascade.sampling import sampling_loop, starting_noise
from imagen_mini.cascade.sampling_options import (
    Interval,
    PerStage,
    RequestedOptions,
    SamplingOptions,
    guidance_by_step,
    resolve_options_by_stage,
)
from imagen_mini.cascade.serialization import (
    load_stage,
    save_stage,
    trained_on_folder,
    training_record,
)
from imagen_mini.cascade.stage import DiffusionStage, augment_low_res
from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.diffusion.guidance import Denoiser, GuidanceScale, scale_at
from imagen_mini.diffusion.samplers import SamplingState
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.base import BoundEdit, Edit
from imagen_mini.editing.given_images import ImageEditMethod
from imagen_mini.editing.guided_sampling import truncate_timesteps
from imagen_mini.editing.guides import ControlAt, Guide, GuidedCall, as_guide
from imagen_mini.editing.windows import share_done
from imagen_mini.guided_generation import check_guide, guided_call, guided_sampling_loop
from imagen_mini.image_editing import (
    Mask,
    prepare_given_image,
    resolve_method,
    resolve_method_options,
)
from imagen_mini.models.control import both_controls
from imagen_mini.pipeline_folder import find_folder, read_stage_names, write_stage_names
from imagen_mini.pipeline_inputs import (
    Seed,
    as_edit,
    check_batch,
    given_images,
    recorded_stage,
    resolve_edit_stages,
    resolve_seeds,
    stage_names,
)
from imagen_mini.scenes.world import World, find_world
from imagen_mini.text.encoder import (
    TextEmbeddings,
    TextEncoder,
    Tokens,
    check_prompts,
    concatenate,
)
from imagen_mini.utils.checks import as_number
from imagen_mini.utils.images import Images, to_numpy, to_pil
from imagen_mini.utils.rng import randn

OUTPUT_TYPES = ("pil", "np", "pt")
STRENGTH = 0.8  # of an image that is given without one


@dataclass
class ImagenOutput:
    """What a call of the pipeline returns."""

    # of the last stage, as `output_type` asks for. "pil": a list; "np": an array [b, h, w, 3] in
    # [0, 1]; "pt": a tensor [b, 3, h, w] in [-1, 1]
    images: list[Image.Image] | np.ndarray | Tensor
    stages: dict[str, Tensor]  # the images of every stage, [b, 3, size, size] in [-1, 1]
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    seeds: list[int] = field(default_factory=list)  # of each image: `seed=out.seeds` repeats it


@dataclass(frozen=True)
class SampleRequest:
    """What one stage is asked for: everything that is not an option of the sampler."""

    prompts: list[str]
    tokens: list[Tokens]  # of each prompt
    text: TextEmbeddings  # the prompts encoded, b rows
    negative: TextEmbeddings | None  # what guidance leads away from, b rows; None: the null text
    seeds: list[int]  # one for each prompt
    low_res: Tensor | None = None  # super-resolution: the images to be enlarged, [b, 3, l, l]
    x_start: Tensor | None = None  # where sampling starts, [b, 3, size, size]; None: fresh noise
    t_start: float = 1.0  # the time of x_start, in (0, 1]

    def first(self) -> SampleRequest:
        """The request of the first prompt alone, which is the source of an edit."""

        def row(x):
            return None if x is None else x[:1]

        return replace(
            self,
            prompts=self.prompts[:1],
            tokens=self.tokens[:1],
            text=self.text[:1],
            negative=row(self.negative),
            seeds=self.seeds[:1],
            low_res=row(self.low_res),
            x_start=row(self.x_start),
        )


# ---------------------------------------------------------------- the pipeline


class ImagenPipeline(nn.Module):
    """A text encoder and the stages of a cascade, each of which enlarges the images of the last.

        pipe = ImagenPipeline.from_pretrained("scenes")
        pipe("a red circle to the left of a blue square", seed=0).images[0].show()

    There may be any number of stages, called by name. They are sorted by the size of their images.

    Args:
        text_encoder: The encoder that every stage was trained with, or one that was taught to give
            the vectors of that one.
        stages: The stages, in any order; one of them generates from the text alone.

    Raises:
        ValueError: There is no stage, two share a name, or the parts do not fit together: other
            text encoders, sizes or worlds.

    Reference: Imagen (Saharia et al., 2022), arXiv 2205.11487, Section 2.
    """

    own_images = False  # True: it was trained on a folder of images, which nothing here can judge
    training_records: Mapping[str, dict] = MappingProxyType({})  # how each stage was trained

    def __init__(self, text_encoder: TextEncoder, stages: Sequence[DiffusionStage]):
        super().__init__()
        # 1. the order, and the names
        if not stages:
            raise ValueError("a pipeline needs at least one stage; got none")
        stages = sorted(stages, key=lambda s: s.config.unet.image_size)
        if len(names := [s.config.name for s in stages]) > len(set(names)):
            raise ValueError(f"each stage needs a name of its own; got {names}")

        if len(worlds := {s.config.world for s in stages}) > 1:
            raise ValueError(
                f"the stages were trained on different worlds, {', '.join(sorted(worlds))}; "
                "expected one"
            )

        # 2. does each stage fit the text encoder, and the stage before it?
        for previous, stage in zip([None, *stages], stages):
            c = stage.config
            if c.unet.text_width != text_encoder.width:
                raise ValueError(
                    f"stage {c.name} was trained for text of width {c.unet.text_width}, the "
                    f"text encoder returns {text_encoder.width}"
                )
            if c.text_encoder is not None and not text_encoder.is_read_as(c.text_encoder):
                raise ValueError(
                    f"stage {c.name} was trained with text encoder {c.text_encoder}, this one "
                    f"is {text_encoder.weights_digest()}: take the one it was trained with"
                )
            expected = None if previous is None else previous.config.unet.image_size
            if c.unet.low_res_size != expected:
                raise ValueError(
                    f"stage {c.name} takes a low-resolution image of size "
                    f"{c.unet.low_res_size}, but what comes before it makes {expected}"
                )

        # 3. frozen, and in evaluation mode
        self.text_encoder = text_encoder
        self.stages = nn.ModuleDict({s.config.name: s for s in stages})
        self.eval().requires_grad_(False)

    # ------------------------------------------------------------ on disk

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = "scenes",
        dtype: torch.dtype = torch.float32,
        text_encoder: TextEncoder | str | Path | None = None,
    ) -> ImagenPipeline:
        """Load a pipeline from a folder or from the Hugging Face hub.

        Args:
            path: "scenes" (the default) or "studio", which are shipped; a folder as
                `save_pretrained` writes it; or a hub id like "name/model".
            dtype: Precision of the weights: torch.float32 or torch.bfloat16.
            text_encoder: Takes the place of the pipeline's own (default: that one): "teacher",
                which is shipped, an encoder, a folder or a hub name. Its vectors must be such as
                the stages can read.

        Returns:
            The pipeline on the CPU, in evaluation mode.

        Raises:
            FileNotFoundError: There is no such folder, or a file in it is missing.
            TypeError: The precision is none.
            ValueError: A file is not what it should be, or the parts do not fit together.
        """
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype {dtype!r}; expected torch.float32 or torch.bfloat16")
        folder = find_folder(path)
        names = read_stage_names(folder)
        if not isinstance(text_encoder, TextEncoder):
            own = folder / "text_encoder" if text_encoder is None else text_encoder
            text_encoder = TextEncoder.from_pretrained(own, dtype)
        stages = [load_stage(folder / name) for name in names]
        for name, stage in zip(names, stages):
            if stage.config.name != name:  # it would be saved to another folder than its own
                raise ValueError(f"{folder / name} holds a stage called {stage.config.name!r}")
        pipe = cls(text_encoder, stages).to(dtype)
        pipe.own_images = any(trained_on_folder(folder / name) for name in names)
        pipe.training_records = {name: training_record(folder / name) for name in names}
        return pipe

    def save_pretrained(self, folder: str | Path, training: dict[str, dict] | None = None) -> None:
        """Write the pipeline as a folder, which `from_pretrained` reads.

        Args:
            folder: Where to; made if it does not exist.
            training: By stage name, how it was trained; it goes into the stage's config.json
                (default: as the folder said that the pipeline was loaded from).
        """
        training = dict(self.training_records) if training is None else training
        folder = Path(folder)
        self.text_encoder.save_pretrained(folder / "text_encoder")
        for name, stage in self.stages.items():
            save_stage(stage, folder / name, training.get(name))
        write_stage_names(folder, list(self.stages))

    @property
    def world(self) -> World:
        """The built-in world of its captions: how they are parsed and its images judged."""
        return find_world(next(iter(self.stages.values())).config.world)

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the first stage's network."""
        return next(self.stages[next(iter(self.stages))].parameters()).dtype

    # ------------------------------------------------------------ sampling

    @torch.no_grad()
    def __call__(
        self,
        prompts: str | Sequence[str],
        seed: Seed = 0,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: PerStage[int] = None,
        guidance_scale: PerStage[GuidanceScale] = None,
        guidance_interval: PerStage[Interval] = None,
        threshold: PerStage[str] = None,
        aug_level: PerStage[float] = None,
        sampler: PerStage[str] = None,
        timestep_spacing: PerStage[str] = None,
        eta: PerStage[float] = None,
        gamma: PerStage[float] = 0.0,
        stages: str | Sequence[str] | None = None,
        low_res: Images | None = None,
        x_T: Tensor | None = None,
        image: Images | None = None,
        strength: float | None = None,
        output_type: str = "pil",
        edit: Edit | Sequence[Edit] | None = None,
        edit_stages: str | Sequence[str] | None = None,
        attention_store: AttentionStore | None = None,
        guide: Guide | Sequence[Guide] | None = None,
        on_step: Callable[[str, SamplingState], None] | None = None,
        progress: bool = True,
    ) -> ImagenOutput:
        """Generate an image for each prompt.

        An image depends on its own prompt and seed alone, and not on the rest of the batch. Options
        that are None have the stage's default. Those marked "by stage" also take a dict by stage
        name, such as `{"sr_256": 20}`, which leaves the other stages at their defaults. Several
        threads may call one pipeline at the same time.

        Args:
            prompts: One caption, or a list of b captions. "" is the empty caption.
            seed: One integer for all prompts (default 0), or one for each, as a list, an array or a
                tensor. None: a fresh one for each prompt. A `torch.Generator`, or one for each: the
                seeds are drawn from it. With an edit all prompts share one. The output's `seeds`
                are those used.
            negative_prompt: What guidance leads away from, instead of the null text, at every
                guided stage: one for all prompts, or one for each ("": none).
            num_inference_steps: Steps of the sampler, at least 1; by stage. Each step calls the
                network once. A step of heun calls it twice, except for the last.
            guidance_scale: w of classifier-free guidance, usually from 1 (off) to 10, or a function
                of t that returns it; by stage. A function is first asked once for every step, so
                that it fails before anything is computed.
            guidance_interval: Noise levels (low, high) with 0 <= low < high; by stage. Guidance
                acts only where low < sigma / alpha <= high. The stage's default interval holds for
                the stage's default w only.
            threshold: How x_0_hat is kept in range: "none", "static" or "dynamic"; by stage.
            aug_level: Level of the noise that is added to a low-resolution image, from 0 to the
                stage's `max_aug_level`; by stage.
            sampler: "ddim", "ddpm", "dpmpp_2m" or "heun"; by stage.
            timestep_spacing: "uniform" (in t), "log_snr", "karras" or "mixed"; by stage.
            eta: Fresh noise in each step of ddim and dpmpp_2m, from 0 (none) to 1; by stage. The
                stage's default eta holds for the stage's default sampler only.
            gamma: Variance of ddpm, from 0 (the smaller one, the default) to 1 (the larger one); by
                stage.
            stages: Names of the stages that are sampled: the first one or more of those there are.
                None: all of them.
            low_res: Images to be enlarged by the stages that take this size, one for each prompt or
                one for all. The stages before these are left out. The type says which values are
                black and white. Tensors [b, 3, l, l] of floats are in [-1, 1], as `stages` of the
                output; NumPy arrays [b, l, l, 3] of floats are in [0, 1]; uint8 and PIL images are
                in 0 to 255. Other values are an error.
            x_T: The noise from which the first sampled stage starts, [b, 3, size, size], or one row
                for all prompts: for example that of `ddim_invert`. None: noise of the seed.
            image: An image to start from, as in SDEdit, for all prompts or one for each. Types and
                values are those of `low_res`. Tensors and arrays have the size of the first sampled
                stage; of a PIL image, the middle square is resized.
            strength: With `image`: the time t in (0, 1] up to which noise is added to it, and from
                which sampling starts (default 0.8). 1 keeps almost nothing of the image, and a
                small number almost all of it. The steps from that time on are taken: with
                uniform spacing about strength * num_inference_steps, with others that are finer
                near the image more.
            output_type: Type of `images`: "pil" (the default), a list; "np", an array [b, h, w, 3]
                in [0, 1]; or "pt", a tensor [b, 3, h, w] in [-1, 1]. Each of them may be passed in
                again as `low_res` or `image`. "pt" is that of DeepFloyd IF's cascade in diffusers;
                other pipelines there return [0, 1], which is `images / 2 + 0.5`.
            edit: An edit, such as `Replace()`, or several, as in a `Chain`. The first prompt is
                then the source, the others are its targets, and all of them share one seed.
            edit_stages: Names of the stages that are edited. None: the first one, as in the paper.
                At the other stages each image has its own prompt alone.
            attention_store: An `AttentionStore` that records the attention of one stage.
            guide: A guide, such as `AttendAndExcite()`, or several: what the first stage follows
                beside the prompt. It may be a loss, a classifier, attention or other prompts. See
                `editing/guides.py`.
            on_step: Called as `on_step(stage_name, state)` after every step, with the
                `SamplingState`.
            progress: Show a progress bar for each stage (default True).

        Returns:
            `images`, b images of the last stage; `stages`, the images of every sampled stage as a
            tensor in [-1, 1]; `seconds`, how long each stage took; `seeds`, one for each image.

        Raises:
            TypeError: A prompt, an image, an edit or another option is of the wrong type.
            ValueError: An option is out of range, has the wrong shape, or would not be used.

        Reference: Imagen (Saharia et al., 2022), arXiv 2205.11487, Section 2. `image`: SDEdit (Meng
            et al., 2022), arXiv 2108.01073, Algorithm 1.
        """
        # 1. what is asked for, checked before anything is computed
        prompts = check_prompts(prompts)
        edit, guide = as_edit(edit), as_guide(guide)
        seeds = resolve_seeds(seed, len(prompts), shared=edit is not None)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type {output_type!r}; expected 'pil', 'np' or 'pt'")
        if on_step is not None and not callable(on_step):
            raise TypeError(f"on_step {on_step!r}; expected a function of a name and a state")
        if low_res is not None:
            low_res = given_images("low_res", low_res)
            low_res = low_res.expand(len(prompts) if len(low_res) == 1 else -1, -1, -1, -1)
        names = self._stages_to_sample(stages, low_res, len(prompts))
        edit_stages = resolve_edit_stages(edit, edit_stages, names, seeds)
        store_stage = recorded_stage(attention_store, names)
        options = resolve_options_by_stage(
            self.stages,
            names,
            {
                "num_inference_steps": num_inference_steps,
                "guidance_scale": guidance_scale,
                "guidance_interval": guidance_interval,
                "threshold": threshold,
                "sampler": sampler,
                "timestep_spacing": timestep_spacing,
                "eta": eta,
                "gamma": gamma,
            },
            aug_level,
            negative_prompt,
        )
        x_start, t_start = self._start(names[0], seeds, x_T, image, strength, edit is not None)

        # 2. the prompts, encoded
        request = self.make_request(
            prompts, seeds, negative_prompt=negative_prompt, low_res=low_res
        )
        request = replace(request, x_start=x_start, t_start=t_start)
        if request.negative is not None:
            scales = (
                guidance_scale.values() if isinstance(guidance_scale, dict) else [guidance_scale]
            )
            if not any(callable(scale) for scale in scales):  # else it is the caller's
                self._check_guided(names, request, options)
        for name in edit_stages if edit is not None else ():
            # does it fit? An error of a later stage would lose the images of those before it
            edit.bind(request.tokens, self.stages[name].net.sites, request.text.mask.shape[1])
        if attention_store is not None:
            of_stage = request if store_stage == names[0] else replace(request, t_start=1.0)
            edited = edit is not None and store_stage in edit_stages
            self._prepare_store(attention_store, store_stage, of_stage, options, edited)

        # 3. one stage after the other
        more: dict[str, dict[str, Any]] = {name: {} for name in names}
        if edit is not None:
            for name in edit_stages:
                more[name]["edit"] = edit
        if store_stage is not None:
            more[store_stage]["attention_store"] = attention_store
        more[names[0]]["guide"] = guide
        outputs, seconds = self._sample_stages(names, request, options, on_step, progress, more)

        # 4. the images of the last stage
        _warn_of_nan(outputs)
        images = _as_output(outputs[names[-1]], output_type)
        return ImagenOutput(images, outputs, seconds, seeds)

    @torch.no_grad()
    def edit(
        self,
        image: Images,
        source: str,
        target: str | Sequence[str],
        method: str | ImageEditMethod = "negative-prompt",
        *,
        edit: Edit | Sequence[Edit] | None = None,
        mask: Mask | None = None,
        strength: float | None = None,
        seed: Seed = 0,
        num_inference_steps: PerStage[int] = None,
        guidance_scale: PerStage[GuidanceScale] = None,
        guidance_interval: PerStage[Interval] = None,
        threshold: PerStage[str] = None,
        sampler: PerStage[str] = None,
        timestep_spacing: PerStage[str] = None,
        eta: PerStage[float] = None,
        stages: str | Sequence[str] | None = None,
        output_type: str = "pil",
        on_step: Callable[[str, SamplingState], None] | None = None,
        progress: bool = True,
    ) -> ImagenOutput:
        """Edit a given image, for example a photograph.

            pipe.edit(image, "a red circle", "a red star", edit=PromptSwitching(0.8))

        The first stage edits the image; the stages after it enlarge what it made. Options without a
        word here are those of a call of the pipeline.

        Args:
            image: One image, of any type that the pipeline takes. Tensors and arrays have the size
                of the first stage; of a PIL image, the middle square is resized.
            source: Its caption. "" where a method needs none ("ddim", "direct", "edict", "pnp",
                "masactrl", "sdedit", "blend", "repaint", "inpaint", "imagic").
            target: What it should show: a caption, or a list of them.
            method: How the image is kept, by name or as an object that has options, such as
                `NullTextInversion(inner_steps=20)`. By inversion: "negative-prompt" (the default),
                "null-text", "ddim", "direct", "edict", "pnp" (Plug-and-Play), "masactrl". By noise
                and masks: "sdedit", "blend", "repaint", "diffedit", and "inpaint" with a pipeline
                of `train.inpainting`. By training a copy of the network: "imagic". See
                `editing/given_images.py`.
            edit: With an inversion, what happens in attention, such as `Replace()` or
                `PromptSwitching()`; several are a chain. None: the target's prompt alone.
            mask: Where the image may change, for "blend", "repaint" and "inpaint", which need it,
                and "diffedit". Of the size of the first stage (a PIL image: of the given one), with
                1 where it may. `LocalBlend("circle")` finds it by the attention to a word of the
                source, `DiffEditMask()` by what the prompts disagree about.
            strength: The time in [0, 1] up to which noise is added, for "sdedit" and "blend", or up
                to which an inversion goes. The default is 0.15 for "sdedit", 0.3 for "diffedit",
                else 1. At 0 noise leaves the image as it is. "repaint" has none.
            seed: One seed for all of the noise (default 0).
            sampler: Inversions take "ddim" alone, and "repaint" "ddpm" (its default) or "ddim".
            threshold: Inversions take "none" alone.

        Returns:
            As a call of the pipeline. `images[0]` is the source as the method has it: the
            reconstruction of an inversion, else the given image. The others are the edits.

        Raises:
            TypeError: An image, a mask, a prompt or another option is of the wrong type.
            ValueError: An option is out of range, of another size, or not for this method.
        """
        # 1. what is asked for, checked before anything is computed
        if not isinstance(source, str):
            raise TypeError(f"source {source!r}; expected one caption, as there is one image")
        prompts = [*check_prompts(source), *check_prompts(target)]
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type {output_type!r}; expected 'pil', 'np' or 'pt'")
        named, how, attention = resolve_method(method, edit)
        seeds = resolve_seeds(seed, len(prompts), shared=True)
        if len(set(seeds)) > 1:
            raise ValueError(f"seed {seeds}; expected one for source and targets")
        names = self._stages_to_sample(stages, None, len(prompts))
        stage: DiffusionStage = self.stages[names[0]]
        requested: RequestedOptions = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "guidance_interval": guidance_interval,
            "threshold": threshold,
            "sampler": sampler,
            "timestep_spacing": timestep_spacing,
            "eta": eta,
        }
        options = resolve_method_options(named, how, stage, requested)
        by_stage = resolve_options_by_stage(
            self.stages, names, requested, settled={names[0]: options}
        )
        start = time.perf_counter()
        given = prepare_given_image(
            stage,
            self.text_encoder,
            image,
            prompts,
            named,
            how,
            attention,
            options,
            seeds[0],
            mask,
            strength,
            progress,
        )

        # 2. the method
        for state in given.track(how.run(given), names[0], given.steps):
            if on_step is not None:
                on_step(names[0], state)
        edited = state.x_0_hat.clamp(-1, 1)
        first_seconds = time.perf_counter() - start

        # 3. the stages after it
        outputs, seconds = {names[0]: edited}, {names[0]: first_seconds}
        if later := names[1:]:
            request = self.make_request(prompts, seeds, low_res=edited)
            more = self._sample_stages(later, request, by_stage, on_step, progress)
            outputs, seconds = outputs | more[0], seconds | more[1]
        _warn_of_nan(outputs)
        return ImagenOutput(_as_output(outputs[names[-1]], output_type), outputs, seconds, seeds)

    def make_request(
        self,
        prompts: list[str],
        seeds: Sequence[int],
        text: TextEmbeddings | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        low_res: Tensor | None = None,
    ) -> SampleRequest:
        """What `sample_stage` needs to know about the images.

        Args:
            prompts: b captions.
            seeds: One seed for each of them.
            text: Encoded captions, b rows. None: those of the prompts.
            negative_prompt: What guidance leads away from: one for all prompts, or one for each.
            low_res: Super-resolution only: the images to be enlarged, [b, 3, l, l] in [-1, 1].

        Returns:
            The request, on the device of the pipeline.
        """
        text = self.text_encoder(prompts) if text is None else text
        return SampleRequest(
            prompts,
            [self.text_encoder.tokenize_prompt(prompt) for prompt in prompts],
            text,
            None if negative_prompt is None else self.encode_negative(negative_prompt, text),
            list(seeds),
            None if low_res is None else low_res.to(self.device, torch.float32),
        )

    def encode_negative(
        self, negative_prompt: str | Sequence[str], text: TextEmbeddings
    ) -> TextEmbeddings | None:
        """The negative prompts, encoded.

        Args:
            negative_prompt: One for all rows of `text`, or one for each. "" is the null text.
            text: The encoded prompts, b rows.

        Returns:
            b rows, or None if all negative prompts are empty.

        Raises:
            ValueError: The numbers of prompts and of negative prompts differ.
        """
        negatives = check_prompts(negative_prompt, "negative_prompt")
        if isinstance(negative_prompt, str):
            negatives = negatives * len(text)
        if len(negatives) != len(text):
            raise ValueError(
                f"got {len(negatives)} negative prompts for {len(text)} prompts; give one for "
                "each, or a single string"
            )
        if not any(negatives):
            return None
        null_then_encoded = concatenate([text.null(), self.text_encoder(negatives)])
        return null_then_encoded[
            [len(text) + i if negative else i for i, negative in enumerate(negatives)]
        ]

    def sample_stage(
        self,
        stage_name: str,
        request: SampleRequest,
        options: SamplingOptions,
        edit: Edit | None = None,
        attention_store: AttentionStore | None = None,
        on_step: Callable[[str, SamplingState], None] | None = None,
        progress: bool = True,
        guide: Guide | None = None,
    ) -> Tensor:
        """Sample one stage.

        Args:
            stage_name: Which stage.
            request: The prompts, seeds and given images (see `make_request`).
            options: How to sample (see `resolve_sampling_options`). Where guidance is off, the
                negative prompts are not used.
            edit: An edit of the first prompt's image to those of the others.
            attention_store: Records the attention of this stage.
            on_step: Called as `on_step(stage_name, state)` after every step.
            progress: Show a progress bar.
            guide: What the stage follows beside the prompt.

        Returns:
            x_0_hat of the last step, [b, 3, size, size]: the images, once they are clamped to
            [-1, 1].
        """
        stage: DiffusionStage = self.stages[stage_name]
        if options.guidance_scale == 1:
            request = replace(request, negative=None)

        # 1. super-resolution: noise-conditioning augmentation
        low_res, level = self._augmented(stage, request, options)

        # 2. the times of the steps
        timesteps = _timesteps(stage, request, options)
        w = guidance_by_step(options.guidance_scale, timesteps)

        # 3. an edit
        n_text = request.text.mask.shape[1]
        bound = None if edit is None else edit.bind(request.tokens, stage.net.sites, n_text)
        done = share_done(timesteps)
        if bound is not None:
            if all(bound.rows_identical(done(float(t))) for t in timesteps[:-1]):
                warnings.warn(
                    f"the edit changes nothing: in all {len(timesteps) - 1} steps of "
                    f"{stage_name}, source and targets read the source's prompt. Take more "
                    "steps, or switch prompts earlier: PromptSwitching(until=0.8)",
                    stacklevel=5,  # this, _sample_stages, __call__, torch.no_grad, the caller
                )
            if bound.needs_source:
                self._provide_source(bound, stage_name, request, options, low_res, level, guide)
        of_source = _source_denoiser(stage, request, options, w) if guide is None else None

        # 4. the denoiser of the prompts, under a control
        def controlled(control_at: ControlAt | None) -> Denoiser:
            return stage.denoiser(
                request.text,
                low_res,
                level,
                w,
                options.threshold,
                control_at,
                request.negative,
            )

        # 5. edit, guide and record reach the network through one control
        control_at = None if bound is None else (lambda t: bound.control_at(done(t)))
        call = None
        if guide is not None:
            call = self._guided_call(
                stage,
                request,
                options,
                timesteps,
                w,
                lambda more: controlled(_joined(acting, more)),
            )
            control = guide.control(call)
            check_guide(
                guide, control, bound, request.negative, [done(float(t)) for t in timesteps]
            )
            control_at = _joined(control_at, None if control is None else (lambda t: control))
        acting = control_at
        if attention_store is not None:
            self._prepare_store(
                attention_store, stage_name, request, {stage_name: options}, bound is not None
            )
            control_at = attention_store.wrap_schedule(control_at)

        # 6. what a guide makes of the estimate, and then an edit
        denoise = controlled(control_at)
        if guide is not None and call is not None:
            denoise = guide.wrap(call, denoise)
        if bound is not None:
            denoise = _edited(bound, done, denoise, of_source)

        # 7. the loop
        if guide is None or call is None:
            states = sampling_loop(
                stage, denoise, request.seeds, options, request.x_start, timesteps
            )
        else:
            states = guided_sampling_loop(
                guide, call, stage, denoise, request.seeds, options, request.x_start
            )
        bar = tqdm(
            states, total=len(timesteps) - 1, desc=stage_name, disable=not progress, leave=False
        )
        for state in bar:
            if on_step is not None:
                on_step(stage_name, state)
        return state.x_0_hat

    # ------------------------------------------------------------ the parts of a call

    def _sample_stages(
        self,
        names: list[str],
        request: SampleRequest,
        options: dict[str, SamplingOptions],
        on_step: Callable[[str, SamplingState], None] | None,
        progress: bool,
        more: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Sample stages one after the other. `more` has by stage its "edit", "attention_store" and
        "guide", if there are any.

        Returns:
            By stage, the images [b, 3, size, size] in [-1, 1], and the seconds they took.
        """
        outputs: dict[str, Tensor] = {}
        seconds: dict[str, float] = {}
        for name in names:
            start = time.perf_counter()
            of = more.get(name, {})
            x_0_hat = self.sample_stage(
                name,
                request,
                options[name],
                of.get("edit"),
                of.get("attention_store"),
                on_step,
                progress,
                of.get("guide"),
            )
            outputs[name] = x_0_hat.clamp(-1, 1)
            seconds[name] = time.perf_counter() - start
            request = replace(request, low_res=outputs[name], x_start=None, t_start=1.0)
        return outputs, seconds

    def _guided_call(
        self,
        stage: DiffusionStage,
        request: SampleRequest,
        options: SamplingOptions,
        timesteps: Tensor,
        w: GuidanceScale,
        controlled: Callable[[ControlAt], Denoiser],
    ) -> GuidedCall:
        """What a guide is told of this call."""
        if stage.is_super_resolution:
            raise ValueError(
                f"a guide is for a stage that generates from text alone, and {stage.config.name} "
                "enlarges images; leave guide= or low_res= out"
            )
        return guided_call(
            stage,
            self.text_encoder,
            request.prompts,
            request.tokens,
            request.text,
            replace(options, guidance_scale=w),
            timesteps,
            controlled,
        )

    def _stages_to_sample(
        self, stages: str | Sequence[str] | None, low_res: Tensor | None, n: int
    ) -> list[str]:
        """The names of the stages that are sampled, in their order."""
        available = list(self.stages) if low_res is None else self._stages_after(low_res, n)
        names = available if stages is None else stage_names("stages", stages)
        if names != available[: len(names)] or not names:
            raise ValueError(f"stages {names}; expected {available} or its beginning")
        return names

    def _stages_after(self, low_res: Tensor, n: int) -> list[str]:
        """The stage that enlarges images of this size, and those after it."""
        sizes = {
            stage.config.unet.low_res_size: name
            for name, stage in self.stages.items()
            if stage.is_super_resolution
        }
        if low_res.shape[:2] != (n, 3) or low_res.shape[2:] not in [(size, size) for size in sizes]:
            raise ValueError(
                f"low_res {list(low_res.shape)}: expected an image for each of {n} prompts, "
                f"[{n}, 3, size, size] with size one of {sorted(sizes)}; resize it to that first, "
                "as image.resize((size, size)) does"
            )
        names = list(self.stages)
        return names[names.index(sizes[low_res.shape[-1]]) :]

    def _start(
        self,
        stage_name: str,
        seeds: list[int],
        x_T: Tensor | None,
        image: Images | None,
        strength: float | None,
        edited: bool,
    ) -> tuple[Tensor | None, float]:
        """Where the first stage starts: an image x_t and its time t; None is noise of the seeds."""
        stage: DiffusionStage = self.stages[stage_name]
        b, size = len(seeds), stage.config.unet.image_size
        # 1. which of the two is given?
        if image is None and strength is not None:
            raise ValueError(f"strength {strength} without an image: pass image=, or leave it out")
        if image is None and x_T is None:
            return None, 1.0
        if image is not None and x_T is not None:
            raise ValueError("x_T and image are both given: sampling starts from one of them")

        # 2. noise
        if x_T is not None:
            x_T = check_batch("x_T", x_T, b, size, edited)
            return x_T.to(self.device, torch.float32), 1.0

        # 3. an image: noise is added up to the time `strength`
        t = STRENGTH if strength is None else as_number("strength", strength)
        if not 0 < t <= 1:
            raise ValueError(
                f"strength {strength}; expected a number above 0 (the image stays) up to 1 (noise)"
            )
        x_0 = check_batch("image", given_images("image", image, size), b, size, edited)
        x_0 = x_0.to(self.device, torch.float32)
        log_snr = stage.schedule(torch.tensor(t, dtype=torch.float64)).to(x_0)
        return q_sample(x_0, starting_noise(stage, seeds), log_snr), t

    def _check_guided(
        self, names: list[str], request: SampleRequest, options: dict[str, SamplingOptions]
    ) -> None:
        """ValueError if guidance acts in no step, so that a negative prompt has no effect."""
        for name in names:
            of_stage = request if name == names[0] else replace(request, t_start=1.0)
            times = _timesteps(self.stages[name], of_stage, options[name])[:-1]
            if any(scale_at(options[name].guidance_scale, t) != 1 for t in times):
                return
        raise ValueError(
            f"negative_prompt is not used: guidance acts in none of the steps of "
            f"{', '.join(names)}, whose noise levels lie outside of the guidance interval. Pass a "
            "guidance_scale, which acts at all noise levels, or another guidance_interval"
        )

    def _prepare_store(
        self,
        store: AttentionStore,
        stage_name: str,
        request: SampleRequest,
        options: dict[str, SamplingOptions],
        edited: bool,
    ) -> None:
        """Get a store ready for a stage; ValueError if it would take too much, or nothing."""
        stage: DiffusionStage = self.stages[stage_name]
        store.check_memory(
            stage.net.attention_layers,
            len(request.prompts),
            request.text.mask.shape[1],
            len(_timesteps(stage, request, options[stage_name])) - 1,
            edited,
        )
        store.reset(request.tokens, stage.net.sites)

    def _augmented(
        self, stage: DiffusionStage, request: SampleRequest, options: SamplingOptions
    ) -> tuple[Tensor | None, Tensor | None]:
        """The low-resolution images with noise, and its level [b]; None, None for a base stage."""
        if not stage.is_super_resolution:
            return None, None
        low_res, seeds = request.low_res, request.seeds
        level = torch.full((len(seeds),), float(options.aug_level), device=self.device)
        noise = randn(seeds, low_res.shape[1:], stage.config.name, "aug", device=self.device)
        return augment_low_res(low_res, level, noise), level

    def _provide_source(
        self,
        bound: BoundEdit,
        stage_name: str,
        request: SampleRequest,
        options: SamplingOptions,
        low_res: Tensor | None,
        level: Tensor | None,
        guide: Guide | None,
    ) -> None:
        """Sample the source of an edit, and hand it to the edit.

        It is sampled by itself. A guide may treat every prompt in its own way, so with one all
        prompts are sampled, and the first image is the source.

        The edit also receives a function: what each prompt makes of the source once it is noised
        again.
        """
        stage: DiffusionStage = self.stages[stage_name]
        of = request.first() if guide is None else request
        source = self.sample_stage(stage_name, of, options, progress=False, guide=guide)[:1]
        denoise = stage.denoiser(request.text, low_res, level, 1.0, options.threshold)

        def renoise_and_denoise(t: float, number: int) -> Tensor:
            time_t = torch.tensor(t, device=self.device)
            purpose = (stage_name, "reread", number)
            eps = randn(request.seeds[:1], source.shape[1:], *purpose, device=self.device)
            x_t = q_sample(source, eps, stage.schedule(time_t))
            return denoise(x_t.expand(len(request.seeds), *source.shape[1:]), time_t)

        bound.set_source(source.clamp(-1, 1), renoise_and_denoise)


# ---------------------------------------------------------------- the steps of a call


def _timesteps(stage: DiffusionStage, request: SampleRequest, options: SamplingOptions) -> Tensor:
    """The times of the steps, from that of the image where sampling starts."""
    timesteps = stage.timesteps(options.num_inference_steps, options.timestep_spacing)
    return timesteps if request.t_start == 1 else truncate_timesteps(request.t_start, timesteps)


# ---------------------------------------------------------------- the images of a call


def _warn_of_nan(stages: dict[str, Tensor]) -> None:
    """Warn of images that are none: NaN would become black without a word."""
    for name, images in stages.items():
        if broken := int((~images.isfinite().flatten(1).all(1)).sum()):
            warnings.warn(
                f"stage {name}: {broken} of {len(images)} images hold NaN. Its weights may have "
                "diverged in training; a smaller guidance_scale or precision fp32 may help",
                stacklevel=4,  # this function, __call__, torch.no_grad, the caller
            )
            return


def _as_output(images: Tensor, output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
    """Images [b, 3, h, w] in [-1, 1] as the type that was asked for."""
    if output_type == "pil":
        return to_pil(images)
    return to_numpy(images) if output_type == "np" else images


# ---------------------------------------------------------------- the denoiser of an edit


def _joined(first: ControlAt | None, second: ControlAt | None) -> ControlAt | None:
    """The controls of both at each time, the first one first."""
    if first is None or second is None:
        return second if first is None else first
    return lambda t: both_controls(first(t), second(t))


def _source_denoiser(
    stage: DiffusionStage, request: SampleRequest, options: SamplingOptions, w: GuidanceScale
) -> Denoiser | None:
    """The denoiser of the source's prompt, if rows differ in nothing but their prompts."""
    if stage.is_super_resolution or request.negative is not None:
        return None
    return stage.denoiser(request.text[:1], None, None, w, options.threshold)


def _edited(
    bound: BoundEdit,
    done: Callable[[float], float],
    denoise: Denoiser,
    denoise_source: Denoiser | None,
) -> Denoiser:
    """The denoiser of an edit; `done` is the share of the steps that are done at a time.

    While all rows are identical, `denoise_source` computes one of them for all, which costs less.
    """

    def edited(x_t: Tensor, t: Tensor) -> Tensor:
        if denoise_source is not None and bound.rows_identical(done(float(t))):
            return denoise_source(x_t[:1], t).expand_as(x_t)
        return bound.after_denoising(denoise(x_t, t), done(float(t)))

    return edited
