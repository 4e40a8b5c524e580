# %% [markdown]
# # 02 Denoising: blur, one step, many steps
#
# **Objective:** find out what the best possible denoiser answers, why that is a blur, and why one therefore walks in many steps.
#
# **Before this:** 01
#
# All that a diffusion model learns is to denoise: shown $x_t = \alpha x_0 + \sigma \epsilon$, it says which $x_0$ it suspects. It is trained with the squared
# error, and the answer with the least squared error is a *mean*:
#
# $$\hat x_0(x_t) = E[\,x_0 \mid x_t\,] = \sum_i p(x_i \mid x_t)\; x_i$$
#
# the average of all images that could hide behind this noise, each weighted by how likely it is. A mean of images is in general not an image. This
# notebook holds a classical denoiser, a trained network and the *exact* mean against each other, and ends where sampling begins.

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
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import HELD_OUT_SEED, SceneObject
from imagen_mini.utils.rng import generator, randn
from imagen_mini.viz.denoising import best_blur, everywhere, mean_psnr, posterior, posterior_mean
from imagen_mini.viz.image_grid import image_table
from imagen_mini.viz.style import STYLES, log_axis, percent_axis, subplots

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
base = pipe.stages["base"]

# %% [markdown]
# ## 1. Three ways to denoise
#
# - **Blur**: average neighbours. We give it every advantage: of many widths and factors, the ones that come nearest to the true images, which it could not
#   know.
# - **One step**: ask the trained network once for $\hat x_0$.
# - **The walk**: take a small step towards $\hat x_0$, ask again, and so on. This is the sampler of notebook 00, but shorter and
#   plainer: it starts here, not at pure noise, takes ten steps, adds no fresh noise and has no guidance.
#
# The network is told the captions and blur cannot be; what the network says *without* them is counted, too. There are two judges. **PSNR** measures how near
# an answer is to the true image, pixel by pixel (in decibels, of the mean squared error of all images; 10 more is an error ten times smaller). **The
# parser** says whether it shows what the caption says.

# %%
show_source(best_blur)

# %% [markdown]
# **Predict:** at which of three noise levels does blur still work? Where the network's one answer is a blur as well, what will the walk make of it? Which of
# the three has the highest PSNR, and which does the parser like best?

# %%
n = 16
batch = SceneDataset(HELD_OUT_SEED).batch(range(n), 64)  # images that no training has seen
x_0, captions = batch.images, batch.captions
eps = randn(range(n), (3, 64, 64), "eps")
text = pipe.text_encoder(captions)
denoise = base.denoiser(
    text, guidance_scale=1, threshold="none"
)  # the network's plain answer: (x_t, t) -> x_0_hat
without_words = base.denoiser(text.null(), guidance_scale=1, threshold="none")

levels = [3.0, 1.0, -1.0, -2.5, -4.0, -5.5, -7.0, -9.0, -11.0]  # log-SNR, from little noise to much
answers = {}
for level in levels:
    x_t = q_sample(x_0, eps, torch.tensor(level))
    t = numeric_t(torch.tensor(level), base.log_snr_of)  # when the stage's schedule has this noise
    *_, last = sample(
        denoise, x_t, t * base.times(10), base.log_snr_of, base.config.sampler
    )  # ten steps, from t to 0
    answers[level] = {
        "blur": best_blur(x_0, x_t)[0],
        "one step, no words": without_words(x_t, t),
        "one step": denoise(x_t, t),
        "walk": last.x_0_hat,
    }

# %%
chosen, which = [-1.0, -4.0, -7.0], 0
names = ["blur", "one step", "walk"]
print(captions[which])
rows = [
    [
        q_sample(x_0, eps, torch.tensor(level))[which],
        *(answers[level][name][which] for name in names),
        x_0[which],
    ]
    for level in chosen
]
frames = [
    [judge_images([captions[which]], image[None].clamp(-1, 1))[0] for image in row] for row in rows
]
image_table(
    rows,
    [f"log-SNR {level:g}" for level in chosen],
    ["x_t", *names, "truth"],
    cell=128,
    frames=frames,
)

# %%
for level in chosen:
    print(f"log-SNR {level:g}")
    for name in names:
        found = answers[level][name]
        print(
            f"    {name:9} {mean_psnr(found, x_0):5.1f} dB, {score_line(judge_images(captions, found.clamp(-1, 1)))}"
        )

