"""Tests that say when an answer cannot be right. Passing them is necessary, and not enough: the
grader compares values.

    python -m pytest tests/test_hw2.py
"""

from __future__ import annotations

import torch

from imagen_mini.editing.alignment import token_positions
from imagen_mini.models.attention import Attention, attention_probs
from imagen_mini.models.control import AttentionControl, AttentionSite
from imagen_mini.models.layers import AttentionPooling, ResBlock
from imagen_mini.models.unet import UNet, UNetConfig
from imagen_mini.text.encoder import TextEmbeddings, Tokens


def _text(b: int = 2, n: int = 5, width: int = 16, real: int = 3) -> TextEmbeddings:
    source = torch.Generator().manual_seed(b)
    mask = (torch.arange(n) < real).expand(b, -1)
    return TextEmbeddings(torch.randn(b, n, width, generator=source), mask)


def _layer(kind: str) -> Attention:
    torch.manual_seed(0)
    return Attention(AttentionSite("mid", "mid", kind, 4), 32, 16, head_dim=16)


def test_probabilities_add_up_to_one_and_masked_keys_get_nothing():
    q, k = torch.randn(2, 2, 3, 8), torch.randn(2, 2, 5, 8)
    mask = torch.tensor([True, True, False, True, False]).reshape(1, 1, 1, 5)
    shares = attention_probs(q, k, mask=mask)
    assert shares.shape == (2, 2, 3, 5) and torch.allclose(shares.sum(-1), torch.ones(2, 2, 3))
    assert (shares[..., [2, 4]] == 0).all() and (shares[..., 0] > 0).all()


def test_the_number_of_keys_and_of_words():
    pixels, text = torch.randn(2, 16, 32), _text()
    for kind, keys, words in (("self", 16, 0), ("cross", 5, 5), ("hybrid", 21, 5)):
        k, v, mask, n_text = _layer(kind).keys_and_values(pixels, text)
        assert k.shape == v.shape == (2, 2, keys, 16) and n_text == words
        assert mask is None if kind == "self" else mask.shape == (2, 1, 1, keys)


def test_padding_changes_nothing():
    x, text = torch.randn(2, 32, 4, 4), _text()
    for kind in ("cross", "hybrid"):
        layer = _layer(kind)
        assert torch.allclose(layer(x, text), layer(x, text.pad(3)), atol=1e-5)


def test_a_control_that_changes_nothing_changes_nothing():
    class Looks(AttentionControl):
        def needs_probs(self, site):
            return True

    x, text = torch.randn(2, 32, 4, 4), _text()
    layer = _layer("cross")
    assert torch.allclose(layer(x, text), layer(x, text, control=Looks()), atol=1e-5)


def test_a_fresh_block_is_its_shortcut():
    block, x = ResBlock(16, 16, 8), torch.randn(2, 16, 4, 4)
    assert torch.allclose(block(x, torch.randn(2, 8)), x)


def test_pooled_text_does_not_read_padding():
    text = _text()
    pooling = AttentionPooling(16, 12)
    other = TextEmbeddings(text.emb.masked_fill(~text.mask[..., None], 9.0), text.mask)
    assert pooling(text).shape == (2, 12)
    assert torch.allclose(pooling(text), pooling(other), atol=1e-6)


def test_the_network_returns_an_image_that_depends_on_all_that_it_is_given():
    torch.manual_seed(0)
    config = UNetConfig(
        image_size=16, channels=(16, 32), blocks=(1, 1), attention=("", "cross"), head_dim=16,
        emb_dim=16, text_width=16, text_layers=1,
    )  # fmt: skip
    net = UNet(config)
    for p in net.parameters():
        p.data = torch.randn(p.shape) / max(1, p[0].numel()) ** 0.5
    x_t, log_snr, text = torch.randn(2, 3, 16, 16), torch.tensor([0.0, 2.0]), _text()
    out = net(x_t, log_snr, text)
    assert out.shape == x_t.shape
    for other in (
        net(x_t + 1, log_snr, text),
        net(x_t, log_snr + 1, text),
        net(x_t, log_snr, TextEmbeddings(text.emb + torch.randn(5, 16), text.mask)),
    ):
        assert not torch.allclose(out, other, atol=1e-4)
    assert torch.allclose(out, net(x_t, log_snr, net.prepare_text(text)), atol=1e-4)


def test_a_word_has_the_positions_of_all_its_pieces():
    tokens = Tokens(
        (5, 6, 7, 1), ("▁tur", "quoise", "▁ring", "</s>"), (0, 0, 1, None), ("turquoise", "ring")
    )
    assert list(token_positions(tokens, "Turquoise")) == [0, 1]
    assert list(token_positions(tokens, 1)) == [2]
