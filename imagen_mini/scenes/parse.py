"""Image -> scene, by analysis through synthesis: each object in the image is compared with rendered
templates.

Background, colours, shapes, sizes and positions are read at 64 px, where textures vanish. A texture
is read afterwards from the full image, in the interior of its object. What fits nothing is reported
as a problem, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.scenes.outlines import (
    SPECK,
    WINDOW,
    best_templates,
    component_areas,
    components,
    find_objects,
    largest_component,
    templates,
    windows,
)
from imagen_mini.scenes.render import CONTRAST, texture_pattern
from imagen_mini.scenes.scene import BACKGROUNDS, COLORS, GRID, TEXTURES, Scene, SceneObject
from imagen_mini.utils.morphology import dilate, erode

# What is measured with the parser says its version. Version 1 looked at outlines and at the colour
# of most pixels alone. It read a scene where an object had a hole, a second colour or a second
# texture, and where there was a ghost.
PARSER_VERSION = 2

# Colours are in [0, 1] here, and their differences are Euclidean.
TOLERANCE = 0.14  # half of the least distance in the palette (red to orange, 0.28)
LEAST_BACKGROUND = 0.25  # least share of the image that its background explains
# Least soft IoU with a template. Measured: outlines warped at random by half a pixel (RMS), with
# noise of 0.05, keep more than 0.8 in over 99 of 100 images. Of upside-down triangles and half
# discs 0.70 takes 26 in 100, 0.75 takes 4; of random ellipses, which can be near circles, 0.75
# takes 18.
LEAST_OVERLAP = 0.75
FLAT = 0.03  # RMS of a texture, below which it is solid; the weakest, dotted, has 0.127
# RMS from which on a weak texture that correlates with a known one is no longer taken for solid: a
# blurred texture is neither
FAINT = 0.01
# least correlation of the observed texture with a known one; two known ones reach at most 0.58
LEAST_CORRELATION = 0.75
OVERDRAWN = 1.5  # how much stronger than the renderer's a texture may be
# RMS by which the period of a cell differs from the object's mean period, if it shows another
# texture; and the number of such cells from which on they count
OTHER_PERIOD, OTHER_CELLS = 0.055, 5
# What no object and no background explains: (width of the square over which colours are averaged,
# least difference of colour). A strong difference may be small, a faint one must be wide.
UNEXPLAINED = ((1, 0.3), (3, 0.14), (5, 0.05))


# An attribute of a scene that could be read otherwise: no description that states it fits.
UNCLEAR = "unclear"


@dataclass(frozen=True)
class ParsedScene:
    """What was read from one image.

    Args:
        scene: The scene; None if and only if there are `problems`.
        background: The background, if it could be read.
        objects: The objects that could be read, in reading order. The texture of one is None if
            only that was unclear.
        problems: What could not be read, and why.
        flaws: What is not as in a render, although it is clear which objects the image shows. An
            attribute that a flaw leaves open is `UNCLEAR` in the scene.
        guess: The scene with the likeliest value of what is unclear. None: nothing is.
    """

    scene: Scene | None
    background: str | None
    objects: tuple[SceneObject, ...]
    problems: tuple[str, ...]
    flaws: tuple[str, ...] = ()
    guess: Scene | None = None

    @property
    def nearest(self) -> Scene | None:
        """The scene whose render comes nearest to the image: all of it can be rendered."""
        return self.guess or self.scene


def palettes(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the colours of backgrounds [4, 3] and of objects [8, 3], in [0, 1]."""
    grounds, colors = (
        torch.tensor(list(palette.values()), device=device) for palette in (BACKGROUNDS, COLORS)
    )
    return grounds, colors


