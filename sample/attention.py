"""Which pixels attend to which word? Attention maps of an image while it is sampled.

    python -m sample.attention "a red circle above a blue square" --seed 0 --out outputs/attention
    python -m sample.attention --find 60 --out outputs/attention

Writes to the output folder:

- tokens.png: the image, overlaid with the map of each token, the end token included.
- steps.png: the maps of the words, step by step, with the network's estimate of the image.
- layers.png: the maps of the words, layer by layer.
- heads.png: the maps of one word, layer by layer and head by head.
- steps.gif: steps.png as an animation.

With `--find N`, over N captions of each of two categories: how well do the maps of a word cover the
object that it describes? The objects that the parser finds in the image are the ground truth. The
measure is the intersection over union of the object and of the map's highest cells. It is written
by layer and step, beside that of a random map:

- find.png: a plot.
- find.json: the numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

from imagen_mini import ImagenPipeline
from imagen_mini.editing.alignment import token_positions
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.localization import localization_table, measure_localization
from imagen_mini.utils.scripts import check_output_folder, integer, run_script, script_parser
from imagen_mini.viz.attention_maps import (
    content_words,
    head_grid,
    layer_grid,
    plot_localization,
    step_animation,
    step_grid,
    token_grid,
    token_labels,
)
from sample.cli import add_pipeline_options, check_judged, load_pipeline, sampling_options

CATEGORIES = ["size", "positional"]  # two objects each, with two attributes


def plot_find(report: dict, path: Path) -> None:
    """Plot how well the maps find the objects.

    Args:
        report: What `measure_localization` returned.
        path: The image to write; its suffix is the format (.png, .svg, .pdf).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_localization(report).savefig(path, dpi=110)


def check_maps(
    pipe: ImagenPipeline, prompt: str | None, word: str | None, size: int | None
) -> None:
    """Raise ValueError, before anything is sampled, if there are no such maps to show.

    Args:
        pipe: The pipeline; its first stage is sampled.
        prompt: The caption; None: that of a benchmark.
        word: A word of the caption; None: any.
        size: The grid; None: the largest.
    """
    sites = next(iter(pipe.stages.values())).net.sites
    sizes = sorted({site.size for site in sites if site.kind != "self"})
    if size is not None and size not in sizes:
        raise ValueError(
            f"--size {size}: this network attends to words on grids of "
            f"{', '.join(map(str, sizes)) or 'no size'}"
        )
    if prompt is not None:
        tokens = pipe.text_encoder.tokenize_prompt(prompt)
        if not tokens.words:
            raise ValueError("the caption has no word, so there are no maps of words to show")
        if word is not None:
            token_positions(tokens, word)


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("prompt", nargs="?", help="the caption")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--find",
        type=integer(low=1),
        metavar="N",
        help="measure how well maps find the objects, over N captions of each of two categories",
    )
    parser.add_argument(
        "--word",
        help="the word whose maps heads.png shows (default: the word that is attended to most)",
    )
    parser.add_argument(
        "--size", type=int, help="the grid of steps.png and steps.gif (default: the largest)"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/attention"), help="a folder")
    add_pipeline_options(parser)
    args = parser.parse_args(arguments)
    if (args.prompt is None) == (args.find is None):
        parser.error("expected a caption, or --find N")
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    check_maps(pipe, args.prompt, args.word, args.size)
    options = sampling_options(args) | {"stages": list(pipe.stages)[:1], "output_type": "pt"}
    if args.find is not None:
        check_judged(pipe, options["stages"])
        prompts = benchmark(args.find, categories=CATEGORIES, world=pipe.world)
        report = measure_localization(pipe, prompts, options)
        (args.out / "find.json").write_text(json.dumps(report, indent=1) + "\n")
        if not report["judged"]:
            raise SystemExit(
                f"none of {report['captions']} images shows its caption, so there is no ground "
                "truth to compare the maps with"
            )
        plot_find(report, args.out / "find.png")
        print(
            f"{report['judged']} of {report['captions']} images show their captions; mean "
            "overlap over steps, and that of a random map:"
        )
        print(localization_table(report))
        print(f"{args.out}/find.png, find.json")
        return
    # Record the maps of all steps while one image is sampled.
    maps, estimates = AttentionStore(), {}
    image = pipe(
        args.prompt,
        seed=args.seed,
        attention_store=maps,
        on_step=lambda _, state: estimates.update({state.t: state.x_0_hat[0].float().cpu()}),
        **options,
    ).images[0]
    size = args.size or maps.sizes[0]
    token_grid(maps, image).save(args.out / "tokens.png")
    step_grid(maps, estimates, size).save(args.out / "steps.png")
    layer_grid(maps, image).save(args.out / "layers.png")
    head_grid(
        maps,
        image,
        args.word
        or max(
            content_words(maps) or maps.tokens[0].words,
            key=lambda w: maps.word_map(w, size=size).sum(),
        ),
    ).save(args.out / "heads.png")
    first, *rest = step_animation(maps, estimates, size)
    first.save(args.out / "steps.gif", save_all=True, append_images=rest, duration=250, loop=0)
    for name, share in zip(token_labels(maps), maps.token_shares(size=size).tolist()):
        print(f"{name:14}{share:>6.1%} of the attention on the {size} x {size} grid")
    print(f"{args.out}/tokens.png, steps.png, layers.png, heads.png, steps.gif")


if __name__ == "__main__":
    run_script(main)
