"""What is handed in beside code: tables of images, and the numbers that are read in them."""

import random

import pytest
import torch
from PIL import Image

from imagen_mini.course.assignment import load_assignment
from imagen_mini.course.assignments.hw3 import measurements
from imagen_mini.course.assignments.hw4 import measurements as cascade
from imagen_mini.course.build import grader_files, student_files
from imagen_mini.course.paperwork import given_table, grade_counts
from imagen_mini.course.submission import Submission

STUDENT = "a.student@example.org"
STUDIO = measurements.STUDIO


def save_table(images: torch.Tensor, path) -> None:
    """Write a table [3, h, w] in [-1, 1] as a PNG."""
    pixels = ((images + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def rendered() -> torch.Tensor:
    """One row of hw3's images, as a perfect network would generate them."""
    source = random.Random(0)
    captions = [STUDIO.parse_caption(c) for c, _ in measurements.captions_of(STUDENT)]
    images = STUDIO.render([STUDIO.scene_matching(c, source) for c in captions], 64)
    return torch.cat(list(images), dim=2)


@pytest.fixture
def handed_in(tmp_path, rendered) -> Submission:
    """A submission of hw3 whose row of w = 2 is perfect. The others are noise, but for the last
    one, which has the images in another order.
    """
    (tmp_path / "figures").mkdir()
    (tmp_path / "answers.toml").write_text(f'student = "{STUDENT}"\n')
    noise = torch.rand(4, *rendered.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = [noise[0], rendered, *noise[1:], rendered.roll(64, dims=2)]
    save_table(torch.cat(rows, dim=1), tmp_path / "figures" / "images.png")
    return Submission(tmp_path)


def test_a_table_of_images_comes_back_as_it_was(handed_in, rendered):
    table = given_table(handed_in, "images", 64, measurements.IMAGES, len(measurements.ROWS))
    assert table.shape == (3, 64 * 6, 64 * 24)
    assert (table[:, 64:128] - rendered).abs().max() < 1 / 127


def test_a_table_of_another_size_is_refused(handed_in):
    with pytest.raises(ValueError, match="images.png is 1536 x 384 pixels; expected 64 x 64"):
        given_table(handed_in, "images", 64, 1, 1)
    with pytest.raises(ValueError, match="maps.png is missing or no PNG; expected 64 x 64"):
        given_table(handed_in, "maps", 64, 1, 1)


@pytest.mark.slow
def test_images_of_assignment_3_are_read_row_by_row(handed_in):
    table = given_table(handed_in, "images", 64, measurements.IMAGES, len(measurements.ROWS))
    found = measurements.read_images(STUDENT, table)
    assert found["alignment_2"] == measurements.IMAGES
    assert found["alignment_1"] == found["alignment_8"] == found["alignment_8_dynamic"] == 0
    # the same images under other captions: other alignment, but the same distance
    assert found["alignment_8_interval"] < measurements.IMAGES / 2
    assert found["distance_8_interval"] == pytest.approx(found["distance_2"], rel=1e-3)
    assert found["distance_2"] < found["distance_8"] / 5


def test_each_number_counts_alike(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "numbers.toml").write_text("[curve]\na = 0\nb = 2.01\nc = 4\n")
    share, wrong = grade_counts("curve", Submission(tmp_path), {"a": 0, "b": 2, "c": 3, "d": 1})
    assert share == 0.5
    assert wrong == ["c is 4, and the images show 3", "d is None, and the images show 1"]
    assert grade_counts("maps", Submission(tmp_path), {"a": 1}) == (
        0,
        ["a is None, and the images show 1"],
    )


def test_the_judge_comes_with_what_grades_and_with_what_students_get():
    assignment = load_assignment("hw3")
    judge = "imagen_mini/weights/studio_judge/64.safetensors"
    assert judge in grader_files(assignment)
    assert f"hw3/{judge}" in student_files(assignment)
    assert not any("studio/base" in path for path in grader_files(assignment))


def test_coarse_pixels_are_seen_until_they_are_gone():
    scenes = [STUDIO.training_scene(1, i) for i in range(4)]
    true, small = STUDIO.render(scenes, 256), STUDIO.render(scenes, 64)
    coarse = torch.nn.functional.interpolate(cascade.coarsened(small), scale_factor=4)
    assert cascade.blockiness(true) == pytest.approx(1, abs=0.05)
    assert cascade.blockiness((true + coarse) / 2) > 1.2
    assert (cascade.coarsened(small).mean() - small.mean()).abs() < 1e-5
