# %% [markdown]
# # 17 Plug-and-Play, SDEdit and masks
#
# **Objective:** see what the features of a decoder know about an image, keep the structure of an image by them, and say with masks where an image may change.
#
# **Before this:** 13 and 16
#
# Prompt-to-Prompt needs the caption of an image: its maps belong to words. Two families of methods
# need none. *Plug-and-Play* keeps what stands where by features and self-attention. *Painted masks*
# say where the image may change, and all else is put back.

# %%
import torch

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb17
from imagen_mini.course.notebook import judged_table, setup_notebook, show_source
from imagen_mini.editing.blending import DiffEditMask, LocalBlend
from imagen_mini.editing.feature_injection import SourceFeatures
from imagen_mini.editing.given_images import BlendedDiffusion, Imagic
from imagen_mini.editing.plug_and_play import PlugAndPlay, SourceSelfAttention
from imagen_mini.editing.prompt_to_prompt import Replace
from imagen_mini.evaluation.edit_measures import changed_outside, seam, structure_distance
from imagen_mini.evaluation.feature_maps import (
    as_colors,
    decoder_features,
    explained_by,
    kinds_of_places,
    principal_components,
)
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.utils.rng import randn
from imagen_mini.viz.image_grid import image_table, quantize_colors

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
base = pipe.stages["base"]
options = {"stages": ("base",), "output_type": "pt", "progress": False, "num_inference_steps": 16}


def thing(shape: str, color: str, x: int, y: int, size: str = "large") -> SceneObject:
    return SceneObject(x=x, y=y, shape=shape, color=color, size=size, texture="solid")


scenes = [
    Scene((thing("circle", "red", 20, 30), thing("square", "blue", 46, 34, "small")), "gray"),
    Scene((thing("circle", "green", 44, 42), thing("star", "blue", 18, 18)), "gray"),
    Scene((thing("square", "red", 18, 44), thing("star", "yellow", 46, 20)), "white"),
    Scene((thing("ring", "purple", 32, 32),), "beige"),
]
images = render(scenes, 64)

# %% [markdown]
# ## 1. What features know
#
# While the network denoises an image, each residual block of its decoder has features at every
# place. They have many channels, so we project them on the three directions in which they vary
# most, for *all images together*, and show these as red, green and blue. If parts of one kind get
# one colour in every image, the features say what is there. Tumanyan et al. (2022) show this for
# photographs of people, horses and chairs.

# %%
show_source(principal_components)

# %% [markdown]
# **Predict:** there are rows with much noise ($t = 0.5$) and with little ($t = 0.05$), for three
# grids. Where will a circle have the same colour in the first two images, although it is red in one
# and green in the other?

# %%
noise = randn(range(len(images)), (3, 64, 64), "features")
nothing = pipe.text_encoder([""]).null()  # no caption is needed
rows, names = [list(images)], ["the images"]
for t in (0.5, 0.05):
    for block, features in decoder_features(base, nothing, images, t, noise).items():
        components, _ = principal_components(features)
        rows.append(list(as_colors(components)))
        size = components.shape[-1]
        names.append(f"t = {t:g}, {block}, {size} x {size}")
        kinds = {what: kinds_of_places(scenes, size, what) for what in ("shape", "color")}
        kinds |= {"object or background": (kinds["shape"] > 0).long()}
        due = {what: explained_by(components, of) for what, of in kinds.items()}
        print(f"{names[-1]:32} due to", ", ".join(f"{what} {of:.0%}" for what, of in due.items()))
quantize_colors(image_table(rows, names, [f"image {i}" for i in range(len(images))], cell=104))

# %% [markdown]
# With little noise the grid in the middle, 16 x 16, tells what is at a place best; with much noise
# all grids know less of it, and follow the background and the distance to the rim. The finest grid
# shows the background's colour, and stripes that no image has. Most of what 16 x 16 tells is object
# against background, and colour explains as much as shape. So the features say *where something
# stands*; they do not part its shape from its colour. That is enough for an edit that keeps places.
#
# ## 2. Plug-and-Play
#
# Invert the image (notebook 16), without a caption. Then sample with the target's caption from the
# same noise, and let the target take from the source, step by step,
#
# - the **features** of coarse blocks, in the first 80 % of the steps;
# - **queries and keys** of self-attention, in the first half: $\text{softmax}(q k^\top / \sqrt d)$
#   says which places belong together.

