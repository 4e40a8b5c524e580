# %% [markdown]
# # 07 Classifier-free guidance
#
# **Objective:** see what a guidance weight does to one step, to one image and to many, and what it costs.
#
# **Before this:** 00, 02
#
# In training, one caption in ten was dropped. So the network can make two predictions from the same
# noisy image: the *conditional* one, given the caption, and the *unconditional* one, without it.
# Their difference is what the caption adds at each pixel. Guidance amplifies this difference:
#
# $$\tilde x_0 = w\, \hat x_0(x_t, c) + (1 - w)\, \hat x_0(x_t) = \hat x_0(x_t) + w\, \bigl(\hat x_0(x_t, c) - \hat x_0(x_t)\bigr)$$
#
# $w = 1$ is the network's conditional prediction, $w = 0$ ignores the caption, and $w > 1$
# extrapolates beyond what the network was trained to predict. Why should that help? By Bayes' rule,
# for an ideal network,
#
# $$\hat x_0(x_t, c) - \hat x_0(x_t) = \frac{\sigma_t^2}{\alpha_t}\, \nabla_{x_t} \log p(c \mid x_t)$$
#
# so guidance follows a gradient towards images from which the caption can be guessed. This is
# classifier guidance, but without a classifier. It may be applied to $\hat x_0$, to $\epsilon$ or
# to $v$: each is a multiple of the others plus a multiple of $x_t$, and the weights add up to 1.

# %%
from collections import Counter

import torch

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb07
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.diffusion.guidance import classifier_free_guidance, make_denoiser, static_threshold
from imagen_mini.diffusion.samplers import sample
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.guidance_measures import (
    measure_at_scale,
    position_spread,
    share_of_large_objects,
    x_0_hat_trajectory,
)
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.utils.rng import randn
from imagen_mini.viz.guidance import plot_positions, plot_scales
from imagen_mini.viz.image_grid import image_table
from imagen_mini.viz.style import STYLES, subplots

setup_notebook()
pipe = ImagenPipeline.from_pretrained("studio")
world = pipe.world
base = pipe.stages["base"]
show_source(classifier_free_guidance)

# %% [markdown]
# ## 1. One trajectory: what does the caption add?
#
# We sample once with $w = 2$, and compute both predictions at every noisy image of the trajectory.
# For the unconditional one the network is given text whose vectors are all zero (`text.null()`).
#
# **Predict:** at which times do the two predictions differ most: where there is most noise, in the
# middle, or at the end? And where in the image?

# %%
caption, seed = "a red circle above a blue square", 4
text = pipe.text_encoder(caption)
with_text = base.denoiser(text, guidance_scale=1.0, threshold="none")
without_text = base.denoiser(text.null(), guidance_scale=1.0, threshold="none")

times = base.timesteps()
x_T = randn([seed], (3, 64, 64), "base", "x_T")
states = list(
    sample(base.denoiser(text, guidance_scale=2.0), x_T, times, base.schedule, base.config.sampler)
)
noisy = [x_T, *(state.x for state in states)]  # the input of the network at each timestep

with torch.no_grad():
    cond = [with_text(x, t) for x, t in zip(noisy, times[:-1])]
    uncond = [without_text(x, t) for x, t in zip(noisy, times[:-1])]
difference = [c - u for c, u in zip(cond, uncond)]
guided = [classifier_free_guidance(c, u, 2.0) for c, u in zip(cond, uncond)]

shown = [0, 4, 8, 12, 16, 20, 31]
rows = [[x[i][0].clamp(-1, 1) for i in shown] for x in (uncond, cond, difference, guided)]
rows.insert(0, [noisy[i][0].clamp(-1, 1) if i in (0, 16, 31) else None for i in shown])
image_table(
    rows,
    ["x_t", "without caption", "with caption", "their difference (gray is 0)", "guided, w = 2"],
    [f"step {i}\nt {times[i]:.2f}" for i in shown],
    cell=96,
)

