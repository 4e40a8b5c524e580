# %% [markdown]
# # 03 Training, small
#
# **Objective:** train a text-to-image network from random weights in half a minute, and learn to tell from its numbers and images whether a run is going well.
#
# **Before this:** 01, 02
#
# Training a diffusion model is one small step, repeated many times. Take an image $x_0$ and its
# caption $c$. Sample a time $t$ and noise $\epsilon$. Compute
# $x_t = \alpha_t x_0 + \sigma_t \epsilon$, let the network predict $x_0$, and lower
#
# $$L = w(\lambda_t)\; \big\| \hat x_0(x_t, \lambda_t, c) - x_0 \big\|^2 , \qquad \lambda_t = \log(\alpha_t^2 / \sigma_t^2)$$
#
# There is no second network, no sampling, and no game between a generator and a discriminator as in
# a GAN. The difficulty is to know whether it works: the loss says little about it, and most faults
# raise no error. This notebook trains on a small part of the built-in world, examines the run with
# several measurements, and then breaks it on purpose.

# %%
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import torch
from PIL import Image

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.course.exercises import nb03
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.course.small_run import (
    CornerDataset,
    denoising_errors_at,
    diagnose_run,
    losses_by_bin,
    start_small_run,
)
from imagen_mini.diffusion.losses import LOSS_WEIGHTS, simple_weight, sqrt_snr_weight
from imagen_mini.evaluation.preview import sample_single_stage
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.models.unet import UNetConfig
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.ema import EMA
from imagen_mini.training.loop import NOISE_BINS, learning_rate, train
from imagen_mini.utils.rng import randn
from imagen_mini.viz.image_grid import as_jpeg, image_table
from imagen_mini.viz.style import STYLES, subplots
from imagen_mini.weights import WEIGHTS

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
encoder, shipped = (
    pipe.text_encoder,
    pipe.stages["base"],
)  # the encoder is frozen; `shipped` is a base stage after some eight hours on a CPU and eight minutes on a GPU

# %% [markdown]
# ## 1. A small part of the world
#
# One large object, of four colours and three shapes, anywhere on gray. The caption says everything
# but the position. Half a minute is enough to learn a part of this. The whole world, with up to
# four objects and their relations, takes hours.

# %%
data, held_out = (
    CornerDataset(seed=0),
    CornerDataset(seed=1),
)  # both unlimited, and without a common sample
images, _, shown_captions = data.batch(range(8), 64)
image_table([list(images)], [""], shown_captions, cell=104)

# %% [markdown]
# And this is the loss, in full. First come the noisy image and the network's prediction, then the
# error and its weight. Note what the function is *given*: times and noise are arguments, so nothing
# in it is random.

# %%
show_source(DiffusionStage.loss)

# %% [markdown]
# ## 2. The run
#
# A small network (it works on patches of 4 x 4 pixels, so its largest grid is 16 x 16), an
# optimizer, and a training configuration. The learning rate is a function of the step: a short
# warm-up, a plateau, and a fall to zero at the end.

# %%
small = UNetConfig(
    patch=4,
    channels=(32, 64, 96),
    blocks=(1, 1, 1),
    attention=("", "cross", "self+cross"),
    head_dim=16,
    text_layers=1,
)
stage_config = replace(PRESETS["mini"]["base"], unet=small, num_inference_steps=12)
recipe = TrainConfig(
    steps=240,
    batch_size=16,
    learning_rate=8e-3,
    warmup=20,
    cooldown=0.4,
    ema_half_life=60,
    pooled_drop_prob=0.0,
    loss_weight="balanced",
    loss_cap=60.0,
)
show_source(learning_rate, start_small_run)

# %% [markdown]
# `train` is a generator: it does one step, yields what it measured, and waits. So the loop below
# may sample images, measure or stop at any step. At some steps we sample images for six captions,
# always from the same noise, and measure the error on images that the run never sees: once with the
# latest weights, and once with their moving average (section 5).
#
# **Predict:** what will the images look like after 25 steps, after 100, after 240? What comes
# first: background, colour, position or shape?

# %%
captions = [
    "a large red circle on a gray background",
    "a large green ring on a gray background",
    "a large blue square on a gray background",
    "a large yellow circle on a gray background",
    "a large blue ring on a gray background",
    "a large red square on a gray background",
]
times = (torch.arange(NOISE_BINS) + 0.5) / NOISE_BINS  # the middle of each of ten levels of noise
measured_steps = [10, 25, 50, 100, 150, 240]

