"""Edit an image by its prompt, with Prompt-to-Prompt.

    python -m sample.edit replace "a red circle above a square" "a red star above a square"
    python -m sample.edit refine "a red circle" "a red circle on a black background" --out edit.png
    python -m sample.edit reweight "a small red circle" --word small --scale -1 0 1 2 \\
        --prompt-switching 0.5 --out edit.png
    python -m sample.edit image photo.png "a red circle" "a red star" --method null-text

`image` edits a file by any method of `pipe.edit`. The others edit what the pipeline generates; then
the figure shows the source, the edit, where they differ, and two controls that inject no attention.
"Same seed" is the target without an edit. "Prompt switching" reads the source's prompt first. Below
them are the attention maps of the words that changed: the source's, the
target's, and what the edit made of it. The script prints what the parser reads in each image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from imagen_mini.editing.alignment import refinement_mapper, replacement_mapper
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.base import Edit
from imagen_mini.editing.blending import DiffEditMask, LocalBlend
from imagen_mini.editing.feature_injection import FeatureInjection
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import (
    DEFAULT_SELF_STEPS,
    AttentionInjection,
    Chain,
    Refine,
    Replace,
    Reweight,
)
from imagen_mini.editing.windows import as_window
from imagen_mini.evaluation.edit_comparison import SAME_SEED, SWITCHING
from imagen_mini.text.encoder import Tokens
from imagen_mini.utils.scripts import (
    DefaultsInHelp,
    check_output_file,
    number,
    run_script,
    script_parser,
)
from imagen_mini.viz.edits import attention_map_images, difference_image, plot_token_mappers
from imagen_mini.viz.image_grid import image_grid
from sample.cli import add_pipeline_options, load_pipeline, sampling_options, verdict
from sample.edit_image import add_image_parser, edit_image


def window(text: str) -> float | tuple[float, float]:
    """Read a window, '0.8' or '0.1,0.8'.

    Args:
        text: One share of the steps, or two with a comma between them; each from 0 to 1.

    Returns:
        The end of the window, or its start and end.

    Raises:
        argparse.ArgumentTypeError: Neither of them.
    """
    try:
        values = tuple(float(v) for v in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 2):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no window; expected a share of the steps like 0.8, or two like 0.1,0.8"
        )
    try:
        as_window(values if len(values) == 2 else values[0], "window")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return values[0] if len(values) == 1 else values


def add_edit_parser(kinds, name: str, about: str, target: str) -> argparse.ArgumentParser:
    """Add a subcommand that takes a source and a target.

    Args:
        kinds: What `add_subparsers` returned.
        name: The subcommand.
        about: The help text of the subcommand.
        target: The help text of the target.

    Returns:
        The subcommand's parser.
    """
    parser = kinds.add_parser(name, help=about, formatter_class=DefaultsInHelp)
    parser.add_argument("source", help="the caption of the image")
    parser.add_argument("target", help=target)
    parser.add_argument(
        "--cross-replace-steps",
        "--cross-steps",
        type=window,
        default=argparse.SUPPRESS,
        help="share of the steps in which the source's cross-attention is used (default: "
        f"{AttentionInjection.cross_replace_steps:g}; with --prompt-switching all of them)",
    )
    parser.add_argument(
        "--self-replace-steps",
        "--self-steps",
        type=window,
        default=argparse.SUPPRESS,
        help="share of the steps in which the source's self-attention is used (default: "
        f"{DEFAULT_SELF_STEPS:g})",
    )
    add_switching_option(parser)
    parser.add_argument(
        "--features",
        type=window,
        nargs="?",
        const=FeatureInjection.until,
        default=argparse.SUPPRESS,
        metavar="SHARE",
        help="also inject the source's features on the decoder's coarsest grid, in this share of "
        f"the steps (without a number: {FeatureInjection.until:g})",
    )
    blends = parser.add_mutually_exclusive_group()
    blends.add_argument(
        "--local-blend",
        nargs="+",
        metavar="WORD",
        help="let the image change only where these words are attended to",
    )
    blends.add_argument(
        "--diff-blend",
        action="store_true",
        help="let the image change only where the two prompts disagree about the source image",
    )
    parser.add_argument(
        "--show-alignment",
        action="store_true",
        help="also plot which tokens correspond, to OUT with _alignment in its name",
    )
    return parser


def add_switching_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of prompt switching, by its name and by its former ones."""
    parser.add_argument(
        "--prompt-switching",
        "--shared-prompt-steps",
        "--source-steps",
        type=window,
        default=0.0,
        metavar="SHARE",
        help="share of the steps in which the target reads the source's prompt, before its own; "
        "attention is injected in the rest. The other two are former names",
    )


