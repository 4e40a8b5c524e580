# %% [markdown]
# # 13 Playground
#
# **Objective:** play four games with a trained denoiser that nobody trained it for, and see why each of them works, and when it does not.
#
# **Before this:** 00, 02, 09, and 12 for the blurred judge
#
# A denoiser answers one question: which clean image $\hat x_0$ do you suspect behind this noisy one? A sampler asks it again and again. Whoever stands between the two can change what is asked, or
# what is heard, and gets something new without any training: a drawing made proper, a hole filled, an image that says different things to different viewers. Nothing here is graded. Change the captions, the
# drawing, the numbers, and run the cells again.

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
from PIL import Image, ImageDraw

from imagen_mini import ImagenPipeline
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.diffusion.samplers import sample
from imagen_mini.editing.guided_sampling import repaint, repaint_callback, sdedit
from imagen_mini.editing.illusions import (
    VIEWS,
    anagram,
    color_parts,
    factorized_diffusion,
    frequency_parts,
)
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.utils.images import blur, image_to_tensor, to_image
from imagen_mini.utils.rng import randn
from imagen_mini.viz.playground import judged_rows, shapes_read
from imagen_mini.viz.style import STYLES, percent_axis, subplots

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
base = pipe.stages["base"]
n = 6  # images in each game
x_T = randn(range(n), (3, 64, 64), "base", "x_T")
times, log_snr_of, sampler = base.times(), base.log_snr_of, base.config.sampler

denoiser_of = lambda caption: base.denoiser(pipe.text_encoder([caption] * n))
last_of = lambda trajectory: list(trajectory)[-1].x_0_hat.clamp(-1, 1)

# %% [markdown]
# ## 1. SDEdit: from a drawing
#
# Draw something badly. Put noise on it, up to a time $t$: $x_t = \alpha_t\, x_{drawing} + \sigma_t\, \epsilon$. Noise drowns what is fine before what is coarse, so the wobbly edges are gone and the layout is still there. Then walk from $t$ to 0,
# here without fresh noise. The smaller $t$, the more *faithful* to the drawing; the larger, the more like an image of the caption.

# %%
show_source(sdedit)

# %%
paper = Image.new("RGB", (256, 256), "#d8d8d0")  # your drawing: change it
pen = ImageDraw.Draw(paper)
pen.polygon([(30, 140), (52, 98), (98, 92), (124, 130), (108, 176), (60, 184)], fill="#b03030")
pen.polygon([(150, 118), (222, 96), (236, 170), (160, 186)], fill="#3058b8")
pen.line([(150, 118), (222, 96), (236, 170), (160, 186), (150, 118)], fill="#202060", width=6)
drawing = image_to_tensor(paper)

matching, other = "a red circle to the left of a blue square", "a green star above a yellow ring"
print("the drawing as it is, by the parser:", judge_images([matching], drawing[None])[0])
to_image(drawing, 192)

# %% [markdown]
# Two captions: one that goes with the drawing, and one that contradicts it in everything.
#
# **Predict:** from which $t$ on does each of them get its way? The times are those of this stage, whose schedule has much noise early: at $t = 0.1$ there is already as much noise as signal.

# %%
starts = [0.0, 0.01, 0.1, 0.3, 0.5, 0.85, 1.0]
generated = {
    caption: [
        last_of(
            sdedit(
                denoiser_of(caption),
                drawing.expand(n, -1, -1, -1),
                t,
                x_T,
                times,
                log_snr_of,
                sampler,
            )
        )
        for t in starts
    ]
    for caption in (matching, other)
}
judged_rows(
    [
        (f"seed {seed}: {caption}", caption, torch.stack([of[seed] for of in generated[caption]]))
        for caption in generated
        for seed in (0, 1)
    ],
    [f"t = {t:g}" for t in starts],
    cell=80,
)

