"""SVG drawings: rendered in proportion, and refused where they would take this process down."""

import gzip
import sys

import numpy as np
import pytest
from PIL import Image

from imagen_mini.data.image_io import ImageError, open_rgb
from imagen_mini.data.metadata import read_metadata
from imagen_mini.data.svg import MAX_DEPTH, can_render_svg, render_svg

pytestmark = pytest.mark.skipif(not can_render_svg(), reason="needs resvg-py")

HALF_RED = '<rect width="10" height="10" fill="red"/>'


def svg(body=HALF_RED, attributes='viewBox="0 0 20 10"'):
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f"{attributes}>{body}</svg>"
    )


def nested(depth):
    return svg("<g>" * depth + HALF_RED + "</g>" * depth)


@pytest.mark.parametrize(
    "attributes, size",
    [
        ('viewBox="0 0 20 10"', (64, 32)),
        ('viewBox="0 0 10 20"', (32, 64)),
        ('width="100000" height="100000" viewBox="0 0 10 10"', (64, 64)),  # 40 GB as it is declared
        ('width="2in" height="1in"', (64, 32)),
    ],
)
def test_a_drawing_is_as_large_as_fits_whatever_it_declares(attributes, size):
    assert render_svg(svg(attributes=attributes), 64).size == size


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda s: gzip.compress(s.encode()),
        lambda s: s.encode("utf-16"),
        lambda s: f'<?xml version="1.0" encoding="ISO-8859-1"?>{s}'.encode("latin-1"),
    ],
)
def test_where_nothing_is_drawn_it_is_transparent(encode):
    image = np.asarray(render_svg(encode(svg("<title>größer</title>" + HALF_RED)), 64))
    assert (image[:, :32] == (255, 0, 0, 255)).all() and (image[:, 32:, 3] == 0).all()


@pytest.mark.parametrize(
    "drawing, problem",
    [
        ("", "no SVG"),
        ("<svg", "no SVG"),
        ("<html><svg/></html>", "first element is <html>"),
        (nested(MAX_DEPTH), "inside more than 200 others"),
        (b"\x1f\x8bdamaged", "cannot be decompressed"),
        (svg(attributes='width="0" height="5"'), "cannot be rendered"),
    ],
)
def test_what_cannot_be_rendered_is_an_error(drawing, problem):
    with pytest.raises(ValueError, match=problem):
        render_svg(drawing, 64)


def test_the_deepest_drawing_that_is_allowed_can_be_rendered():
    assert render_svg(nested(MAX_DEPTH - 2), 8).getpixel((1, 1)) == (255, 0, 0, 255)


@pytest.mark.parametrize("link", ["xlink:href", "href"])
def test_an_image_in_another_file_of_this_machine_is_left_out(tmp_path, link):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    image = f'<image {link}="{tmp_path}/secret.png" width="20" height="10"/>'
    assert render_svg(svg(image), 8).getextrema()[3] == (0, 0)


def test_folders_take_drawings_unless_an_image_of_the_same_name_is_there(tmp_path):
    for name in ("a.svg", "b.svg"):
        (tmp_path / name).write_text(svg())
        (tmp_path / name).with_suffix(".txt").write_text(name)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    rows, problems = read_metadata(tmp_path)
    assert problems == [] and [row.name for row in rows] == ["a.svg", "b.png"]
    (tmp_path / "metadata.csv").write_text("file_name,text\na,one\nb,two\n")
    assert [row.path.name for row in read_metadata(tmp_path)[0]] == ["a.svg", "b.png"]
    image = open_rgb(tmp_path / "a.svg", "#00ff00")
    assert image.getpixel((1, 1)) == (255, 0, 0)
    assert image.getpixel((image.width - 1, 1)) == (0, 255, 0)


def test_without_the_package_a_drawing_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.svg").write_text(svg())
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr("imagen_mini.data.svg.find_spec", lambda name: None)
    assert "resvg_py" in sys.modules  # so only the question was answered in another way
    with pytest.raises(ImageError, match=r"a.svg .* It is SVG: .*pip install -e \".\[svg\]\""):
        open_rgb(tmp_path / "a.svg")
    with pytest.raises(FileNotFoundError, match=r"1 SVG drawings .*pip install -e \".\[svg\]\""):
        read_metadata(tmp_path)
    with pytest.raises(ImportError, match="resvg-py"):
        render_svg(svg(), 8)
