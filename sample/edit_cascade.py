"""After an edit at 64 px: which prompt should super-resolution take, and from which noise start?

    python -m sample.edit_cascade --n 20 --out outputs/edit_cascade

Words are swapped at the base stage, by prompt switching and then attention, because most edits
succeed so. It generates no textures; super-resolution adds them where no caption names one. It is
run in four ways:

- each image with its prompt, all from one noise (the default, as in the paper),
- all images with the source's prompt,
- each image with its prompt, the target from a different noise,
- edited in the same way as well.

The images are scored at 256 px: is the edit preserved, and is everything else as in the source,
textures included?
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Replace
from imagen_mini.evaluation.edit_benchmark import SWAPPED, edit_table, evaluate_edits, swaps
from imagen_mini.utils.scripts import check_output_folder, integer, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid, quantize_colors
from sample.cli import add_model_options, load_pipeline

OTHER_NOISE = 1_000_000  # added to the seed for a different noise
WAYS = ("own prompt, one noise", "the source's prompt", "another noise", "edited as well")


def sample_all(pipe: ImagenPipeline, prompts: list[str], seed: int) -> Tensor:
    """Sample an edited pair at the base stage, and enlarge it in every way.

    Args:
        pipe: A pipeline of at least two stages.
        prompts: The source and the target.
        seed: The seed of the images.

    Returns:
        The source, and the target by each of WAYS: [1 + ways, 3, h, w].
    """
    names = list(pipe.stages)
    quiet = {"progress": False, "output_type": "pt"}

    def enlarged(base: Tensor, prompts: list[str], seed: int, **more) -> Tensor:
        return pipe(prompts, seed=seed, low_res=base, **quiet, **more).stages[names[-1]]

    edit = Chain(PromptSwitching(), Replace(1.0))
    base = pipe(prompts, seed=seed, edit=edit, stages=names[:1], **quiet).stages[names[0]]
    source, target = enlarged(base, prompts, seed).split(1)
    return torch.cat(
        [
            source,
            target,
            enlarged(base[1:], prompts[:1], seed),
            enlarged(base[1:], prompts[1:], seed + OTHER_NOISE),
            enlarged(base, prompts, seed, edit=edit)[1:],
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--n", type=int, default=20, help="colour swaps, and equally many shape swaps (default: 20)"
    )
    parser.add_argument(
        "--shown", type=integer(low=0), default=4, help="edits shown in the image (default: 4)"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/edit_cascade"), help="a folder")
    add_model_options(parser)
    args = parser.parse_args(arguments)
    if args.n < 1:
        parser.error(f"--n {args.n}: expected at least 1")
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    if len(pipe.stages) < 2:
        raise SystemExit(f"{args.pipeline} has no super-resolution, only {', '.join(pipe.stages)}")
    tasks = [
        task for pair in zip(*(swaps(attribute, args.n) for attribute in SWAPPED)) for task in pair
    ]
    tiles, labels, frames, scores = [], [], [], []
    for task, images, of in tqdm(
        evaluate_edits(lambda prompts, seed: sample_all(pipe, prompts, seed), tasks, pipe.world),
        total=len(tasks),
        desc="edits",
    ):
        scores.append(of)
        if of[0].counts and len(tiles) < args.shown * len(images):
            tiles += images
            labels += [task.source.text, *(f"{task.target.text} ({way})" for way in WAYS)]
            frames += [None, *(s.success and s.kept for s in of)]
    report = {
        "pipeline": args.pipeline,
        "n": len(tasks),
        "ways": {way: edit_table(list(of)) for way, of in zip(WAYS, zip(*scores))},
    }
    (args.out / "edit_cascade.json").write_text(json.dumps(report, indent=1) + "\n")
    if tiles:
        quantize_colors(
            image_grid(tiles, labels, columns=1 + len(WAYS), cell=192, borders=frames)
        ).save(args.out / "edit_cascade.png", optimize=True)
    for way, row in report["ways"].items():
        print(
            f"{way:24}of {row['asked']} edits that count: success {row['success']:.0%}, "
            f"layout kept {row['layout']:.0%}, nothing else changed "
            f"{row['all_kept']:.0%}, rest of the image {row['psnr'] or 0:.1f} dB"
        )
    print(
        f"{args.out}/edit_cascade.json"
        + (", edit_cascade.png" if tiles else "; no source was correct, so there is no image")
    )


if __name__ == "__main__":
    run_script(main)
