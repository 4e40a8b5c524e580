"""The judge of the world `studio` finds planted errors, and corruptions seldom deceive it."""

import pytest

from imagen_mini.evaluation.corruptions import gaussian_noise
from imagen_mini.evaluation.parser_robustness import OUTCOMES, measure_parser_robustness
from imagen_mini.evaluation.planted_errors import PLANTED_ERRORS, measure_planted_errors
from imagen_mini.scenes.scene import HELD_OUT_SEED
from imagen_mini.scenes.world import WORLDS

STUDIO = WORLDS["studio"]
MAY_PASS = 0.05  # share of the images of one kind of error that may be read all the same


@pytest.mark.parametrize(
    "n, size",
    [
        (8, 64),
        (3, 256),
        pytest.param(100, 64, marks=pytest.mark.slow),
        pytest.param(100, 256, marks=pytest.mark.slow),
    ],
)
def test_planted_errors_make_images_unreadable(n, size):
    scenes = [STUDIO.training_scene(HELD_OUT_SEED, i) for i in range(n)]
    table = measure_planted_errors(scenes, size, world=STUDIO)
    assert list(table) == [k for k in PLANTED_ERRORS if size > 64 or k != "two textures in one"]
    for name, row in table.items():
        print(f"{size} px, {name}: {row['passed']} of {row['n']} read as if correct")
        assert row["passed"] <= 1 + MAY_PASS * row["n"], (name, row)


def test_noise_makes_images_unreadable_rather_than_misread():
    rows = measure_parser_robustness(6, 64, gaussian_noise, (0, 0.3), world=STUDIO)
    assert rows[0]["right"] == 6
    assert rows[1]["misread"] == 0 and sum(rows[1][name] for name in OUTCOMES) == 6
