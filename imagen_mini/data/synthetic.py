"""The built-in world as a data set: scenes without end, each a function of its number."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from imagen_mini.data.base import Alternatives, Batch
from imagen_mini.scenes.captions import Description, training_caption
from imagen_mini.scenes.contradictions import find_contradiction
from imagen_mini.scenes.equivalents import find_equivalent, sides
from imagen_mini.scenes.render import PackedScenes, pack, render_packed
from imagen_mini.scenes.scene import Scene, training_scene


class SceneDataset:
    """The built-in world. `counts`: how often a scene has 1, 2, 3, 4 things."""

    def __init__(self, seed: int = 0, counts: Sequence[float] = (22, 50, 17, 11)):
        self.seed, self.counts = seed, counts

    def draft(
        self, numbers: Sequence[int], size: int, low: int | None = None, alternatives: bool = False
    ) -> SceneBatchPlan:
        scenes = [training_scene(self.seed, i, self.counts) for i in numbers]
        captions = [training_caption(scene, self.seed, i) for scene, i in zip(scenes, numbers)]
        others = (
            self._others(
                numbers, scenes, [c.description for c in captions], textures=low is not None
            )
            if alternatives
            else None
        )
        return SceneBatchPlan(pack(scenes), [c.text for c in captions], others, size, low)

    def _others(
        self,
        numbers: Sequence[int],
        scenes: list[Scene],
        descriptions: list[Description],
        textures: bool,
    ) -> tuple[PackedScenes, Tensor, PackedScenes]:
        """Twins, of textures alone if what stands where is given, the two places of each (NaN:
        there is no twin), and mistakes.
        """
        twins = [
            find_equivalent(scene, said, random.Random(f"twin/{self.seed}/{i}"), textures)
            for i, scene, said in zip(numbers, scenes, descriptions)
        ]
        nowhere = ((math.nan, math.nan),) * 2
        mistakes = (
            scenes
            if textures
            else [
                find_contradiction(scene, said, random.Random(f"mistake/{self.seed}/{i}")) or scene
                for i, scene, said in zip(numbers, scenes, descriptions)
            ]
        )
        return (
            pack([scene if other is None else other.scene for scene, other in zip(scenes, twins)]),
            torch.tensor([nowhere if other is None else other.places for other in twins]),
            pack(mistakes),
        )

    def batch(
        self, numbers: Sequence[int], size: int, low: int | None = None, device=None
    ) -> Batch:
        return self.draft(numbers, size, low).on(device)[0]

    def alternatives(
        self, numbers: Sequence[int], size: int, low: int | None = None, device=None
    ) -> Alternatives:
        """Twins and mistakes of the samples of these numbers; for super-resolution (`low`), twins
        in texture, and no mistakes.
        """
        return self.draft(numbers, size, low, alternatives=True).on(device)[1]

    def describe(self) -> dict:
        return {"source": "scenes"}


class SceneBatchPlan(NamedTuple):
    scenes: PackedScenes
    captions: list[str]
    others: tuple[PackedScenes, Tensor, PackedScenes] | None  # twins, their places, mistakes
    size: int
    low: int | None

    def on(self, device) -> tuple[Batch, Alternatives | None]:
        images, low_res = (
            None if size is None else render_packed(self.scenes, size, device)
            for size in (self.size, self.low)
        )
        batch = Batch(images, low_res, self.captions)
        if self.others is None:
            return batch, None
        twins, places, mistakes = self.others
        return batch, Alternatives(
            render_packed(twins, self.size, device),
            sides(places.to(device), self.size),
            render_packed(mistakes, self.size, device),
        )
