# %% [markdown]
# # 10 Super-resolution with noise augmentation
#
# **Objective:** find out what super-resolution takes from the small image, what it takes from the words, and what the noise on the small image is for.
#
# **Before this:** 01, 05 and 09
#
# The second stage of the cascade draws 256 x 256 pixels. It is a diffusion model like the first, with one more input: the small image. In training that is
# a *true* image, made small. In use it is what the base stage *drew*, with mistakes that no true image has. A network that always saw true images
# trusts every pixel, and enlarges the mistakes. That is the **cascade gap**.
#
# *Noise-conditioning augmentation* is the remedy: in training and in use, put some noise on the small image, and tell the network how much. Under the noise
# a true image and a drawn one look alike, so the network learns to take the rough shape from the image, and to finish it from the words and from what it
# knows.

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
from imagen_mini.models.unet import UNet
from imagen_mini.scenes.render import render
from imagen_mini.utils.rng import randn
from imagen_mini.viz.image_grid import image_grid, image_table, quantize_colors
from imagen_mini.viz.super_resolution import around, enlarge, level_lines, level_sheet, true_scenes

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
sr = pipe.stages["sr_256"]

# %% [markdown]
# ## 1. What the stage is given, and what it makes
#
# Call the small image $z$. The stage is given a noisy one, by the forward process of notebook 01, at a time that is called `aug_level`, $a$:
#
# $$\tilde z = \alpha_a\, z + \sigma_a\, \epsilon, \qquad \alpha_a = \cos\left(\tfrac{\pi}{2} a\right), \quad \sigma_a = \sin\left(\tfrac{\pi}{2} a\right)$$

# %%
show_source(augment_low_res)

# %% [markdown]
# Inside the network $\tilde z$ is enlarged smoothly and laid beside $x_t$, as three more channels. The level goes where the time goes, into the embedding
# that every block reads. Look for `low_res` and `aug_level`:

# %%
show_source(UNet.forward)

# %% [markdown]
# We draw one image, step by step. The base stage's image comes from `pipe(..., stages=("base",))`, and `sr.denoiser` takes the augmented image and its
# level.
#
# **Predict:** before the first step, $x_T$ is pure noise. The base stage's first guess at that point was a blur. What will the first guess of this stage look
# like?

# %%
prompt, seed = "a large striped orange star", 1
small = pipe(prompt, seed=seed, stages=("base",), progress=False).stages["base"]
level = torch.tensor([sr.config.aug_level])
seen = augment_low_res(small, level, randn([seed], (3, 64, 64), "sr_256", "aug"))

denoise = sr.denoiser(pipe.text_encoder(prompt), seen, level)
x_T = randn([seed], (3, 256, 256), "sr_256", "x_T")
states = list(sample(denoise, x_T, sr.times(), sr.log_snr_of, sr.config.sampler))

shown = [0, 1, 3, 9]
quantize_colors(
    image_table(
        [[small[0], seen[0].clamp(-1, 1), *(states[i].x_0_hat[0] for i in shown)]],
        [""],
        [
            "the base's image",
            f"what the stage is given: level {level.item():g}",
            *(f"x_0_hat, step {i}" for i in shown),
        ],
        cell=256,
    )
)

# %%
print("after the last step:", judge_image(prompt, states[-1].x_0_hat[0].clamp(-1, 1)))
changes = [
    (states[i].x_0_hat - states[-1].x_0_hat).square().mean().sqrt().item() for i in shown[:-1]
]
print(
    "how far each guess is from the last one (root mean square):",
    ", ".join(f"step {i}: {change:.2f}" for i, change in zip(shown, changes)),
)

# %% [markdown]
# The first guess has it all: the place, the colour and the outline come from the small image, the stripes from the words, and nothing has to wait for $x_t$
# to become clear. What is off is the tint of the background, and some of the stripes. The rest of the walk puts that right. So this stage needs few steps: 10
# by default, and with 5 its images are as good. We take 5 from here on.
#
# ## 2. What comes from the words
#
# At 64 px a pixel covers one whole period of every texture, so all four textures look alike there. We give the stage one small image with four different
# words, and with none. `pipe(..., low_res=...)` draws super-resolution alone.
#
# **Predict:** what will it draw where the caption has no word for the texture?

