# %% [markdown]
# # 08 Static and dynamic thresholding
#
# **Objective:** see large guidance weights drive estimates out of the range of images, and what two ways of bringing them back do to the image.
#
# **Before this:** 02, 07
#
# Images have values in $[-1, 1]$. The network was trained to estimate images, so without guidance
# its $\hat x_0$ stays about there. Guidance adds to it, and nothing keeps the sum in range:
#
# $$\tilde x_0 = \hat x_0(x_t) + w\, \bigl(\hat x_0(x_t, c) - \hat x_0(x_t)\bigr)$$
#
# The sampler treats this as an image and steps towards it. So the next $x_t$ is one that does not
# occur in training, and the network's prediction from it is unreliable. Imagen brings the estimate
# back into range after every step, in one of two ways:
#
# * **static**: clip to $[-1, 1]$;
# * **dynamic**: let $s$ be a high percentile of $|\tilde x_0|$ over the values of *one* image, here
#   99.5 %. Where $s > 1$, clip to $[-s, s]$ and divide by $s$.
#
# $$\text{static:}\quad \mathrm{clip}(\tilde x_0, -1, 1) \qquad\qquad \text{dynamic:}\quad \frac{\mathrm{clip}(\tilde x_0, -s, s)}{s}, \quad s = \max\bigl(1, \mathrm{percentile}_{99.5}(|\tilde x_0|)\bigr)$$
#
# For photographs at large $w$, dynamic thresholding was an important part of Imagen. We look at it in
# the world `studio`, whose images have shading, grain and few saturated values, as photographs have.
# At the end we compare it with the flat world `scenes`.

# %%
import torch

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb08
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.diffusion.guidance import (
    THRESHOLDS,
    apply_threshold,
    dynamic_threshold,
    static_threshold,
)
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.guidance_measures import (
    measure_at_scale,
    render_matching,
    saturation,
    share_out_of_range,
    x_0_hat_trajectory,
)
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.viz.guidance import plot_scales
from imagen_mini.viz.image_grid import image_table
from imagen_mini.viz.style import STYLES, subplots

setup_notebook()
pipe = ImagenPipeline.from_pretrained("studio")  # solid objects under a lamp
flat = ImagenPipeline.from_pretrained("scenes")  # the same scenes in flat colours
world = pipe.world

# %% [markdown]
# ## 1. Out of range
#
# Four captions, without any thresholding, at four weights. `x_0_hat_trajectory` runs the base stage and
# keeps the unchanged $\tilde x_0$ after each of its 32 steps. The left panels are histograms of its
# values; gray is the range of images.
#
# **Predict:** at $w = 8$, in which part of the trajectory are most values out of range: at its
# beginning, in the middle, or at its end? (Notebook 07 has shown where the caption adds most.)

# %%
captions, seeds = (
    [
        "a red star to the left of a blue circle",
        "a large green ring",
        "two pink squares",
        "a yellow circle above a purple cross",
    ],
    [3, 5, 7, 2],
)
trajectories = {
    w: x_0_hat_trajectory(pipe, captions, seeds, guidance_scale=w, threshold="none")
    for w in (1.0, 2.0, 4.0, 8.0)
}

fig, axes = subplots(
    ["w = 1: values of x_0_hat", "w = 8: values of x_0_hat", "99.5 % of |x_0_hat| are below"],
    "x_0_hat",
)
for ax, w in zip(axes, (1.0, 8.0)):
    ax.axvspan(-1, 1, color="#e2e2e2", zorder=0)
    for step, style in zip((0, 7, 13, 20, 31), STYLES):
        density, edges = torch.histogram(
            trajectories[w][step].flatten(), bins=60, range=(-4.0, 4.0), density=True
        )
        ax.plot(
            (edges[1:] + edges[:-1]) / 2, density, label=f"step {step}", **style | {"marker": ""}
        )
    ax.set(yscale="log", ylim=(1e-3, 20), ylabel="density")
    ax.legend(frameon=False, fontsize=8, loc="upper left")

