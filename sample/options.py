"""Command-line options that the sampling scripts share."""

from __future__ import annotations

import argparse

import torch

from imagen_mini import ImagenPipeline
from imagen_mini.guidance import THRESHOLDS
from imagen_mini.precision import PRECISIONS, compute_dtype
from imagen_mini.samplers import SAMPLERS


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipeline", default="scenes", help="a pipeline folder or hub id (default: the shipped weights)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1, mps (default: cuda if there is one)")
    parser.add_argument("--steps", type=int, help="network calls per stage (default: the stage's own)")
    parser.add_argument("--guidance-scale", type=float, help="w of classifier-free guidance; 1 is off (default: the stage's own)")
    parser.add_argument("--threshold", choices=THRESHOLDS, help="how x_0 is kept in range (default: the stage's own)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="(default: the stage's own)")
    parser.add_argument("--aug-level", type=float, help="noise added to the low-resolution picture before super-resolution")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the networks; auto is bf16 where the processor computes in it")
    parser.add_argument("--base-only", action="store_true", help="stop after the first stage")


def load_pipeline(args: argparse.Namespace) -> ImagenPipeline:
    """The pipeline on its device. The text encoder stays in float32, as it was in training."""
    pipe = ImagenPipeline.from_pretrained(args.pipeline).to(args.device)
    pipe.stages.to(compute_dtype(args.precision, torch.device(args.device)))
    return pipe


def sampling_options(args: argparse.Namespace) -> dict:
    """The options as arguments of the pipeline's call."""
    return {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale, "threshold": args.threshold, "sampler": args.sampler,
            "aug_level": args.aug_level, "stages": ("base",) if args.base_only else None}