# %%
sheet, (right, distance) = subplots(
    ["realism: images that show their caption", "faithfulness: distance to the drawing"],
    "t from which the walk starts",
)
for (caption, of), style in zip(generated.items(), STYLES):
    shares = [sum(judge_images([caption] * n, images)) / n for images in of]
    right.plot(starts, shares, label=caption, **style)
    distance.plot(
        starts, [(images - drawing).square().mean().sqrt() for images in of], label=caption, **style
    )
    print(
        f"{caption}: right of {n}, from t = 0 to 1:",
        ", ".join(f"{share * n:.0f}" for share in shares),
    )
percent_axis(right)
distance.set_ylim(0, None)
distance.set_ylabel("root mean square, of pixels in [-1, 1]")
distance.legend(frameon=False, loc="lower right", fontsize=8)
sheet

# %% [markdown]
# The matching caption needs hardly any noise: a hundredth of the way, and the blobs are proper things; at a tenth they stand on one of the four backgrounds of this world. Up to $t = 0.5$ and beyond they stay near where they were drawn; at $t = 1$ they are
# anywhere. That is SDEdit's bargain: between the two lies a broad range of $t$ that is realistic *and* faithful. The contradicting caption has to fight for it: at $t = 0.01$ its colours run over the drawing's shapes, at $t = 0.1$
# and 0.3 its shapes stand in the drawing's places, side by side; at $t = 0.5$, where the layout drowns, four of six images show all that it says, and from 0.85 on all. Coarse things are drowned last, so they are kept longest.
#
# The distance jumps up at once, with hardly any noise: the gray paper and the dark outline are not of this world, and go first.
#
# **Try:** a drawing with three things and a caption of two. A caption without colours. A drawing in a colour that the world does not have.
#
# ## 2. Inpainting: what is known stays
#
# A part of an image is known (the mask is 1), the rest is to be painted. After each step, put the known part back in, with as much noise as there should be:
#
# $$x_s \leftarrow m \odot (\alpha_s\, x_{known} + \sigma_s\, \epsilon) + (1 - m) \odot x_s$$
#
# `sample` has a place for that, `after_step`.

# %%
show_source(repaint_callback)

# %% [markdown]
# First something easy: the left half holds a red circle, the caption asks for a blue square beside it.

# %%
circle = SceneObject(x=17, y=30, shape="circle", color="red", size="large", texture="solid")
known = render(Scene((circle,), "beige"), 64)
mask = torch.zeros(1, 1, 64, 64)
mask[..., :32] = 1  # 1 is known: the left half
noise = lambda *purpose: randn(range(n), (3, 64, 64), "inpaint", *purpose)

after_step = repaint_callback(known, mask, lambda step: noise("known", step), log_snr_of)
trajectory = sample(denoiser_of(matching), x_T, times, log_snr_of, sampler, after_step=after_step)
painted = mask * known + (1 - mask) * last_of(trajectory)
known_part = (mask * known).expand(n, -1, -1, -1)
print("the square is put in:", score_line(judge_images([matching] * n, painted)))
judged_rows([("known", "", known_part), (matching, matching, painted)])

# %% [markdown]
# The background goes on across the border without a seam, and the square is where the caption wants it. Now something hard: the border cuts through a thing.
#
# **Predict:** what can go wrong when half a star is known, and the caption asks for one star?
#
# In a step, the new part sees the known part but cannot influence it, and what it had painted before did not know of it well. *RePaint* takes every step several times: after the step, put noise back and take it again. Each
# time the two parts agree better.

# %%
show_source(repaint)

# %%
star = SceneObject(x=32, y=32, shape="star", color="orange", size="large", texture="solid")
known = render(Scene((star,), "beige"), 64)
one_star = "a large orange star"
rounds = [1, 3]
repainted = {
    r: last_of(repaint(denoiser_of(one_star), known, mask, x_T, times, log_snr_of, noise, rounds=r))
    for r in rounds
}
for r, images in repainted.items():
    print(f"{r} round{'s' * (r > 1)}:", score_line(judge_images([one_star] * n, images)))
    print(f"    largest change of the known part: {((images - known) * mask).abs().max():.0e}")