for (w, trajectory), style in zip(trajectories.items(), STYLES):
    axes[2].plot(
        [x.abs().flatten(1).quantile(0.995, dim=1).mean() for x in trajectory],
        label=f"w = {w:g}",
        **style,
    )
axes[2].axhline(1, color="#777777", linestyle=":")
axes[2].set(xlabel="step", ylim=(0, None), ylabel="|x_0_hat|, mean of 4 images")
axes[2].legend(frameon=False, fontsize=8)

for w, trajectory in trajectories.items():
    shares = [share_out_of_range(x) for x in trajectory]
    print(
        f"w = {w:g}: at most {max(shares):.1%} of all values beyond 1.05 (step {shares.index(max(shares))}), {shares[-1]:.1%} at the end"
    )
fig

# %% [markdown]
# **What you should have seen.** Without guidance the estimate begins as a narrow distribution
# around gray, and widens to the colours of these scenes. Nearly all stays in range. At $w = 8$ the distribution is wide from the start. The *share* of values out
# of range is largest in the middle of the trajectory, where the caption adds most, and then falls.
# The *largest* values are a different question: they grow until late in the trajectory, as the
# third panel shows.
#
# ## 2. Two ways back
#
# The denoiser of a stage does four things: it predicts with the caption, predicts without it,
# combines the two (guidance), and thresholds the result. The sampler then computes $\epsilon$ from
# the thresholded estimate. Here are no, static and dynamic thresholding on the same ramp of values
# from -3 to 3.
#
# **Predict:** which of them changes a value of 0.5? Which keeps 2 and 3 different?

# %%
ramp = torch.linspace(-3, 3, 3 * 401).reshape(1, 3, 1, 401)
fig, (ax,) = subplots(["values of an image after thresholding"], "x_0_hat before")
ax.axhspan(-1, 1, color="#e2e2e2", zorder=0)
for threshold, style in zip(THRESHOLDS, STYLES):
    ax.plot(
        ramp.flatten(),
        apply_threshold(ramp, threshold).flatten(),
        label=threshold,
        **style | {"marker": ""},
    )
ax.set_ylabel("x_0_hat after")
ax.legend(frameon=False)
half = torch.cat([ramp.flatten(), torch.tensor([0.5])])[None, None, None]
print(
    "0.5 becomes",
    ", ".join(
        f"{apply_threshold(half, threshold)[..., -1].item():.2f} ({threshold})"
        for threshold in THRESHOLDS
    ),
)
fig

# %%
show_source(static_threshold, apply_threshold)

# %% [markdown]
# Static thresholding leaves what is in range unchanged, and maps everything beyond to the same
# value: it loses the differences between large values. Dynamic thresholding keeps these differences
# but makes all values smaller, the background included. This second effect is the important one
# below.
#
# ## 3. The papers' figure, computed here
#
# Two captions, each from one noise, in 32 steps. Frames are the judge's verdict.
#
# **Predict:** which row will look best at $w = 8$? And at 14?

# %%
captions, seeds, scales = (
    ["a red star to the left of a blue circle", "a yellow circle above a purple cross"],
    [3, 2],
    (2.0, 4.0, 8.0, 14.0),
)
rows, borders = [], []
for threshold in THRESHOLDS:
    images = [
        x_0_hat_trajectory(pipe, captions, seeds, guidance_scale=w, threshold=threshold)[-1].clamp(
            -1, 1
        )
        for w in scales
    ]
    rows.append([image[i] for i in range(2) for image in images])
    found = [judge_images(captions, image, world) for image in images]
    borders.append([correct[i] for i in range(2) for correct in found])
print(f"A: {captions[0]}\nB: {captions[1]}")
image_table(
    rows,
    THRESHOLDS,
    [f"{name}: w = {w:g}" for name in "AB" for w in scales],
    cell=96,
    borders=borders,
)

