"""Does the image follow the weight of a word?

    python -m sample.reweight --n 24 --out outputs/reweight

Captions describe one object and its size. The attention to "small" or "large" is multiplied by c,
from -2 to 2, and the share of the image that the object covers is measured. It is counted in
pixels, because the parser knows only the two sizes. If the curve is monotone, the weight is a
slider.

The source's prompt is the target's, too. Source and targets are one image in the first half of the
steps, so that the background stays; then attention is injected, and the column of the word scaled.

Writes to the output folder:

- reweight.png: the curves, with 95 % intervals over images.
- reweight_images.png: a row of images for each of three captions of each word.
- reweight.json: the numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Refine, Reweight
from imagen_mini.evaluation.word_weights import covered_share, sized_captions, spearman_with_order
from imagen_mini.scenes.scene import SIZES
from imagen_mini.utils.scripts import check_output_folder, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid
from imagen_mini.viz.style import STYLES, percent_axis, save_figure, subplots
from sample.cli import add_model_options, load_pipeline

WEIGHTS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


def measure(pipe: ImagenPipeline, word: str, n: int) -> tuple[dict, list[Tensor]]:
    """Sample captions at every weight of a word, and measure the share that the object covers.

    Args:
        pipe: The pipeline; its first stage is sampled.
        word: "small" or "large".
        n: Number of captions, at least 2.

    Returns:
        The statistics over captions; and the images of each caption, [weights, 3, h, w].
    """
    base = next(iter(pipe.stages))
    images = [
        pipe(
            [caption] * (1 + len(WEIGHTS)),
            seed=seed,
            edit=Chain(PromptSwitching(0.5), Refine(0.7), Reweight({word: WEIGHTS})),
            stages=(base,),
            progress=False,
            output_type="pt",
        )
        .stages[base][1:]
        .float()
        .cpu()
        for seed, caption in enumerate(tqdm(sized_captions(n, word), desc=word))
    ]
    areas = torch.tensor([[covered_share(image) for image in row] for row in images])
    mean, error = areas.mean(0), 1.96 * areas.std(0) / len(areas) ** 0.5
    steps = areas.diff(dim=1)
    return {
        "weights": list(WEIGHTS),
        "mean": [round(v, 4) for v in mean.tolist()],
        "half_interval": [round(v, 4) for v in error.tolist()],
        "monotone": round(float(spearman_with_order(mean)), 4),
        "end_to_end": interval(areas[:, -1] - areas[:, 0]),
        "captions_that_follow": int(
            (
                areas[:, -1] - areas[:, 0] < 0
                if word == "small"
                else areas[:, -1] - areas[:, 0] > 0
            ).sum()
        ),
        "largest_step_back": round(
            (steps.mean(0) * (1 if word == "small" else -1)).clamp(min=0).max().item(), 4
        ),
    }, images


def interval(differences: Tensor) -> dict[str, float]:
    """Return the mean and its 95 % interval, by the normal approximation.

    Args:
        differences: One number for each caption, [n], n >= 2.

    Returns:
        The keys are "mean", "low" and "high".
    """
    mean, half = (
        differences.mean().item(),
        1.96 * differences.std().item() / len(differences) ** 0.5,
    )
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def plot_weights(report: dict, path: Path) -> None:
    """Plot the covered share over the weight, a curve for each word.

    Args:
        report: The contents of reweight.json.
        path: The image to write.
    """
    sheet, (panel,) = subplots(
        [f"share of the image that the object covers ({report['n']} captions)"],
        "weight c of the word   (1 changes nothing)",
    )
    for (word, row), style in zip(report["words"].items(), STYLES):
        panel.plot(row["weights"], row["mean"], **style, label=f'"{word}"')
        low, high = (
            [m + sign * e for m, e in zip(row["mean"], row["half_interval"])] for sign in (-1, 1)
        )
        panel.fill_between(row["weights"], low, high, color=style["color"], alpha=0.1, linewidth=0)
    percent_axis(panel)
    panel.set_ylim(
        0,
        1.2
        * max(
            m + e
            for row in report["words"].values()
            for m, e in zip(row["mean"], row["half_interval"])
        ),
    )
    save_figure(sheet, path)


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--n", type=int, default=24, help="captions for each word (default: 24)")
    parser.add_argument("--out", type=Path, default=Path("outputs/reweight"), help="a folder")
    add_model_options(parser)
    args = parser.parse_args(arguments)
    if args.n < 2:
        parser.error(f"--n {args.n}: expected at least 2")
    check_output_folder(args.out)
    pipe = load_pipeline(args)
    report, tiles, labels = {"pipeline": args.pipeline, "n": args.n, "words": {}}, [], []
    for word in SIZES:
        report["words"][word], images = measure(pipe, word, args.n)
        for caption, row in list(zip(sized_captions(args.n, word), images))[:3]:
            tiles, labels = [*tiles, *row], [*labels, *(f"{caption}, c = {c:g}" for c in WEIGHTS)]
    (args.out / "reweight.json").write_text(json.dumps(report, indent=1) + "\n")
    plot_weights(report, args.out / "reweight.png")
    image_grid(tiles, labels, columns=len(WEIGHTS), cell=96).save(
        args.out / "reweight_images.png", optimize=True
    )
    for word, row in report["words"].items():
        end = row["end_to_end"]
        print(
            f"{word}: from c = {WEIGHTS[0]:g} to {WEIGHTS[-1]:g} the object covers "
            f"{row['mean'][0]:.1%} to {row['mean'][-1]:.1%} of the image: "
            f"{100 * end['mean']:+.1f} points "
            f"({100 * end['low']:+.1f} to {100 * end['high']:+.1f}); "
            f"{row['captions_that_follow']} of {args.n} captions change in the expected "
            f"direction; rank correlation {row['monotone']:+.2f}"
        )
    print(f"{args.out}/reweight.png, reweight_images.png, reweight.json")


if __name__ == "__main__":
    run_script(main)