# %%
show_source(SourceFeatures, SourceSelfAttention)

# %% [markdown]
# **Predict:** the caption asks for another shape in another colour. With features on 8 x 8, up to
# 16 x 16, up to 32 x 32: when does the old shape stay? Prompt-to-Prompt is beside it, which is told
# the caption of the source; before it stands what that caption does without an injection.

# %%
given, source = images[:1], "a red circle to the left of a blue square"
target = "a green star to the left of a blue square"
edits = {
    "no injection": ("", None),
    "caption, no injection": (source, None),
    "Prompt-to-Prompt": (source, Replace()),
    **{f"features to {n} x {n}": ("", PlugAndPlay(0.8, 0.5, size=n)) for n in (8, 16, 32)},
}
edited = [
    pipe.edit(given, text, target, "direct", edit=edit, **options).images[1]
    for text, edit in edits.values()
]
for name, image in zip(edits, edited):
    print(f"{name:22} distance of the structure {structure_distance(given[0], image):.3f}")
judged_table([(target, target, torch.stack([given[0], *edited]))], ["given", *edits])

# %% [markdown]
# Here the layout stays even without an injection: the noise was found without a caption, and the
# new one agrees about the places. Features up to 16 x 16 bring the structure a little nearer to
# that of the given image. The old shape stays nowhere. On 32 x 32 features carry the look as well: the
# star is half of the old colour, and the caption is not shown any more. "All features" is not the
# best choice. With the caption of the source the square is large: that is lost by the inversion
# (notebook 16), and attention does not bring it back. It keeps the star's size and place, which
# without it are others. One edit is an example and no measurement:
# `python -m sample.plug_and_play` measures it over grids and steps.
#
# ### Exercise: self-similarity
#
# How much *structure* do two images share, if their colours may differ? Take features $f_i$ at
# every place $i$. The matrix $S_{ij} = \cos(f_i, f_j)$ says which places belong together, and not
# what they look like. The distance of structure above is the mean square difference of two such
# matrices, as a root. Its features are those of a small classifier of scenes, not of the decoder.
# Write $S$ for features [b, c, h, w]: [b, h w, h w].


# %%
def self_similarity(features: torch.Tensor) -> torch.Tensor: ...  # your answer


nb17.check(self_similarity)

# %% [markdown]
# **Predict:** three pairs of images: the circle in another colour, the circle moved, the circle
# gone. Order them by their distance of structure.

# %%
first, rest = scenes[0].objects
changed = {
    "another colour": Scene((thing("circle", "green", first.x, first.y), rest), "gray"),
    "moved": Scene((thing("circle", "red", first.x, first.y - 14), rest), "gray"),
    "gone": Scene((rest,), "gray"),
}
for name, scene in changed.items():
    print(f"{name:16} {structure_distance(given[0], render(scene, 64)[0]):.3f}")

# %% [markdown]
# ## 3. SDEdit: strength as a slider
#
# Notebook 13 used SDEdit on a drawing: noise up to a time, then sampling with the new caption. As a
# method for given images it needs nothing: no caption of the source, no inversion, no mask. It has
# one number.
#
# **Predict:** at which strength is the circle green? At which has it moved?

# %%
green = "a green circle to the left of a blue square"
strengths = [0.05, 0.15, 0.3, 0.6]
slid = [pipe.edit(given, "", green, "sdedit", strength=s, **options).images[1] for s in strengths]
judged_table(
    [(green, green, torch.stack([given[0], *slid]))],
    ["given", *(f"strength {s:g}" for s in strengths)],
)

# %% [markdown]
# With the least noise the colour is not quite changed. At 0.15 the circle has moved by a pixel or
# two, at 0.3 by more, and from there on the square is another one: the range in which SDEdit works
# is narrow here. The schedule of this network is shifted towards
# noise; without a shift the range is at larger strengths.
#
# ## 4. Masks
#
# A mask ends the compromise: inside anything may happen, outside nothing does. It comes from three
# sources:
#
# - **painted** by a user;
# - **from a word**: where the source's caption attends to it (`LocalBlend`);
# - **from two captions**: where the network's estimates for them disagree (`DiffEditMask`).
#
# Blended diffusion puts the image back after every step, with as much noise as the step has. So the
# inside is generated in sight of the outside.

# %%
show_source(BlendedDiffusion)

# %% [markdown]
# **Predict:** is any of the masks too small for a *star* in the place of the circle? Which of the
# two methods has the larger seam?

