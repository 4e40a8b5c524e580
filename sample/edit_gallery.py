"""A sheet of edits by attention: pairs of a source and its edit, as many of each kind.

    python -m sample.edit_gallery --pipeline studio --n 4 --out edits.png

The edits are the first of the benchmark's list for each kind, and none is chosen by its result. A
kind is a swapped colour or shape, or an added colour, size, background or material. The source's
attention maps are injected in the first stage. With --method "attention and features" those of
`FeatureInjection` are injected as well, and with --mask an image changes only where the prompts
disagree about it. A green frame: the judge reads the prompt in the image; for an edit, with the
layout of its source.
"""

from __future__ import annotations

from pathlib import Path

from tqdm.auto import tqdm

from imagen_mini.editing.blending import DiffEditMask
from imagen_mini.editing.prompt_to_prompt import AttentionInjection, Chain
from imagen_mini.evaluation.edit_benchmark import edit_tasks, score_edit
from imagen_mini.evaluation.edit_comparison import ATTENTION, FEATURES, WINDOW_SWEEPS, injection_of
from imagen_mini.evaluation.statistics import format_share
from imagen_mini.utils.scripts import check_output_file, integer, number, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid, quantize_colors
from sample.cli import add_pipeline_options, load_pipeline, sampling_options


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--n", type=integer(low=1), default=4, help="edits of each kind (default: 4)"
    )
    parser.add_argument(
        "--method",
        choices=(ATTENTION, FEATURES),
        default=ATTENTION,
        help=f"how edits are made (default: {ATTENTION})",
    )
    parser.add_argument(
        "--share",
        type=number(0, 1),
        default=AttentionInjection.cross_replace_steps,
        help="share of the steps in which cross-attention is injected (default: "
        f"{AttentionInjection.cross_replace_steps:g})",
    )
    parser.add_argument(
        "--mask",
        action="store_true",
        help="let the images change only where the prompts disagree (`DiffEditMask`)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/edits.png"),
        help="file of the sheet (default: outputs/edits.png)",
    )
    add_pipeline_options(parser)
    args = parser.parse_args(arguments)
    check_output_file(args.out)
    pipe, options = load_pipeline(args), sampling_options(args)
    tasks = edit_tasks(args.n, world=pipe.world)
    images, labels, frames = [], [], []
    with tqdm(total=args.n * len(tasks), desc="edits") as bar:
        for name, of_kind in tasks.items():
            good = []
            edit = WINDOW_SWEEPS[args.method](injection_of(name), args.share)
            for task in of_kind:
                pair = pipe(
                    [task.source.text, task.target.text],
                    seed=task.seed,
                    edit=Chain(edit, DiffEditMask()) if args.mask else edit,
                    progress=False,
                    **options,
                )
                tensors = list(pair.stages.values())[-1].float().cpu()
                source, edited = pipe.world.parse_image(tensors)
                score = score_edit(task, source, edited)
                good.append(score.counts and score.good)
                images += tensors
                labels += [task.source.text, task.target.text]
                frames += [task.source.description.fits(source.scene), score.good]
                bar.update()
            bar.write(f"{name}: {format_share(good)} good")
    sheet = image_grid(images, labels, columns=8, cell=160, borders=frames)
    quantize_colors(sheet).save(args.out, optimize=True)
    print(args.out)


if __name__ == "__main__":
    run_script(main)
