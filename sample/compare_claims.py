"""The papers' claims on several worlds side by side, as one table.

    python -m sample.compare_claims imagen_mini/weights/scenes/claims \\
        imagen_mini/weights/studio/claims --out sample/CLAIMS.md

Each folder holds the claims.json that `python -m sample.claims` wrote. Verdicts follow from its
numbers by the rules of today, which stand above the table.
"""

from __future__ import annotations

from pathlib import Path

from imagen_mini.utils.scripts import check_output_file, run_script, script_parser
from sample.claims import report
from sample.claims.__main__ import EXPERIMENTS

NOT_MEASURED = "not measured"


def world_of(experiments: dict) -> str:
    """Name the pipelines that a claims.json was measured with: folders by their last part, and how
    they sampled where `--sampler` or `--steps` said so.
    """
    names = set()
    for settings in (entry["settings"] for entry in experiments.values()):
        steps = settings.get("num_inference_steps")
        how = [settings.get("sampler"), steps and f"{steps} steps"]
        names.add(", ".join([Path(settings["pipeline"]).name, *filter(None, how)]))
    return "; ".join(sorted(names))


def side_by_side(found: dict[str, dict]) -> str:
    """The verdicts of several runs of `sample.claims`, as Markdown.

    Args:
        found: Title of a column -> the experiments of its claims.json.
    """
    head = ["claim", *found, "same verdict?"]
    table = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    details = []
    for e in EXPERIMENTS:
        judged = {
            title: report.verdicts(e, experiments[e.name]["numbers"])
            for title, experiments in found.items()
            if e.name in experiments
        }
        for i, claim in enumerate(e.claims):
            outcomes = [judged[t][i].outcome if t in judged else NOT_MEASURED for t in found]
            told = [o for o in outcomes if o != NOT_MEASURED]
            same = "" if len(told) < 2 else "yes" if len(set(told)) == 1 else "**no**"
            table.append(f"| {claim.sentence} | {' | '.join(outcomes)} | {same} |")
            if told:
                lines = [f"- {title}: {verdicts[i].numbers}" for title, verdicts in judged.items()]
                details.append("\n".join([f"**{claim.sentence}** ({claim.source})\n", *lines]))
    return "\n\n".join([report.INTRODUCTION.strip(), "\n".join(table), *details]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with a claims.json")
    parser.add_argument("--out", type=Path, help="write this file (default: print the table)")
    args = parser.parse_args(arguments)
    if args.out is not None:
        check_output_file(args.out, (".md",))
    found = {}
    for folder in args.folders:
        experiments = report.load_claims(folder / "claims.json")
        if not experiments:
            raise SystemExit(
                f"{folder}/claims.json has no experiments; python -m sample.claims --out {folder} "
                "measures them"
            )
        if (title := world_of(experiments)) in found:
            raise SystemExit(f"{folder} was measured with {title}, as another folder was")
        found[title] = experiments
    text = side_by_side(found)
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text)
        print(args.out)


if __name__ == "__main__":
    run_script(main)
