"""Editing given images: what each method has to return exactly, and what it refuses."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.scenes import tokens

from imagen_mini import ImagenPipeline
from imagen_mini.diffusion.schedules import cosine_log_snr
from imagen_mini.diffusion.timesteps import uniform_timesteps
from imagen_mini.editing.base import BoundEdit, Edit
from imagen_mini.editing.blending import DiffEditMask, LocalBlend
from imagen_mini.editing.given_images import (
    DiffEdit,
    DirectInversion,
    EdictInversion,
    GivenImage,
    NullTextInversion,
    RePaint,
    edited_denoiser,
)
from imagen_mini.editing.masactrl import MasaCtrl
from imagen_mini.editing.plug_and_play import PlugAndPlay
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.models.control import AttentionControl, AttentionSite, BlockSite
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.text.encoder import TextEmbeddings
from imagen_mini.utils.images import to_pil

SCENE = Scene((SceneObject(30, 30, "circle", "red", "large", "solid"),), "white")
IMAGE = render(SCENE, 64)
SOURCE, TARGET = "a red circle", "a red star"
MASK = torch.zeros(64, 64)
MASK[16:48, 16:48] = 1
INVERSIONS = ("ddim", "negative-prompt", "null-text", "direct", "edict")
FAST = {
    "stages": ("base",),
    "num_inference_steps": 5,
    "progress": False,
    "output_type": "pt",
    "seed": 3,
}


@pytest.fixture(scope="module")
def exact_pipe(tiny_pipe):
    """In float64, so that only what a method does differs and not how it was rounded."""
    pipe = deepcopy(tiny_pipe)
    pipe.stages["base"].double()
    return pipe


def edited(pipe, method, target=TARGET, **options):
    return pipe.edit(IMAGE, SOURCE, target, method, **FAST | options).images


def missed(images):
    return (images[:1] - IMAGE).abs().mean().item()


# ---------------------------------------------------------------- reconstruction


def test_with_the_source_as_negative_prompt_guidance_does_not_touch_the_source(exact_pipe):
    plain = edited(exact_pipe, "ddim", guidance_scale=1.0)
    kept = edited(exact_pipe, "negative-prompt", guidance_scale=6.0)
    drifted = edited(exact_pipe, "ddim", guidance_scale=6.0)
    assert (kept[0] - plain[0]).abs().max() < 1e-4
    assert (drifted[0] - plain[0]).abs().max() > 0.05
    assert (kept[1] - kept[0]).abs().max() > 0.01  # and the target is another image


def test_null_texts_are_optimised_where_there_is_guidance_and_nowhere_else(exact_pipe):
    for w, same in ((1.0, True), (6.0, False)):
        plain = edited(exact_pipe, "ddim", guidance_scale=w)
        assert torch.equal(edited(exact_pipe, "null-text", guidance_scale=w), plain) == same


@pytest.mark.slow
def test_optimised_null_texts_bring_a_trained_network_back_to_the_image():
    pipe = ImagenPipeline.from_pretrained("scenes")
    image = render(replace(SCENE, background="black"), 64)

    def missed_by(method, w):
        options = {"num_inference_steps": 16, "strength": 0.9, "guidance_scale": w}
        back = pipe.edit(image, SOURCE, TARGET, method, **FAST | options).images[:1]
        return (back - image).abs().mean().item()

    plain, drifted = missed_by("ddim", 1.0), missed_by("ddim", 5.0)
    assert drifted > 2 * plain and missed_by("null-text", 5.0) < 1.2 * plain


@pytest.mark.parametrize("w", [1.0, 6.0])
def test_edict_leads_back_to_the_image_under_guidance(exact_pipe, w):
    assert missed(edited(exact_pipe, "edict", guidance_scale=w)) < 1e-6
    assert missed(edited(exact_pipe, EdictInversion(0.8), guidance_scale=w)) < 1e-6
    assert missed(edited(exact_pipe, "ddim", guidance_scale=w)) > 1e-3


@pytest.mark.parametrize("method", ["direct", "pnp", "masactrl"])
def test_the_source_of_direct_inversion_is_the_image(exact_pipe, method):
    images = edited(exact_pipe, method, guidance_scale=6.0)
    assert torch.equal(images[:1], IMAGE) and (images[1] - images[0]).abs().max() > 0.01


@pytest.mark.parametrize("method", INVERSIONS)
def test_an_edit_that_never_leaves_the_source_s_prompt_returns_the_source(exact_pipe, method):
    source, target = edited(exact_pipe, method, edit=PromptSwitching(1.0), guidance_scale=1.0)
    if method == "direct":  # its target is free to drift, as that of ddim does
        source = edited(exact_pipe, "ddim", guidance_scale=1.0)[0]
    assert (source - target).abs().max() < 1e-4


@pytest.mark.parametrize("method", INVERSIONS)
def test_attention_is_injected_on_top_and_leaves_the_source_alone(exact_pipe, method):
    plain, injected = (
        edited(exact_pipe, method, edit=e, guidance_scale=3.0) for e in (None, Replace())
    )
    assert (plain[0] - injected[0]).abs().max() < 1e-6
    assert (plain[1] - injected[1]).abs().max() > 1e-6


# ---------------------------------------------------------------- Plug-and-Play, MasaCtrl


def test_plug_and_play_without_a_window_is_direct_inversion(exact_pipe):
    nothing = edited(exact_pipe, "direct", edit=PlugAndPlay(0.0, 0.0))
    assert torch.equal(nothing, edited(exact_pipe, "direct"))
    assert not torch.equal(nothing, edited(exact_pipe, "pnp"))
    whole = edited(exact_pipe, "direct", edit=PlugAndPlay())
    assert torch.equal(whole, edited(exact_pipe, "pnp"))


@pytest.mark.parametrize("edit", [PlugAndPlay(1.0, 1.0), MasaCtrl(1.0)])
def test_injecting_from_a_source_of_the_same_prompt_reproduces_the_source(exact_pipe, edit):
    options = FAST | {"seed": 1}
    source, target = exact_pipe([SOURCE, SOURCE], edit=edit, **options).images
    assert (source - target).abs().max() < 1e-9
    source, target = exact_pipe([SOURCE, TARGET], edit=edit, **options).images
    assert (source - target).abs().max() > 1e-6


SELF_UP, SELF_DOWN, CROSS_UP = (
    AttentionSite("up1.self", "up", "self", 4),
    AttentionSite("down1.self", "down", "self", 4),
    AttentionSite("up1.cross", "up", "cross", 4),
)


def test_plug_and_play_takes_queries_keys_and_coarse_features_and_masactrl_keys_and_values():
    q, k, v = torch.rand(3, 3, 2, 16, 4)

    def bound(edit):
        return edit.bind([tokens("a ring"), tokens("a star")], [SELF_UP, SELF_DOWN, CROSS_UP], 3)

    def taken(control, site):
        out = control.modify_qkv(site, q, k, v)
        for before, after in zip((q, k, v), out):
            assert torch.equal(after[0], before[0])  # the source is itself
        return [
            all(torch.equal(row, before[0]) for row in after)
            for before, after in zip((q, k, v), out)
        ]

    plug = bound(PlugAndPlay(0.8, 0.5))
    assert taken(plug.control_at(0.0), SELF_UP) == [True, True, False]
    assert taken(plug.control_at(0.6), SELF_UP) == [False] * 3
    assert plug.control_at(0.6).needs_features(BlockSite("up1.block0", "up", 4))
    assert not plug.control_at(0.6).needs_features(BlockSite("up0.block0", "up", 8))
    assert plug.control_at(0.9) is None
    mutual = bound(MasaCtrl())
    assert mutual.control_at(0.0) is None
    assert taken(mutual.control_at(0.1), SELF_UP) == [False, True, True]
    for control in (plug.control_at(0.0), mutual.control_at(0.1)):
        assert taken(control, SELF_DOWN) == taken(control, CROSS_UP) == [False] * 3
    for edit in (PlugAndPlay(), MasaCtrl()):
        with pytest.raises(ValueError, match="no self-attention in its decoder.*down1.self"):
            edit.bind([tokens("a ring"), tokens("a star")], [SELF_DOWN, CROSS_UP], 3)


@pytest.mark.parametrize("both", [True, False])
def test_the_unconditional_branch_is_controlled_where_the_edit_asks_for_it(both):
    class Bound(BoundEdit):
        controls_both_branches = both

        def control_at(self, done):
            return AttentionControl()

    asked = []

    def denoiser(text, guidance_scale=1.0, control_at=None):
        asked.append(control_at is not None and control_at(1.0) is not None)
        return lambda x_t, t: x_t

    given = given_image(denoiser)
    edited_denoiser(given, Bound())
    assert asked == [True, both]
    # one text for each step, as of null-text inversion
    asked.clear()
    edited_denoiser(given, Bound(), [given.text] * given.steps)
    assert asked == [True] + [both] * given.steps


def given_image(denoiser, **options):
    """A given image without a network."""
    text = TextEmbeddings(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    return GivenImage(
        image=IMAGE,
        tokens=[tokens("a ring"), tokens("a star")],
        text=text,
        sites=[SELF_UP, CROSS_UP],
        denoiser=denoiser,
        timesteps=uniform_timesteps(4),
        schedule=cosine_log_snr,
        guidance_scale=2.0,
        noise=lambda purpose, number: torch.randn(IMAGE.shape),
        **options,
    )


# ---------------------------------------------------------------- noise and masks


def test_sdedit_is_that_of_a_call_with_an_image_and_of_strength_0_the_image(tiny_pipe):
    for strength in (0.3, 1.0):
        call = tiny_pipe(TARGET, image=IMAGE, strength=strength, **FAST).images
        images = edited(tiny_pipe, "sdedit", strength=strength)
        # the time is rounded otherwise
        assert torch.allclose(images[1:], call, atol=1e-4) and torch.equal(images[:1], IMAGE)
    assert torch.equal(edited(tiny_pipe, "sdedit", strength=0)[1:], IMAGE)


def test_sdedit_of_strength_1_is_sampling_up_to_the_trace_of_the_image(exact_pipe):
    sampled = exact_pipe(TARGET, **FAST).images
    assert (edited(exact_pipe, "sdedit", strength=1.0)[1:] - sampled).abs().max() < 1e-2


@pytest.mark.parametrize("method", ["blend", "repaint", "diffedit"])
def test_outside_of_the_mask_the_image_stays_to_the_last_bit(tiny_pipe, method):
    images = edited(tiny_pipe, method, mask=MASK)
    inside = MASK.bool()
    assert torch.equal(images[1][:, ~inside], IMAGE[0][:, ~inside])
    assert (images[1] - IMAGE[0])[:, inside].abs().max() > 0.01


def test_of_strength_0_the_image_stays(tiny_pipe):
    assert torch.equal(edited(tiny_pipe, "blend", mask=MASK, strength=0)[1:], IMAGE)


@pytest.mark.parametrize("method", INVERSIONS)
def test_an_inversion_up_to_less_noise_takes_only_the_steps_below_it(tiny_pipe, method):
    seen = []
    near = edited(
        tiny_pipe,
        method,
        num_inference_steps=8,
        strength=0.5,
        on_step=lambda _, state: seen.append(state.t),
    )
    assert len(seen) == 4 and seen[0] == 0.5 and seen == sorted(seen, reverse=True)
    assert not torch.equal(near, edited(tiny_pipe, method, num_inference_steps=8))


def test_where_everything_may_change_blending_is_sdedit_and_repaint_sampling(tiny_pipe):
    everywhere = torch.ones(64, 64)
    blended = edited(tiny_pipe, "blend", mask=everywhere, strength=0.7)
    assert torch.equal(blended, edited(tiny_pipe, "sdedit", strength=0.7))
    repainted = edited(tiny_pipe, RePaint(rounds=1), mask=everywhere)
    assert torch.equal(repainted[1:], tiny_pipe(TARGET, sampler="ddpm", **FAST).images)
    assert not torch.equal(repainted, edited(tiny_pipe, RePaint(rounds=2), mask=everywhere))


def test_diffedit_keeps_to_the_inverted_trajectory_outside_of_its_mask(tiny_pipe):
    """With prompts that agree, nothing but rounding of one trajectory is left: inside and outside
    are the same inverted image, sampled back.
    """
    plain = edited(tiny_pipe, "diffedit", mask=torch.ones(64, 64), guidance_scale=1.0)
    masked = edited(tiny_pipe, "diffedit", mask=MASK, guidance_scale=1.0)
    assert torch.equal(masked[:1], IMAGE) and not torch.equal(masked[1], plain[1])
    found = edited(tiny_pipe, "diffedit")  # the mask is where the prompts disagree
    named = edited(tiny_pipe, DiffEdit(DiffEditMask()))
    assert torch.equal(found, named)


def test_a_mask_can_be_the_place_of_a_word_or_of_disagreement(tiny_pipe):
    for mask in (LocalBlend("circle"), DiffEditMask()):
        images = edited(tiny_pipe, "blend", mask=mask)
        changed = (images[1] != IMAGE[0]).any(0)
        assert changed.any()
    with pytest.raises(ValueError, match="no word 'star'|neither the source"):
        edited(tiny_pipe, "blend", mask=LocalBlend("star"))


def test_masks_of_all_types_are_the_same_mask(tiny_pipe):
    white = Image.fromarray((MASK.numpy() * 255).astype(np.uint8))
    expected = edited(tiny_pipe, "blend", mask=MASK)
    for mask in (MASK.bool(), MASK[None, None], MASK.numpy(), (MASK * 255).byte(), white):
        assert torch.equal(edited(tiny_pipe, "blend", mask=mask), expected)
    # a PIL image goes the way of the given one: the middle square, resized
    image = to_pil(IMAGE)[0].resize((128, 128), Image.Resampling.NEAREST)
    out = tiny_pipe.edit(
        image, "", TARGET, "blend", mask=white.resize((128, 128), Image.Resampling.NEAREST), **FAST
    )
    changed = (out.images[1] != out.images[0]).any(0)
    assert changed[20:44, 20:44].all() and not changed[:14].any()


# ---------------------------------------------------------------- the call


def test_each_of_several_targets_is_edited_as_it_would_be_alone(exact_pipe):
    targets = [TARGET, "a blue ring"]
    for method, options in (("negative-prompt", {}), ("blend", {"mask": MASK}), ("edict", {})):
        together = edited(exact_pipe, method, targets, **options)
        assert len(together) == 3
        for i, target in enumerate(targets):
            alone = edited(exact_pipe, method, target, **options)
            # text encoded in another batch differs in its last bits
            assert (together[1 + i] - alone[1]).abs().max() < 1e-3


def test_a_picture_from_a_camera_and_its_mask_go_the_same_way(tiny_pipe, tmp_path):
    """EXIF says how an image is to be turned, and a viewer shows both as turned."""
    wide = Image.new("RGB", (96, 64), "gray")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    wide.save(tmp_path / "given.jpg", exif=exif)
    mask = Image.new("L", (64, 96), 0)
    mask.paste(255, (0, 0, 32, 96))
    half = torch.zeros(64, 64)
    half[:, :32] = 1
    for given in (Image.open(tmp_path / "given.jpg"), [Image.open(tmp_path / "given.jpg")]):
        found = tiny_pipe.edit(given, SOURCE, TARGET, "blend", mask=mask, strength=0.5, **FAST)
        by_array = tiny_pipe.edit(given, SOURCE, TARGET, "blend", mask=half, strength=0.5, **FAST)
        assert torch.equal(found.images, by_array.images)


def test_with_a_mask_diffedit_needs_no_caption(tiny_pipe):
    with_caption = tiny_pipe.edit(IMAGE, SOURCE, TARGET, "diffedit", mask=MASK, **FAST).images
    without = tiny_pipe.edit(IMAGE, "", TARGET, "diffedit", mask=MASK, **FAST).images
    assert torch.allclose(without, with_caption, atol=1e-5)
    for mask in (None, LocalBlend("circle"), DiffEditMask()):
        with pytest.raises(ValueError, match="reads the prompt of the source"):
            tiny_pipe.edit(IMAGE, "", TARGET, "diffedit", mask=mask, **FAST)


def test_repaint_adds_fresh_noise_where_it_is_asked_to(tiny_pipe):
    found = [
        tiny_pipe.edit(IMAGE, "", TARGET, "repaint", mask=MASK, sampler="ddim", eta=eta, **FAST)
        for eta in (0.0, 1.0)
    ]
    assert not torch.allclose(found[0].images, found[1].images, atol=1e-3)


def test_options_that_one_stage_uses_are_no_error(tiny_pipe):
    """Guidance is off at super-resolution, so that an interval is the base stage's alone."""
    options = {"num_inference_steps": 2, "guidance_scale": {"base": 2.0, "sr_256": 1.0}}
    options |= {"progress": False, "output_type": "pt", "seed": 3}
    out = tiny_pipe.edit(
        IMAGE, SOURCE, TARGET, "sdedit", guidance_interval=(0.1, 5.0), strength=0.5, **options
    )
    assert list(out.stages) == list(tiny_pipe.stages) and list(out.seconds) == list(out.stages)


