"""The subcommand `image` of `sample.edit`: a given image, edited by any method of `pipe.edit`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from imagen_mini.data.image_io import open_rgb
from imagen_mini.editing.base import Edit
from imagen_mini.editing.blending import DiffEditMask, LocalBlend
from imagen_mini.editing.given_images import (
    EDIT_OF_METHOD,
    IMAGE_EDIT_METHODS,
    ImageEditMethod,
    Imagic,
)
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Refine, Replace
from imagen_mini.evaluation.edit_comparison import with_features
from imagen_mini.utils.images import image_to_tensor
from imagen_mini.utils.scripts import DefaultsInHelp, number
from imagen_mini.viz.edits import difference_image
from imagen_mini.viz.image_grid import image_grid
from sample.cli import add_pipeline_options, load_pipeline, sampling_options, verdict

EDITS = ("attention", "features", "features-mask", "switching", "none")
NOT_HERE = {"negative_prompt": None, "gamma": 0.0, "aug_level": None}  # by their unused values


def add_image_parser(kinds) -> argparse.ArgumentParser:
    """Add the subcommand to what `add_subparsers` returned."""
    parser = kinds.add_parser(
        "image",
        help="edit an image that is given as a file",
        formatter_class=DefaultsInHelp,
    )
    parser.add_argument("image", type=Path, help="the file; of the image the middle square is used")
    parser.add_argument("source", help='its caption; "" for methods that need none')
    parser.add_argument("target", help="what it should show")
    parser.add_argument(
        "--method",
        choices=tuple(IMAGE_EDIT_METHODS),
        default="negative-prompt",
        help="how the image is kept: by inversion (the first seven), by noise and masks, or by a "
        "copy of the network that is fitted to it (imagic)",
    )
    parser.add_argument(
        "--edit",
        choices=EDITS,
        default=argparse.SUPPRESS,
        help="with an inversion: the source's attention is injected; or that and features of the "
        "decoder; or both, and the image changes only where the prompts disagree about it; or the "
        "source's prompt is read first and then the target's; or nothing (default: attention; with "
        "pnp and masactrl their own)",
    )
    parser.add_argument(
        "--strength",
        type=number(0, 1),
        help="time up to which noise is added to the image, or to which it is inverted (default: "
        "0.15 for sdedit, 0.3 for diffedit, else 1)",
    )
    parser.add_argument(
        "--interpolation",
        type=number(0, 1),
        default=argparse.SUPPRESS,
        help="with imagic: how far the text goes from the image's own (0) to the target's (1) "
        "(default: 0.7)",
    )
    masks = parser.add_mutually_exclusive_group()
    masks.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="an image of the same size, white where the given one may change",
    )
    masks.add_argument(
        "--mask-words",
        nargs="+",
        metavar="WORD",
        help="it may change where these words of the source attend",
    )
    masks.add_argument(
        "--mask-by-prompts",
        action="store_true",
        help="it may change where the two prompts disagree about it",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("edit.png"), help="the image to write")
    add_pipeline_options(parser)
    return parser


def resolve_image_edit(args: argparse.Namespace) -> Edit | None:
    """What happens in attention, as the command line asks for it."""
    method = IMAGE_EDIT_METHODS[args.method]
    asked = getattr(args, "edit", None)
    if asked is None and (args.method in EDIT_OF_METHOD or not method.takes_edit):
        return None
    if asked == "none" and args.method in EDIT_OF_METHOD:
        raise ValueError(
            f"--edit none with method {args.method!r}, which has its own edit: take --method direct"
        )
    if asked == "none":
        return None
    if asked == "switching":
        return PromptSwitching()
    kind = Replace if len(args.source.split()) == len(args.target.split()) else Refine
    if asked in ("features", "features-mask"):
        return with_features(kind, mask=asked == "features-mask")
    return kind()


def resolve_image_method(args: argparse.Namespace) -> str | ImageEditMethod:
    """The method, as the command line asks for it."""
    interpolation = getattr(args, "interpolation", None)
    if interpolation is None:
        return args.method
    if args.method != "imagic":
        raise ValueError(
            f"--interpolation {interpolation} with method {args.method!r}, which does not use it; "
            "expected --method imagic"
        )
    return Imagic(interpolation)


def edit_image(args: argparse.Namespace) -> None:
    """Edit the image, write the figure, and print what the judge reads."""
    # 1. what is asked for
    options = sampling_options(args)
    for option, unused in NOT_HERE.items():
        if options.pop(option) != unused:
            raise ValueError(
                f"--{option.replace('_', '-')} is not used when a given image is edited: leave it "
                "out"
            )
    mask: Image.Image | LocalBlend | DiffEditMask | None = None
    if args.mask is not None:
        mask = Image.open(args.mask)
    elif args.mask_words:
        mask = LocalBlend(*args.mask_words)
    elif args.mask_by_prompts:
        mask = DiffEditMask()
    given = open_rgb(args.image)

    # 2. the edit
    pipe = load_pipeline(args)
    out = pipe.edit(
        given,
        args.source,
        args.target,
        resolve_image_method(args),
        edit=resolve_image_edit(args),
        mask=mask,
        strength=args.strength,
        seed=args.seed,
        **options,
    )
    source, edited = out.stages[list(out.stages)[-1]].float().cpu()
    original = image_to_tensor(given, source.shape[-1])

    # 3. the figure
    how = IMAGE_EDIT_METHODS[args.method]
    kept = "reconstructed" if how.takes_edit or how.optimizes else "as the method has it"
    tiles = [original, source, edited, difference_image(source, edited)]
    labels = [
        "given image",
        f"{kept}: {args.source}",
        f"{args.method}: {args.target}",
        "difference of the last two",
    ]
    image_grid(torch.stack(tiles), labels, columns=4, cell=256).save(args.out)
    for name, prompt, image in zip(
        ("given", "source", "edit"), (args.source, args.source, args.target), tiles
    ):
        if prompt and (said := verdict(pipe, prompt, image)) is not None:
            print(f"{name}: {prompt!r}: {said}")
    print(args.out)
