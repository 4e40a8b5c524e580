"""What is handed in beside code: answers.toml, the numbers of figures, and images."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Collection, Sequence

import torch
from PIL import Image
from torch import Tensor

from imagen_mini.course.submission import Submission
from imagen_mini.evaluation.scoring import judge_images

Graded = tuple[float, list[str]]  # the share of the points, and a reason for each loss
TOLERANCE = 0.01  # relative, of every number


def read_toml(submission: Submission, path: str) -> dict:
    """A TOML file that was handed in.

    Raises:
        ValueError: It was not, or is no TOML.
    """
    text = submission.text(path)
    if text is None:
        raise ValueError(f"{path} was not handed in")
    return tomllib.loads(text)


def whose(submission: Submission, students: Collection[str]) -> tuple[str, dict]:
    """The student's id, and answers.toml.

    Raises:
        ValueError: There is no such file, or it is somebody else's.
    """
    values = read_toml(submission, "answers.toml")
    said = str(values.get("student", "")).strip()
    if not said:
        raise ValueError('answers.toml has no student = "your id"')
    if students and said not in {s.strip() for s in students}:
        expected = " or ".join(sorted(students))
        raise ValueError(f"answers.toml is of the student {said!r}, the submission of {expected}")
    return said, values


def is_close(seen, expected: float, tolerance: float = TOLERANCE) -> bool:
    """True for a number that is close to the expected one, relative to it."""
    number = isinstance(seen, int | float) and not isinstance(seen, bool)
    return number and abs(seen - expected) <= tolerance * abs(expected)


def open_png(submission: Submission, path: str) -> Image.Image | None:
    """An image that was handed in; None if there is none that opens."""
    data = submission.read(path)
    if data is None:
        return None
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        if image.width * image.height > 10**7:
            return None
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def grade_numbers(
    name: str, submission: Submission, student: str, expected: dict[str, float]
) -> Graded:
    """A figure by its numbers; half of it without a PNG that opens.

    Args:
        name: Of the figure.
        submission: What was handed in.
        student: Whose it is.
        expected: The numbers for this student.
    """
    found = read_toml(submission, "figures/numbers.toml").get(name)
    if not isinstance(found, dict):
        return 0.0, [f"figures/numbers.toml has no numbers of the figure {name}: run figures.py"]
    wrong = [
        f"{key} is {found.get(key)}, expected {value:.5g} for the student {student}"
        for key, value in expected.items()
        if not is_close(found.get(key), value)
    ]
    share = 1 - len(wrong) / len(expected)
    if open_png(submission, f"figures/{name}.png") is None:
        return share / 2, [*wrong, f"figures/{name}.png is missing or no PNG"]
    return share, wrong


def given_table(submission: Submission, name: str, size: int, columns: int, rows: int) -> Tensor:
    """A table of images that was handed in.

    Args:
        submission: What was handed in.
        name: Of the figure: a PNG with the images side by side, without a margin.
        size: The side of an image in pixels.
        columns: How many columns of images.
        rows: How many rows.

    Returns:
        [3, size rows, size columns] in [-1, 1].

    Raises:
        ValueError: It is missing, or has another size.
    """
    image = open_png(submission, f"figures/{name}.png")
    wanted = (size * columns, size * rows)
    if image is None or image.size != wanted:
        seen = "missing or no PNG" if image is None else f"{image.width} x {image.height} pixels"
        raise ValueError(f"figures/{name}.png is {seen}; expected {wanted[0]} x {wanted[1]} pixels")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float() / 127.5 - 1
    return pixels.reshape(size * rows, size * columns, 3).permute(2, 0, 1)


def grade_counts(name: str, submission: Submission, expected: dict[str, float]) -> Graded:
    """The numbers of a figure that were read in a table of images; each counts alike.

    Args:
        name: Of the figure.
        submission: What was handed in.
        expected: What is read in the table that was handed in.
    """
    said = read_toml(submission, "figures/numbers.toml").get(name)
    said = said if isinstance(said, dict) else {}
    wrong = [
        f"{key} is {said.get(key)}, and the images show {value:.5g}"
        for key, value in expected.items()
        if not is_close(said.get(key), value)
    ]
    return 1 - len(wrong) / len(expected), wrong


def grade_image_table(
    name: str, submission: Submission, captions: Sequence[str], size: int, rows: int, enough: int
) -> Graded:
    """Generated images, read by the parser.

    Args:
        name: Of the figure: a PNG with the images side by side, without a margin.
        submission: What was handed in.
        captions: Of the columns.
        size: The side of an image in pixels.
        rows: How many rows of images.
        enough: So many images as captioned get all points; fewer get their share.
    """
    table = given_table(submission, name, size, len(captions), rows)
    tiles = table.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4).flatten(0, 1)
    asked = list(captions) * rows
    correct = judge_images(asked, tiles)
    n = sum(map(bool, correct))
    if n >= enough:
        return 1.0, []
    wrong = next(c for c, ok in zip(asked, correct) if not ok)
    return n / len(tiles), [f"{n} of {len(tiles)} images show their caption; not: {wrong!r}"]


def grade_derivation(
    name: str, submission: Submission, values: dict, expected: float, file: str = "written.md"
) -> Graded:
    """A derivation by the number that it ends with.

    Args:
        name: Of the written question.
        submission: What was handed in.
        values: answers.toml.
        expected: The number for this student.
        file: Where the derivations are (default: "written.md").
    """
    written = values.get("written", {})
    found = written.get(name) if isinstance(written, dict) else None
    if found is None or submission.text(file) is None:
        missing = f"the number [written] {name} in answers.toml" if found is None else file
        return 0.0, [f"{missing} was not handed in"]
    if not is_close(found, expected):
        return 0.0, [f"the number is {found}, and that is not what the derivation leads to"]
    return 1.0, []
