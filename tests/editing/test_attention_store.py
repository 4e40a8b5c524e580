"""Recording attention: what is stored, how it is read, and that no image changes."""

import math

import pytest
import torch
from support.scenes import tokens

from imagen_mini.editing.attention_store import AttentionStore, Recording, bytes_needed
from imagen_mini.editing.base import BoundEdit
from imagen_mini.editing.controls import SourcePromptControl
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Refine, Replace
from imagen_mini.evaluation.localization import attention_iou, chance_iou
from imagen_mini.models.attention import attention_probs
from imagen_mini.models.control import AttentionControl, AttentionSite

SOURCE, TARGET = "a red circle above a blue square", "a red star above a blue square"
QUIET = {"progress": False, "output_type": "pt", "stages": ("base",), "num_inference_steps": 4}
CROSS, SELF = (
    AttentionSite("mid.cross", "mid", "cross", 4),
    AttentionSite("mid.self", "mid", "self", 4),
)


class Doubled(AttentionControl):
    """An edit that doubles the probabilities, so that edited and raw ones can be distinguished."""

    def needs_probs(self, site):
        return site.kind == "cross"

    def modify_probs(self, site, probs, n_text):
        return probs * 2


def recorded(control=None, prompt="a red ring", t=1.0, heads=2, **options):
    """Maps of one step of one layer, its probabilities, and the output of the control."""
    maps = AttentionStore(**options)
    maps.reset([tokens(prompt)], [CROSS, SELF])
    probs = torch.rand(
        1, heads, 16, len(tokens(prompt).ids), generator=torch.Generator().manual_seed(0)
    ).softmax(-1)
    out = maps.wrap(control, t).modify_probs(CROSS, probs, probs.shape[-1])
    return maps, probs, out


def recorded_pixels():
    """Maps of self-attention alone."""
    maps = AttentionStore(kinds=("self",))
    maps.reset([tokens("a ring")], [CROSS, SELF])
    maps.wrap(None, 1.0).modify_probs(SELF, torch.full((1, 1, 16, 16), 1 / 16), 0)
    return maps


# ---------------------------------------------------------------- writing


def test_without_an_edit_probabilities_are_stored_and_returned_unchanged():
    maps, probs, out = recorded()
    assert (
        out is probs
        and torch.equal(maps.edited[1.0]["mid.cross"], probs)
        and maps.raw[1.0]["mid.cross"] is maps.edited[1.0]["mid.cross"]
    )


def test_with_an_edit_raw_and_edited_probabilities_are_stored():
    maps, probs, out = recorded(Doubled())
    assert torch.equal(out, probs * 2)
    assert torch.equal(maps.raw[1.0]["mid.cross"], probs) and torch.equal(
        maps.edited[1.0]["mid.cross"], probs * 2
    )
    assert torch.equal(maps.probs(edited=False) * 2, maps.probs())


def test_a_recorder_needs_what_it_records_and_what_the_edit_needs():
    maps = AttentionStore()
    maps.reset([tokens("ring")], [CROSS, SELF])
    assert maps.wrap(None, 1.0).needs_probs(CROSS) and not maps.wrap(None, 1.0).needs_probs(SELF)
    assert maps.wrap(
        Replace(0.0, 1.0).bind([tokens("ring"), tokens("star")], [CROSS, SELF], 2).control_at(0.0),
        1.0,
    ).needs_probs(SELF)


def test_the_pixel_keys_of_a_hybrid_layer_are_not_stored():
    site = AttentionSite("mid.hybrid", "mid", "hybrid", 2)
    maps = AttentionStore()
    maps.reset([tokens("a ring")], [site])
    probs = torch.rand(1, 1, 4, 3 + 4).softmax(-1)
    maps.wrap(None, 0.5).modify_probs(site, probs, 3)
    assert torch.equal(maps.probs()[0], probs[0, 0, :, :3]) and maps.token_shares().sum() < 1


def test_steps_that_use_the_source_prompt_are_left_out():
    maps = AttentionStore()
    maps.reset([tokens("ring"), tokens("star")], [CROSS])
    assert isinstance(maps.wrap(SourcePromptControl(), 1.0), SourcePromptControl) and isinstance(
        maps.wrap(None, 0.5), Recording
    )


def test_reset_clears_what_was_recorded():
    maps, _, _ = recorded()
    maps.reset([tokens("star")], [CROSS])
    assert not maps.edited and not maps.raw and maps.tokens[0].words == ("star",)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"kinds": ("hybrid",)},
            "kinds hybrid .* the network has mid.cross .cross, 4 x 4., mid.self",
        ),
        ({"max_size": 2}, "grids of at most 2 were asked for"),
    ],
)
def test_nothing_to_record_is_an_error_that_lists_the_attention_layers(options, message):
    with pytest.raises(ValueError, match=message):
        recorded(**options)