stage, optimizers, ema = start_small_run(stage_config, recipe)
states, generated, errors, seconds = (
    [],
    {"average": {}, "latest": {}},
    {"average": {}, "latest": {}},
    0.0,
)
began = time.perf_counter()
for state in train(stage, encoder, recipe, optimizers, ema, data=data):
    states.append(state)
    seconds += time.perf_counter() - began  # training alone, without the measurements
    if state.step in measured_steps:
        errors["latest"][state.step] = denoising_errors_at(stage, encoder, held_out, times)
        generated["latest"][state.step] = sample_single_stage(
            stage, encoder, captions[:3], [0, 1, 2]
        )
        with ema.average_parameters():
            errors["average"][state.step] = denoising_errors_at(stage, encoder, held_out, times)
            generated["average"][state.step] = sample_single_stage(
                stage, encoder, captions, range(6)
            )
    began = time.perf_counter()
print(
    f"{sum(p.numel() for p in stage.parameters()) / 1e6:.1f} million parameters, {recipe.steps} steps of {recipe.batch_size} images in {seconds:.0f} s"
)

# %%
shown = [generated["average"][step] for step in measured_steps[1:]]
borders = [judge_images(captions, images) for images in shown]
as_jpeg(
    image_table(
        [list(images) for images in shown],
        [f"step {step}" for step in measured_steps[1:]],
        captions,
        cell=104,
        borders=borders,
    )
)

# %%
print(f"after {measured_steps[-1]} steps: {score_line(borders[-1])}")

# %% [markdown]
# **What you should have seen.** First a gray fog: the background is there before anything else.
# Then *several patches of several colours*. Between steps 50 and 100 the patches take the colour
# that the caption asks for, and most merge into one. What they lack is an outline. The parser needs
# the shape as well, so it accepts a circle at best: a blob is closest to that. Coarse comes before
# fine, as in the sampling trajectory of notebook 00.
#
# What would come next? This is the history of a base stage of the whole world, from its first
# minutes to its last. (It was an older, larger network than the one shipped today; the README has
# its history.) In this figure only, the frame is green where the parser reads the caption's scene,
# and red where it does not.

# %%
as_jpeg(Image.open(WEIGHTS / "images" / "training.png").convert("RGB"), quality=55)

# %% [markdown]
# Blobs after some hundred steps are *healthy*. If your run looks like the first row after as many
# steps, wait. Attribute binding (which colour belongs to which shape) and spatial relations came
# last, after thousands of steps.
#
# ## 3. The loss says little about the images
#
# Each step's loss is that of a few images at a few noise levels. `train` bins it by noise level:
# ten equal parts of $t$.
#
# **Predict:** at which noise levels will the loss fall most? At which will it hardly fall at all,
# however long the training is?

# %%
fig, (step_ax, level_ax) = subplots(
    ["loss of each step", "loss by noise level, in parts of the run"], "step"
)
losses = [state.loss for state in states]
smooth = [
    fmean(losses[max(0, i - 20) : i + 1]) for i in range(len(losses))
]  # the mean of the last 21
step_ax.plot(range(1, len(losses) + 1), losses, color="#bbbbbb", linewidth=0.8, label="a step")
step_ax.plot(
    range(1, len(losses) + 1),
    smooth,
    color=STYLES[0]["color"],
    linewidth=2,
    label="mean of 21 steps",
)
for part, style in zip([(0, 25), (25, 50), (50, 100), (100, 240)], STYLES):
    level_ax.plot(
        times,
        losses_by_bin(states[slice(*part)]),
        label=f"steps {part[0] + 1} to {part[1]}",
        **style,
    )
level_ax.set_xlabel("t   (1 is pure noise)")
for ax in (step_ax, level_ax):
    ax.set_yscale("log")
    ax.set_ylabel("weighted loss")
    ax.legend(frameon=False, fontsize=8)
fig

# %%
first, last = losses_by_bin(states[:25]), losses_by_bin(states[-100:])
print(
    "first 25 steps / last 100 steps, by level of t:",
    ", ".join(f"{a / b:.0f}" if a / b >= 10 else f"{a / b:.1f}" for a, b in zip(first, last)),
)
print(
    f"spread of single steps around their mean, last 100 steps: {100 * torch.tensor(losses[-100:]).std() / fmean(losses[-100:]):.0f} %"
)

# %% [markdown]
# The curve falls, ever more slowly, under noise: single steps scatter by a fifth, and even the mean
# of 21 steps rises now and then. And most of the fall is at little noise. To see why, we drop the
# weight and compare the plain error of $\hat x_0$ with two others on the same unseen images: that
# of the *mean image*, which is the best prediction that uses neither $x_t$ nor the caption, and
# that of the shipped stage.
#
# **Predict:** the shipped stage samples this part of the world nearly without errors. At $t$ near
# 1, how much lower is its error than that of our half-minute run?

