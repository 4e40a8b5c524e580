"""Guided sampling and illusions, checked against denoisers that are known exactly."""

import pytest
import torch
from PIL import Image

from imagen_mini.diffusion.gaussian import eps_from_x_0, q_sample
from imagen_mini.diffusion.samplers import SAMPLERS, sample
from imagen_mini.diffusion.schedules import (
    alpha_sigma,
    cosine_log_snr,
    linear_log_snr,
    zero_terminal_snr,
)
from imagen_mini.diffusion.timesteps import uniform_timesteps
from imagen_mini.editing.guided_sampling import (
    inpaint_denoiser,
    renoise,
    repaint,
    repaint_callback,
    sdedit,
    truncate_timesteps,
)
from imagen_mini.editing.illusions import (
    VIEWS,
    anagram,
    color_parts,
    factorized_diffusion,
    frequency_parts,
    mask_parts,
)
from imagen_mini.utils.images import image_to_tensor
from imagen_mini.utils.rng import randn

ZERO_TERMINAL = zero_terminal_snr(linear_log_snr)  # at t = 1 the signal is exactly zero


def one_of(*images):
    """The exact denoiser of a data set of these images [3, h, w]: their mean, weighted by
    the posterior probability of each given x_t.
    """
    points = torch.stack(images)

    def denoise(x_t, t, schedule=cosine_log_snr):
        alpha, sigma = alpha_sigma(schedule(t.double()))
        distance = (x_t[:, None] - alpha * points).square().flatten(2).sum(-1)
        return torch.einsum("bn,nchw->bchw", (-distance / (2 * sigma**2)).softmax(1), points)

    return denoise


def image(seed, size=6):
    return randn([seed], (3, size, size), "picture", dtype=torch.float64)[0].clamp(-1, 1)


def noise(*purpose, n=2, size=6):
    return randn(range(n), (3, size, size), *purpose, dtype=torch.float64)


def last_of(trajectory):
    *_, last = trajectory
    return last


def plain(denoise, x_T, steps=10, sampler="ddim"):
    return last_of(sample(denoise, x_T, uniform_timesteps(steps).double(), cosine_log_snr, sampler))


# ---------------------------------------------------------------- SDEdit


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sdedit_from_t_1_is_sampling_from_noise(sampler):
    def denoise(x_t, t):
        return one_of(image(0), image(1))(x_t, t, ZERO_TERMINAL)

    times, drawing = uniform_timesteps(8).double(), image(7).expand(2, -1, -1, -1)
    ours = list(
        sdedit(
            denoise,
            drawing,
            1.0,
            noise("x_T"),
            times,
            ZERO_TERMINAL,
            sampler,
            lambda i: noise("step", i),
        )
    )
    bare = list(
        sample(denoise, noise("x_T"), times, ZERO_TERMINAL, sampler, lambda i: noise("step", i))
    )
    assert len(ours) == len(bare) == 8 and all(
        torch.equal(a.x, b.x) and torch.equal(a.x_0_hat, b.x_0_hat) for a, b in zip(ours, bare)
    )


def test_sdedit_at_t_0_returns_the_drawing():
    (state,) = sdedit(
        lambda x, t: x * 0,
        image(7)[None],
        0.0,
        noise("x_T", n=1),
        uniform_timesteps(8).double(),
        cosine_log_snr,
    )
    assert torch.equal(state.x_0_hat[0], image(7)) and torch.equal(state.x[0], image(7))


def test_sdedit_starts_on_the_forward_process_and_takes_the_remaining_steps():
    seen, drawing, times = [], image(7)[None], uniform_timesteps(10).double()
    states = list(
        sdedit(
            lambda x, t: seen.append((x, float(t))) or x,
            drawing,
            0.45,
            noise("x_T", n=1),
            times,
            cosine_log_snr,
        )
    )
    assert [t for _, t in seen] == pytest.approx([0.45, 0.4, 0.3, 0.2, 0.1]) and states[-1].s == 0
    assert torch.allclose(
        seen[0][0],
        q_sample(
            drawing, noise("x_T", n=1), cosine_log_snr(torch.tensor(0.45, dtype=torch.float64))
        ),
    )
    assert (
        truncate_timesteps(0.4, times).tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1, 0])
        and len(truncate_timesteps(1.0, times)) == 11
    )


