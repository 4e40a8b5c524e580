"""Draw the noise schedules: log-SNR, alpha and sigma over t, as one image (.png, .svg, .pdf).

python -m sample.plot_schedules --out schedules.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from imagen_mini.viz.schedules import SCHEDULES, curves


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("schedules.png"),
        help="the image to write (default: schedules.png)",
    )
    args = parser.parse_args(arguments)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    curves(SCHEDULES).savefig(args.out, dpi=110)
    print(args.out)


if __name__ == "__main__":
    main()
