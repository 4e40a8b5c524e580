# %% [markdown]
# # 09 Samplers
#
# **Objective:** walk from noise to image in several ways, and measure which way needs how many looks of the network.
#
# **Before this:** 01, 02, 08
#
# A trained denoiser says, for any noisy image, which clean one it suspects. It does not say how to get there. A **sampler** does: from $x_t$ and $\hat x_0$
# it makes the next, less noisy $x_s$. Training knows nothing of it, so it can be exchanged at will. The simplest one splits $x_t$ into the suspected image
# and the suspected noise, and mixes the two anew for time $s$:
#
# $$\hat\epsilon = \frac{x_t - \alpha_t \hat x_0}{\sigma_t}, \qquad x_s = \alpha_s\, \hat x_0 + \sigma_s\, \hat\epsilon \qquad\qquad \text{(DDIM)}$$
#
# The others add fresh noise (**DDPM**, the ancestral sampler), or use two estimates per step to see where the way bends: the last one again (**DPM-Solver++
# 2M**), or one more (**Heun**).

# %%
# Colab only: install the package from a clone. Where it is installed already, this cell does nothing.
import importlib.util
import subprocess
import sys

REPOSITORY = ""  # the address of your copy of imagen_mini, as `git clone` takes it
if importlib.util.find_spec("imagen_mini") is None:
    assert REPOSITORY, (
        "write the address of your copy of imagen_mini between the quotes above, and run all cells again"
    )
    subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, "imagen_mini_clone"], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "./imagen_mini_clone"], check=True
    )

# %%
import torch

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb09
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.diffusion.gaussian import eps_from_x_0
from imagen_mini.diffusion.samplers import (
    SAMPLERS,
    ddim_invert,
    ddim_step,
    dpmpp_2m_step,
    heun_step,
    sample,
)
from imagen_mini.diffusion.schedules import alpha_sigma, cosine_log_snr
from imagen_mini.diffusion.timesteps import TIMESTEP_SPACINGS, uniform_timesteps
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import BACKGROUNDS, Scene
from imagen_mini.utils.rng import randn
from imagen_mini.viz.guidance import accuracy_line, estimates, rate
from imagen_mini.viz.image_grid import image_table
from imagen_mini.viz.samplers import (
    errors,
    fitted_order,
    gaussian_denoiser,
    gaussian_flow,
    mixture_denoiser,
    network_calls,
    plot_errors,
    plot_spacings,
    plot_trajectories,
    shares,
    slerp,
)
from imagen_mini.viz.style import STYLES, log_axis, percent_axis, subplots

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
base = pipe.stages["base"]
show_source(ddim_step)

# %% [markdown]
# ## 1. Walks that one can draw
#
# Images have 12,288 values, too many to plot. So here is a world whose "images" are single numbers, and there are just three of them. Its best denoiser
# is a formula: the mean of the three, weighted by how likely each led to $x_t$. `sample` does not care that no network is involved.
#
# **Predict:** DDIM adds no noise on the way, DDPM does. What do 16 walks from the same 16 places look like? Can DDIM walks cross?

# %%
points = torch.tensor([-0.8, 0.1, 0.7]).reshape(3, 1, 1, 1)
denoise = mixture_denoiser(points, cosine_log_snr)
x_T, times, trajectories = randn(range(16), (1, 1, 1), "walkers"), uniform_timesteps(40), {}
for name, sampler in (
    ("ddim: no noise on the way", "ddim"),
    ("ddpm: fresh noise in every step", "ddpm"),
):
    states = list(
        sample(
            denoise,
            x_T,
            times,
            cosine_log_snr,
            sampler,
            noise=lambda step: randn(range(16), (1, 1, 1), "walkers", step),
        )
    )
    trajectories[name] = times, torch.stack([x_T, *(state.x for state in states)]).flatten(1)
    print(
        f"{name}: the three points are reached by",
        (16 * shares(states[-1].x_0_hat, points)).int().tolist(),
        "of 16",
    )
plot_trajectories(trajectories, points.flatten().tolist())

# %% [markdown]
# **What you should have seen.** DDIM's walks are smooth and do not cross: in one dimension, the order of the starting places is the order of the ends. They
# follow a differential equation, and DDIM is the simplest way to solve one, Euler's. DDPM's walks are jagged; where one ends is not decided where it starts.
# Both reach every point.
#
# ## 2. The order of a method
#
# Where there is a differential equation there is a true end, which infinitely many steps would reach. For normally distributed data it is a formula, so we
# can measure how far off a sampler ends. A method is of *first order* if twice as many steps halve the error, of *second order* if they quarter it: lines of
# slope -1 and -2 on two logarithmic axes.

# %%
show_source(gaussian_denoiser, gaussian_flow)

