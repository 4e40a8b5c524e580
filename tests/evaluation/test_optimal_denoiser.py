"""The best denoiser for two things, against scenes drawn by the world's rules."""

import random

import pytest
import torch

from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import cosine_log_snr, cosine_t
from imagen_mini.diffusion.timesteps import log_snr_timesteps
from imagen_mini.evaluation.optimal_denoiser import OptimalDenoiser
from imagen_mini.scenes.captions import RELATION_PROB, parse_caption
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import (
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    held_out,
    sample_free_position,
    unambiguous_relation,
)
from imagen_mini.utils.rng import randn
from imagen_mini.viz.denoising import posterior_mean

# where the ring is, a star fits better than where the star is
CAPTION = "a yellow star and a purple ring on a beige background"


def scenes_of(description, n):
    """Scenes drawn as training draws them, among those for which such a caption is written. On
    purpose not the package's way.
    """
    rng, out = random.Random(5), []
    while len(out) < n:
        objects = []
        for obj in rng.sample(description.objects, 2):
            size = rng.choice(tuple(SIZES))
            where = sample_free_position(rng, SIZES[size] * SHAPES[obj.shape], objects, tries=1000)
            if where is not None:
                objects.append(SceneObject(*where[::-1], obj.shape, obj.color, size, "solid"))
        first = [
            o
            for obj in description.objects
            for o in objects
            if (o.shape, o.color) == (obj.shape, obj.color)
        ]
        if (
            len(first) < 2
            or any(t.size not in (None, o.size) for t, o in zip(description.objects, first))
            or held_out(Scene(tuple(first), description.background))
        ):
            continue
        said = unambiguous_relation(*first) if rng.random() < RELATION_PROB else None
        if said == description.relation:
            out.append(Scene(tuple(first), description.background))
    return out


@pytest.mark.parametrize(
    "caption", [CAPTION, "a red circle to the left of a large blue square on a white background"]
)
def test_it_is_the_mean_of_the_images_by_their_likelihood(caption):
    best, images = (
        OptimalDenoiser(parse_caption(caption)),
        render(scenes_of(parse_caption(caption), 6000), 64).double(),
    )
    for log_snr in (-12.0, -8.5):
        x_t = q_sample(images[:1], randn([1], (3, 64, 64), "eps").double(), torch.tensor([log_snr]))
        level = torch.tensor(log_snr, dtype=torch.float64)
        found, halves = (
            best(x_t, log_snr),
            [posterior_mean(x_t, level, half) for half in images.split(3000)],
        )
        chance = (halves[0] - halves[1]).square().mean() / 4  # of the error of a mean over all
        assert (found - sum(halves) / 2).square().mean() < 2 * chance, caption


def test_in_little_noise_it_finds_the_image():
    best, images = (
        OptimalDenoiser(parse_caption(CAPTION)),
        render(scenes_of(parse_caption(CAPTION), 6), 64),
    )
    x_t = q_sample(images, randn(range(6), (3, 64, 64), "eps"), torch.full((6,), 2.0))
    assert torch.allclose(best(x_t, 2.0), images, atol=1e-3)


def test_a_trajectory_with_it_generates_what_is_said():
    best = OptimalDenoiser(parse_caption(CAPTION))
    *_, last = sample(
        lambda x, t: best(x, cosine_log_snr(t)),
        randn(range(3), (3, 64, 64), "x_T"),
        log_snr_timesteps(12, cosine_log_snr, cosine_t),
        cosine_log_snr,
        "dpmpp_2m",
    )
    assert all(parse_caption(CAPTION).fits(parsed.scene) for parsed in parse_image(last.x_0_hat))


@pytest.mark.parametrize(
    "caption",
    [
        "a red circle on a white background",
        "a red circle and a blue square",
        "a circle and a blue square on a white background",
        "a striped red circle and a blue square on a white background",
        "two red circles on a white background",
    ],
)
def test_other_captions_are_refused(caption):
    with pytest.raises(
        ValueError,
        match="expected two things with their colours, without textures, and a background",
    ):
        OptimalDenoiser(parse_caption(caption))


@pytest.mark.parametrize(
    "caption",
    [
        "a red triangle and a blue square on a white background",
        "a red star to the left of a blue cross on a white background",
    ],
)
def test_what_training_never_has_has_no_best_answer(caption):
    with pytest.raises(ValueError, match="training has no such scene"):
        OptimalDenoiser(parse_caption(caption))
