"""Null-text optimisation, against denoisers whose answer is known."""

import pytest
import torch

from imagen_mini.diffusion.guidance import guide_denoisers
from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import cosine_log_snr
from imagen_mini.diffusion.timesteps import uniform_timesteps
from imagen_mini.editing.inversion import by_step, null_text_optimization
from imagen_mini.text.encoder import TextEmbeddings
from imagen_mini.utils.rng import randn

TIMES = uniform_timesteps(20).double()
X_T = randn([0], (3, 4, 4), "x_T", dtype=torch.float64)
NULL = TextEmbeddings(torch.zeros(1, 2, 3, dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool))


def denoiser_of(text):
    """Images of this data set are near a colour that the text names: the mean of its embeddings."""
    color = text.emb.mean(1)[:, :, None, None]
    return lambda x_t, t: (1 - t) * 0.7 * x_t + t * color


def cond(x_t, t):
    return denoiser_of(TextEmbeddings(torch.full_like(NULL.emb, 0.8), NULL.mask))(x_t, t)


def last(states):
    *_, final = states
    return final


def pivots():
    """A trajectory of sampling without guidance: the prompt itself keeps to it exactly."""
    return [X_T, *(state.x for state in sample(cond, X_T, TIMES, cosine_log_snr))]


def optimised(w, **options):
    return list(
        null_text_optimization(
            cond, denoiser_of, NULL, pivots(), TIMES, cosine_log_snr, w, **options
        )
    )


def reconstruction_error(uncond, w):
    denoise = guide_denoisers(cond, uncond, w)
    return (last(sample(denoise, X_T, TIMES, cosine_log_snr)).x - pivots()[-1]).abs().max().item()


def test_optimised_null_texts_bring_guided_sampling_back_to_what_it_is_without_guidance():
    assert reconstruction_error(denoiser_of(NULL), 1.0) == 0
    guided = reconstruction_error(denoiser_of(NULL), 4.0)
    texts = optimised(4.0, inner_steps=60, learning_rate=0.1, tolerance=(0, 0))
    kept = reconstruction_error(by_step([denoiser_of(text) for text in texts], TIMES), 4.0)
    assert len(texts) == 20 and guided > 0.3 and kept < guided / 100, (guided, kept)


def test_the_null_texts_that_are_found_are_the_prompt_itself():
    """The exact answer of negative-prompt inversion: w cond + (1 - w) cond = cond."""
    texts = optimised(4.0, inner_steps=100, learning_rate=0.1, tolerance=(0, 0))
    assert all((text.emb.mean(1) - 0.8).abs().max() < 0.02 for text in texts[:10])


def test_nothing_is_optimised_where_guidance_is_off():
    calls = []
    texts = list(
        null_text_optimization(
            cond,
            lambda text: calls.append(text) or denoiser_of(text),
            NULL,
            pivots(),
            TIMES,
            cosine_log_snr,
            lambda t: 3.0 if t > 0.5 else 1.0,
            inner_steps=1,
        )
    )
    guided = int((TIMES[:-1] > 0.5).sum())
    assert 0 < guided < 20 and len(calls) <= 2 * guided
    assert texts[-1] is texts[guided - 1]


def test_a_step_ends_early_once_it_is_near_enough():
    calls = []

    def count(text):
        calls.append(text)
        return denoiser_of(text)

    args = NULL, pivots(), TIMES, cosine_log_snr, 4.0
    list(null_text_optimization(cond, count, *args, tolerance=(1e9, 0)))
    assert len(calls) == 2 * 20  # to see that it is near, and to take the step


def test_denoisers_by_step_know_their_times_and_no_others():
    marked = [lambda x_t, t, i=i: x_t + i for i in range(20)]
    denoise = by_step(marked, TIMES)
    assert [denoise(torch.zeros(1), t).item() for t in TIMES[:-1]] == [*range(20)]
    with pytest.raises(KeyError):
        denoise(torch.zeros(1), torch.tensor(0.123))