# %% [markdown]
# Now with numbers: 16 captions (single objects, relations, bindings, counts) at each weight, in
# each way, and 12 steps instead of 32, to save time. The dotted line is the value for true images
# of the same captions.
#
# **Predict:** the order of the three lines in the first panel.

# %%
prompts = [
    c.text
    for _, _, c in benchmark(
        4, categories=["one object", "positional", "binding", "counting"], world=world
    )
]
lines = {}
for threshold in THRESHOLDS:
    lines[threshold] = [
        measure_at_scale(pipe, prompts, range(16), w, threshold=threshold, num_inference_steps=12)
        for w in (2.0, 5.0, 10.0)
    ]
    print(
        f"{threshold:8}",
        ", ".join(
            f"w = {row['w']:g}: {row['right']} of {row['n']} ({row['low']:.0%} to {row['high']:.0%}), mean |x| {row['mean_abs']:.2f}"
            for row in lines[threshold]
        ),
    )

fig = plot_scales(lines, saturation(render_matching(prompts, world=world)))
fig.legend(loc="outside lower center", ncols=4, frameon=False)
fig

# %% [markdown]
# **What you should have seen.** Without thresholding and with static thresholding, large weights do
# what they do to photographs: contrast is too high, highlights burn out, hues shift to the corners
# of the colour cube (a purple cross turns blue), and the mean of $|x|$ is above that of true images.
# Dynamic thresholding takes the values away from the ends of the range, but here it takes too much
# away. The grain fades, and at $w = 8$ the wood is gray.
#
# In the score all three fall, and 16 captions cannot tell them apart. With 80 captions
# (`python -m sample.claims --pipeline studio --only thresholding`) it is the same: at $w = 10$ from 4
# to 8 % are correct.
#
# ## 4. Is it the sampler?
#
# Dynamic thresholding divides by $s$ at every step, and the sampler steps towards the result. How
# much that dims the image depends on the sampler. Imagen samples with fresh noise in every step
# (ancestral sampling, `ddpm`), and in many more steps. Here are the same captions and weights with it.
#
# **Predict:** will there be more or less contrast than above? Which row keeps the cross purple?

# %%
rows, borders = [], []
for threshold in THRESHOLDS:
    images = [
        x_0_hat_trajectory(
            pipe,
            captions,
            seeds,
            guidance_scale=w,
            threshold=threshold,
            sampler="ddpm",
            num_inference_steps=16,
        )[-1]
        for w in (4.0, 8.0)
    ]
    means = ", ".join(f"{image.abs().mean():.2f}" for image in images)
    print(f"{threshold}: mean |x| at w = 4 and 8: {means}")
    images = [image.clamp(-1, 1) for image in images]
    rows.append([image[i] for i in range(2) for image in images])
    found = [judge_images(captions, image, world) for image in images]
    borders.append([correct[i] for i in range(2) for correct in found])
image_table(
    rows,
    THRESHOLDS,
    [f"{name}: w = {w}" for name in "AB" for w in (4, 8)],
    cell=128,
    borders=borders,
)

# %% [markdown]
# **What you should have seen.** All rows are less distorted than before. At $w = 8$ the cross has
# turned red in the first two rows, and most of it is still purple in the third. The red star and the
# blue circle are correct at $w = 8$ in the third row alone. This is what Imagen's authors report.
# The price is visible, too: objects are smaller, and contrast is lower.
#
# A few images prove nothing. With 80 captions and 64 ancestral steps (the command above with
# `--sampler ddpm --steps 64`) 15, 18 and 15 % are correct at $w = 10$ (none, static, dynamic): more
# than with the default sampler, and no difference between them. The mean of $|x|$ is 0.39, 0.39 and
# 0.17, and 0.35 in true images. So here dynamic thresholding prevents saturation, as it should, and
# does not raise the score. Small weights are the better choice.
#
# ## 5. Why does it dim?
#
# Take one estimate of the first section, at $w = 8$. Dynamic thresholding divides *every* value by
# $s$, though $s$ was determined by the largest half per cent.
#
# **Predict:** which pixels are the largest half per cent?

