"""Score a pipeline on the built-in world: text alignment by category, held-out compositions, and
edits.

    python -m sample.evaluate --out report.json

Prompts and seeds are fixed. No training uses these seeds. The held-out categories' captions never
occur in training; of the others the report says how many do, beside other images. Alignment is
judged on the last stage's images, edits on those of the base stage, where Prompt-to-Prompt acts.
Words are swapped (Replace) and added (Refine). Each edit is made in four ways: the new prompt with
the same seed, prompt switching, attention injected, and both. Further rows are `FeatureInjection`
alone, with attention, and with attention and `DiffEditMask`; and switching with attention and that
mask.

The script prints the table, and writes the JSON report and an image of successes and failures.
With --only captions or --only edits the other part of a report that is there is kept, and with
--methods the rows of the other methods:

    python -m sample.evaluate --only edits --edits 100 --out report.json
    python -m sample.evaluate --only edits --edits 100 --methods attention --out report.json

Until all is measured, what is done is in report.partial.json, and an older report stays.

    python -m sample.evaluate --pipeline my_pipeline --data my_images --out report.json

With --data, the pipeline is scored on a folder of images, which no parser can read: on those held
out of its training, if there are such, all together and by the reason that metadata.jsonl gives.
What does another image's caption, or none, add to the loss? Does it repeat training images, by
their pixels? With --features: Fréchet distance, precision and recall. With --classifier: do images
have the style, tone and the like that their captions name?
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from imagen_mini.editing.base import Edit
from imagen_mini.editing.blending import DiffEditMask
from imagen_mini.editing.feature_injection import FeatureInjection
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import AttentionInjection, Chain
from imagen_mini.evaluation.benchmark import (
    CATEGORIES,
    HELD_OUT_CATEGORIES,
    STUDIO_CATEGORIES,
    benchmark,
    seen_in_training,
)
from imagen_mini.evaluation.edit_benchmark import (
    EditScore,
    EditTask,
    edit_table,
    edit_tasks,
    evaluate_edits,
)
from imagen_mini.evaluation.edit_comparison import (
    FEATURES,
    FEATURES_ALONE,
    FEATURES_ALONE_MASKED,
    FEATURES_MASKED,
    METHODS,
    edit_methods,
    injection_of,
    with_features,
)
from imagen_mini.evaluation.error_analysis import confusion_matrices, error_table
from imagen_mini.evaluation.scoring import Result, evaluate, table
from imagen_mini.rejection_sampling import caption_verifier, rejection_sample
from imagen_mini.scenes.captions import Caption
from imagen_mini.scenes.world import WORLDS, World
from imagen_mini.utils.devices import available_device
from imagen_mini.utils.precision import resolve_precision
from imagen_mini.utils.scripts import (
    check_output_file,
    current_commit,
    integer,
    run_script,
    script_parser,
)
from imagen_mini.viz.measuring import gallery
from sample.cli import (
    add_attempts_option,
    add_pipeline_options,
    add_upsampling_option,
    check_judged,
    load_pipeline,
    sampling_options,
    upsampled,
    verifier_of,
)
from sample.evaluate_folder import N, add_folder_options, evaluate_folder
from sample.parallel import default_workers, spread

SEARCHED = 200_000  # training captions among which the benchmark's are looked for
PARTS = ("captions", "edits")
MASKED = "both, only where prompts disagree"
ALL_METHODS = (
    *METHODS,
    FEATURES_ALONE,
    FEATURES,
    FEATURES_ALONE_MASKED,
    FEATURES_MASKED,
    MASKED,
)


def edits_by_method(kind: type[AttentionInjection]) -> dict[str, Edit | None]:
    """The edits of ALL_METHODS, by name; None is the target prompt with the source's seed."""
    return edit_methods(kind) | {
        FEATURES_ALONE: FeatureInjection(),
        FEATURES: with_features(kind),
        FEATURES_ALONE_MASKED: Chain(FeatureInjection(), DiffEditMask()),
        FEATURES_MASKED: with_features(kind, mask=True),
        MASKED: Chain(PromptSwitching(), kind(1.0), DiffEditMask()),
    }


