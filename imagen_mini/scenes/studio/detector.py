"""A second judge of the world `studio`, of another form than the first: a plain network that tells
for each cell of a grid which object has its centre there, and of the whole image whether something
is wrong with it. It knows no outlines and compares nothing with templates.

Where both judges read the same scene, neither the form of a network nor its seed decided it. The
package never uses this one by default, and its weights are not shipped.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from imagen_mini.scenes.parse import ParsedScene, check_images
from imagen_mini.scenes.scene import (
    COLORS,
    GRID,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    SURFACES,
    TEXTURES,
    Scene,
    SceneObject,
)
from imagen_mini.scenes.studio.reader import Block

CELLS = 16  # of a side
CELL = GRID // CELLS  # positions across a cell
WIDTH = 80
# What is told of each cell, and among how many. The place is one of the cell's positions.
CELL_TOLD = {
    "empty": 2,
    "place": CELL**2,
    "shape": len(SHAPES),
    "size": len(SIZES),
    "color": len(COLORS),
    "material": len(MATERIALS),
    "texture": len(TEXTURES),
}
IMAGE_TOLD = {"surface": len(SURFACES), "light": len(LIGHTS), "wrong": 2}
NAMES = {
    "shape": tuple(SHAPES),
    "size": tuple(SIZES),
    "color": tuple(COLORS),
    "material": MATERIALS,
    "texture": TEXTURES,
}
LEAST_SHARE = 0.6  # least probability of an answer


class Detected(NamedTuple):
    """Logits by name: of cells [b, k, CELLS, CELLS], and of images [b, k]."""

    cells: dict[str, Tensor]
    image: dict[str, Tensor]


class Detector(nn.Module):
    """Images [b, 3, size, size] in [-1, 1] -> `Detected`.

    Args:
        size: Width of the images, 64 or 256.
    """

    def __init__(self, size: int):
        super().__init__()
        fine = 2 if size == GRID else 4
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, fine, fine),
            nn.SiLU(),
            nn.Conv2d(32, 48, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, WIDTH, size // CELLS // fine, size // CELLS // fine),
        )
        self.blocks = nn.Sequential(*(Block(WIDTH) for _ in range(5)))
        self.tell_cells = nn.Conv2d(WIDTH, sum(CELL_TOLD.values()), 1)
        self.tell_image = nn.Linear(2 * WIDTH, sum(IMAGE_TOLD.values()))

    def forward(self, images: Tensor) -> Detected:
        x = F.silu(self.blocks(self.stem(images)))
        of_image = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        cells = self.tell_cells(x).float().split(list(CELL_TOLD.values()), 1)
        image = self.tell_image(of_image).float().split(list(IMAGE_TOLD.values()), 1)
        return Detected(dict(zip(CELL_TOLD, cells)), dict(zip(IMAGE_TOLD, image)))


def cell_targets(scenes: list[Scene]) -> dict[str, Tensor]:
    """The correct answer of each cell, long [b, CELLS, CELLS]; -1 where nothing is asked."""
    targets = {name: torch.full((len(scenes), CELLS, CELLS), -1) for name in CELL_TOLD}
    targets["empty"][:] = 1
    for i, scene in enumerate(scenes):
        for o in scene.objects:
            at = (i, o.y // CELL, o.x // CELL)
            targets["empty"][at] = 0
            targets["place"][at] = o.y % CELL * CELL + o.x % CELL
            for name, names in NAMES.items():
                targets[name][at] = names.index(getattr(o, name))
    return targets


@lru_cache(maxsize=8)
def load_detector(folder: Path, size: int, device: torch.device) -> Detector:
    """Load the network for images of a size, once per device.

    Raises:
        FileNotFoundError: There are no weights for this size.
    """
    path = folder / f"{size}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"no second judge for images of {size} px: {path} is missing; train it with python -m "
            f"train.studio_judge --form second --seed 1 --out {folder}"
        )
    net = Detector(size)
    net.load_state_dict(load_file(path))
    return net.eval().requires_grad_(False).to(device)


@torch.no_grad()
def detect_scenes(images: Tensor, folder: Path) -> list[ParsedScene]:
    """Read scenes from images with the second judge.

    Args:
        images: [b, 3, size, size] in [-1, 1], with a size of 64 or 256.
        folder: Where its weights are.

    Returns:
        One `ParsedScene` for each image, as from `judge.read_studio_images`.

    Raises:
        ValueError: for a tensor of another shape or of integers.
        FileNotFoundError: There are no weights for this size.
    """
    check_images(images)
    size = images.shape[-1]
    net = load_detector(folder, size, images.device)
    found: list[ParsedScene] = []
    for part in images.split(64):
        if len(part):
            pixels = part.float().nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)
            found += name_scenes(net(pixels), textures=size > GRID)
    return found


def name_scenes(told: Detected, textures: bool) -> list[ParsedScene]:
    """Name what was told, and report answers that are not sure as problems."""
    of_image = {
        name: [x.tolist() for x in logits.softmax(1).max(1)] for name, logits in told.image.items()
    }
    share = {name: logits.softmax(1).max(1) for name, logits in told.cells.items()}
    parsed = []
    for i in range(len(share["empty"].values)):
        problems, objects = [], []
        for name in IMAGE_TOLD:
            if of_image[name][0][i] < LEAST_SHARE:
                problems.append(f"unclear: {name}")
        if of_image["wrong"][1][i] == 1:
            problems.append("something is wrong in this image")
        for row, column in (share["empty"].indices[i] == 0).nonzero().tolist():
            read = {}
            for name in ("empty", "place", *NAMES):
                if name == "texture" and not textures:
                    continue
                if share[name].values[i, row, column] < LEAST_SHARE:
                    problems.append(f"the object at ({column * CELL}, {row * CELL}): {name}")
                read[name] = int(share[name].indices[i, row, column])
            place = divmod(read.pop("place"), CELL)
            names: dict[str, Any] = {n: NAMES[n][k] for n, k in read.items() if n != "empty"}
            names.setdefault("texture", None)
            objects.append(SceneObject(row * CELL + place[0], column * CELL + place[1], **names))
        background, light = (
            names[of_image[name][1][i]]
            for name, names in (("surface", tuple(SURFACES)), ("light", LIGHTS))
        )
        scene = None if problems else Scene(tuple(objects), background, light)
        parsed.append(ParsedScene(scene, background, tuple(sorted(objects)), tuple(problems)))
    return parsed
