"""`sample.generate` with many images: in batches, and into a file that can hold them."""

import pytest
import torch
from PIL import Image

from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.utils.images import to_image
from imagen_mini.viz.image_grid import MARGIN, grid_size, image_grid
from sample import generate

FAST = ["--steps", "1", "--base-only"]


@pytest.fixture
def pipe(tiny_pipe, monkeypatch):
    """The tiny pipeline, which records how many prompts each call had."""
    monkeypatch.setattr(generate, "load_pipeline", lambda args: loaded(args, tiny_pipe))
    sizes, call = [], ImagenPipeline.__call__
    monkeypatch.setattr(
        ImagenPipeline,
        "__call__",
        lambda self, prompts, *args, **options: (
            sizes.append(len(prompts)) or call(self, prompts, *args, **options)
        ),
    )
    return sizes


def loaded(args, pipe):
    args.first_stage = next(iter(pipe.stages))
    return pipe


def test_many_images_come_in_batches_and_are_those_of_their_seeds(
    pipe, tmp_path, capsys, tiny_pipe
):
    out = tmp_path / "out.png"
    generate.main(["a ring", "a star", "--count", "10", "--seed", "7", "--out", str(out), *FAST])
    assert pipe == [16, 4]
    said = capsys.readouterr().out
    assert said.count("seed 7:") == 2 and said.count("seed 16:") == 2 and "seed 17" not in said
    grid = Image.open(out)
    labels = [f"{p} ({7 + i})" for p in ("a ring", "a star") for i in range(10)]
    assert grid.size == grid_size(labels, 5)
    # the last one, of the second batch
    alone = tiny_pipe("a star", seed=16, stages="base", num_inference_steps=1, progress=False)
    x, y = 4 * grid.width // 5 + MARGIN, 3 * grid.height // 4 + MARGIN
    cell = grid.crop((x, y, x + 192, y + 192))
    expected = to_image(alone.stages["base"][0], 192)
    difference = torch.tensor(list(cell.tobytes())) - torch.tensor(list(expected.tobytes()))
    assert difference.abs().max() <= 1


def test_the_size_of_a_batch_can_be_chosen(pipe, tmp_path):
    out = ["--out", str(tmp_path / "out.png"), *FAST]
    generate.main(["a ring", "--count", "5", "--batch", "2", *out])
    generate.main(["a ring", "--batch", "2", *out])
    assert pipe == [2, 2, 1, 1]


@pytest.mark.parametrize("suffix", generate.LARGEST_SIDE)
def test_more_images_than_a_format_holds_are_refused_before_any_is_generated(
    pipe, tmp_path, monkeypatch, suffix
):
    limits = {name: side // 10 for name, side in generate.LARGEST_SIDE.items()}
    monkeypatch.setattr(generate, "LARGEST_SIDE", limits)
    with pytest.raises(ValueError, match="a side of [0-9,]* pixels, more than .* make it .*png"):
        generate.main(["a ring", "--count", "1500", "--out", str(tmp_path / f"out{suffix}")])
    assert pipe == []


@pytest.mark.parametrize("suffix, side", generate.LARGEST_SIDE.items())
def test_the_largest_sides_are_those_that_can_be_written(tmp_path, suffix, side):
    Image.new("L", (1, side)).save(tmp_path / f"out{suffix}")
    with pytest.raises((OSError, ValueError, OverflowError)):
        Image.new("L", (1, 65_536)).save(tmp_path / f"out{suffix}")


def test_the_size_of_a_grid_is_known_before_it_is_made():
    for n, columns in ((1, None), (3, None), (6, None), (7, 5)):
        labels = ["a short label", "a label that is too long for one line of its narrow cell"] * n
        grid = image_grid([torch.zeros(3, 8, 8)] * n, labels[:n], columns, cell=64)
        assert grid.size == grid_size(labels[:n], columns, cell=64)


def test_images_that_are_as_large_as_a_cell_are_taken_as_they_are():
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    ready = [to_image(image, 40) for image in images]
    grids = [image_grid(of, "abc", cell=40) for of in (images, ready)]
    assert grids[0].tobytes() == grids[1].tobytes()