# %% [markdown]
# And over all levels:

# %%
sheet, (nearness, meaning) = subplots(
    ["how near to the true image?", "does it show its caption?"], "log-SNR   (right: more noise)"
)
for name, style in zip(["blur", "one step, no words", "one step", "walk"], STYLES):
    nearness.plot(
        levels, [mean_psnr(answers[level][name], x_0) for level in levels], label=name, **style
    )
    meaning.plot(
        levels,
        [sum(judge_images(captions, answers[level][name].clamp(-1, 1))) / n for level in levels],
        label=name,
        **style,
    )
for panel in (nearness, meaning):
    panel.invert_xaxis()
nearness.set_ylabel("PSNR, dB")
percent_axis(meaning)
nearness.legend(frameon=False)
sheet

# %% [markdown]
# **What you should have seen.** Blur is far behind even at little noise, and from a log-SNR of 1 on hardly any of its images can be read: what removes the noise removes
# the outlines. The network's one answer is sharp at little noise and melts as noise grows. Then comes the point of this notebook: where there is much noise, **the walk has the lower PSNR and the better
# images**. The one answer is nearer to the truth, and shows nothing; the walk decides on *some* sharp image, which often shows the caption and is not the
# true one. What the noise has hidden is invented. Where there is little noise, there is nothing to decide, and one step does as well as many. (From a log-SNR
# of -4 on, two to four of the 16 walks fail: what these weights are worst at stands in the README.)
#
# The words count at every level; at the highest, they are all that is left to go by.
#
# ## 2. The best possible denoiser
#
# Is the melted answer a weakness of this network? We can know. Let the caption be *a large red circle on a white background*. There are only 1,764 such
# images, one for each place. So the sum at the top can be computed in full:

# %%
show_source(posterior, posterior_mean)

# %% [markdown]
# **Predict:** the exact mean at growing noise, and below it the network's answer, which has seen images like these but never a list of them. Will you be
# able to tell them apart?

# %%
circle = SceneObject(x=24, y=40, shape="circle", color="red", size="large", texture="solid")
candidates = render(everywhere(circle, "white"))  # [1764, 3, 64, 64]
hidden = candidates[
    torch.randperm(len(candidates), generator=generator(2, "hidden"))[:12]
]  # twelve of them are hidden in noise
noise = randn(range(12), (3, 64, 64), "noise")
caption = "a large red circle on a white background"
told = pipe.text_encoder([caption] * 12)
answer = base.denoiser(told, guidance_scale=1, threshold="none")

few_levels = [-3.0, -4.0, -5.0, -6.0, -7.0, -9.0]
best, network = {}, {}
for level in few_levels:
    log_snr = torch.tensor(level)
    x_t = q_sample(hidden, noise, log_snr)
    best[level] = posterior_mean(x_t, log_snr, candidates)
    network[level] = answer(x_t, numeric_t(log_snr, base.log_snr_of))

rows = [[best[level][0] for level in few_levels], [network[level][0] for level in few_levels]]
image_table(
    rows,
    ["exact mean", "the network, one step"],
    [f"log-SNR {level:g}" for level in few_levels],
    cell=112,
)

# %%
print("over twelve images          PSNR to the truth, dB:   exact   network   and between the two")
for level in few_levels:
    log_snr = torch.tensor(level)
    p = posterior(q_sample(hidden, noise, log_snr), log_snr, candidates)
    places = torch.exp(-torch.special.xlogy(p, p).sum(1)).mean()  # the exponential of the entropy
    print(
        f"log-SNR {level:g}: some {places:6.1f} of {len(candidates)} places possible {mean_psnr(best[level], hidden):12.1f} {mean_psnr(network[level], hidden):9.1f}"
        f" {mean_psnr(best[level], network[level]):14.1f}"
    )

