"""The attention layer: three ways to the same numbers, masks, and the control hook."""

import math

import pytest
import torch
import torch.nn.functional as F

import imagen_mini.models.attention
from imagen_mini.models.attention import Attention, attention_probs, fused_attention
from imagen_mini.models.control import AttentionControl, AttentionSite

KINDS = ("self", "cross", "hybrid")
WIDTH = 24  # of the text, in these tests


class Look(AttentionControl):
    """Asks for the probabilities everywhere, keeps them and changes nothing."""

    def __init__(self):
        self.seen = []

    def needs_probs(self, site):
        return True

    def modify_probs(self, site, probs, n_text):
        self.seen.append((site, probs, n_text))
        return probs


class Blind(Look):
    """As `Look`, but every pixel attends to all keys alike: all probabilities become equal."""

    def modify_probs(self, site, probs, n_text):
        return torch.full_like(probs, 1 / probs.shape[-1])


@pytest.fixture
def no_probs(monkeypatch):
    def refuse(*_):
        raise AssertionError("the explicit probabilities were computed")

    monkeypatch.setattr(imagen_mini.models.attention, "attention_probs", refuse)


def layer_of(kind, seed=0):
    torch.manual_seed(seed)
    layer = Attention(AttentionSite(f"mid.{kind}", "mid", kind, 4), 32, WIDTH, head_dim=16)
    torch.nn.init.normal_(layer.out.weight, std=0.3)
    return layer


