"""How well an attention map covers the object that its word names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.captions import Caption
from imagen_mini.scenes.render import masks


def attention_iou(heat: Tensor, mask: Tensor) -> float:
    """Return the intersection over union of an attention map and the mask of an object.

    As many of the map's highest cells as the object has cells are compared with the object. There
    is no threshold to choose: 1 is a map that is highest exactly on the object.

    Args:
        heat: The map [h, w].
        mask: The object's mask [H, W] in [0, 1], at any resolution. It is resized to the map;
            cells that it covers by half or more count, or else the one that it covers most.
    """
    cells = F.interpolate(mask[None, None].float(), size=heat.shape, mode="area")[0, 0].flatten()
    obj = cells >= min(0.5, cells.max().item())
    highest = torch.zeros_like(obj)
    highest[heat.flatten().topk(int(obj.sum())).indices] = True
    return ((highest & obj).sum() / (highest | obj).sum()).item()


def chance_iou(mask: Tensor, size: int) -> float:
    """Return about what `attention_iou` would be of a random map.

    If the object covers the share p of the grid, it is p / (2 - p).

    Args:
        mask: The object's mask [H, W] in [0, 1].
        size: The side of the grid.
    """
    cells = F.interpolate(mask[None, None].float(), size=(size, size), mode="area")[0, 0].flatten()
    p = (cells >= min(0.5, cells.max().item())).float().mean().item()
    return p / (2 - p)


OBJECT_ROLES = ("color", "shape", "size")  # roles of words that describe one object


def measure_localization(
    pipe: ImagenPipeline,
    prompts: list[tuple[str, int, Caption]],
    options: dict,
    batch: int = 10,
    progress: bool = True,
) -> dict:
    """Measure how well the attention maps of words cover their objects.

    Only images that show their caption are judged: in others nobody can say where an object
    should be.

    Args:
        pipe: The pipeline.
        prompts: (category, seed, caption) as `benchmark` returns them.
        options: Further arguments of the pipeline's call.
        batch: Prompts sampled at once (default: 10).
        progress: Whether to show a progress bar (default: True).

    Returns:
        A dictionary: the numbers of `captions` and of those `judged`, the `times`, the grid size of
        each of the `layers`, the `chance` overlap of each layer, and `overlap`[role][layer], the
        mean intersection over union at each time, in [0, 1].
    """
    maps, found, chance, judged = AttentionStore(), {}, {}, 0
    for at in tqdm(range(0, len(prompts), batch), desc="find", unit="batch", disable=not progress):
        part = prompts[at : at + batch]
        images = pipe(
            [c.text for _, _, c in part],
            seed=[seed for _, seed, _ in part],
            attention_store=maps,
            progress=False,
            **options,
        ).stages
        for row, ((_, _, caption), parsed) in enumerate(
            zip(part, pipe.world.parse_image(next(iter(images.values())).float().cpu()))
        ):
            objects = caption.description.assign(parsed.scene) if parsed.scene is not None else None
            if objects is None:
                continue
            judged += 1
            truth = dict(zip(parsed.scene.objects, masks(parsed.scene)))
            for number, word in enumerate(caption.words):
                if word.role not in OBJECT_ROLES or len(word.objects) != 1:
                    continue
                mask = truth[objects[word.objects[0]]]
                for site in maps.sites:
                    rows = found.setdefault(word.role, {}).setdefault(
                        site.name, [[] for _ in maps.times]
                    )
                    for step, t in enumerate(maps.times):
                        rows[step].append(
                            attention_iou(
                                maps.word_map(number, row, site=site.name, times=[t]).cpu(),
                                mask,
                            )
                        )
                    chance.setdefault(site.name, []).append(chance_iou(mask, site.size))
    return {
        "captions": len(prompts),
        "judged": judged,
        "times": [round(t, 4) for t in maps.times],
        "layers": {s.name: s.size for s in maps.sites},
        "chance": {name: rounded_mean(values) for name, values in chance.items()},
        "overlap": {
            role: {name: [rounded_mean(step) for step in steps] for name, steps in layers.items()}
            for role, layers in found.items()
        },
    }


def rounded_mean(values: list[float]) -> float:
    """Return the mean, rounded to four digits; 0 of an empty list."""
    return round(sum(values) / max(1, len(values)), 4)


def localization_table(report: dict) -> str:
    """Return the report of `measure_localization` as text: a line for each layer, a column for each
    role.
    """
    lines = [
        f"{'layer':14}{'grid':>6}"
        + "".join(f"{role:>8}" for role in report["overlap"])
        + f"{'chance':>8}"
    ]
    for name, size in report["layers"].items():
        cells = [rounded_mean(layers[name]) for layers in report["overlap"].values()] + [
            report["chance"][name]
        ]
        lines.append(f"{name:14}{size:>6}" + "".join(f"{value:>8.0%}" for value in cells))
    return "\n".join(lines)
