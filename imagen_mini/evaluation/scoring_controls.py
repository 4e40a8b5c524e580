"""Controls of the score, whose answer is known beforehand: swapped colours, shuffled captions, and
random samples of results for a person to judge.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from imagen_mini.evaluation.scoring import Result
from imagen_mini.scenes.captions import Description
from imagen_mini.scenes.parse import ParsedScene
from imagen_mini.scenes.scene import COLORS, Scene


def sample_mixed(
    results: Sequence[Result], n: int, incorrect: int = 0, seed: int = 0
) -> list[Result]:
    """Return some results in random order, for a person who judges them without knowing the
    verdicts.

    Args:
        results: Judged images.
        n: How many to return.
        incorrect: At least so many of them are incorrect, if there are so many (default: 0).
        seed: Of the choice (default: 0).
    """
    rng = random.Random(seed)
    mistakes = [r for r in results if not r.correct]
    chosen = rng.sample(mistakes, min(incorrect, len(mistakes)))
    rest = [r for r in results if not any(r is c for c in chosen)]
    return rng.sample(chosen + rng.sample(rest, n - len(chosen)), n)


def swap_colors(scenes: Sequence[Scene], every: int) -> list[Scene]:
    """Return the scenes, one in `every` with other colours: a share of errors that is known.

    Args:
        scenes: The scenes.
        every: 5 changes the colours of scenes 0, 5, 10, ...
    """
    names = list(COLORS)
    return [
        Scene(
            tuple(
                replace(o, color=names[(names.index(o.color) + 3) % len(names)])
                for o in scene.objects
            ),
            scene.background,
        )
        if i % every == 0
        else scene
        for i, scene in enumerate(scenes)
    ]


def chance_accuracy(
    descriptions: Sequence[Description], parsed_scenes: Sequence[ParsedScene]
) -> float:
    """Return the accuracy to be expected if captions are assigned to images at random.

    It is the mean over all pairs of a description and a parsed scene.
    """
    return sum(d.fits(r.scene) for d in descriptions for r in parsed_scenes) / (
        len(descriptions) * len(parsed_scenes)
    )
