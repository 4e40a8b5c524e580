# %% [markdown]
# # 07 Classifier-free guidance
#
# **Objective:** see what a guidance weight does to one step, to one image and to many, and what it costs.
#
# **Before this:** 00, 02
#
# In training, one caption in ten was replaced by nothing. So the network can answer two questions about the same noisy image: *what image is this, given
# the caption?* and *what image is this, given no caption at all?* Where the two answers differ, the difference is what the caption says about this very
# pixel. Guidance exaggerates it:
#
# $$\tilde x_0 = w\, \hat x_0(x_t, c) + (1 - w)\, \hat x_0(x_t) = \hat x_0(x_t) + w\, \bigl(\hat x_0(x_t, c) - \hat x_0(x_t)\bigr)$$
#
# $w = 1$ is the network's own answer to the caption, $w = 0$ forgets the caption, and $w > 1$ goes beyond what the network was trained to say. Why should
# that help? By Bayes' rule, for an ideal network,
#
# $$\hat x_0(x_t, c) - \hat x_0(x_t) = \frac{\sigma_t^2}{\alpha_t}\, \nabla_{x_t} \log p(c \mid x_t)$$
#
# so guidance climbs towards images from which a reader would guess the caption: it is a classifier, without a classifier. It may be applied to $\hat x_0$,
# to $\epsilon$ or to $v$: each is a multiple of the others plus a multiple of $x_t$, and the weights add up to 1.

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
from collections import Counter

import torch

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb07
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.diffusion.guidance import classifier_free_guidance, make_denoiser, static_threshold
from imagen_mini.diffusion.samplers import sample
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.scenes.parse import parse_image
from imagen_mini.utils.rng import randn
from imagen_mini.viz.guidance import (
    at_scale,
    estimates,
    plot_positions,
    plot_scales,
    scatter,
    share_of_large_objects,
)
from imagen_mini.viz.image_grid import image_table
from imagen_mini.viz.style import STYLES, subplots

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
base = pipe.stages["base"]
show_source(classifier_free_guidance)

# %% [markdown]
# ## 1. One walk: what does the caption add?
#
# We walk once with $w = 2$, and at every noisy image on the way we ask both questions. Without a caption the network is given text whose vectors are all
# zero (`text.null()`).
#
# **Predict:** at which times do the two answers differ most: where there is most noise, in the middle, or at the end? And where in the image?

# %%
caption, seed = "a red circle above a blue square", 4
text = pipe.text_encoder(caption)
with_text = base.denoiser(text, guidance_scale=1.0, threshold="none")
without_text = base.denoiser(text.null(), guidance_scale=1.0, threshold="none")

times = base.times()
x_T = randn([seed], (3, 64, 64), "base", "x_T")
states = list(
    sample(
        base.denoiser(text, guidance_scale=2.0), x_T, times, base.log_snr_of, base.config.sampler
    )
)
noisy = [x_T, *(state.x for state in states)]  # what the network sees at each of the times

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
sheet, (panel,) = subplots(["what the caption adds"], "step")
panel.plot(size, label="with caption - without", **STYLES[0])
panel.plot([u.square().mean().sqrt().item() for u in uncond], label="without caption", **STYLES[1])
panel.set_ylim(0, None)
panel.set_ylabel("root mean square of x_0_hat")
panel.legend(frameon=False)
print(
    f"the difference is largest at step {size.index(max(size))} ({max(size):.2f}), and {size[-1]:.3f} at the last one"
)
sheet

# %% [markdown]
# **What you should have seen.** ($x_t$ is shown three times only.) At first there is nothing but the caption to go by: the difference is a reddish upper and a bluish lower half, weak, because
# both answers are near the mean of all images. It grows while things find their places, and is then confined to the things: their colours, their outlines.
# At the end it is nearly nothing: by then the noisy image itself says what it shows, and the caption adds no news. Guidance is strong only while there is
# something to decide, and then stops by itself.
#
# ## 2. One seed, many weights
#
# All images of a row start from the same noise. A green frame is right by the parser, an orange one is wrong.
#
# **Predict:** what does $w = 0$ draw? Do things move as $w$ grows? Which $w$ is too much?

