"""Image of the world `studio` -> scene: the judge.

A small network says where the ground is and where which colour (`reader`). All else is geometry and
light, by analysis through synthesis as in the flat world's parser: outlines are compared with
templates of every shape and size, the shading with that of every material under every lamp
(`shading`), patterns with every texture. An answer that is not clearly better than the others, or
that differs from part to part, is no answer.

Which objects an image shows, and whether it looks as a render would, are two questions. Without a
clear shape and colour of every object there is a problem, and no scene. Where these are clear and a
material, a texture, the surface or the light is not, the scene is read, that attribute is
`UNCLEAR`, and a flaw is reported.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from imagen_mini.scenes.outlines import (
    SHIFTS,
    WINDOW,
    components,
    find_objects,
    soft_iou,
    templates,
    windows,
)
from imagen_mini.scenes.parse import UNCLEAR, ParsedScene, check_images
from imagen_mini.scenes.scene import (
    COLORS,
    GRID,
    LIGHTS,
    MATERIALS,
    SURFACES,
    TEXTURES,
    Scene,
    SceneObject,
)
from imagen_mini.scenes.studio.reader import FOREIGN, GROUND, DilatedReader, PixelReader, Seen
from imagen_mini.scenes.studio.shading import (
    PER_ANSWER,
    certainty,
    explain,
    fit_shading,
    fit_textures,
    linear,
    misfit,
)
from imagen_mini.utils.morphology import dilate, erode
from imagen_mini.weights import STUDIO_JUDGE

MOST_PIXELS = 256  # of a side, that are looked at
AT_ONCE = 16  # images; with 64 it takes more memory, and at 256 px more time
# Probability of ground below which there is an object, and surely; least area of the latter.
NO_GROUND, CORE, LEAST_CORE = 0.35, 0.1, 30
AS_LIT = 0.08  # difference from an object's shading, up to which a pixel is part of it
LEAST_OVERLAP = 0.8  # least soft IoU with a template
RARE = 2.0  # log of how much more often something faint is there in training than in a true image
UNEXPLAINED = 0.3  # probability of a pixel that nothing explains, from which on it counts
# Pixels' worth of what neither ground nor objects explain, in one place: more is a flaw, and three
# times as much a problem. Of 52 damaged renders between the two, with all else in its limits, 51
# were read rightly.
MOST_UNEXPLAINED, FOREIGN_OBJECT = 6.0, 18.0
LEAST_SHARE = 0.7  # least probability of an answer
LEAST_LIGHT = 0.001  # of the shading's answer, by the network
# Where the shading of the nearest template fits worse than this (RMS), that of so many rivals is
# looked at, if their soft IoU is nearly as good.
DOUBTFUL_ERROR, RIVALS, NEARLY = 0.04, 10, 0.12
# Brightness that an object's best shading leaves unexplained, as RMS and at most, and pixels of its
# outline: limits of an ellipsoid, as small errors of all three kinds come together. Beyond it there
# is a flaw, and the material is unclear. Of 3,600 objects in renders with noise, blur, warped
# outlines or wrong light (64 px), shape and size were right in 98 % up to 2.5 times as far, and in
# 93 % from there to 3 times. The material was right in 98 % up to 0.75, in 85 % from there to 1.25.
# (By a script that was not kept.)
MOST_ERROR, MOST_DIFFERENCE, MOST_OUTLINE = 0.09, 0.27, 8.0
MOST_DOUBT = 2.5
# Of a texture, as compared with the renderer's, by material; of the strongest one where an object
# is solid. Metal is brushed, which blurs its textures, and looks a little like one of them.
CONTRASTS = {"matte": (0.7, 1.6), "shiny": (0.7, 1.6), "metallic": (0.5, 1.6)}
SOLID = {"matte": 0.11, "shiny": 0.11, "metallic": 0.35}
OTHER_PART = 0.12  # share of an object that may show another texture in one place ...
FEW_CELLS = 64  # ... as if it had at least so many pixels of the 64 px image
OTHER_SURFACE = 90  # pixels of the ground that may show another surface in one place
# The least grain of a surface (see `grain_strength`): a third of the least of 640 renders.
LEAST_GRAIN = {"wood": 0.019, "sand": 0.009, "slate": 0.019, "linen": 0.012, "marble": 0.006}


@lru_cache(maxsize=8)
def load_reader(device: torch.device, folder: Path = STUDIO_JUDGE) -> PixelReader | DilatedReader:
    """Load the network of either form, once per device.

    Raises:
        FileNotFoundError: There are no weights.
    """
    path = folder / f"{GRID}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"the judge of the world studio has no weights: {path} is missing; train them with "
            f"python -m train.studio_judge --out {folder}, a second one with --form second --seed 1"
        )
    weights = load_file(path)
    net = DilatedReader() if "blocks.0.first.weight" in weights else PixelReader()
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False).to(device)


class Evidence(NamedTuple):
    """What was measured in b images with n objects; decisions follow from it."""

    of_image: Tensor  # [n] long: the image of each object
    middle: Tensor  # [n, 2] long: the centre of its bounding box
    kind: Tensor  # [n, 9]: probability of each colour, and of none of these
    template: Tensor  # [n] long: number of the template nearest to it ...
    overlap: Tensor  # [n]: ... their soft IoU ...
    place: Tensor  # [n, 2] long: ... and its (x, y)
    material: Tensor  # [n, 3]: probability
    error: Tensor  # [n]: RMS of what the best shading leaves unexplained ...
    worst: Tensor  # [n]: ... and the largest such difference
    texture: Tensor  # [n, 4]: probability
    contrast: Tensor  # [n]: of the best texture; of any other one if that is solid
    other_texture: Tensor  # [n]: share of the interior that shows another one in one place
    surface: Tensor  # [b, 5]: probability
    other_surface: Tensor  # [b]: pixels that show another one in one place
    grain: Tensor  # [b]: of the ground (see `grain_strength`)
    light: Tensor  # [b, 4]: probability by what the network saw ...
    shading: Tensor  # [b, 4]: ... and by the shading of objects; equal shares if there are none
    unexplained: Tensor  # [b]: pixels' worth of what nothing explains in one place ...
    where: Tensor  # [b, 2]: ... and its (x, y)
    outline: Tensor  # [n]: pixels' worth of that in and around each object


def heaviest_component(weight: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Find the component of pixels of at least some weight that weighs most.

    Args:
        weight: [b, h, w], at least 0.
        least: Pixels below it belong to no component.

    Returns:
        The sum of its weights [b], 0 if there is none, and its mean (x, y) [b, 2].
    """
    b, h, w = weight.shape
    labels = components(weight >= least).flatten(1)
    sums = weight.new_zeros(b, h * w + 1).scatter_add_(1, labels, weight.flatten(1))
    sums[:, 0] = 0
    heaviest, which = sums.max(1)
    members = ((labels == which[:, None]) & (labels > 0)).view(b, h, w) * weight
    x = (members.sum(1) * torch.arange(w, device=weight.device)).sum(1)
    y = (members.sum(2) * torch.arange(h, device=weight.device)).sum(1)
    return heaviest, torch.stack([x, y], 1) / heaviest.clamp(min=1e-6)[:, None]


