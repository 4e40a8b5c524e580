# %% [markdown]
# # 10 Super-resolution with noise augmentation
#
# **Objective:** find out what super-resolution takes from the small image, what it takes from the words, and what the noise on the small image is for.
#
# **Before this:** 01, 05 and 09
#
# The second stage of the cascade generates 256 x 256 pixels. It is a diffusion model like the
# first, with one more input: the small image. In training that is a *true* image, downsampled. In
# use it is what the base stage *generated*, with errors that no true image has. A network that was
# trained on true images alone may rely on every pixel, and reproduce the errors at a higher
# resolution. That is the **cascade gap**.
#
# *Noise-conditioning augmentation* is the proposed remedy: in training and in use, add some noise
# to the small image, and give the network its level. With enough noise a true image and a generated
# one are indistinguishable. So the network learns to take the rough shape from the image, and the
# rest from the words and from its training.

# %%
import torch
import torch.nn.functional as F
from IPython.display import display

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.stage import augment_low_res
from imagen_mini.course.exercises import nb10
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import alpha_sigma, cosine_log_snr
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.metrics import psnr
from imagen_mini.evaluation.scoring import judge_image, judge_images
from imagen_mini.evaluation.statistics import format_share, score_line
from imagen_mini.evaluation.super_resolution import (
    augmentation_table,
    crop_around_object,
    super_resolve,
    true_scenes,
)
from imagen_mini.models.unet import UNet
from imagen_mini.utils.rng import randn
from imagen_mini.viz.image_grid import image_grid, image_table, quantize_colors
from imagen_mini.viz.super_resolution import plot_augmentation_levels

setup_notebook()
pipe = ImagenPipeline.from_pretrained("studio")
world = pipe.world
sr = pipe.stages["sr_256"]

# %% [markdown]
# ## 1. What the stage is given, and what it returns
#
# Call the small image $z$. The stage is given a noisy one, by the forward process of notebook 01,
# at a time that is called `aug_level`, $a$:
#
# $$\tilde z = \alpha_a\, z + \sigma_a\, \epsilon, \qquad \alpha_a = \cos\left(\tfrac{\pi}{2} a\right), \quad \sigma_a = \sin\left(\tfrac{\pi}{2} a\right)$$

# %%
show_source(augment_low_res)

# %% [markdown]
# Inside the network $\tilde z$ is upsampled by smooth interpolation and concatenated with $x_t$, as
# three more channels. The level is added to the embedding of the time, which every block uses. Look
# for `low_res` and `aug_level`:

# %%
show_source(UNet.forward)

# %% [markdown]
# We generate one image, step by step. The base stage's image comes from
# `pipe(..., stages=("base",))`, and `sr.denoiser` takes the augmented image and its level.
#
# **Predict:** before the first step, $x_T$ is pure noise. The base stage's first prediction at that
# point was a blur. What will the first prediction of this stage look like?

# %%
prompt, seed = "a large striped orange star on linen", 5
small = pipe(prompt, seed=seed, stages=("base",), progress=False).stages["base"]
level = torch.tensor([sr.config.aug_level])
seen = augment_low_res(small, level, randn([seed], (3, 64, 64), "sr_256", "aug"))

denoise = sr.denoiser(pipe.text_encoder(prompt), seen, level)
x_T = randn([seed], (3, 256, 256), "sr_256", "x_T")
states = list(
    sample(
        denoise,
        x_T,
        sr.timesteps(),
        sr.schedule,
        sr.config.sampler,
        lambda step: randn([seed], (3, 256, 256), "sr_256", "step", step),
        eta=sr.config.eta,
    )
)

shown = [0, 1, 3, 9]
quantize_colors(
    image_table(
        [[small[0], seen[0].clamp(-1, 1), *(states[i].x_0_hat[0] for i in shown)]],
        [""],
        [
            "the base's image",
            f"input of the stage: level {level.item():g}",
            *(f"x_0_hat, step {i}" for i in shown),
        ],
        cell=256,
    )
)