# %%
words = ["solid ", "striped ", "dotted ", "checkered ", ""]
objects = ["orange square", "purple star"]
smalls = pipe(
    [f"a {obj}" for obj in objects], seed=[3, 4], stages=("base",), progress=False
).stages["base"]

scenes = true_scenes([f"a {obj}" for obj in objects], smalls)
rows, frames, found = [], [], []
for obj, low_res, scene in zip(objects, smalls, scenes):
    prompts = [f"a {word}{obj}" for word in words]
    large = pipe(
        prompts,
        seed=3,
        low_res=low_res.expand(5, -1, -1, -1),
        num_inference_steps=5,
        progress=False,
    ).stages["sr_256"]
    right = judge_images(prompts, large)
    rows.append([*around(low_res[None], [scene], 0.5), *around(large, [scene] * 5, 0.5)])
    frames.append([None, *right[:4], None])
    found += right[:4]

display(
    quantize_colors(
        image_table(
            rows, objects, ["the small image", *words[:4], "no word"], cell=128, frames=frames
        )
    )
)
print("the texture that was said, and all else:", score_line(found))

# %% [markdown]
# (Only the part around the thing is shown.) One small image, four large ones. Without a word the stage makes up a texture of its own, or a mixture. So in
# this world the text is not a luxury for super-resolution, as it may seem with photographs, where the small image says nearly everything.
#
# Harder: **two different textures in one image**. The stage has to find out which thing has which. The frozen text encoder does not tell it: until this
# stage had text layers of its own (`text_layers` in its configuration, two small transformer layers over the words, trained with the images), it knew both
# textures and gave them to the wrong things; 7 of 30 captions were right then.
#
# **Predict:** and if the base stage has drawn a wrong thing? Whose mistakes will you see below, if any?

# %%
category = benchmark(6, categories=["two textures"])
prompts = [caption.text for _, _, caption in category]
large = pipe(
    prompts, seed=[s for _, s, _ in category], num_inference_steps={"sr_256": 5}, progress=False
).stages["sr_256"]
right = judge_images(prompts, large)
labels = [f"{prompt}: {judge_image(prompt, image)}" for prompt, image in zip(prompts, large)]
display(quantize_colors(image_grid(list(large), labels, columns=3, cell=256, frames=right)))
print(score_line(right))

# %% [markdown]
# All six are right, as are all 30 of the README's table. It took both stages to get there: just after this one had its text layers, 14 of 30 were wrong, 12 of
# them already in the small image, where one of the two things was drawn twice. Now the base stage draws both, and each gets its texture.
#
# ## 3. What the noise hides
#
# A small image at growing levels (the part around the thing): in the upper row as the base stage drew it, in the lower one its *twin*, the same scene drawn
# by the renderer, without mistakes.
#
# **Predict:** from which level on can you no longer tell the two rows apart?

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
    i for i, right in enumerate(judge_images(prompts, generated)) if right
]  # of a wrong image nobody can say what it should become
prompts, seeds, generated = [prompts[i] for i in kept], [seeds[i] for i in kept], generated[kept]
scenes = true_scenes(prompts, generated)
clean, truth = render(scenes, 64), render(scenes, 256)

levels = [0.0, 0.1, 0.2, 0.3, 0.5]
alpha, sigma = alpha_sigma(cosine_log_snr(torch.tensor(levels)))
row = len(prompts) - 2  # the star: it has corners
noise = randn([seeds[row]], (3, 64, 64), "sr_256", "aug").expand(5, -1, -1, -1)
strips = [
    augment_low_res(images[row].expand(5, -1, -1, -1), torch.tensor(levels), noise).clamp(-1, 1)
    for images in (generated, clean)
]

strips = [list(around(strip, [scenes[row]] * 5)) for strip in strips]
display(
    quantize_colors(
        image_table(
            strips,
            ["drawn by the base stage", "its twin, without mistakes"],
            [f"level {v:g}" for v in levels],
            cell=144,
        )
    )
)
mistakes = (generated - clean).square().mean().sqrt().item()
print(
    f"the base's mistakes (root mean square of drawn - twin, {len(prompts)} images): {mistakes:.2f}"
)
print(
    "the noise, sigma / alpha:",
    ", ".join(f"level {v:g}: {(s / a).item():.2f}" for v, a, s in zip(levels, alpha, sigma)),
)

