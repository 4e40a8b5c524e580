"""How long should an edit keep to its source? Success and layout over the length of the window.

    python -m sample.edit_sweep --n 20 --out outputs/edit_sweep

Writes to the output folder:

- edit_sweep.png: for each kind of edit, how often it succeeds, keeps the layout, and does both. A
  panel for each sweep:
    - prompt switching: over the share of the steps after which prompts are switched;
    - attention: over the share in which the source's attention is injected. Self-attention ends at
      40 %, as by default;
    - attention, by the window of self-attention: over the share in which that is injected, with
      cross-attention in all steps;
    - attention and features: over the share in which the source's attention is injected, beside
      features of the decoder in the first 80 % (`FeatureInjection`);
    - switching, then attention: over the share after which prompts are switched, with attention
      injected from there on.
- edit_sweep_images.png: one edit of each kind, at every length.
- edit_sweep.json: the numbers.

A window is a share of the steps, from the first one on. At 0 the first two panels show the new
prompt with the same seed, the third one cross-attention alone, the fourth one features alone, and
the last one attention alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.evaluation.edit_benchmark import EditTask, edit_table, edit_tasks, evaluate_edits
from imagen_mini.evaluation.edit_comparison import WINDOW_SWEEPS, injection_of
from imagen_mini.utils.scripts import check_output_folder, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid, quantize_colors
from imagen_mini.viz.style import STYLES, percent_axis, save_figure, subplots
from sample.cli import add_model_options, check_judged, load_pipeline


def measure(
    pipe: ImagenPipeline,
    name: str,
    tasks: list[EditTask],
    shares: list[float],
    sweeps: Sequence[str] = tuple(WINDOW_SWEEPS),
) -> tuple[dict, tuple[EditTask, Tensor]]:
    """Edit every task at every length of the window, in every sweep.

    Args:
        pipe: The pipeline; its first stage is sampled.
        name: The kind of edit, a key of `edit_tasks`.
        tasks: The edits.
        shares: Lengths of the window, each from 0 to 1.
        sweeps: Keys of WINDOW_SWEEPS (default: all).

    Returns:
        For each sweep a table at each share; and the first task whose source is correct, with its
        images [1 + sweeps x shares, 3, h, w], or None.
    """
    base, kind = next(iter(pipe.stages)), injection_of(name)
    plans = [(sweep, share) for sweep in sweeps for share in shares]

    def generate(prompts: list[str], seed: int) -> Tensor:
        generated = [
            pipe(
                prompts,
                seed=seed,
                stages=(base,),
                edit=WINDOW_SWEEPS[sweep](kind, share),
                progress=False,
                output_type="pt",
            ).stages[base]
            for sweep, share in plans
        ]
        return torch.cat([generated[0][:1], *(pair[1:] for pair in generated)])

    scores, example = [], None
    for task, images, of in tqdm(
        evaluate_edits(generate, tasks, pipe.world), total=len(tasks), desc=name
    ):
        scores.append(of)
        if example is None and of[0].counts:
            example = task, images
    tables = [edit_table(list(of)) for of in zip(*scores)]
    return {
        sweep: tables[i * len(shares) : (i + 1) * len(shares)] for i, sweep in enumerate(sweeps)
    }, example


def plot_figure(report: dict, path: Path) -> None:
    """Plot the rates over the length of the window, a panel for each kind of edit and sweep.

    Args:
        report: The contents of edit_sweep.json.
        path: The image to write.
    """
    titles = [f"{name}: {sweep}" for name, of in report["kinds"].items() for sweep in of]
    columns = len(titles) // len(report["kinds"])
    sheet, panels = subplots(titles, "share of the steps", columns=columns)
    for panel, rows in zip(
        panels, (rows for of in report["kinds"].values() for rows in of.values())
    ):
        for key, label, style in zip(
            ("success", "layout", "good"),
            ("shows the new prompt", "keeps the layout", "both"),
            STYLES,
        ):
            panel.plot(report["shares"], [row[key] for row in rows], **style, label=label)
        panel.fill_between(
            report["shares"],
            [row["good_low"] for row in rows],
            [row["good_high"] for row in rows],
            color=STYLES[2]["color"],
            alpha=0.1,
            linewidth=0,
        )
        percent_axis(panel)
    save_figure(sheet, path)


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    kinds = tuple(edit_tasks(0))
    parser.add_argument("--n", type=int, default=20, help="edits of each kind (default: 20)")
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="seed of the list of edits; `sample.evaluate` uses 0 (default: 1)",
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=kinds, default=list(kinds), help="only these (default: all)"
    )
    parser.add_argument(
        "--sweeps",
        nargs="+",
        choices=tuple(WINDOW_SWEEPS),
        default=list(WINDOW_SWEEPS),
        help="only these (default: all)",
    )
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=[0, 0.3, 0.6, 0.8, 1],
        help="lengths of the windows, from 0 to 1 (default: 0 0.3 0.6 0.8 1)",
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/edit_sweep"), help="a folder")
    add_model_options(parser)
    args = parser.parse_args(arguments)
    if args.n < 1 or not all(0 <= share <= 1 for share in args.shares):
        parser.error(
            f"--n {args.n}, --shares {args.shares}: expected at least one edit, and shares "
            "from 0 to 1"
        )
    check_output_folder(args.out)
    pipe, shares = load_pipeline(args), sorted(set(args.shares))
    check_judged(pipe, list(pipe.stages)[:1])
    report, tiles, labels = (
        {"pipeline": args.pipeline, "n": args.n, "seed": args.seed, "shares": shares, "kinds": {}},
        [],
        [],
    )
    tasks = edit_tasks(args.n, args.seed, pipe.world)
    for name in args.kinds:
        report["kinds"][name], example = measure(pipe, name, tasks[name], shares, args.sweeps)
        if example is not None:
            task, (source, *edited) = example
            for i, sweep in enumerate(args.sweeps):
                tiles += [source, *edited[i * len(shares) : (i + 1) * len(shares)]]
                labels += [
                    task.source.text,
                    *(f"{task.target.text} ({sweep}: {share:g})" for share in shares),
                ]
        for sweep, rows in report["kinds"][name].items():
            print(
                f"{name + ', ' + sweep:56}"
                + ", ".join(
                    f"{share:g}: {row['success']:.0%} {row['layout']:.0%} {row['good']:.0%} of "
                    f"{row['asked']}, {row['psnr'] or 0:.0f} dB"
                    for share, row in zip(shares, rows)
                )
            )
        # after every kind, so that an interruption loses one at most
        (args.out / "edit_sweep.json").write_text(json.dumps(report, indent=1) + "\n")
        plot_figure(report, args.out / "edit_sweep.png")
        if tiles:
            quantize_colors(image_grid(tiles, labels, columns=1 + len(shares), cell=112)).save(
                args.out / "edit_sweep_images.png", optimize=True
            )
    print("after each share: shows the new prompt, keeps the layout, both, of the edits that count")
    print(
        f"{args.out}/edit_sweep.png, edit_sweep.json"
        + (
            ", edit_sweep_images.png"
            if tiles
            else "; no source was correct, so there are no images"
        )
    )


if __name__ == "__main__":
    run_script(main)