# %%
print("after the last step:", judge_image(prompt, states[-1].x_0_hat[0].clamp(-1, 1), world))
changes = [
    (states[i].x_0_hat - states[-1].x_0_hat).square().mean().sqrt().item() for i in shown[:-1]
]
print(
    "root mean square distance of each prediction from the last one:",
    ", ".join(f"step {i}: {change:.2f}" for i, change in zip(shown, changes)),
)

# %% [markdown]
# The first prediction already shows everything. The position, the colour and the outline come from
# the small image, and the stripes from the words. The weave of the linen is in neither: the stage
# has learnt what linen looks like. None of this needs a clear $x_t$. The printed distances say how
# little the remaining steps change. So this stage needs few steps: 10 by default. We take 5 from
# here on.
#
# ## 2. What comes from the words
#
# At 64 px a pixel covers one whole period of every texture, so all four textures are identical
# there. We give the stage one small image with four different words, and with none.
# `pipe(..., low_res=...)` runs super-resolution alone.
#
# **Predict:** what will it generate where the caption has no word for the texture?

# %%
words = ["solid ", "striped ", "dotted ", "checkered ", ""]
objects = ["orange square", "purple star"]
smalls = pipe(
    [f"a {obj}" for obj in objects], seed=[3, 4], stages=("base",), progress=False
).stages["base"]

scenes = true_scenes([f"a {obj}" for obj in objects], smalls, world)
rows, borders, found = [], [], []
for obj, low_res, scene in zip(objects, smalls, scenes):
    prompts = [f"a {word}{obj}" for word in words]
    large = pipe(
        prompts,
        seed=3,
        low_res=low_res.expand(5, -1, -1, -1),
        num_inference_steps=5,
        progress=False,
    ).stages["sr_256"]
    correct = judge_images(prompts, large, world)
    rows.append(
        [
            *crop_around_object(low_res[None], [scene], 0.5),
            *crop_around_object(large, [scene] * 5, 0.5),
        ]
    )
    borders.append([None, *correct[:4], None])
    found += correct[:4]

display(
    quantize_colors(
        image_table(
            rows, objects, ["the small image", *words[:4], "no word"], cell=128, borders=borders
        )
    )
)
print("images with the stated texture and everything else correct:", score_line(found))

# %% [markdown]
# (Only the part around the object is shown.) One small image, four large ones. Without a word the
# stage leaves the object solid. So in this world super-resolution needs the text. With photographs
# it may seem dispensable, because there the small image shows nearly everything.
#
# Harder: **two different textures in one image**. The stage has to find out which object has which.
# The frozen text encoder does not encode it well enough. That is why this stage has text layers
# (`text_layers` in its configuration): two small transformer layers over the words, trained with
# the images.
#
# **Predict:** and if the base stage has generated a wrong object? Which stage's errors will you see
# below, if any?

# %%
category = benchmark(6, categories=["two textures"], world=world)
prompts = [caption.text for _, _, caption in category]
large = pipe(
    prompts, seed=[s for _, s, _ in category], num_inference_steps={"sr_256": 5}, progress=False
).stages["sr_256"]
correct = judge_images(prompts, large, world)
labels = [f"{prompt}: {judge_image(prompt, image, world)}" for prompt, image in zip(prompts, large)]
display(quantize_colors(image_grid(list(large), labels, columns=3, cell=256, borders=correct)))
print(score_line(correct))

# %% [markdown]
# The textures are where they belong in all six. One image is unreadable to the judge: its square has
# the colour of the star in a part of it. That is an error of the base stage, which super-resolution
# has enlarged. ("Correct; does not look as a matte cross would" means that the caption is right, and
# that the material is not clear.) Both stages are needed: the base stage has to generate both
# objects, and super-resolution has to give each its texture.
#
# ## 3. What the noise hides
#
# A small image at growing levels (the part around the object): in the upper row as generated by the
# base stage, in the lower one the *equivalent scene*, which is the same scene rendered without
# errors.
#
# **Predict:** from which level on can you no longer distinguish the two rows?

