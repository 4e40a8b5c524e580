# %% [markdown]
# # 03 Training, small
#
# **Objective:** train a text-to-image network from nothing in half a minute, and learn to tell from its numbers and images whether a run is going well.
#
# **Before this:** 01, 02
#
# Training a diffusion model is one small step, many times over. Take an image $x_0$ and its caption $c$. Draw a time $t$ and noise $\epsilon$. Make $x_t =
# \alpha_t x_0 + \sigma_t \epsilon$, ask the network which $x_0$ it suspects, and lower
#
# $$L = w(\lambda_t)\; \big\| \hat x_0(x_t, \lambda_t, c) - x_0 \big\|^2 , \qquad \lambda_t = \log(\alpha_t^2 / \sigma_t^2)$$
#
# There is no second network, no sampling, no game between two players. What is difficult is to know whether it works: the loss is a poor witness, and most
# faults raise no error. This notebook trains on a corner of the built-in world, looks at the run from all sides, and then breaks it on purpose.

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
from imagen_mini.viz.training import Corner, errors_at, examine, losses_by_level, start
from imagen_mini.weights import WEIGHTS

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
encoder, shipped = (
    pipe.text_encoder,
    pipe.stages["base"],
)  # the encoder is frozen; `shipped` is a base stage after some eight hours on a CPU and eight minutes on a GPU

# %% [markdown]
# ## 1. A corner of the world
#
# One large thing, of four colours and three shapes, anywhere on gray. The caption says everything but the place. Half a minute is enough to learn a part of
# this; the whole world, with up to four things and their relations, takes hours.

# %%
data, held_out = Corner(seed=0), Corner(seed=1)  # endless both, and no sample in common
images, _, said = data.batch(range(8), 64)
image_table([list(images)], [""], said, cell=104)

# %% [markdown]
# And this is the loss, in full. First the noisy image and the question to the network, then the error and its weight. Note what the function is *given*:
# times and noise come from outside, so nothing in it is random.

# %%
show_source(DiffusionStage.loss)

# %% [markdown]
# ## 2. The run
#
# A small network (it works on patches of 4 x 4 pixels, so its largest grid is 16 x 16), an optimizer, and a recipe. The learning rate is a function of the
# step: a short warm-up, a plateau, and a fall to zero at the end.

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
    drop_pooled=0.0,
    loss_weight="balanced",
    loss_cap=60.0,
)
show_source(learning_rate, start)

# %% [markdown]
# `train` is a generator: it does one step, hands over what it saw, and waits. So the loop below may draw images, measure or stop whenever it likes. At some
# steps we draw six captions, always from the same noise, and measure the error on images that the run never sees: once with the weights as they are, once
# with their moving average (section 5).
#
# **Predict:** what will the images look like after 25 steps, after 100, after 240? What comes first: background, colour, place or shape?

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
looks = [10, 25, 50, 100, 150, 240]

stage, optimizers, ema = start(stage_config, recipe)
states, generated, errors, seconds = (
    [],
    {"average": {}, "latest": {}},
    {"average": {}, "latest": {}},
    0.0,
)
began = time.perf_counter()
for state in train(stage, encoder, recipe, optimizers, ema, data=data):
    states.append(state)
    seconds += time.perf_counter() - began  # of training alone, without the looks
    if state.step in looks:
        errors["latest"][state.step] = errors_at(stage, encoder, held_out, times)
        generated["latest"][state.step] = sample_single_stage(
            stage, encoder, captions[:3], [0, 1, 2]
        )
        with ema.average_parameters():
            errors["average"][state.step] = errors_at(stage, encoder, held_out, times)
            generated["average"][state.step] = sample_single_stage(
                stage, encoder, captions, range(6)
            )
    began = time.perf_counter()
print(
    f"{sum(p.numel() for p in stage.parameters()) / 1e6:.1f} million parameters, {recipe.steps} steps of {recipe.batch_size} images in {seconds:.0f} s"
)

# %%
shown = [generated["average"][step] for step in looks[1:]]
frames = [judge_images(captions, images) for images in shown]
as_jpeg(
    image_table(
        [list(images) for images in shown],
        [f"step {step}" for step in looks[1:]],
        captions,
        cell=104,
        frames=frames,
    )
)

# %%
print(f"after {looks[-1]} steps: {score_line(frames[-1])}")

# %% [markdown]
# **What you should have seen.** First a gray fog: the background is there before anything else. Then *several patches of several colours*. Between steps 50
# and 100 the patches take the colour that the caption asks for, and most become one. What they lack is an outline, so the parser, which wants the shape as
# well, is content with a circle at best: that is what a blob comes nearest to. Coarse comes before fine, as in the walk of notebook 00.
#
# What would come next? This is the history of a base stage of the whole world, from its first minutes to its last (an older, larger network than the one
# shipped today; the README tells its story). The frame is green where the parser reads the caption's scene.