# %% [markdown]
# **Predict:** which of DDIM, DPM-Solver++ 2M and Heun are of which order? Heun calls the network twice a step: is it worth it when calls are few?

# %%
lines = {
    sampler: list(errors(sampler, [8, 16, 32, 64, 128, 256], base.log_snr_of))
    for sampler in ("ddim", "dpmpp_2m", "heun")
}
for sampler, found in lines.items():
    calls, error = zip(*found[2:])
    print(
        f"{sampler:9} order {fitted_order(calls, error):.2f};  error {found[0][1]:.4f} with {found[0][0]} calls, {found[-1][1]:.6f} with {found[-1][0]}"
    )
plot_errors(lines)

# %% [markdown]
# **What you should have seen.** DDIM is of order 1, the other two of order 2: the fitted numbers should be within 0.2 of that, and the tests of this package
# hold the samplers to it. But the order says what happens when steps are *many*. At the left end, where one wants to be, Heun is the worst of all per call,
# and DPM-Solver++ is ahead by reusing an estimate that it has paid for.

# %%
show_source(dpmpp_2m_step, heun_step)

# %% [markdown]
# ## 3. Right images per network call
#
# Now the trained network, and what we want from it: right images. 16 captions (single things, relations, bindings, counts), from the same noise; only DDPM adds more
# on the way.
#
# **Predict:** how many calls does it take until more calls do not help? Which sampler is last?