# %%
many = data.batch(range(400), 64).images
unseen = held_out.batch(range(24), 64).images
constant = (unseen - many.mean(0)).square().mean().item()
errors_shipped = denoising_errors_at(shipped, encoder, held_out, times)

fig, (ax,) = subplots(["plain squared error of x_0_hat, on unseen images"], "t   (1 is pure noise)")
fig.set_size_inches(6.5, 4)
ax.axhline(constant, color="#777777", label="the mean image, always")
for step, style in zip([50, 100, 240], STYLES):
    ax.plot(times, errors["average"][step], label=f"our run, step {step}", **style)
ax.plot(times, errors_shipped, label="the shipped stage", **STYLES[4])
ax.set_yscale("log")
ax.set_ylabel("mean squared error")
ax.legend(frameon=False)
fig

# %%
ours = errors["average"][measured_steps[-1]]
for i in (0, 2, 4, 6, 8, 9):
    level = f"t {times[i]:.2f}, log-SNR {shipped.schedule(times[i]):5.1f}"
    print(
        f"{level}: our error {ours[i]:.4f}, shipped {errors_shipped[i]:.4f}, ratio {ours[i] / errors_shipped[i]:5.1f}"
    )
print(
    f"mean over all t      : our error {ours.mean():.4f}, shipped {errors_shipped.mean():.4f}, ratio {ours.mean() / errors_shipped.mean():5.1f}"
)
print(
    f"share of the shipped stage's error that lies at t > 0.7: {errors_shipped[7:].sum() / errors_shipped.sum():.0%}"
)

# %% [markdown]
# **What you should have seen.** At much noise the two are nearly equal, and not far from the mean
# image: the *position* of the object cannot be known from noise, and no training will change that
# (notebook 02). At little noise they differ by a large factor. Yet of a plain mean over all $t$,
# more than half may be error at high noise, which no network can lower: by that number, blobs are
# almost as good as finished images. So:
#
# - **the loss at high noise says little about images**: nearly all of it is what cannot be known,
#   though its last few per cent are where captions and layout are learned;
# - a mean over all levels hides what is learned. Watch the levels, a held-out error with fixed
#   times and noise, and the images.
#
# ## 4. The loss weight
#
# The weight $w(\lambda)$ decides where the network spends its capacity. DDPM's plain error of
# $\epsilon$ is, in terms of $x_0$, the weight SNR (notebook 02). Other weights cap it. The shipped
# base stage was trained with `balanced`.

# %%
show_source(sqrt_snr_weight)

# %% [markdown]
# **Predict:** the right figure shows the share of the loss at each noise level, with the errors
# that the shipped stage has there. Which weight lets one end dominate the others?

# %%
fine = (torch.arange(40) + 0.5) / 40  # near t = 0 the loss changes fast: ten levels are too few
log_snr, its_errors = (
    shipped.schedule(fine),
    denoising_errors_at(shipped, encoder, held_out, fine, n=8),
)
weights = {
    "SNR (plain error of eps)": simple_weight(log_snr),
    "min_snr, cap 5": LOSS_WEIGHTS["min_snr"](log_snr, 5.0),
    "capped_v, cap 5": LOSS_WEIGHTS["capped_v"](log_snr, 5.0),
    "balanced, cap 60": LOSS_WEIGHTS["balanced"](log_snr, 60.0),
}
fig, (weight_ax, share_ax) = subplots(
    ["weight of the squared error of x_0", "share of the loss, by noise level"],
    "t   (1 is pure noise)",
)
for (name, weight), style in zip(weights.items(), STYLES):
    weight_ax.plot(fine, weight, label=name, markevery=4, **style)
    share_ax.plot(
        fine, 100 * weight * its_errors / (weight * its_errors).sum(), markevery=4, **style
    )
weight_ax.set_yscale("log")
share_ax.set_ylabel("% of the loss, in each 40th of t")
weight_ax.legend(frameon=False, fontsize=8)
fig

# %%
for name, weight in weights.items():
    parts = weight * its_errors / (weight * its_errors).sum()
    print(
        f"{name:25} t below 0.1: {parts[:4].sum():4.0%}, t from 0.1 to 0.7: {parts[4:28].sum():4.0%}, t above 0.7: {parts[28:].sum():4.0%}"
    )

