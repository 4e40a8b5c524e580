"""Imagic: what a fitted text and a fitted copy of the network have to be, and what has to stay."""

from copy import deepcopy

import pytest
import torch
from test_given_images import FAST, IMAGE, SOURCE, TARGET, edited, given_image, missed

from imagen_mini.editing.given_images import Imagic
from imagen_mini.editing.imagic import fine_tune, interpolate, optimize_text, spread_times
from imagen_mini.image_editing import StageCopy, prepare_given_image, resolve_method_options
from imagen_mini.text.encoder import TextEmbeddings, concatenate

FITTED = Imagic(text_steps=3, network_steps=20, network_rate=3e-3)
AS_IT_WAS = Imagic(text_steps=0, network_steps=0)


def test_without_a_step_it_is_sampling_with_the_target_s_prompt(tiny_pipe):
    plain = tiny_pipe(TARGET, **FAST).images
    for image in edited(tiny_pipe, AS_IT_WAS):  # the source's row has the target's text as well
        assert (image - plain[0]).abs().max() < 1e-4


def test_fitted_it_leads_back_to_the_image_and_the_pipeline_stays_as_it_was(tiny_pipe):
    stage = tiny_pipe.stages["base"]
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    wanted = [p.requires_grad for p in stage.parameters()]
    images = edited(tiny_pipe, FITTED, guidance_scale=1.0)
    assert missed(images) < 0.6 * missed(edited(tiny_pipe, AS_IT_WAS, guidance_scale=1.0))
    assert not torch.equal(images[0], images[1])
    assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())
    assert [p.requires_grad for p in stage.parameters()] == wanted
    assert all(p.grad is None for p in stage.parameters()) and torch.is_grad_enabled()


def test_it_is_a_function_of_the_seed_and_at_0_the_edit_is_the_reconstruction(tiny_pipe):
    few = dict(text_steps=2, network_steps=2)
    images = edited(tiny_pipe, Imagic(0.0, **few))
    assert (images[0] - images[1]).abs().max() < 1e-5
    assert torch.equal(images, edited(tiny_pipe, Imagic(0.0, **few)))
    assert not torch.equal(images, edited(tiny_pipe, Imagic(0.0, **few), seed=4))


def test_the_source_s_caption_is_not_read_and_targets_are_fitted_each_alone(tiny_pipe):
    how = Imagic(text_steps=2, network_steps=2)
    alone = edited(tiny_pipe, how)
    nothing = tiny_pipe.edit(IMAGE, "", TARGET, how, **FAST).images
    assert (nothing - alone).abs().max() < 1e-3
    together = edited(tiny_pipe, how, [TARGET, "a blue ring"])
    assert len(together) == 3 and (together[:2] - alone).abs().max() < 1e-3
    assert (together[2] - edited(tiny_pipe, how, "a blue ring")[1]).abs().max() < 1e-3


def test_a_fitted_text_describes_the_image_better_than_the_target_s(tiny_pipe):
    stage, how = tiny_pipe.stages["base"], Imagic(text_steps=10, network_steps=0)
    options = resolve_method_options("imagic", how, stage, {})
    prompts = [SOURCE, TARGET]
    given = prepare_given_image(
        stage, tiny_pipe.text_encoder, IMAGE, prompts, "imagic", how, None, options, 3
    )
    fitted, network = how.fit(given, given.targets)

    def loss(text):  # on noise that it was not fitted on
        eps = torch.cat([given.noise("other", i) for i in range(16)])
        images, times = IMAGE.expand(16, -1, -1, -1), spread_times(0, 16).float()
        return network.loss(images, concatenate([text] * 16), times, eps).mean()

    assert loss(fitted) < loss(given.targets) and torch.equal(fitted.mask, given.targets.mask)


def test_a_copy_computes_what_the_stage_does_in_float32_at_least(tiny_pipe):
    stage = deepcopy(tiny_pipe.stages["base"])
    t, eps = torch.tensor([0.4]), torch.randn(IMAGE.shape)
    text = tiny_pipe.text_encoder([SOURCE])
    expected = stage.loss(IMAGE, text, t, eps)
    assert torch.equal(StageCopy(stage, "none").loss(IMAGE, text, t, eps), expected)
    for dtype, computed in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        loss = StageCopy(stage.to(dtype), "none").loss(IMAGE, text, t, eps)
        assert loss.dtype == computed and torch.allclose(loss.float(), expected, rtol=0.05)


# ---------------------------------------------------------------- the three steps


def test_the_text_goes_where_the_loss_is_least_and_its_start_is_left_alone():
    start = TextEmbeddings(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))
    best = torch.tensor([[[1.0, -1.0, 0.5], [0.0, 2.0, -0.5]]])
    with torch.no_grad():
        texts = list(
            optimize_text(lambda text, step: (text.emb - best).square().sum(), start, 200, 0.1)
        )
    assert len(texts) == 200 and (texts[-1].emb - best).abs().max() < 0.02
    assert not start.emb.any() and not texts[-1].emb.requires_grad


def test_the_network_goes_where_the_loss_is_least_and_keeps_no_gradients():
    weight = torch.nn.Parameter(torch.zeros(3))
    unused = torch.nn.Parameter(torch.ones(3))
    text = TextEmbeddings(torch.ones(1, 1, 3), torch.ones(1, 1, dtype=torch.bool))
    seen = []

    def loss(text, step):
        seen.append(step)
        return (weight - 2 * text.emb[0, 0]).square().sum()

    with torch.no_grad():
        losses = list(fine_tune(loss, text, [weight, unused], 200, 0.1))
    assert losses[0] == 12 and losses[-1] < 1e-3 and seen == list(range(200))
    assert (weight - 2).abs().max() < 0.02 and torch.equal(unused, torch.ones(3))
    assert weight.grad is None and not weight.requires_grad


def test_texts_are_interpolated_from_the_image_s_own_to_the_target_s():
    mask = torch.ones(1, 2, dtype=torch.bool)
    own, target = (TextEmbeddings(torch.full((1, 2, 3), x), mask) for x in (1.0, 5.0))
    for eta, expected in ((0, 1.0), (0.25, 2.0), (1, 5.0)):
        assert torch.equal(interpolate(own, target, eta).emb, torch.full((1, 2, 3), expected))


def test_times_cover_all_noise_levels_evenly():
    times = torch.stack([spread_times(step, 4) for step in range(25)])
    assert ((times * 4).floor() == torch.arange(4)).all()  # one in each quarter
    assert times.min() >= 0 and times.max() < 1
    gaps = times.flatten().sort().values.diff()
    assert gaps.max() < 3 / 100


def test_a_method_without_a_network_to_train_says_so():
    given = given_image(lambda text, guidance_scale=1.0, control_at=None: lambda x_t, t: x_t)
    with pytest.raises(ValueError, match="trains a copy of the network"):
        next(Imagic().run(given))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"interpolation": 1.5}, "interpolation 1.5; expected a number from 0"),
        ({"text_steps": -1}, "text_steps: expected an integer"),
        ({"noise_levels": 0}, "noise_levels: expected an integer of at least 1"),
        ({"network_rate": 0.0}, "network_rate 0.0; expected a number above 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Imagic(**options)
