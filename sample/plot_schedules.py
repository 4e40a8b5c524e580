"""Plot the noise schedules: log-SNR, alpha and sigma over t, as one image (.png, .svg, .pdf).

python -m sample.plot_schedules --out outputs/schedules.png
"""

from __future__ import annotations

from pathlib import Path

from imagen_mini.utils.scripts import FIGURES, check_output_file, run_script, script_parser
from imagen_mini.viz.schedules import SCHEDULES, plot_schedule_curves


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/schedules.png"),
        help="the image to write (default: outputs/schedules.png)",
    )
    args = parser.parse_args(arguments)
    check_output_file(args.out, FIGURES)
    plot_schedule_curves(SCHEDULES).savefig(args.out, dpi=110)
    print(args.out)


if __name__ == "__main__":
    run_script(main)
