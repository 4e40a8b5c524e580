"""Material, light and texture of objects of known outline, by analysis through synthesis.

Under a given lamp an object is a linear function of its paint: paint * tinted + white, both known
from the renderer. Each object is fitted with those of every material under lamps all around. What
fits best is what it is; how much better it fits than the next one tells how sure that is.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.scenes.outlines import WINDOW
from imagen_mini.scenes.render import texture_pattern
from imagen_mini.scenes.scene import (
    GRID,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    SceneObject,
)
from imagen_mini.scenes.studio.render import (
    KNEE,
    TOWARDS_LAMP,
    Canvas,
    Lamp,
    add_objects,
    falloff,
    pack_studio_scenes,
    paints,
)

ANGLES, HEIGHTS = (-19.0, -6.5, 6.5, 19.0), (36.5, 42.0, 49.0)  # degrees; of the lamps of one side
WHITE = (0.85, 1.15)  # how bright the lamp may be
CLEARLY = 1.5  # times as large is the error of a texture where another one is seen
PER_ANSWER = 4.0  # how many neighbouring pixels err together, as if they were one


class ShadingTemplates(NamedTuple):
    """What the renderer makes of each kind of object, in a window around it.

    k kinds (shape and size), m materials, l lamps; 0 but in the interior.
    """

    tinted: Tensor  # [k, m, l, WINDOW, WINDOW], multiplied with the paint
    white: Tensor  # [k, m, l, WINDOW, WINDOW], added to that
    interior: Tensor  # [k, WINDOW, WINDOW], 0 and 1
    lamps: Tensor  # [l, 3], directions towards them, side by side in the order of LIGHTS


def linear(images: Tensor) -> Tensor:
    """Undo the camera's curve, [-1, 1] -> brightness from 0."""
    y = ((images + 1) / 2).clamp(0, 1)
    above = ((y - KNEE) / (1 - KNEE)).clamp(0, 0.995)
    return torch.where(y > KNEE, KNEE - (1 - KNEE) * torch.log1p(-above), y)


def slope(brightness: Tensor) -> Tensor:
    """Of the camera's curve: how much a change of brightness shows, 1 below its knee."""
    return torch.exp((KNEE - brightness).clamp(max=0) / (1 - KNEE))


@lru_cache(maxsize=8)
def shading_templates(device: torch.device) -> ShadingTemplates:
    """Render the templates once per device."""
    lamps = torch.tensor(
        [
            (math.cos(a) * math.cos(h), math.sin(a) * math.cos(h), math.sin(h))
            for side in TOWARDS_LAMP.values()
            for a in (side + math.radians(x) for x in ANGLES)
            for h in map(math.radians, HEIGHTS)
        ]
    )
    kinds = [(shape, radius, size) for shape in SHAPES for size, radius in SIZES.items()]
    parts = torch.empty(2, len(kinds), len(MATERIALS), len(lamps), WINDOW, WINDOW)
    interior = torch.empty(len(kinds), WINDOW, WINDOW)
    for i, kind in enumerate(kinds):
        for j, material in enumerate(MATERIALS):
            parts[0, i, j], parts[1, i, j], interior[i] = _shaded(*kind, material, lamps)
    tinted, white = parts.to(device)
    return ShadingTemplates(tinted, white, interior.to(device), lamps.to(device))