def test_no_step_of_a_truncated_trajectory_is_there_by_rounding_alone():
    """A multi-step sampler divides by the length of the last step."""
    for steps in range(1, 101):
        of_all = uniform_timesteps(steps)
        for hundredths in range(1, 101):
            t = hundredths / 100
            found = truncate_timesteps(t, of_all)
            assert found[0].item() == pytest.approx(t) and found[-1] == 0
            assert (-found.diff()).min() > 1e-6, (steps, t)


def test_an_image_that_starts_at_a_timestep_but_for_rounding_stays_finite(tiny_pipe):
    images = tiny_pipe(
        "a ring",
        image=torch.zeros(1, 3, 64, 64),
        strength=0.6,
        num_inference_steps=30,
        timestep_spacing="uniform",
        sampler="dpmpp_2m",
        stages="base",
        progress=False,
        output_type="pt",
    ).images
    assert images.isfinite().all()


def test_sdedit_finds_the_nearer_image_at_low_noise_and_forgets_the_drawing_at_high_noise():
    a, b = image(0), image(1)
    drawing, share = (0.6 * a + 0.4 * b).expand(40, -1, -1, -1), []
    for t in (0.05, 0.5, 1.0):
        found = last_of(
            sdedit(
                one_of(a, b),
                drawing,
                t,
                noise("x_T", n=40),
                uniform_timesteps(40).double(),
                cosine_log_snr,
            )
        ).x_0_hat
        share.append(
            ((found - a).square().flatten(1).sum(1) < (found - b).square().flatten(1).sum(1))
            .double()
            .mean()
            .item()
        )
    assert share[0] == 1 and share[0] >= share[1] >= share[2] and 0.25 < share[2] < 0.75, share


@pytest.mark.parametrize("t", [-0.1, 1.1])
def test_a_time_outside_of_the_trajectory_is_an_error(t):
    with pytest.raises(ValueError, match="expected a time from 0"):
        next(
            sdedit(
                lambda x, t: x,
                image(0)[None],
                t,
                noise("x_T", n=1),
                uniform_timesteps(4),
                cosine_log_snr,
            )
        )


# ---------------------------------------------------------------- inpainting

LEFT = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
LEFT[..., :3] = 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_inpainting_by_replacement_keeps_the_known_part_exactly(sampler):
    known, times = image(0), uniform_timesteps(10).double()
    trajectory = sample(
        inpaint_denoiser(one_of(image(1), image(2)), known, LEFT),
        noise("x_T"),
        times,
        cosine_log_snr,
        sampler,
        lambda i: noise("step", i),
        repaint_callback(known, LEFT, lambda step: noise("known", step), cosine_log_snr),
    )
    for state in trajectory:
        assert torch.equal(state.x_0_hat[..., :3], known[..., :3].expand(2, -1, -1, -1))
        expected = q_sample(
            known,
            noise("known", state.step),
            cosine_log_snr(torch.tensor(state.s, dtype=torch.float64)),
        )
        assert torch.allclose(state.x[..., :3], expected[..., :3], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_repaint_keeps_the_known_part_exactly_and_finds_the_only_matching_image(rounds, sampler):
    images = [image(i) for i in range(4)]
    states = list(
        repaint(
            one_of(*images),
            images[2],
            LEFT,
            noise("x_T"),
            uniform_timesteps(12).double(),
            cosine_log_snr,
            noise,
            rounds,
            sampler,
        )
    )
    assert [s.step for s in states] == list(range(12)) and all(s.steps == 12 for s in states)
    assert all(
        torch.equal(s.x_0_hat[..., :3], images[2][..., :3].expand(2, -1, -1, -1)) for s in states
    )
    assert torch.allclose(states[-1].x_0_hat, images[2].expand(2, -1, -1, -1), rtol=0, atol=1e-6)


def correlated(x_t, t, rho=0.9):
    """E[x_0 | x_t] of two pixels, each normal with mean 0 and deviation 1, that are correlated."""
    cov = torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64)
    alpha, sigma = alpha_sigma(cosine_log_snr(t.double()))
    gain = (
        alpha
        * cov
        @ torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(2, dtype=torch.float64))
    )
    return torch.einsum("ij,bchj->bchi", gain, x_t)


