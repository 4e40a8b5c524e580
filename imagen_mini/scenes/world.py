"""The built-in worlds by name: how scenes are sampled, put in words, rendered and read.

`WORLDS["scenes"]` is flat: plain shapes on plain backgrounds, and an exact parser. `studio` shows
the same scenes as solid objects under a lamp, and a judge reads them. Whoever needs a world takes
one from here and asks no further which it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from imagen_mini.scenes.captions import (
    SCENES_VOCABULARY,
    STUDIO_VOCABULARY,
    Caption,
    Description,
    Vocabulary,
    parse_caption,
    training_caption,
)
from imagen_mini.scenes.matching import sample_scene_matching
from imagen_mini.scenes.parse import GRID, ParsedScene, parse_image
from imagen_mini.scenes.render import masks, pack_scenes, render_packed
from imagen_mini.scenes.scene import Scene, random_scene, training_scene
from imagen_mini.scenes.studio import judge
from imagen_mini.scenes.studio.render import pack_studio_scenes, render_studio_packed
from imagen_mini.scenes.studio.sampling import (
    random_studio_scene,
    studio_training_caption,
    studio_training_scene,
)
from imagen_mini.weights import SECOND_STUDIO_JUDGE


@dataclass(frozen=True, eq=False)
class World:
    """One built-in world.

    Args:
        name: Its name, a key of `WORLDS`.
        vocabulary: The words of its captions.
        random_scene: (rng, **options of `scene.random_scene`) -> a scene.
        training_scene: (seed, index, counts) -> scene `index` of a training set.
        training_caption: (scene, seed, index) -> its caption.
        pack: Scenes -> a few tensors with a method `to(device)`.
        render_packed: (packed scenes, size, device) -> images [b, 3, size, size] in [-1, 1].
        parser: Images -> what they show. None: there is none yet.
        second_parser: The same by a reader of another making, for choosing among images that the
            parser is to judge. None: there is none.
    """

    name: str
    vocabulary: Vocabulary
    random_scene: Callable[..., Scene]
    training_scene: Callable[..., Scene]
    training_caption: Callable[[Scene, int, int], Caption]
    pack: Callable[[Sequence[Scene]], Any]
    render_packed: Callable[[Any, int, Any], Tensor]
    parser: Callable[[Tensor], list[ParsedScene]] | None = None
    second_parser: Callable[[Tensor], list[ParsedScene]] | None = None

    @property
    def has_parser(self) -> bool:
        """True if images of this world can be read."""
        return self.parser is not None

    def can_read(self, size: int) -> bool:
        """True if images of this world can be read at this size."""
        return self.has_parser and size % GRID == 0

    def render(self, scenes: Sequence[Scene] | Scene, size: int = 64, device=None) -> Tensor:
        """Render scenes of this world, as `scenes.render.render` does."""
        scenes = [scenes] if isinstance(scenes, Scene) else scenes
        return self.render_packed(self.pack(scenes), size, device)

    def masks(self, scene: Scene, size: int = 64, device=None) -> Tensor:
        """The mask of each object, bool [n, size, size]; the same in every world."""
        return masks(scene, size, device)

    def parse_caption(self, text: str) -> Description:
        """What a caption of this world states.

        Raises:
            ValueError: for a word that this world does not have.
        """
        return parse_caption(text, self.vocabulary)

    def parse_image(self, images: Tensor) -> list[ParsedScene]:
        """What images [b, 3, size, size] of this world show.

        Raises:
            NotImplementedError: There is no parser for this world yet.
        """
        if self.parser is None:
            raise NotImplementedError(
                f"images of the world {self.name!r} cannot be read yet; expected a world with a "
                f"parser: {', '.join(name for name, w in WORLDS.items() if w.has_parser)}"
            )
        return self.parser(images)

    def scene_matching(self, description: Description, rng: random.Random) -> Scene:
        """A random scene of this world that shows what is described."""
        return sample_scene_matching(description, rng, self.vocabulary)


WORLDS: dict[str, World] = {
    "scenes": World(
        name="scenes",
        vocabulary=SCENES_VOCABULARY,
        random_scene=random_scene,
        training_scene=training_scene,
        training_caption=training_caption,
        pack=pack_scenes,
        render_packed=render_packed,
        parser=parse_image,
    ),
    "studio": World(
        name="studio",
        vocabulary=STUDIO_VOCABULARY,
        random_scene=random_studio_scene,
        training_scene=studio_training_scene,
        training_caption=studio_training_caption,
        pack=pack_studio_scenes,
        render_packed=render_studio_packed,
        parser=judge.read_studio_images,
        second_parser=partial(judge.read_studio_images, folder=SECOND_STUDIO_JUDGE),
    ),
}
SCENES = WORLDS["scenes"]


def find_world(name: str) -> World:
    """Return a world by its name.

    Raises:
        ValueError: for a name that no world has.
    """
    if name not in WORLDS:
        raise ValueError(f"world {name!r}; expected one of {', '.join(WORLDS)}")
    return WORLDS[name]