# %% [markdown]
# Already at level 0.1 the noise on each pixel is larger than the mistakes are on average (these sit on the outlines, where they are larger than the mean
# says). From 0.3 on the rows look the same. What is lost with the mistakes is detail: single pixels. What is left is what many pixels say together: where,
# which colour, roughly which shape.
#
# ## 4. The cascade gap
#
# Now the same captions and seeds, from the twins (clean) and from the drawn images (generated), at levels 0 to 0.5, the highest in training. Two measures:
# is the large image right, and how near is it to the true image?
#
# **Predict:** two lines in each panel. Is *clean* above *generated* at level 0? What does more noise do to each?

# %%
levels = [0.0, 0.1, 0.3, 0.5]
found = {
    "clean": [enlarge(pipe, prompts, seeds, clean, truth, level, steps=5) for level in levels],
    "generated": [
        enlarge(pipe, prompts, seeds, generated, truth, level, steps=5) for level in levels
    ],
}
print(level_lines(found))
for one, other in zip(*found.values()):
    gap = one.psnr - other.psnr
    half = 1.96 * gap.std() / len(gap) ** 0.5
    print(
        f"level {one.level:g}: the gap, clean less generated, is {gap.mean():.1f} dB (95 % interval {gap.mean() - half:.1f} to {gap.mean() + half:.1f})"
    )
level_sheet(found)

# %% [markdown]
# **What you should have seen.** Not what the story promised. At every level all images are right, from clean and from generated ones alike: with eight images, a gap of less than a third could hide, but over 30 captions textures are right in 100 % too, at the default 0.1. The likeness
# shows a gap of 1.7 dB at level 0, which may be none (-1.5 to 4.8); at 0.3 it is closed, at 0.5 *clean* and *generated* are both worse. Part of
# such a gap no noise can close, since the drawn outline is the only thing that tells the stage where the true one is.
#
# Why is there so little to repair? Because the remedy already worked, in training. This stage saw levels from 0 to 0.5 all the time, so it never learned to
# copy pixels, and with level 0 in use it does not either. Imagen reports something alike: for its score on photographs level 0 was best in use, and its best
# samples were made with 0.1 to 0.3 (Appendix D.2). To see the gap, one has to train a stage without noise: `python -m sample.claims --only
# training-augmentation --train 30` trains one with and one without.
#
# ## 5. A dial of trust
#
# What the level does in use shows where the small image is bad. We spoil it: blocks of 4 x 4 pixels, as if only 16 x 16 pixels were left.
#
# **Predict:** at level 0, what becomes of a circle that is a heap of squares? At 0.5?

# %%
blocks = F.interpolate(F.avg_pool2d(generated, 4), scale_factor=4)
found["blocks"] = [enlarge(pipe, prompts, seeds, blocks, truth, level, steps=5) for level in levels]

columns = [
    around(images, scenes)
    for images in (generated, blocks, *(result.images for result in found["blocks"]))
]
frames = [
    [None, None, *(result.right[i] for result in found["blocks"])] for i in range(len(prompts))
]
quantize_colors(
    image_table(
        list(zip(*columns)),
        prompts,
        ["drawn", "spoilt", *(f"level {level:g}" for level in levels)],
        cell=96,
        frames=frames,
    )
)

# %%
for result in found["blocks"]:
    obeys = psnr(F.avg_pool2d(result.images, 4), blocks).mean()
    likeness = f"{obeys:.1f} dB alike with the spoilt image it was given, {result.psnr.mean():.1f} dB with the true one"
    print(f"level {result.level:g}: {format_share(result.right)} right; {likeness}")
gain = found["blocks"][2].psnr - found["blocks"][0].psnr
half = 1.96 * gain.std() / len(gain) ** 0.5
interval = f"95 % interval {gain.mean() - half:+.1f} to {gain.mean() + half:+.1f}"
print(
    f"from level 0 to {levels[2]:g} the likeness to the true image changes by {gain.mean():+.1f} dB ({interval})"
)

