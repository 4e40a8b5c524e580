"""`ImagenPipeline`: prompts in, images out. It loads, checks that the parts fit, and runs the
stages one after the other.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from imagen_mini.cascade.sampling_options import (
    SamplingOptions,
    check_unused_options,
    resolve_sampling_options,
)
from imagen_mini.cascade.serialization import load_stage, save_stage
from imagen_mini.cascade.stage import DiffusionStage, augment_low_res
from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.diffusion.guidance import Denoiser, GuidanceScale
from imagen_mini.diffusion.samplers import SamplingState, sample
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder, check_prompts, concatenate
from imagen_mini.utils.images import to_numpy, to_pil
from imagen_mini.utils.rng import randn
from imagen_mini.weights import WEIGHTS

FORMAT_VERSION = 1


@dataclass
class ImagenOutput:
    """`images`: of the last stage, as asked for by output_type; `stages`: every stage's images [b,
    3, h, w] in [-1, 1]; `seconds`: per stage.
    """

    images: list
    stages: dict[str, Tensor]
    seconds: dict[str, float] = field(default_factory=dict)


# ---------------------------------------------------------------- the pipeline


class ImagenPipeline(nn.Module):
    """A text encoder and the stages of a cascade, the base stage first.

    pipe = ImagenPipeline.from_pretrained("scenes")
    pipe("a red circle to the left of a blue square", seed=0).images[0].show()
    """

    def __init__(self, text_encoder: TextEncoder, stages: Sequence[DiffusionStage]):
        super().__init__()
        stages = sorted(stages, key=lambda s: s.config.unet.image_size)
        identity = (
            text_encoder.weights_digest() if any(s.config.text_encoder for s in stages) else None
        )
        if len(names := [s.config.name for s in stages]) > len(set(names)):
            raise ValueError(f"each stage needs a name of its own; got {names}")
        for previous, stage in zip([None, *stages], stages):
            c = stage.config
            if c.unet.text_width != text_encoder.width:
                raise ValueError(
                    f"stage {c.name} was trained for text of width {c.unet.text_width}, the "
                    f"text encoder gives {text_encoder.width}"
                )
            if c.text_encoder not in (None, identity):
                raise ValueError(
                    f"stage {c.name} was trained with text encoder {c.text_encoder}, this one "
                    f"is {identity}: take the one it was trained with"
                )
            expected = None if previous is None else previous.config.unet.image_size
            if c.unet.low_res_size != expected:
                raise ValueError(
                    f"stage {c.name} takes a low-resolution image of size "
                    f"{c.unet.low_res_size}, but what comes before it makes {expected}"
                )
        self.text_encoder = text_encoder
        self.stages = nn.ModuleDict({s.config.name: s for s in stages})
        self.eval().requires_grad_(False)

    # ------------------------------------------------------------ on disk

    @classmethod
    def from_pretrained(
        cls, path: str | Path = "scenes", dtype: torch.dtype = torch.float32
    ) -> ImagenPipeline:
        """Load a pipeline: "scenes" (the shipped weights), a folder as `save_pretrained` writes it,
        or a hub id.
        """
        folder = WEIGHTS if str(path) == "scenes" else Path(path)
        if not folder.exists():
            if str(path).count("/") != 1:
                raise FileNotFoundError(
                    f"no pipeline at {folder}: expected 'scenes', a folder, or a hub id like "
                    "'name/model'"
                )
            from huggingface_hub import snapshot_download

            folder = Path(
                snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.md"])
            )
        index = folder / "model_index.json"
        if not index.is_file():
            raise FileNotFoundError(f"{folder} is no pipeline: it has no model_index.json")
        try:
            values = json.loads(index.read_text())
            version, names = values["format_version"], values["stages"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{index} is not the index of a pipeline: {error!r}") from error
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{index} has format version {version}; this code reads {FORMAT_VERSION}. "
                "Update imagen_mini"
            )
        if not isinstance(names, list) or not all(
            isinstance(n, str) and n.isidentifier() for n in names
        ):
            raise ValueError(f"{index}: stages must be a list of folder names; got {names!r}")
        if not (folder / "text_encoder" / "config.json").is_file():
            raise FileNotFoundError(f"{folder} has no text_encoder/config.json")
        encoder = TextEncoder.from_pretrained(folder / "text_encoder", dtype)
        return cls(encoder, [load_stage(folder / name) for name in names]).to(dtype)

    def save_pretrained(self, folder: str | Path, training: dict[str, dict] | None = None) -> None:
        """Write the pipeline as a folder; `training` goes into the stages' config.json."""
        folder = Path(folder)
        self.text_encoder.save_pretrained(folder / "text_encoder")
        for name, stage in self.stages.items():
            save_stage(stage, folder / name, (training or {}).get(name))
        index = {
            "pipeline": "ImagenPipeline",
            "format_version": FORMAT_VERSION,
            "stages": list(self.stages),
        }
        (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.stages[next(iter(self.stages))].parameters()).dtype

    # ------------------------------------------------------------ sampling

    @torch.no_grad()
    def __call__(
        self,
        prompts: str | Sequence[str],
        seed: int | Sequence[int] = 0,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | dict | None = None,
        guidance_scale: GuidanceScale | dict | None = None,
        guidance_interval: tuple[float, float] | dict | None = None,
        threshold: str | dict | None = None,
        aug_level: float | None = None,
        sampler: str | dict | None = None,
        spacing: str | dict | None = None,
        eta: float | dict | None = None,
        gamma: float | dict = 0.0,
        stages: Sequence[str] | None = None,
        low_res: Tensor | None = None,
        output_type: str = "pil",
        edit=None,
        edit_stages: Sequence[str] | None = None,
        record: AttentionStore | None = None,
        on_step: Callable[[str, SamplingState], None] | None = None,
        progress: bool = True,
    ) -> ImagenOutput:
        """Draw an image for each prompt.

        `stages`: only these (default: all). `low_res`: images [b, 3, h, w] in [-1, 1] of a stage's
        size, one for each prompt, to be enlarged by the stages after it instead of drawing anew.

        An image depends on its own prompt and seed alone. `seed` is one number for all prompts, or
        one for each. What is left None is the stage's own default; a dict by stage name sets a
        value per stage. With `edit`, the first prompt is the source and the others are its targets,
        all from one seed; `edit_stages` are those that are edited (None: the first, as in the
        paper; the others read each its own prompt). `record` writes down attention (see
        `imagen_mini.attention_maps`); `on_step(stage, state)` is called after every step.

        `negative_prompt`: what guidance leads away from instead of the null text, at every guided
        stage; one for all prompts, or one for each ("": none). `guidance_scale`: w, or a function
        of t that gives it; `guidance_interval`: the noise levels (low, high] of sigma / alpha
        between which there is guidance at all (see `imagen_mini.guidance`; a stage's own goes with
        its own w). `eta` is the fresh noise of ddim and dpmpp_2m, `gamma` the variance of ddpm (see
        `imagen_mini.samplers`), at the stages with that sampler. One of these that no stage uses is
        an error.
        """
        prompts = check_prompts(prompts)
        seeds = (
            [int(s) for s in seed]
            if isinstance(seed, (list, tuple, range))
            else [int(seed)] * len(prompts)
        )
        if len(seeds) != len(prompts):
            raise ValueError(
                f"got {len(seeds)} seeds for {len(prompts)} prompts; give one for each, or a "
                "single number"
            )
        if edit is not None and len(set(seeds)) > 1:
            raise ValueError(
                f"an edit draws source and target from one noise: give one seed; got {seeds}"
            )
        if edit is None and edit_stages is not None:
            raise ValueError(
                f"edit_stages {list(edit_stages)} without an edit: pass edit=, or leave it out"
            )
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type {output_type!r}; expected 'pil', 'np' or 'pt'")
        available = list(self.stages) if low_res is None else self._after(low_res, len(prompts))
        names = available if stages is None else list(stages)
        if names != available[: len(names)] or not names:
            raise ValueError(f"stages {names}; expected {available} or its beginning")
        edit_stages = names[:1] if edit_stages is None else list(edit_stages)
        for option, chosen in (
            ("edit_stages", edit_stages),
            ("record.stage", [record.stage] if record and record.stage else []),
        ):
            if unknown := set(chosen) - set(names):
                raise ValueError(
                    f"{option}: no stage {sorted(unknown)} is drawn; expected of {names}"
                )
        options = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "guidance_interval": guidance_interval,
            "threshold": threshold,
            "sampler": sampler,
            "spacing": spacing,
            "eta": eta,
            "gamma": gamma,
        }
        for option, value in options.items():
            if isinstance(value, dict) and set(value) - set(self.stages):
                raise ValueError(
                    f"{option}: no stage {sorted(set(value) - set(self.stages))}; there are "
                    f"{list(self.stages)}"
                )
        plans = {
            name: resolve_sampling_options(self.stages[name], aug_level=aug_level, **options)
            for name in names
        }
        check_unused_options(plans, eta, gamma, negative_prompt, guidance_interval)
        text = self.text_encoder(prompts)
        negative = None if negative_prompt is None else self.encode_negative(negative_prompt, text)
        outputs: dict[str, Tensor] = {}
        seconds: dict[str, float] = {}
        for name, plan in plans.items():
            start = time.perf_counter()
            previous = (
                outputs[list(outputs)[-1]]
                if outputs
                else None
                if low_res is None
                else low_res.to(self.device, torch.float32)
            )
            x_0_hat = self.sample_stage(
                name,
                plan,
                prompts,
                text,
                negative,
                seeds,
                previous,
                edit if name in edit_stages else None,
                record if record and name == (record.stage or names[0]) else None,
                on_step,
                progress,
            )
            outputs[name] = x_0_hat.clamp(-1, 1)
            seconds[name] = time.perf_counter() - start
        last = outputs[names[-1]]
        images = (
            to_pil(last)
            if output_type == "pil"
            else list(to_numpy(last))
            if output_type == "np"
            else list(last)
        )
        return ImagenOutput(images, outputs, seconds)

    def _after(self, low_res: Tensor, n: int) -> list[str]:
        """The stages that enlarge such images, and those after."""
        sizes = {
            stage.config.unet.low_res_size: name
            for name, stage in self.stages.items()
            if stage.is_super_resolution
        }
        if low_res.shape[:2] != (n, 3) or low_res.shape[2:] not in [(size, size) for size in sizes]:
            raise ValueError(
                f"low_res {list(low_res.shape)}: expected an image for each of {n} prompts, "
                f"[{n}, 3, size, size] with size one of {sorted(sizes)}"
            )
        names = list(self.stages)
        return names[names.index(sizes[low_res.shape[-1]]) :]

    def encode_negative(
        self, negative_prompt: str | Sequence[str], text: TextEmbeddings
    ) -> TextEmbeddings | None:
        """The negative prompts as text, one for each row of `text`; an empty one is the null text,
        and None stands for all empty.
        """
        negatives = check_prompts(negative_prompt)
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
        name: str,
        plan: SamplingOptions,
        prompts: list[str],
        text: TextEmbeddings,
        negative: TextEmbeddings | None,
        seeds: list[int],
        previous: Tensor | None,
        edit=None,
        record: AttentionStore | None = None,
        on_step: Callable[[str, SamplingState], None] | None = None,
        progress: bool = True,
    ) -> Tensor:
        """Sample one stage: the last step's x_0_hat [b, 3, size, size], which is the image once it
        is clamped to [-1, 1].

        `previous` holds the images of the stage before. Where guidance is off, `negative` is not
        looked at.
        """
        stage: DiffusionStage = self.stages[name]
        device, size = self.device, stage.config.unet.image_size
        low_res = level = None
        if stage.is_super_resolution:
            level = torch.full((len(seeds),), float(plan.aug_level), device=device)
            low_res = augment_low_res(
                previous, level, randn(seeds, previous.shape[1:], name, "aug", device=device)
            )
        tokens, n_text = [self.text_encoder.tokens(p) for p in prompts], text.mask.shape[1]
        bound = None if edit is None else edit.bind(tokens, stage.net.sites, n_text)
        control_at = None if bound is None else bound.control_at
        if record is not None:
            record.check_memory(
                stage.net.attention_layers,
                len(prompts),
                n_text,
                plan.num_inference_steps,
                edit is not None,
            )
            record.start(tokens, stage.net.sites)
            control_at = record.around(control_at)
        negative = None if plan.guidance_scale == 1 else negative
        denoise = stage.denoiser(
            text, low_res, level, plan.guidance_scale, plan.threshold, control_at, negative
        )
        times = stage.times(plan.num_inference_steps, plan.spacing)
        if bound is not None:
            if all(bound.rows_identical(float(t)) for t in times[:-1]):
                warnings.warn(
                    f"the edit changes nothing: in all {plan.num_inference_steps} steps of "
                    f"{name}, source and targets read the source's prompt. Take more "
                    "steps, or a smaller shared_prompt_steps",
                    stacklevel=3,
                )
            if bound.needs_source:
                self._provide_source(
                    bound, name, plan, prompts, text, negative, seeds, previous, low_res, level
                )
            alike = low_res is None and negative is None  # rows differ in their prompts alone
            denoise = _edited(
                bound,
                denoise,
                stage.denoiser(text[:1], None, None, plan.guidance_scale, plan.threshold)
                if alike
                else None,
            )
        states = sample(
            denoise,
            randn(seeds, (3, size, size), name, "x_T", device=device),
            times,
            stage.log_snr_of,
            plan.sampler,
            lambda step: randn(seeds, (3, size, size), name, "step", step, device=device),
            eta=plan.eta,
            gamma=plan.gamma,
        )
        for state in tqdm(
            states, total=plan.num_inference_steps, desc=name, disable=not progress, leave=False
        ):
            if on_step is not None:
                on_step(name, state)
        return state.x_0_hat

    def _provide_source(
        self,
        bound,
        name: str,
        plan: SamplingOptions,
        prompts: list[str],
        text: TextEmbeddings,
        negative: TextEmbeddings | None,
        seeds: list[int],
        previous: Tensor | None,
        low_res: Tensor | None,
        level: Tensor | None,
    ) -> None:
        """Draw an edit's source alone, and let the edit look at it, and at what each prompt makes
        of it once it is noised again.
        """
        stage: DiffusionStage = self.stages[name]
        source = self.sample_stage(
            name,
            plan,
            prompts[:1],
            text[:1],
            None if negative is None else negative[:1],
            seeds[:1],
            None if previous is None else previous[:1],
            progress=False,
        )
        denoise = stage.denoiser(text, low_res, level, 1.0, plan.threshold)

        def renoise_and_denoise(t: float, number: int) -> Tensor:
            at = torch.tensor(t, device=self.device)
            return denoise(
                q_sample(
                    source,
                    randn(seeds[:1], source.shape[1:], name, "reread", number, device=self.device),
                    stage.log_snr_of(at),
                ).expand(len(seeds), *source.shape[1:]),
                at,
            )

        bound.set_source(source.clamp(-1, 1), renoise_and_denoise)


def _edited(bound, denoise: Denoiser, denoise_source: Denoiser | None) -> Denoiser:
    """The denoiser of an edit: `denoise`, or `denoise_source`, one row for all, where that is the
    same and costs less.
    """

    def edited(x_t: Tensor, t: Tensor) -> Tensor:
        if denoise_source is not None and bound.rows_identical(float(t)):
            return denoise_source(x_t[:1], t).expand_as(x_t)
        return bound.after_denoising(denoise(x_t, t), float(t))

    return edited