def test_the_stages_after_the_first_enlarge_the_edit(tiny_pipe):
    seen = []
    options = {"num_inference_steps": 2, "progress": False}
    out = tiny_pipe.edit(
        to_pil(IMAGE)[0], SOURCE, TARGET, on_step=lambda name, state: seen.append(name), **options
    )
    assert [image.size for image in out.images] == [(256, 256)] * 2
    assert out.stages["base"].shape == (2, 3, 64, 64) and out.stages["sr_256"].shape[-1] == 256
    assert seen == ["base"] * 2 + ["sr_256"] * 2 and set(out.seconds) == {"base", "sr_256"}
    large = tiny_pipe([SOURCE, TARGET], 0, low_res=out.stages["base"], **options)
    assert torch.equal(large.stages["sr_256"], out.stages["sr_256"])


def test_a_method_may_be_an_object_and_an_edit_a_list(tiny_pipe):
    by_name = edited(tiny_pipe, "direct", edit=[Replace(), PromptSwitching(0.4)])
    assert torch.equal(
        by_name, edited(tiny_pipe, DirectInversion(), edit=[Replace(), PromptSwitching(0.4)])
    )


class Silent(Edit):
    def bind(self, tokens, sites, batch_tokens):
        return BoundEdit()


@pytest.mark.parametrize(
    "method, options, message",
    [
        ("blend", {}, "method 'blend' needs a mask"),
        ("blend", {"mask": torch.ones(32, 32)}, r"mask \[32, 32\]: expected \[64, 64\]"),
        ("blend", {"mask": Image.new("L", (32, 32), 255)}, "mask of 32 x 32 pixels.*64 x 64"),
        ("blend", {"mask": torch.full((64, 64), 0.5)}, "values from 0.5 to 0.5; expected 0"),
        ("blend", {"mask": torch.zeros(64, 64)}, "0 everywhere, so nothing may change"),
        ("ddim", {"mask": MASK}, "a mask with method 'ddim', which does not use one"),
        ("repaint", {"strength": 0.5, "mask": MASK}, "strength 0.5 with method 'repaint', which"),
        ("ddim", {"strength": 0.0}, "strength 0.0 with method 'ddim': none of the 5 steps is left"),
        ("sdedit", {"strength": 1.5}, "strength 1.5; expected a time from 0"),
        ("sdedit", {"edit": Silent()}, "edit=Silent.*with method 'sdedit'"),
        ("pnp", {"edit": Replace()}, "method 'pnp' has its edit, PlugAndPlay"),
        ("ddim", {"sampler": "dpmpp_2m"}, "'dpmpp_2m' with method 'ddim': an inversion retraces"),
        ("repaint", {"sampler": "heun", "mask": MASK}, "'heun' with method 'repaint'.*'ddpm' or"),
        ("null-text", {"threshold": "dynamic"}, "threshold 'dynamic' with method 'null-text'"),
        ("edict", {"eta": 0.5}, "eta 0.5 with method 'edict': an inversion cannot"),
        ("repaint", {"eta": 0.5, "mask": MASK}, "eta 0.5 is not used: .*base with ddpm"),
        ("ddpm", {}, "method 'ddpm'; expected one of 'ddim'"),
        ("ddim", {"seed": [1, 2]}, r"seed \[1, 2\]; expected one for source and targets"),
        ("ddim", {"num_inference_steps": {"bse": 7}}, r"num_inference_steps: no stage \['bse'\]"),
        ("ddim", {"edit": [MasaCtrl(), LocalBlend("circle")]}, "MasaCtrl does not combine"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_sampled(
    tiny_pipe, method, options, message, monkeypatch
):
    monkeypatch.setattr(type(tiny_pipe.stages["base"].net), "forward", None)
    with pytest.raises(ValueError, match=message):
        edited(tiny_pipe, method, **options)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"image": IMAGE * 3}, ValueError, "image: values from .* expected"),
        ({"image": IMAGE[..., :32]}, ValueError, r"image \[1, 3, 64, 32\]: expected"),
        ({"image": IMAGE.repeat(2, 1, 1, 1)}, ValueError, "image: 2 images; expected one"),
        ({"image": "photo.png"}, TypeError, "image str; expected a tensor"),
        ({"source": [SOURCE]}, TypeError, "source .* expected one caption"),
        ({"source": ""}, ValueError, "'negative-prompt' reads the prompt of the source"),
        ({"method": DirectInversion}, TypeError, "or a method such as NullTextInversion"),
        ({"mask": "circle", "method": "blend"}, TypeError, "mask str; expected an array"),
    ],
)
def test_bad_images_and_prompts_are_refused(tiny_pipe, change, error, message):
    given = {"image": IMAGE, "source": SOURCE, "target": TARGET, "method": "negative-prompt"}
    with pytest.raises(error, match=message):
        tiny_pipe.edit(**given | change, **FAST)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: NullTextInversion(0), "inner_steps: expected an integer of at least 1"),
        (lambda: NullTextInversion(learning_rate=0.0), "learning_rate 0.0; expected"),
        (lambda: EdictInversion(0.0), "expected a share above 0"),
        (lambda: RePaint(0), "rounds: expected an integer of at least 1"),
        (lambda: PlugAndPlay(1.5), "features_until=1.5: expected a share"),
        (lambda: MasaCtrl((0.5, 0.1)), "steps=.*expected a share"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_method_that_needs_a_mask_says_so_without_a_pipeline():
    given = given_image(lambda text, guidance_scale=1.0, control_at=None: lambda x_t, t: x_t)
    with pytest.raises(ValueError, match="needs a mask"):
        next(RePaint().run(given))
    assert next(RePaint().run(replace(given, mask=torch.ones(1, 1, 64, 64), sampler="ddpm")))
