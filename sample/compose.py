"""Compose prompts: an image that all of them describe, or that some of them do not.

    python -m sample.compose "a red circle AND a blue square" --count 4 --out compose.png
    python -m sample.compose "a green cross NOT a purple triangle" --not-weight 0.5
    python -m sample.compose "a red circle AND a circle on a black background" --guidance-scale 2

AND and NOT stand between prompts, in capitals. The first column of the image is the composition;
the others show each prompt by itself, from the same noise. Only the first stage is sampled.

Composition multiplies what each prompt asks for (Liu et al., 2022). A prompt of the built-in worlds
states all objects of an image, so "a red circle AND a blue square" asks for one object and for
another one. It composes well what prompts leave open, such as colours and backgrounds.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from imagen_mini.editing.guides import ComposedPrompts
from imagen_mini.utils.scripts import check_output_file, integer, number, run_script, script_parser
from imagen_mini.viz.image_grid import image_table
from sample.cli import add_pipeline_options, load_pipeline, sampling_options


def parts_of_text(text: str, not_weight: float) -> list[tuple[str, float]]:
    """The prompts between AND and NOT, each with its weight.

    Args:
        text: Such as "a star AND a ring NOT a blue ring".
        not_weight: The weight of what follows a NOT, above 0.

    Returns:
        (prompt, weight), with a weight of 1 or of -not_weight.

    Raises:
        ValueError: There is no prompt beside an AND or a NOT, or nothing but NOT.
    """
    pieces = re.split(r"\b(AND|NOT)\b", text)
    signs, prompts = ["AND", *pieces[1::2]], [piece.strip() for piece in pieces[::2]]
    if not prompts[0] and len(prompts) > 1 and signs[1] == "NOT":
        signs, prompts = signs[1:], prompts[1:]
    if not all(prompts):
        raise ValueError(f"{text!r}: there is no prompt beside one of its AND and NOT")
    if "AND" not in signs:
        raise ValueError(f"{text!r} says only what is not to be there; begin with a prompt")
    return [(p, 1.0 if sign == "AND" else -not_weight) for sign, p in zip(signs, prompts)]


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("text", help="prompts with AND and NOT between them, in quotes")
    parser.add_argument("--seed", type=int, default=0, help="of the first image (default: 0)")
    parser.add_argument("--count", type=integer(low=1), default=4, help="images (default: 4)")
    parser.add_argument(
        "--not-weight", type=number(above=0), default=0.5, help="of NOT (default: 0.5)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("compose.png"), help="(default: %(default)s)"
    )
    add_pipeline_options(parser)
    args = parser.parse_args(arguments)
    check_output_file(args.out)
    parts = parts_of_text(args.text, args.not_weight)

    pipe = load_pipeline(args)
    seeds = [args.seed + i for i in range(args.count)]
    options = sampling_options(args) | {"stages": (args.first_stage,), "output_type": "pt"}
    # 1. the composition; it is of the parts alone, whatever the prompt of the call is
    columns = [pipe([parts[0][0]] * args.count, seeds, guide=ComposedPrompts(parts), **options)]
    # 2. every part by itself
    columns += [pipe([prompt] * args.count, seeds, **options) for prompt, _ in parts]
    images = torch.stack([column.images for column in columns], dim=1)
    names = [args.text, *(f"{'' if weight > 0 else 'NOT '}{prompt}" for prompt, weight in parts)]
    image_table(list(images), [f"seed {s}" for s in seeds], names, cell=160).save(args.out)
    print(args.out)


if __name__ == "__main__":
    run_script(main)
