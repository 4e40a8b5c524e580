"""How well an attention map covers the object that its word names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_iou(heat: Tensor, mask: Tensor) -> float:
    """Intersection over union of a map [h, w] and a thing: of the places where the map is highest,
    as many as the thing covers, against the thing.

    `mask` [H, W] in [0, 1] is the thing's, at any resolution; it is brought to the map's, and
    places that it covers by half or more count. If there is none, the one that it covers most
    counts. No threshold to choose: 1 is a map that is highest exactly on the thing.
    """
    cells = F.interpolate(mask[None, None].float(), size=heat.shape, mode="area")[0, 0].flatten()
    obj = cells >= min(0.5, cells.max().item())
    highest = torch.zeros_like(obj)
    highest[heat.flatten().topk(int(obj.sum())).indices] = True
    return ((highest & obj).sum() / (highest | obj).sum()).item()


def chance_iou(mask: Tensor, size: int) -> float:
    """What `attention_iou` would be, about, of a map that knows nothing: the share p of the grid
    that the thing covers gives p / (2 - p).
    """
    cells = F.interpolate(mask[None, None].float(), size=(size, size), mode="area")[0, 0].flatten()
    p = (cells >= min(0.5, cells.max().item())).float().mean().item()
    return p / (2 - p)