# %%
as_jpeg(Image.open(WEIGHTS / "images" / "training.png").convert("RGB"), quality=55)

# %% [markdown]
# Blobs after some hundred steps are *healthy*. If your own run looks like the first row after as many steps, wait. What belongs to what, and what lies where,
# came last, after thousands of steps.
#
# ## 3. The loss is a poor witness
#
# Each step's loss is that of a few images at a few noise levels. `train` tells the levels apart: ten equal parts of $t$.
#
# **Predict:** at which noise levels will the loss fall most? At which will it hardly fall at all, however long one trains?

# %%
sheet, (over_steps, by_level) = subplots(
    ["loss of each step", "loss by noise level, in parts of the run"], "step"
)
losses = [state.loss for state in states]
smooth = [
    fmean(losses[max(0, i - 20) : i + 1]) for i in range(len(losses))
]  # the mean of the last 21
over_steps.plot(range(1, len(losses) + 1), losses, color="#bbbbbb", linewidth=0.8, label="a step")
over_steps.plot(
    range(1, len(losses) + 1),
    smooth,
    color=STYLES[0]["color"],
    linewidth=2,
    label="mean of 21 steps",
)
for part, style in zip([(0, 25), (25, 50), (50, 100), (100, 240)], STYLES):
    by_level.plot(
        times,
        losses_by_level(states[slice(*part)]),
        label=f"steps {part[0] + 1} to {part[1]}",
        **style,
    )
by_level.set_xlabel("t   (1 is pure noise)")
for panel in (over_steps, by_level):
    panel.set_yscale("log")
    panel.set_ylabel("weighted loss")
    panel.legend(frameon=False, fontsize=8)
sheet

# %%
first, last = losses_by_level(states[:25]), losses_by_level(states[-100:])
print(
    "first 25 steps / last 100 steps, by level of t:",
    ", ".join(f"{a / b:.0f}" if a / b >= 10 else f"{a / b:.1f}" for a, b in zip(first, last)),
)
print(
    f"spread of single steps around their mean, last 100 steps: {100 * torch.tensor(losses[-100:]).std() / fmean(losses[-100:]):.0f} %"
)

# %% [markdown]
# The curve falls, ever more slowly, under a noise of its own: single steps scatter by a fifth, and even the mean of 21 steps goes back now and then. And most of the fall is at little noise. To see why, take
# the weight away and hold the plain error of $\hat x_0$ against two others on the same unseen images: the *mean image*, which is the best answer that
# knows nothing of image and caption, and the shipped stage.
#
# **Predict:** the shipped stage draws this corner nearly without fault. At $t$ near 1, how much lower is its error than that of our half-minute run?

# %%
many = data.batch(range(400), 64).images
unseen = held_out.batch(range(24), 64).images
constant = (unseen - many.mean(0)).square().mean().item()
errors_shipped = errors_at(shipped, encoder, held_out, times)

sheet, (panel,) = subplots(
    ["plain squared error of x_0_hat, on unseen images"], "t   (1 is pure noise)"
)
sheet.set_size_inches(6.5, 4)
panel.axhline(constant, color="#777777", label="the mean image, always")
for step, style in zip([50, 100, 240], STYLES):
    panel.plot(times, errors["average"][step], label=f"our run, step {step}", **style)
panel.plot(times, errors_shipped, label="the shipped stage", **STYLES[4])
panel.set_yscale("log")
panel.set_ylabel("mean squared error")
panel.legend(frameon=False)
sheet

# %%
ours = errors["average"][looks[-1]]
for i in (0, 2, 4, 6, 8, 9):
    level = f"t {times[i]:.2f}, log-SNR {shipped.log_snr_of(times[i]):5.1f}"
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
# **What you should have seen.** At much noise the two are nearly equal, and not far from the mean image: *where* the thing lies cannot be known from noise,
# and no training will change that (notebook 02). At little noise they differ many times over. Yet of a plain mean over all $t$, more than half may be error
# at high noise, which nobody can lower: by that number, blobs are almost as good as finished images. So:
#
# - **the loss at high noise says little about images**: nearly all of it is what cannot be known, though its last few per cent are where captions and
#   layout are learned;
# - a mean over all levels hides what is learned. Watch the levels, a held-out error with fixed times and noise, and the images.
#
# ## 4. The loss weight
#
# The weight $w(\lambda)$ decides what the network spends itself on. DDPM's plain error of $\epsilon$ is, in terms of $x_0$, the weight SNR (notebook 02);
# others cap it. The shipped base stage was trained with `balanced`.

# %%
show_source(sqrt_snr_weight)

# %% [markdown]
# **Predict:** the right figure shows the share of the loss at each noise level, with the errors that the shipped stage has there. Which weight lets one end
# drown the others?