@pytest.fixture
def x():
    return torch.randn(2, 32, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def text(random_text):
    return random_text([5, 2], WIDTH)


def qkv(dtype=torch.float64, keys=7):
    g = torch.Generator().manual_seed(3)
    return [
        torch.randn(2, 3, n, 8, generator=g, dtype=dtype).requires_grad_() for n in (5, keys, keys)
    ]


MASK = (torch.arange(7) < torch.tensor([7, 3])[:, None])[:, None, None, :]


# ---------------------------------------------------------------- the same numbers, three ways


@pytest.mark.parametrize("mask", [None, MASK], ids=["all keys", "masked"])
def test_explicit_and_fused_attention_agree_with_torch_in_values_and_gradients(mask):
    def results(function):
        q, k, v = qkv()
        out = function(q, k, v)
        return [
            out,
            *torch.autograd.grad(
                (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum(),
                (q, k, v),
            ),
        ]

    truth = results(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    for function in (
        lambda q, k, v: attention_probs(q, k, mask) @ v,
        lambda q, k, v: fused_attention(q, k, v, mask),
    ):
        for got, expected in zip(results(function), truth):
            assert torch.allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all keys", "masked"])
def test_fused_attention_returns_the_same_with_and_without_gradients(mask):
    q, k, v = qkv()
    with torch.no_grad():
        without = fused_attention(q, k, v, mask)
    assert torch.allclose(fused_attention(q, k, v, mask), without, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_that_changes_nothing_changes_nothing_neither_values_nor_gradients(kind, x, text):
    layer = layer_of(kind).double()
    x = x.double().requires_grad_()

    def results(control):
        out = layer(x, text.to(torch.float64), control)
        return [out, *torch.autograd.grad(out.square().sum(), (x, *layer.parameters()))]

    look = Look()
    for got, expected in zip(results(look), results(None)):
        assert torch.allclose(got, expected, rtol=1e-9, atol=1e-11)
    assert [site for site, _, _ in look.seen] == [layer.site]


def test_the_explicit_probabilities_of_low_precision_are_taken_in_float32():
    q, k, _ = qkv(torch.float32)
    probs = attention_probs(q.bfloat16(), k.bfloat16(), MASK)
    assert probs.dtype == torch.float32
    assert torch.allclose(probs, attention_probs(q, k, MASK), atol=0.02)


# ---------------------------------------------------------------- probabilities and masks


def test_probabilities_are_the_softmax_of_scaled_scores_and_masked_columns_are_exactly_zero():
    q, k, _ = qkv()
    probs = attention_probs(q, k, MASK)
    assert torch.allclose(probs.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))
    assert (probs[1, :, :, 3:] == 0).all() and (probs[1, :, :, :3] > 0).all()
    by_hand = torch.exp(q[0, 0, 0] @ k[0, 0].T / math.sqrt(8))
    assert torch.allclose(probs[0, 0, 0], by_hand / by_hand.sum())


@pytest.mark.parametrize(
    "kind, columns, n_text", [("self", 16, 0), ("cross", 6, 6), ("hybrid", 22, 6)]
)
def test_a_control_is_told_how_many_leading_columns_are_words(
    kind, columns, n_text, x, random_text
):
    text = random_text([5, 2], WIDTH, n=6)
    look = Look()
    layer_of(kind)(x, text, look)
    ((_, probs, told),) = look.seen
    assert probs.shape == (2, 2, 16, columns) and told == n_text
    assert torch.allclose(probs.sum(-1), torch.ones(2, 2, 16), atol=1e-6)
    empty = ~text.mask if n_text else text.mask[:, :0]
    assert (probs[:, :, :, :n_text].amax((1, 2))[empty] == 0).all()
    assert (probs[:, :, :, n_text:] > 0).all()  # pixels are never masked


@pytest.mark.parametrize("kind", ["cross", "hybrid"])
@pytest.mark.parametrize("grad", [True, False])
def test_padding_does_not_change_the_result_whatever_stands_in_it(kind, grad, x, random_text):
    layer, short, padded = (
        layer_of(kind),
        random_text([5, 2], WIDTH),
        random_text([5, 2], WIDTH, n=9),
    )
    padded.emb[:, :5] = short.emb
    padded.emb[~padded.mask] = 7.0
    with torch.set_grad_enabled(grad):
        assert torch.allclose(layer(x, padded), layer(x, short), rtol=0, atol=1e-6)


def test_text_that_is_there_does_change_the_result(x, random_text):
    layer = layer_of("cross")
    assert not torch.allclose(
        layer(x, random_text([5, 2], WIDTH)),
        layer(x, random_text([5, 2], WIDTH, seed=1)),
        atol=1e-3,
    )


# ---------------------------------------------------------------- the control hook


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_that_changes_the_probabilities_changes_the_result(kind, x, text):
    layer = layer_of(kind)
    assert not torch.allclose(layer(x, text, Blind()), layer(x, text), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_control_or_with_one_that_does_not_ask_no_probabilities_are_computed(
    kind, x, text, no_probs
):
    layer = layer_of(kind)
    layer(x, text)
    layer(x, text, AttentionControl())
    with torch.no_grad():
        layer(x, text)
    with pytest.raises(AssertionError, match="explicit"):
        layer(x, text, Look())


def test_a_control_that_changes_keys_and_values_stays_on_the_fast_path(x, text, no_probs):
    class Swap(AttentionControl):
        def modify_qkv(self, site, q, k, v):
            return q, k.flip(2), v.flip(2)  # the order of the keys is of no importance ...

    class SwapKeys(AttentionControl):
        def modify_qkv(self, site, q, k, v):
            return q, k.flip(2), v  # ... as long as the values follow

    layer = layer_of("self")
    assert torch.allclose(layer(x, text, Swap()), layer(x, text), atol=1e-5)
    assert not torch.allclose(layer(x, text, SwapKeys()), layer(x, text), atol=1e-3)


def test_a_control_leaves_nothing_behind(x, text):
    layer = layer_of("hybrid")
    before = layer(x, text)
    layer(x, text, Blind())
    assert torch.equal(layer(x, text), before)


def test_a_width_that_the_heads_do_not_divide_is_an_error():
    with pytest.raises(ValueError, match="down0.self: 48 channels.*32"):
        Attention(AttentionSite("down0.self", "down", "self", 4), 48)


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="'own'; expected 'self', 'cross' or 'hybrid'"):
        Attention(AttentionSite("mid.own", "mid", "own", 4), 32)


def test_attention_to_words_without_a_text_width_is_an_error():
    with pytest.raises(ValueError, match="mid.cross: kind 'cross' needs a text_width"):
        Attention(AttentionSite("mid.cross", "mid", "cross", 4), 32)


def test_attention_to_words_without_text_is_an_error(x):
    with pytest.raises(ValueError, match="mid.hybrid is of kind 'hybrid': pass text"):
        layer_of("hybrid")(x)
