"""Features of images of the built-in world, for distances between sets of images: the last hidden
layer of a small scene classifier.

Inception's features, which FID uses, were trained on photographs of a thousand classes and do not
distinguish our shapes. These were trained to recognise what a scene contains
(`train.scene_classifier`) and are frozen. Distances by them are comparable with one another, for
images of one size, and with nothing else.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imagen_mini.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    GRID,
    MAX_OBJECTS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
)
from imagen_mini.weights import WEIGHTS

WIDTH = 48  # features of an image
CELLS = 4  # positions are binned on a grid of CELLS x CELLS


def scene_labels(scene: Scene) -> Tensor:
    """Return what a scene contains, as zeros and ones.

    The labels are the number of objects; the background; which shapes, colours, sizes, textures and
    pairs of colour and shape occur; and which cells of the image contain an object's centre.

    Returns:
        [NUM_LABELS] of 0 and 1.
    """

    def occur(values, found) -> list[float]:
        return [float(v in found) for v in values]

    objects = scene.objects
    cells = {(o.y * CELLS // GRID, o.x * CELLS // GRID) for o in objects}
    return torch.tensor(
        [
            *occur(range(1, MAX_OBJECTS + 1), {len(objects)}),
            *occur(BACKGROUNDS, {scene.background}),
            *occur(SHAPES, {o.shape for o in objects}),
            *occur(COLORS, {o.color for o in objects}),
            *occur(SIZES, {o.size for o in objects}),
            *occur(TEXTURES, {o.texture for o in objects}),
            *occur([(c, s) for c in COLORS for s in SHAPES], {(o.color, o.shape) for o in objects}),
            *occur([(y, x) for y in range(CELLS) for x in range(CELLS)], cells),
        ]
    )


NUM_LABELS = len(scene_labels(Scene((), "white")))


class SceneClassifier(nn.Module):
    """Images [b, 3, size, size] in [-1, 1] -> logits of `scene_labels` [b, NUM_LABELS].

    The logits are a linear function of `features` [b, WIDTH], which have mean 0 and variance 1 over
    true images.

    Args:
        size: Width of the images, a multiple of 32.

    Raises:
        ValueError: for another size.
    """

    def __init__(self, size: int):
        super().__init__()
        if size % 32:
            raise ValueError(f"size {size}: expected a multiple of 32")
        self.size, self.patch = size, size // 32
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
        self.to_facts = nn.Linear(WIDTH, NUM_LABELS)

    def features(self, images: Tensor) -> Tensor:
        """Return features [b, WIDTH] of images [b, 3, size, size].

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
        x = F.silu(x)
        return self.to_features(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.to_facts(self.features(images))


def weights_of(size: int) -> Path:
    """Return the path of the shipped weights for images of a size."""
    return WEIGHTS / "features" / f"{size}.safetensors"


def save_classifier(net: SceneClassifier, path: Path) -> None:
    """Save a classifier's weights as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}, path)
    path.chmod(0o644)


@cache
def classifier(size: int) -> SceneClassifier:
    """Load the shipped classifier, frozen.

    Args:
        size: Width of the images, 64 or 256.

    Raises:
        FileNotFoundError: if there is none for this size.
    """
    path = weights_of(size)
    if not path.is_file():
        raise FileNotFoundError(
            f"no features for images of {size} px: {path} is missing; train them with python "
            f"-m train.scene_classifier --size {size}"
        )
    net = SceneClassifier(size)
    net.load_state_dict(load_file(path))
    return net.eval().requires_grad_(False)


@torch.no_grad()
def features(images: Tensor, batch: int = 128) -> Tensor:
    """Return the features of images, by the shipped classifier for their size.

    Args:
        images: [n, 3, size, size] in [-1, 1].
        batch: Images per network call (default: 128).

    Returns:
        [n, WIDTH].
    """
    net = classifier(images.shape[-1]).to(images.device)
    return torch.cat([net.features(part.float()) for part in images.split(batch)])