# %%
size = [d.square().mean().sqrt().item() for d in difference]
fig, (ax,) = subplots(["what the caption adds"], "step")
ax.plot(size, label="with caption - without", **STYLES[0])
ax.plot([u.square().mean().sqrt().item() for u in uncond], label="without caption", **STYLES[1])
ax.set_ylim(0, None)
ax.set_ylabel("root mean square of x_0_hat")
ax.legend(frameon=False)
print(
    f"the difference is largest at step {size.index(max(size))} ({max(size):.2f}), and {size[-1]:.3f} at the last one"
)
fig

# %% [markdown]
# **What you should have seen.** ($x_t$ is shown three times only.) At first the caption is the only
# information: the difference is a reddish upper and a bluish lower half. It is weak, because both
# predictions are near the mean of all images. It grows while the objects form, and is then confined
# to them: their colours, their outlines. The ground is no part of it, as the caption does not speak
# of it. At the end the difference is almost zero: by then the noisy image itself shows the objects.
# Guidance is strong only while there is something to decide.
#
# ## 2. One seed, many weights
#
# All images of a row start from the same noise. A green frame is correct by the judge, an orange
# one is incorrect.
#
# **Predict:** what is generated at $w = 0$? Do objects move as $w$ grows? Which $w$ is too large?

# %%
prompts, seeds = (
    ["a red circle above a blue square", "three green stars", "a cyan cross and a pink star"],
    [4, 1, 0],
)
scales = [0.0, 1.0, 2.0, 4.0, 8.0, 14.0]
by_scale = [
    x_0_hat_trajectory(pipe, prompts, seeds, guidance_scale=w, threshold="none")[-1].clamp(-1, 1)
    for w in scales
]
correct = [judge_images(prompts, images, world) for images in by_scale]
image_table(
    [[images[i] for images in by_scale] for i in range(len(prompts))],
    prompts,
    [f"w = {w:g}" for w in scales],
    cell=112,
    borders=[[found[i] for found in correct] for i in range(len(prompts))],
)

# %% [markdown]
# At $w = 0$ the caption is not used: the first column shows images of the world, but not these.
# From $w = 1$ on, the same noise keeps its layout more or less while $w$ grows, and objects become
# larger. At $w = 8$ contrast is too high and highlights burn out. At 14 colours leave the palette of
# the world and outlines break up, as in photographs. (Thresholding, the remedy for values out of
# range, is switched off here. It is the subject of notebook 08.)
#
# ## 3. Which weight is best?
#
# The same captions and seeds at every $w$, scored by the judge. *Binding* is like "a pink star and
# a cyan ring": which colour belongs to which shape? *Counting* is like "three green circles". The
# second panel is about the values of $\hat x_0$ during sampling. Images lie in $[-1, 1]$, so values
# outside belong to no image. We take 12 steps instead of 32, to save time.
#
# **Predict:** is the best $w$ at 1? At 8? Where does the second curve start to rise?

# %%
lines = {}
for category in ("binding", "counting"):
    prompts = [c.text for _, _, c in benchmark(16, categories=[category], world=world)]
    lines[category] = [
        measure_at_scale(pipe, prompts, range(16), w, threshold="none", num_inference_steps=12)
        for w in (1.0, 2.0, 4.0, 8.0)
    ]
    print(
        f"{category}:",
        ", ".join(
            f"w = {row['w']:g}: {row['right']} of {row['n']} ({row['low']:.0%} to {row['high']:.0%})"
            for row in lines[category]
        ),
    )

fig = plot_scales(lines, measures=["outside"])
fig.legend(loc="outside lower center", ncols=2, frameon=False)
fig

