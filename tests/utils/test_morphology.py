"""Masks that grow, shrink and close, against a count by hand."""

import pytest
import torch

from imagen_mini.utils.morphology import close, dilate, erode


def by_hand(mask, by, of):
    """`of` (any or all) the pixels in each square of 2 by + 1 pixels, cut off at the frame."""
    h, w = mask.shape[-2:]
    out = torch.zeros_like(mask)
    for y in range(h):
        for x in range(w):
            square = mask[..., max(0, y - by) : y + by + 1, max(0, x - by) : x + by + 1]
            out[..., y, x] = of(square.flatten(-2), -1)
    return out


@pytest.fixture
def masks():
    return torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(0)) < 0.4


@pytest.mark.parametrize("by", [0, 1, 2])
def test_dilation_is_any_and_erosion_is_all_of_the_neighbours(masks, by):
    assert torch.equal(dilate(masks, by), by_hand(masks, by, torch.any))
    assert torch.equal(erode(masks, by), by_hand(masks, by, torch.all))


def test_masks_of_floats_are_masks_of_bools(masks):
    floats = masks[:, None].float()
    assert torch.equal(dilate(floats, 1)[:, 0], dilate(masks, 1).float())
    assert torch.equal(erode(floats, 1)[:, 0], erode(masks, 1).float())


def test_closing_fills_a_gap_of_twice_its_size_and_no_wider_one():
    line = torch.zeros(1, 1, 1, 24)
    line[..., [2, 7, 19]] = 1  # gaps of 4 and of 11 pixels
    closed = close(line.expand(-1, -1, 24, -1).contiguous(), 2)[0, 0, 12]
    assert closed.nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7, 19]


def test_closing_never_removes_a_pixel(masks):
    floats = masks[:, None].float()
    assert (close(floats, 1) >= floats).all()