# %%
estimate = trajectories[8.0][10][:1]
s = estimate.abs().flatten().quantile(0.995)
largest = (estimate.abs() >= s).any(1, keepdim=True).float().expand(1, 3, 64, 64) * 2 - 1
images = [
    estimate[0].clamp(-1, 1),
    largest[0],
    static_threshold(estimate)[0],
    dynamic_threshold(estimate)[0],
]
before, static, dynamic = (x.abs().mean() for x in (estimate, images[2], images[3]))
print(
    f"step 10 at w = 8: s = {s:.2f}; mean |x| before {before:.2f}, static {static:.2f}, dynamic {dynamic:.2f}"
)
image_table(
    [images],
    ["one estimate"],
    ["x_0_hat, clipped to be shown", "the largest 0.5 %", "static", "dynamic"],
    cell=128,
)

# %% [markdown]
# **What you should have seen.** A few pixels of one object decide for all: its colour is what the
# caption is about, so guidance is strongest there. The ground is divided by the same $s$, and it was
# nearly in range. In a photograph a large weight drives large parts of the image out of range. There
# $s$ is right for most of it, and dividing keeps differences that clipping would lose.
#
# The flat world shows the extreme case: its white and black backgrounds lie at the ends of the range,
# where no division may touch them.

# %%
rows, borders = [], []
for threshold in THRESHOLDS:
    images = [
        x_0_hat_trajectory(flat, captions, seeds, guidance_scale=w, threshold=threshold)[-1]
        for w in (2.0, 4.0, 8.0)
    ]
    means = ", ".join(f"{image.abs().mean():.2f}" for image in images)
    print(f"{threshold}: mean |x| at w = 2, 4, 8: {means}")
    images = [image.clamp(-1, 1) for image in images]
    rows.append([image[i] for i in range(2) for image in images])
    found = [judge_images(captions, image) for image in images]
    borders.append([correct[i] for i in range(2) for correct in found])
for name, each in (("scenes", flat.world), ("studio", world)):
    true = saturation(render_matching(prompts, world=each))
    print(
        f"true images of {name}: mean |x| {true['mean_abs']:.2f}, {true['saturated']:.1%} saturated"
    )
image_table(
    rows,
    THRESHOLDS,
    [f"{name}: w = {w}" for name in "AB" for w in (2, 4, 8)],
    cell=96,
    borders=borders,
)

# %% [markdown]
# **What you should have seen.** In the flat world a third of all values of these true images are
# saturated, and in `studio` hardly any. Dividing turns the white background beige at $w = 2$ already,
# and gray at $w = 8$, while clipping loses nothing in it. A method suits a kind of data: measure it
# on yours.
#
# ## Exercise: dynamic thresholding by hand
#
# Write it from the equation at the top, for a batch `[b, 3, h, w]`. `torch.quantile` is allowed.
# (The package's function, which is shown below, does not use it: in older versions of torch,
# `torch.quantile` refuses large tensors.) Mind the images whose percentile is below 1: they must
# not be stretched.


# %%
def threshold(x_0_hat: torch.Tensor, percentile: float = 0.995) -> torch.Tensor: ...  # your answer


nb08.check(threshold)

# %% [markdown]
# With it, the figure shows four estimates before and after. Until you have answered, the lower row
# is `static_threshold`.

# %%
answered = nb08.check(threshold).correct
before = trajectories[8.0][13]
after = threshold(before) if answered else static_threshold(before)
print(
    "mean |x| before:",
    [round(x.abs().mean().item(), 2) for x in before],
    "  after:",
    [round(x.abs().mean().item(), 2) for x in after],
)
names = ["x_0_hat, w = 8, step 13", "your threshold" if answered else "static (exercise open)"]
image_table(
    [list(before.clamp(-1, 1)), list(after)], names, [f"image {i}" for i in range(4)], cell=112
)

# %%
show_source(dynamic_threshold)

# %% [markdown]
# Next: [09, samplers](09_samplers.ipynb).