judged_rows(
    [
        ("known", "", (mask * known).expand(n, -1, -1, -1)),
        *((f"{r} round{'s' * (r > 1)} a step", one_star, p) for r, p in repainted.items()),
    ]
)

# %% [markdown]
# With one round half of the images have the known half *and* a whole star beside it: the model has decided early, in the noise, where its star is, and that decision does not move. With three rounds it mostly moves over and
# completes the half, though not in all (in image 5 a star stands beside it only now). Each round costs a walk. The same shows in the test of `repaint` with two correlated numbers, where the truth is known: the second, given the first, has the right mean only with many rounds.
#
# **Try:** a mask that hides the middle. A cut further to the left, so that little of the star is seen. A caption that contradicts the known part.
#
# ## 3. Anagrams: one image, two views
#
# Two captions, two ways to look: upright, and turned by 180 degrees, say. At each step both look at the same noisy image, each in its own view, and the estimates are turned back and averaged:
#
# $$\hat x_0 = \frac{1}{2} \left( \hat x_0(x_t;\, c_1) + v^{-1}\, \hat x_0(v\, x_t;\, c_2) \right)$$
#
# A view must be linear and leave noise what it is, normal and independent: moving pixels does, and so does changing the sign of all of them.

# %%
show_source(anagram)

# %% [markdown]
# First two captions that are both true of one image: upright *above*, after a quarter turn *to the left of*. Then a photographic negative: in this world's palette the negative of red is nearly cyan, and that of
# yellow nearly blue, so an image can be proper both ways.
#
# **Predict:** what happens to the size of things, and, in the first pair, to the background, of which the captions do not speak?

# %%
pairs = [
    (
        "quarter turn",
        "a red circle above a blue square",
        "a red circle to the left of a blue square",
    ),
    (
        "negative",
        "a red circle above a yellow square on a white background",
        "a cyan circle above a blue square on a black background",
    ),
]
rows = []
for name, upright, attention_mask in pairs:
    view = VIEWS[name]
    both = anagram([denoiser_of(upright), denoiser_of(attention_mask)], [VIEWS["upright"], view])
    images = last_of(sample(both, x_T, times, log_snr_of, sampler))
    rows += [
        (upright, upright, images),
        (f"{name}: {attention_mask}", attention_mask, view.there(images)),
    ]
    right = [
        a and b
        for a, b in zip(
            judge_images([upright] * n, images),
            judge_images([attention_mask] * n, view.there(images)),
        )
    ]
    print(f"{name}, right in both views:", score_line(right))
judged_rows(rows)

# %% [markdown]
# Both views agree on everything of which nobody spoke, sizes and backgrounds, because there is only one image: each estimate is made from noise that the other one has shaped, too.
#
# And now two captions that cannot both be true. A triangle turned around is still a triangle, point down, and that is no shape of this world.
#
# **Predict:** will one caption win, will it be something in between, or nothing?

# %%
upright, turned = "an orange triangle", "an orange circle"
both = anagram([denoiser_of(upright), denoiser_of(turned)], [VIEWS["upright"], VIEWS["turned"]])
images = last_of(sample(both, x_T, times, log_snr_of, sampler))
seen = VIEWS["turned"].there(images)
print("upright it is read as:", dict(shapes_read(images)))
print("turned it is read as: ", dict(shapes_read(seen)))
right = [
    a and b for a, b in zip(judge_images([upright] * n, images), judge_images([turned] * n, seen))
]
print("right in both views:", score_line(right))
judged_rows([(upright, upright, images), (f"turned: {turned}", turned, seen)])