def resolve_edit(args: argparse.Namespace) -> tuple[list[str], Edit, list[str]]:
    """Return what the command line asks for.

    Args:
        args: The parsed arguments of one of the subcommands.

    Returns:
        The prompts, the source first; the edit; a name for each target.
    """
    switched = as_window(args.prompt_switching, "prompt_switching") != (0, 0)
    first: list[Edit] = [PromptSwitching(args.prompt_switching)] if switched else []
    if args.kind == "reweight":
        return (
            [args.prompt] * (1 + len(args.scale)),
            Chain(Reweight({args.word: args.scale}, args.weight_steps), *first),
            [f"{args.word} x {c:g}" for c in args.scale],
        )
    windows = {
        name: value
        for name, value in vars(args).items()
        if name in ("cross_replace_steps", "self_replace_steps")
    }
    if switched:
        windows = {"cross_replace_steps": 1.0} | windows  # to the last step
    injection = (Replace if args.kind == "replace" else Refine)(**windows)
    edits: list[Edit] = [injection, *first]
    if hasattr(args, "features"):
        edits.append(FeatureInjection(args.features))
    if args.local_blend:
        edits.append(LocalBlend(*args.local_blend))
    if args.diff_blend:
        edits.append(DiffEditMask())
    return [args.source, args.target], Chain(*edits), ["edit"]


def plot_alignment(source: Tokens, target: Tokens, kind: str, path: Path) -> None:
    """Plot the mapper from the source's tokens (rows) to the target's tokens (columns).

    Args:
        source: The source prompt.
        target: The target prompt.
        kind: "replace" or "refine".
        path: The image to write.
    """
    mapper = (replacement_mapper if kind == "replace" else refinement_mapper)(source, target)
    plot_token_mappers(
        source, target, {f"{kind}: whose attention does each token of the target take?": mapper}
    ).savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    # 1. Read the command line.
    parser = script_parser(__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    reweight = kinds.add_parser(
        "reweight",
        help="increase, decrease or invert the weight of a word",
        formatter_class=DefaultsInHelp,
    )
    reweight.add_argument("prompt", help="the caption of the image")
    reweight.add_argument("--word", required=True, help="the word")
    reweight.add_argument(
        "--scale",
        type=number(-2, 2),
        nargs="+",
        default=[-1.0, 0.0, 2.0],
        help="factors of the attention to the word, from -2 to 2; one image for each",
    )
    reweight.add_argument(
        "--weight-steps",
        type=window,
        default=Reweight.steps,
        help="share of the steps in which the attention is scaled",
    )
    add_switching_option(reweight)
    for kind in (
        add_edit_parser(
            kinds,
            "replace",
            "swap words, one for one",
            "the same caption with one or more words swapped",
        ),
        add_edit_parser(
            kinds,
            "refine",
            "add or remove words",
            "the same caption with words added, removed or swapped",
        ),
        reweight,
    ):
        kind.add_argument("--seed", type=int, default=0)
        kind.add_argument("--out", type=Path, default=Path("edit.png"), help="the image to write")
        add_pipeline_options(kind)
    add_image_parser(kinds)
    args = parser.parse_args(arguments)
    check_output_file(args.out)
    if args.kind == "image":
        return edit_image(args)
    prompts, edit, names = resolve_edit(args)

    # 2. Sample source and targets, and record the attention.
    pipe, options = load_pipeline(args), sampling_options(args)
    maps, word = AttentionStore(), args.word if args.kind == "reweight" else None
    out = pipe(prompts, seed=args.seed, edit=edit, attention_store=maps, **options)
    images, base = (
        [p.float().cpu() for p in out.stages[stage]]
        for stage in (list(out.stages)[-1], list(out.stages)[0])
    )
    # 3. Add the difference, and the target without attention injected.
    tiles, labels = (
        images,
        [f"{name}: {prompt}" for name, prompt in zip(["source", *names], prompts)],
    )
    verdicts = list(zip(["source", *names], prompts, images))
    if word is None:
        tiles, labels = (
            [*tiles, difference_image(*images)],
            [*labels, "difference of source and edit"],
        )
        for name, control in ((SAME_SEED, None), (SWITCHING, PromptSwitching())):
            without = pipe(prompts, seed=args.seed, edit=control, **options).stages
            verdicts.append((name, prompts[1], without[list(without)[-1]][1].float().cpu()))
            tiles.append(verdicts[-1][2])
            labels.append(f"{name}: {prompts[1]}")
    # 4. Write the figure: images, then attention maps.
    columns = min(5, len(tiles))
    filler = -len(tiles) % columns  # so that the maps start on a new row
    more, more_labels = attention_map_images(maps, base, word) if maps.times else ([], [])
    if not maps.times:
        print(
            "no attention maps to show: source and target share the source's prompt in every "
            "step; take more --steps, or a lower --prompt-switching"
        )
    frames = [None] * len(tiles) + ["white"] * filler + [None] * len(more)
    tiles, labels = (
        [*tiles, *[torch.ones_like(tiles[0])] * filler, *more],
        [*labels, *[""] * filler, *more_labels],
    )
    sheet: Image.Image = image_grid(tiles, labels, columns=columns, cell=256, borders=frames)
    sheet.save(args.out)
    # 5. Print what the parser reads.
    for name, prompt, image in verdicts:
        if (said := verdict(pipe, prompt, image)) is not None:
            print(f"{name}: {prompt!r}: {said}")
    if word is None and args.show_alignment:
        path = args.out.with_stem(args.out.stem + "_alignment")
        plot_alignment(*maps.tokens[:2], args.kind, path)
        print(path)
    print(args.out)


if __name__ == "__main__":
    run_script(main)