# %%
prompts = [
    "a small dotted pink circle",
    "a small checkered green circle",
    "a small dotted blue ring",
    "a small striped green cross",
    "a small solid cyan circle",
    "a small checkered purple cross",
    "a small dotted yellow star",
    "a small striped blue circle",
]
seeds = [0, 2, 3, 5, 6, 7, 8, 9]
generated = pipe(prompts, seed=seeds, stages=("base",), progress=False).stages["base"]
kept = [
    i for i, correct in enumerate(judge_images(prompts, generated, world)) if correct
]  # for an incorrect image there is no true large one
prompts, seeds, generated = [prompts[i] for i in kept], [seeds[i] for i in kept], generated[kept]
scenes = true_scenes(prompts, generated, world)
clean, truth = world.render(scenes, 64), world.render(scenes, 256)

levels = [0.0, 0.1, 0.2, 0.3, 0.5]
alpha, sigma = alpha_sigma(cosine_log_snr(torch.tensor(levels)))
row = len(prompts) - 2  # the star: it has corners
noise = randn([seeds[row]], (3, 64, 64), "sr_256", "aug").expand(5, -1, -1, -1)
strips = [
    augment_low_res(images[row].expand(5, -1, -1, -1), torch.tensor(levels), noise).clamp(-1, 1)
    for images in (generated, clean)
]

strips = [list(crop_around_object(strip, [scenes[row]] * 5)) for strip in strips]
display(
    quantize_colors(
        image_table(
            strips,
            ["generated by the base stage", "equivalent scene, rendered"],
            [f"level {v:g}" for v in levels],
            cell=144,
        )
    )
)
base_errors = (generated - clean).square().mean().sqrt().item()
print(
    f"the base's errors (root mean square of generated - rendered, {len(prompts)} images): {base_errors:.2f}"
)
print(
    "the noise, sigma / alpha:",
    ", ".join(f"level {v:g}: {(s / a).item():.2f}" for v, a, s in zip(levels, alpha, sigma)),
)

# %% [markdown]
# The base stage's errors are smooth: shading that no lamp makes, grain that is a little blurred. At
# level 0.2 the noise on each pixel is larger than the errors are on average. From 0.3 on the rows
# look the same. What is lost with the errors is detail: single pixels. What remains is the
# information that many pixels share: the position, the colour, and roughly the shape.
#
# ## 4. The cascade gap
#
# Now the same captions and seeds, from the equivalent scenes (clean) and from the generated images
# (generated), at levels 0 to 0.5, the highest in training. Two measures: is the large image
# correct, and how near is it to the true image?
#
# **Predict:** two lines in each panel. Is *clean* above *generated* at level 0? What does more
# noise do to each?

# %%
levels = [0.0, 0.1, 0.3, 0.5]
found = {
    "clean": [
        super_resolve(pipe, prompts, seeds, clean, truth, level, steps=5) for level in levels
    ],
    "generated": [
        super_resolve(pipe, prompts, seeds, generated, truth, level, steps=5) for level in levels
    ],
}
print(augmentation_table(found))
for one, other in zip(*found.values()):
    gap = one.psnr - other.psnr
    half = 1.96 * gap.std() / len(gap) ** 0.5
    print(
        f"level {one.level:g}: the gap, clean less generated, is {gap.mean():.1f} dB (95 % interval {gap.mean() - half:.1f} to {gap.mean() + half:.1f})"
    )
plot_augmentation_levels(found)

