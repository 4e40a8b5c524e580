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
# 2. a **base diffusion model** turns 64 x 64 pixels of noise into a small image, reading the words at every step;
# 3. a **super-resolution diffusion model** turns 256 x 256 pixels of noise into a large image, reading the small one and the words.
#
# We run them one at a time and look at what goes from one to the next. The networks here are small and were trained on a world of plain shapes. That world has a
# *parser* that reads an image back into a list of things, so whether an image shows its caption is not a matter of taste: it is computed.

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
# What is in the box? The text encoder is frozen: it was trained on text alone, before there was any image. The two stages are diffusion models of the same class.

# %%
for name, part in [("text encoder", pipe.text_encoder), *pipe.stages.items()]:
    print(f"{name:13} {sum(p.numel() for p in part.parameters()) / 1e6:5.2f} million parameters")

# %% [markdown]
# ## 1. Words become vectors
#
# The tokenizer cuts the caption into *pieces*, and T5 gives each piece a vector that depends on all the others. Nothing is pooled: the U-Net will look at
# every one of these vectors.

# %%
tokens = pipe.text_encoder.tokens(caption)
text = pipe.text_encoder(caption)
print(" | ".join(tokens.pieces))
print(
    f"emb {list(text.emb.shape)} (prompts, pieces, width), mask {text.mask.sum().item()} real pieces of {text.mask.numel()}"
)

# %% [markdown]
# ## 2. Noise becomes a small image
#
# A diffusion model walks from time $t = 1$ (noise) to $t = 0$ (image). At every step the U-Net looks at the noisy image
#
# $$x_t = \alpha_t\, x_0 + \sigma_t\, \epsilon$$
#
# and says what clean image it suspects behind it, $\hat x_0$. Then a *sampler* takes a small step in that direction, and asks again.
#
# **Predict:** the walk has 32 steps. In which of them will $\hat x_0$ first show two things? In which the right shapes? Does the layout come before the colours?

# %%
base = pipe.stages["base"]
denoise = base.denoiser(text)
x_T = randn(
    [seed], (3, 64, 64), "base", "x_T"
)  # all randomness here is a function of the seed and of what it is for
states = list(
    sample(
        denoise,
        x_T,
        base.times(),
        base.log_snr_of,
        base.config.sampler,
        lambda step: randn([seed], (3, 64, 64), "base", "step", step),
        eta=base.config.eta,
    )
)  # a little fresh noise at every step

shown = [0, 1, 3, 5, 8, 11, 14, 18, 24, 31]
image_table(
    [[states[i].x[0].clamp(-1, 1) for i in shown], [states[i].x_0_hat[0] for i in shown]],
    ["after the step: x", "suspected image: x_0_hat"],
    [f"step {i}\nt {states[i].t:.2f}" for i in shown],
    cell=96,
    frames=[[None] * len(shown), [judge_images([caption], states[i].x_0_hat)[0] for i in shown]],
)

# %% [markdown]
# The lower row is framed in green where the parser reads the caption's scene from it, in orange where it does not. At first $\hat x_0$ is a blur: the mean of all images
# that this noise could hide. Red is left and blue is right from the very first step, before there is any shape: the words say so. Then places settle, then outlines.
# What it says at the end is the base stage's image.
#
# The whole walk is this generator; the samplers themselves are notebook 09.

# %%
show_source(sample)

# %% [markdown]
# ## 3. A small image becomes a large one
#
# The second stage does the same on 256 x 256 pixels, but it is shown the small image. On purpose not the clean one: a little noise is added first
# (*noise-conditioning augmentation*, `aug_level`), so that the stage does not trust the base's last mistake, and it is told how much.
#
# **Predict:** the caption says *striped*. The stripes are finer than a pixel of the small image. Where does the second stage learn of them?

# %%
sr = pipe.stages["sr_256"]
small = states[-1].x_0_hat.clamp(-1, 1)
level = torch.tensor([sr.config.aug_level])
seen = augment_low_res(small, level, randn([seed], (3, 64, 64), "sr_256", "aug"))
x_T = randn([seed], (3, 256, 256), "sr_256", "x_T")
sr_states = list(
    sample(sr.denoiser(text, seen, level), x_T, sr.times(), sr.log_snr_of, sr.config.sampler)
)
large = sr_states[-1].x_0_hat.clamp(-1, 1)

shown = [0, 1, 3, 5, 9]
image_table(
    [[small[0], seen[0].clamp(-1, 1), *(sr_states[i].x_0_hat[0] for i in shown)]],
    [""],
    ["the base's image", "what this stage is shown", *(f"x_0_hat, step {i}" for i in shown)],
    cell=192,
)

# %% [markdown]
# The base's image cannot show a texture: in this world all four have the same mean colour within one of its pixels. The stage read it in the caption. That is
# why super-resolution needs the text, too.
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
# `pipe(...)` does the above, for any number of prompts. Here are eight, one seed each. Some are hard: *three* things, two things of which nobody says where they
# are, a yellow cross, which no training image ever showed.

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
# All or nearly all of them should be right; the README's table says how often for each kind of caption, over 30 seeds.
#
# ## Exercise: when is an image decided?
#
# Take the verdict on $\hat x_0$ after every step. An image is *decided* at the first step from which on every verdict is right. Write that function; if the last
# verdict is wrong, return the number of steps.


# %%
def decided_at(verdicts: list[bool]) -> int: ...  # your answer


nb00.check(decided_at)

# %% [markdown]
# With it, the figure below shows how many of 32 images are decided after each step, for two kinds of captions. Until you have answered, it shows how many estimates are right
# after each step, whether they stay so or not. **Predict** first: which is decided later, one thing or two?

# %%
from imagen_mini.evaluation.benchmark import benchmark

answered = nb00.check(decided_at).right
sheet, (panel,) = subplots(
    ["decided images" if answered else "images whose estimate is right (exercise open)"], "step"
)
for category, style in zip(("one object", "positional"), STYLES):
    prompts = [c.text for _, _, c in benchmark(16, categories=[category])]
    by_step = []  # of each step, the verdicts of all images
    pipe(
        prompts,
        seed=list(range(16)),
        stages=("base",),
        progress=False,
        on_step=lambda _, state: by_step.append(judge_images(prompts, state.x_0_hat)),
    )
    steps, by_image = range(len(by_step)), list(zip(*by_step))
    done = [
        sum(decided_at(v) <= i if answered else v[i] for v in by_image) / len(prompts)
        for i in steps
    ]
    panel.plot(steps, done, label=category, **style)
    print(
        f"{category}: {done[-1]:.0%} right at the end, half of these after step {next(i for i in steps if done[i] >= done[-1] / 2)}"
    )
panel.set_ylim(0, 1)
panel.legend(frameon=False)
sheet

# %% [markdown]
# **What you should have seen.** Half of the images are decided after two thirds of the steps, and hardly any before the middle: the parser wants outlines, and these come in the second half, while
# the layout and the colours of the things, in the strip above, came in the first. (The background took until the middle: after step 8 it was still beige, from step 11 on it is white.) Notebook 11 lives on this: to keep a layout, an edit must hold on to the early steps.
#
# Next: [01, noise schedules](01_noise_schedules.ipynb).
