"""Can the judge be trusted? The parser against pictures that are worse than they should be, and a sheet of its verdicts for a human to audit.

    python -m sample.parser_check --out outputs/parser             # parser.png and parser.json: noise, blur and JPEG
    python -m sample.parser_check --out outputs/parser --sheet 200 # and audit.png: pictures of the pipeline, each with what was read

True scenes are rendered and then spoilt. Read again, a picture is right (the very scene), unreadable (no scene explains it, which costs a model a picture
but deceives nobody), or misread: another scene, with confidence. Only the last would make a score wrong.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.benchmark import benchmark
from imagen_mini.charts import STYLES, figure, percent_axis, save
from imagen_mini.evaluation import evaluate, verdict, wilson_interval
from imagen_mini.pictures import labelled_grid, to_image
from imagen_mini.randomness import randn
from imagen_mini.scenes.parse import Reading, parse
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import UNSEEN, Scene, training_scene

from .options import add_pipeline_options, load_pipeline, sampling_options

SIZES = (64, 256)
OUTCOMES = ("right", "unreadable", "misread")


def add_noise(pictures: Tensor, sigma: float) -> Tensor:
    """Normal noise of this deviation, then clipped to [-1, 1]."""
    return (pictures + sigma * randn(range(len(pictures)), pictures.shape[1:], "parser check")).clamp(-1, 1)


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """A Gaussian of `sigma` in 1/64 of the width, so that it blurs as much of a scene at any size."""
    if sigma == 0:
        return pictures
    sigma *= pictures.shape[-1] / 64
    reach = int(3 * sigma) + 1
    kernel = torch.exp(-torch.arange(-reach, reach + 1) ** 2 / (2 * sigma ** 2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(pictures, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)


def jpeg(pictures: Tensor, quality: float) -> Tensor:
    """Written as JPEG of this quality and read again."""
    out = []
    for picture in pictures:
        file = io.BytesIO()
        to_image(picture).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as image:
            out.append(torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(image.height, image.width, 3))
    return torch.stack(out).permute(0, 3, 1, 2) / 127.5 - 1


WAYS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "noise, deviation": (add_noise, (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)),
    "blur, deviation in 1/64 of the width": (blur, (0, 0.25, 0.5, 0.75, 1, 1.5, 2)),
    "JPEG, 100 - quality": (lambda pictures, loss: jpeg(pictures, 100 - loss), (5, 10, 25, 40, 50, 60, 75, 90)),
}


def outcome(scene: Scene, reading: Reading, size: int) -> str:
    if reading.scene is None:
        return "unreadable"
    return "right" if reading.scene == (scene if size == 256 else scene.without_texture()) else "misread"


def measure(n: int, size: int, way: str, batch: int = 64) -> list[dict]:
    """For each strength of one way to spoil pictures: how often they are right, unreadable and misread."""
    spoil, strengths = WAYS[way]
    scenes, rows = [training_scene(UNSEEN, i) for i in range(n)], []
    for strength in strengths:
        found: list[str] = []
        for at in range(0, n, batch):
            part = scenes[at:at + batch]
            found += [outcome(s, r, size) for s, r in zip(part, parse(spoil(render(part, size), strength)))]
        counts = {name: found.count(name) for name in OUTCOMES}
        rows.append({"strength": strength, "n": n, **counts, "intervals": {name: wilson_interval(k, n) for name, k in counts.items()}})
    return rows


def draw(found: dict[str, dict[str, list[dict]]], path: Path) -> None:
    titles = [f"{way}, {size} px" for size in found for way in found[size]]
    sheet, panels = figure(titles, "")
    for panel, (size, way) in zip(panels, ((size, way) for size in found for way in found[size])):
        rows = found[size][way]
        for name, style in zip(OUTCOMES, STYLES):
            panel.plot([r["strength"] for r in rows], [r[name] / r["n"] for r in rows], **style, label=name)
            panel.fill_between([r["strength"] for r in rows], *zip(*(r["intervals"][name] for r in rows)), color=style["color"], alpha=0.12, linewidth=0)
        percent_axis(panel)
    save(sheet, path)


def audit(args: argparse.Namespace, path: Path) -> None:
    """Pictures of the pipeline for the benchmark's captions, evenly from all categories, each with its verdict."""
    pipe, options = load_pipeline(args), sampling_options(args)
    prompts = benchmark(1 + args.sheet // 20, seed=7)
    prompts = [prompts[i * len(prompts) // args.sheet] for i in range(args.sheet)]

    def pictures(captions: list[str], seeds: list[int]) -> Tensor:
        stages = pipe(captions, seed=seeds, progress=False, output_type="pt", **options).stages
        return stages[list(stages)[-1]]

    results = list(tqdm(evaluate(pictures, prompts), total=len(prompts), desc="pictures"))
    labelled_grid([r.image for r in results], [f"{r.caption.text} -> {verdict(r.caption.description, r.reading)}" for r in results], columns=10, cell=160,
                  frames=[r.right for r in results]).quantize(256).save(path)
    print(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="scenes (default: 200)")
    parser.add_argument("--sheet", type=int, default=0, metavar="N", help="also draw a sheet of N pictures with verdicts")
    parser.add_argument("--out", type=Path, default=Path("outputs/parser"), help="a folder")
    add_pipeline_options(parser)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, list[dict]]] = {}
    for size, way in tqdm([(size, way) for size in SIZES for way in WAYS], desc="spoilt pictures"):
        found.setdefault(str(size), {})[way] = measure(args.n, size, way)
    (args.out / "parser.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, args.out / "parser.png")
    for size, ways in found.items():
        for way, rows in ways.items():
            print(f"{size:>3} px, {way:38} right " + ", ".join(f"{r['strength']:g}: {r['right'] / r['n']:.0%}" for r in rows))
            print(f"{'':46} misread " + ", ".join(f"{r['strength']:g}: {r['misread'] / r['n']:.0%}" for r in rows))
    print(args.out / "parser.png")
    if args.sheet:
        audit(args, args.out / "audit.png")


if __name__ == "__main__":
    main()