# %% [markdown]
# **What you should have seen.** Plain SNR spends two fifths of the loss on the 40th of $t$ with the
# least noise, and next to nothing where layout and captions are decided. A cap (`min_snr`) removes
# the peak, but no more. `capped_v` leaves most of the loss at noise levels where nothing can be
# predicted. `balanced` is the flattest of the four, by construction: it is about the inverse of the
# error that is left. That is a choice for *this* world and this schedule. Other data leave other
# errors, and some training recipes measure them during training.
#
# ## 5. The average of the weights
#
# The weights of a run at a high learning rate fluctuate. They are rarely used for sampling: instead
# one keeps an exponential moving average (EMA) of them,
#
# $$\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta, \qquad d = 2^{-1/h}$$
#
# so that a step counts half after $h$ steps. A long memory would retain the random initial weights,
# so here it grows with the run: $h$ is at most a tenth of the steps done.

# %%
show_source(EMA.update)

# %% [markdown]
# **Predict:** which is better on unseen images in the middle of the run, where the learning rate is
# highest? And at the end, where it has fallen to zero?

# %%
fig, (ax,) = subplots(["error of x_0_hat on unseen images, mean of t below 0.5"], "step")
fig.set_size_inches(6, 3.6)
for kind, style in zip(("latest", "average"), STYLES[1::-1]):
    ax.plot(
        measured_steps,
        [errors[kind][step][:5].mean() for step in measured_steps],
        label=f"{kind} weights",
        **style,
    )
ax.set_ylim(0, None)
ax.set_ylabel("mean squared error")
ax.legend(frameon=False)
fig

# %%
for step in measured_steps:
    a, b = (errors[kind][step][:5].mean().item() for kind in ("latest", "average"))
    print(
        f"step {step:3}, learning rate {states[step - 1].learning_rate:.4f}: latest {a:.4f}, average {b:.4f} ({100 * (b / a - 1):+.0f} %)"
    )
middle = [50, 100]
rows = [
    [generated[kind][step][i] for step in middle for i in range(3)]
    for kind in ("latest", "average")
]
as_jpeg(
    image_table(
        rows,
        ["latest weights", "average weights"],
        [f"step {step}" for step in middle for _ in range(3)],
        cell=96,
    )
)

# %% [markdown]
# **What you should have seen.** At the high learning rate each is better at some steps. Here the
# average is ahead by 5 to 12 per cent at steps 10, 25 and 150, and behind by 1 to 3 at steps 50 and
# 100, where the network learns fast: the average contains only a part of what was learned in the
# last steps. But its images lack the speckle of the latest weights, which are those of a single
# step. By the end the learning rate has fallen to zero, the weights no longer change, and the two
# are the same. An average and a falling learning rate are two ways to the same end, and shipped
# weights are averages.
#
# ## 6. Is my run healthy?
#
# A sound run and a broken one often have the same loss curve. So ask separate questions, each with
# a number. Does the loss fall? Is the gradient stable? *Are the captions used?* (Compare the loss
# with each image's caption and the loss with another image's caption, at the same noise.) Are the
# colours correct? Does a gradient reach every parameter? For runs on disk,
# `python -m train.report RUN` asks all of them.

# %%
for finding in diagnose_run(stage, ema, encoder, held_out, states):
    print(f"{finding.status:5} {finding.name}: {finding.message}")

# %% [markdown]
# Now two broken runs. In one, a bug in the data loader gives each image *the caption of its
# neighbour*. In the other, the learning rate is far too high.
#
# **Predict:** which of the two can you detect from the loss curve? What will the images of the
# first look like, for the six captions?

# %%
broken = {
    "captions shuffled": (CornerDataset(seed=0, shuffled=True), recipe),
    "learning rate too high": (data, replace(recipe, learning_rate=1.0)),
}
logs, runs = {"sound run": states[:100]}, {}
for name, (its_data, its_recipe) in broken.items():
    its_stage, its_optimizers, its_ema = runs[name] = start_small_run(stage_config, its_recipe)
    logs[name] = []
    try:
        for state in train(its_stage, encoder, its_recipe, its_optimizers, its_ema, data=its_data):
            logs[name].append(state)
            if state.step == 100:
                break
    except FloatingPointError as error:
        print(f"{name}: {error}")

fig, (ax,) = subplots(["loss, mean of 11 steps"], "step")
fig.set_size_inches(6, 3.6)
for (name, log), style in zip(logs.items(), STYLES):
    curve = [fmean(state.loss for state in log[max(0, i - 10) : i + 1]) for i in range(len(log))]
    ax.plot(range(1, len(log) + 1), curve, label=name, markevery=10, **style)
