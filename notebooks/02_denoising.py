# %% [markdown]
# # 02 Denoising: blur, one step, many steps
#
# **Objective:** find out what the best possible denoiser returns, why that is a blur, and why sampling therefore takes many steps.
#
# **Before this:** 01
#
# All that a diffusion model learns is to denoise: given $x_t = \alpha x_0 + \sigma \epsilon$, it
# predicts $x_0$. It is trained with the squared error. The prediction with the least squared error
# (MMSE) is the mean of the *posterior*, the distribution of the clean image given the noisy one:
#
# $$\hat x_0(x_t) = E[\,x_0 \mid x_t\,] = \sum_i p(x_i \mid x_t)\; x_i$$
#
# This is the average of all clean images that are possible given $x_t$, each weighted by its
# probability. A mean of images is in general not an image. This notebook compares a classical
# denoiser, a trained network and the *exact* mean. It ends where sampling begins.

# %%
import torch

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb02
from imagen_mini.course.notebook import setup_notebook, show_judged, show_source
from imagen_mini.data.synthetic import SceneDataset
from imagen_mini.diffusion.gaussian import (
    PREDICTION_TYPES,
    from_x_0,
    q_sample,
    to_x_0,
    v_from_x_0,
    x_0_from_v,
)
from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import alpha_sigma, numeric_t
from imagen_mini.evaluation.analytic_denoisers import (
    best_gaussian_blur,
    posterior_mean,
    posterior_weights,
    scenes_at_all_positions,
)
from imagen_mini.evaluation.metrics import pooled_psnr
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import HELD_OUT_SEED, SceneObject
from imagen_mini.utils.rng import generator, randn
from imagen_mini.viz.image_grid import image_table
from imagen_mini.viz.style import STYLES, log_axis, percent_axis, subplots

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
base = pipe.stages["base"]

# %% [markdown]
# ## 1. Three ways to denoise
#
# - **Blur**: average neighbouring pixels. We give it every advantage: of many widths and factors,
#   we choose the ones that come nearest to the true images, which it could not know.
# - **One step**: call the trained network once for $\hat x_0$.
# - **Trajectory**: take a small step towards $\hat x_0$, call the network again, and so on. This is
#   the sampler of notebook 00, but shorter and plainer. It starts here and not at pure noise, takes
#   ten steps, adds no fresh noise and has no guidance.
#
# The network is conditioned on the captions; blur cannot be. So we also measure the network
# *without* them. There are two measures. **PSNR** is the peak signal-to-noise ratio: how near a
# result is to the true image, pixel by pixel (in decibels, of the mean squared error of all images;
# 10 more is an error ten times smaller). **The parser** says whether the image shows what the
# caption says.

# %%
show_source(best_gaussian_blur)

# %% [markdown]
# **Predict:** at which of three noise levels does blur still work? Where the network's single
# prediction is a blur as well, what will the trajectory make of it? Which of the three has the
# highest PSNR, and which the most images that match their captions?

# %%
n = 16
batch = SceneDataset(HELD_OUT_SEED).batch(range(n), 64)  # images that were never used in training
x_0, captions = batch.images, batch.captions
eps = randn(range(n), (3, 64, 64), "eps")
text = pipe.text_encoder(captions)
denoise = base.denoiser(
    text, guidance_scale=1, threshold="none"
)  # the network's prediction: (x_t, t) -> x_0_hat
without_words = base.denoiser(text.null(), guidance_scale=1, threshold="none")

levels = [3.0, 1.0, -1.0, -2.5, -4.0, -5.5, -7.0, -9.0, -11.0]  # log-SNR, from little noise to much
answers = {}
for level in levels:
    x_t = q_sample(x_0, eps, torch.tensor(level))
    t = numeric_t(
        torch.tensor(level), base.schedule
    )  # the time at which the stage's schedule has this noise
    *_, last = sample(
        denoise, x_t, t * base.timesteps(10), base.schedule, base.config.sampler
    )  # ten steps, from t to 0
    answers[level] = {
        "blur": best_gaussian_blur(x_0, x_t)[0],
        "one step, no words": without_words(x_t, t),
        "one step": denoise(x_t, t),
        "trajectory": last.x_0_hat,
    }

