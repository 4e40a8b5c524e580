# %% [markdown]
# # 09 Samplers
#
# **Objective:** sample from noise to image in several ways, and measure how many network evaluations (NFE) each needs.
#
# **Before this:** 01, 02, 08
#
# A trained denoiser predicts the clean image for any noisy one. It does not say how to get there. A
# **sampler** does: from $x_t$ and $\hat x_0$ it computes the next, less noisy $x_s$. Training does
# not depend on it, so samplers can be exchanged freely. The simplest one splits $x_t$ into the
# predicted image and the predicted noise, and combines the two again for time $s$:
#
# $$\hat\epsilon = \frac{x_t - \alpha_t \hat x_0}{\sigma_t}, \qquad x_s = \alpha_s\, \hat x_0 + \sigma_s\, \hat\epsilon \qquad\qquad \text{(DDIM)}$$
#
# The others add fresh noise (**DDPM**, the ancestral sampler), or use two estimates per step to
# account for the curvature of the trajectory: the previous one again (**DPM-Solver++ 2M**), or an
# additional one (**Heun**).

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
from imagen_mini.evaluation.analytic_denoisers import (
    gaussian_denoiser,
    gaussian_flow,
    mixture_denoiser,
)
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.guidance_measures import accuracy_with_interval, x_0_hat_trajectory
from imagen_mini.evaluation.sampler_accuracy import (
    fitted_order,
    integration_errors,
    nearest_shares,
    network_calls,
)
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import BACKGROUNDS, Scene
from imagen_mini.utils.interpolation import slerp
from imagen_mini.utils.rng import randn
from imagen_mini.viz.guidance import plot_accuracy
from imagen_mini.viz.image_grid import image_table
from imagen_mini.viz.samplers import plot_errors, plot_spacings, plot_trajectories
from imagen_mini.viz.style import STYLES, log_axis, percent_axis, subplots

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
base = pipe.stages["base"]
show_source(ddim_step)

# %% [markdown]
# ## 1. Trajectories in one dimension
#
# Images have 12,288 values, too many to plot. So here is a world whose "images" are single numbers,
# and there are just three of them. Its optimal denoiser is a formula: the mean of the three,
# weighted by the posterior probability of each given $x_t$. `sample` does not need a network.
#
# **Predict:** DDIM adds no noise during sampling, DDPM does. What do 16 trajectories from the same
# 16 starting points look like? Can DDIM trajectories cross?

# %%
points = torch.tensor([-0.8, 0.1, 0.7]).reshape(3, 1, 1, 1)
denoise = mixture_denoiser(points, cosine_log_snr)
x_T, times, trajectories = randn(range(16), (1, 1, 1), "walkers"), uniform_timesteps(40), {}
for name, sampler in (
    ("ddim: no noise is added", "ddim"),
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
        (16 * nearest_shares(states[-1].x_0_hat, points)).int().tolist(),
        "of 16",
    )
plot_trajectories(trajectories, points.flatten().tolist())

# %% [markdown]
# **What you should have seen.** DDIM's trajectories are smooth and do not cross: in one dimension,
# the order of the starting points is the order of the ends. They follow an ordinary differential
# equation, the *probability flow ODE*. DDIM is Euler's method for it, if the variables are
# $x_t / \alpha$ and $\sigma / \alpha$. (Euler's method in $x_t$ and $t$ is another, worse one.)
# DDPM's trajectories are jagged: it simulates a stochastic differential equation, and where one
# ends is not determined by where it starts. Both reach every point.
#
# ## 2. The order of a method
#
# The differential equation has an exact solution, which infinitely many steps would reach. For
# normally distributed data it is a formula, so the error of a sampler can be measured. A method is
# of *first order* if twice as many steps halve the error, of *second order* if they quarter it:
# lines of slope -1 and -2 on two logarithmic axes.

# %%
show_source(gaussian_denoiser, gaussian_flow)

# %% [markdown]
# **Predict:** which of DDIM, DPM-Solver++ 2M and Heun are of which order? Heun calls the network
# twice a step: is it worth it when calls are few?

# %%
lines = {
    sampler: list(integration_errors(sampler, [8, 16, 32, 64, 128, 256], base.schedule))
    for sampler in ("ddim", "dpmpp_2m", "heun")
}
for sampler, found in lines.items():
    calls, error = zip(*found[2:])
    print(
        f"{sampler:9} order {fitted_order(calls, error):.2f};  error {found[0][1]:.4f} with {found[0][0]} calls, {found[-1][1]:.6f} with {found[-1][0]}"
    )