# %% [markdown]
# **What you should have seen.** Of the bindings 12 of 16 are correct without guidance, and 14 at
# $w = 2$. From $w = 4$ on fewer are, and at 8 none. The intervals of 16 images reach some 20 % to
# either side, so they cannot distinguish 1 from 2, but they do distinguish 2 from 8. With more images
# (`python -m sample.claims --pipeline studio --only guidance`) 83 % are correct at $w = 1$, and 84 %
# at 2: these weights hardly need guidance. A network that was trained for a shorter time does. The
# share of values outside is near zero without guidance, and grows with $w$: at each step we add
# something that points away from the mean image, and nothing limits it. Models of photographs are
# used with larger weights.
#
# Guidance has a second price: each step needs two network evaluations, or one on a doubled batch.
# That is the `concatenate` and `chunk` below. For $w = 1$ one evaluation is enough.

# %%
show_source(make_denoiser)

# %% [markdown]
# ## 4. What guidance costs: diversity
#
# The caption says nothing of sizes, of the ground, or of where exactly the two objects lie. A good
# model would sample all of that at random. Each panel shows the positions of all objects in those of
# 16 images that are correct, from the same 16 seeds. Small marks are small objects.
#
# **Predict:** how do the clouds of points change when $w$ grows?

# %%
caption, n, found = "a red circle above a blue square", 16, {}
for w in (1.0, 2.0, 4.0):
    image = x_0_hat_trajectory(
        pipe, [caption] * n, range(n), guidance_scale=w, threshold="none", num_inference_steps=12
    )[-1].clamp(-1, 1)
    correct = judge_images([caption] * n, image, world)
    scenes = [
        parsed.scene for parsed, is_right in zip(world.parse_image(image), correct) if is_right
    ]
    found[f"w = {w:g}, {len(scenes)} images"] = scenes
    x, y = position_spread(scenes, "circle")
    backgrounds = ", ".join(
        f"{name} {count}"
        for name, count in sorted(Counter(scene.background for scene in scenes).items())
    )
    print(f"w = {w:g}: {score_line(correct)}")
    print(
        f"       standard deviation of the circles' positions: {x:.1f} across, {y:.1f} down; {share_of_large_objects(scenes):.0%} of all objects are large; backgrounds: {backgrounds}"
    )
plot_positions(found, ["circle", "square"])

# %% [markdown]
# **What you should have seen.** More guidance, less diversity: the clouds become narrower, from 10 to
# 5 across, and hardly an object is small any more. No caption asked for large objects. But at high
# noise a red circle can be recognised with more certainty when it is large, and guidance follows the
# gradient of this certainty. The surfaces, about which the caption says nothing, stay more mixed.
#
# Is that an error of this network? Not only. The caption is equally probable for every *clean*
# image that it fits, so $p(c \mid x_0)$ is constant on these. But guidance uses $p(c \mid x_t)$,
# that of the *noisy* image, and this is higher where the circle is large. So an exact denoiser
# narrows to large objects, too. (In general, the guided trajectory does not sample $p(x_0 \mid c)$
# for any $w$ but 1.)
#
# ## 5. Two conventions
#
# Ask which one is used before you compare a $w$ with that of another paper.
#
# | where | formula | no guidance at |
# |---|---|---|
# | Imagen, and here | $w\,\mathrm{cond} + (1 - w)\,\mathrm{uncond}$ | $w = 1$ |
# | [GLIDE](https://arxiv.org/abs/2112.10741), diffusers: the same, in another order | $\mathrm{uncond} + w\,(\mathrm{cond} - \mathrm{uncond})$ | $w = 1$ |
# | [Ho and Salimans](https://arxiv.org/abs/2207.12598), who invented it | $(1 + w)\,\mathrm{cond} - w\,\mathrm{uncond}$ | $w = 0$ |
#
# More such differences are listed in [conventions.md](conventions.md).

# %%
c, u, w = torch.tensor(0.6), torch.tensor(0.2), 3.0
print(f"Imagen, w = 3:             {classifier_free_guidance(c, u, w):.2f}")
print(f"diffusers, w = 3:          {u + w * (c - u):.2f}")
print(f"Ho and Salimans, w = 2:    {(1 + (w - 1)) * c - (w - 1) * u:.2f}   the same guidance")
print(f"Ho and Salimans, w = 3:    {(1 + w) * c - w * u:.2f}   one too many")

