"""Command-line options that the sampling scripts share, and the pipeline that they ask for."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable

import torch
from torch import nn

from imagen_mini import ImagenPipeline
from imagen_mini.diffusion.guidance import THRESHOLDS, check_interval
from imagen_mini.diffusion.samplers import SAMPLERS
from imagen_mini.diffusion.timesteps import TIMESTEP_SPACINGS
from imagen_mini.evaluation.scoring import description_of, judge_image
from imagen_mini.rejection_sampling import Verifier, caption_verifier
from imagen_mini.scenes.scene import GRID
from imagen_mini.scenes.upsampling import upsample_caption
from imagen_mini.scenes.world import World
from imagen_mini.utils.devices import available_device
from imagen_mini.utils.precision import PRECISIONS, compute_dtype
from imagen_mini.utils.scripts import integer, number


def noise_levels(text: str) -> tuple[float, float]:
    """Two noise levels from text like '0.2,5'; an error of argparse for anything else."""
    try:
        low, high = (float(value) for value in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no interval; expected two noise levels like 0.2,5"
        ) from None
    try:
        check_interval((low, high))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return low, high


def add_model_options(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add the options that say which pipeline is used, and where it computes.

    Args:
        parser: The parser.
        several: May there be more pipelines than one? Then `load_pipelines` loads them.
    """
    if several:
        parser.add_argument(
            "--pipeline",
            nargs="+",
            action="extend",
            help="pipeline folders or hub ids (default: the shipped weights)",
        )
    else:
        parser.add_argument(
            "--pipeline",
            default="scenes",
            help="a pipeline folder or hub id (default: the shipped weights)",
        )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, mps (default: cuda if there is one)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of the networks; auto is bf16 where that is found to be faster",
    )


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `add_model_options`, and those of the pipeline's call."""
    add_model_options(parser)
    parser.add_argument(
        "--text-encoder",
        metavar="ENCODER",
        help="takes the place of the pipeline's own: teacher, which is shipped, was not taught "
        "rare, misspelt and negated words; or a folder of python -m train.distill_text_encoder",
    )
    parser.add_argument(
        "--steps",
        type=integer(low=1),
        help="steps per stage, each one network call; with heun two, except the last (default: the "
        "stage's)",
    )
    parser.add_argument(
        "--guidance-scale",
        type=number(),
        help="w of classifier-free guidance; 1 is off (default: the stage's)",
    )
    parser.add_argument(
        "--guidance-interval",
        type=noise_levels,
        metavar="LOW,HIGH",
        help="guide only while the noise level sigma / alpha is in this "
        "interval, for example 0.2,5 (default: the stage's, with its default scale; else always)",
    )
    parser.add_argument(
        "--negative-prompt",
        metavar="TEXT",
        help="what the images should not show: guidance leads away from it",
    )
    parser.add_argument(
        "--threshold",
        choices=THRESHOLDS,
        help="how x_0 is kept in range (default: the stage's)",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, help="(default: the stage's)")
    parser.add_argument(
        "--timestep-spacing",
        "--spacing",
        choices=TIMESTEP_SPACINGS,
        help="spacing of the steps: even in t, even in log-SNR, that of Karras et al., or a mean "
        "of the first two (default: the stage's); --spacing is the former name",
    )
    parser.add_argument(
        "--eta",
        type=number(0, 1),
        help="fresh noise in every step of the ddim and dpmpp_2m samplers, from 0 (none) to 1 "
        "(default: the stage's)",
    )
    parser.add_argument(
        "--gamma",
        type=number(0, 1),
        default=0.0,
        help="variance of the ddpm sampler, from 0 (the smaller one, the default) to 1 (the larger "
        "one)",
    )
    parser.add_argument(
        "--aug-level",
        type=number(0, 1),
        help="noise added to the low-resolution image before super-resolution, from 0 to the "
        "stage's max_aug_level (default: the stage's)",
    )
    parser.add_argument("--base-only", action="store_true", help="stop after the first stage")


