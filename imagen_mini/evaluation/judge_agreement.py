"""Do two judges of the world `studio` read the same from the same images?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from imagen_mini.evaluation.parser_robustness import may_be
from imagen_mini.evaluation.statistics import wilson_interval
from imagen_mini.scenes.captions import Description
from imagen_mini.scenes.studio.judge import read_studio_images
from imagen_mini.scenes.world import WORLDS


def agreement(
    images: Tensor, second: Path, descriptions: Sequence[Description] | None = None
) -> dict:
    """Measure how often the judge and the second judge agree.

    Args:
        images: [b, 3, size, size] in [-1, 1], with `size` a multiple of 64, b at least 1.
        second: Folder of the second judge's weights, from
            `python -m train.studio_judge --form second`.
        descriptions: What the images should show (default: nothing is asked).

    Returns:
        "n"; "agree", how often both read the same scene or neither read one; its 95 % `interval`;
        "both_read", how often both read a scene; "same_scene", how often it was the same; and
        "same_where_clear", how often it was the same in all that is clear to both. With
        descriptions also "correct", how many images show theirs by the first judge and by the
        second, and "same_verdict", in how many images both say the same of that.
    """
    pairs = list(zip(WORLDS["studio"].parse_image(images), read_studio_images(images, second)))
    read = [(a.scene, b.scene) for a, b in pairs if a.scene is not None and b.scene is not None]
    agree = sum(a.scene == b.scene for a, b in pairs)
    found = {
        "n": len(pairs),
        "agree": agree,
        "interval": wilson_interval(agree, len(pairs)),
        "both_read": len(read),
        "same_scene": sum(a == b for a, b in read),
        "same_where_clear": sum(may_be(a, b) for a, b in read),
    }
    if descriptions is not None:
        verdicts = [[d.fits(p.scene) for p in pair] for d, pair in zip(descriptions, pairs)]
        found["correct"] = [sum(by) for by in zip(*verdicts)]
        found["same_verdict"] = sum(a == b for a, b in verdicts)
    return found