class Examiner:
    """Generates images and edits with one pipeline, and judges them."""

    def __init__(self, args: argparse.Namespace):
        self.pipe, self.options = load_pipeline(args), sampling_options(args)
        self.methods, self.upsample = args.methods, args.upsample_captions
        self.attempts = args.attempts

    def generate(self, prompts: list[str], seeds, **more) -> torch.Tensor:
        """Return the last stage's images [b, 3, h, w] in [-1, 1]."""
        stages = self.pipe(
            prompts, seed=seeds, progress=False, output_type="pt", **self.options | more
        ).stages
        return stages[list(stages)[-1]]

    def generate_edits(
        self, kind: type[AttentionInjection], prompts: list[str], seed: int
    ) -> torch.Tensor:
        """Return the source image, and the edited image by each of the methods."""
        base, edits = {"stages": list(self.pipe.stages)[:1]}, edits_by_method(kind)
        pairs = [self.generate(prompts, seed, edit=edits[m], **base) for m in self.methods]
        return torch.cat([pairs[0][:1], *(pair[1:] for pair in pairs)])

    def captions(self, prompts: list[tuple[str, int, Caption]]) -> list[Result]:
        """Return results with arrays instead of tensors, to be sent to another process."""
        world, attempts = self.pipe.world, [1] * len(prompts)

        def generate(texts: list[str], seeds: list[int]) -> torch.Tensor:
            told = upsampled(texts, seeds, world) if self.upsample else texts
            if self.attempts == 1:
                return self.generate(told, seeds)
            by = caption_verifier(world), self.attempts, texts
            out = rejection_sample(self.pipe, told, seeds, *by, progress=False, **self.options)
            attempts[:] = out.attempts
            return out.stages[list(out.stages)[-1]]

        results = list(evaluate(generate, prompts, len(prompts), world))
        return [
            replace(result, image=result.image.float().cpu().numpy(), attempts=n)
            for result, n in zip(results, attempts)
        ]

    def edit(self, job: tuple[type[AttentionInjection], EditTask]) -> tuple[EditScore, ...]:
        """Return a score for each of the methods."""
        kind, task = job
        ((_, _, scores),) = evaluate_edits(
            partial(self.generate_edits, kind), [task], self.pipe.world
        )
        return scores


def print_alignment(report: dict) -> None:
    """Print the table of text alignment, with kinds of errors."""
    print(
        f"{'category':28} {'correct':>9} {'accuracy':>9}   {'95 % interval':16} "
        f"{'nearest':>8} {'flawless':>8}  errors"
    )
    for name, row in report["text_alignment"].items():
        errors = ", ".join(
            f"{n} {kind}" for kind, n in report["errors"][name].items() if kind != "right"
        )
        print(
            f"{name:28} {row['right']:>4}/{row['n']:<4} {row['accuracy']:>9.1%}   "
            f"{row['low']:6.1%} - {row['high']:6.1%}  {row['nearest']:>8} {row['flawless']:>8}  "
            f"{errors}"
        )


def measure_captions(
    each: Callable, prompts: list[tuple[str, int, Caption]], batch: int, world: World
) -> tuple[dict, list[Result]]:
    """The part of the report about text alignment, and the results that it is made of."""
    results: list[Result] = []
    batches = [prompts[i : i + batch] for i in range(0, len(prompts), batch)]
    with tqdm(total=len(prompts), desc="text alignment") as bar:
        for part in each(Examiner.captions, batches):
            results += [replace(result, image=torch.from_numpy(result.image)) for result in part]
            bar.update(len(part))
    return {
        "text_alignment": table(results),
        "images_sampled": sum(result.attempts for result in results),
        "seen_in_training": seen_in_training(prompts, SEARCHED, progress=True, world=world),
        "captions_searched": SEARCHED,
        "errors": error_table(results),
        "confusions": confusion_matrices(results, world),
    }, results