# ---------------------------------------------------------------- in the pipeline


@pytest.mark.parametrize(
    "edit",
    [None, Replace(1.0, 1.0), Chain(PromptSwitching(0.25), Refine(0.5, 0.5))],
    ids=["plain", "replace", "refine"],
)
def test_recording_changes_no_image(tiny_pipe, edit):
    from copy import deepcopy

    pipe = deepcopy(tiny_pipe)
    pipe.stages["base"].double()
    maps = AttentionStore(kinds=("cross", "self"))
    plain = pipe([SOURCE, TARGET], edit=edit, **QUIET).stages["base"]
    recorded_too = pipe([SOURCE, TARGET], edit=edit, attention_store=maps, **QUIET).stages["base"]
    assert (plain - recorded_too).abs().max() < 1e-9 and maps.edited


def test_recorded_probabilities_are_those_of_the_network(tiny_pipe):
    """Every step, layer and head; every row adds up to 1 over its own words, and padding
    tokens get exactly 0.
    """
    maps, net = AttentionStore(kinds=("cross", "self")), tiny_pipe.stages["base"].net
    tiny_pipe(["a ring", SOURCE], attention_store=maps, **QUIET)
    assert (
        len(maps.times) == 4
        and maps.times[0] == 1.0
        and maps.times == sorted(maps.times, reverse=True)
    )
    for by_site in maps.edited.values():
        assert set(by_site) == {s.name for s in net.sites}
        for layer in net.attention_layers:
            probs = by_site[layer.site.name]
            assert probs.shape[:3] == (2, layer.heads, layer.site.size**2) and torch.allclose(
                probs.sum(-1), torch.ones(()), atol=1e-5
            )
    of_short = maps.probs()[0]
    assert (of_short[:, :3] > 0).all() and (of_short[:, 3:] == 0).all()


def test_a_recorded_map_is_the_softmax_of_queries_and_keys(tiny_pipe):
    maps, layer = (
        AttentionStore(),
        next(a for a in tiny_pipe.stages["base"].net.attention_layers if a.site.kind == "cross"),
    )
    seen = []

    class QKReader(AttentionControl):
        def modify_qkv(self, site, q, k, v):
            if site == layer.site:
                seen.append((q, k))
            return q, k, v

    class Edit(BoundEdit):
        def bind(self, *_):
            return self

        def control_at(self, done):
            return QKReader()

    tiny_pipe(
        [SOURCE, SOURCE], attention_store=maps, edit=Edit(), **QUIET | {"guidance_scale": 1.0}
    )
    expected = [attention_probs(q, k, None) for q, k in seen]
    assert len(expected) == 4
    for t, probs in zip(maps.times, expected):
        assert torch.allclose(maps.edited[t][layer.site.name], probs, atol=1e-6)


def test_with_an_edit_the_maps_of_the_target_become_those_of_the_source(tiny_pipe):
    maps = AttentionStore()
    tiny_pipe(
        [SOURCE, TARGET],
        attention_store=maps,
        edit=Replace(1.0, 0.0),
        **QUIET,
    )
    before, after = maps.probs(edited=False), maps.probs()
    assert (
        torch.equal(after[0], before[0])
        and torch.allclose(after[1], after[0])
        and not torch.allclose(before[1], before[0], atol=1e-4)
    )


def test_another_stage_may_be_recorded(tiny_pipe):
    maps = AttentionStore(stage="sr_256")
    tiny_pipe("a ring", attention_store=maps, progress=False)
    assert len(maps.times) == tiny_pipe.stages["sr_256"].config.num_inference_steps
    with pytest.raises(
        ValueError,
        match=r"attention_store.stage: no stage \['sr_256'\] is sampled; expected of \['base'\]",
    ):
        tiny_pipe("a ring", attention_store=maps, **QUIET)


def test_memory_is_estimated_before_it_is_allocated(tiny_pipe):
    layers = tiny_pipe.stages["base"].net.attention_layers
    maps = AttentionStore(kinds=("cross", "self"))
    tiny_pipe([SOURCE, "a ring"], attention_store=maps, **QUIET)
    taken = sum(
        probs.numel() * probs.element_size()
        for by_site in maps.edited.values()
        for probs in by_site.values()
    )
    assert taken == bytes_needed(
        layers, 2, len(tiny_pipe.text_encoder.tokenize_prompt(SOURCE).ids), 4
    )
    calls = []
    hook = tiny_pipe.stages["base"].net.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(
        ValueError,
        match="attention layers of 2 images over 4 steps takes 0.[0-9] MiB, max_bytes allows "
        "0.[0-9]: sample fewer",
    ):
        tiny_pipe(
            [SOURCE, "a ring"],
            attention_store=AttentionStore(kinds=("cross", "self"), max_bytes=taken - 1),
            **QUIET,
        )
    hook.remove()
    assert not calls


