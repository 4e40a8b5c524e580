"""Are the checkpoints of a run intact? Reads every file and compares sizes and checksums.

    python -m train.verify_checkpoints runs/base

The exit code is 0 if there are checkpoints and all are intact, else 1.
"""

from __future__ import annotations

from pathlib import Path

from tqdm.auto import tqdm

from imagen_mini.training.checkpoint import checkpoints, verify_checkpoint
from imagen_mini.utils.scripts import run_script, script_parser


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="run", help="a run's folder")
    args = parser.parse_args(arguments)
    bad = 0
    for run in args.runs:
        found = checkpoints(run)
        if not found:
            print(f"{run}: no checkpoints")
            bad += 1
        for checkpoint in tqdm(found, desc=str(run), leave=False):
            problems = verify_checkpoint(checkpoint)
            files = [file for file in checkpoint.iterdir() if file.is_file()]
            megabytes = sum(file.stat().st_size for file in files) / 10**6
            tqdm.write(f"{checkpoint}: {'; '.join(problems) or f'intact, {megabytes:.1f} MB'}")
            bad += bool(problems)
    raise SystemExit(min(bad, 1))


if __name__ == "__main__":
    run_script(main)