# %%
fine = (torch.arange(40) + 0.5) / 40  # near t = 0 everything changes fast: ten levels are too few
log_snr, its_errors = shipped.log_snr_of(fine), errors_at(shipped, encoder, held_out, fine, n=8)
weights = {
    "SNR (plain error of eps)": simple_weight(log_snr),
    "min_snr, cap 5": LOSS_WEIGHTS["min_snr"](log_snr, 5.0),
    "capped_v, cap 5": LOSS_WEIGHTS["capped_v"](log_snr, 5.0),
    "balanced, cap 60": LOSS_WEIGHTS["balanced"](log_snr, 60.0),
}
sheet, (height, share) = subplots(
    ["weight of the squared error of x_0", "share of the loss, by noise level"],
    "t   (1 is pure noise)",
)
for (name, weight), style in zip(weights.items(), STYLES):
    height.plot(fine, weight, label=name, markevery=4, **style)
    share.plot(fine, 100 * weight * its_errors / (weight * its_errors).sum(), markevery=4, **style)
height.set_yscale("log")
share.set_ylabel("% of the loss, in each 40th of t")
height.legend(frameon=False, fontsize=8)
sheet

# %%
for name, weight in weights.items():
    parts = weight * its_errors / (weight * its_errors).sum()
    print(
        f"{name:25} t below 0.1: {parts[:4].sum():4.0%}, t from 0.1 to 0.7: {parts[4:28].sum():4.0%}, t above 0.7: {parts[28:].sum():4.0%}"
    )

# %% [markdown]
# **What you should have seen.** Plain SNR spends two fifths of the loss on the 40th of $t$ with the least noise, and next to nothing where layout and captions
# are decided. A cap (`min_snr`) takes off the peak, no more. `capped_v` leaves most of the loss with noise that nobody can see through. `balanced` is the
# flattest of the four, by construction: it is about the inverse of the error that is left. That is a choice for *this* world and this schedule; other data
# leave other errors, and some recipes measure them during training.
#
# ## 5. The average of the weights
#
# The weights of a run at a high learning rate dance around. Nobody draws with them: one keeps a moving average (EMA) beside them,
#
# $$\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta, \qquad d = 2^{-1/h}$$
#
# so that a step counts half after $h$ steps. A long memory would remember the random start, so here it grows with the run: $h$ is at most a tenth of the
# steps done.

# %%
show_source(EMA.update)

# %% [markdown]
# **Predict:** which is better on unseen images in the middle of the run, where the learning rate is highest? And at the end, where it has fallen to zero?

# %%
sheet, (panel,) = subplots(["error of x_0_hat on unseen images, mean of t below 0.5"], "step")
sheet.set_size_inches(6, 3.6)
for kind, style in zip(("latest", "average"), STYLES[1::-1]):
    panel.plot(
        looks, [errors[kind][step][:5].mean() for step in looks], label=f"{kind} weights", **style
    )
panel.set_ylim(0, None)
panel.set_ylabel("mean squared error")
panel.legend(frameon=False)
sheet

# %%
for step in looks:
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
# **What you should have seen.** At the high rate the two take turns. Here the average is ahead by 5 to 12 per cent at steps 10, 25 and 150, and behind by
# 1 to 3 at steps 50 and 100, where the network learns fast: what was learned in the last steps the average knows only in part. But its images lack the
# speckle of the latest weights, which are those of one moment. By the end the rate has fallen to zero, the weights stand
# still, and the two are the same. An average and a falling rate are two ways to the same end, and shipped weights are averages.
#
# ## 6. Is my run healthy?
#
# A sound run and a broken one often have the same loss curve. So ask separate questions, each with a number: does the loss fall? Is the gradient calm? *Are
# the captions used?* (The loss with each image's own caption against that with another's, at the same noise.) Are the colours right? Does a gradient reach
# every parameter? For runs on disk, `python -m train.report RUN` asks all of them.

# %%
for finding in examine(stage, ema, encoder, held_out, states):
    print(f"{finding.verdict:5} {finding.about}: {finding.words}")

# %% [markdown]
# Now two broken runs. In one, a bug in the data loader gives each image *the caption of its neighbour*. In the other, the learning rate is too high by far.
#
# **Predict:** which of the two can you tell from the loss curve? What will the images of the first look like, for the six captions?

# %%
broken = {
    "captions shuffled": (Corner(seed=0, shuffled=True), recipe),
    "rate too high": (data, replace(recipe, learning_rate=1.0)),
}
logs, runs = {"as it should be": states[:100]}, {}
for name, (its_data, its_recipe) in broken.items():
    its_stage, its_optimizers, its_ema = runs[name] = start(stage_config, its_recipe)
    logs[name] = []
    try:
        for state in train(its_stage, encoder, its_recipe, its_optimizers, its_ema, data=its_data):
            logs[name].append(state)
            if state.step == 100:
                break
    except FloatingPointError as error:
        print(f"{name}: {error}")

