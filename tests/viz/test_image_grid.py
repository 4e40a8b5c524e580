"""Grids as files: smaller, and still what they show."""

import io

import pytest
import torch
from PIL import Image

from imagen_mini.viz.image_grid import as_jpeg, image_table, quantize_colors


def test_few_colors_stay_near_and_are_few():
    fig = Image.fromarray(
        (torch.rand(40, 40, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    )
    seen = quantize_colors(fig)
    assert seen.mode == "P" and seen.size == fig.size and len(seen.getcolors()) <= 256
    flat = Image.new("RGB", (8, 8), (200, 57, 57))
    assert all(
        abs(a - b) <= 8
        for a, b in zip(quantize_colors(flat).convert("RGB").getpixel((3, 3)), (200, 57, 57))
    )


def test_a_jpeg_holds_the_image():
    pytest.importorskip("IPython")
    fig = image_table([[torch.zeros(3, 8, 8)]], ["row"], ["column"])
    shown = as_jpeg(fig)
    assert shown.format == "jpeg" and Image.open(io.BytesIO(shown.data)).size == fig.size
