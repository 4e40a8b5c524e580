"""The former name of `python -m train.make_dataset emoji --font`: the emoji of a colour font.

python -m train.make_emoji_dataset --out data/emoji
"""

from __future__ import annotations

from pathlib import Path

from imagen_mini.utils.scripts import run_script, script_parser
from train.make_dataset.__main__ import main as make_dataset


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the new folder")
    parser.add_argument(
        "--font", type=Path, help="a colour-emoji font (default: the first of the system)"
    )
    args = parser.parse_args(arguments)
    font = [] if args.font is None else [str(args.font)]
    make_dataset(["emoji", "--output-dir", str(args.out), "--font", *font])


if __name__ == "__main__":
    run_script(main)