# %%
chosen, which = [-1.0, -4.0, -7.0], 0
names = ["blur", "one step", "trajectory"]
print(captions[which])
rows = [
    [
        q_sample(x_0, eps, torch.tensor(level))[which],
        *(answers[level][name][which] for name in names),
        x_0[which],
    ]
    for level in chosen
]
borders = [
    [judge_images([captions[which]], image[None].clamp(-1, 1))[0] for image in row] for row in rows
]
image_table(
    rows,
    [f"log-SNR {level:g}" for level in chosen],
    ["x_t", *names, "true image"],
    cell=128,
    borders=borders,
)

# %%
for level in chosen:
    print(f"log-SNR {level:g}")
    for name in names:
        found = answers[level][name]
        print(
            f"    {name:10} {pooled_psnr(found, x_0):5.1f} dB, {score_line(judge_images(captions, found.clamp(-1, 1)))}"
        )

# %% [markdown]
# And over all levels:

# %%
fig, (psnr_ax, caption_ax) = subplots(
    ["PSNR to the true image", "images that show their caption"], "log-SNR   (right: more noise)"
)
for name, style in zip(["blur", "one step, no words", "one step", "trajectory"], STYLES):
    psnr_ax.plot(
        levels, [pooled_psnr(answers[level][name], x_0) for level in levels], label=name, **style
    )
    caption_ax.plot(
        levels,
        [sum(judge_images(captions, answers[level][name].clamp(-1, 1))) / n for level in levels],
        label=name,
        **style,
    )
for ax in (psnr_ax, caption_ax):
    ax.invert_xaxis()
psnr_ax.set_ylabel("PSNR, dB")
percent_axis(caption_ax)
psnr_ax.legend(frameon=False)
fig

# %% [markdown]
# **What you should have seen.** Blur is far behind even at little noise. From a log-SNR of 1 on,
# hardly any of its images can be read: what removes the noise removes the outlines. The network's
# single prediction is sharp at little noise and becomes blurred as noise grows. Then comes the
# point of this notebook: where there is much noise, **the trajectory has the lower PSNR and the
# better images**. The single prediction is nearer to the true image, and shows nothing. The
# trajectory ends at *some* sharp image, which often shows the caption and is not the true one. What
# the noise has hidden is invented. Where there is little noise, there is nothing to decide, and one
# step does as well as many. (From a log-SNR of -4 on, some of the 16 trajectories fail. The README
# lists what these weights are worst at.)
#
# The words help at every level. At the highest noise, they are the only information.
#
# ## 2. The best possible denoiser
#
# Is the blurred prediction a weakness of this network? This can be checked. Let the caption be *a
# large red circle on a white background*. There are only 1,764 such images, one for each position.
# So the sum at the top can be computed in full:

# %%
show_source(posterior_weights, posterior_mean)

# %% [markdown]
# **Predict:** the exact mean at growing noise, and below it the prediction of the network, which
# was trained on images like these but never given a list of them. Will you be able to distinguish
# them?

# %%
circle = SceneObject(x=24, y=40, shape="circle", color="red", size="large", texture="solid")
candidates = render(scenes_at_all_positions(circle, "white"))  # [1764, 3, 64, 64]
hidden = candidates[
    torch.randperm(len(candidates), generator=generator(2, "hidden"))[:12]
]  # twelve of them, as true images
noise = randn(range(12), (3, 64, 64), "noise")
caption = "a large red circle on a white background"
text_batch = pipe.text_encoder([caption] * 12)
answer = base.denoiser(text_batch, guidance_scale=1, threshold="none")

few_levels = [-3.0, -4.0, -5.0, -6.0, -7.0, -9.0]
best, network = {}, {}
for level in few_levels:
    log_snr = torch.tensor(level)
    x_t = q_sample(hidden, noise, log_snr)
    best[level] = posterior_mean(x_t, log_snr, candidates)
    network[level] = answer(x_t, numeric_t(log_snr, base.schedule))

rows = [[best[level][0] for level in few_levels], [network[level][0] for level in few_levels]]
image_table(
    rows,
    ["exact mean", "the network, one step"],
    [f"log-SNR {level:g}" for level in few_levels],
    cell=112,
)