# %% [markdown]
# ## 6. Away from another caption: a negative prompt
#
# The second prediction need not be the *unconditional* one. With a negative prompt it is the
# prediction for what is unwanted: $w\,\hat x_0(x_t, c) + (1 - w)\,\hat x_0(x_t, c_-)$.
#
# **Predict:** the caption leaves the surface open. What will the ground look like if guidance leads
# away from brown wood?

# %%
caption, n, rows, borders = "a blue square", 6, [], []
negatives = [None, "a blue square on wood", "a blue square on slate"]
for negative in negatives:
    image = x_0_hat_trajectory(
        pipe,
        [caption] * n,
        range(n),
        guidance_scale=2.0,
        negative_prompt=negative,
        num_inference_steps=12,
    )[-1].clamp(-1, 1)
    rows.append(list(image))
    borders.append(judge_images([caption] * n, image, world))
    backgrounds = Counter(
        parsed.scene.background if parsed.scene else "unreadable"
        for parsed in world.parse_image(image)
    )
    print(f"{negative or 'no negative prompt'}: {dict(backgrounds)}")
image_table(
    rows,
    ["no negative prompt", "away from wood", "away from slate"],
    [f"seed {i}" for i in range(n)],
    cell=72,
    borders=borders,
)

# %% [markdown]
# **What you should have seen.** Away from wood the ground is sky blue: blue is to brown what black is
# to white, and no surface of this world has it. Away from slate, which is dark, it is nearly white.
# The negative prompts name a blue square, too, and guidance leads away from everything in them. The
# squares are small and pale, and the judge reads none. A negative prompt is not the word "not". It
# is another direction for guidance, and nothing in training keeps the images in this direction
# plausible.
#
# ## Exercise: one weight for each image
#
# Write guidance in Imagen's convention, with a separate weight for every image of the batch: `cond`
# and `uncond` are `[b, 3, h, w]`, and `w` is a tensor `[b]`. It may hold any number, negative ones
# included. Mind broadcasting: PyTorch aligns the *last* dimensions.


# %%
def guide(
    cond: torch.Tensor, uncond: torch.Tensor, w: torch.Tensor
) -> torch.Tensor: ...  # your answer


nb07.check(guide)

# %% [markdown]
# With it, one batch shows a whole range of weights, from one seed. Until you have answered, all are
# sampled with $w = 1$. **Predict** first: what does a *negative* weight do, which leads away from
# the caption?

# %%
answered = nb07.check(guide).correct
caption, weights = (
    "a yellow circle to the left of a purple square",
    torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0]),
)
text = pipe.text_encoder([caption] * len(weights))
with_text = base.denoiser(text, guidance_scale=1.0, threshold="none")
without_text = base.denoiser(text.null(), guidance_scale=1.0, threshold="none")


def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    cond = with_text(x_t, t)
    return (
        static_threshold(guide(cond, without_text(x_t, t), weights))
        if answered
        else static_threshold(cond)
    )


*_, last = sample(
    denoise,
    randn([2] * len(weights), (3, 64, 64), "base", "x_T"),
    base.timesteps(12),
    base.schedule,
    base.config.sampler,
)
correct = judge_images([caption] * len(weights), last.x_0_hat, world)
print(
    f"correct at w = {', '.join(f'{w:g}' for w, is_right in zip(weights, correct) if is_right)}"
    if answered
    else "exercise open: w = 1 everywhere"
)
image_table(
    [list(last.x_0_hat)],
    [caption],
    [f"w = {w:g}" if answered else "w = 1" for w in weights],
    cell=96,
    borders=[correct],
)

# %% [markdown]
# **What you should have seen** (once answered). At $w = 0$ the caption is not used. Below it the
# images move away from what the caption says: no circle is yellow, no square purple. Shapes and
# colours are others, and the more so the more negative $w$ is. The caption is satisfied from $w = 1$
# to 3. At 5 the square has turned pink.
#
# Next: [08, static and dynamic thresholding](08_thresholding.ipynb).
