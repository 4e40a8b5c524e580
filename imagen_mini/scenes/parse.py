"""Picture -> scene, by analysis through synthesis: each thing in the picture is compared with our own drawings of it.

Background, colours, shapes, sizes and places are read at 64 px, where textures vanish. A texture is read afterwards from
the full picture, in the interior of its object. What fits nothing is reported as a problem, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .render import coverage, texture_pattern
from .scene import BACKGROUNDS, COLORS, GRID, SHAPES, SIZES, TEXTURES, Object, Scene

# Colours are in [0, 1] here, and their differences are Euclidean.
TOLERANCE = 0.14               # half of the least distance in the palette (red to orange, 0.28)
LEAST_BACKGROUND = 0.25        # least share of the picture that its background explains
SPECK = 8                      # pixels; anything smaller is dirt. The smallest object covers 100.
LEAST_OVERLAP = 0.70           # least soft IoU with a drawing
FLAT = 0.03                    # RMS of a texture, below which it is solid; the weakest, dotted, has 0.127
LEAST_CORRELATION = 0.75       # between the texture seen and a known one; two known ones reach 0.58 at most
WINDOW = 36                    # holds the largest object, moved by SHIFT to any side
SHIFT = 2                      # how far a thing's centre may lie from where its bounding box puts it


@dataclass(frozen=True)
class Reading:
    """What was read from one picture. `scene` is None if and only if there are `problems`.

    `objects` are those that could be read, in reading order; the texture of one may be None if just that was unclear.
    """

    scene: Scene | None
    background: str | None
    objects: tuple[Object, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Drawings:
    """Every shape in every size, at every shift within a window whose middle is the middle of its bounding box."""

    names: list[tuple[str, str]]   # n of (shape, size)
    place: Tensor                  # [n, 2] long: the object's (x, y), seen from the middle of the window
    cover: Tensor                  # [n, WINDOW, WINDOW] in [0, 1]
    around: Tensor                 # the same, bool: the shape and a margin of a pixel
    interior: Tensor               # the same, bool: wholly covered, and so are the neighbours


@lru_cache(maxsize=8)
def drawings(device: torch.device) -> Drawings:
    """Drawn once per device, by the renderer's own coverage."""
    kinds = [(shape, size) for shape in SHAPES for size in SIZES]
    middle = GRID // 2
    numbers = torch.tensor([(middle, middle, SIZES[size], tuple(SHAPES).index(shape), 0) for shape, size in kinds])
    cover, rows, columns = coverage(numbers.float(), GRID)
    names, place, windows = [], [], []
    for kind, picture, row, column in zip(kinds, cover, rows, columns):
        canvas = torch.zeros(GRID, GRID)
        canvas[row[:, None], column[None, :]] = picture
        y, x = ((p.min() + p.max() + 1) // 2 for p in (canvas > 0.5).nonzero().unbind(1))
        for dy in range(-SHIFT, SHIFT + 1):
            for dx in range(-SHIFT, SHIFT + 1):
                top, left = y - dy - WINDOW // 2, x - dx - WINDOW // 2
                windows.append(canvas[top:top + WINDOW, left:left + WINDOW])
                place.append((middle - x + dx, middle - y + dy))
                names.append(kind)
    cover = torch.stack(windows).to(device)
    return Drawings(names, torch.tensor(place, device=device), cover, dilate(cover > 0), erode(cover > 0.99))


def dilate(mask: Tensor) -> Tensor:
    """[b, h, w] bool: grown by one pixel, to all eight neighbours."""
    return F.max_pool2d(mask[:, None].float(), 3, 1, 1)[:, 0] > 0


def erode(mask: Tensor) -> Tensor:
    """[b, h, w] bool: shrunk by one pixel, from all eight neighbours."""
    return ~dilate(~mask)


def components(mask: Tensor) -> Tensor:
    """[b, h, w] bool -> long: 0 outside the mask, and one number for each 8-connected component of a picture.

    A pixel's label is the number of some pixel of its component. Each round takes the largest label around, and then that
    pixel's own label: the labels jump ever further, so a few rounds do for any component.
    """
    b, h, w = mask.shape
    labels = torch.arange(1, h * w + 1, device=mask.device).view(1, h, w) * mask
    while True:
        grown = F.max_pool2d(labels[:, None].float(), 3, 1, 1)[:, 0].long() * mask         # exact below 2^24
        flat = grown.flatten(1)
        jumped = F.pad(flat, (1, 0)).gather(1, flat).view(b, h, w)
        if torch.equal(jumped, labels):
            return labels
        labels = jumped


def read_textures(picture: Tensor, cells: Tensor, thing: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The texture of each of `n` things: the mean period over its interior, against the known ones at every phase.

    `picture` [b, 3, size, size] in [0, 1]; `cells` [m, 3] (picture, row, column) of the interior, in cells of one period;
    `thing` [m] says whose cell it is. Returns the number of the best texture other than solid [n], its correlation [n],
    and the RMS of what was seen [n].
    """
    f = picture.shape[-1] // GRID
    periods = picture.mean(1).unflatten(2, (GRID, f)).unflatten(1, (GRID, f)).transpose(2, 3)   # [b, GRID, GRID, f, f]
    total = picture.new_zeros(n, f * f).index_add_(0, thing, periods[tuple(cells.T)].flatten(1))
    seen = total / thing.bincount(minlength=n).clamp(min=1)[:, None]
    seen = seen - seen.mean(1, keepdim=True)
    known = torch.stack([texture_pattern(t, GRID * f, picture.device)[:f, :f] for t in TEXTURES[1:]])
    phases = [known.roll((dy, dx), (1, 2)).flatten(1) for dy in range(f) for dx in range(f)]
    match = F.normalize(seen, dim=1) @ F.normalize(torch.stack(phases), dim=2).flatten(0, 1).T
    correlation, best = match.view(n, f * f, len(known)).amax(1).max(1)
    return best + 1, correlation, seen.square().mean(1).sqrt()


@torch.no_grad()
def parse(images: Tensor) -> list[Reading]:
    """Read pictures back into scenes: `parse(render(scene, 256))[0].scene == scene`; at 64 px without the textures.

    Takes [b, 3, size, size] in [-1, 1], size a multiple of 64. Raises ValueError for anything of another form; a picture
    that shows no scene raises nothing: its reading has no scene, but problems.
    """
    form = tuple(images.shape)
    if len(form) != 4 or form[1] != 3 or form[2] != form[3] or form[2] == 0 or form[2] % GRID:
        raise ValueError(f"parse got a tensor of shape {form}, expected [b, 3, size, size] with size a multiple of {GRID}; "
                         "add a batch dimension with images[None], or resize the pictures to 64 or 256")
    if not images.is_floating_point():
        raise ValueError(f"parse got {images.dtype} pixels, expected floats in [-1, 1]; use images / 127.5 - 1")
    return [reading for chunk in images.split(64) for reading in _parse(chunk)]            # bounds the memory


def _parse(images: Tensor) -> list[Reading]:
    device, size = images.device, images.shape[-1]
    broken = (~images.isfinite()).flatten(1).sum(1)
    picture = ((images.float().nan_to_num(0.0, 0.0, 0.0) + 1) / 2).clamp(0, 1)
    small = F.avg_pool2d(picture, size // GRID)

    # 1. The background is the palette colour that explains most pixels.
    grounds, colors = (torch.tensor(list(p.values()), device=device) for p in (BACKGROUNDS, COLORS))
    pixels = small.flatten(2).transpose(1, 2)
    to_ground = torch.cdist(pixels, grounds.expand(len(pixels), -1, -1), compute_mode="donot_use_mm_for_euclid_dist")
    to_color = torch.cdist(pixels, colors.expand(len(pixels), -1, -1), compute_mode="donot_use_mm_for_euclid_dist")
    share, ground = (to_ground < TOLERANCE).float().mean(1).max(1)
    usable = (broken == 0) & (share >= LEAST_BACKGROUND)

    # 2. The foreground: nearer to some colour than to the background, or far from both. Between two things, or at a soft
    #    edge, a pixel counts only when it differs at least half as much as its surroundings do.
    differs = to_ground.gather(2, ground[:, None, None].expand(-1, GRID * GRID, 1))[:, :, 0]
    foreground = ((to_color.amin(2) < differs) | (differs > 2 * TOLERANCE)).view(-1, GRID, GRID)
    differs = differs.view(-1, GRID, GRID)
    foreground &= (differs > 0.5 * F.max_pool2d(differs, 3, 1, 1)) & usable[:, None, None]
    labels = components(foreground)

    # 3. A table of things, and a window [n, WINDOW, WINDOW] around each, -1 outside the picture.
    which, row, column = foreground.nonzero().unbind(1)
    keys, member, area = torch.unique(which * (GRID * GRID + 1) + labels[foreground], return_inverse=True,
                                      return_counts=True)
    low_high = [torch.zeros_like(keys).scatter_reduce_(0, member, p, how, include_self=False)
                for p in (column, row) for how in ("amin", "amax")]
    kept = area >= SPECK
    left, right, top, bottom = (p[kept] for p in low_high)
    keys, area = keys[kept], area[kept]
    index, label = keys // (GRID * GRID + 1), keys % (GRID * GRID + 1)
    middle = torch.stack([(left + right + 1) // 2, (top + bottom + 1) // 2], 1)             # x, y
    x, y = (middle[:, :, None] + torch.arange(WINDOW, device=device)).unbind(1)             # in the padded picture
    where = (index[:, None, None], y[:, :, None], x[:, None, :])
    around = F.pad(labels, (WINDOW // 2,) * 4, value=-1)[where]
    pixels = F.pad(small, (WINDOW // 2,) * 4).permute(0, 2, 3, 1)[where]                     # [n, WINDOW, WINDOW, 3]
    own = around == label[:, None, None]

    # 4. Colour: the median of the interior. Soft coverage: how far each pixel is on the way from background to colour.
    inner = erode(own)
    inner = torch.where(inner.flatten(1).any(1)[:, None, None], inner, own)
    color = pixels.masked_fill(~inner[..., None], float("nan")).flatten(1, 2).nanmedian(1).values      # [n, 3]
    miss, nearest = torch.cdist(color, colors).min(1)
    base = grounds[ground[index]]
    way = color - base
    alpha = ((pixels - base[:, None, None]) * way[:, None, None]).sum(-1) / way.square().sum(1).clamp(min=1e-6)[:, None, None]
    off_way = (pixels - base[:, None, None] - alpha[..., None] * way[:, None, None]).norm(dim=-1)
    visible = dilate(own) & (own | (around == 0)) & (off_way < 2 * TOLERANCE)
    alpha = alpha.clamp(0, 1) * visible

    # 5. Shape, size and place: the drawing with the best soft IoU, sum(a d) / (sum(a^2) + sum(d^2) - sum(a d)).
    known = drawings(device)
    both = alpha.flatten(1) @ known.cover.flatten(1).T
    union = alpha.square().sum((1, 2))[:, None] + known.cover.square().sum((1, 2)) - both
    overlap, best = (both / union).max(1)
    excess = area - (own & known.around[best]).sum((1, 2))            # pixels that the drawing does not account for
    place = middle + known.place[best]

    # 6. Texture, where the picture is large enough to show it. One cell of the 64 px grid is one period.
    if size > GRID:
        thing, row, column = (known.interior[best] & (around >= 0)).nonzero().unbind(1)
        cells = torch.stack([index[thing], y[thing, row] - WINDOW // 2, x[thing, column] - WINDOW // 2], 1)
        texture, correlation, strength = (p.tolist() for p in read_textures(picture, cells, thing, len(keys)))

    problems: list[list[str]] = [[] for _ in images]
    objects: list[list[Object]] = [[] for _ in images]
    names = tuple(BACKGROUNDS)
    for i, (bad, part, g) in enumerate(zip(broken.tolist(), share.tolist(), ground.tolist())):
        if bad:
            problems[i].append(f"{bad} values of the picture are not finite numbers")
        elif part < LEAST_BACKGROUND:
            problems[i].append(f"no known background: {names[g]} explains most, but only {part:.0%} of the picture")
    table = zip(index.tolist(), middle.tolist(), place.tolist(), miss.tolist(), nearest.tolist(), best.tolist(),
                overlap.tolist(), excess.tolist())
    for k, (i, at, (px, py), away, c, drawing, score, extra) in enumerate(table):
        thing, (shape, size_name), kind = f"the thing at ({at[0]}, {at[1]})", known.names[drawing], None
        if away > TOLERANCE:
            problems[i].append(f"{thing} has no known colour (nearest {tuple(COLORS)[c]}, at a distance of {away:.2f})")
        elif score < LEAST_OVERLAP:
            problems[i].append(f"{thing} is no known shape (best overlap {score:.2f}, with a {size_name} {shape})")
        elif extra >= 2 * SPECK:
            problems[i].append(f"{thing} is more than a {size_name} {shape}: {extra} pixels lie outside of it")
        else:
            if size > GRID:
                kind = TEXTURES[0] if strength[k] < FLAT else TEXTURES[texture[k]]
                if kind != TEXTURES[0] and correlation[k] < LEAST_CORRELATION:
                    problems[i].append(f"{thing} has no known texture (best correlation {correlation[k]:.2f}, with {kind})")
                    kind = None
            objects[i].append(Object(x=px, y=py, shape=shape, color=tuple(COLORS)[c], size=size_name, texture=kind))
    readings = []
    for found, wrong, g, good in zip(objects, problems, ground.tolist(), usable.tolist()):
        scene = None if wrong else Scene(tuple(found), names[g])
        readings.append(Reading(scene, names[g] if good else None, tuple(sorted(found, key=lambda o: (o.y, o.x))), tuple(wrong)))
    return readings