# %% [markdown]
# **What you should have seen.** The two agree in nearly everything: where the answer is sharp, where it melts, even in which other places they suspect the
# disc. Between the two there are 30 dB or more, an error of a few hundredths of the range, while both are far from the truth wherever there is much to be
# unsure of. So the melted disc is no weakness. It is the right answer to the question that was asked, and a larger network would give the same. (At little
# noise the exact sum is ahead: it *knows* that places are whole pixels. On average nothing beats it.)
#
# ## 3. Many walks from one $x_t$
#
# If one answer is the mean of all images that are possible, and a walk draws one of them, then the average of many walks should be the one answer. The walk
# must be one that rolls dice: `ddpm` adds fresh noise at every step.
#
# **Predict:** below are five walks from the same $x_t$ at log-SNR -6. Will they agree? What will the average of 32 look like?

# %%
trajectories, log_snr = 32, torch.tensor(-6.0)
truth, x_t = hidden[:1], q_sample(hidden[:1], noise[:1], log_snr)
t = numeric_t(log_snr, base.log_snr_of)
many = base.denoiser(told[[0] * trajectories], guidance_scale=1, threshold="none")
dice = lambda step: randn(range(trajectories), (3, 64, 64), "step", step)
*_, last = sample(
    many, x_t.expand(trajectories, -1, -1, -1), t * base.times(12), base.log_snr_of, "ddpm", dice
)

generated, exact, once = last.x_0_hat, best[-6.0][:1], network[-6.0][:1]
columns = [
    *(f"walk {i + 1}" for i in range(5)),
    f"mean of {trajectories} walks",
    "one step",
    "exact mean",
    "truth",
]
image_table(
    [[*generated[:5], generated.mean(0), once[0], exact[0], truth[0]]], [""], columns, cell=96
)

# %%
print(
    f"walks that show the caption: {score_line(judge_images([caption] * trajectories, generated.clamp(-1, 1)))}"
)
p = posterior(x_t, log_snr, candidates)[0]
spread_exact = (p @ (candidates - exact).square().flatten(1).mean(1)).sqrt().item()
spread_trajectories = generated.std(0, correction=1).square().mean().sqrt().item()
print(
    f"spread of an image around the mean: walks {spread_trajectories:.3f}, all possible images {spread_exact:.3f}"
)
print(
    f"error to the truth: one step {(once - truth).square().mean():.3f}, a walk on average {(generated - truth).square().mean():.3f} (mean squares)"
)

sheet, (panel,) = subplots(
    ["how far is the mean of walks from the one answer?"], "walks in the mean"
)
sheet.set_size_inches(5.5, 3.5)
counts = [1, 2, 4, 8, 16, 32]
far = [
    torch.stack([group.mean(0) - once[0] for group in generated.split(count)])
    .square()
    .mean()
    .sqrt()
    .item()
    for count in counts
]
panel.plot(counts, far, label="seen", **STYLES[0])
panel.plot(
    counts,
    [spread_exact / count**0.5 for count in counts],
    label="spread / sqrt(walks)",
    **STYLES[1],
)
panel.set_yscale("log")
panel.set_yticks([0.05, 0.1, 0.2, 0.4], ["0.05", "0.1", "0.2", "0.4"])
log_axis(panel, counts)
panel.set_ylabel("root mean square difference")
panel.legend(frameon=False)
sheet

# %% [markdown]
# **What you should have seen.** Each walk is a clean image with the disc at a place of its own. Their mean melts into the one answer, about at the rate of
# any mean, $1 / \sqrt n$, and the walks are spread about as widely as the images that are possible: they do not favour a few. This is the whole relation of
# denoising and sampling:
#
# - **one step** answers *what is the mean?* It has the least squared error, and is an image only where nothing is left to decide;
# - **a walk** answers *what is one of them?* If it is fair, its squared error is that of the mean plus the square of the spread: on average over images,
#   twice as large, 3 dB less. A single case, as here, may lie off that.
#
# From pure noise there is nothing to see at all: the one answer is the mean of all images with this caption. The walk still draws one.
#
# ## 4. $\epsilon$, $x_0$ and $v$ are one thing
#
# A network may as well predict the noise, or a mixture called $v$:
#
# $$\epsilon = \frac{x_t - \alpha x_0}{\sigma}, \qquad v = \alpha\,\epsilon - \sigma\, x_0$$
#
# $x_t$ and the noise level are known, so each can be computed from each other: whoever knows one knows them all.

# %%
show_source(v_from_x_0, x_0_from_v)