# %%
prompts, seeds = (
    ["a red circle above a blue square", "three green stars", "a cyan cross and a pink star"],
    [4, 1, 0],
)
scales = [0.0, 1.0, 2.0, 4.0, 8.0, 14.0]
by_scale = [
    estimates(pipe, prompts, seeds, guidance_scale=w, threshold="none")[-1].clamp(-1, 1)
    for w in scales
]
right = [judge_images(prompts, images) for images in by_scale]
image_table(
    [[images[i] for images in by_scale] for i in range(len(prompts))],
    prompts,
    [f"w = {w:g}" for w in scales],
    cell=112,
    frames=[[found[i] for found in right] for i in range(len(prompts))],
)

# %% [markdown]
# At $w = 0$ the caption is not read: the first column shows images of the world, but not these. From $w = 1$ on, the same noise keeps its layout more or
# less while $w$ grows, until at some weight something flips: a small thing is large, a thing lies elsewhere, the background is another. At the largest weights colours leave the world's and
# outlines break up. (Thresholding, the remedy for values out of range, is switched off here: it is notebook 08.)
#
# ## 3. How much is best?
#
# The same captions and seeds at every $w$; the parser judges. *Binding* is like "a pink star and a cyan ring": which colour belongs to which shape?
# *Counting* is like "three green circles". The second panel is about the values of $\hat x_0$ on the way: images lie in $[-1, 1]$, so what is outside is
# nobody's image. We take 12 steps instead of 32, to save time.
#
# **Predict:** is the best $w$ at 1? At 8? Where does the second curve start to rise?

# %%
lines = {}
for category in ("binding", "counting"):
    prompts = [c.text for _, _, c in benchmark(16, categories=[category])]
    lines[category] = [
        at_scale(pipe, prompts, range(16), w, threshold="none", num_inference_steps=12)
        for w in (1.0, 2.0, 3.0, 5.0, 8.0)
    ]
    print(
        f"{category}:",
        ", ".join(
            f"w = {row['w']:g}: {row['right']} of {row['n']} ({row['low']:.0%} to {row['high']:.0%})"
            for row in lines[category]
        ),
    )

sheet = plot_scales(lines, measures=["outside"])
sheet.legend(loc="outside lower center", ncols=2, frameon=False)
sheet

# %% [markdown]
# **What you should have seen.** A slope: at $w = 8$ most images are wrong, and without guidance, at $w = 1$, as many are right as at 2. So these weights hardly
# need it any more: a network that has seen fewer images does, and its curve is a hill with the top from 1.5 to 3. The
# intervals of 16 images reach some 20 % to either side, so do not tell 1 from 2 by them. The share of values outside is near nothing without guidance, and
# grows with $w$: we add, at each step, something that points away from the mean image, and nothing holds it back. Models of photographs are used with
# larger weights; a world of flat colours shows sooner that colours are off.
#
# Guidance has a second price: the network is called twice, or on a doubled batch. That is the `concatenate` and `chunk` below; where $w = 1$ it is called
# once.

# %%
show_source(make_denoiser)

# %% [markdown]
# ## 4. What guidance costs: diversity
#
# The caption says nothing of sizes, of the background, or of where exactly the two things lie. A good model would draw all of that at random. Each panel
# shows the places of all things in those of 24 images that are right, from the same 24 seeds; small marks are small things.
#
# **Predict:** what becomes of the clouds when $w$ grows?

# %%
caption, n, found = "a red circle above a blue square", 24, {}
for w in (1.0, 2.0, 4.0):
    image = estimates(
        pipe, [caption] * n, range(n), guidance_scale=w, threshold="none", num_inference_steps=12
    )[-1].clamp(-1, 1)
    right = judge_images([caption] * n, image)
    scenes = [parsed.scene for parsed, is_right in zip(parse_image(image), right) if is_right]
    found[f"w = {w:g}, {len(scenes)} images"] = scenes
    x, y = scatter(scenes, "circle")
    backgrounds = ", ".join(
        f"{name} {count}"
        for name, count in sorted(Counter(scene.background for scene in scenes).items())
    )
    print(f"w = {w:g}: {score_line(right)}")
    print(
        f"       circles scatter by {x:.1f} across and {y:.1f} down; {share_of_large_objects(scenes):.0%} of all things are large; backgrounds: {backgrounds}"
    )
plot_positions(found, ["circle", "square"])