# %%
star = "a green star to the left of a blue square"
painted = torch.zeros(64, 64, dtype=torch.bool)
painted[14:46, 4:36] = True
masks = {"painted": painted, "the word circle": LocalBlend("circle"), "captions": DiffEditMask()}
rows = []
for method in ("blend", "repaint"):
    made = [
        pipe.edit(given, source, star, method, mask=mask, **options).images[1]
        for mask in masks.values()
    ]
    rows.append((method, star, torch.stack([given[0], *made])))
    outside, jump = changed_outside(given[0], made[0], painted), seam(given[0], made[0], painted)
    print(f"{method}, painted: {outside:.1%} of the outside changed, seam {jump:+.3f}")
judged_table(rows, ["given", *masks])

# %% [markdown]
# The painted mask and that of the word leave room for the star. That of the two captions does not
# quite: arms or feet are cut off, though the parser is content. With a painted mask the outside is
# the given image to the last bit. The price: if the inside chooses another shade of the background,
# there is a seam. RePaint takes each step several times, so that both sides agree better, for as
# many times the cost.
#
# ### Exercise: what is wrong with this edit?
#
# You get the given image, an edit and the mask, where the image may change. Return one of `"fine"`,
# `"nothing changed"`, `"mask inverted"` (the inside stayed and the outside changed) and
# `"outside not put back"` (both changed). Values that are less than 1 / 128 apart are saved as the
# same, so they did not change.


# %%
def what_is_wrong(source: torch.Tensor, edited: torch.Tensor, mask: torch.Tensor) -> str: ...


nb17.check_diagnosis(what_is_wrong)

# %% [markdown]
# Once it is correct, it examines four edits. **Predict** what it says of each.

# %%
cases = {
    "blend": pipe.edit(given, source, star, "blend", mask=painted, **options).images[1],
    "blend, ~mask": pipe.edit(given, source, star, "blend", mask=~painted, **options).images[1],
    "sdedit, 0": pipe.edit(given, source, star, "sdedit", strength=0, **options).images[1],
    "ddim": pipe.edit(given, source, star, "ddim", **options).images[1],
}
answered = nb17.check_diagnosis(what_is_wrong).correct
for name, image in cases.items():
    print(f"{name:14}", what_is_wrong(given[0], image, painted) if answered else "(exercise open)")
judged_table([(star, star, torch.stack([given[0], *cases.values()]))], ["given", *cases])

# %% [markdown]
# ## 5. Imagic: fit the network to the image
#
# All methods so far keep the layout. *Imagic* (Kawar et al., 2022) does not: it looks for the text
# that describes the image best, trains a copy of the network to generate the image from that text,
# and then moves the text towards the target's. The object may take another size or place. It takes
# gradients, so it is the slowest one here.
#
# **Predict:** the text goes from the image's own ($\eta = 0$) to the target's ($\eta = 1$). When
# does the ring become a star? The target says nothing of its colour: beside it stands what the
# network makes of the same caption and noise before it is fitted.

# %%
ring, etas = images[3:], [0.4, 0.9]
shown, labels = [ring[0], pipe("a star", seed=0, **options).images[0]], ["given", "not fitted"]
for eta in etas:
    how = Imagic(eta, network_steps=20)
    out = pipe.edit(ring, "", "a star", how, **options).images
    shown += [out[0], out[1]] if eta == etas[0] else [out[1]]
    labels += ["eta = 0", f"eta = {eta:g}"] if eta == etas[0] else [f"eta = {eta:g}"]
judged_table([("a star", "a star", torch.stack(shown))], labels)

# %% [markdown]
# At $\eta = 0$ it is a ring of the right colour on the right background, but not in its place: few
# steps of training have to do. Near the target's text it is a star. Its colour and its background
# are those of the given image, about which the caption says nothing: the network that was not fitted
# gives another colour on another background.
#
# **Which method to take?** On thirteen edits of rendered images, SDEdit at 0.15 and `edict` with
# attention keep the layout and show the new prompt most often, in 10. Blending with a painted mask
# does so in 4, but it alone keeps the outside to the last bit. Imagic does so in none: it is for
# objects that are to take another place. `python -m sample.image_edits` compares them all and says
# what each one needs and costs; the table is in `sample/IMAGE_EDITING.md`.
#
# Back to the [playground](13_playground.ipynb), or to [16,
# inversion](16_editing_given_images.ipynb).