def _shaded(
    shape: str, radius: float, size: str, material: str, lamps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Render one object under every lamp, each in an image of its own.

    Returns:
        What is multiplied with its paint, what is added [l, WINDOW, WINDOW], and its interior
        [WINDOW, WINDOW].
    """
    middle, n = GRID // 2, len(lamps)
    of_kind = SceneObject(middle, middle, shape, "blue", size, "solid", material)
    scenes = pack_studio_scenes([Scene((of_kind,), "linen", LIGHTS[0])] * n)
    canvas = Canvas(*(lamps.new_zeros(n, *c, GRID, GRID) for c in ((), (3,), (), ())))
    lamp = Lamp(lamps, torch.ones(n, 3))
    add_objects(canvas, lamp, scenes, torch.arange(n), radius, [n * (s == shape) for s in SHAPES])
    # Two of its channels give the two unknowns.
    red, _, blue = canvas.objects.unbind(1)
    of_red, _, of_blue = paints(scenes)[:, :, None, None].unbind(1)
    by_paint = (blue - red) / (of_blue - of_red)
    rest = red - of_red * by_paint
    window = slice(middle - WINDOW // 2, middle + WINDOW // 2)
    inside = (canvas.cover[0] > 0.999).float()
    tinted, white = ((part * inside)[:, window, window] for part in (by_paint, rest))
    return tinted, white, inside[window, window]


def cut_windows(images: Tensor, index: Tensor, place: Tensor, scale: int = 1) -> Tensor:
    """The windows around objects, [n, c, WINDOW * scale, WINDOW * scale]; 0 outside the image.

    Args:
        images: [b, c, GRID * scale, GRID * scale].
        index: The image of each object, [n] long.
        place: Its (x, y), [n, 2] long.
        scale: See above.
    """
    padded = F.pad(images, (WINDOW // 2 * scale,) * 4).permute(0, 2, 3, 1)
    line = torch.arange(WINDOW * scale, device=images.device)
    x, y = (place[:, :, None] * scale + line).clamp(0, padded.shape[1] - 1).unbind(1)
    return padded[index[:, None, None], y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


class Fit(NamedTuple):
    """How n objects are explained by each of m materials under each of l lamps."""

    error: Tensor  # [n, m, l]: mean square of what is left
    paint: Tensor  # [n, m, l, 3]
    white: Tensor  # [n, m, l]: the lamp's brightness
    near: Tensor  # [n, l]: how the lamp's light falls off up to the object
    pixels: Tensor  # [n], how many there were


def fit_shading(image: Tensor, index: Tensor, kind: Tensor, place: Tensor) -> Fit:
    """Fit objects of known outline with every material under every lamp.

    For each the squared error |o - white w - paint t|^2 is least for a paint and a brightness of
    the lamp that follow from a few inner products. Pixels count as much as they show (`slope`).

    Args:
        image: Brightness (see `linear`), [b, 3, GRID, GRID].
        index: The image of each object, [n] long.
        kind: Its number among shapes and sizes, [n] long.
        place: Its (x, y), [n, 2] long.
    """
    known = shading_templates(image.device)
    n, m, of_lamps = len(index), len(MATERIALS), len(known.lamps)
    seen = cut_windows(image, index, place)
    weight = slope(seen).square() * known.interior[kind][:, None]
    pixels = known.interior[kind].sum((1, 2))
    # 1. How the light falls off up to the object, as compared with one in the middle.
    x, y = place[:, :, None].float().unbind(1)
    middle = image.new_tensor(GRID / 2)
    near = (0.45 + 0.55 * falloff(known.lamps, x, y)) / (
        0.45 + 0.55 * falloff(known.lamps, middle, middle)
    )
    # 2. Inner products of what is seen (o) with the templates t and w, kind by kind.
    o_t, o_w, t_t, t_w, w_w = image.new_zeros(5, n, 3, m * of_lamps)
    for k in kind.unique().tolist():
        of = (kind == k).nonzero()[:, 0]
        by = weight[of].flatten(2)
        o = seen[of].flatten(2) * by
        t, w = (part[k].flatten(2).flatten(0, 1).T for part in (known.tinted, known.white))
        o_t[of], o_w[of] = o @ t, o @ w
        t_t[of], t_w[of], w_w[of] = by @ (t * t), by @ (t * w), by @ (w * w)
    scale = near.repeat(1, m)[:, None]
    o_t, o_w = o_t / scale, o_w / scale
    o_o = (weight * seen.square()).sum((2, 3))[:, :, None] / scale.square()
    # 3. The least error.
    t_t = t_t.clamp(min=1e-6)
    by_white = (w_w - t_w.square() / t_t).sum(1).clamp(min=1e-4)
    white = ((o_w - o_t * t_w / t_t).sum(1) / by_white).clamp(*WHITE)[:, None]
    paint = (o_t - white * t_w) / t_t
    error = o_o - 2 * white * o_w + white.square() * w_w - paint.square() * t_t
    error = error.sum(1).clamp(min=0) / weight.sum((1, 2, 3)).clamp(min=1)[:, None] + 1e-5
    return Fit(
        error.view(n, m, of_lamps),
        paint.view(n, 3, m, of_lamps).permute(0, 2, 3, 1),
        white.view(n, m, of_lamps),
        near,
        pixels,
    )


def certainty(error: Tensor, count: Tensor) -> Tensor:
    """Mean square errors of rival explanations -> their probabilities.

    The noise is unknown, so `count` values with a mean square error e have a likelihood of
    e^(-count / 2). Neighbouring values are not independent, which `PER_ANSWER` allows for.

    Args:
        error: [n, k], of k explanations.
        count: Values that were explained, [n].

    Returns:
        [n, k], which sum to 1.
    """
    return (-0.5 / PER_ANSWER * count[:, None] * error.log()).softmax(1)


class Shading(NamedTuple):
    """What n objects look like without texture: paint * tinted + white."""

    paint: Tensor  # [n, 3]
    tinted: Tensor  # [n, WINDOW, WINDOW]
    white: Tensor  # [n, WINDOW, WINDOW]


def explain(fit: Fit, kind: Tensor, material: Tensor, lamp: Tensor) -> Shading:
    """The shading of objects with one material and lamp each, [n] long."""
    known, every = shading_templates(fit.error.device), torch.arange(len(kind))
    near = fit.near[every, lamp][:, None, None]
    white = fit.white[every, material, lamp][:, None, None]
    return Shading(
        fit.paint[every, material, lamp],
        known.tinted[kind, material, lamp] * near,
        known.white[kind, material, lamp] * near * white,
    )


def misfit(image: Tensor, index: Tensor, kind: Tensor, place: Tensor, of: Shading) -> Tensor:
    """How far the pixels of objects are from their shading.

    Differences are averaged over 3 x 3 pixels, where noise cancels.

    Args:
        image, index, kind, place: As of `fit_shading`.
        of: The shading.

    Returns:
        [n, WINDOW, WINDOW], the length of the difference of brightness; NaN outside the interior,
        and where hardly anything around is part of it.
    """
    seen = cut_windows(image, index, place)
    inside = shading_templates(image.device).interior[kind][:, None]
    left = seen - of.paint[:, :, None, None] * of.tinted[:, None] - of.white[:, None]
    full = F.avg_pool2d(inside, 3, 1, 1)
    mean = F.avg_pool2d(left * slope(seen) * inside, 3, 1, 1) / full.clamp(min=0.1)
    outside = (inside * full)[:, 0] < 0.6
    return mean.norm(dim=1).masked_fill(outside, float("nan"))


class Textures(NamedTuple):
    """The textures of n objects."""

    share: Tensor  # [n, 4], probabilities
    contrast: Tensor  # [n], of the best one; of the strongest other one if that is solid
    others: Tensor  # [n, WINDOW, WINDOW] bool: cells that show another texture
    cells: Tensor  # [n], how many cells there are


def fit_textures(
    image: Tensor, index: Tensor, kind: Tensor, place: Tensor, shading: Shading
) -> Textures:
    """Compare objects with every texture, cell by cell; a cell is one pixel of the 64 px image.

    Args:
        image: Brightness, [b, 3, size, size], with `size` a multiple of GRID.
        index, kind, place: As of `fit_shading`.
        shading: Of the objects.
    """
    interior = shading_templates(image.device).interior[kind] > 0
    f = image.shape[-1] // GRID
    patterns = torch.stack([texture_pattern(t, GRID * f, image.device) for t in TEXTURES])[None]
    zero = torch.zeros_like(index)
    shares, contrast, others = [], [], []
    for part in torch.arange(len(index), device=image.device).split(16):
        seen = cut_windows(image, index[part], place[part], f)  # [n, 3, WINDOW f, WINDOW f]
        shows = slope(seen)
        pattern = cut_windows(patterns, zero[part], place[part], f)
        paint, tinted, white = (x[part] for x in shading)
        # between pixels of the interior, without what lies outside
        inside = interior[part].float()[:, None]
        reach = F.interpolate(inside, scale_factor=f, mode="bilinear").clamp(min=0.1)
        tinted, white = (
            F.interpolate(x[:, None] * inside, scale_factor=f, mode="bilinear") / reach
            for x in (tinted, white)
        )
        left = []
        for p in pattern[:, :, None].unbind(1):
            painted = (paint[:, :, None, None] * (1 + 0.9 * p) + 0.35 * p).clamp(min=0)
            rest = (seen - (painted * tinted + white)) * shows
            left.append(rest - F.interpolate(F.avg_pool2d(rest, f), scale_factor=f))
        error = torch.cat(
            [F.avg_pool2d(rest.square().mean(1, keepdim=True), f) for rest in left], 1
        )  # [n, 4, WINDOW, WINDOW]
        near = F.avg_pool2d(error * inside, 3, 1, 1) / F.avg_pool2d(inside, 3, 1, 1).clamp(min=0.1)
        count = inside.sum((1, 2, 3)).clamp(min=1)
        mean = (error * inside).sum((2, 3)) / count[:, None]
        best = mean.argmin(1)
        # the contrast of a texture: how much of it there is, by least squares
        fine = F.interpolate(inside, scale_factor=f)
        contrasts = []
        for rest in left[1:]:
            pattern_seen = (left[0] - rest) * fine
            power = pattern_seen.square().sum((1, 2, 3)).clamp(min=1e-6)
            contrasts.append((left[0] * pattern_seen).sum((1, 2, 3)) / power)
        of_each = torch.stack(contrasts, 1)
        strongest = of_each.gather(1, of_each.abs().argmax(1, keepdim=True))
        contrast.append(torch.cat([strongest, of_each], 1).gather(1, best[:, None])[:, 0])
        shares.append(certainty(mean + 1e-6, count * 3 * f * f))
        own = near[torch.arange(len(part)), best]
        others.append((own > CLEARLY * near.amin(1)) & interior[part])
    cells = interior.sum((1, 2))
    if not shares:
        return Textures(image.new_zeros(0, len(TEXTURES)), image.new_zeros(0), interior, cells)
    return Textures(torch.cat(shares), torch.cat(contrast), torch.cat(others), cells)
