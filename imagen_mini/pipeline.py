"""`ImagenPipeline`: prompts in, pictures out. It loads, checks that the parts fit, and runs the stages one after the other."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from .cascade import Stage, augment, load_stage, save_stage
from .randomness import randn
from .samplers import sample
from .schedule import uniform_times
from .text import Text, TextEncoder, check_prompts
from .weights import WEIGHTS

FORMAT_VERSION = 1


@dataclass
class ImagenOutput:
    """`images`: of the last stage, as asked for by output_type; `stages`: every stage's pictures [b, 3, h, w] in [-1, 1];
    `seconds`: per stage."""

    images: list
    stages: dict[str, Tensor]
    seconds: dict[str, float] = field(default_factory=dict)


def to_pil(images: Tensor) -> list[Image.Image]:
    """[b, 3, h, w] in [-1, 1] -> PIL pictures."""
    return [Image.fromarray(a) for a in ((to_numpy(images) * 255).round().astype(np.uint8))]


def to_numpy(images: Tensor) -> np.ndarray:
    """[b, 3, h, w] in [-1, 1] -> [b, h, w, 3] in [0, 1]."""
    return (images.float().cpu().clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).numpy()


class ImagenPipeline(nn.Module):
    """A text encoder and the stages of a cascade, the base stage first.

        pipe = ImagenPipeline.from_pretrained("scenes")
        pipe("a red circle to the left of a blue square", seed=0).images[0].show()
    """

    def __init__(self, text_encoder: TextEncoder, stages: Sequence[Stage]):
        super().__init__()
        stages = sorted(stages, key=lambda s: s.config.unet.image_size)
        if len(names := [s.config.name for s in stages]) > len(set(names)):
            raise ValueError(f"each stage needs a name of its own; got {names}")
        for previous, stage in zip([None, *stages], stages):
            c = stage.config
            if c.unet.text_width != text_encoder.width:
                raise ValueError(f"stage {c.name} was trained for text of width {c.unet.text_width}, the text encoder gives {text_encoder.width}")
            expected = None if previous is None else previous.config.unet.image_size
            if c.unet.low_res_size != expected:
                raise ValueError(f"stage {c.name} takes a low-resolution picture of size {c.unet.low_res_size}, but what comes before it makes {expected}")
        self.text_encoder = text_encoder
        self.stages = nn.ModuleDict({s.config.name: s for s in stages})
        self.eval().requires_grad_(False)

    # ------------------------------------------------------------ on disk

    @classmethod
    def from_pretrained(cls, path: str | Path = "scenes", dtype: torch.dtype = torch.float32) -> ImagenPipeline:
        """Load a pipeline: "scenes" (the shipped weights), a folder as `save_pretrained` writes it, or a hub id."""
        folder = WEIGHTS if str(path) == "scenes" else Path(path)
        if not folder.exists():
            if str(path).count("/") != 1:
                raise FileNotFoundError(f"no pipeline at {folder}: expected 'scenes', a folder, or a hub id like 'name/model'")
            from huggingface_hub import snapshot_download
            folder = Path(snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.md"]))
        index = folder / "model_index.json"
        if not index.is_file():
            raise FileNotFoundError(f"{folder} is no pipeline: it has no model_index.json")
        try:
            values = json.loads(index.read_text())
            version, names = values["format_version"], values["stages"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{index} is not the index of a pipeline: {error!r}") from error
        if version != FORMAT_VERSION:
            raise ValueError(f"{index} has format version {version}; this code reads {FORMAT_VERSION}. Update imagen_mini")
        if not isinstance(names, list) or not all(isinstance(n, str) and n.isidentifier() for n in names):
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
        index = {"pipeline": "ImagenPipeline", "format_version": FORMAT_VERSION, "stages": list(self.stages)}
        (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.stages[next(iter(self.stages))].parameters()).dtype

    # ------------------------------------------------------------ sampling

    @torch.no_grad()
    def __call__(self, prompts: str | Sequence[str], seed: int | Sequence[int] = 0, *, num_inference_steps: int | dict | None = None,
                 guidance_scale: float | dict | None = None, threshold: str | dict | None = None, aug_level: float | None = None,
                 sampler: str | dict | None = None, stages: Sequence[str] | None = None, output_type: str = "pil", edit=None,
                 progress: bool = True) -> ImagenOutput:
        """Draw a picture for each prompt.

        A picture depends on its own prompt and seed alone. `seed` is one number for all prompts, or one for each. What is left None
        is the stage's own default; a dict by stage name sets a value per stage. With `edit`, the first prompt is the source and the
        others are its targets, all from one seed.
        """
        prompts = check_prompts(prompts)
        seeds = [int(s) for s in seed] if isinstance(seed, (list, tuple, range)) else [int(seed)] * len(prompts)
        if len(seeds) != len(prompts):
            raise ValueError(f"got {len(seeds)} seeds for {len(prompts)} prompts; give one for each, or a single number")
        if edit is not None and len(set(seeds)) > 1:
            raise ValueError(f"an edit draws source and target from one noise: give one seed; got {seeds}")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type {output_type!r}; expected 'pil', 'np' or 'pt'")
        names = list(self.stages) if stages is None else list(stages)
        if names != list(self.stages)[:len(names)] or not names:
            raise ValueError(f"stages {names}; expected {list(self.stages)} or its beginning")
        for option, value in (("num_inference_steps", num_inference_steps), ("guidance_scale", guidance_scale), ("threshold", threshold), ("sampler", sampler)):
            if isinstance(value, dict) and set(value) - set(self.stages):
                raise ValueError(f"{option}: no stage {sorted(set(value) - set(self.stages))}; there are {list(self.stages)}")
        text = self.text_encoder(prompts)
        pictures: dict[str, Tensor] = {}
        seconds: dict[str, float] = {}
        for name in names:
            start = time.perf_counter()
            previous = pictures[list(pictures)[-1]] if pictures else None
            pictures[name] = self.run_stage(
                name, prompts, text, seeds, previous, _for_stage(num_inference_steps, name), _for_stage(guidance_scale, name),
                _for_stage(threshold, name), aug_level, _for_stage(sampler, name), edit if name == names[0] else None, progress)
            seconds[name] = time.perf_counter() - start
        last = pictures[names[-1]]
        images = to_pil(last) if output_type == "pil" else list(to_numpy(last)) if output_type == "np" else list(last)
        return ImagenOutput(images, pictures, seconds)

    def run_stage(self, name: str, prompts: list[str], text: Text, seeds: list[int], previous: Tensor | None, steps: int | None,
                  guidance_scale: float | None, threshold: str | None, aug_level: float | None, sampler: str | None, edit, progress: bool) -> Tensor:
        """Sample one stage: [b, 3, size, size] in [-1, 1]. `previous` holds the pictures of the stage before."""
        stage: Stage = self.stages[name]
        c, device = stage.config, self.device
        low_res = level = None
        if stage.is_super_resolution:
            value = c.aug_level if aug_level is None else aug_level
            if not 0 <= value <= c.max_aug_level:
                raise ValueError(f"aug_level {value}: stage {name} was trained with levels from 0 to {c.max_aug_level}")
            level = torch.full((len(seeds),), float(value), device=device)
            low_res = augment(previous, level, randn(seeds, previous.shape[1:], name, "aug", device=device))
        injection = None
        if edit is not None:
            injection = edit.bind([self.text_encoder.tokens(p) for p in prompts], stage.net.sites, text.mask.shape[1])
        denoise = stage.denoiser(text, low_res, level, guidance_scale, threshold, injection.control_at if injection else None)
        size = c.unet.image_size
        steps = c.num_inference_steps if steps is None else steps
        states = sample(denoise, randn(seeds, (3, size, size), name, "x_T", device=device), uniform_times(steps, device), stage.log_snr_of,
                        c.sampler if sampler is None else sampler, lambda step: randn(seeds, (3, size, size), name, "step", step, device=device))
        for state in tqdm(states, total=steps, desc=name, disable=not progress, leave=False):
            pass
        return state.x_0_hat.clamp(-1, 1)


def _for_stage(value, name: str):
    return value.get(name) if isinstance(value, dict) else value