def measure_edits(each: Callable, name: str, tasks: list[EditTask], methods: list[str]) -> dict:
    """The rows of the report about one kind of edit, by kind and method."""
    kind = injection_of(name)
    jobs = each(Examiner.edit, [(kind, task) for task in tasks])
    scores = list(tqdm(jobs, total=len(tasks), desc=name))
    rows = {}
    for method, of in zip(methods, zip(*scores)):
        row = rows[f"{name}: {method}"] = edit_table(of)
        print(
            f"{name + ': ' + method:52} of {row['asked']} edits that count: "
            f"success {row['success']:.1%}, layout kept {row['layout']:.1%}, both "
            f"{row['good']:.1%} ({row['good_low']:.1%} - "
            f"{row['good_high']:.1%}), nothing else changed "
            f"{row['all_kept']:.1%}, {row['psnr'] or 0:.1f} dB"
        )
    return rows


def read_report(parser: argparse.ArgumentParser, path: Path, this: dict) -> dict:
    """A report of this pipeline and text encoder; an error of the command line if the file is
    something else.
    """
    try:
        report = json.loads(path.read_text())
    except ValueError as error:
        parser.error(f"--out {path}: not a report, {error}. Name another file")
    of = {key: report.get(key) for key in this} if isinstance(report, dict) else {}
    if different := [key for key in this if of.get(key) != this[key]]:
        key = different[0]
        parser.error(
            f"--out {path}: a report of the {key.replace('_', ' ')} {of.get(key)!r}, and this one "
            f"is {this[key]!r}. --only adds to a report of the same pipeline: name another file"
        )
    if missing := {"text_alignment", "edits"} - report.keys():
        parser.error(
            f"--out {path}: a report of another kind, without {' and '.join(sorted(missing))}. "
            "Name another file"
        )
    return report


def other_methods(
    parser: argparse.ArgumentParser, args: argparse.Namespace, report: dict
) -> tuple[dict, list[dict]]:
    """What a report says of the methods that are not measured again: its rows, and its runs."""
    runs = []
    for run in report.get("edits_runs", []):
        methods = [m for m in run["methods"] if m not in args.methods]
        if len(methods) < len(run["methods"]):
            run = {k: v for k, v in run.items() if k != "seconds"}  # it was of all of them
        runs += [run | {"methods": methods}] if methods else []
    kept = {method for run in runs for method in run["methods"]}
    rows = {k: row for k, row in report["edits"].items() if k.split(": ", 1)[1] in kept}
    for asked, found in (
        *((args.edits, row["n"]) for row in rows.values()),
        *((args.seed, run["benchmark_seed"]) for run in runs),
    ):
        if asked != found:
            parser.error(
                f"--edits {args.edits} --seed {args.seed}: the rows of other methods in {args.out} "
                f"have {found} there. Measure all methods, or name another file"
            )
    return rows, runs