sheet, (panel,) = subplots(["loss, mean of 11 steps"], "step")
sheet.set_size_inches(6, 3.6)
for (name, log), style in zip(logs.items(), STYLES):
    curve = [fmean(state.loss for state in log[max(0, i - 10) : i + 1]) for i in range(len(log))]
    panel.plot(range(1, len(log) + 1), curve, label=name, markevery=10, **style)
panel.set_yscale("log")
panel.set_ylabel("weighted loss")
panel.legend(frameon=False)
sheet

# %%
its_stage, _, its_ema = runs["captions shuffled"]
for finding in examine(its_stage, its_ema, encoder, held_out, logs["captions shuffled"]):
    print(f"{finding.verdict:5} {finding.about}: {finding.words}")

with its_ema.average_parameters():
    confused = sample_single_stage(its_stage, encoder, captions, range(6))
as_jpeg(
    image_table(
        [list(generated["average"][100]), list(confused)],
        ["as it should be, step 100", "captions shuffled, step 100"],
        captions,
        cell=104,
    )
)

# %% [markdown]
# **What you should have seen.** A rate that is far too high shows at once, and `train` stops by itself when a gradient is no longer a number, before the
# weights are no numbers either. The other fault is the dangerous one: **for nearly 90 steps its loss curve is as good as that of the sound
# run**, at times better; only then does the sound one fall below it, and who has no sound run beside it does not see that. The gradient is calm, the colours
# are right *on average*, nothing is dead, and the images are of the same kind, only that their colour has nothing to do with the caption. Only the question that asks about
# captions finds it. (A sound run fails that question, too, while it is young: ask again later.)
#
# The first thing to run after every change of code is smaller still: `python -m train.overfit` memorises eight images in half a minute, and fails if
# the network, the loss, the optimizer or the sampler is broken.
#
# ## Exercise: the loss of one step, by hand
#
# Write the training loss of a network that predicts $x_0$: per image, the mean over its channels and pixels of the squared error, times the weight. You are
# given times `t` [b] and noise `eps`; `log_snr_of(t)` is the schedule, `net(x_t, log_snr, text)` the network, `weight(log_snr)` the weight. Recall $\alpha^2
# = \mathrm{sigmoid}(\lambda)$ and $\sigma^2 = \mathrm{sigmoid}(-\lambda)$. Images are [b, 3, h, w]; return [b].


# %%
def training_loss(
    net: Callable,
    x_0: torch.Tensor,
    text,
    t: torch.Tensor,
    eps: torch.Tensor,
    log_snr_of: Callable,
    weight: Callable,
) -> torch.Tensor: ...  # your answer


nb03.check(training_loss)

# %% [markdown]
# With it, the figure below shows what a single step sees: **one** image and the shipped stage, at 32 times with four noises each. Until you have answered,
# the package's own loss draws it. **Predict:** why is the curve of section 3 so noisy, though every step sees 16 images?

# %%
answered = nb03.check(training_loss).right
image, _, caption = held_out.batch([0] * 32, 64)
t, text = (torch.arange(32) + 0.5) / 32, encoder(caption)
sheet, (panel,) = subplots(
    [
        "loss of one image, "
        + ("by your function" if answered else "by the package (exercise open)")
    ],
    "t   (1 is pure noise)",
)
sheet.set_size_inches(6.5, 3.8)
found = []
with torch.no_grad():
    for generate, style in zip(range(4), STYLES):
        eps = randn([generate] * 32, (3, 64, 64), "exercise")
        loss = shipped.loss(image, text, t, eps, weight=sqrt_snr_weight)
        if answered:
            by_package, loss = (
                loss,
                training_loss(
                    shipped.net, image, text, t, eps, shipped.log_snr_of, sqrt_snr_weight
                ),
            )
            print(
                f"noise {generate + 1}: largest difference from the package {(loss - by_package).abs().max():.0e}"
            )
        found.append(loss)
        panel.plot(t, loss, label=f"noise {generate + 1}", **style)
panel.set_yscale("log")
panel.set_ylabel("weighted loss")
panel.legend(frameon=False)
found = torch.stack(found)
between = (found.amax(0) / found.amin(0)).mean()
print(
    f"largest loss / smallest: {found.max() / found.min():.0f}; between the four noises at the same t, on average: {between:.1f}"
)
sheet

# %% [markdown]
# **What you should have seen.** At pure noise it does not matter which noise it is: the answer is the same mean, and so is its cost. In between, the same
# image costs several times more or less, depending on whether this noise happens to hide it. `train` spreads the times of a batch evenly over [0, 1]
# instead of drawing them freely, and still the luck of a step is larger than its progress.
#
# Next: [04, anatomy of the U-Net](04_unet.ipynb).
