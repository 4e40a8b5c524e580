"""Guides in the pipeline: what does nothing changes nothing, what does something does it, and no
image depends on the others.
"""

import copy

import pytest
import torch

from imagen_mini.cascade.sampling_options import resolve_sampling_options
from imagen_mini.diffusion.guidance import guide_by_loss
from imagen_mini.diffusion.samplers import sample
from imagen_mini.editing.attention_guidance import attention_recorder
from imagen_mini.editing.guides import (
    AttendAndExcite,
    AttentionLayout,
    AttentionRefocusing,
    ClassifierGuide,
    ComposedPrompts,
    ContentInjection,
    DirectionGuide,
    Guide,
    Guides,
    LossGuide,
    StructuredPrompt,
    and_not_parts,
    attention_grid,
    wanted_nouns,
)
from imagen_mini.editing.h_space import ShiftFeatures, middle_site, sample_with_direction
from imagen_mini.editing.image_losses import box_mask, color_loss, image_loss
from imagen_mini.guided_generation import guided_call
from imagen_mini.models.control import AttentionSite
from imagen_mini.prompt_to_prompt import (
    Chain,
    DiffEditMask,
    LocalBlend,
    PromptSwitching,
    Replace,
)
from imagen_mini.utils.rng import randn

PROMPTS = ["a red circle and a blue square", "a small star"]
RED = color_loss((1, 0, 0), box_mask((0, 0, 0.5, 0.5), 64))


@pytest.fixture
def images(tiny_pipe):
    def images(prompts=PROMPTS, seed=(3, 4), **options):
        options = {"num_inference_steps": 3, "guidance_scale": 2.0, "sampler": "ddim"} | options
        seeds = seed if isinstance(seed, int) else list(seed)[: len(prompts)]
        return tiny_pipe(
            list(prompts), seed=seeds, stages=("base",), progress=False, output_type="pt", **options
        ).images

    return images


@pytest.mark.parametrize(
    "guide",
    [
        Guide(),
        Guides(()),
        LossGuide(RED, 0.0),
        ComposedPrompts([[(p, 1.0)] for p in PROMPTS]),
        StructuredPrompt([[], []]),
        AttendAndExcite(until=0.0),
        ClassifierGuide(lambda captions: lambda x, log_snr: x.sum((1, 2, 3)), 0.0),
    ],
    ids=lambda guide: type(guide).__name__,
)
def test_a_guide_that_asks_for_nothing_changes_nothing(images, guide):
    assert torch.allclose(images(guide=guide), images(), rtol=0, atol=1e-4)


def test_a_loss_guides_as_it_does_without_a_pipeline(tiny_pipe, images):
    stage = tiny_pipe.stages["base"]
    denoise = stage.denoiser(tiny_pipe.text_encoder(PROMPTS), guidance_scale=2.0)
    guided = guide_by_loss(denoise, RED, 30.0, stage.schedule)
    x_T = randn([3, 4], (3, 64, 64), "base", "x_T")
    *_, last = sample(guided, x_T, stage.timesteps(3), stage.schedule, "ddim")
    found = images(guide=LossGuide(RED, 30.0))
    assert torch.allclose(found, last.x_0_hat.clamp(-1, 1), rtol=0, atol=1e-4)
    assert (RED(found) < RED(images())).all()


def test_backward_guidance_and_rounds_lower_a_loss_further(images):
    losses = [
        RED(images(guide=guide)).sum().item()
        for guide in (LossGuide(RED, 5.0), LossGuide(RED, 5.0, backward_steps=5, backward_rate=100))
    ]
    assert losses[1] < 0.5 * losses[0]
    again = images(guide=LossGuide(RED, 5.0, rounds=2))
    assert again.isfinite().all() and not torch.allclose(again, images(guide=LossGuide(RED, 5.0)))


def test_gamma_is_that_of_every_round(images):
    options = {"sampler": "ddpm", "guide": LossGuide(RED, 1.0, rounds=2)}
    small, large = (images(gamma=gamma, **options) for gamma in (0.0, 1.0))
    assert not torch.allclose(small, large, atol=1e-3)