# %%
prompts = [
    c.text
    for _, _, c in benchmark(4, categories=["one object", "positional", "binding", "counting"])
]
calls, rows, frames = (3, 5, 9, 15), [], []
sheet, (panel,) = subplots(
    [f"share right of {len(prompts)}, with 95 % intervals"], "network calls per image"
)
for sampler, style in zip(SAMPLERS, STYLES):
    steps = [(n + 1) // 2 if sampler == "heun" else n for n in calls]
    images = [
        estimates(pipe, prompts, range(16), sampler=sampler, num_inference_steps=n, eta=0.0)[
            -1
        ].clamp(-1, 1)
        for n in steps
    ]
    found = [judge_images(prompts, x) for x in images]
    accuracy_line(panel, calls, [rate(right) for right in found], sampler, style)
    print(
        f"{sampler:9}",
        ", ".join(
            f"{network_calls(sampler, n)} calls: {sum(right)}" for n, right in zip(steps, found)
        ),
    )
    rows.append([x[5] for x in images])
    frames.append([right[5] for right in found])
log_axis(panel, calls)
percent_axis(panel)
panel.legend(frameon=False, fontsize=8)
sheet

# %%
print(prompts[5])
image_table(rows, SAMPLERS, [f"{n} calls" for n in calls], cell=96, frames=frames)

# %% [markdown]
# **What you should have seen.** Three calls draw blurs, five already much, and with nine all four have 15 or 16 of 16 right: more calls buy nothing
# that 16 captions would show. Heun is last where calls are few, as it was with the exact denoiser: 3 calls are only 2 of its steps. Look at the images, too.
# DDIM and DPM-Solver++ draw one and the same from 3 calls to 15, Heun another, on another background: from one noise there is but one true end of the walk, so
# at least one of them is still far from it. DDPM adds noise of its own, and draws another image with every number of steps.
#
# ## 4. Where to stop on the way
#
# A sampler is also a list of times. Evenly spaced in $t$? In log-SNR? Each row is the same number of steps.

# %%
plot_spacings(20, base.log_snr_of)

# %% [markdown]
# Does it matter? Take a world of four plain images, white, black, gray and beige, all equally frequent, and its exact denoiser (the one of section 1, now
# with 12,288 values). 200 walks of 20 steps should end at each of them about 50 times, give or take 12.
#
# **Predict:** is there a spacing with which they do not, although the denoiser is perfect?

# %%
plain = render([Scene((), background) for background in BACKGROUNDS], 64)
x_T = randn(range(200), (3, 64, 64), "plain")
sheet, (panel,) = subplots(["where 200 walks end"], "")
for i, (spacing, style) in enumerate(zip(TIMESTEP_SPACINGS, STYLES)):
    *_, last = sample(
        mixture_denoiser(plain, base.log_snr_of),
        x_T,
        base.times(20, spacing),
        base.log_snr_of,
        base.config.sampler,
    )
    found = shares(last.x_0_hat, plain)
    panel.bar(
        [k + 0.2 * i - 0.3 for k in range(4)],
        found,
        width=0.18,
        color=style["color"],
        label=spacing,
    )
    print(
        f"{spacing:8}",
        ", ".join(f"{background} {share:.0%}" for background, share in zip(BACKGROUNDS, found)),
    )
panel.set_axisbelow(True)
panel.axhline(0.25, color="#777777", linestyle=":")
percent_axis(panel)
panel.set(xticks=range(4), xticklabels=BACKGROUNDS, ylim=(0, 0.55))
panel.legend(frameon=False, fontsize=8, ncols=2)
sheet

# %% [markdown]
# **What you should have seen.** Steps even in $t$ favour some backgrounds over others. What all pixels share shows through the most noise, so it is decided
# at the very beginning, and this spacing leaps over it with its first step, from log-SNR -16 to -9. The other three come about as close to even as 200 walks
# can show; `mixed`, this stage's default, also keeps many steps for the middle, where shapes are drawn. No score that looks at one image at a time would
# ever notice.
#
# ## 5. Between DDIM and DDPM: eta
#
# $$x_s = \alpha_s\, \hat x_0 + \sqrt{\sigma_s^2 - \eta^2 v}\; \hat\epsilon + \eta \sqrt{v}\; \text{noise}, \qquad v = \text{the variance of } x_s \text{ given } x_t \text{ and } x_0$$
#
# $\eta = 0$ is DDIM, $\eta = 1$ is DDPM. All images below start from one and the same $x_T$; what differs along a row is the noise that is added on the
# way.
#
# **Predict:** what does the top row look like? How much $\eta$ does it take to lose the layout that $x_T$ decided?

# %%
caption, etas, n = "a yellow star above a blue circle", (0.0, 0.3, 0.6, 1.0), 4
denoise = base.denoiser(pipe.text_encoder([caption] * n))
x_T, rows = randn([1] * n, (3, 64, 64), "base", "x_T"), []
for eta in etas:
    *_, last = sample(
        denoise,
        x_T,
        base.times(),
        base.log_snr_of,
        "ddim",
        noise=lambda step: randn(range(n), (3, 64, 64), "fresh", step),
        eta=eta,
    )
    rows.append(list(last.x_0_hat))
frames = [judge_images([caption] * n, torch.stack(row)) for row in rows]
print(f"{caption}; with fresh noise: {score_line(sum(frames[1:], []))}")
image_table(
    rows,
    [f"eta = {eta:g}" for eta in etas],
    [f"noise {i}" for i in range(n)],
    cell=84,
    frames=frames,
)

# %% [markdown]
# **What you should have seen.** Without fresh noise the image is a function of $x_T$, mistakes included. A little of it changes things and places, much of
# it the background as well: at $\eta = 1$ the start is forgotten. Hence interpolation wants $\eta = 0$, and an edit must give source and
# target the same fresh noise, as ours do (notebook 11). In exchange, fresh noise gives a walk the
# chance to leave a bad beginning.
#
# ## 6. Between two noises
#
# With $\eta = 0$, is there a path of images between two images? Mix their noises. One has to be careful how: the mean of two independent noises $a$ and
# $b$ has deviation $\sqrt{1/2}$, not 1,
#
# $$\mathrm{std}\bigl((1 - u)\, a + u\, b\bigr) = \sqrt{(1 - u)^2 + u^2},$$
#
# so at $t = 1$ it is not the noise that the network was trained for. Going around on the sphere keeps the length.
#
# **Predict:** will the middle of the linear row be worse? Does a thing *move* from one place to the other, or does it jump?

# %%
caption, mix = "a large green ring", [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]
denoise = base.denoiser(pipe.text_encoder([caption] * len(mix)))
a, b = randn([2, 1], (3, 64, 64), "base", "x_T")
rows, frames = [], []
for name, between in (("spherical", slerp), ("linear", torch.lerp)):
    x_T = torch.stack([between(a, b, u) for u in mix])
    *_, last = sample(denoise, x_T, base.times(), base.log_snr_of, base.config.sampler)
    rows.append(list(last.x_0_hat))
    frames.append(judge_images([caption] * len(mix), last.x_0_hat))
    print(f"{name:10} std of x_T:", ", ".join(f"{x.std():.2f}" for x in x_T))
image_table(rows, ["spherical", "linear"], [f"u = {u:g}" for u in mix], cell=96, frames=frames)

# %% [markdown]
# And how much does the length matter by itself? One noise, made longer and shorter.

# %%
factors = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0]
*_, last = sample(
    denoise,
    torch.stack([factor * a for factor in factors]),
    base.times(),
    base.log_snr_of,
    base.config.sampler,
)
image_table(
    [list(last.x_0_hat)],
    [caption],
    [f"{factor:g} x_T" for factor in factors],
    cell=96,
    frames=[judge_images([caption] * len(factors), last.x_0_hat)],
)