# %% [markdown]
# **What you should have seen.** There is a gap. At level 0 the images from generated ones are 8.5 dB
# further from the true ones than those from clean ones, and at 0.5 only 3.6 dB. But read both
# lines. The gap becomes smaller since *clean* gets worse, from 27 to 22 dB, with detail that the
# noise hides. *Generated* hardly changes. A part of the gap cannot be closed at all: the grain of
# the generated ground is that of another piece of wood, and where the outline should have been, only
# the small image can say.
#
# Nor do more images become correct. With 51 captions (`python -m sample.claims --pipeline studio
# --only augmentation`) from clean images 100 % are correct up to level 0.3. From generated ones 96,
# 90 and 88 % are, at levels 0, 0.1 and 0.3. So the errors that this base stage makes are not of the
# kind that noise hides: an object in two colours has them at any level of noise. Imagen's
# experience is not simple either: for its score, level 0 was best in use, and its best samples were
# made with 0.1 to 0.3 (Appendix D.2).
#
# The flat world `scenes` has hardly a gap: these cells with `from_pretrained("scenes")` find 1.7 dB
# at level 0 (-1.5 to 4.8). There is no grain to be copied from the small image.
#
# ## 5. How much the stage relies on the small image
#
# The effect of the level shows where the small image is bad. We corrupt it: blocks of 4 x 4 pixels,
# as if only 16 x 16 pixels were left.
#
# **Predict:** at level 0, what becomes of a circle that is a few coarse squares? At 0.5?

# %%
blocks = F.interpolate(F.avg_pool2d(generated, 4), scale_factor=4)
found["blocks"] = [
    super_resolve(pipe, prompts, seeds, blocks, truth, level, steps=5) for level in levels
]

columns = [
    crop_around_object(images, scenes)
    for images in (generated, blocks, *(result.images for result in found["blocks"]))
]
borders = [
    [None, None, *(result.correct[i] for result in found["blocks"])] for i in range(len(prompts))
]
quantize_colors(
    image_table(
        list(zip(*columns)),
        prompts,
        ["generated", "corrupted", *(f"level {level:g}" for level in levels)],
        cell=96,
        borders=borders,
    )
)

# %%
for result in found["blocks"]:
    obeys = psnr(F.avg_pool2d(result.images, 4), blocks).mean()
    distances = (
        f"{obeys:.1f} dB PSNR to the corrupted input, {result.psnr.mean():.1f} dB to the true image"
    )
    print(f"level {result.level:g}: {format_share(result.correct)} correct; {distances}")
gain = found["blocks"][2].psnr - found["blocks"][0].psnr
half = 1.96 * gain.std() / len(gain) ** 0.5
interval = f"95 % interval {gain.mean() - half:+.1f} to {gain.mean() + half:+.1f}"
print(
    f"from level 0 to {levels[2]:g} the PSNR to the true image changes by {gain.mean():+.1f} dB ({interval})"
)

# %% [markdown]
# **What you should have seen.** At level 0 the stage trusts every pixel. It draws what the squares
# show, a square with stripes for a circle, and even the dark corners around it. At 0.3 three of four
# circles are round again: 6 of 8 images are correct, and 3 were at level 0. The words do a good part of this,
# as the stage reads "circle". At 0.5 it has lost the shape and guesses another one, so less is
# correct again. The PSNR does not tell this story: it counts pixels, and the ground has most of
# them. The rule for `aug_level`: as high as the errors are large, and no higher.
#
# The level does two things: it sets the noise, and it is an input of the network. Which of them
# makes the stage rely less on the small image? We can separate them: noise of one level, and
# another level stated.
#
# **Predict:** all the noise, but "level 0" stated: will it upsample the noise? No noise, but "level
# 0.5" stated: will it follow the blocks?

# %%
chosen = [0, 1, 2, 7][: len(prompts)]
texts = pipe.text_encoder([prompts[i] for i in chosen])
noise = randn([seeds[i] for i in chosen], (3, 64, 64), "sr_256", "aug")
x_T = randn([seeds[i] for i in chosen], (3, 256, 256), "sr_256", "x_T")