# %%
print(
    "over twelve images          PSNR to the true image, dB:   exact   network   and between the two"
)
for level in few_levels:
    log_snr = torch.tensor(level)
    p = posterior_weights(q_sample(hidden, noise, log_snr), log_snr, candidates)
    positions = torch.exp(-torch.special.xlogy(p, p).sum(1)).mean()  # perplexity: exp(entropy)
    print(
        f"log-SNR {level:g}: about {positions:6.1f} of {len(candidates)} positions possible {pooled_psnr(best[level], hidden):12.1f} {pooled_psnr(network[level], hidden):9.1f}"
        f" {pooled_psnr(best[level], network[level]):14.1f}"
    )

# %% [markdown]
# **What you should have seen.** The two agree in nearly everything: where the prediction is sharp,
# where it is blurred, even in which other positions have some probability. Between the two there
# are 30 dB or more, an error of a few hundredths of the range. Both are far from the true image
# wherever much is uncertain. So the blurred circle is no weakness. It is the correct answer to this
# question, and a larger network would give the same. (At little noise the exact sum is better: it
# *knows* that positions are whole pixels. On average nothing is better than it.)
#
# Why is the mean the best? For any prediction $a$,
# $E\,\|x_0 - a\|^2 = E\,\|x_0 - \mu\|^2 + \|a - \mu\|^2$ with the posterior mean $\mu$. Only the
# second term depends on $a$, and it is zero for $a = \mu$.
#
# ## 3. Many trajectories from one $x_t$
#
# If one prediction is the mean of all images that are possible, and a trajectory samples one of
# them, then the average of many trajectories should be that prediction. The sampler has to be
# stochastic: `ddpm` adds fresh noise at every step.
#
# **Predict:** below are five trajectories from the same $x_t$ at log-SNR -6. Will they agree? What
# will the average of 32 look like?

# %%
trajectories, log_snr = 32, torch.tensor(-6.0)
truth, x_t = hidden[:1], q_sample(hidden[:1], noise[:1], log_snr)
t = numeric_t(log_snr, base.schedule)
many = base.denoiser(text_batch[[0] * trajectories], guidance_scale=1, threshold="none")
fresh_noise = lambda step: randn(range(trajectories), (3, 64, 64), "step", step)
*_, last = sample(
    many,
    x_t.expand(trajectories, -1, -1, -1),
    t * base.timesteps(12),
    base.schedule,
    "ddpm",
    fresh_noise,
)

generated, exact, once = last.x_0_hat, best[-6.0][:1], network[-6.0][:1]
columns = [
    *(f"trajectory {i + 1}" for i in range(5)),
    f"mean of {trajectories}",
    "one step",
    "exact mean",
    "true image",
]
image_table(
    [[*generated[:5], generated.mean(0), once[0], exact[0], truth[0]]], [""], columns, cell=96
)

# %%
print(
    f"trajectories that show the caption: {score_line(judge_images([caption] * trajectories, generated.clamp(-1, 1)))}"
)
p = posterior_weights(x_t, log_snr, candidates)[0]
spread_exact = (p @ (candidates - exact).square().flatten(1).mean(1)).sqrt().item()
spread_trajectories = generated.std(0, correction=1).square().mean().sqrt().item()
print(
    f"spread of an image around the mean: trajectories {spread_trajectories:.3f}, all possible images {spread_exact:.3f}"
)
print(
    f"error to the true image: one step {(once - truth).square().mean():.3f}, a trajectory on average {(generated - truth).square().mean():.3f} (mean squares)"
)

fig, (ax,) = subplots(
    ["distance of the mean from the one-step prediction"], "trajectories in the mean"
)
fig.set_size_inches(5.5, 3.5)
counts = [1, 2, 4, 8, 16, 32]
far = [
    torch.stack([group.mean(0) - once[0] for group in generated.split(count)])
    .square()
    .mean()
    .sqrt()
    .item()
    for count in counts
]
ax.plot(counts, far, label="measured", **STYLES[0])
ax.plot(
    counts,
    [spread_exact / count**0.5 for count in counts],
    label="spread / sqrt(trajectories)",
    **STYLES[1],
)
ax.set_yscale("log")
ax.set_yticks([0.05, 0.1, 0.2, 0.4], ["0.05", "0.1", "0.2", "0.4"])
log_axis(ax, counts)
ax.set_ylabel("root mean square difference")
ax.legend(frameon=False)
fig