# %% [markdown]
# Something in between: a triangle with round sides and the ghost of a circle around it, which the parser takes for a circle both ways up; the eye may see either. The paper's anagrams are like it: shapes that
# can be read in two ways. No true image of this world can. So it is also an image that fools our judge, who takes what overlaps enough: an illusion works on the one who looks.
#
# **Try:** "a large pink star" and "a large pink ring", turned. Three views at once. "upside down" for an image with its own mirror image.
#
# ## 4. Hybrids: one image, two distances
#
# From afar one sees the low frequencies only. So let one caption draw those, and another one the high ones. Any parts do that sum to the whole and are linear:
#
# $$\hat x_0 = \mathrm{low}(\hat x_0(x_t;\, c_1)) + \mathrm{high}(\hat x_0(x_t;\, c_2))$$

# %%
show_source(factorized_diffusion, frequency_parts)

# %% [markdown]
# A large red circle from afar, a large red cross from near. Where is the border between low and high? It is the width `sigma` of the blur, in pixels. To look "from afar" we blur the result by two pixels.
#
# **Predict:** with a small `sigma`, who draws almost everything?

# %%
far, near = "a large red circle", "a large red cross"
hybrids = {
    sigma: last_of(
        sample(
            factorized_diffusion([denoiser_of(far), denoiser_of(near)], frequency_parts(sigma)),
            x_T,
            times,
            log_snr_of,
            sampler,
        )
    )
    for sigma in (1.5, 2.5, 3.5)
}
for sigma, images in hybrids.items():
    both = [
        a and b
        for a, b in zip(judge_images([near] * n, images), judge_images([far] * n, blur(images, 2)))
    ]
    print(
        f"sigma {sigma}: near {dict(shapes_read(images))}, far {dict(shapes_read(blur(images, 2)))}, cross near and circle far: {sum(both)} of {n}"
    )
crosses = render(
    [
        Scene(
            (
                SceneObject(
                    x=26 + i, y=30, shape="cross", color="red", size="large", texture="solid"
                ),
            ),
            "white",
        )
        for i in range(n)
    ],
    64,
)
print("control, true crosses from afar:", dict(shapes_read(blur(crosses, 2))))
judged_rows(
    [
        row
        for sigma, p in hybrids.items()
        for row in ((f"near, sigma {sigma}", near, p), ("from afar", far, blur(p, 2)))
    ],
    cell=64,
)

# %% [markdown]
# With a small `sigma` the parser reads the circle, near and from afar; look closely, and a cross is drawn on the disc. With a large one the cross is left, with hardly a trace of the disc. In between both are there, a cross with a pale
# disc around it: in five of six the parser reads a cross near and a circle from afar, as it should. True crosses stay crosses from afar, so it is not the blur
# that makes the circle. So it works, in a narrow range of `sigma`: the world is flat, and each network pulls its estimate towards a clean image of its own caption. With photographs, where there is always some texture to hide things in, the paper's hybrids are far better.
#
# Other parts work as well. Brightness from one caption, colour from another:
#
# **Predict:** whose *shapes* will be seen?

# %%
bright, colorful = "a red circle above a blue square", "a green ring above a purple cross"
mixture = "a green circle above a purple square"
images = last_of(
    sample(
        factorized_diffusion([denoiser_of(bright), denoiser_of(colorful)], color_parts()),
        x_T,
        times,
        log_snr_of,
        sampler,
    )
)
print(f"{mixture}:", score_line(judge_images([mixture] * n, images)))
gray = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
judged_rows([(f"wanted: {mixture}", mixture, images), ("its brightness", "", gray)])

# %% [markdown]
# **What you should have seen.** Colours come from one caption, shapes mostly from the brightness of the other. But the first one's shapes show through as ghosts: the ring's hole in the circle, the cross in the square. On gray there is hardly any brightness to
# tell shapes by, and there the colours' caption draws them, too. Two images of six pass.
#
# All four games were a few lines around a denoiser that knew nothing of them. That is the lesson: a diffusion model is not a machine that makes images, but one that says what is likely. What to make of it is up to the one who asks.
#
# This is the last notebook. Back to the first: [00, tour](00_tour.ipynb).
