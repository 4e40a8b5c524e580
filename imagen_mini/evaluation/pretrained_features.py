"""Pretrained features: Inception's and CLIP's as in papers, with CLIP's score of text and image,
and those of a small EfficientNet. Optional: their weights are not part of this package.

They were trained on photographs and hardly distinguish our shapes; for images of your own they may
be the better choice. Numbers are comparable only with the same features, the same number of images
and the same preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.evaluation.efficientnet_lite import EfficientNetFeatures
from imagen_mini.evaluation.scene_features import features
from imagen_mini.scenes.world import WORLDS

FEATURE_EXTRACTORS = (
    "scenes, studio, inception, efficientnet, either of these with :WEIGHTS (a file), or clip:NAME "
    "(a folder or a hub id)"
)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def make_feature_extractor(which: str) -> Callable[[Tensor], Tensor]:
    """Return a function from images [n, 3, h, w] in [-1, 1] to features [n, d].

    Args:
        which: The name of a built-in world, "efficientnet", "inception", either of them with
            ":WEIGHTS", or "clip:NAME".

    Raises:
        ValueError: for another name.
        ModuleNotFoundError: if the packages for EfficientNet or Inception are not installed.
    """
    kind, _, where = which.partition(":")
    if which in WORLDS:
        return partial(features, world=WORLDS[which])
    if kind == "efficientnet":
        return EfficientNetFeatures(where or None)
    if kind == "inception":
        return Inception(where or None)
    if kind == "clip" and where:
        return Clip(where)
    raise ValueError(f"features {which!r}; expected {FEATURE_EXTRACTORS}")


class Inception:
    """The 2048 pooled features of Inception v3 that FID uses.

    The network is torch-fidelity's, through torchmetrics; it resizes images to 299 x 299.

    Args:
        weights: A file, or None (default) to download them.

    Raises:
        ModuleNotFoundError: without torchmetrics and torch-fidelity.
    """

    def __init__(self, weights: str | None = None):
        try:
            import torch_fidelity  # noqa: F401
            from torchmetrics.image.fid import NoTrainInceptionV3
        except ImportError as error:
            raise ModuleNotFoundError(
                "Inception needs torchmetrics and torch-fidelity: pip install "
                '"imagen_mini[metrics]"'
            ) from error
        self.net = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor, batch: int = 32) -> Tensor:
        bytes_ = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte()
        net = self.net.to(images.device)
        return torch.cat([net(part) for part in bytes_.split(batch)])


class Clip:
    """Features of images and of texts by a CLIP model of transformers, and the CLIP score.

    Args:
        name: A folder or a hub id.

    Reference:
        Radford et al. (2021), arXiv 2103.00020; the score: Hessel et al. (2021), arXiv 2104.08718,
        here 100 max(cos, 0).
    """

    def __init__(self, name: str):
        from transformers import AutoTokenizer, CLIPModel

        self.model, self.tokenizer = (
            CLIPModel.from_pretrained(name).eval().requires_grad_(False),
            AutoTokenizer.from_pretrained(name),
        )

    @torch.no_grad()
    def __call__(self, images: Tensor, batch: int = 32) -> Tensor:
        """Return features [n, d] of images [n, 3, h, w] in [-1, 1]."""
        model, size = self.model.to(images.device), self.model.config.vision_config.image_size
        mean, std = (
            torch.tensor(values, device=images.device)[:, None, None]
            for values in (CLIP_MEAN, CLIP_STD)
        )
        found = []
        for part in images.float().split(batch):
            part = F.interpolate(part, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
            found.append(
                model.visual_projection(
                    model.vision_model(pixel_values=((part + 1) / 2 - mean) / std).pooler_output
                )
            )
        return torch.cat(found)

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Return features [n, d] of n texts."""
        model = self.model
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(model.device)
        return model.text_projection(model.text_model(**tokens).pooler_output)

    def score(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return 100 max(cos, 0) of each image [n, 3, h, w] and its text, [n]."""
        return self.score_of(self(images), texts)

    def score_of(self, found: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the score [n] of images whose features [n, d] are known.

        Raises:
            ValueError: if there is not one text for each image.
        """
        if len(found) != len(texts):
            raise ValueError(f"{len(found)} images and {len(texts)} texts; expected one for each")
        return 100 * F.cosine_similarity(found, self.of_texts(texts).to(found.device)).clamp(min=0)
