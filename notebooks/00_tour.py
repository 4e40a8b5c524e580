# %% [markdown]
# # 00 Tour: a caption becomes 256 pixels
#
# **Objective:** follow one caption through every part of the cascade, and see which part decides what.
#
# **Before this:** nothing but PyTorch
#
# An Imagen-style cascade turns a caption into an image in three stages:
#
# 1. a **frozen text encoder** (T5) turns words into vectors;
# 2. a **base diffusion model** turns 64 x 64 pixels of noise into a small image, conditioned on the
#    words at every step;
# 3. a **super-resolution diffusion model** turns 256 x 256 pixels of noise into a large image,
#    conditioned on the small image and on the words.
#
# We run them one at a time and inspect what passes from one to the next. The networks here are
# small. They were trained on a synthetic world of plain shapes. That world has a *parser* that
# reads an image back into a list of objects. So whether an image shows its caption is not a matter
# of taste: it is computed.

# %%
import torch

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.stage import augment_low_res
from imagen_mini.course.exercises import nb00
from imagen_mini.course.notebook import setup_notebook, show_judged, show_source
from imagen_mini.diffusion.samplers import sample
from imagen_mini.evaluation.scoring import describe_scene, judge_image, judge_images
from imagen_mini.scenes.parse import parse_image
from imagen_mini.utils.images import to_image
from imagen_mini.utils.rng import randn
from imagen_mini.viz.image_grid import image_table
from imagen_mini.viz.style import STYLES, subplots

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
caption, seed = "a striped red circle to the left of a blue square", 3

# %% [markdown]
# What are the parts? The text encoder is frozen: it was trained on text alone, before any image was
# used. The two stages are diffusion models of the same class.

# %%
for name, part in [("text encoder", pipe.text_encoder), *pipe.stages.items()]:
    print(f"{name:13} {sum(p.numel() for p in part.parameters()) / 1e6:5.2f} million parameters")

# %% [markdown]
# ## 1. Words become vectors
#
# The tokenizer splits the caption into *tokens*, which are words or pieces of words. T5 returns one
# vector for each token, and this vector depends on all other tokens. Nothing is pooled: the U-Net
# can attend to every one of these vectors.

# %%
tokens = pipe.text_encoder.tokenize_prompt(caption)
text = pipe.text_encoder(caption)
print(" | ".join(tokens.pieces))
print(
    f"emb {list(text.emb.shape)} (prompts, tokens, width), mask {text.mask.sum().item()} real tokens of {text.mask.numel()}"
)

# %% [markdown]
# ## 2. Noise becomes a small image
#
# Sampling runs from time $t = 1$ (noise) to $t = 0$ (image). This is the *reverse process*. At
# every step the U-Net gets the noisy image
#
# $$x_t = \alpha_t\, x_0 + \sigma_t\, \epsilon$$
#
# and predicts the clean image, $\hat x_0$. Then a *sampler* takes a small step in that direction,
# and the network is called again. The sequence of all $x_t$ is the *sampling trajectory*.
#
# **Predict:** the trajectory has 32 steps. In which of them will $\hat x_0$ first show two objects?
# In which will it show the correct shapes? Does the layout come before the colours?

# %%
base = pipe.stages["base"]
denoise = base.denoiser(text)
x_T = randn(
    [seed], (3, 64, 64), "base", "x_T"
)  # all noise is a function of the seed and of its purpose
states = list(
    sample(
        denoise,
        x_T,
        base.timesteps(),
        base.schedule,
        base.config.sampler,
        lambda step: randn([seed], (3, 64, 64), "base", "step", step),
        eta=base.config.eta,
    )
)  # a little fresh noise at every step

shown = [0, 1, 3, 5, 8, 11, 14, 18, 24, 31]
image_table(
    [[states[i].x[0].clamp(-1, 1) for i in shown], [states[i].x_0_hat[0] for i in shown]],
    ["after the step: x", "predicted image: x_0_hat"],
    [f"step {i}\nt {states[i].t:.2f}" for i in shown],
    cell=96,
    borders=[[None] * len(shown), [judge_images([caption], states[i].x_0_hat)[0] for i in shown]],
)

# %% [markdown]
# The frame in the lower row is green where the parser finds the caption's scene in the image, and
# orange where it does not. At first $\hat x_0$ is a blur: it is the mean of all clean images that
# are possible given this noisy one. Red is on the left and blue on the right from the very first
# step, before there is any shape. The words say so. Then the positions become fixed, then the
# outlines. The last $\hat x_0$ is the output of the base stage.
#
# The whole sampling loop is this generator. The samplers themselves are the subject of notebook 09.

# %%
show_source(sample)

# %% [markdown]
# ## 3. A small image becomes a large one
#
# The second stage does the same on 256 x 256 pixels, but it is also conditioned on the small image.
# A little noise is added to the small image first (*noise-conditioning augmentation*, `aug_level`).
# So the stage does not trust every error of the base stage. It is told the level of this noise.
#
# **Predict:** the caption says *striped*. The stripes are finer than a pixel of the small image.
# Where does the second stage learn of them?