def mean_answer(logits: Tensor, of: Tensor) -> Tensor:
    """The mean of log-probabilities over some pixels, as probabilities again.

    Args:
        logits: [n, k, h, w].
        of: bool [n, h, w].

    Returns:
        [n, k], which sum to 1.
    """
    weight = of.float()[:, None]
    total = (logits.log_softmax(1) * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1)
    return total.softmax(1)


def grain_strength(brightness: Tensor, of: Tensor) -> Tensor:
    """How far pixels are from the mean of 3 x 3, as RMS over their mean brightness.

    Args:
        brightness: [b, 3, GRID, GRID].
        of: bool [b, GRID, GRID].

    Returns:
        [b]; 0 where `of` is empty.
    """
    smooth = F.avg_pool2d(brightness, 3, 1, 1, count_include_pad=False)
    rough = (brightness - smooth).square().mean(1)
    count = of.sum((1, 2)).clamp(min=1)
    mean = (brightness.mean(1) * of).sum((1, 2)) / count
    return ((rough * of).sum((1, 2)) / count).sqrt() / mean.clamp(min=1e-6)


def apart(ground: Tensor) -> Tensor:
    """Find what is not ground, without bridges between objects that nearly touch.

    Args:
        ground: Probability of ground, [b, GRID, GRID].

    Returns:
        bool [b, GRID, GRID]. Where a component has two cores or more that are surely not ground,
        only these.
    """
    loose, core = ground < NO_GROUND, ground < CORE
    labels, cores = components(loose), components(core)
    image, pixel, area, _ = find_objects(core, cores)
    large = area >= LEAST_CORE
    image, pixel = image[large], pixel[large] - 1  # a label is the number of one of its pixels
    parent = labels.flatten(1)[image, pixel]
    count = torch.zeros(len(ground), GRID * GRID + 1, device=ground.device)
    count.index_put_((image, parent), torch.ones_like(count[0, :1]), accumulate=True)
    several = count.gather(1, labels.flatten(1)).view_as(ground) >= 2
    return torch.where(several, core, loose)


