"""Where objects are, from masks: connected components, and templates of every shape in every size
at every shift, compared by soft IoU. The parsers of both worlds read outlines with these.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.scenes.render import coverage
from imagen_mini.scenes.scene import GRID, SHAPES, SIZES
from imagen_mini.utils.morphology import dilate, erode

SPECK = 12  # pixels; anything smaller is dirt. The smallest object covers 100.
WINDOW = 36  # holds the largest object, moved by SHIFT to any side
SHIFT = 2  # how far an object's centre may lie from the centre of its bounding box
SHIFTS = (2 * SHIFT + 1) ** 2  # templates of one shape and size, one after the other


@dataclass(frozen=True)
class Templates:
    """Every shape in every size, at every shift within a window around the centre of its bounding
    box.
    """

    names: list[tuple[str, str]]  # n of (shape, size)
    place: Tensor  # [n, 2] long: the object's (x, y) relative to the middle of the window
    cover: Tensor  # [n, WINDOW, WINDOW] in [0, 1]
    around: Tensor  # bool, same shape: the object and a margin of one pixel
    interior: Tensor  # bool, same shape: fully covered, and so are the neighbours
    least: Tensor  # in [0, 1], same shape: coverage if the outline lies half a pixel further in ...
    most: Tensor  # ... and half a pixel further out


@lru_cache(maxsize=8)
def templates(device: torch.device) -> Templates:
    """Render the templates once per device, with the coverage that the renderer uses."""
    kinds = [(shape, size) for shape in SHAPES for size in SIZES]
    middle = GRID // 2
    numbers = torch.tensor(
        [(middle, middle, SIZES[size], tuple(SHAPES).index(shape), 0) for shape, size in kinds]
    )
    cover, rows, columns = coverage(numbers.float(), GRID)
    names, place, windows = [], [], []
    for kind, image, row, column in zip(kinds, cover, rows, columns):
        canvas = torch.zeros(GRID, GRID)
        canvas[row[:, None], column[None, :]] = image
        y, x = ((p.min() + p.max() + 1) // 2 for p in (canvas > 0.5).nonzero().unbind(1))
        for dy in range(-SHIFT, SHIFT + 1):
            for dx in range(-SHIFT, SHIFT + 1):
                top, left = y - dy - WINDOW // 2, x - dx - WINDOW // 2
                windows.append(canvas[top : top + WINDOW, left : left + WINDOW])
                place.append((middle - x + dx, middle - y + dy))
                names.append(kind)
    cover = torch.stack(windows).to(device)
    return Templates(
        names,
        torch.tensor(place, device=device),
        cover,
        dilate(cover > 0),
        erode(cover > 0.99),
        (cover + erode(cover)) / 2,
        (cover + dilate(cover)) / 2,
    )


def components(mask: Tensor) -> Tensor:
    """Label the 8-connected components of masks.

    A pixel's label is the number of some pixel of its component. Each round takes the largest label
    in the neighbourhood, and then the label of that pixel. Labels jump further in every round, so a
    few rounds suffice for any component.

    Args:
        mask: bool [b, h, w].

    Returns:
        long [b, h, w]: 0 outside the mask, and one number for each component of an image.
    """
    b, h, w = mask.shape
    labels = torch.arange(1, h * w + 1, device=mask.device).view(1, h, w) * mask
    while True:
        # exact below 2^24
        grown = F.max_pool2d(labels[:, None].float(), 3, 1, 1)[:, 0].long() * mask
        flat = grown.flatten(1)
        jumped = F.pad(flat, (1, 0)).gather(1, flat).view(b, h, w)
        if torch.equal(jumped, labels):
            return labels
        labels = jumped


def find_objects(foreground: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """List all components of a batch in one table, without specks of dirt.

    Args:
        foreground: bool [b, GRID, GRID].
        labels: long [b, GRID, GRID], from `components`.

    Returns:
        For each of n components: image [n], label [n], area [n] and the centre of the bounding box
        [n, 2] as (x, y).
    """
    image, row, column = foreground.nonzero().unbind(1)
    keys = image * (GRID * GRID + 1) + labels[foreground]
    keys, member, area = torch.unique(keys, return_inverse=True, return_counts=True)
    middle = (
        torch.stack(
            [
                torch.zeros_like(keys).scatter_reduce_(0, member, p, "amin", include_self=False)
                + torch.zeros_like(keys).scatter_reduce_(0, member, p, "amax", include_self=False)
                for p in (column, row)
            ],
            1,
        ).add(1)
        // 2
    )
    kept = area >= SPECK
    return keys[kept] // (GRID * GRID + 1), keys[kept] % (GRID * GRID + 1), area[kept], middle[kept]


def component_areas(labels: Tensor) -> Tensor:
    """Return the area of each pixel's component.

    Args:
        labels: long [b, h, w], from `components`.

    Returns:
        long [b, h, w]: pixels of the component, 0 outside of all.
    """
    flat = labels.flatten(1)
    area = flat.new_zeros(len(flat), flat.shape[1] + 1)
    area.scatter_add_(1, flat, torch.ones_like(flat))[:, 0] = 0
    return area.gather(1, flat).view_as(labels)


class Windows(NamedTuple):
    """A window of the image around each of n objects."""

    where: tuple[Tensor, Tensor, Tensor]  # image, row and column of its pixels in a padded image
    near: Tensor  # [n, WINDOW, WINDOW] long: labels of components, -1 outside the image
    own: Tensor  # bool, same shape: the object itself


def windows(labels: Tensor, index: Tensor, label: Tensor, middle: Tensor) -> Windows:
    """Lay a window around each object.

    `F.pad(image, (WINDOW // 2,) * 4)` is the padded image that the windows are cut from.

    Args:
        labels: long [b, GRID, GRID], from `components`.
        index, label, middle: As from `find_objects`.
    """
    x, y = (middle[:, :, None] + torch.arange(WINDOW, device=labels.device)).unbind(1)
    where = (index[:, None, None], y[:, :, None], x[:, None, :])
    near = F.pad(labels, (WINDOW // 2,) * 4, value=-1)[where]
    return Windows(where, near, near == label[:, None, None])


def soft_iou(alpha: Tensor, known: Templates) -> Tensor:
    """Compare objects (a) with templates (d): sum(a d) / (sum(a^2) + sum(d^2) - sum(a d)).

    Args:
        alpha: The soft coverage of n objects, [n, WINDOW, WINDOW] in [0, 1].
        known: k templates.

    Returns:
        [n, k] in [0, 1].
    """
    both = alpha.flatten(1) @ known.cover.flatten(1).T
    union = alpha.square().sum((1, 2))[:, None] + known.cover.square().sum((1, 2)) - both
    return both / union


def best_templates(alpha: Tensor, known: Templates) -> tuple[Tensor, Tensor]:
    """Return the best soft IoU of each object [n], and the number of its template [n]."""
    overlap, best = soft_iou(alpha, known).max(1)
    return overlap, best


def largest_component(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the area of the largest component of each mask, and its mean x and y.

    Args:
        mask: bool [b, GRID, GRID].

    Returns:
        Three tensors [b]; all are 0 where the mask is empty.
    """
    labels = components(mask)
    area, largest = component_areas(labels).flatten(1).max(1)
    members = (labels == labels.flatten(1).gather(1, largest[:, None])[..., None]) & (labels > 0)
    at = torch.arange(GRID, device=mask.device, dtype=torch.float32)
    counts = members.sum((1, 2)).clamp(min=1)
    x = (members.sum(1) * at).sum(1) / counts
    y = (members.sum(2) * at).sum(1) / counts
    return area, x, y
