"""How fast is sampling? Seconds an image and a network call, by stage, steps and batch; and what an
edit costs.

    python -m sample.benchmark_latency
    python -m sample.benchmark_latency --steps 8 16 32 --batch 1 8 --out outputs/latency.json

Cases take turns, so that a busy machine is busy for all of them; the median counts. Loading, and
turning tensors into images, are left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Replace
from imagen_mini.utils.scripts import check_output_file, integer, run_script, script_parser
from sample.cli import add_model_options, load_pipeline

SOURCE, TARGET = "a red circle above a blue square", "a red star above a blue square"


def count_calls(pipe: ImagenPipeline, stage: str, generate: Callable) -> int:
    """Return how often a stage's network is called by `generate()`."""
    calls = []
    hook = pipe.stages[stage].net.register_forward_pre_hook(lambda *_: calls.append(1))
    generate()
    hook.remove()
    return len(calls)


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    add_model_options(parser)
    parser.add_argument(
        "--steps",
        nargs="+",
        type=integer(low=1),
        help="steps of every stage (default: each stage's default)",
    )
    parser.add_argument(
        "--batch", nargs="+", type=integer(low=1), default=[1, 8], help="batch sizes (default: 1 8)"
    )
    parser.add_argument("--rounds", type=integer(low=1), default=7, help="repetitions (default: 7)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/latency.json"),
        help="JSON file (default: outputs/latency.json)",
    )
    args = parser.parse_args(arguments)
    check_output_file(args.out, suffixes=())
    pipe = load_pipeline(args)
    device = torch.device(args.device)

    def generate(prompts: list[str], **options) -> dict[str, float]:
        return pipe(prompts, output_type="pt", progress=False, **options).seconds

    cases: dict[tuple, Callable[[], dict[str, float]]] = {}
    for batch in args.batch:
        for steps in args.steps or [None]:
            cases["plain", batch, steps] = lambda batch=batch, steps=steps: generate(
                [SOURCE] * batch, seed=range(batch), num_inference_steps=steps
            )
    cases["two plain images", 2, None] = lambda: generate([SOURCE, TARGET])
    cases["source and edit", 2, None] = lambda: generate([SOURCE, TARGET], edit=Replace())
    switched = Chain(PromptSwitching(), Replace(1.0))
    cases["prompts switched, then attention", 2, None] = lambda: generate(
        [SOURCE, TARGET], edit=switched
    )
    times = {case: [] for case in cases}
    for run in cases.values():
        run()  # the first call allocates and picks kernels
    for _ in tqdm(range(args.rounds), desc="rounds"):
        for name, run in cases.items():
            start = time.perf_counter()
            seconds = run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append({**seconds, "all": time.perf_counter() - start})
    rows = []
    for (what, batch, steps), found in times.items():
        row = {"what": what, "batch": batch, "steps": steps}
        for stage in pipe.stages:
            of_stage = median(t[stage] for t in found)
            row[stage] = {
                "seconds": round(of_stage, 4),
                "seconds_per_call": round(
                    of_stage / count_calls(pipe, stage, cases[what, batch, steps]), 5
                ),
            }
        rows.append({**row, "seconds_per_image": round(median(t["all"] for t in found) / batch, 4)})
    print(
        f"{'what':<20}{'batch':>6}{'steps':>8}"
        + "".join(f"{stage + ' s':>12}{'a call, ms':>12}" for stage in pipe.stages)
        + f"{'s per image':>15}"
    )
    for r in rows:
        print(
            f"{r['what']:<20}{r['batch']:>6}{r['steps'] or 'default':>8}"
            + "".join(
                f"{r[stage]['seconds']:>12.3f}{1e3 * r[stage]['seconds_per_call']:>12.1f}"
                for stage in pipe.stages
            )
            + f"{r['seconds_per_image']:>15.3f}"
        )
    plain, edit = (
        median(t["all"] for t in times[name, 2, None])
        for name in ("two plain images", "source and edit")
    )
    print(f"source and edit take {edit / plain:.2f} times two plain images")
    args.out.write_text(
        json.dumps({"edit_over_plain": round(edit / plain, 3), "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    run_script(main)