# %%
sr = pipe.stages["sr_256"]
small = states[-1].x_0_hat.clamp(-1, 1)
level = torch.tensor([sr.config.aug_level])
seen = augment_low_res(small, level, randn([seed], (3, 64, 64), "sr_256", "aug"))
x_T = randn([seed], (3, 256, 256), "sr_256", "x_T")
sr_states = list(
    sample(
        sr.denoiser(text, seen, level),
        x_T,
        sr.timesteps(),
        sr.schedule,
        sr.config.sampler,
        lambda step: randn([seed], (3, 256, 256), "sr_256", "step", step),
        eta=sr.config.eta,
    )
)
large = sr_states[-1].x_0_hat.clamp(-1, 1)

shown = [0, 1, 3, 5, 9]
image_table(
    [[small[0], seen[0].clamp(-1, 1), *(sr_states[i].x_0_hat[0] for i in shown)]],
    [""],
    ["the base's image", "input of this stage", *(f"x_0_hat, step {i}" for i in shown)],
    cell=192,
)

# %% [markdown]
# The base's image cannot show a texture: in this world all four textures have the same mean colour
# within one of its pixels. The stage took the stripes from the caption. That is why
# super-resolution needs the text, too. (Only the circle was called *striped*. The caption says
# nothing of the square's texture, so the model is free to choose one, and the parser accepts any.)
#
# ## 4. The verdict

# %%
(parsed,) = parse_image(large)
print("read from the image:", describe_scene(parsed.scene) if parsed.scene else parsed.problems)
print("the caption:          ", caption)
print("verdict:              ", judge_image(caption, large[0]))
to_image(large[0])

# %% [markdown]
# ## All at once
#
# `pipe(...)` does all of the above, for any number of prompts. Here are eight, with one seed each.
# Some are hard: *three* objects; two objects without a stated relation; and a yellow cross, which
# no training image showed.

# %%
prompts = [
    "a large striped orange star on a black background",
    "a yellow ring above a purple cross",
    "three green circles",
    "a small pink triangle below a large cyan square",
    "a checkered red square on a white background",
    "a blue ring and a yellow star",
    "a yellow cross",
    "a purple star left of a green ring on a gray background",
]
out = pipe(prompts, seed=list(range(8)), progress=False)
show_judged(prompts, out.stages["sr_256"], columns=4)
print(
    ", ".join(
        f"{name}: {seconds:.1f} s for {len(prompts)} images"
        for name, seconds in out.seconds.items()
    )
)

# %% [markdown]
# Most of them should be correct. In the others, look for what the parser objects to: at 256 pixels a
# small bump on an outline is enough. The README's table says how often each kind of caption is
# correct, over 30 seeds.
#
# ## Exercise: when is an image decided?
#
# Take the verdict on $\hat x_0$ after every step. An image is *decided* at the first step from
# which on every verdict is correct. Write that function. If the last verdict is incorrect, return
# the number of steps.


# %%
def decided_at(verdicts: list[bool]) -> int: ...  # your answer


nb00.check(decided_at)

# %% [markdown]
# With it, the figure below shows how many of 32 images are decided after each step, for two kinds
# of captions. Until you have answered, it shows how many estimates are correct after each step,
# whether they stay so or not. **Predict** first: which is decided later, one object or two?

# %%
from imagen_mini.evaluation.benchmark import benchmark

answered = nb00.check(decided_at).correct
fig, (ax,) = subplots(
    ["decided images" if answered else "images whose estimate is correct (exercise open)"], "step"
)
for category, style in zip(("one object", "positional"), STYLES):
    prompts = [c.text for _, _, c in benchmark(16, categories=[category])]
    by_step = []  # for each step, the verdicts of all images
    pipe(
        prompts,
        seed=list(range(16)),
        stages=("base",),
        progress=False,
        on_step=lambda _, state, p=prompts, v=by_step: v.append(judge_images(p, state.x_0_hat)),
    )
    steps, by_image = range(len(by_step)), list(zip(*by_step))
    done = [
        sum(decided_at(list(v)) <= i if answered else v[i] for v in by_image) / len(prompts)
        for i in steps
    ]
    ax.plot(steps, done, label=category, **style)
    print(
        f"{category}: {done[-1]:.0%} correct at the end, half of these after step {next(i for i in steps if done[i] >= done[-1] / 2)}"
    )
ax.set_ylim(0, 1)
ax.set_ylabel("share of 16 images")
ax.legend(frameon=False)
fig

# %% [markdown]
# **What you should have seen.** Half of the images are decided after two thirds of the steps, and
# hardly any before the middle. The parser needs sharp outlines, and these come in the second half.
# In the strip above, the layout and the colours of the objects came in the first half. (The
# background took until the middle: after step 8 it was still beige, and from step 11 on it is
# white.) Notebook 11 builds on this: to keep a layout, an edit has to control the early steps. Its
# experiments show that this is necessary, but not sufficient.
#
# Next: [01, noise schedules](01_noise_schedules.ipynb).
