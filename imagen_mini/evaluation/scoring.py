"""Scores by the exact parser: does the image show what its caption says?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.scenes.captions import Caption, Description
from imagen_mini.scenes.matching import sample_scene_matching as sample_scene_matching
from imagen_mini.scenes.parse import GRID, ParsedScene
from imagen_mini.scenes.scene import Scene
from imagen_mini.scenes.world import SCENES, World


@dataclass(frozen=True)
class Result:
    """One generated image of a benchmark prompt, and what was read from it."""

    category: str
    seed: int
    caption: Caption
    image: Tensor  # [3, h, w] in [-1, 1]
    parsed: ParsedScene
    attempts: int = 1  # how many images were sampled until this one was chosen

    @property
    def correct(self) -> bool:
        """True if the image shows what the caption states."""
        return self.caption.description.fits(self.parsed.scene)

    @property
    def nearest_correct(self) -> bool:
        """True if the scene that the image comes nearest to is what the caption states: what is
        unclear, such as a material whose shading is off, counts as the likeliest value.
        """
        return self.caption.description.fits(self.parsed.nearest)

    @property
    def flawless(self) -> bool:
        """True if the image is correct and looks throughout as the renderer would have it."""
        return self.correct and not self.parsed.flaws


def verdict_text(description: Description, parsed: ParsedScene) -> str:
    """Return "correct", or what was read instead, in words; and what looks odd.

    Args:
        description: What the caption states.
        parsed: What was read from the image.
    """
    if parsed.scene is None:
        return "unreadable: " + "; ".join(parsed.problems)
    verdict = (
        "correct"
        if description.fits(parsed.scene)
        else "incorrect: shows " + describe_scene(parsed.scene)
    )
    return verdict + "".join(f"; {flaw}" for flaw in parsed.flaws)


def judge_image(prompt: str, image: Tensor, world: World = SCENES) -> str:
    """Return the parser's verdict on an image, in words.

    Args:
        prompt: The caption.
        image: [3, h, w] in [-1, 1].
        world: The world whose captions and images these are (default: `scenes`).

    Returns:
        A verdict, or "not judged: ..." if the prompt is not of the world's grammar, or images of
        this world or size cannot be read.
    """
    if not world.has_parser:
        return f"not judged: images of the world {world.name} cannot be read"
    if not world.can_read(size := image.shape[-1]):
        return f"not judged: images of {size} px cannot be read, only those of multiples of {GRID}"
    try:
        description = world.parse_caption(prompt)
    except ValueError as error:
        return f"not judged: {error}"
    return verdict_text(description, world.parse_image(image[None].float().cpu())[0])


def describe_scene(scene: Scene) -> str:
    """Describe a scene briefly: how each object looks, and where it is."""
    objects = ", ".join(
        " ".join(filter(None, (o.size, o.material, o.texture, o.color, o.shape)))
        + f" at ({o.x}, {o.y})"
        for o in scene.objects
    )
    return (objects or "nothing") + f" on {scene.background}"


def evaluate(
    generate: Callable[[list[str], list[int]], Tensor],
    prompts: list[tuple[str, int, Caption]],
    batch: int = 16,
    world: World = SCENES,
) -> Iterator[Result]:
    """Generate an image for every prompt, and judge it.

    Args:
        generate: (captions, seeds) -> images [b, 3, h, w] in [-1, 1].
        prompts: (category, seed, caption), as from `benchmark`.
        batch: Prompts per call of `generate` (default: 16).
        world: The world whose captions and images these are (default: `scenes`).

    Yields:
        One `Result` for each prompt, in order.
    """
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        images = generate([c.text for _, _, c in part], [seed for _, seed, _ in part])
        for (category, seed, caption), image, parsed in zip(
            part, images, world.parse_image(images.float().cpu())
        ):
            yield Result(category, seed, caption, image, parsed)


def score(results: list[Result]) -> dict[str, float]:
    """Summarize results.

    Returns:
        "n"; "right", the number of correct images; "accuracy" with its Wilson 95 % interval, "low"
        and "high"; "unreadable", the number of images that could not be parsed; "nearest", the
        number of images that are correct if what is unclear has its likeliest value; and
        "flawless", the number of correct images that look as the renderer would have it.
    """
    correct = sum(r.correct for r in results)
    low, high = wilson_interval(correct, len(results))
    return {
        "n": len(results),
        "right": correct,
        "accuracy": round(correct / len(results), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "unreadable": sum(r.parsed.scene is None for r in results),
        "nearest": sum(r.nearest_correct for r in results),
        "flawless": sum(r.flawless for r in results),
    }


def table(results: list[Result]) -> dict[str, dict[str, float]]:
    """Return the `score` of each category."""
    return {
        category: score([r for r in results if r.category == category])
        for category in dict.fromkeys(r.category for r in results)
    }


def judge_images(
    prompts: Sequence[str], images: Tensor, world: World = SCENES
) -> list[bool | None]:
    """Judge for each image whether it shows its prompt, with the parser.

    Args:
        prompts: b captions.
        images: [b, 3, h, w] in [-1, 1].
        world: The world whose captions and images these are (default: `scenes`).

    Returns:
        True or False for each image; None where the prompt is not of the world's grammar, or
        images of this world or size cannot be read.

    Raises:
        ValueError: if there is not one prompt for each image.
    """
    if len(prompts) != len(images):
        raise ValueError(f"{len(prompts)} prompts for {len(images)} images; expected as many")
    if not world.can_read(images.shape[-1]):
        return [None] * len(prompts)
    descriptions = [description_of(prompt, world) for prompt in prompts]
    return [
        None if d is None else d.fits(parsed.scene)
        for d, parsed in zip(descriptions, world.parse_image(images.float().cpu()))
    ]


def description_of(prompt: str, world: World = SCENES) -> Description | None:
    """Return what a prompt states, or None if it is not of the world's grammar."""
    try:
        return world.parse_caption(prompt)
    except ValueError:
        return None
