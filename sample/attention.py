"""What does each word look at? Attention maps of a picture while it is drawn.

    python -m sample.attention "a red circle above a blue square" --seed 0 --out outputs/attention
    python -m sample.attention --find 60 --out outputs/attention

tokens.png    the picture, and over it the map of each token, the end token too: where attention goes that has nothing to say
steps.png     the maps of the words, step by step, with the picture as the network estimates it
layers.png    the maps of the words, layer by layer
heads.png     the maps of one word, layer by layer and head by head
steps.gif     the same as steps.png, moving

With `--find`, over so many captions: how well do the maps of a word find the thing that it speaks of? The picture's own things, as the parser reads
them, are the truth; a map is right as far as its highest places are those that the thing covers (intersection over union). By layer and step, in
find.png and find.json, against a map that knows nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.attention_maps import AttentionMaps, chance_overlap, overlap
from imagen_mini.benchmark import benchmark
from imagen_mini.charts import STYLES, figure, percent_axis, save
from imagen_mini.pictures import labelled_grid
from imagen_mini.scenes.captions import Caption
from imagen_mini.scenes.parse import parse
from imagen_mini.scenes.render import masks

from .options import add_pipeline_options, load_pipeline, sampling_options

ROLES = ("color", "shape", "size")
CATEGORIES = ["size", "positional"]                    # two things each, with two attributes said


def heat_over(picture: Tensor, heat: Tensor, top: float | None = None) -> Tensor:
    """A map [h, w] as colours over a picture [3, H, W] in [-1, 1]; its highest value, or `top`, is brightest."""
    heat = F.interpolate(heat[None, None].float(), size=picture.shape[-2:], mode="bilinear")[0, 0]
    share = (heat / (top or heat.max().clamp(min=1e-6))).clamp(0, 1)
    colors = torch.from_numpy(colormaps["magma"](share.numpy())[..., :3]).float().permute(2, 0, 1) * 2 - 1
    gray = picture.float().cpu().mean(0, keepdim=True).expand(3, -1, -1)
    return 0.25 * gray + 0.75 * colors


def names_of(maps: AttentionMaps, row: int = 0) -> list[str]:
    """What each token is called: its piece, with a dash where it goes on with a word."""
    return [piece.replace("▁", "") if piece.startswith("▁") or word is None else f"-{piece}"
            for piece, word in zip(maps.tokens[row].pieces, maps.tokens[row].word_ids)]


def words_of(maps: AttentionMaps, row: int = 0) -> list[str]:
    """The words that mean something: all but the articles."""
    return [w for w in dict.fromkeys(maps.tokens[row].words) if w.lower() not in ("a", "an", "the")]


# ---------------------------------------------------------------- pictures of one prompt

def token_sheet(maps: AttentionMaps, picture: Tensor) -> Image.Image:
    """A row for each grid: the picture, then each token's map, averaged over layers, heads and steps, with its share of all attention."""
    tiles, labels = [], []
    for size in maps.sizes:
        tiles, labels = [*tiles, picture], [*labels, f"{size} x {size}"]
        for position, (name, share) in enumerate(zip(names_of(maps), maps.shares(size=size).tolist())):
            tiles.append(heat_over(picture, maps.of_tokens([position], size=size)))
            labels.append(f"{name} {share:.0%}")
    return labelled_grid(tiles, labels, columns=len(tiles) // len(maps.sizes), cell=96)


def step_rows(maps: AttentionMaps, estimates: dict[float, Tensor], times: list[float], size: int) -> tuple[list[list[Tensor]], list[list[str]]]:
    """A row for what the network estimates at these times, and one for each word's map there. A word's brightness is the same in all its row."""
    pictures, labels = [[estimates[t] for t in times]], [[f"t = {t:.2f}" for t in times]]
    for word in words_of(maps):
        heats = [maps.of_word(word, times=[t], size=size) for t in times]
        top = max(h.max().item() for h in heats)
        pictures.append([heat_over(estimates[t], heat, top) for t, heat in zip(times, heats)])
        labels.append([word] * len(times))
    return pictures, labels


def step_sheet(maps: AttentionMaps, estimates: dict[float, Tensor], size: int, columns: int = 10) -> Image.Image:
    times = maps.times
    chosen = [times[round(i * (len(times) - 1) / max(1, min(columns, len(times)) - 1))] for i in range(min(columns, len(times)))]
    pictures, labels = step_rows(maps, estimates, chosen, size)
    return labelled_grid(sum(pictures, []), sum(labels, []), columns=len(chosen), cell=96)


def step_animation(maps: AttentionMaps, estimates: dict[float, Tensor], size: int) -> list[Image.Image]:
    pictures, labels = step_rows(maps, estimates, maps.times, size)
    return [labelled_grid([row[i] for row in pictures], [row[i] for row in labels], columns=len(pictures), cell=128) for i in range(len(maps.times))]


def layer_sheet(maps: AttentionMaps, picture: Tensor) -> Image.Image:
    """A row for each layer, a column for each word."""
    words = words_of(maps)
    tiles = [heat_over(picture, maps.of_word(word, site=site.name)) for site in maps.sites for word in words]
    return labelled_grid(tiles, [f"{word}, {site.name}" for site in maps.sites for word in words], columns=len(words), cell=96)


def head_sheet(maps: AttentionMaps, picture: Tensor, word: str) -> Image.Image:
    """A row for each layer, a column for each of its heads: the maps of one word, each as bright as its highest place."""
    heads = {site.name: probs.shape[1] for site in maps.sites for probs in [maps.after[maps.times[0]][site.name]]}
    cells = [(site.name, head, head < heads[site.name]) for site in maps.sites for head in range(max(heads.values()))]
    tiles = [heat_over(picture, maps.of_word(word, site=name, head=head)) if there else torch.ones_like(picture) for name, head, there in cells]
    labels = [f"{name} {head}" if there else "" for name, head, there in cells]
    return labelled_grid(tiles, labels, columns=max(heads.values()), cell=80, frames=[None if there else "white" for _, _, there in cells])


# ---------------------------------------------------------------- do the words find their things?

def find(pipe: ImagenPipeline, prompts: list[tuple[str, int, Caption]], options: dict, batch: int = 10) -> dict:
    """Overlap of words' maps with their things, by role of the word, by layer and by step; only pictures that show what was said can be judged."""
    maps, found, chance, judged = AttentionMaps(), {}, {}, 0
    for at in tqdm(range(0, len(prompts), batch), desc="find", unit="batch"):
        part = prompts[at:at + batch]
        pictures = pipe([c.text for _, _, c in part], seed=[seed for _, seed, _ in part], record=maps, progress=False, **options).stages
        for row, ((_, _, caption), reading) in enumerate(zip(part, parse(next(iter(pictures.values())).float().cpu()))):
            objects = caption.description.assign(reading.scene) if reading.scene is not None else None
            if objects is None:
                continue
            judged += 1
            truth = dict(zip(reading.scene.objects, masks(reading.scene)))
            for number, word in enumerate(caption.words):
                if word.role not in ROLES or len(word.things) != 1:
                    continue
                mask = truth[objects[word.things[0]]]
                for site in maps.sites:
                    rows = found.setdefault(word.role, {}).setdefault(site.name, [[] for _ in maps.times])
                    for step, t in enumerate(maps.times):
                        rows[step].append(overlap(maps.of_word(number, row, site=site.name, times=[t]).cpu(), mask))
                    chance.setdefault(site.name, []).append(chance_overlap(mask, site.size))
    return {"captions": len(prompts), "judged": judged, "times": [round(t, 4) for t in maps.times],
            "layers": {s.name: s.size for s in maps.sites}, "chance": {name: mean(values) for name, values in chance.items()},
            "overlap": {role: {name: [mean(step) for step in steps] for name, steps in layers.items()} for role, layers in found.items()}}


def mean(values: list[float]) -> float:
    return round(sum(values) / max(1, len(values)), 4)


def draw_find(report: dict, path: Path) -> None:
    sheet, panels = figure([f"words of {role}" for role in report["overlap"]], "t   (1 is noise)")
    for panel, layers in zip(panels, report["overlap"].values()):
        for i, (name, steps) in enumerate(layers.items()):
            panel.plot(report["times"], steps, **STYLES[i % len(STYLES)] | {"markersize": 3}, label=f"{name}, {report['layers'][name]} x {report['layers'][name]}")
        panel.axhline(max(report["chance"].values()), color="#777777", linestyle=":", label="a map that knows nothing")
        panel.invert_xaxis()
        percent_axis(panel)
    panels[0].set_ylabel("intersection over union")
    save(sheet, path)


# ---------------------------------------------------------------- the script

def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", help="the caption")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--find", type=int, metavar="N", help="instead: over N captions of each of two categories, how well the maps find the things")
    parser.add_argument("--word", help="whose maps heads.png shows (default: that of the word that is looked at most)")
    parser.add_argument("--size", type=int, help="the grid of steps.png and steps.gif (default: the largest)")
    parser.add_argument("--out", type=Path, default=Path("outputs/attention"), help="a folder")
    add_pipeline_options(parser)
    args = parser.parse_args(arguments)
    if (args.prompt is None) == (args.find is None):
        parser.error("expected a caption, or --find N")
    pipe = load_pipeline(args)
    options = sampling_options(args) | {"stages": list(pipe.stages)[:1], "output_type": "pt"}
    args.out.mkdir(parents=True, exist_ok=True)
    if args.find is not None:
        report = find(pipe, benchmark(args.find, categories=CATEGORIES), options)
        (args.out / "find.json").write_text(json.dumps(report, indent=1) + "\n")
        if not report["judged"]:
            raise SystemExit(f"none of {report['captions']} pictures shows what was said, so there is no truth to hold the maps against")
        draw_find(report, args.out / "find.png")
        print(f"{report['judged']} of {report['captions']} pictures show what was said; mean overlap over steps, and that of a map that knows nothing:")
        print(f"{'layer':14}{'grid':>6}" + "".join(f"{role:>8}" for role in report["overlap"]) + f"{'chance':>8}")
        for name, size in report["layers"].items():
            print(f"{name:14}{size:>6}" + "".join(f"{mean(layers[name]):>8.0%}" for layers in report["overlap"].values()) + f"{report['chance'][name]:>8.0%}")
        print(f"{args.out}/find.png, find.json")
        return
    maps, estimates = AttentionMaps(), {}
    picture = pipe(args.prompt, seed=args.seed, record=maps, on_step=lambda _, state: estimates.update({state.t: state.x_0_hat[0].float().cpu()}), **options).images[0]
    size = args.size or maps.sizes[0]
    token_sheet(maps, picture).save(args.out / "tokens.png")
    step_sheet(maps, estimates, size).save(args.out / "steps.png")
    layer_sheet(maps, picture).save(args.out / "layers.png")
    head_sheet(maps, picture, args.word or max(words_of(maps), key=lambda w: maps.of_word(w, size=size).sum())).save(args.out / "heads.png")
    first, *rest = step_animation(maps, estimates, size)
    first.save(args.out / "steps.gif", save_all=True, append_images=rest, duration=250, loop=0)
    for name, share in zip(names_of(maps), maps.shares(size=size).tolist()):
        print(f"{name:14}{share:>6.1%} of the attention on the {size} x {size} grid")
    print(f"{args.out}/tokens.png, steps.png, layers.png, heads.png, steps.gif")


if __name__ == "__main__":
    main()