rows = []
for added, stated in [(0.0, 0.0), (0.0, 0.5), (0.5, 0.0), (0.5, 0.5)]:
    seen = augment_low_res(blocks[chosen], torch.full((len(chosen),), added), noise)
    *_, last = sample(
        sr.denoiser(texts, seen, torch.full((len(chosen),), stated)),
        x_T,
        sr.timesteps(5),
        sr.schedule,
        sr.config.sampler,
        lambda step: randn([seeds[i] for i in chosen], (3, 256, 256), "sr_256", "step", step),
        eta=sr.config.eta,
    )
    rows.append(last.x_0_hat.clamp(-1, 1))
    print(
        f"noise of level {added:g}, level {stated:g} stated: {psnr(F.avg_pool2d(rows[-1], 4), blocks[chosen]).mean():.1f} dB PSNR to the input"
    )
borders = [judge_images([prompts[i] for i in chosen], row, world) for row in rows]
rows = [list(crop_around_object(row, [scenes[i] for i in chosen])) for row in rows]
names = [
    "no noise, stated 0",
    "no noise, stated 0.5",
    "noise 0.5, stated 0",
    "noise 0.5, stated 0.5",
]
quantize_colors(image_table(rows, names, [prompts[i] for i in chosen], cell=96, borders=borders))

# %% [markdown]
# Now the statement alone does it. With "level 0.5" stated and no noise added, the stage reads the
# blocks as uncertain, and draws round circles where it drew squares: all four are correct. This is
# even better than with noise, as no information is lost. With noise and "level 0" stated it takes the noise for grain, and
# enlarges it. That is what conditioning on the level is for: the network must know how far to trust
# its input. (The last row is the same computation as in the figure above at level 0.5.)
#
# ## Exercise: augmentation by hand
#
# Write `augment_low_res`: `low_res` [b, 3, h, w] in [-1, 1], `aug_level` [b], a level for each
# image, `noise` as `low_res`. `cosine_log_snr(aug_level)` and `alpha_sigma(log_snr)` are there;
# what is left is to combine them. Do not change `low_res` in place.


# %%
def augment_by_hand(
    low_res: torch.Tensor, aug_level: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor: ...  # your answer


nb10.check(augment_by_hand)

# %% [markdown]
# Once it is correct, the figure below is made with it; until then with the package's. From one
# small image, level by level: what the stage is given, and what it returns.
#
# **Predict:** which will change more from level to level, the outline or the texture?

# %%
answered = nb10.check(augment_by_hand).correct
mine = augment_by_hand if answered else augment_low_res
levels = torch.tensor([0.0, 0.1, 0.3, 0.5])
row = len(prompts) - 2
seen = mine(
    generated[row].repeat(4, 1, 1, 1),
    levels,
    randn([seeds[row]], (3, 64, 64), "sr_256", "aug").expand(4, -1, -1, -1),
)
x_T = randn([seeds[row]], (3, 256, 256), "sr_256", "x_T").expand(4, -1, -1, -1)
*_, last = sample(
    sr.denoiser(pipe.text_encoder([prompts[row]] * 4), seen, levels),
    x_T,
    sr.timesteps(5),
    sr.schedule,
    sr.config.sampler,
    lambda step: randn([seeds[row]] * 4, (3, 256, 256), "sr_256", "step", step),
    eta=sr.config.eta,
)
large = last.x_0_hat.clamp(-1, 1)

strips = [
    list(crop_around_object(images, [scenes[row]] * 4)) for images in (seen.clamp(-1, 1), large)
]
display(
    quantize_colors(
        image_table(
            strips,
            ["input, by your function" if answered else "input (exercise open)", "result"],
            [f"level {v:g}" for v in levels.tolist()],
            cell=192,
            borders=[[None] * 4, judge_images([prompts[row]] * 4, large, world)],
        )
    )
)
print(score_line(judge_images([prompts[row]] * 4, large, world)))

# %% [markdown]
# The texture stays, as it never was in the small image. The outline changes little, though the input
# says less and less about it. What changes is the grain of the wood.
#
# Next: [11, Prompt-to-Prompt](11_prompt_to_prompt.ipynb).