plot_errors(lines)

# %% [markdown]
# **What you should have seen.** DDIM is of order 1, the other two of order 2. The fitted numbers
# should be within 0.2 of that, and the tests of this package check it. But the order describes
# *many* steps. At the left end, with few network evaluations, Heun is the worst of all per
# evaluation, and DPM-Solver++ is ahead, because it reuses an estimate that is already computed.

# %%
show_source(dpmpp_2m_step, heun_step)

# %% [markdown]
# ## 3. Correct images per network call
#
# Now the trained network, and the measure that matters: correct images. 16 captions (single
# objects, relations, bindings, counts), from the same noise. Only DDPM adds more noise during
# sampling.
#
# **Predict:** after how many calls do more calls no longer help? Which sampler is last?

# %%
prompts = [
    c.text
    for _, _, c in benchmark(4, categories=["one object", "positional", "binding", "counting"])
]
calls, rows, borders = (3, 5, 9, 15), [], []
fig, (ax,) = subplots(
    [f"share correct of {len(prompts)}, with 95 % intervals"], "network calls per image"
)
for sampler, style in zip(SAMPLERS, STYLES):
    steps = [(n + 1) // 2 if sampler == "heun" else n for n in calls]
    images = [
        x_0_hat_trajectory(
            pipe, prompts, range(16), sampler=sampler, num_inference_steps=n, eta=0.0
        )[-1].clamp(-1, 1)
        for n in steps
    ]
    found = [judge_images(prompts, x) for x in images]
    plot_accuracy(ax, calls, [accuracy_with_interval(correct) for correct in found], sampler, style)
    print(
        f"{sampler:9}",
        ", ".join(
            f"{network_calls(sampler, n)} calls: {sum(correct)}" for n, correct in zip(steps, found)
        ),
    )
    rows.append([x[5] for x in images])
    borders.append([correct[5] for correct in found])
log_axis(ax, calls)
percent_axis(ax)
ax.legend(frameon=False, fontsize=8)
fig

# %%
print(prompts[5])
image_table(rows, list(SAMPLERS), [f"{n} calls" for n in calls], cell=96, borders=borders)

# %% [markdown]
# **What you should have seen.** Three calls give blurred images, five already much better ones, and
# with nine all four samplers have 14 to 16 of 16 correct. More calls bring no gain that 16 captions
# could show. Heun is last where calls are few, as it was with the exact denoiser: 3 calls are only
# 2 of its steps. Compare the images, too. DDIM and DPM-Solver++ generate one and the same from 3
# calls to 15, Heun another, on another background. From one noise the differential equation has
# only one solution, so at least one of them is still far from it. DDPM adds more noise, and
# generates another image with every number of steps.
#
# ## 4. The spacing of the timesteps
#
# A sampler also needs a list of timesteps. Should they be evenly spaced in $t$? In log-SNR? Each
# row is the same number of steps.

# %%
plot_spacings(20, base.schedule)

# %% [markdown]
# Does it matter? Take a world of four plain images, white, black, gray and beige, all equally
# frequent, and its exact denoiser (the one of section 1, now with 12,288 values). 200 trajectories
# of 20 steps should end at each of them about 50 times. A 95 % interval is plus or minus 12.
#
# **Predict:** is there a spacing with which they do not, although the denoiser is exact?

# %%
plain = render([Scene((), background) for background in BACKGROUNDS], 64)
x_T = randn(range(200), (3, 64, 64), "plain")
fig, (ax,) = subplots(["where 200 trajectories end"], "")
for i, (spacing, style) in enumerate(zip(TIMESTEP_SPACINGS, STYLES)):
    *_, last = sample(
        mixture_denoiser(plain, base.schedule),
        x_T,
        base.timesteps(20, spacing),
        base.schedule,
        base.config.sampler,
    )
    found = nearest_shares(last.x_0_hat, plain)
    ax.bar(
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
ax.set_axisbelow(True)
ax.axhline(0.25, color="#777777", linestyle=":")
percent_axis(ax)
ax.set(xticks=range(4), xticklabels=BACKGROUNDS, ylim=(0, 0.55), ylabel="share of 200 trajectories")
ax.legend(frameon=False, fontsize=8, ncols=2)
fig

# %% [markdown]
# **What you should have seen.** Steps that are uniform in $t$ favour some backgrounds over others.
# A property that all pixels share is visible through the most noise, so it is decided at the very
# beginning, and this spacing skips that range with its first step, from log-SNR -16 to -9. The
# other three are much closer to uniform, though not every count need lie within 12 of 50. `mixed`,
# this stage's default, also keeps many steps for the middle, where shapes form. No score of single
# images would ever notice.
#
# ## 5. Between DDIM and DDPM: eta
#
# $$x_s = \alpha_s\, \hat x_0 + \sqrt{\sigma_s^2 - \eta^2 v}\; \hat\epsilon + \eta \sqrt{v}\; \text{noise}, \qquad v = \text{the variance of } x_s \text{ given } x_t \text{ and } x_0$$
#
# $\eta = 0$ is DDIM, $\eta = 1$ is DDPM. All images below start from one and the same $x_T$. Along
# a row only the noise that is added during sampling differs.
#
# **Predict:** what does the top row look like? How much $\eta$ does it take to lose the layout that
# $x_T$ decided?

# %%
caption, etas, n = "a yellow star above a blue circle", (0.0, 0.3, 0.6, 1.0), 4
denoise = base.denoiser(pipe.text_encoder([caption] * n))
x_T, rows = randn([1] * n, (3, 64, 64), "base", "x_T"), []
for eta in etas:
    *_, last = sample(
        denoise,
        x_T,
        base.timesteps(),
        base.schedule,
        "ddim",
        noise=lambda step: randn(range(n), (3, 64, 64), "fresh", step),
        eta=eta,
    )
    rows.append(list(last.x_0_hat))
borders = [judge_images([caption] * n, torch.stack(row)) for row in rows]
print(f"{caption}; with fresh noise: {score_line(sum(borders[1:], []))}")
image_table(
    rows,
    [f"eta = {eta:g}" for eta in etas],
    [f"noise {i}" for i in range(n)],
    cell=84,
    borders=borders,
)

# %% [markdown]
# **What you should have seen.** Without fresh noise the image is a function of $x_T$, errors
# included. A little of it changes objects and positions, much of it the background as well: at
# $\eta = 1$ the image no longer depends on the start. Hence interpolation needs $\eta = 0$, and an
# edit has to use the same fresh noise for source and target, as ours do (notebook 11). On the other
# hand, fresh noise lets a trajectory correct a bad beginning. (The parser reads a relation from the
# larger of the two offsets between the objects. So a frame can be orange although an object lies
# above the other: it lies even further to the side.)
#
# ## 6. Between two noises
#
# With $\eta = 0$, is there a path of images between two images? Mix their noises. The mixture
# matters: the mean of two independent noises $a$ and $b$ has standard deviation $\sqrt{1/2}$, not
# 1,
#
# $$\mathrm{std}\bigl((1 - u)\, a + u\, b\bigr) = \sqrt{(1 - u)^2 + u^2},$$
#
# so at $t = 1$ it is not the noise that the network was trained for. Spherical interpolation
# (slerp) keeps the length.
#
# **Predict:** will the middle of the linear row be worse? Does an object *move* from one position
# to the other, or does it jump?

# %%
caption, mix = "a large green ring", [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]
denoise = base.denoiser(pipe.text_encoder([caption] * len(mix)))
a, b = randn([2, 1], (3, 64, 64), "base", "x_T")
rows, borders = [], []
for name, between in (("spherical", slerp), ("linear", torch.lerp)):
    x_T = torch.stack([between(a, b, u) for u in mix])
    *_, last = sample(denoise, x_T, base.timesteps(), base.schedule, base.config.sampler)
    rows.append(list(last.x_0_hat))
    borders.append(judge_images([caption] * len(mix), last.x_0_hat))
    print(f"{name:10} std of x_T:", ", ".join(f"{x.std():.2f}" for x in x_T))
image_table(rows, ["spherical", "linear"], [f"u = {u:g}" for u in mix], cell=96, borders=borders)

# %% [markdown]
# And how much does the length matter by itself? Here is one noise, scaled up and down.

# %%
factors = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0]
*_, last = sample(
    denoise,
    torch.stack([factor * a for factor in factors]),
    base.timesteps(),
    base.schedule,
    base.config.sampler,
)
image_table(
    [list(last.x_0_hat)],
    [caption],
    [f"{factor:g} x_T" for factor in factors],
    cell=96,
    borders=[judge_images([caption] * len(factors), last.x_0_hat)],
)

# %% [markdown]
# **What you should have seen.** Objects do not move gradually from one position to the other. They
# stay, and then jump: an image of half a ring here and half a ring there is not of this world. And
# the linear row is *not* worse, although its noise is too short by a third. The second figure says
# why: the direction of the noise decides, and the network tolerates half or twice its length,
# except for the background. Only when hardly any noise is left does the start have no more
# influence: the image approaches the one that no noise at all leads to. (A mean of a hundred noises
# has such a length, a tenth.) So use `slerp`, which is correct at no cost, but do not believe that
# everything would break without it: measure it on your network.
#
# ## 7. Inversion: which noise belongs to an image?
#
# A trajectory without fresh noise can be followed backwards: the same step, with $s > t$.
# `ddim_invert` does that, so it finds a noise from which the sampler should lead back to a given
# image. Editing of given images starts from there. Each step assumes that $\hat\epsilon$ does not
# change, so the inversion is not exact.
#
# We generate two images, invert them to noise, and sample again from it. The true noise is known:
# it is the one we started from.
#
# **Predict:** with more steps, is the noise more accurate? And the image?

# %%
caption, seeds, counts = "a red star to the left of a blue circle", [3, 4], (20, 40, 80)
denoise = base.denoiser(pipe.text_encoder([caption] * 2), guidance_scale=1.0, threshold="none")
x_T, rows, off = randn(seeds, (3, 64, 64), "base", "x_T"), [], {"noise": [], "image": []}
for steps in counts:
    times = base.timesteps(steps, "log_snr")
    *_, generated = sample(denoise, x_T, times, base.schedule, "ddim")
    *_, back = ddim_invert(denoise, generated.x, times, base.schedule)
    *_, again = sample(denoise, back.x, times, base.schedule, "ddim")
    off["noise"].append((back.x - x_T).square().mean().sqrt().item())
    off["image"].append((again.x_0_hat - generated.x_0_hat).square().mean().sqrt().item())
    rows.append([generated.x_0_hat[0], again.x_0_hat[0], generated.x_0_hat[1], again.x_0_hat[1]])
    print(
        f"{steps} steps: the noise is off by {off['noise'][-1]:.3f}, the image sampled from it by {off['image'][-1]:.2f} (root mean square)"
    )
image_table(
    rows,
    [f"{steps} steps" for steps in counts],
    ["original", "reconstruction", "original", "reconstruction"],
    cell=84,
)

# %% [markdown]
# **What you should have seen.** Twice the steps, half the error of the noise: first order again,
# with a trained network. The image needs more steps: it is off by 0.33, 0.19 and 0.09. Colours and
# the relation come back at once, but the background and the sizes may differ even where the noise
# is off by a few per cent. They depend on very small sums over all of $x_T$, as section 4 has
# shown, and a small error changes them. In this world the noise has to be very accurate for the
# image to come back. So edits here do not use inversion: they start from a noise that is known
# (notebook 11).
#
# ## Exercise: one step by hand, with thresholding in it
#
# Most networks elsewhere predict $\epsilon$. Write one DDIM step for them: from `x_t` and
# `eps_hat`, compute $\hat x_0$, clip it to $[-1, 1]$ (static thresholding), and take the step.
# Careful: once $\hat x_0$ is clipped, which noise is in $x_t$? The four coefficients are numbers.
# Checked in float64.


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
# With it, the loop below is a sampler. It should end at the same image as the package's `ddim` with
# static thresholding. Until you have answered, the figure shows that one alone.

# %%
answered = nb09.check(my_step).correct
caption, times, x = (
    "a small purple triangle below a large cyan square",
    base.timesteps(),
    randn([0], (3, 64, 64), "base", "x_T"),
)
text = pipe.text_encoder(caption)
*_, theirs = sample(base.denoiser(text, threshold="static"), x, times, base.schedule, "ddim")
row, names = [theirs.x_0_hat[0]], ["the package's ddim"]
if answered:
    guess = base.denoiser(text, threshold="none")
    for t, s in zip(times, times[1:]):
        log_snr_t, log_snr_s = base.schedule(t), base.schedule(s)
        with torch.no_grad():
            eps_hat = eps_from_x_0(guess(x, t), x, log_snr_t)
        x = my_step(x, eps_hat, *alpha_sigma(log_snr_t), *alpha_sigma(log_snr_s))
    row, names = [*row, x[0]], [*names, "yours"]
    print(f"largest difference: {(x - theirs.x).abs().max():.1e}")
image_table(
    [row], [""], names, cell=128, borders=[judge_images([caption] * len(row), torch.stack(row))]
)

# %% [markdown]
# Yours and the package's should differ by less than 0.01. This is rounding error in float32, grown
# over 32 steps.
#
# Next: [10, super-resolution with noise augmentation](10_super_resolution.ipynb).
