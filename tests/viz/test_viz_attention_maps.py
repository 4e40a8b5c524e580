"""Controls that catch and change attention, and what the sheets of maps are made of. What the words
find is tested with `sample.attention`.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.scenes import tokens

from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.models.attention import attention_probs
from imagen_mini.models.control import AttentionSite
from imagen_mini.utils.rng import randn
from imagen_mini.viz.attention_maps import (
    Catch,
    Columns,
    find_lines,
    find_sheet,
    heat_over,
    names_of,
    silenced_columns,
    swapped_columns,
    with_words,
    words_of,
)

PROMPTS = ["a red circle above a blue square", "a ring"]
CROSS, SELF, HYBRID = (
    AttentionSite(f"mid.{kind}", "mid", kind, 4) for kind in ("cross", "self", "hybrid")
)


@torch.no_grad()
def one_step(pipe, control, prompts=PROMPTS):
    base = pipe.stages["base"]
    denoise = base.denoiser(pipe.text_encoder(prompts), control_at=lambda t: control)
    return denoise(randn(range(len(prompts)), (3, 64, 64), "base", "x_T"), torch.tensor(0.5))


def test_what_is_caught_is_what_every_layer_computes_with_and_nothing_changes(tiny_pipe):
    catch, maps = Catch(), AttentionStore()
    text, net = tiny_pipe.text_encoder(PROMPTS), tiny_pipe.stages["base"].net
    caught = one_step(tiny_pipe, catch)
    assert torch.allclose(caught, one_step(tiny_pipe, None), atol=1e-5) and set(catch.caught) == {
        s.name for s in net.sites
    }
    maps.start([tiny_pipe.text_encoder.tokens(p) for p in PROMPTS], net.sites)
    one_step(tiny_pipe, maps.watch(None, 0.5))
    for site in maps.sites:
        q, k, v = catch.caught[site.name]
        probs = attention_probs(q, k, text.mask[:, None, None, :])
        assert torch.allclose(probs, maps.after[0.5][site.name], atol=1e-6)
        assert torch.allclose(
            probs @ v,
            F.scaled_dot_product_attention(q, k, v, attn_mask=text.mask[:, None, None, :]),
            atol=1e-5,
        )


def test_exchanging_columns_is_exchanging_values():
    of = [tokens("a red circle"), tokens("a blue square")]
    matrix = swapped_columns(of, [("red", "circle"), ("a", "square")], 5)
    probs, v = (
        torch.rand(2, 3, 16, 5, generator=torch.Generator().manual_seed(0)).softmax(-1),
        torch.rand(2, 3, 5, 8),
    )
    out = Columns(matrix).probs(CROSS, probs, 5)
    assert torch.equal(out[0], probs[0][..., [0, 2, 1, 3, 4]]) and torch.equal(
        out[1], probs[1][..., [2, 1, 0, 3, 4]]
    )
    assert torch.allclose(out[0] @ v[0], probs[0] @ v[0][:, [0, 2, 1, 3, 4]])
    assert torch.equal(Columns(matrix).probs(CROSS, out, 5), probs)  # twice is not at all


def test_words_of_several_pieces_are_exchanged_piece_by_piece_or_refused():
    (matrix,) = swapped_columns([tokens("cr-imson az-ure ring")], [("crimson", "azure")], 6)
    assert matrix.argmax(0).tolist() == [2, 3, 0, 1, 4, 5]
    with pytest.raises(ValueError, match="'crimson' has 2 pieces and 'ring' has 1"):
        swapped_columns([tokens("cr-imson az-ure ring")], [("crimson", "ring")], 6)


def test_a_silenced_word_gets_nothing_and_pixels_keep_theirs():
    matrix = silenced_columns([tokens("a cr-imson ring")], ["crimson"], 5)
    probs = torch.rand(1, 2, 16, 5 + 16).softmax(-1)
    out = Columns(matrix).probs(HYBRID, probs, 5)
    assert (out[..., 1:3] == 0).all()
    assert torch.equal(out[..., [0, 3, 4]], probs[..., [0, 3, 4]]) and torch.equal(
        out[..., 5:], probs[..., 5:]
    )
    assert (
        Columns(matrix).needs_probs(HYBRID)
        and Columns(matrix).needs_probs(CROSS)
        and not Columns(matrix).needs_probs(SELF)
    )


def test_held_maps_take_the_place_of_the_network_s_own():
    held, probs = torch.rand(1, 2, 16, 3).softmax(-1), torch.rand(1, 2, 16, 3).softmax(-1)
    assert torch.equal(
        Columns(torch.eye(3)[None], held={CROSS.name: held}).probs(CROSS, probs, 3), held
    )


def test_changed_columns_reach_the_network_and_the_identity_changes_nothing(tiny_pipe):
    of = [tiny_pipe.text_encoder.tokens(p) for p in PROMPTS]
    n = max(len(t.ids) for t in of)
    plain = one_step(tiny_pipe, None)
    assert torch.allclose(
        one_step(tiny_pipe, Columns(torch.eye(n).repeat(2, 1, 1))), plain, atol=1e-5
    )
    changed = one_step(tiny_pipe, Columns(silenced_columns(of, ["red", "ring"], n)))
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(changed, plain))


def test_words_change_places_all_at_once():
    assert (
        with_words("a red circle above a blue square", {"red": "blue", "blue": "red"})
        == "a blue circle above a red square"
    )


def test_a_map_is_brightest_where_it_is_highest():
    heat = torch.zeros(4, 4)
    heat[1, 2] = 1
    generated = heat_over(torch.zeros(3, 32, 32), heat)
    assert generated.shape == (3, 32, 32) and generated.abs().max() <= 1
    assert divmod(generated.sum(0).argmax().item(), 32) in [
        (y, x) for y in (11, 12) for x in (19, 20)
    ]
    assert heat_over(torch.zeros(3, 32, 32), heat, top=2.0).sum() < generated.sum()


def test_pieces_are_named_and_articles_are_no_words_to_show():
    maps = AttentionStore()
    of = tokens("a cr-imson ring above a ring")
    maps.start(
        [replace(of, pieces=("▁a", "▁cr", "imson", "▁ring", "▁above", "▁a", "▁ring", "</s>"))],
        [CROSS],
    )
    assert names_of(maps) == [
        "a",
        "cr",
        "-imson",
        "ring",
        "above",
        "a",
        "ring",
        "</s>",
    ] and words_of(maps) == ["crimson", "ring", "above"]


def test_the_table_and_the_chart_show_the_report():
    report = {
        "captions": 2,
        "judged": 1,
        "times": [1.0, 0.5],
        "layers": {"up0.cross": 32},
        "chance": {"up0.cross": 0.03},
        "overlap": {"color": {"up0.cross": [0.2, 0.6]}, "shape": {"up0.cross": [0.1, 0.3]}},
    }
    found = [line.split() for line in find_lines(report).splitlines()]
    assert found == [
        ["layer", "grid", "color", "shape", "chance"],
        ["up0.cross", "32", "40%", "20%", "3%"],
    ]
    color, shape = find_sheet(report).axes
    assert (
        list(color.lines[0].get_ydata()) == [0.2, 0.6]
        and list(shape.lines[0].get_ydata()) == [0.1, 0.3]
        and color.lines[1].get_ydata()[0] == 0.03
    )