# %% [markdown]
# **Predict:** there and back, in float64 and in float32, at four levels of noise: to how many digits is $x_0$ the same? Is one of the three worse than the
# others?

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
        words = [f"by way of {kind} {error:.0e}" for kind, error in zip(PREDICTION_TYPES, errors)]
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
# The last line says it best: $(x_t, v)$ is $(x_0, \epsilon)$, *rotated* by an angle that depends on the noise level alone.
#
# If they are one thing, why do papers argue about which to predict? Because a network is never exact, and the same mistake has another size in each.
#
# **Predict:** take the network's one-step answers of section 1. Its error in $x_0$ grows with the noise, of course. Its error in $\epsilon$? And the other
# way round: let each prediction be off by 0.01. How far off is the $x_0$ that one computes from it?

# %%
sheet, (seen, effect) = subplots(
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
    seen.plot(levels, errors, label=kind, **style)
    effect.plot(levels, effects, label=kind, **style)
for panel in (seen, effect):
    panel.set_yscale("log")
    panel.invert_xaxis()
    panel.set_ylabel("root mean square")
seen.legend(frameon=False)
sheet

# %%
for i in (0, 4, 8):
    print(
        f"log-SNR {levels[i]:3g}: the same answers are off by "
        + ", ".join(f"{table[kind][i]:.3f} in {kind}" for kind in PREDICTION_TYPES)
    )

# %% [markdown]
# **What you should have seen.** In $\epsilon$ the error *falls* as the noise grows, down to almost nothing where the network knows almost nothing of the
# image: there $x_t$ nearly *is* $\epsilon$, and saying so is no merit. From that space, $x_0$ is had by dividing by $\alpha$: an error of 0.01 in
# $\epsilon$ becomes an error larger than the image's own range. At little noise it is the reverse: a small error of $x_0$, divided by $\sigma$, is a large
# one of $\epsilon$. $v$ follows $\epsilon$ at little noise and $x_0$ at much, so it never has to be divided by something small to give $x_0$.
#
# That is why a plain squared error means something else in each space (in $x_0$ it is divided by $\sigma^2 / \alpha^2$ to be that of $\epsilon$), why
# networks that must start from pure noise predict $x_0$ or $v$, and why losses are *weighted* by noise level: notebook 03. The shipped networks predict
# $x_0$.
#
# ## Exercise: one step of the walk, by hand
#
# How does a walk use $\hat x_0$, if it does not believe it yet? DDIM's answer, without dice: *(1)* if $\hat x_0$ were true, which noise would $x_t$ hold?
# *(2)* Put that image and that noise together again, as they would be at the next, smaller time $s$. Write it. `alpha_sigma(log_snr)` gives $(\alpha,
# \sigma)$; the arguments are tensors, in the check of float64.


# %%
def ddim(
    x_t: torch.Tensor, x_0_hat: torch.Tensor, log_snr_t: torch.Tensor, log_snr_s: torch.Tensor
) -> torch.Tensor: ...  # your answer


nb02.check(ddim)

# %% [markdown]
# Once it is right, the loop below is a complete text-to-image sampler, and yours. Until then it never leaves pure noise, and shows what one step says there.

# %%
answered = nb02.check(ddim).right
prompts = [
    "a large red circle on a white background",
    "a yellow star above a purple ring",
    "two green crosses",
    "a blue square left of an orange triangle",
]
generate = base.denoiser(pipe.text_encoder(prompts))  # with the stage's own guidance: notebook 07
x = x_T = randn(range(4), (3, 64, 64), "base", "x_T")
times = base.times()
log_snr = base.log_snr_of(times)
for i in range(len(times) - 1 if answered else 1):
    x_0_hat = generate(x, times[i])
    x = ddim(x, x_0_hat, log_snr[i], log_snr[i + 1])

show_judged(prompts, x_0_hat.clamp(-1, 1), cell=128)
if answered:
    *_, last = sample(generate, x_T, times, base.log_snr_of, "ddim")
    print(
        f"largest difference from the package's own ddim: {(last.x_0_hat - x_0_hat).abs().max():.0e}"
    )

# %% [markdown]
# With your step most of the four should be right. The other samplers, and how few steps are enough, are notebook 09. First: how does a network learn to
# denoise?
#
# Next: [03, training, small](03_training.ipynb).
