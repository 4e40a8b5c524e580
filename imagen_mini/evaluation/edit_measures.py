"""What an edit of a given image leaves as it was, beside the verdict of the judge: the structure,
everything outside of the place of the edit, and the seam around it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.evaluation.edit_benchmark import EditTask
from imagen_mini.evaluation.scene_features import classifier, weights_of
from imagen_mini.scenes.scene import Scene
from imagen_mini.scenes.world import SCENES, World
from imagen_mini.utils.morphology import dilate

MARGIN = 3  # of a mask around an object, in 1/64 of the width


def place_of_edit(
    task: EditTask, scene: Scene | None, world: World = SCENES, size: int = 64
) -> Tensor | None:
    """Where an edit may change an image: the mask that a user would paint.

    This is the edited object and a margin of 3/64 of the width. For an edit of the background it is
    everything but the objects.

    Args:
        task: The edit.
        scene: The scene of the image. None: it is not known.
        world: The world of the scene (default: `scenes`).
        size: The width of the image (default 64).

    Returns:
        bool [size, size]; None if the scene is not known, or does not show the source's caption.
    """
    objects = None if scene is None else task.source.description.assign(scene)
    if scene is None or objects is None:
        return None
    of_objects = world.masks(scene, size)
    if task.obj is None:
        return ~of_objects.any(0)
    number = scene.objects.index(objects[task.obj])
    return dilate(of_objects[number][None], MARGIN * size // 64)[0]


def changed_outside(source: Tensor, edited: Tensor, place: Tensor) -> float:
    """The share of pixels outside of the place of an edit that an edit changed, in [0, 1].

    Images are compared as they would be saved, in 256 levels.

    Args:
        source: [3, h, w] in [-1, 1].
        edited: The same after the edit.
        place: Where it may change, bool [h, w].
    """
    before, after = (((x + 1) * 127.5).round() for x in (source, edited))
    outside = (before != after).any(0)[~place]
    return 0.0 if outside.numel() == 0 else outside.float().mean().item()


def seam(source: Tensor, edited: Tensor, place: Tensor) -> float | None:
    """How much more than before the colours jump across the rim of the place of an edit.

    It is the mean absolute difference between pixels on both sides of the rim, after the edit less
    before it. 0: there is no seam. 2: black has become the neighbour of white. Below 0: an outline
    that was on the rim is gone.

    Args:
        source: [3, h, w] in [-1, 1].
        edited: The same after the edit.
        place: Where it may change, bool [h, w].

    Returns:
        The score. None if there is no rim.
    """
    jumps, rims = [], []
    for axis in (0, 1):
        n = place.shape[axis]
        rims.append(place.narrow(axis, 1, n - 1) != place.narrow(axis, 0, n - 1))
        jumps.append(edited.diff(dim=1 + axis).abs() - source.diff(dim=1 + axis).abs())
    across = torch.cat([jump.mean(0)[rim] for jump, rim in zip(jumps, rims)])
    return None if across.numel() == 0 else across.mean().item()


def self_similarity(features: Tensor) -> Tensor:
    """The cosine similarity of the features at every two places, [b, h w, h w].

    Args:
        features: [b, c, h, w].
    """
    unit = F.normalize(features.flatten(2), dim=1)
    return unit.transpose(1, 2) @ unit


def self_similarity_distance(features: Tensor, others: Tensor) -> Tensor:
    """How much the structure of two images differs, whatever they look like, [b].

        || S(features) - S(others) ||_F / h w,   S: self-similarity

    What belongs together in one image belongs together in the other at 0. Red objects may have
    become green ones; moved they may not have.

    Args:
        features: Features [b, c, h, w] of images.
        others: The same of the other images.

    Reference: Splicing ViT Features for Semantic Appearance Transfer (Tumanyan et al., 2022), arXiv
        2201.00424. Differs from the paper: the features are those of a small classifier of scenes,
        not the keys of a vision transformer.
    """
    difference = self_similarity(features) - self_similarity(others)
    return difference.square().mean((1, 2)).sqrt()


def structure_distance(source: Tensor, edited: Tensor, world: World = SCENES) -> float | None:
    """The self-similarity distance of two images [3, h, w] in [-1, 1], by the features of the
    world's classifier. None where there is no classifier for this world and size.
    """
    size = source.shape[-1]
    if not weights_of(size, world).is_file():
        return None
    with torch.no_grad():
        maps = classifier(size, world).maps(torch.stack([source, edited]).float().cpu())
    return self_similarity_distance(maps[:1], maps[1:]).item()
