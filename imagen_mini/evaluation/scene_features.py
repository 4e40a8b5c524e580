"""Features of images of a built-in world, for distances between sets of images: the last hidden
layer of a small scene classifier.

Inception's features, which FID uses, were trained on photographs of a thousand classes and do not
distinguish our shapes. These were trained to recognise what a scene contains
(`train.scene_classifier`) and are frozen. Distances by them are comparable with one another, for
images of one world and size, and with nothing else.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imagen_mini.scenes.scene import (
    COLORS,
    GRID,
    MAX_OBJECTS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
)
from imagen_mini.scenes.world import SCENES, World
from imagen_mini.weights import WEIGHTS

WIDTH = 48  # features of an image
CELLS = 4  # positions are binned on a grid of CELLS x CELLS


def known_labels(world: World = SCENES) -> dict[str, list]:
    """Return what may occur in a scene of a world, by kind."""
    kinds: dict[str, list] = {
        "count": list(range(1, MAX_OBJECTS + 1)),
        "background": list(world.vocabulary.backgrounds),
        "shapes": list(SHAPES),
        "colors": list(COLORS),
        "sizes": list(SIZES),
        "textures": list(TEXTURES),
        "pairs": [(c, s) for c in COLORS for s in SHAPES],
        "places": [(y, x) for y in range(CELLS) for x in range(CELLS)],
        "materials": list(world.vocabulary.materials),
        "light": list(world.vocabulary.lights),
    }
    return {kind: values for kind, values in kinds.items() if values}


def scene_labels(scene: Scene, world: World = SCENES) -> Tensor:
    """Return what a scene contains, as zeros and ones.

    The labels are the number of objects; the background; which shapes, colours, sizes, textures and
    pairs of colour and shape occur; which cells of the image contain an object's centre; and in a
    world that has them which materials occur, and where the light comes from.

    Returns:
        [n] of 0 and 1, in the order of `known_labels(world)`.
    """
    objects = scene.objects
    found: dict[str, set] = {
        "count": {len(objects)},
        "background": {scene.background},
        "shapes": {o.shape for o in objects},
        "colors": {o.color for o in objects},
        "sizes": {o.size for o in objects},
        "textures": {o.texture for o in objects},
        "pairs": {(o.color, o.shape) for o in objects},
        "places": {(o.y * CELLS // GRID, o.x * CELLS // GRID) for o in objects},
        "materials": {o.material for o in objects},
        "light": {scene.light},
    }
    known = known_labels(world)
    return torch.tensor([float(v in found[kind]) for kind in known for v in known[kind]])


class SceneClassifier(nn.Module):
    """Images [b, 3, size, size] in [-1, 1] -> logits of `scene_labels` [b, n].

    The logits are a linear function of `features` [b, WIDTH], which have mean 0 and variance 1 over
    true images.

    Args:
        size: Width of the images, a multiple of 32.
        world: The world of the images (default: `scenes`).

    Raises:
        ValueError: for another size.
    """

    def __init__(self, size: int, world: World = SCENES):
        super().__init__()
        if size % 32:
            raise ValueError(f"size {size}: expected a multiple of 32")
        self.size, self.world, self.patch = size, world, size // 32
        widths = (48, 64, 96)
        # two more channels hold each pixel's coordinates
        self.stem = nn.Conv2d(3 * self.patch**2 + 2, widths[0], 3, padding=1)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=stride, padding=1)
            for a, b, stride in (
                (widths[0], widths[0], 1),
                (widths[0], widths[1], 2),
                (widths[1], widths[1], 1),
                (widths[1], widths[2], 2),
                (widths[2], widths[2], 1),
            )
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, conv.in_channels) for conv in self.convs)
        self.to_features = nn.Linear(2 * widths[-1], WIDTH)
        self.to_facts = nn.Linear(WIDTH, sum(map(len, known_labels(world).values())))

    def features(self, images: Tensor) -> Tensor:
        """Return features [b, WIDTH] of images [b, 3, size, size].

        Raises:
            ValueError: for images of another size.
        """
        x = self.maps(images)
        return self.to_features(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))

    def maps(self, images: Tensor) -> Tensor:
        """Return the features at each place, [b, 96, 8, 8], of images [b, 3, size, size].

        Raises:
            ValueError: for images of another size.
        """
        if images.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"these features are of images [b, 3, {self.size}, {self.size}]; got "
                f"{list(images.shape)}"
            )
        x = F.pixel_unshuffle(images, self.patch)
        place = torch.linspace(-1, 1, 32, device=x.device, dtype=x.dtype)
        where = torch.stack(torch.meshgrid(place, place, indexing="ij")).expand(len(x), -1, -1, -1)
        x = self.stem(torch.cat([x, where], dim=1))
        for norm, conv in zip(self.norms, self.convs):
            x = conv(F.silu(norm(x)))
        return F.silu(x)

    def forward(self, images: Tensor) -> Tensor:
        return self.to_facts(self.features(images))


def weights_of(size: int, world: World = SCENES) -> Path:
    """Return the path of the shipped weights for images of a size."""
    return WEIGHTS.parent / world.name / "features" / f"{size}.safetensors"


def save_classifier(net: SceneClassifier, path: Path) -> None:
    """Save a classifier's weights as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}, path)
    path.chmod(0o644)


@cache
def classifier(size: int, world: World = SCENES) -> SceneClassifier:
    """Load the shipped classifier, frozen.

    Args:
        size: Width of the images, 64 or 256.
        world: The world of the images (default: `scenes`).

    Raises:
        FileNotFoundError: if there is none for this size.
    """
    path = weights_of(size, world)
    if not path.is_file():
        raise FileNotFoundError(
            f"no features for images of {size} px of the world {world.name}: {path} is missing; "
            f"train them with python -m train.scene_classifier --world {world.name} --size {size}"
        )
    net = SceneClassifier(size, world)
    net.load_state_dict(load_file(path))
    return net.eval().requires_grad_(False)


@torch.no_grad()
def features(images: Tensor, batch: int = 128, world: World = SCENES) -> Tensor:
    """Return the features of images, by the shipped classifier for their size.

    Args:
        images: [n, 3, size, size] in [-1, 1].
        batch: Images per network call (default: 128).
        world: The world of the images (default: `scenes`).

    Returns:
        [n, WIDTH].
    """
    net = classifier(images.shape[-1], world).to(images.device)
    return torch.cat([net.features(part.float()) for part in images.split(batch)])
