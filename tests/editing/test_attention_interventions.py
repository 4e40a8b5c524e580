"""Controls that record attention and that change it."""

import pytest
import torch
import torch.nn.functional as F
from support.scenes import tokens

from imagen_mini.editing.attention_interventions import (
    QKVRecorder,
    TokenColumnMixer,
    column_mask_matrices,
    column_swap_matrices,
    replace_words,
)
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.models.attention import attention_probs
from imagen_mini.models.control import AttentionSite
from imagen_mini.utils.rng import randn

PROMPTS = ["a red circle above a blue square", "a ring"]
CROSS, SELF, HYBRID = (
    AttentionSite(f"mid.{kind}", "mid", kind, 4) for kind in ("cross", "self", "hybrid")
)


@torch.no_grad()
def one_step(pipe, control, prompts=PROMPTS):
    base = pipe.stages["base"]
    denoise = base.denoiser(pipe.text_encoder(prompts), control_at=lambda t: control)
    return denoise(randn(range(len(prompts)), (3, 64, 64), "base", "x_T"), torch.tensor(0.5))


def test_recorded_queries_keys_and_values_are_those_that_every_layer_uses(tiny_pipe):
    recorder, maps = QKVRecorder(), AttentionStore()
    text, net = tiny_pipe.text_encoder(PROMPTS), tiny_pipe.stages["base"].net
    recorded_output = one_step(tiny_pipe, recorder)
    assert torch.allclose(recorded_output, one_step(tiny_pipe, None), atol=1e-5)
    assert set(recorder.recorded) == {s.name for s in net.sites}
    maps.reset([tiny_pipe.text_encoder.tokenize_prompt(p) for p in PROMPTS], net.sites)
    one_step(tiny_pipe, maps.wrap(None, 0.5))
    for site in maps.sites:
        q, k, v = recorder.recorded[site.name]
        probs = attention_probs(q, k, text.mask[:, None, None, :])
        assert torch.allclose(probs, maps.edited[0.5][site.name], atol=1e-6)
        assert torch.allclose(
            probs @ v,
            F.scaled_dot_product_attention(q, k, v, attn_mask=text.mask[:, None, None, :]),
            atol=1e-5,
        )


def test_exchanging_columns_equals_exchanging_values():
    of = [tokens("a red circle"), tokens("a blue square")]
    matrix = column_swap_matrices(of, [("red", "circle"), ("a", "square")], 5)
    probs, v = (
        torch.rand(2, 3, 16, 5, generator=torch.Generator().manual_seed(0)).softmax(-1),
        torch.rand(2, 3, 5, 8),
    )
    out = TokenColumnMixer(matrix).modify_probs(CROSS, probs, 5)
    assert torch.equal(out[0], probs[0][..., [0, 2, 1, 3, 4]]) and torch.equal(
        out[1], probs[1][..., [2, 1, 0, 3, 4]]
    )
    assert torch.allclose(out[0] @ v[0], probs[0] @ v[0][:, [0, 2, 1, 3, 4]])
    assert torch.equal(
        TokenColumnMixer(matrix).modify_probs(CROSS, out, 5), probs
    )  # twice restores the original


def test_words_of_several_pieces_are_exchanged_piece_by_piece_or_refused():
    (matrix,) = column_swap_matrices([tokens("cr-imson az-ure ring")], [("crimson", "azure")], 6)
    assert matrix.argmax(0).tolist() == [2, 3, 0, 1, 4, 5]
    with pytest.raises(ValueError, match="'crimson' has 2 pieces and 'ring' has 1"):
        column_swap_matrices([tokens("cr-imson az-ure ring")], [("crimson", "ring")], 6)


def test_a_masked_word_gets_no_attention_and_pixels_are_unchanged():
    matrix = column_mask_matrices([tokens("a cr-imson ring")], ["crimson"], 5)
    probs = torch.rand(1, 2, 16, 5 + 16).softmax(-1)
    out = TokenColumnMixer(matrix).modify_probs(HYBRID, probs, 5)
    assert (out[..., 1:3] == 0).all()
    assert torch.equal(out[..., [0, 3, 4]], probs[..., [0, 3, 4]]) and torch.equal(
        out[..., 5:], probs[..., 5:]
    )
    assert (
        TokenColumnMixer(matrix).needs_probs(HYBRID)
        and TokenColumnMixer(matrix).needs_probs(CROSS)
        and not TokenColumnMixer(matrix).needs_probs(SELF)
    )


def test_fixed_maps_replace_those_of_the_network():
    fixed, probs = torch.rand(1, 2, 16, 3).softmax(-1), torch.rand(1, 2, 16, 3).softmax(-1)
    assert torch.equal(
        TokenColumnMixer(torch.eye(3)[None], fixed_probs={CROSS.name: fixed}).modify_probs(
            CROSS, probs, 3
        ),
        fixed,
    )


def test_changed_columns_reach_the_network_and_the_identity_changes_nothing(tiny_pipe):
    of = [tiny_pipe.text_encoder.tokenize_prompt(p) for p in PROMPTS]
    n = max(len(t.ids) for t in of)
    plain = one_step(tiny_pipe, None)
    assert torch.allclose(
        one_step(tiny_pipe, TokenColumnMixer(torch.eye(n).repeat(2, 1, 1))), plain, atol=1e-5
    )
    changed = one_step(tiny_pipe, TokenColumnMixer(column_mask_matrices(of, ["red", "ring"], n)))
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(changed, plain))


def test_words_are_replaced_simultaneously():
    assert (
        replace_words("a red circle above a blue square", {"red": "blue", "blue": "red"})
        == "a blue circle above a red square"
    )