@pytest.mark.slow
def test_with_more_rounds_the_new_part_agrees_better_with_the_known_one():
    """One pixel is known to be 1.5; the other one's mean, given that, is 0.9 * 1.5."""
    n, mask, known = (
        600,
        torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 1, 1, 2),
        torch.full((1, 1, 1, 2), 1.5, dtype=torch.float64),
    )

    def generate(*purpose):
        return randn(range(n), (1, 1, 2), *purpose, dtype=torch.float64)

    means = [
        last_of(
            repaint(
                correlated,
                known,
                mask,
                generate("x_T"),
                uniform_timesteps(20).double(),
                cosine_log_snr,
                generate,
                rounds,
            )
        )
        .x_0_hat[..., 1]
        .mean()
        .item()
        for rounds in (1, 4, 15)
    ]
    assert means[0] < means[1] - 0.2 and means[1] < means[2], means
    assert means[2] == pytest.approx(1.35, abs=0.1), means


def test_renoised_samples_follow_the_forward_process():
    n, (s, t) = 4000, torch.tensor([1.0, -1.5], dtype=torch.float64)
    x_s = q_sample(
        torch.full((n, 1, 1, 1), 0.7, dtype=torch.float64),
        randn(range(n), (1, 1, 1), "s", dtype=torch.float64),
        s,
    )
    x_t = renoise(x_s, s, t, randn(range(n), (1, 1, 1), "t", dtype=torch.float64))
    alpha, sigma = alpha_sigma(t)
    assert x_t.mean().item() == pytest.approx(
        0.7 * alpha.item(), abs=0.05
    ) and x_t.std().item() == pytest.approx(sigma.item(), rel=0.04)


@pytest.mark.parametrize("options", [{"rounds": 0}, {"sampler": "dpmpp_2m"}])
def test_an_option_that_repaint_does_not_support_is_an_error(options):
    with pytest.raises(ValueError, match="expected ddim or ddpm, and at least one round"):
        next(
            repaint(
                correlated,
                image(0),
                LEFT,
                noise("x_T"),
                uniform_timesteps(4),
                cosine_log_snr,
                noise,
                **options,
            )
        )


# ---------------------------------------------------------------- anagrams and hybrids


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_is_linear_orthogonal_and_invertible(view):
    a, b = noise("a"), noise("b")
    assert torch.equal(view.inverse(view.forward(a)), a) and torch.equal(
        view.forward(view.inverse(a)), a
    )
    assert torch.allclose(view.forward(2 * a + b), 2 * view.forward(a) + view.forward(b))
    assert (view.forward(a) * view.forward(b)).sum().item() == pytest.approx((a * b).sum().item())


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun"])
def test_the_anagram_of_one_caption_in_the_upright_view_is_plain_sampling(sampler):
    denoise = one_of(image(0), image(1))
    assert torch.equal(
        plain(anagram([denoise], [VIEWS["upright"]]), noise("x_T"), sampler=sampler).x,
        plain(denoise, noise("x_T"), sampler=sampler).x,
    )


def test_each_view_is_a_different_transformation():
    a = image(0)[None]
    seen = {name: view.forward(a) for name, view in VIEWS.items()}
    assert torch.equal(seen["turned"][0, :, 0, 0], a[0, :, -1, -1]) and torch.equal(
        seen["upside down"][0, :, 0], a[0, :, -1]
    )
    assert torch.equal(seen["mirrored"][..., 0], a[..., -1]) and torch.equal(seen["negative"], -a)
    assert (
        torch.equal(seen["quarter turn"].rot90(1, (-2, -1)), seen["turned"])
        and len({x.sum((0, 1)).numpy().tobytes() for x in seen.values()}) == 6
    )


@pytest.mark.parametrize("name", VIEWS)
def test_an_anagram_finds_the_image_that_fits_both_views_more_often_than_chance(name):
    """Two data sets that have one image in common, as each view sees it. A mean of two estimates
    can also stay between two others.
    """
    view, shared = VIEWS[name], image(0)
    upright, other = one_of(shared, image(1)), one_of(view.forward(shared[None])[0], image(2))

    def share(denoise):
        found = plain(denoise, noise("x_T", n=60), steps=40).x_0_hat
        return ((found - shared).flatten(1).abs().amax(1) < 1e-3).double().mean().item()

    assert share(anagram([upright, other], [VIEWS["upright"], view])) > share(upright) + 0.08


def test_the_mean_of_the_estimates_is_the_mean_of_the_noises():
    x_t, t = noise("x_t"), torch.tensor(0.4, dtype=torch.float64)
    denoisers, view = [one_of(image(0)), one_of(image(1))], VIEWS["turned"]
    ours = eps_from_x_0(
        anagram(denoisers, [VIEWS["upright"], view])(x_t, t), x_t, cosine_log_snr(t)
    )
    theirs = [
        eps_from_x_0(denoisers[0](x_t, t), x_t, cosine_log_snr(t)),
        view.inverse(
            eps_from_x_0(denoisers[1](view.forward(x_t), t), view.forward(x_t), cosine_log_snr(t))
        ),
    ]
    assert torch.allclose(ours, sum(theirs) / 2)