def shifted(windows: Tensor, by: Tensor) -> Tensor:
    """Windows around places as windows around `place - by`, False where they do not reach.

    Args:
        windows: bool [n, WINDOW, WINDOW].
        by: (x, y), [n, 2] long.
    """
    line = torch.arange(WINDOW, device=windows.device)
    x, y = (line - by[:, :, None]).unbind(1)
    valid = ((x >= 0) & (x < WINDOW))[:, None, :] & ((y >= 0) & (y < WINDOW))[:, :, None]
    x, y = x.clamp(0, WINDOW - 1), y.clamp(0, WINDOW - 1)
    n = torch.arange(len(windows), device=windows.device)[:, None, None]
    return windows[n, y[:, :, None], x[:, None, :]] & valid


def nearest_by_shading(iou: Tensor, image: Tensor, index: Tensor, middle: Tensor) -> Tensor:
    """Find the template of each object: the nearest one, unless its shading tells of another.

    The shading changes much where an outline moves by a pixel. So where that of the nearest
    template fits badly, it decides among those that are nearly as near.

    Args:
        iou: Soft IoU with all templates, [n, k].
        image: Brightness, [b, 3, GRID, GRID].
        index, middle: The image of each object [n], and the centre of its bounding box [n, 2].

    Returns:
        Numbers of templates, [n].
    """
    known, best = templates(image.device), iou.argmax(1)
    error = fit_shading(image, index, best // SHIFTS, middle + known.place[best]).error
    doubtful = (error.amin((1, 2)).sqrt() > DOUBTFUL_ERROR).nonzero()[:, 0]
    overlap, rivals = iou[doubtful].topk(RIVALS, 1)
    error = fit_shading(
        image,
        index[doubtful].repeat_interleave(RIVALS),
        rivals.flatten() // SHIFTS,
        (middle[doubtful, None] + known.place[rivals]).flatten(0, 1),
    ).error.amin((1, 2))
    error = error.view(-1, RIVALS).masked_fill(overlap < overlap[:, :1] - NEARLY, float("inf"))
    best[doubtful] = rivals.gather(1, error.argmin(1, keepdim=True))[:, 0]
    return best


def weigh(seen: Seen, image: Tensor) -> Evidence:
    """Find the objects, and measure how sure everything is.

    Args:
        seen: What the network saw in b images.
        image: Brightness (see `shading.linear`), [b, 3, size, size], with `size` a multiple of 64.
    """
    device, f = image.device, image.shape[-1] // GRID
    small = F.avg_pool2d(image, f)
    # 1. Objects: connected components of what is not ground.
    kind_logits = seen.kind.clone()
    kind_logits[:, FOREIGN] -= RARE
    share = kind_logits.softmax(1)
    foreground = apart(share[:, GROUND])
    labels = components(foreground)
    index, label, _, middle = find_objects(foreground, labels)
    around = windows(labels, index, label, middle)
    every, images = torch.arange(len(index), device=device), torch.arange(len(share), device=device)

    def cut(pixels: Tensor) -> Tensor:
        """[b, k, GRID, GRID] -> [n, k, WINDOW, WINDOW]."""
        padded = F.pad(pixels, (WINDOW // 2,) * 4).permute(0, 2, 3, 1)
        return padded[around.where].permute(0, 3, 1, 2)

    # 2. Colour, by the interior, or by everything if the object is too thin for one.
    inner = erode(around.own)
    inner = torch.where(inner.any(2).any(1)[:, None, None], inner, around.own)
    kind = mean_answer(cut(kind_logits)[:, 1:], inner)
    color = kind[:, :-1].argmax(1)

    # 3. Shape, size and place: the template nearest to what is not ground.
    pixels = cut(share)
    near = dilate(around.own) & (around.near >= 0) & (around.own | (around.near == 0))
    known = templates(device)
    iou = soft_iou((1 - pixels[:, GROUND]) * near, known)
    best = nearest_by_shading(iou, small, index, middle)
    overlap = iou[every, best]

    # 4. Material and light: those that explain the shading of an object, and of all of an image.
    form, place = best // SHIFTS, middle + known.place[best]
    fit = fit_shading(small, index, form, place)
    left = fit.pixels[:, None] * fit.error.amin(1).log()
    left = left.new_zeros(len(share), left.shape[1]).index_add_(0, index, left)
    lamp = left.argmin(1)[index]
    errors = fit.error[every, :, lamp]
    material = certainty(errors, 3 * fit.pixels)
    best_material = material.argmax(1)
    of_side = left.unflatten(1, (len(LIGHTS), -1)).amin(2)
    shading = (-1.5 / PER_ANSWER * of_side).softmax(1)
    of_object = explain(fit, form, best_material, lamp)
    wrong = misfit(small, index, form, place, of_object)
    error, worst = wrong.square().nanmean((1, 2)).sqrt(), wrong.nan_to_num(0.0).amax((1, 2))

    # 5. What stays unexplained: kinds beyond what an outline moved by half a pixel could make, and
    # inside of an object what differs from its shading, too: a highlight is no hole.
    shift = known.place[best]
    own = pixels[every, 1 + color]
    of_template = torch.minimum(own, known.most[best])
    of_template = of_template + torch.minimum(pixels[:, GROUND], 1 - known.least[best])
    as_lit = shifted(wrong < AS_LIT, shift)
    of_template = torch.where(as_lit, 1.0, of_template)
    here = (known.most[best] > 0) & (around.own | (around.near == 0) | as_lit)
    left_over = (1 - of_template) * here
    outline = (left_over * (left_over >= UNEXPLAINED)).sum((1, 2))
    padded = F.pad(share[:, GROUND], (WINDOW // 2,) * 4)
    padded[tuple(part.expand_as(here)[here] for part in around.where)] = of_template[here]
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    unexplained, where = heaviest_component(1 - padded[:, inside, inside], UNEXPLAINED)

    # 6. Texture, cell by cell.
    texture = image.new_ones(len(index), len(TEXTURES))
    contrast, other_texture = image.new_zeros(2, len(index))
    if f > 1:
        found = fit_textures(image, index, form, place, of_object)
        texture, contrast = found.share, found.contrast
        other_texture, _ = heaviest_component(found.others.float(), 0.5)
        other_texture /= found.cells.clamp(min=FEW_CELLS)

    # 7. Surface, by all that is ground.
    empty = ~dilate(foreground, 2)
    surface = mean_answer(seen.surface, empty)
    mine = seen.surface.softmax(1)[images, surface.argmax(1)]
    other_surface, _ = heaviest_component((1 - mine) * empty, 0.5)
    return Evidence(
        index,
        middle,
        kind,
        best,
        overlap,
        place,
        material,
        error,
        worst,
        texture,
        contrast,
        other_texture,
        surface,
        other_surface,
        grain_strength(small, empty),
        seen.light.softmax(1),
        shading,
        unexplained,
        where,
        outline,
    )


def decide(evidence: Evidence, broken: list[int], textures: bool) -> list[ParsedScene]:
    """Name what the evidence is sure of, and report the rest as problems or flaws.

    Args:
        evidence: Of b images.
        broken: For each image how many of its values are not finite.
        textures: Whether the images show textures.
    """
    known = templates(evidence.kind.device)
    b = len(broken)
    problems: list[list[str]] = [[] for _ in range(b)]
    flaws: list[list[str]] = [[] for _ in range(b)]
    objects: list[list[SceneObject]] = [[] for _ in range(b)]
    guesses: list[list[SceneObject]] = [[] for _ in range(b)]

    # 1. The ground and the light. Where there are objects their shading tells where it comes from.
    grounds = _answers(evidence.surface, tuple(SURFACES))
    shaded = torch.zeros(b, dtype=torch.bool, device=evidence.of_image.device)
    shaded[evidence.of_image] = True
    lights = _answers(torch.where(shaded[:, None], evidence.shading, evidence.light), LIGHTS)
    surfaces: list[str] = []
    lit_from: list[str] = []
    whole = zip(
        broken,
        grounds,
        lights,
        *(x.tolist() for x in (evidence.unexplained, evidence.where, evidence.other_surface)),
        evidence.grain.tolist(),
        evidence.light.tolist(),
        shaded.tolist(),
    )
    for i, row in enumerate(whole):
        bad, ground, light, extent, at, other, rough, by_network, with_objects = row
        if bad:
            problems[i].append(f"{bad} values of the image are not finite numbers")
        odd = ""
        if rough < LEAST_GRAIN[ground[0]]:
            problems[i].append(f"the ground is smoother than {ground[0]}")
        elif ground[1] < LEAST_SHARE:
            odd = f"no known surface: {ground[0]} comes nearest, at {ground[1]:.0%}"
        elif other > OTHER_SURFACE:
            odd = f"another surface than {ground[0]} in a part of it"
        surfaces.append(UNCLEAR if odd else ground[0])
        if odd:  # without objects nothing is clear
            (flaws if with_objects else problems)[i].append(odd)
        odd = ""
        if light[1] < LEAST_SHARE:
            odd = f"unclear where the light is: {light[0]} comes nearest"
        elif by_network[LIGHTS.index(light[0])] < LEAST_LIGHT:
            odd = f"objects are lit from the {light[0]}, and the ground is not"
        lit_from.append(UNCLEAR if odd else light[0])
        flaws[i] += [odd] if odd else []
        if extent > MOST_UNEXPLAINED:
            (problems if extent > FOREIGN_OBJECT else flaws)[i].append(
                f"something around ({at[0]:.0f}, {at[1]:.0f}) is neither ground nor part of an "
                "object as it should be"
            )

    # 2. The objects.
    e = evidence
    measured = (e.of_image, e.middle, e.template, e.overlap, e.place)
    limited = (e.error, e.worst, e.outline, e.contrast, e.other_texture)
    for i, at, template, overlap, place, limits, color, material, texture in zip(
        *(x.tolist() for x in measured),
        torch.stack(limited, 1).tolist(),
        _answers(e.kind, (*COLORS, "none of these")),
        _answers(e.material, MATERIALS),
        _answers(e.texture, TEXTURES),
    ):
        shape, size = known.names[template]
        error, worst, outline, contrast, other = limits
        name = f"the object at ({at[0]}, {at[1]})"
        if color[0] not in COLORS:
            problems[i].append(f"{name} is none: it is faint, or has no known colour")
            continue
        if overlap < LEAST_OVERLAP:
            problems[i].append(
                f"{name} is no known shape (best overlap {overlap:.2f}, with a {size} {shape})"
            )
            continue
        if color[1] < LEAST_SHARE:
            problems[i].append(f"{name} has no known colour (nearest {color[0]})")
        # three signs that something is wrong with it, together
        doubt = math.hypot(error / MOST_ERROR, worst / MOST_DIFFERENCE, outline / MOST_OUTLINE)
        looks = f"{name} does not look as a {material[0]} {color[0]} {shape} would"
        if doubt > MOST_DOUBT or outline > MOST_OUTLINE:
            problems[i].append(looks)
        elif doubt > 1:
            flaws[i].append(looks)
        elif material[1] < LEAST_SHARE:
            flaws[i].append(f"{name} has no known material (nearest {material[0]})")
        limit = SOLID[material[0]]
        low, high = (-limit, limit) if texture[0] == "solid" else CONTRASTS[material[0]]
        before = len(flaws[i])
        if textures and texture[1] < LEAST_SHARE:
            flaws[i].append(f"{name} has no known texture (nearest {texture[0]})")
        elif textures and not low < contrast < high:
            flaws[i].append(
                f"{name} has no known texture ({texture[0]}, of a contrast of {contrast:.2f})"
            )
        elif textures and other > OTHER_PART:
            flaws[i].append(f"{name} has another texture than {texture[0]} in a part of it")
        known_texture = texture[0] if textures else None
        o = SceneObject(place[1], place[0], shape, color[0], size, known_texture, material[0])
        guesses[i].append(o)
        if len(flaws[i]) > before:
            o = replace(o, texture=UNCLEAR)
        if doubt > 1 or material[1] < LEAST_SHARE:
            o = replace(o, material=UNCLEAR)
        objects[i].append(o)
    return [
        ParsedScene(
            scene=None if wrong else Scene(tuple(found), surface, light),
            background=None if surface == UNCLEAR else surface,
            objects=tuple(sorted(found, key=lambda o: (o.y, o.x))),
            problems=tuple(wrong),
            flaws=tuple(odd),
            guess=None if wrong or not odd else Scene(tuple(guessed), ground, lamp),
        )
        for found, guessed, wrong, odd, surface, light, (ground, _), (lamp, _) in zip(
            objects, guesses, problems, flaws, surfaces, lit_from, grounds, lights
        )
    ]


def _answers(share: Tensor, names: tuple[str, ...]) -> list[tuple[str, float]]:
    """The most probable name of each row, with its probability."""
    best, which = share.max(1)
    return [(names[k], p) for k, p in zip(which.tolist(), best.tolist())]


@torch.no_grad()
def read_studio_images(images: Tensor, folder: Path = STUDIO_JUDGE) -> list[ParsedScene]:
    """Read scenes of the world `studio` from images.

    At 64 px textures are unknown (None).

    Args:
        images: [b, 3, size, size] in [-1, 1], with `size` a multiple of 64. Of more than 256 px
            only the average over 1/256 of the width is looked at, if 256 divides the size.
        folder: Where the weights are (default: the shipped ones).

    Returns:
        One `ParsedScene` for each image. An image that shows no scene raises no error: its `scene`
        is None, and `problems` says why.

    Raises:
        ValueError: for a tensor of another shape or of integers.
        FileNotFoundError: There are no weights.
    """
    check_images(images)
    return [r for part in images.split(AT_ONCE) if len(part) for r in _parse_batch(part, folder)]


def _parse_batch(images: Tensor, folder: Path) -> list[ParsedScene]:
    broken = (~images.isfinite()).flatten(1).sum(1).tolist()
    pixels = images.float().nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)
    if pixels.shape[-1] % MOST_PIXELS == 0:
        pixels = F.avg_pool2d(pixels, pixels.shape[-1] // MOST_PIXELS)
    factor = pixels.shape[-1] // GRID
    seen = load_reader(images.device, folder)(F.avg_pool2d(pixels, factor))
    return decide(weigh(seen, linear(pixels)), broken, textures=factor > 1)
