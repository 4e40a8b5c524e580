"""A built-in world as a data set: scenes without end, each a function of its index."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from imagen_mini.data.alternatives import AlternativeMixing, Alternatives
from imagen_mini.data.base import Batch
from imagen_mini.scenes.captions import Description
from imagen_mini.scenes.contradictions import find_contradiction
from imagen_mini.scenes.equivalents import find_equivalent, sides
from imagen_mini.scenes.scene import Scene
from imagen_mini.scenes.world import WORLDS, find_world

OBJECT_COUNT_WEIGHTS = (22, 50, 17, 11)  # how often a scene has 1, 2, 3, 4 objects


class SceneDataset:
    """A built-in world.

    Args:
        seed: Of the scenes and captions.
        object_count_weights: How often a scene has 1, 2, 3, 4 objects.
        world: Name of the world, a key of `scenes.world.WORLDS` (default: "scenes").

    Raises:
        ValueError: There is no such world.
    """

    def __init__(
        self,
        seed: int = 0,
        object_count_weights: Sequence[float] = OBJECT_COUNT_WEIGHTS,
        world: str = "scenes",
    ):
        self.seed, self.object_count_weights = seed, object_count_weights
        self.world = find_world(world)

    @property
    def has_parser(self) -> bool:
        """True if the images can be read, so that samples get a score."""
        return self.world.has_parser

    def plan(
        self,
        indices: Sequence[int],
        size: int,
        low_res_size: int | None = None,
        alternatives: bool = False,
        contradicted: Sequence[bool] | None = None,
    ) -> SceneBatchPlan:
        """Decide on scenes and captions, and render nothing yet.

        Args:
            indices: Indices of b samples.
            size, low_res_size: Pixels of a side.
            alternatives: Plan equivalents and contradictions, too.
            contradicted: Which of the b samples need a contradiction (default: all). The others
                get none, which saves the time to render it.
        """
        world, weights = self.world, self.object_count_weights
        scenes = [world.training_scene(self.seed, i, weights) for i in indices]
        captions = [
            world.training_caption(scene, self.seed, i) for scene, i in zip(scenes, indices)
        ]
        others = None
        if alternatives:
            descriptions = [c.description for c in captions]
            if low_res_size is not None:
                contradicted = [False] * len(scenes)
            others = self._others(
                indices, scenes, descriptions, contradicted, textures=low_res_size is not None
            )
        texts = [c.text for c in captions]
        return SceneBatchPlan(world.pack(scenes), texts, others, size, low_res_size, world.name)

    def _others(
        self,
        indices: Sequence[int],
        scenes: list[Scene],
        descriptions: list[Description],
        contradicted: Sequence[bool] | None,
        textures: bool,
    ) -> PlannedAlternatives:
        """Equivalents and contradictions. With `textures` the layout is given: equivalents differ
        in texture alone.
        """
        # The words "twin" and "mistake" are part of the random seeds.
        equivalents = [
            find_equivalent(scene, said, random.Random(f"twin/{self.seed}/{i}"), textures)
            for i, scene, said in zip(indices, scenes, descriptions)
        ]
        contradictions = [
            find_contradiction(scene, said, random.Random(f"mistake/{self.seed}/{i}"))
            if contradicted is None or contradicted[row]
            else None
            for row, (i, scene, said) in enumerate(zip(indices, scenes, descriptions))
        ]
        nowhere = ((math.nan, math.nan),) * 2
        return PlannedAlternatives(
            self._others_than([None if other is None else other.scene for other in equivalents]),
            torch.tensor([nowhere if other is None else other.places for other in equivalents]),
            self._others_than(contradictions),
        )

    def _others_than(self, scenes: Sequence[Scene | None]) -> tuple[list[int], Any]:
        """The rows that are not None, and their scenes, packed."""
        rows = [row for row, scene in enumerate(scenes) if scene is not None]
        return rows, self.world.pack([scene for scene in scenes if scene is not None])

    def batch(
        self, indices: Sequence[int], size: int, low_res_size: int | None = None, device=None
    ) -> Batch:
        """The samples with these indices (see `base.Dataset`)."""
        return self.plan(indices, size, low_res_size).materialize(device)[0]

    def alternatives(
        self, indices: Sequence[int], size: int, low_res_size: int | None = None, device=None
    ) -> Alternatives:
        """Equivalents and contradictions of the samples with these indices. With `low_res_size`,
        for super-resolution: equivalents in texture, and no contradictions.
        """
        return self.plan(indices, size, low_res_size, alternatives=True).materialize(device)[1]

    def loss_extras(self, settings, super_resolution: bool) -> AlternativeMixing | None:
        """Training on mixtures of images, where the settings ask for it.

        Args:
            settings: With `equivalent_prob` and `contradiction_prob`, like a `TrainConfig`.
            super_resolution: Whether it is for a super-resolution stage.

        Raises:
            ValueError: Contradictions are asked for in super-resolution.
        """
        if settings.contradiction_prob and super_resolution:
            raise ValueError(
                f"contradiction_prob={settings.contradiction_prob}: only a base stage decides what "
                "stands where; expected 0 for super-resolution"
            )
        if not (settings.equivalent_prob or settings.contradiction_prob):
            return None
        return AlternativeMixing(settings.equivalent_prob, settings.contradiction_prob)

    def describe(self) -> dict:
        """{"source": name of the world}; the seed is part of the training configuration."""
        return {"source": self.world.name}


class PlannedAlternatives(NamedTuple):
    """Alternatives of b samples that are still to be rendered, for the rows that have one."""

    equivalents: tuple[list[int], Any]  # rows, and their scenes, packed
    places: Tensor  # [b, 2, 2]: the two (x, y) where an equivalent differs; NaN: there is none
    contradictions: tuple[list[int], Any]  # rows, and their scenes, packed


class SceneBatchPlan(NamedTuple):
    """Scenes that are still to be rendered."""

    scenes: Any  # packed
    captions: list[str]
    others: PlannedAlternatives | None
    size: int
    low_res_size: int | None
    world: str = "scenes"

    def materialize(self, device) -> tuple[Batch, Alternatives | None]:
        """Render the scenes on `device`."""
        render_packed = WORLDS[self.world].render_packed
        images, low_res = (
            None if size is None else render_packed(self.scenes, size, device)
            for size in (self.size, self.low_res_size)
        )
        batch = Batch(images, low_res, self.captions)
        if self.others is None:
            return batch, None

        def replaced(rows: list[int], scenes) -> Tensor:
            """The images, with other scenes in some rows."""
            if not rows:
                return images
            others = images.clone()
            others[rows] = render_packed(scenes, self.size, device)
            return others

        equivalents, places, contradictions = self.others
        return batch, Alternatives(
            replaced(*equivalents), sides(places.to(device), self.size), replaced(*contradictions)
        )