@pytest.mark.parametrize(
    "guide",
    [
        LossGuide(RED, 30.0, rounds=2),
        AttendAndExcite(rate=300.0, most=3),
        AttentionLayout([{"square": (0, 0, 0.5, 1)}, {"star": (0.5, 0, 1, 1)}], rate=300.0),
        AttentionRefocusing([{"square": (0, 0, 0.5, 1)}, {"star": (0.5, 0, 1, 1)}], rate=300.0),
        StructuredPrompt(),
        ComposedPrompts(),
    ],
    ids=lambda guide: type(guide).__name__,
)
def test_a_guide_changes_images_and_none_depends_on_the_others(images, guide):
    together = images(guide=guide)
    assert not torch.allclose(together, images(), rtol=0, atol=1e-3)
    if isinstance(guide, (AttentionLayout, AttentionRefocusing)):
        guide = type(guide)(guide.boxes[0], guide.rate)
    alone = images(PROMPTS[:1], guide=guide)
    assert torch.allclose(together[:1], alone, rtol=0, atol=1e-3)


def test_attention_guides_lower_their_energy(tiny_pipe, images):
    """Read again at the noise from which sampling starts, after the moves before the first step."""
    stage, encoder = tiny_pipe.stages["base"], tiny_pipe.text_encoder
    tokens = [encoder.tokenize_prompt(p) for p in PROMPTS]
    options = resolve_sampling_options(stage, num_inference_steps=4)
    call = guided_call(
        stage, encoder, PROMPTS, tokens, encoder(PROMPTS), options, stage.timesteps(4)
    )
    guide = AttendAndExcite(rate=100.0, most=4, targets={0.0: 0.0})
    record = attention_recorder(
        lambda control: stage.denoiser(
            call.text, guidance_scale=1.0, threshold="none", control_at=lambda t: control
        ),
        attention_grid(stage.net.sites),
    )
    x, t = randn([3, 4], (3, 64, 64), "x"), call.timesteps[0]
    energy = guide.energy(call)
    with torch.no_grad():
        before = energy(record(x, t))
        after = energy(record(guide.after_step(call)(x, -1, float(t)), t))
    assert (after < before).all()


def test_what_is_not_to_be_there_is_a_negative_part_and_gets_no_attention(encoder):
    for prompt, parts, nouns in [
        ("a star without an orange ring", [("a star", 1.0), ("an orange ring", -0.5)], ["star"]),
        ("a green cross but no orange star",
         [("a green cross", 1.0), ("an orange star", -0.5)], ["cross"]),
        ("a star, a circle and a ring",
         [("a star", 1.0), ("a circle", 1.0), ("a ring", 1.0)], ["star", "circle", "ring"]),
        ("circles", [("circles", 1.0)], []),
    ]:  # fmt: skip
        tokens = encoder.tokenize_prompt(prompt)
        assert and_not_parts(tokens) == parts
        assert [tokens.words[number] for number in wanted_nouns(tokens)] == nouns


def test_a_negated_phrase_of_weight_0_is_not_read(images):
    said, left = ["a star without a red ring", "a ring"], ["a star", "a ring"]
    assert torch.allclose(images(said, guide=ComposedPrompts(no=0.0)), images(left), atol=1e-4)
    assert not torch.allclose(images(said, guide=ComposedPrompts()), images(left), atol=1e-3)


def test_guides_go_together_and_with_an_edit(tiny_pipe, images):
    target = torch.zeros(1, 3, 64, 64)
    loss, structure = LossGuide(image_loss(target), 0.02), StructuredPrompt()
    assert torch.allclose(
        images(guide=[structure, loss]), images(guide=Guides((loss, structure))), atol=1e-4
    )
    assert not torch.allclose(images(guide=[structure, loss]), images(guide=loss), atol=1e-4)
    prompts = ["a red circle", "a red star"]
    edited = images(prompts, 5, edit=Replace(), guide=[LossGuide(image_loss(target), 0.0)])
    assert torch.allclose(edited, images(prompts, 5, edit=Replace()), atol=1e-4)
    shifted = images(prompts, 5, edit=Replace(), guide=Shifted())
    assert not torch.allclose(edited, shifted, atol=1e-3)
    assert torch.allclose(shifted[:1], images(prompts[:1], 5, guide=Shifted()), atol=1e-4)


