"""The script that shows scenes of a world."""

import numpy as np
import pytest
from PIL import Image

from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.scenes.world import WORLDS
from imagen_mini.utils.images import to_image
from sample.show_world import main


@pytest.mark.parametrize("world", WORLDS)
def test_scenes_of_a_world_are_shown_with_their_captions(world, tmp_path):
    out = tmp_path / "some" / "world.png"
    main(["--world", world, "--n", "2", "--size", "192", "--seed", "5", "--out", str(out)])
    shown = np.asarray(Image.open(out).convert("RGB"))
    images = SceneDataset(5, world=world).batch(range(2), 192).images
    assert shown.shape[1] > 2 * 192 and (shown == shown[0, 0]).all(2).any()
    for i, image in enumerate(images):
        pixels = np.asarray(to_image(image))
        row = pixels[100]  # stands somewhere in the image, in one piece
        starts = range(shown.shape[1] - 192 + 1)
        assert any((shown[y, x : x + 192] == row).all() for y in range(80, 130) for x in starts), i


def test_sizes_that_no_world_has_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--size", "32"])
    assert "at least 64 pixels" in capsys.readouterr().err