# %% [markdown]
# **What you should have seen.** More guidance, less choice: the clouds draw together, and hardly a thing is small any more. Nobody asked for large things.
# But the network is a little surer that it sees a red circle when the circle is large, and guidance climbs towards what it is surest of. The backgrounds, of
# which the caption is no evidence at all, stay more mixed.
#
# In an ideal network of this world nothing should narrow, since a caption is written with equal probability for every image that it fits. It is the
# network's own doubts that are exaggerated. In photographs it is worse: there, some images of a dog really are more "dog" than others.
#
# ## 5. Two conventions
#
# Ask which one before you compare a $w$ with that of another paper.
#
# | where | formula | off is |
# |---|---|---|
# | Imagen, and here | $w\,\mathrm{cond} + (1 - w)\,\mathrm{uncond}$ | $w = 1$ |
# | GLIDE, diffusers: the same, sorted otherwise | $\mathrm{uncond} + w\,(\mathrm{cond} - \mathrm{uncond})$ | $w = 1$ |
# | Ho and Salimans, who invented it | $(1 + w)\,\mathrm{cond} - w\,\mathrm{uncond}$ | $w = 0$ |
#
# More such traps are in [conventions.md](conventions.md).

# %%
c, u, w = torch.tensor(0.6), torch.tensor(0.2), 3.0
print(f"Imagen, w = 3:             {classifier_free_guidance(c, u, w):.2f}")
print(f"diffusers, w = 3:          {u + w * (c - u):.2f}")
print(f"Ho and Salimans, w = 2:    {(1 + (w - 1)) * c - (w - 1) * u:.2f}   the same guidance")
print(f"Ho and Salimans, w = 3:    {(1 + w) * c - w * u:.2f}   one too many")

# %% [markdown]
# ## 6. Away from something else: a negative prompt
#
# Nothing says that the second answer has to be that of *no* caption. With a negative prompt it is the answer to what one does not want: $w\,\hat x_0(x_t, c)
# + (1 - w)\,\hat x_0(x_t, c_-)$.
#
# **Predict:** the caption leaves the background open. Which backgrounds come out if guidance leads away from a white one?

# %%
caption, n, rows, frames = "a blue square", 6, [], []
negatives = [None, "a blue square on a white background", "a blue square on a black background"]
for negative in negatives:
    image = estimates(
        pipe,
        [caption] * n,
        range(n),
        guidance_scale=2.0,
        negative_prompt=negative,
        num_inference_steps=12,
    )[-1].clamp(-1, 1)
    rows.append(list(image))
    frames.append(judge_images([caption] * n, image))
    backgrounds = Counter(
        parsed.scene.background if parsed.scene else "unreadable" for parsed in parse_image(image)
    )
    print(f"{negative or 'no negative prompt'}: {dict(backgrounds)}")
image_table(
    rows,
    ["no negative prompt", "away from white", "away from black"],
    [f"seed {i}" for i in range(n)],
    cell=72,
    frames=frames,
)

# %% [markdown]
# **What you should have seen.** Away from white: all are black now, which is as far from white as one can go. Away from black: white. But the negative prompts
# speak of a blue square, too, and guidance leads away from all that they say: the squares are gray with a trace of blue, a colour that this world has not, and the parser reads none. A
# negative prompt is not the word "not". It is another direction to walk in, and nobody trained the network to stay in the world on that way.
#
# ## Exercise: one weight for each image
#
# Write guidance in Imagen's convention, with a weight of its own for every image of the batch: `cond` and `uncond` are `[b, 3, h, w]`, and `w` is a tensor
# `[b]`. Mind how shapes meet: PyTorch lines up the *last* dimensions.


# %%
def guide(
    cond: torch.Tensor, uncond: torch.Tensor, w: torch.Tensor
) -> torch.Tensor: ...  # your answer


nb07.check(guide)

# %% [markdown]
# With it, one batch shows a whole range of weights, from one seed. Until you have answered, all are drawn with $w = 1$. **Predict** first: what does a
# *negative* weight do, which leads away from the caption?

# %%
answered = nb07.check(guide).right
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
    base.times(12),
    base.log_snr_of,
    base.config.sampler,
)
right = judge_images([caption] * len(weights), last.x_0_hat)
print(
    f"right at w = {', '.join(f'{w:g}' for w, is_right in zip(weights, right) if is_right)}"
    if answered
    else "exercise open: w = 1 everywhere"
)
image_table(
    [list(last.x_0_hat)],
    [caption],
    [f"w = {w:g}" if answered else "w = 1" for w in weights],
    cell=96,
    frames=[right],
)

# %% [markdown]
# **What you should have seen** (once answered). At $w = 0$ nobody reads the caption, and below it the images avoid what it says. The caption comes true at
# about $w = 1$.
#
# Next: [08, static and dynamic thresholding](08_thresholding.ipynb).