def find_foreground(small: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Separate objects from the background.

    Args:
        small: [b, 3, GRID, GRID] in [0, 1].

    Returns:
        The index of the background colour that explains most pixels [b], the share of the image
        that it explains [b], and the foreground, bool [b, GRID, GRID].
    """
    grounds, colors = palettes(small.device)
    to_ground, to_color = (
        (small[:, None] - palette[:, :, None, None]).square().sum(2).sqrt()
        for palette in (grounds, colors)
    )  # [b, 4 or 8, GRID, GRID]
    share, ground = (to_ground < TOLERANCE).float().mean((2, 3)).max(1)
    differs = to_ground[torch.arange(len(small)), ground]
    # Nearer to some colour than to the background, or far from both ...
    foreground = (to_color.amin(1) < differs) | (differs > 2 * TOLERANCE)
    # ... and differing at least half as much as the surroundings: a pixel between two objects, or
    # at a soft edge, may look like a third colour.
    return ground, share, foreground & (differs > 0.5 * F.max_pool2d(differs, 5, 1, 2))


def unexplained_pixels(small: Tensor, explained: Tensor) -> Tensor:
    """Find pixels that the scene does not explain, although outlines may be half a pixel off.

    Args:
        small: [b, 3, GRID, GRID] in [0, 1].
        explained: The nearest colour that the scene allows at each pixel, of the same shape.

    Returns:
        bool [b, GRID, GRID]: the difference, averaged over a square so that noise cancels, is
        large (see `UNEXPLAINED`).
    """
    wrong = torch.zeros_like(small[:, 0], dtype=torch.bool)
    for width, least in UNEXPLAINED:
        mean = F.avg_pool2d(small - explained, width, 1, width // 2, count_include_pad=False)
        wrong |= mean.norm(dim=1) > least
    return wrong


def read_textures(
    image: Tensor, cells: Tensor, obj: Tensor, n: int, empty: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read the texture of each object: its mean period, correlated with the known ones.

    Args:
        image: [b, 3, size, size] in [0, 1].
        cells: [m, 3], (image, row, column) of cells of the interior; a cell is one period.
        obj: [m], the object that each cell belongs to.
        n: Number of objects.
        empty: bool [b, GRID, GRID], the cells of the background. They tell how much noise there is.

    Returns:
        The index of the best texture other than solid [n], its normalised correlation at the best
        phase [n], the RMS of the mean period [n], and the number of cells whose period differs
        from the mean one [n].
    """
    # 1. The period of each cell, [b, GRID, GRID, f * f] without its mean, and each object's.
    f = image.shape[-1] // GRID
    periods = image.mean(1).unflatten(2, (GRID, f)).unflatten(1, (GRID, f)).transpose(2, 3)
    periods = periods.flatten(3) - periods.flatten(3).mean(3, keepdim=True)
    own = periods[tuple(cells.T)]
    total = image.new_zeros(n, f * f).index_add_(0, obj, own)
    seen = total / obj.bincount(minlength=n).clamp(min=1)[:, None]
    # 2. Compare it with the known ones at all phases.
    known = torch.stack([texture_pattern(t, GRID * f, image.device)[:f, :f] for t in TEXTURES[1:]])
    phases = [known.roll((dy, dx), (1, 2)).flatten(1) for dy in range(f) for dx in range(f)]
    match = F.normalize(seen, dim=1) @ F.normalize(torch.stack(phases), dim=2).flatten(0, 1).T
    correlation, best = match.view(n, f * f, len(known)).amax(1).max(1)
    # 3. Count cells that differ from their object by more than noise would.
    rms = periods.square().mean(3).sqrt()
    noise = rms.masked_fill(~empty, float("nan")).flatten(1).nanmedian(1).values.nan_to_num()
    most = (3 * noise).clamp(min=OTHER_PERIOD)[cells[:, 0]]
    differs = (own - seen[obj]).square().mean(1).sqrt() > most
    others = torch.zeros(n, device=image.device).index_add_(0, obj, differs.float())
    return best + 1, correlation, seen.square().mean(1).sqrt(), others


def check_images(images: Tensor) -> None:
    """Check that a parser can take images.

    Raises:
        ValueError: for a tensor of another shape than [b, 3, size, size], with `size` a multiple
            of 64, or of integers.
    """
    form = tuple(images.shape)
    if len(form) != 4 or form[1] != 3 or form[2] != form[3] or form[2] == 0 or form[2] % GRID:
        raise ValueError(
            f"parse got a tensor of shape {form}, expected [b, 3, size, size] with size a "
            f"multiple of {GRID}; add a batch dimension with images[None], or resize the images "
            "to 64 or 256"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"parse got {images.dtype} pixels, expected floats in [-1, 1]; use images / 127.5 - 1"
        )


@torch.no_grad()
def parse_image(images: Tensor) -> list[ParsedScene]:
    """Parse images into scenes: `parse_image(render(scene, 256))[0].scene == scene`.

    At 64 px textures are unknown (None).

    Args:
        images: [b, 3, size, size] in [-1, 1], with `size` a multiple of 64.

    Returns:
        One `ParsedScene` for each image. An image that shows no scene raises no error: its `scene`
        is None, and `problems` says why.

    Raises:
        ValueError: for a tensor of another shape or of integers.
    """
    check_images(images)
    return [parsed for chunk in images.split(64) if len(chunk) for parsed in _parse_batch(chunk)]


def _parse_batch(images: Tensor) -> list[ParsedScene]:
    # 1. To [0, 1], and to 64 px, where textures vanish.
    device, size = images.device, images.shape[-1]
    broken = (~images.isfinite()).flatten(1).sum(1)
    image = ((images.float().nan_to_num(0.0, 0.0, 0.0) + 1) / 2).clamp(0, 1)
    small = F.avg_pool2d(image, size // GRID)

    # 2. The background, and the objects: connected components of the foreground.
    ground, share, foreground = find_foreground(small)
    usable = (broken == 0) & (share >= LEAST_BACKGROUND)
    foreground &= usable[:, None, None]
    labels = components(foreground)
    index, label, area, middle = find_objects(foreground, labels)

    # 3. A window around each object.
    around = windows(labels, index, label, middle)
    where, near, own = around.where, around.near, around.own
    pixels = F.pad(small, (WINDOW // 2,) * 4).permute(0, 2, 3, 1)[where]  # [n, WINDOW, WINDOW, 3]

    # 4. Colour: the median of the interior, or of everything if the object is too thin for one.
    grounds, colors = palettes(device)
    inner = erode(own)
    inner = torch.where(inner.any(2).any(1)[:, None, None], inner, own)
    # [n, 3]
    color = pixels.masked_fill(~inner[..., None], float("nan")).flatten(1, 2).nanmedian(1).values
    miss, nearest = (color[:, None] - colors).norm(dim=-1).min(1)

    # 5. Soft coverage: how far each pixel lies between the background and that colour. Pixels off
    # this line count as 0.
    way = (color - grounds[ground[index]])[:, None, None]
    step = pixels - grounds[ground[index]][:, None, None]
    alpha = (step * way).sum(-1) / way.square().sum(-1).clamp(min=1e-6)
    off_way = (step - alpha[..., None] * way).norm(dim=-1)
    alpha = alpha.clamp(0, 1) * (dilate(own) & (near >= 0) & (off_way < 2 * TOLERANCE))

    # 6. Shape, size and position: the template with the best soft IoU.
    known = templates(device)
    overlap, best = best_templates(alpha, known)
    # pixels that the template does not account for
    excess = area - (own & known.around[best]).sum((1, 2))
    place = middle + known.place[best]

    # 7. Texture, if the image is large enough to show it. One pixel of the 64 px image is one
    # period.
    empty = ~dilate(foreground, 2)[:, None]
    textures = [(0, 1.0, 0.0, 0)] * len(best)
    if size > GRID:
        obj, row, column = (known.interior[best] & (near >= 0)).nonzero().unbind(1)
        cells = torch.stack(
            [
                index[obj],
                where[1][obj, row, 0] - WINDOW // 2,
                where[2][obj, 0, column] - WINDOW // 2,
            ],
            1,
        )
        textures = list(
            zip(
                *(
                    part.tolist()
                    for part in read_textures(image, cells, obj, len(best), empty[:, 0])
                )
            )
        )

    # 8. What the scene leaves unexplained. It allows the background's colour, and near an outline
    # every mixture with the object's colour that an outline moved by half a pixel could make. Where
    # an outline cuts through the period of a texture, its light and dark do not cancel: a mixture
    # may be brighter or darker there. Specks are left out.
    speck = foreground & (component_areas(labels) < SPECK)
    base = (small * empty).sum((2, 3)) / empty.sum((2, 3)).clamp(min=1)  # [b, 3], their mean
    way = (color - base[index])[:, None, None]
    alpha = ((pixels - base[index][:, None, None]) * way).sum(-1)
    alpha = alpha / way.square().sum(-1).clamp(min=1e-6)
    cover = torch.minimum(torch.maximum(alpha, known.least[best]), known.most[best])[..., None]
    mixed = base[index][:, None, None] + cover * way
    textured = torch.tensor([strength >= FLAT for _, _, strength, _ in textures], device=device)
    most = OVERDRAWN * CONTRAST * torch.minimum(cover, 1 - cover) * textured[:, None, None, None]
    mixed = mixed + (pixels - mixed).mean(-1, keepdim=True).clamp(-most, most)
    explained = F.pad(base[:, :, None, None].expand_as(small), (WINDOW // 2,) * 4)
    explained = explained.permute(0, 2, 3, 1).contiguous()
    of_object = (known.most[best] > 0) & (own | (near <= 0))  # no pixel of a neighbour
    explained[tuple(part.expand_as(of_object)[of_object] for part in where)] = mixed[of_object]
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    explained = explained[:, inside, inside].permute(0, 3, 1, 2)
    explained = torch.where(dilate(speck)[:, None], small, explained)
    wrong = unexplained_pixels(small, explained) & usable[:, None, None]
    wrong_area, wrong_x, wrong_y = largest_component(wrong)

    # 9. Report objects and problems.
    problems: list[list[str]] = [[] for _ in images]
    objects: list[list[SceneObject]] = [[] for _ in images]
    names = [tuple(BACKGROUNDS)[g] for g in ground.tolist()]
    for i, (bad, part) in enumerate(zip(broken.tolist(), share.tolist())):
        if bad:
            problems[i].append(f"{bad} values of the image are not finite numbers")
        elif part < LEAST_BACKGROUND:
            problems[i].append(
                f"no known background: {names[i]} explains most, but only {part:.0%} of the image"
            )
    found_wrong = zip(wrong_area.tolist(), wrong_x.tolist(), wrong_y.tolist())
    for i, (extent, mean_x, mean_y) in enumerate(found_wrong):
        if extent >= SPECK:
            problems[i].append(
                f"something around ({mean_x:.0f}, {mean_y:.0f}) is neither background nor part of "
                "an object as it should be"
            )
    columns = (index, middle, place, miss, nearest, best, overlap, excess)
    for i, at, (px, py), away, c, template, score, extra, read in zip(
        *(column.tolist() for column in columns), textures
    ):
        obj, color, (shape, length) = (
            f"the object at ({at[0]}, {at[1]})",
            tuple(COLORS)[c],
            known.names[template],
        )
        t, correlation, strength, other_cells = read
        texture = None if size == GRID else TEXTURES[t] if strength >= FLAT else "solid"
        if away > TOLERANCE:
            problems[i].append(
                f"{obj} has no known colour (nearest {color}, at a distance of {away:.2f})"
            )
        elif score < LEAST_OVERLAP:
            problems[i].append(
                f"{obj} is no known shape (best overlap {score:.2f}, with a {length} {shape})"
            )
        elif extra >= SPECK:
            problems[i].append(
                f"{obj} is more than a {length} {shape}: {extra} pixels lie outside of it"
            )
        else:
            if texture == "solid" and strength >= FAINT and correlation >= LEAST_CORRELATION:
                problems[i].append(
                    f"{obj} is neither solid nor {TEXTURES[t]}: it shows that texture at an "
                    f"RMS of {strength:.3f}"
                )
                texture = None
            elif texture not in (None, "solid") and correlation < LEAST_CORRELATION:
                problems[i].append(
                    f"{obj} has no known texture (best: {texture}, correlation {correlation:.2f})"
                )
                texture = None
            elif texture is not None and other_cells >= OTHER_CELLS:
                problems[i].append(f"{obj} has another texture than {texture} in a part of it")
                texture = None
            objects[i].append(
                SceneObject(x=px, y=py, shape=shape, color=color, size=length, texture=texture)
            )
    return [
        ParsedScene(
            scene=None if wrong else Scene(tuple(found), name),
            background=name if good else None,
            objects=tuple(sorted(found, key=lambda o: (o.y, o.x))),
            problems=tuple(wrong),
        )
        for found, wrong, name, good in zip(objects, problems, names, usable.tolist())
    ]