MASK = (torch.arange(6) < 2).double().expand(6, 6)
PARTS = {"frequency": frequency_parts(8.0), "color": color_parts(), "place": mask_parts(MASK)}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_parts_are_linear_and_sum_to_the_image(parts):
    a, b = noise("a"), noise("b")
    assert torch.allclose(sum(part(a) for part in parts), a)
    for part in parts:
        assert (
            torch.allclose(part(2 * a + b), 2 * part(a) + part(b))
            and part(a).abs().max() > 0.1
            and not torch.allclose(part(a), a)
        )


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_one_denoiser_for_all_parts_is_plain_sampling_and_two_are_combined(parts):
    a, b = image(0), image(1)
    same = plain(factorized_diffusion([one_of(a, b)] * 2, parts), noise("x_T")).x_0_hat
    assert torch.allclose(same, plain(one_of(a, b), noise("x_T")).x_0_hat)
    both = plain(factorized_diffusion([one_of(a), one_of(b)], parts), noise("x_T")).x_0_hat
    assert torch.allclose(both, (parts[0](a[None]) + parts[1](b[None])).expand_as(both))


def test_low_frequencies_vary_slowly_and_brightness_has_no_color():
    low, high = frequency_parts(2.0)
    flat = torch.full((1, 3, 64, 64), 0.3)
    assert torch.allclose(low(flat), flat, atol=1e-5) and high(flat).abs().max() < 1e-5
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1).expand(1, 3, 64, 64)
    assert low(checks)[..., 10:-10, 10:-10].abs().max() < 1e-3
    gray, color = color_parts()
    assert (
        torch.equal(gray(noise("a")), gray(noise("a"))[:, :1].expand(-1, 3, -1, -1))
        and color(noise("a")).mean(1).abs().max() < 1e-12
    )


@pytest.mark.parametrize(
    "make, others", [(anagram, [VIEWS["upright"]]), (factorized_diffusion, color_parts())]
)
def test_denoisers_must_be_as_many_as_views_or_parts(make, others):
    with pytest.raises(ValueError, match="3 denoisers for .* expected one for each"):
        make([lambda x, t: x] * 3, others)


# ---------------------------------------------------------------- drawings


def test_a_drawing_becomes_an_image_with_its_colors():
    image = Image.new("RGB", (300, 200), (255, 0, 51))
    image.paste((0, 0, 0), (0, 0, 50, 200))  # not in the middle square
    found = image_to_tensor(image)
    assert found.shape == (3, 64, 64) and found.dtype == torch.float32
    assert torch.allclose(
        found, torch.tensor([1.0, -1.0, -0.6])[:, None, None].expand(3, 64, 64), atol=1e-6
    )


# ---------------------------------------------------------------- RePaint with jumps


def test_a_jump_takes_its_steps_in_every_round_and_leads_back_over_all_of_them():
    calls, known, mask = [], image(0)[None], torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    times = uniform_timesteps(5).double()
    asked = []

    def denoise(x_t, t):
        calls.append(round(float(t), 6))
        return x_t * 0

    def fresh(purpose, number):
        asked.append((purpose, number))
        return noise(purpose, number, n=1)

    states = list(
        repaint(denoise, known, mask, noise("x_T", n=1), times, cosine_log_snr, fresh, 2, jump=2)
    )
    a, b, c, d, e, _ = (round(float(t), 6) for t in times)
    assert calls == [a, b, a, b, c, d, c, d, e, e]
    assert [s.step for s in states] == [0, 1, 2, 3, 4] and states[-1].s == 0
    assert [n for purpose, n in asked if purpose == "again"] == [1, 5, 8]
    assert len({n for purpose, n in asked if purpose == "known"}) == 10  # fresh in every step


def test_a_jump_of_no_step_is_refused():
    with pytest.raises(ValueError, match="jump 0; expected to jump back"):
        next(
            repaint(
                lambda x, t: x,
                image(0)[None],
                torch.zeros(1, 1, 6, 6),
                noise("x_T", n=1),
                uniform_timesteps(4).double(),
                cosine_log_snr,
                noise,
                jump=0,
            )
        )