# %% [markdown]
# **What you should have seen.** First, how much is repaired: out of a few squares and the word *star* comes a star, and out of heaps of squares come circles, at level 0 already. The words do
# a good part of the repair: before the stage had text layers, small circles came out as squares. Then the dial. The higher
# the level, the less what is drawn is like what was given, by little: but at 0.5 the stage trusts so little that it bends a ring. So here
# the likeness to the truth stays up to 0.3, and falls at 0.5: little is left for noise to repair, and detail is lost. The rule for `aug_level`: as high as the
# mistakes are large, and no higher.
#
# The level does two things: it makes noise, and it tells the network. Which of them makes the stage distrust? We can lie to it: noise of one level, and
# another level told.
#
# **Predict:** all the noise, but "level 0" told: will it enlarge the noise? No noise, but "level 0.5" told: will it trust the blocks?

# %%
chosen = [0, 1, 2, 7][: len(prompts)]
texts = pipe.text_encoder([prompts[i] for i in chosen])
noise = randn([seeds[i] for i in chosen], (3, 64, 64), "sr_256", "aug")
x_T = randn([seeds[i] for i in chosen], (3, 256, 256), "sr_256", "x_T")

rows = []
for made, told in [(0.0, 0.0), (0.0, 0.5), (0.5, 0.0), (0.5, 0.5)]:
    seen = augment_low_res(blocks[chosen], torch.full((len(chosen),), made), noise)
    *_, last = sample(
        sr.denoiser(texts, seen, torch.full((len(chosen),), told)),
        x_T,
        sr.times(5),
        sr.log_snr_of,
        sr.config.sampler,
    )
    rows.append(last.x_0_hat.clamp(-1, 1))
    print(
        f"noise of level {made:g}, level {told:g} told: {psnr(F.avg_pool2d(rows[-1], 4), blocks[chosen]).mean():.1f} dB alike with what it was given"
    )
rows = [list(around(row, [scenes[i] for i in chosen])) for row in rows]
names = ["no noise, told 0", "no noise, told 0.5", "noise 0.5, told 0", "noise 0.5, told 0.5"]
quantize_colors(image_table(rows, names, [prompts[i] for i in chosen], cell=96))

# %% [markdown]
# With the noise but without the message no noise is enlarged; a circle becomes a cross, as it does with the message: the network can see for itself how noisy the image
# is. The message without the noise changes little. So here it is the noise itself that acts: it takes away what the message only asks to ignore.
#
# ## Exercise: augmentation by hand
#
# Write `augment_low_res`: `low_res` [b, 3, h, w] in [-1, 1], `aug_level` [b], a level for each image, `noise` as `low_res`. `cosine_log_snr(aug_level)` and
# `alpha_sigma(log_snr)` are there; what is left is to put them together.


# %%
def augment_by_hand(
    low_res: torch.Tensor, aug_level: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor: ...  # your answer


nb10.check(augment_by_hand)

# %% [markdown]
# Once it is right, the figure below is made with it; until then with the package's. From one small image, level by level: what the stage is given, and what
# it makes of it.
#
# **Predict:** which will change more from level to level, the outline or the texture?

# %%
answered = nb10.check(augment_by_hand).right
mine = augment_by_hand if answered else augment_low_res
levels = torch.tensor([0.0, 0.1, 0.3, 0.5])
row = len(prompts) - 2
seen = mine(
    generated[row].expand(4, -1, -1, -1),
    levels,
    randn([seeds[row]], (3, 64, 64), "sr_256", "aug").expand(4, -1, -1, -1),
)
x_T = randn([seeds[row]], (3, 256, 256), "sr_256", "x_T").expand(4, -1, -1, -1)
*_, last = sample(
    sr.denoiser(pipe.text_encoder([prompts[row]] * 4), seen, levels),
    x_T,
    sr.times(5),
    sr.log_snr_of,
    sr.config.sampler,
)
large = last.x_0_hat.clamp(-1, 1)

strips = [list(around(images, [scenes[row]] * 4)) for images in (seen.clamp(-1, 1), large)]
display(
    quantize_colors(
        image_table(
            strips,
            ["given, by your function" if answered else "given (exercise open)", "made of it"],
            [f"level {v:g}" for v in levels.tolist()],
            cell=192,
            frames=[[None] * 4, judge_images([prompts[row]] * 4, large)],
        )
    )
)
print(score_line(judge_images([prompts[row]] * 4, large)))

# %% [markdown]
# The texture stays, as it never was in the small image. The outline changes by a few pixels at most, though it is told less and less well.
#
# Next: [11, Prompt-to-Prompt](11_prompt_to_prompt.ipynb).