# %% [markdown]
# **What you should have seen.** Each trajectory ends at a clean image, with the circle at a
# different position. Their mean approaches the one-step prediction, about at the rate of any mean,
# $1 / \sqrt n$. The samples are spread about as widely as the images that are possible: they do not
# favour a few. This is the whole relation of denoising and sampling:
#
# - **one step** answers *what is the mean?* It has the least squared error, and is a sharp image
#   only where nothing is left to decide;
# - **a trajectory** answers *what is one sample?* If it samples the posterior, its squared error is
#   that of the mean plus the square of the spread: on average over images, twice as large, which is
#   3 dB less. A single case, as here, may differ from that.
#
# From pure noise there is no information at all: the one-step prediction is the mean of all images
# with this caption. The trajectory still samples one.
#
# ## 4. $\epsilon$, $x_0$ and $v$ are equivalent
#
# A network may as well predict the noise, or a mixture called $v$:
#
# $$\epsilon = \frac{x_t - \alpha x_0}{\sigma}, \qquad v = \alpha\,\epsilon - \sigma\, x_0$$
#
# $x_t$ and the noise level are known, so each of the three can be computed from each other one.
# (The gradient of $\log p(x_t)$, the *score function*, is one more form of the same quantity: it is
# $-E[\epsilon \mid x_t] / \sigma$.)

# %%
show_source(v_from_x_0, x_0_from_v)

# %% [markdown]
# **Predict:** convert there and back, in float64 and in float32, at four noise levels: to how many
# digits is $x_0$ the same? Is one of the three worse than the others?

# %%
print("largest error of x_0, there and back")
for level in (6.0, 0.0, -6.0, -12.0):
    for dtype in (torch.float64, torch.float32):
        log_snr, image = torch.tensor(level, dtype=dtype), x_0.to(dtype)
        x_t = q_sample(image, eps.to(dtype), log_snr)
        errors = [
            (to_x_0(from_x_0(image, kind, x_t, log_snr), kind, x_t, log_snr) - image).abs().max()
            for kind in PREDICTION_TYPES
        ]
        words = [f"through {kind} {error:.0e}" for kind, error in zip(PREDICTION_TYPES, errors)]
        print(f"log-SNR {level:3g}, {str(dtype)[6:]}: " + ", ".join(words))

# %%
log_snr = torch.tensor(-2.0, dtype=torch.float64)
alpha, sigma = alpha_sigma(log_snr)
image, dots = x_0.double(), eps.double()
x_t = q_sample(image, dots, log_snr)
v = v_from_x_0(image, x_t, log_snr)
print(
    f"eps = sigma x_t + alpha v:        off by {(sigma * x_t + alpha * v - dots).abs().max():.0e}"
)
print(
    f"x_t^2 + v^2 = x_0^2 + eps^2:      off by {(x_t**2 + v**2 - image**2 - dots**2).abs().max():.0e}"
)

# %% [markdown]
# The last line summarises it: $(x_t, v)$ is $(x_0, \epsilon)$, *rotated* by an angle that depends
# on the noise level alone.
#
# If they are equivalent, why do papers argue about which to predict? Because a network is never
# exact, and the same error has a different size in each.
#
# **Predict:** take the network's one-step predictions of section 1. Its error in $x_0$ grows with
# the noise, of course. Its error in $\epsilon$? And in the other direction: let each prediction be
# off by 0.01. How far off is the $x_0$ that is computed from it?

