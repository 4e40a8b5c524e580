"""What the features of the decoder are about: their principal components over several images.

Features of all places of all images are projected together. Where parts of one kind get one colour,
in every image, the features say what is there; where a colour goes with the place alone, they say
only where.

Reference: Plug-and-Play Diffusion Features (Tumanyan et al., 2022), arXiv 2211.12572, Section 4.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.editing.feature_store import FeatureStore
from imagen_mini.scenes.scene import Scene
from imagen_mini.scenes.world import SCENES, World
from imagen_mini.text.encoder import TextEmbeddings


@torch.no_grad()
def decoder_features(
    stage: DiffusionStage, text: TextEmbeddings, images: Tensor, t: float, noise: Tensor
) -> dict[str, Tensor]:
    """The features of the decoder's residual blocks while images are denoised at one time.

    Args:
        stage: A base stage.
        text: What the network reads: one row for all images, or one for each.
        images: [n, 3, h, w] in [-1, 1].
        t: The time up to which noise is added.
        noise: Standard normal noise like the images.

    Returns:
        By name of the block, from the coarsest grid on, [n, c, size, size].
    """
    store, dtype = FeatureStore(), stage.net.out.weight.dtype
    log_snr = stage.schedule(torch.full((len(images),), t, device=images.device))
    if len(text) == 1:
        text = text[[0] * len(images)]
    x_t = q_sample(images, noise, log_snr)
    stage.net(x_t.to(dtype), log_snr, text.to(dtype), control=store)
    return {name: x.float() for name, x in store.features.items()}


def principal_components(features: Tensor, n: int = 3) -> tuple[Tensor, Tensor]:
    """The projection of the features at every place on the directions of their largest variance.

    Args:
        features: [b, c, h, w], projected together.
        n: How many directions, at most c (default 3).

    Returns:
        Components [b, n, h, w], the first one first, and the share of the variance of each, [n].
        The sign of a component is such that its largest weight is positive.
    """
    b, c, h, w = features.shape
    if not 1 <= n <= c:
        raise ValueError(f"n {n}: expected at least 1 and at most {c}, the channels")
    x = features.permute(0, 2, 3, 1).reshape(-1, c).double()
    x = x - x.mean(0)
    variance, directions = torch.linalg.eigh(x.T @ x / len(x))
    variance, directions = variance.flip(0).clamp(min=0), directions.flip(1)[:, :n]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    components = (x @ (directions * largest.sign())).reshape(b, h, w, n).permute(0, 3, 1, 2)
    return components.to(features.dtype), (variance[:n] / variance.sum().clamp(min=1e-30)).float()


def as_colors(components: Tensor) -> Tensor:
    """Three components as red, green and blue, with one scale for all images.

    Args:
        components: [b, 3, h, w].

    Returns:
        Images [b, 3, h, w] in [-1, 1]: of each component the lowest hundredth of all places is -1,
        the highest is 1.
    """
    low, high = (
        torch.stack([torch.quantile(of.flatten(), q) for of in components.unbind(1)])
        for q in (0.01, 0.99)
    )
    low, high = low[:, None, None], high[:, None, None]
    return (2 * (components - low) / (high - low).clamp(min=1e-12) - 1).clamp(-1, 1)


def kinds_of_places(
    scenes: list[Scene], size: int, attribute: str, world: World = SCENES
) -> Tensor:
    """What is at each place of scenes: 0 for the background, and a number for each value of an
    attribute of objects.

    Args:
        scenes: n scenes.
        size: Places are on a grid of size x size; each is what covers its centre.
        attribute: "shape", "color", "size", "texture" or "material".
        world: The world of the scenes (default: `scenes`).

    Returns:
        int64 [n, size, size].
    """
    found = [getattr(o, attribute) for scene in scenes for o in scene.objects]
    number = {value: i for i, value in enumerate(dict.fromkeys(found), 1)}
    kinds = torch.zeros(len(scenes), 64, 64, dtype=torch.int64)
    for of_scene, scene in zip(kinds, scenes):
        for mask, obj in zip(world.masks(scene, 64), scene.objects):
            of_scene[mask] = number[getattr(obj, attribute)]
    return F.interpolate(kinds[:, None].double(), size=(size, size), mode="nearest-exact")[
        :, 0
    ].long()


def explained_by(components: Tensor, kinds: Tensor) -> float:
    """The share of the components' variance that is due to what is at a place, in [0, 1].

    1: a place's components are a function of its kind. 0: every kind has the same mean.

    Args:
        components: [b, n, h, w].
        kinds: A number for the kind of each place, [b, h, w].
    """
    x = components.permute(0, 2, 3, 1).flatten(0, 2).double()
    x = x - x.mean(0)
    within = sum(
        (x[kinds.flatten() == kind] - x[kinds.flatten() == kind].mean(0)).square().sum()
        for kind in kinds.unique()
    )
    total = x.square().sum()
    return 0.0 if total == 0 else (1 - within / total).item()
