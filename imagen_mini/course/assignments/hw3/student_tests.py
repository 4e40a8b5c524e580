"""Tests that say when an answer cannot be right. Passing them is necessary, and not enough: the
grader compares values.

    python -m pytest tests/test_hw3.py
"""

from __future__ import annotations

import torch

from imagen_mini.diffusion.guidance import (
    classifier_free_guidance,
    dynamic_threshold,
    guidance_interval,
    make_denoiser,
    static_threshold,
)
from imagen_mini.diffusion.schedules import make_schedule
from imagen_mini.text.encoder import TextEmbeddings, concatenate

SCHEDULE = make_schedule("cosine")


def _images(b: int = 3, size: float = 1.0) -> torch.Tensor:
    source = torch.Generator().manual_seed(b)
    return size * torch.randn(b, 3, 5, 4, generator=source, dtype=torch.float64)


def _text(b: int = 3, n: int = 4, real: int = 3) -> TextEmbeddings:
    source = torch.Generator().manual_seed(n)
    mask = (torch.arange(n) < real).expand(b, -1)
    return TextEmbeddings(torch.randn(b, n, 3, generator=source, dtype=torch.float64), mask)


class Network:
    """Returns the mean of the words as a colour, and counts the images."""

    images = 0

    def __call__(self, x_t, log_snr, text, control=None):
        self.images += len(x_t)
        color = text.emb.masked_fill(~text.mask[..., None], 0).sum(1) / text.mask.sum(1)[:, None]
        return color[:, :, None, None].expand_as(x_t) + (0 if control is None else control)


def test_guidance_is_off_at_one_and_ignores_the_prompt_at_zero():
    a, b = _images(), _images().flip(0)
    assert torch.allclose(classifier_free_guidance(a, b, 1.0), a)
    assert torch.allclose(classifier_free_guidance(a, b, 0.0), b)
    assert torch.allclose(classifier_free_guidance(a, a, 7.0), a)


def test_the_interval_is_on_in_the_middle():
    scale = guidance_interval(5.0, 0.5, 2.0, SCHEDULE)
    assert [scale(t) for t in (0.05, 0.5, 0.95)] == [1, 5, 1]


def test_thresholds_return_images_in_range():
    for threshold in (static_threshold, dynamic_threshold):
        x = threshold(_images(size=3.0))
        assert x.abs().max() <= 1 and x.shape == (3, 3, 5, 4)
        small = _images().tanh() / 2
        assert torch.allclose(threshold(small), small)


def test_dynamic_thresholding_keeps_images_apart():
    one, other = _images(1, 3.0), _images(1, 0.5)
    both = dynamic_threshold(torch.cat([one, other]))
    assert torch.allclose(both, torch.cat([dynamic_threshold(one), dynamic_threshold(other)]))


def test_a_denoiser_without_guidance_calls_the_network_once():
    t, x_t = torch.tensor(0.6, dtype=torch.float64), _images()
    for w, images in ((1.0, 3), (3.0, 6)):
        network = Network()
        denoise = make_denoiser(network, _text(), SCHEDULE, "x_0", w, "none")
        assert denoise(x_t, t).shape == x_t.shape and network.images == images


def test_a_denoiser_leads_away_from_a_negative_prompt():
    t, x_t, text = torch.tensor(0.6, dtype=torch.float64), _images(), _text()
    plain = make_denoiser(Network(), text, SCHEDULE, "x_0", 1.0, "none")(x_t, t)
    same = make_denoiser(Network(), text, SCHEDULE, "x_0", 3.0, "none", negative=text)(x_t, t)
    other = make_denoiser(Network(), text, SCHEDULE, "x_0", 3.0, "none")(x_t, t)
    assert torch.allclose(plain, same) and not torch.allclose(plain, other)


def test_text_without_words_keeps_its_length():
    text = _text()
    null = text.null()
    assert (null.emb == 0).all() and torch.equal(null.mask, text.mask)
    some = text.drop(torch.tensor([False, True, False]))
    assert (some.emb[1] == 0).all() and torch.equal(some.emb[::2], text.emb[::2])


def test_texts_of_two_lengths_become_one():
    both = concatenate([_text(2, 4), _text(1, 6, 5)])
    assert both.emb.shape == (3, 6, 3) and both.mask.sum(1).tolist() == [3, 3, 5]