# %%
fig, (error_ax, effect_ax) = subplots(
    ["the network's error, in three spaces", "error of x_0 if the prediction is off by 0.01"],
    "log-SNR   (right: more noise)",
)
wrong = 0.01 * randn(range(n), (3, 64, 64), "wrong")
table = {}
for kind, style in zip(PREDICTION_TYPES, STYLES):
    errors, effects = [], []
    for level in levels:
        log_snr = torch.tensor(level)
        x_t = q_sample(x_0, eps, log_snr)
        true = from_x_0(x_0, kind, x_t, log_snr)
        errors.append(
            (from_x_0(answers[level]["one step"], kind, x_t, log_snr) - true)
            .square()
            .mean()
            .sqrt()
            .item()
        )
        effects.append(
            (to_x_0(true + wrong, kind, x_t, log_snr) - x_0).square().mean().sqrt().item()
        )
    table[kind] = errors
    error_ax.plot(levels, errors, label=kind, **style)
    effect_ax.plot(levels, effects, label=kind, **style)
for ax in (error_ax, effect_ax):
    ax.set_yscale("log")
    ax.invert_xaxis()
    ax.set_ylabel("root mean square")
error_ax.legend(frameon=False)
fig

# %%
for i in (0, 4, 8):
    print(
        f"log-SNR {levels[i]:3g}: the same answers are off by "
        + ", ".join(f"{table[kind][i]:.3f} in {kind}" for kind in PREDICTION_TYPES)
    )

# %% [markdown]
# **What you should have seen.** In $\epsilon$ the error *falls* as the noise grows. It is almost
# zero where the network knows almost nothing of the image: there $x_t$ nearly *is* $\epsilon$, so
# predicting it is trivial. To compute $x_0$ from $\epsilon$, one divides by $\alpha$: an error of
# 0.01 in $\epsilon$ becomes an error larger than the image's range. At little noise it is the
# reverse: a small error of $x_0$, divided by $\sigma$, is a large one of $\epsilon$. $v$ is close
# to $\epsilon$ at little noise and to $-x_0$ at much, so $x_0$ is computed from it without a
# division by something small.
#
# That is why a plain squared error has a different meaning in each space (in $x_0$ it is divided by
# $\sigma^2 / \alpha^2$ to be that of $\epsilon$). It is why networks that have to start from pure
# noise predict $x_0$ or $v$, and why losses are *weighted* by noise level: notebook 03. The shipped
# networks predict $x_0$.
#
# ## Exercise: one sampling step, by hand
#
# How does a sampler use $\hat x_0$ while it is still only a mean? The answer of DDIM, which is
# deterministic: *(1)* if $\hat x_0$ were true, which noise would $x_t$ contain? *(2)* Combine that
# image and that noise again, at the noise level of the next, smaller time $s$. Write it.
# `alpha_sigma(log_snr)` gives $(\alpha, \sigma)$; the arguments are tensors, in the check of
# float64.


# %%
def ddim(
    x_t: torch.Tensor, x_0_hat: torch.Tensor, log_snr_t: torch.Tensor, log_snr_s: torch.Tensor
) -> torch.Tensor: ...  # your answer


nb02.check(ddim)

# %% [markdown]
# Once it is correct, the loop below is a complete text-to-image sampler, and it is yours. Until
# then it never leaves pure noise, and shows what a single step predicts there.

# %%
answered = nb02.check(ddim).correct
prompts = [
    "a large red circle on a white background",
    "a yellow star above a purple ring",
    "two green crosses",
    "a blue square left of an orange triangle",
]
generate = base.denoiser(
    pipe.text_encoder(prompts)
)  # with the stage's default guidance: notebook 07
x = x_T = randn(range(4), (3, 64, 64), "base", "x_T")
times = base.timesteps()
log_snr = base.schedule(times)
for i in range(len(times) - 1 if answered else 1):
    x_0_hat = generate(x, times[i])
    x = ddim(x.clone(), x_0_hat.clone(), log_snr[i], log_snr[i + 1])

show_judged(prompts, x_0_hat.clamp(-1, 1), cell=128)
if answered:
    *_, last = sample(generate, x_T, times, base.schedule, "ddim")
    print(f"largest difference from the package's ddim: {(last.x_0_hat - x_0_hat).abs().max():.0e}")

# %% [markdown]
# With your step most of the four should be correct. The other samplers, and how few steps are
# enough, are the subject of notebook 09. First: how does a network learn to denoise?
#
# Next: [03, training, small](03_training.ipynb).
