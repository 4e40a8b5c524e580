"""Show random scenes of a built-in world with their captions, as one image.

python -m sample.show_world --world studio --size 256 --out outputs/studio.png
"""

from __future__ import annotations

from pathlib import Path

from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.scenes.scene import HELD_OUT_SEED
from imagen_mini.scenes.world import WORLDS
from imagen_mini.utils.scripts import check_output_file, integer, run_script, script_parser
from imagen_mini.viz.image_grid import image_grid


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--world", choices=tuple(WORLDS), default="scenes", help="which world (default: scenes)"
    )
    parser.add_argument(
        "--size", type=int, default=256, help="pixels of a side, at least 64 (default: 256)"
    )
    parser.add_argument("--n", type=int, default=12, help="how many scenes (default: 12)")
    parser.add_argument(
        "--seed",
        type=int,
        default=HELD_OUT_SEED,
        help="which scenes (default: those that no training sees)",
    )
    parser.add_argument(
        "--columns", type=integer(low=1), default=6, help="how many scenes in a row (default: 6)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/world.png"),
        help="the image to write (default: outputs/world.png)",
    )
    args = parser.parse_args(arguments)
    if args.size < 64 or args.n < 1:
        parser.error(f"--size {args.size} --n {args.n}: expected at least 64 pixels and 1 scene")
    check_output_file(args.out)
    images, _, captions = SceneDataset(args.seed, world=args.world).batch(range(args.n), args.size)
    cell = max(args.size, 192)  # wide enough for a caption
    image_grid(images, captions, columns=args.columns, cell=cell).save(args.out)
    print(args.out)


if __name__ == "__main__":
    run_script(main)
