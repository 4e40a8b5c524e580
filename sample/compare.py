"""Is one model better than another? Compares two reports of `sample.evaluate` by category, with
95 % intervals of the differences.

    python -m sample.compare before.json after.json

A difference whose interval contains 0 may be chance. Both reports should be of the same prompts; a
line says so if they are not.
"""

from __future__ import annotations

import json
from pathlib import Path

from imagen_mini.evaluation.edit_benchmark import counted_edits
from imagen_mini.evaluation.statistics import newcombe_interval
from imagen_mini.utils.scripts import run_script, script_parser

# the ways to edit, as reports called them before each of them was named by what it does
EARLIER = {
    ", same seed, new prompt": ": same seed",
    ", all attention injected": ": attention",
    ", prompt-to-prompt": ": switching, then attention",
    ", and only where prompts disagree": ": both, only where prompts disagree",
}


def _today(name: str) -> str:
    """Today's name of a row of edits."""
    for ending, method in EARLIER.items():
        if name.endswith(ending):
            return name.removesuffix(ending) + method
    return name


def load_report(path: Path) -> dict:
    """Load the counts of a report of `sample.evaluate`.

    Returns:
        "seed" of the prompts, and "rows": category -> (correct, n).

    Raises:
        SystemExit: if the file is no such report.
    """
    try:
        report = json.loads(path.read_text())
        return {
            "seed": report["benchmark_seed"],
            "rows": {
                **{
                    name: (row["right"], row["n"]) for name, row in report["text_alignment"].items()
                },
                **{
                    _today(name): (round(row["good"] * counted_edits(row)), counted_edits(row))
                    for name, row in report["edits"].items()
                },
            },
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"{path} is no report of sample.evaluate: {error!r}") from error


def compare(before: dict, after: dict) -> list[dict]:
    """Compare the categories that both reports have, with intervals by Newcombe (1998)."""
    rows = []
    for name in (n for n in before["rows"] if n in after["rows"]):
        (a, n_a), (b, n_b) = before["rows"][name], after["rows"][name]
        if n_a and n_b:
            difference, low, high = newcombe_interval(a, n_a, b, n_b)
            rows.append(
                {
                    "category": name,
                    "before": a / n_a,
                    "after": b / n_b,
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "verdict": "better" if low > 0 else "worse" if high < 0 else "may be chance",
                }
            )
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("before", type=Path, help="report of the first model")
    parser.add_argument("after", type=Path, help="report of the second model")
    args = parser.parse_args(arguments)
    before, after = load_report(args.before), load_report(args.after)
    if before["seed"] != after["seed"]:
        print(f"the reports are of different prompts (seeds {before['seed']} and {after['seed']})")
    rows = compare(before, after)
    if not rows:
        raise SystemExit("the reports have no category in common")
    print(f"{'category':40}{'before':>8}{'after':>8}{'difference':>12}   95 % interval")
    for r in rows:
        print(
            f"{r['category']:40}{r['before']:>8.1%}{r['after']:>8.1%}"
            f"{100 * r['difference']:>+11.1f} %   {100 * r['low']:+.1f} to {100 * r['high']:+.1f}"
            f": {r['verdict']}"
        )


if __name__ == "__main__":
    run_script(main)