class Shifted(Guide):
    """A guide of one's own: a plain shift in h-space."""

    def control(self, call):
        return ShiftFeatures(middle_site(call.block_sites), torch.ones(1, 32, 4, 4))


def test_a_direction_is_sampled_as_without_a_pipeline(tiny_pipe, images):
    stage, delta = tiny_pipe.stages["base"], torch.ones(1, 32, 4, 4)
    text, times = tiny_pipe.text_encoder(PROMPTS), stage.timesteps(4)
    site = middle_site(stage.net.block_sites)
    plain, shifted = (
        stage.denoiser(text, guidance_scale=2.0, threshold="none", control_at=at)
        for at in (None, lambda t: ShiftFeatures(site, delta))
    )
    *_, last = sample_with_direction(
        shifted, plain, randn([3, 4], (3, 64, 64), "base", "x_T"), times, stage.schedule,
        lambda step: None, 0.5, 1.0,
    )  # fmt: skip
    options = {"num_inference_steps": 4, "threshold": "none"}
    found = images(guide=DirectionGuide(delta), **options)
    assert torch.allclose(found, last.x_0_hat.clamp(-1, 1), rtol=0, atol=1e-4)
    assert not torch.allclose(found, images(**options), rtol=0, atol=1e-3)
    none = images(guide=DirectionGuide(lambda t: 0 * delta), **options)
    assert torch.allclose(none, images(**options), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="needs the sampler ddim with eta 0, and the sampler is"):
        images(guide=[DirectionGuide(delta)], sampler="dpmpp_2m")
    with pytest.raises(ValueError, match="until 1.5; expected a share"):
        DirectionGuide(delta, 1.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"guide": "attend"}, TypeError, "guide 'attend'; expected a guide"),
        ({"guide": [AttendAndExcite(["moon"])]}, ValueError, "no word 'moon' in"),
        ({"guide": LossGuide(RED, rounds=2), "sampler": "dpmpp_2m"}, ValueError, "rounds 2 with"),
        ({"guide": [LossGuide(RED, rounds=2), AttendAndExcite()]}, ValueError, "moves x between"),
        ({"guide": AttentionLayout([{}])}, ValueError, "boxes for 1 prompts, and there are 2"),
        ({"guide": ComposedPrompts([[("a star", 1.0)]])}, ValueError, "parts for 1 prompts"),
        (
            {"guide": ComposedPrompts(), "edit": Replace(), "seed": 3},
            ValueError,
            "composed prompts",
        ),
        ({"guide": AttendAndExcite(size=7)}, ValueError, "no attention to words on a grid of 7"),
        (
            {"guide": AttentionRefocusing({}, self_size=7)},
            ValueError,
            "no attention to pixels on a grid of 7",
        ),
    ],
)
def test_what_a_guide_cannot_do_is_an_error(images, options, error, message):
    prompts = ["a star", "a ring"] if "edit" in options else PROMPTS
    with pytest.raises(error, match=message):
        images(prompts, **options)


def test_guides_work_in_bfloat16(tiny_pipe):
    pipe = copy.deepcopy(tiny_pipe)
    pipe.stages.bfloat16()
    options = {"seed": 3, "stages": ("base",), "num_inference_steps": 2, "output_type": "pt"}
    each = [LossGuide(RED, 30.0), StructuredPrompt(), AttendAndExcite(rate=300.0, most=2)]
    found, exact = (
        p(PROMPTS[0], guide=each, progress=False, **options).images for p in (pipe, tiny_pipe)
    )
    assert found.isfinite().all() and (found - exact).abs().mean() < 0.1


def test_guides_that_cannot_be_are_errors():
    with pytest.raises(ValueError, match="two guides with rounds > 1"):
        Guides((LossGuide(RED, rounds=2), LossGuide(RED, rounds=3)))
    with pytest.raises(ValueError, match="no prompts to compose"):
        ComposedPrompts([])
    with pytest.raises(ValueError, match="no 0.5; expected a weight of 0 or below"):
        ComposedPrompts(no=0.5)
    for guide in (AttentionLayout, AttentionRefocusing):
        with pytest.raises(ValueError, match="box .* expected"):
            guide({"star": (0.5, 0, 0.5, 1)})
    with pytest.raises(ValueError, match="self_weight -1; expected 0 or more"):
        AttentionRefocusing({}, self_weight=-1)
    with pytest.raises(ValueError, match="no layer of this network attends to pixels"):
        attention_grid([AttentionSite("up0", "up", "cross", 8)], "pixels")
    with pytest.raises(ValueError, match="on grids of 32; expected one of at most 16"):
        attention_grid([AttentionSite("up0", "up", "self", 32)], "pixels")