# %% [markdown]
# **What you should have seen.** Things do not glide from one place to the other; they stay, and then jump: an image of half a ring here and half a ring
# there is not of this world. And the linear row is *not* worse, although its noise is too short by a third. The second figure says why: the direction of the
# noise decides, and the network forgives half or twice its length, but for the background. Only when hardly any noise is left (that is what a mean of a
# hundred noises has: a tenth of the length) does the start lose its say: the image comes near the one that no noise at all leads to. So take `slerp`, which is right at no cost, but do not believe that everything
# would break without it: measure it on your network.
#
# ## 7. Backwards: which noise belongs to an image?
#
# A walk without fresh noise can be walked backwards: the same step, with $s > t$. `ddim_invert` does that, so an image gets a noise from which the sampler should
# lead back to it. Editing of given images starts from there. Each step assumes that $\hat\epsilon$ stays what it was, so the way back is not exact.
#
# We draw two images, walk back to their noise, and forth again. We know the true noise: it is what we started from.
#
# **Predict:** with more steps, does the noise come out better? And the image?

# %%
caption, seeds, counts = "a red star to the left of a blue circle", [3, 4], (20, 40, 80)
denoise = base.denoiser(pipe.text_encoder([caption] * 2), guidance_scale=1.0, threshold="none")
x_T, rows, off = randn(seeds, (3, 64, 64), "base", "x_T"), [], {"noise": [], "picture": []}
for steps in counts:
    times = base.times(steps, "log_snr")
    *_, generated = sample(denoise, x_T, times, base.log_snr_of, "ddim")
    *_, back = ddim_invert(denoise, generated.x, times, base.log_snr_of)
    *_, again = sample(denoise, back.x, times, base.log_snr_of, "ddim")
    off["noise"].append((back.x - x_T).square().mean().sqrt().item())
    off["picture"].append((again.x_0_hat - generated.x_0_hat).square().mean().sqrt().item())
    rows.append([generated.x_0_hat[0], again.x_0_hat[0], generated.x_0_hat[1], again.x_0_hat[1]])
    print(
        f"{steps} steps: the noise is off by {off['noise'][-1]:.3f}, the image drawn from it by {off['image'][-1]:.2f} (root mean square)"
    )
image_table(
    rows,
    [f"{steps} steps" for steps in counts],
    ["drawn", "and again", "drawn", "and again"],
    cell=84,
)

# %% [markdown]
# **What you should have seen.** Twice the steps, half the error of the noise: first order again, with a trained network. The image follows late: it
# is off by 0.33, 0.19 and 0.09. Colours and the relation come back at once, but the background and the sizes may be others even where the noise is off by a few percent: they hang on very small
# sums over all of $x_T$, as section 4 has shown, and a small error tips them over. In this world one has to be very near for the image to come back. So
# this is not how edits are made here: they start from a noise that is known (notebook 11).
#
# ## Exercise: one step by hand, with thresholding in it
#
# Most networks elsewhere predict $\epsilon$. Write one DDIM step for them: from `x_t` and `eps_hat`, get $\hat x_0$, clip it to $[-1, 1]$ (static
# thresholding), and take the step. Careful: once $\hat x_0$ is clipped, which noise is in $x_t$? The four coefficients are numbers. Checked in float64.


# %%
def my_step(
    x_t: torch.Tensor,
    eps_hat: torch.Tensor,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
) -> torch.Tensor: ...  # your answer


nb09.check(my_step)

# %% [markdown]
# With it, the loop below is a sampler. It should end at the same image as the package's `ddim` with static thresholding. Until you have answered, the
# figure holds that one alone.

# %%
answered = nb09.check(my_step).right
caption, times, x = (
    "a small purple triangle below a large cyan square",
    base.times(),
    randn([0], (3, 64, 64), "base", "x_T"),
)
text = pipe.text_encoder(caption)
*_, theirs = sample(base.denoiser(text, threshold="static"), x, times, base.log_snr_of, "ddim")
row, names = [theirs.x_0_hat[0]], ["the package's ddim"]
if answered:
    guess = base.denoiser(text, threshold="none")
    for t, s in zip(times, times[1:]):
        log_snr_t, log_snr_s = base.log_snr_of(t), base.log_snr_of(s)
        with torch.no_grad():
            eps_hat = eps_from_x_0(guess(x, t), x, log_snr_t)
        x = my_step(x, eps_hat, *alpha_sigma(log_snr_t), *alpha_sigma(log_snr_s))
    row, names = [*row, x[0]], [*names, "yours"]
    print(f"largest difference: {(x - theirs.x).abs().max():.1e}")
image_table(
    [row], [""], names, cell=128, frames=[judge_images([caption] * len(row), torch.stack(row))]
)

# %% [markdown]
# Yours and the package's should differ by less than 0.01, which is rounding in float32, grown over 32 steps.
#
# Next: [10, super-resolution with noise augmentation](10_super_resolution.ipynb).