def write_report(report: dict, path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report.json"),
        help="the report (default: report.json); an image is written beside it",
    )
    parser.add_argument(
        "--image",
        "--picture",
        type=Path,
        help="image of successes and failures (default: beside the report)",
    )
    parser.add_argument(
        "--n",
        type=integer(low=1),
        help=f"captions per category (default: 30); of --data, images (default: {N})",
    )
    parser.add_argument(
        "--edits",
        type=integer(low=0),
        default=30,
        help="edits of each kind (default: 30); 0: none",
    )
    parser.add_argument(
        "--only",
        choices=PARTS,
        help="measure this part alone, and keep the other one of the report at --out",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=ALL_METHODS,
        default=list(ALL_METHODS),
        help="with --only edits: measure edits by these methods, and keep the rows of the others "
        "(default: all)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the list of prompts (default: 0)"
    )
    parser.add_argument(
        "--categories",
        nargs="+",
        choices=(*CATEGORIES, *STUDIO_CATEGORIES, *HELD_OUT_CATEGORIES),
        help="only these categories (default: all of the pipeline's world)",
    )
    parser.add_argument("--batch", type=int, default=16, help="prompts per batch (default: 16)")
    parser.add_argument(
        "--workers",
        type=int,
        help="processes of one thread each (default: on a CPU the number of torch's threads, at "
        "most 8; on a GPU 1)",
    )
    add_folder_options(parser)
    parser.add_argument(
        "--features",
        help="of --data: compare distributions by these features, efficientnet, inception, either "
        "with :WEIGHTS, or clip:NAME (default: distributions are not compared)",
    )
    add_upsampling_option(parser)
    add_attempts_option(parser)
    add_pipeline_options(parser)
    args = parser.parse_args(arguments)
    available_device(args.device)
    args.workers = default_workers(args.device) if args.workers is None else args.workers
    if args.workers < 1 or args.batch < 1:
        parser.error(f"--workers {args.workers}, --batch {args.batch}: expected 1 or more of each")
    image = args.image or args.out.with_suffix(".png")
    if image == args.out:
        parser.error(f"--out {args.out}: expected a name for the report, for example report.json")
    check_output_file(args.out, suffixes=())
    check_output_file(image, option="--image")
    for option, given in (
        ("--upsample-captions", args.upsample_captions),
        ("--attempts", args.attempts > 1),
    ):
        if given and (args.only != "captions" or args.data is not None):
            parser.error(f"{option} is for --only captions, of a built-in world")
    if args.data is not None:
        evaluate_folder(args, image)
        return
    for option in (
        *("held_out", "fit", "background", "features"),
        *("classifier", "data_cache", "caption_column"),
    ):
        if getattr(args, option) is not None:
            parser.error(f"--{option.replace('_', '-')} is for a folder: name it with --data")
    if args.only == "edits" and not args.edits:
        parser.error("--only edits --edits 0: nothing is left to measure")
    args.methods = [method for method in ALL_METHODS if method in args.methods]
    if args.only != "edits" and len(args.methods) < len(ALL_METHODS):
        parser.error("--methods is for --only edits: add it")
    args.n = args.n or 30
    parts = (args.only,) if args.only else PARTS
    report: dict = {"text_alignment": {}, "edits": {}}
    this = {"pipeline": str(args.pipeline), "text_encoder": args.text_encoder}
    if args.only and args.out.is_file():
        report = read_report(parser, args.out, this)
    kept, runs = other_methods(parser, args, report)

    # 1. The pipeline. The precision is decided once for all workers.
    args.precision = resolve_precision(args.precision, torch.device(args.device))
    pipe = load_pipeline(args)  # an error of loading is raised here
    args.first_stage, last = list(pipe.stages)[0], list(pipe.stages)[-1]
    judged = [args.first_stage if args.base_only else last]
    check_judged(pipe, [*judged, args.first_stage] if args.edits else judged)
    options = sampling_options(args)
    if args.upsample_captions:
        options["upsample_captions"] = True
    if args.attempts > 1:
        verifier_of(pipe)
        if pipe.world.second_parser is None:
            parser.error(
                f"--attempts {args.attempts}: images of the world {pipe.world.name} have one "
                "parser, and what chooses them must not judge them; expected a world with two: "
                + ", ".join(name for name, world in WORLDS.items() if world.second_parser)
            )
        options["attempts"] = args.attempts
    run = {"commit": current_commit(), "options": options}
    run |= {"benchmark_seed": args.seed, "precision": args.precision}
    report |= {key: value for key, value in this.items() if value is not None}
    unfinished = args.out.with_suffix(".partial.json")  # until all is measured
    with spread(partial(Examiner, args), args.workers) as each:
        # 2. Text alignment.
        if "captions" in parts:
            start = time.perf_counter()
            prompts = benchmark(args.n, args.seed, args.categories, pipe.world)
            found, results = measure_captions(each, prompts, args.batch, pipe.world)
            print_alignment(found)
            report |= found | run | {"seconds": round(time.perf_counter() - start, 1)}
            write_report(report, unfinished)
            gallery(results).save(image, optimize=True)
            print(f"{report['seconds']:.0f} s; {args.out}, {image}")
        # 3. Edits. If they are interrupted, what is done is in the partial report.
        if "edits" in parts and args.edits:
            start = time.perf_counter()
            run["methods"] = args.methods
            report |= {"edits": {}, "edits_runs": [*runs, run]}
            for name, tasks in edit_tasks(args.edits, args.seed, pipe.world).items():
                rows = kept | measure_edits(each, name, tasks, args.methods)
                of_kind = (f"{name}: {method}" for method in ALL_METHODS)
                report["edits"] |= {row: rows[row] for row in of_kind if row in rows}
                run["seconds"] = round(time.perf_counter() - start, 1)
                write_report(report, unfinished)
            print(f"{run['seconds']:.0f} s; {args.out}")
    unfinished.replace(args.out)


if __name__ == "__main__":
    run_script(main)