def test_a_stage_that_enlarges_images_takes_no_guide(tiny_pipe):
    low_res = -torch.ones(1, 3, 64, 64)
    with pytest.raises(ValueError, match="a guide is for a stage that generates from text alone"):
        tiny_pipe("a star", low_res=low_res, guide=Guide(), progress=False)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"edit": Replace(1.0)},
        {"edit": Chain(Replace(1.0), LocalBlend("circle", "star"))},
        {"negative_prompt": "a star"},
        {"guide": StructuredPrompt()},
    ],
    ids=lambda more: next(iter(more), "alone"),
)
def test_a_direction_of_nothing_changes_nothing_whatever_else_acts(tiny_pipe, images, more):
    """The asymmetric step enlarges every difference between its two denoisers."""
    prompts = ["a red circle and a blue square", "a red star and a blue square"]
    nothing = DirectionGuide(torch.zeros(1, 1, 1, 1), until=1.0)
    others = [more["guide"]] if "guide" in more else []
    plain = images(prompts, seed=3, **more)
    found = images(prompts, seed=3, **more | {"guide": [nothing, *others]})
    assert torch.allclose(found, plain, rtol=0, atol=2e-3)
    content = ContentInjection(0.0, until=1.0)
    found = images(prompts, seed=3, **more | {"guide": [content, *others]})
    assert torch.allclose(found, plain, rtol=0, atol=2e-3)


def test_a_guide_that_builds_its_denoiser_comes_first(images):
    loss = LossGuide(image_loss(torch.zeros(1, 3, 64, 64)), 0.02)
    for second in (ComposedPrompts(), ContentInjection(), DirectionGuide(torch.zeros(1, 1, 1, 1))):
        with pytest.raises(ValueError, match="put it first"):
            Guides((loss, second))
    composed = images(guide=ComposedPrompts())
    assert not torch.allclose(images(guide=[ComposedPrompts(), loss]), composed, atol=1e-4)


@pytest.mark.parametrize(
    "guide, more, message",
    [
        (ComposedPrompts(), {"edit": Replace()}, "take the place of the prompts that an edit"),
        (ComposedPrompts(), {"negative_prompt": "a ring"}, "take the place of a negative prompt"),
        ([ComposedPrompts(), StructuredPrompt()], {}, "that another guide reads"),
        (StructuredPrompt(), {"edit": PromptSwitching()}, "PromptSwitching"),
        (AttendAndExcite(), {"edit": Chain(PromptSwitching(), Replace(1.0))}, "PromptSwitching"),
    ],
)
def test_what_a_guide_would_ignore_or_undo_is_refused(images, guide, more, message):
    prompts = ["a red circle and a blue square", "a red star and a blue square"]
    with pytest.raises(ValueError, match=message):
        images(prompts, seed=3, guide=guide, **more)


def test_outside_of_a_mask_the_guided_source_is_blended_in(images):
    prompts = ["a red circle and a blue square", "a red star and a blue square"]
    dark = LossGuide(image_loss(torch.full((1, 3, 64, 64), -1.0)), 0.2)
    edit = DiffEditMask(threshold=0.9, grow=0)
    source, target = images(prompts, seed=3, guide=dark, edit=edit)
    outside = (source - target).abs().amax(0) < 1e-3
    assert 0.1 < outside.float().mean() < 1
    assert (source - images(prompts, seed=3, edit=edit)[0]).abs().max() > 0.05


def test_while_the_prompt_is_shared_nothing_is_blended(images):
    """Also where all rows are computed, as they are with a guide."""
    prompts = ["a red circle and a blue square", "a red star and a blue square"]
    edit = Chain(PromptSwitching(0.5), DiffEditMask())
    assert torch.allclose(
        images(prompts, seed=3, edit=edit, guide=Guide()),
        images(prompts, seed=3, edit=edit),
        rtol=0,
        atol=1e-4,
    )