def add_upsampling_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that has captions upsampled; `upsampled` does it."""
    parser.add_argument(
        "--upsample-captions",
        action="store_true",
        help="state a random colour in the caption for each object whose colour it leaves open; "
        "images are judged by the caption as it was",
    )


def upsampled(prompts: Iterable[str], seeds: Iterable[int], world: World) -> list[str]:
    """Captions, upsampled by the seeds of their images. What cannot be parsed stays as it is."""
    return [
        prompt if description_of(prompt, world) is None else upsample_caption(prompt, seed, world)
        for prompt, seed in zip(prompts, seeds)
    ]


def add_attempts_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that has images sampled again (`rejection_sample`)."""
    parser.add_argument(
        "--attempts",
        type=integer(low=1),
        default=1,
        help="sample an image up to so many times, until a reader of the world accepts it as what "
        "its caption says (default: 1, without asking)",
    )


def verifier_of(pipe: ImagenPipeline) -> Verifier:
    """What accepts images of the pipeline's world.

    Raises:
        ValueError: The pipeline's images are of no built-in world.
    """
    if pipe.own_images:
        raise ValueError(
            "--attempts is for images of a built-in world, and the pipeline was trained on a "
            "folder of images, which nothing here can read: leave it out"
        )
    return caption_verifier(pipe.world)


def load_pipeline(args: argparse.Namespace) -> ImagenPipeline:
    """The pipeline on its device, in the precision that was asked for.

    The text encoder stays in float32, as it was in training.

    Raises:
        OSError, ValueError: There is no such pipeline or device.
    """
    device = available_device(args.device)
    encoder = getattr(args, "text_encoder", None)
    pipe = ImagenPipeline.from_pretrained(args.pipeline, text_encoder=encoder).to(device)
    args.first_stage = next(iter(pipe.stages))  # what --base-only stops after
    pipe.stages.to(compute_dtype(args.precision, device))
    return pipe


def load_pipelines(args: argparse.Namespace) -> dict[str, ImagenPipeline]:
    """The pipelines that were asked for with `add_model_options(parser, several=True)`, by name.

    Raises:
        OSError, ValueError: There is no such pipeline or device.
    """
    return {
        name: load_pipeline(argparse.Namespace(**vars(args) | {"pipeline": name}))
        for name in args.pipeline or ["scenes"]
    }


def weights_digest(net: nn.Module) -> str:
    """A hash of the weights, by which measurements know that a network was trained on."""
    digest = hashlib.sha256()
    for tensor in net.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def verdict(pipe: ImagenPipeline, prompt: str, image: torch.Tensor) -> str | None:
    """What the parser of the pipeline's world says of an image [3, h, w] in [-1, 1].

    None: the pipeline was trained on a folder of images, and the prompt is not of that world.
    """
    if pipe.own_images and description_of(prompt, pipe.world) is None:
        return None
    return judge_image(prompt, image, pipe.world)


def check_judged(pipe: ImagenPipeline, stages: Iterable[str]) -> None:
    """Check that the images of these stages can be read, before any is generated.

    A note is printed where the pipeline was trained on a folder: only captions of the built-in
    world can be judged.

    Raises:
        ValueError: The world of the pipeline has no parser, or none for images of this size.
    """
    if pipe.own_images:
        print(
            f"note: the pipeline was trained on a folder of images, and is judged as of the world "
            f"{pipe.world.name}; python -m sample.evaluate --data FOLDER measures on the folder",
            file=sys.stderr,
        )
    for name in stages:
        size = pipe.stages[name].config.unet.image_size
        if not pipe.world.can_read(size):
            raise ValueError(
                f"images of stage {name} cannot be judged: those of the world {pipe.world.name} "
                f"are read at multiples of {GRID} px, and these have {size} px"
                if pipe.world.has_parser
                else f"images of the world {pipe.world.name} cannot be judged"
            )


def sampling_options(args: argparse.Namespace) -> dict:
    """The parsed options as keyword arguments of `ImagenPipeline.__call__`."""
    return {
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "guidance_interval": args.guidance_interval,
        "negative_prompt": args.negative_prompt,
        "threshold": args.threshold,
        "sampler": args.sampler,
        "timestep_spacing": args.timestep_spacing,
        "eta": args.eta,
        "gamma": args.gamma,
        "aug_level": args.aug_level,
        "stages": (getattr(args, "first_stage", "base"),) if args.base_only else None,
    }