ax.set_yscale("log")
sound = [state.loss for state in logs["sound run"]]
ax.set_ylim(min(sound) / 2, 2 * max(sound))  # the diverging run leaves the axes
ax.set_ylabel("weighted loss")
ax.legend(frameon=False)
fig

# %%
its_stage, _, its_ema = runs["captions shuffled"]
for finding in diagnose_run(its_stage, its_ema, encoder, held_out, logs["captions shuffled"]):
    print(f"{finding.status:5} {finding.name}: {finding.message}")

with its_ema.average_parameters():
    confused = sample_single_stage(its_stage, encoder, captions, range(6))
as_jpeg(
    image_table(
        [list(generated["average"][100]), list(confused)],
        ["sound run, step 100", "captions shuffled, step 100"],
        captions,
        cell=104,
    )
)

# %% [markdown]
# **What you should have seen.** A learning rate that is far too high shows at once. `train` stops
# when a gradient is no longer finite, before the weights become NaN. The other fault is the
# dangerous one: **for nearly 90 steps its loss curve is as good as that of the sound run**, at
# times better. Only then does the sound one fall below it, and without a sound run beside it nobody
# sees that. The gradient is stable, the colours are correct *on average*, no parameter is dead, and
# the images are of the same kind. But their colours have nothing to do with the captions. Only the
# question about captions finds it. (A sound run fails that question, too, at its beginning: ask
# again later.)
#
# The first check after every change of code is smaller still: `python -m train.overfit` overfits
# eight images in half a minute, and fails if the network, the loss, the optimizer or the sampler is
# broken.
#
# ## Exercise: the loss of one step, by hand
#
# Write the training loss of a network that predicts $x_0$: per image, the mean over its channels
# and pixels of the squared error, times the weight. You are given times `t` [b] and noise `eps`;
# `log_snr_of(t)` is the schedule, `net(x_t, log_snr, text)` the network, `weight(log_snr)` the
# weight. Recall $\alpha^2 = \mathrm{sigmoid}(\lambda)$ and $\sigma^2 = \mathrm{sigmoid}(-\lambda)$.
# Images are [b, 3, h, w]; return [b].


# %%
def training_loss(
    net: Callable,
    x_0: torch.Tensor,
    text,
    t: torch.Tensor,
    eps: torch.Tensor,
    schedule: Callable,
    weight: Callable,
) -> torch.Tensor: ...  # your answer


nb03.check(training_loss)

# %% [markdown]
# With it, the figure below shows what a single step measures: **one** image and the shipped stage,
# at 32 times with four noises each. Until you have answered, the package's loss is plotted.
# **Predict:** why is the curve of section 3 so noisy, though every step uses 16 images?

# %%
answered = nb03.check(training_loss).correct
image, _, caption = held_out.batch([0] * 32, 64)
t, text = (torch.arange(32) + 0.5) / 32, encoder(caption)
fig, (ax,) = subplots(
    [
        "loss of one image, "
        + ("by your function" if answered else "by the package (exercise open)")
    ],
    "t   (1 is pure noise)",
)
fig.set_size_inches(6.5, 3.8)
found = []
with torch.no_grad():
    for generate, style in zip(range(4), STYLES):
        eps = randn([generate] * 32, (3, 64, 64), "exercise")
        loss = shipped.loss(image, text, t, eps, weight=sqrt_snr_weight)
        if answered:
            by_package, loss = (
                loss,
                training_loss(shipped.net, image, text, t, eps, shipped.schedule, sqrt_snr_weight),
            )
            print(
                f"noise {generate + 1}: largest difference from the package {(loss - by_package).abs().max():.0e}"
            )
        found.append(loss)
        ax.plot(t, loss, label=f"noise {generate + 1}", **style)
ax.set_yscale("log")
ax.set_ylabel("weighted loss")
ax.legend(frameon=False)
found = torch.stack(found)
between = (found.amax(0) / found.amin(0)).mean()
print(
    f"largest loss / smallest: {found.max() / found.min():.0f}; between the four noises at the same t, on average: {between:.1f}"
)
fig

# %% [markdown]
# **What you should have seen.** At pure noise the sampled noise does not matter: the prediction is
# the same mean, and so is its cost. In between, the same image costs several times more or less,
# depending on whether this noise happens to hide it. `train` spreads the times of a batch evenly
# over [0, 1] instead of sampling them independently. Still the noise of a single step's loss is
# larger than its progress.
#
# Next: [04, anatomy of the U-Net](04_unet.ipynb).