def test_memory_of_the_shipped_base_over_50_steps_is_bounded():
    from imagen_mini.cascade.config import PRESETS
    from imagen_mini.models.unet import UNet

    with torch.device("meta"):
        layers = UNet(PRESETS["mini"]["base"].unet).attention_layers
    assert bytes_needed(layers, 1, 24, 50) < 2**27


# ---------------------------------------------------------------- reading


def test_a_word_s_map_is_the_sum_of_its_pieces_averaged_over_heads():
    maps, probs, _ = recorded(prompt="a cr-im-son ring")
    assert torch.allclose(maps.word_map("crimson"), probs[0, :, :, 1:4].sum(-1).mean(0).view(4, 4))
    assert torch.allclose(maps.word_map("ring", head=1), probs[0, 1, :, 4].view(4, 4))
    assert torch.allclose(maps.of_tokens([5]), probs[0, :, :, 5].mean(0).view(4, 4))  # the end


def test_steps_and_layers_are_averaged_unless_named():
    maps = AttentionStore()
    sites = [
        AttentionSite(name, "mid", "cross", size) for name, size in (("a", 2), ("b", 2), ("c", 4))
    ]
    maps.reset([tokens("ring")], sites)
    for t, value in ((1.0, 0.2), (0.5, 0.4)):
        for site, factor in zip(sites, (1, 2, 0.5)):
            ring = torch.full((1, 1, site.size**2, 1), value * factor)
            maps.wrap(None, t).modify_probs(site, torch.cat([ring, 1 - ring], -1), 2)
    assert maps.sizes == [4, 2] and maps.times == [1.0, 0.5]

    def ring(**chosen):
        heat = maps.word_map("ring", **chosen)
        assert (heat - heat[0, 0]).abs().max() < 1e-6
        return tuple(heat.shape), round(heat[0, 0].item(), 4)

    assert ring() == ((4, 4), 0.15) and ring(size=2) == ((2, 2), 0.45)
    assert (
        ring(site="b") == ((2, 2), 0.6)
        and ring(site="b", times=[0.5]) == ((2, 2), 0.8)
        and ring(size=2, times=[1.0]) == ((2, 2), 0.3)
    )
    assert maps.token_shares(site="a").tolist() == pytest.approx([0.3, 0.7])


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda m: m.word_map("star"), "no word 'star' in 'a red ring'"),
        (
            lambda m: m.word_map("ring", site="up"),
            "no attention layer 'up' is recorded; there are mid.cross",
        ),
        (
            lambda m: m.word_map("ring", size=8),
            "grid of 8 is recorded; there are grids of 4",
        ),
        (lambda m: AttentionStore().probs(), "nothing is recorded yet"),
        (lambda m: m.probs(times=[0.5]), r"times \[0.5\] are not recorded; there are \[1.0\]"),
        (lambda m: m.probs(head=2), "head 2; expected one from 0 to 1"),
        (lambda m: recorded_pixels().probs(), "self-attention is recorded, and no attention to wo"),
    ],
)
def test_a_missing_word_layer_or_grid_is_an_error_that_lists_what_is_recorded(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(recorded()[0])


# ---------------------------------------------------------------- overlap with the object


def test_a_map_highest_on_the_object_overlaps_it_fully_and_its_negative_not_at_all():
    mask = torch.zeros(64, 64)
    mask[8:24, 32:48] = 1
    heat = torch.rand(16, 16) * 0.5
    heat[2:6, 8:12] += 1
    assert attention_iou(heat, mask) == 1 and attention_iou(-heat, mask) == 0
    half = torch.rand(16, 16) * 0.5
    half[2:6, 10:14] += 1  # half of it is beside the object
    assert attention_iou(half, mask) == pytest.approx(1 / 3)


def test_an_object_smaller_than_a_grid_cell_is_searched_in_its_cell():
    mask = torch.zeros(64, 64)
    mask[33:36, 1:4] = 1
    heat = torch.zeros(8, 8)
    heat[4, 0] = 1
    assert attention_iou(heat, mask) == 1


def test_the_overlap_of_a_random_map_is_the_overlap_by_chance():
    mask = torch.zeros(64, 64)
    mask[:32, :32] = 1
    g = torch.Generator().manual_seed(0)
    mean = sum(attention_iou(torch.rand(32, 32, generator=g), mask) for _ in range(100)) / 100
    assert math.isclose(mean, chance_iou(mask, 32), abs_tol=0.01) and math.isclose(
        chance_iou(mask, 32), 0.25 / 1.75
    )
