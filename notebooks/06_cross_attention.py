# %% [markdown]
# # 06 Cross-attention
#
# **Objective:** see which locations attend to each word, layer by layer and step by step, compare these maps with the true objects, and change an image by changing them.
#
# **Before this:** 04, 05
#
# How do vectors of words get into an image? Every spatial location of the grid has a *query* vector
# $q$. Every token of the caption has a *key* $k$, which is compared with the queries, and a *value*
# $v$, which is passed on. A location compares its query with all keys, and takes the mean of the
# values with these weights:
#
# $$\text{probs} = \text{softmax}\!\left(\frac{q\,k^T}{\sqrt d}\right), \qquad \text{out} = \text{probs}\; v$$
#
# A row of `probs` says how one location divides its attention among the words. A **column**, laid
# out as an image, says which locations attend to one word: the *attention map* of the word. No
# label told the network where its words belong. It was trained only on captions and images.

# %%
import torch
import torch.nn.functional as F

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb06
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.diffusion.samplers import sample
from imagen_mini.editing.attention_interventions import (
    QKVRecorder,
    TokenColumnMixer,
    column_mask_matrices,
    column_swap_matrices,
    replace_words,
)
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.localization import (
    attention_iou,
    chance_iou,
    localization_table,
    measure_localization,
)
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.models.attention import attention_probs
from imagen_mini.models.control import AttentionControl
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.render import masks
from imagen_mini.utils.rng import randn
from imagen_mini.viz.attention_maps import overlay_heat, plot_localization, token_labels
from imagen_mini.viz.image_grid import as_jpeg, image_table
from imagen_mini.viz.style import line_style, subplots

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
base = pipe.stages["base"]
for layer in base.net.attention_layers:
    print(
        f"{layer.site.name:12} {layer.site.size:2} x {layer.site.size:<2} locations, {layer.heads} heads"
    )

# %% [markdown]
# ## 1. The equation, and the fast kernel
#
# In *self*-attention, locations attend to locations. In *cross*-attention, locations attend to
# words. This notebook is about the second. Here is the equation as the package has it:

# %%
show_source(attention_probs)

# %% [markdown]
# During sampling, the network does not call this function. It needs only the result, not the
# probabilities, and PyTorch's fused kernel `scaled_dot_product_attention` (SDPA) computes that
# without storing them. If the maps are to be meaningful, the two have to be the same function. We
# test it on real queries, keys and values, recorded by an `AttentionControl`: an object to which
# the network passes its q, k, v and, if requested, its probabilities.

# %%
show_source(AttentionControl)

# %%
prompts = ["a red circle above a blue square", "a ring"]  # two lengths, so that there is padding
text = pipe.text_encoder(prompts)
mask = text.mask[:, None, None, :]  # [b, 1, 1, keys]
catch = QKVRecorder()
denoise = base.denoiser(text, control_at=lambda t: catch)
with torch.no_grad():
    denoise(randn([3, 3], (3, 64, 64), "base", "x_T"), base.timesteps()[0])  # one step is enough

for layer in base.net.attention_layers:
    if layer.site.kind == "cross":
        q, k, v = catch.recorded[layer.site.name]
        far = (
            (
                attention_probs(q, k, mask) @ v
                - F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            )
            .abs()
            .max()
        )
        unmasked = attention_probs(q, k, None)[1, :, :, text.mask[1].sum() :].sum(-1).mean()
        print(
            f"{layer.site.name:12} q {list(q.shape)}, k {list(k.shape)}: differ by {far:.0e}, values up to {v.abs().max():.1f}; "
            f'without the mask "a ring" would give {unmasked:.0%} to padding'
        )

# %% [markdown]
# They differ by rounding error. And the mask matters here, too: padded keys are no words, but
# without the mask they would get a large part of the attention of the shorter caption.
#
# ## 2. Which layer attends to what?
#
# `AttentionStore` is an `AttentionControl` that requests the probabilities at every step and
# records them. Pass it to the pipeline as `record=`. First the mean over all steps and heads.
#
# **Predict:** there are eleven layers that attend to words, on grids from 32 x 32 down to 8 x 8. On
# which will "red" find the red object best? And "circle"?

# %%
caption, seed = "a red circle above a blue square", 3
maps, estimates = AttentionStore(), {}
out = pipe(
    caption,
    seed=seed,
    attention_store=maps,
    stages=("base",),
    progress=False,
    on_step=lambda _, state: estimates.update({state.t: state.x_0_hat[0]}),
)
image = out.stages["base"][0]
tokens, names = maps.tokens[0], token_labels(maps)
print("verdict:", "correct" if judge_images([caption], image[None])[0] else "incorrect")

pieces = [i for i, name in enumerate(names) if name != "a"]
rows = [
    [image] + [overlay_heat(image, maps.of_tokens([i], site=site.name)) for i in pieces]
    for site in maps.sites
]
as_jpeg(
    image_table(
        rows,
        [f"{site.name[:-6]}, {site.size} x {site.size}" for site in maps.sites],
        ["image", *(names[i] for i in pieces)],
        cell=96,
    )
)

# %% [markdown]
# Each map has its own scale: bright is where *this* token gets most. Compare the rows of a column.
# The maps of the colours lie on their objects in the layers of the finest grid, `down0` and above
# all `up0`. Those of the shapes lie on or around objects in `down1`. On the 8 x 8 grids an object
# covers only a location or two, so little can be seen. Four layers there, those with `block` in
# their names, are bright everywhere: each location gives all tokens the same share, or nearly, so
# the output of such a layer is the mean of all words. Other maps are bright around the objects, on
# the background, or on one side of the image. Section 5 measures what is only visible here.
#
# ## 3. And which head?
#
# A layer has several heads, each with separate queries, keys and values. **Predict:** do they all
# attend to the same?

# %%
shown = [
    ("red", "up0.cross"),
    ("blue", "up0.cross"),
    ("circle", "down1.cross"),
    ("square", "down1.cross"),
    ("above", "mid.cross"),
]
heads = max(maps.edited[maps.times[0]][name].shape[1] for _, name in shown)
rows = []
for word, name in shown:
    n = maps.edited[maps.times[0]][name].shape[1]
    rows.append(
        [
            overlay_heat(image, maps.word_map(word, site=name, head=h)) if h < n else None
            for h in range(heads)
        ]
    )
as_jpeg(
    image_table(
        rows,
        [f"{word}, {name[:-6]}" for word, name in shown],
        [f"head {h}" for h in range(heads)],
        cell=88,
    )
)

# %%
(parsed,) = parse_image(image[None])
truth = (
    {o.shape: obj for o, obj in zip(parsed.scene.objects, masks(parsed.scene))}
    if parsed.scene
    else {}
)
for (word, name), obj in zip(shown[:4], ("circle", "square", "circle", "square")):
    if obj in truth:
        heats = [
            maps.word_map(word, site=name, head=h)
            for h in range(maps.edited[maps.times[0]][name].shape[1])
        ]
        each = ", ".join(f"{attention_iou(heat, truth[obj]):.0%}" for heat in heats)
        chance = chance_iou(truth[obj], len(heats[0]))
        print(
            f"{word:7} in {name:12} overlaps with the {obj}, head by head: {each}; a map that knows nothing: {chance:.0%}"
        )

# %% [markdown]
# **What you should have seen.** Heads divide the work, but not by a simple rule: of one word, one
# head may cover its object, another the edge, and another the background around it. A mean over
# heads is a rough summary, useful because one need not know beforehand which head to choose. The
# number is the *intersection over union* of two sets of locations: those of the object, whose
# position the parser knows exactly, and those where the map is highest, as many as the object
# covers:

# %%
show_source(attention_iou)

# %% [markdown]
# ## 4. Step by step
#
# **Predict:** sampling runs from pure noise to the image. Are the maps there from the first step
# on, or do they follow the image?

# %%
times = [maps.times[i] for i in (0, 3, 6, 9, 12, 15, 19, 24, 31)]
rows, row_names = [[estimates[t] for t in times]], ["predicted image"]
for word, name in [*shown, (None, "up0.cross")]:
    heats = [
        maps.word_map(word, site=name, times=[t])
        if word
        else maps.of_tokens([len(names) - 1], site=name, times=[t])
        for t in times
    ]
    brightest = max(heat.max().item() for heat in heats)  # one scale for the whole row
    rows.append([overlay_heat(estimates[t], heat, brightest) for t, heat in zip(times, heats)])
    row_names.append(f"{word or '</s>'}, {name[:-6]}")
as_jpeg(
    image_table(rows, row_names, [f"step {maps.times.index(t)} t {t:.2f}" for t in times], cell=88)
)

# %% [markdown]
# The first maps are broad: "red" has its attention in the half of the image where a red object may
# form. Then map and image reinforce one another: where the image has become red, the location
# attends to "red" all the more, and becomes more red. The shapes come later than the colours, as in
# the sampling trajectory of notebook 00.
#
# ## 5. Against the true objects
#
# A single image proves little. Here are 16, all of two objects, and all maps of their colour, shape
# and size words, by layer and step. Only images that show their caption can be measured: the parser
# says where each object is, and the caption says which word describes which object.

# %%
report = measure_localization(
    pipe, benchmark(8, categories=["size", "positional"]), {"stages": ("base",)}, progress=False
)
print(
    f"{report['judged']} of {report['captions']} images show their caption. Intersection over union, mean over all steps:"
)
print(localization_table(report))
plot_localization(report)

# %% [markdown]
# **What you should have seen.** Words of colour find their objects best, on the fine grid: near 90
# % at the end on `up0`, where a map without information has 3 %, and 53 % in the mean over all
# steps (README, 60 images; here it may be a few points more or less). Words of shape find them on
# `down1`, up to about 60 %. Words of size find theirs on the coarse grid, on the way down, in the
# middle and on the way up alike, and only from the middle of the trajectory on. Many layers are at
# the level of chance: their attention to this word serves something else, or nothing. (Nor is every
# number above chance a finding where layers are bright everywhere, those with `block` in their
# names: in a map that is nearly uniform, the highest locations are arbitrary.) So a claim like "the
# network attends to the word here" needs the layer, the step and a number.
#
# ## 6. Attention that no word needs
#
# The weights of a row add up to 1. So a location of plain background has to attend to *something*.
# **Predict:** to which token?

# %%
fig, (ax,) = subplots(["attention that the end token </s> gets"], "t   (1 is noise)")
for i, site in enumerate(maps.sites):
    of_end = [maps.token_shares(site=site.name, times=[t])[-1].item() for t in maps.times]
    ax.plot(
        maps.times,
        of_end,
        label=f"{site.name[:-6]}, {site.size} x {site.size}",
        **line_style(i) | {"markersize": 3},
    )
ax.axhline(1 / len(names), color="#777777", linestyle=":", label="uniform share")
ax.set_ylabel("share of all attention")
ax.set_ylim(0, 1)
ax.invert_xaxis()
fig.legend(loc="outside right center", frameon=False, fontsize=7)

end = maps.of_tokens([len(names) - 1], site="up0.cross")
if truth:
    obj = (
        F.interpolate(
            torch.stack(list(truth.values())).any(0)[None, None].float(), size=(32, 32), mode="area"
        )[0, 0]
        > 0.5
    )
    print(
        f"on up0, </s> gets {end[obj].mean():.0%} of the attention of locations on objects, and {end[~obj].mean():.0%} of that of the background"
    )
print(
    "on up0, each token:",
    ", ".join(
        f"{name} {share:.0%}"
        for name, share in zip(names, maps.token_shares(site="up0.cross").tolist())
    ),
)
fig

# %% [markdown]
# **What you should have seen.** On the finest grid the end token gets far more than its uniform
# share, and on `up0` gets it on the background: it is the *attention sink* for locations that no
# word describes. CLIP puts a token at the beginning, too, which can serve as the sink; T5 has only
# this one. This attention is not wasted, either: the end token has a value like all others.
# Consider this in edits: attention that is taken from one word goes to another token.
#
# ## 7. Change the maps, change the image?
#
# Maps that *look* plausible prove nothing. To find out whether they have an effect, change them. A
# control may replace the network's probabilities by others; ours multiplies them by a matrix on the
# right:

# %%
show_source(TokenColumnMixer)

# %% [markdown]
# With it we try five interventions on 10 captions of two objects:
#
# - **silence** the first colour word: its column becomes 0;
# - **silence** the first shape word: likewise;
# - **exchange the shapes**: swap the columns of the two shape words, so that the locations that
#   attend to "circle" get the value of "square";
# - **exchange the colours**: likewise;
# - **exchange the colours in held maps**: the maps are not those of this trajectory, but those
#   recorded while the unchanged image was generated.
#
# Exchanging two columns of `probs` is exactly the same as exchanging the two values: (probs S) v =
# probs (S v). So this changes the *values*, not which location attends to which word. All images
# are generated without fresh noise, so that nothing else differs.
#
# **Predict:** what colour will an object have whose colour word is silenced? And which of the
# exchanges will work?

# %%
_, seeds, asked = zip(*benchmark(10, categories=["positional"]))
prompts, objects = [c.text for c in asked], [c.description.objects for c in asked]
text, tokens = pipe.text_encoder(prompts), [pipe.text_encoder.tokenize_prompt(p) for p in prompts]
n = text.mask.shape[1]
colors, shapes = [(a.color, b.color) for a, b in objects], [(a.shape, b.shape) for a, b in objects]
kept = AttentionStore()
kept.reset(tokens, base.net.sites)
controls = {
    "unchanged": kept.wrap_schedule(None),  # only records
    "first colour silent": lambda t: TokenColumnMixer(
        column_mask_matrices(tokens, [a for a, _ in colors], n)
    ),
    "first shape silent": lambda t: TokenColumnMixer(
        column_mask_matrices(tokens, [a for a, _ in shapes], n)
    ),
    "shapes exchanged": lambda t: TokenColumnMixer(column_swap_matrices(tokens, shapes, n)),
    "colours exchanged": lambda t: TokenColumnMixer(column_swap_matrices(tokens, colors, n)),
    "colours exchanged, maps held": lambda t: TokenColumnMixer(
        column_swap_matrices(tokens, colors, n), fixed_probs=kept.edited[t]
    ),
}
generated = {}
with torch.no_grad():
    for name, control_at in controls.items():
        denoise = base.denoiser(text, control_at=control_at)
        x_T = randn(seeds, (3, 64, 64), "base", "x_T")
        *_, last = sample(denoise, x_T, base.timesteps(), base.schedule, base.config.sampler)
        generated[name] = last.x_0_hat.clamp(-1, 1)

# %%
wanted = {
    "original caption": prompts,
    "colours exchanged": [replace_words(p, {a: b, b: a}) for p, (a, b) in zip(prompts, colors)],
    "shapes exchanged": [replace_words(p, {a: b, b: a}) for p, (a, b) in zip(prompts, shapes)],
}
print(
    f"of {len(prompts)} images, so many show".ljust(32) + "".join(f"{name:>20}" for name in wanted)
)
for name, images in generated.items():
    print(
        f"{name:32}"
        + "".join(f"{sum(judge_images(texts, images)):>20}" for texts in wanted.values())
    )
leaked = [
    r.scene is not None and {o.color for o in r.scene.objects} == {b}
    for r, (_, b) in zip(parse_image(generated["first colour silent"]), colors)
]
print(
    f"first colour silent: {sum(leaked)} of {len(leaked)} images have objects of the other's colour alone"
)
print(
    "colours exchanged, maps held:",
    score_line(
        judge_images(wanted["colours exchanged"], generated["colours exchanged, maps held"])
    ),
)
as_jpeg(
    image_table(
        [list(images[:8]) for images in generated.values()], list(generated), prompts[:8], cell=96
    )
)

# %% [markdown]
# **What you should have seen.**
#
# - An object whose colour word is silenced takes a colour all the same: in 4 of 10 that of the
#   *other* object, else a mixture, a third colour, or now and then the original one. It uses the
#   words that are left.
# - Without its shape word an object keeps its shape or takes some other: the neighbouring words
#   encode something of it, too.
# - Exchanging the shapes gives the image of the other caption in 2 of 10. In most of the others the
#   two objects change places, colours included: after the U-Net's text layers the vector of a shape
#   word encodes where its object lies and what colour it has (notebook 05, section 4), and all of
#   that moves with it.
# - Exchanging the colours does in 5 of 10; the other objects come out in mixtures of both. Why? The
#   maps of colours **follow the image** (section 5: late in the trajectory they lie on whatever has
#   the colour). As soon as the circle turns blue, its locations attend to "blue", whose value the
#   exchange has replaced by that of "red". Each step works against the one before.
# - With held maps this loop is cut, and the exchange works in 9 of 10. (The parser decides by the
#   colour of most pixels: an object with a remainder of the other colour counts as correct.)
#
# So maps say *where* and values say *what*, and maps are no fixed layout: they and the image
# influence each other. To change the content and keep the layout, hold the maps. That is
# Prompt-to-Prompt, notebook 11.
#
# ## Exercise: attention by hand
#
# Write attention with a mask. q is [b, heads, queries, d], k and v are [b, heads, keys, d], and
# mask is bool [b, 1, 1, keys], True where a key is real; it broadcasts. Return [b, heads, queries,
# d]. `masked_fill` and `math.inf` may help.


# %%
def attention(q, k, v, mask): ...  # your answer


nb06.check(attention)

# %% [markdown]
# A special choice of values makes the output show where it came from: let the value of token number
# $j$ be the $j$-th unit vector. Then the output **is** the map. The figure shows the maps of one
# step that way, from q and k recorded in the sampling trajectory of the first image. Until you have
# answered, PyTorch's kernel is used.

# %%
answered = nb06.check(attention).correct
own_attention = (
    attention
    if answered
    else lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
)
text, catch = pipe.text_encoder(caption), QKVRecorder()
moment = maps.times[15]
x_T = randn([seed], (3, 64, 64), "base", "x_T")
denoise = base.denoiser(text, control_at=lambda t: catch if t == moment else None)
with torch.no_grad():
    trajectory = sample(
        denoise,
        x_T,
        base.timesteps(),
        base.schedule,
        base.config.sampler,
        lambda step: randn([seed], (3, 64, 64), "base", "step", step),
        eta=base.config.eta,
    )  # the pipeline's noise, so the same trajectory
    state = next(state for state in trajectory if catch.recorded)  # the recorded step
q, k, _ = catch.recorded["up0.cross"]
unit = torch.eye(k.shape[2]).expand(1, k.shape[1], -1, -1)
columns = own_attention(q, k, unit, text.mask[:, None, None, :])[0].mean(
    0
)  # [locations, words], the mean over heads
print("by", "your attention" if answered else "PyTorch's kernel (exercise open)")
far = (columns - maps.probs(site="up0.cross", times=[moment])[0]).abs().max()
print(f"largest difference from what was recorded: {far:.0e}")
assert far < 1e-3, "this is not the recorded trajectory"
as_jpeg(
    image_table(
        [[overlay_heat(state.x_0_hat[0], column.view(32, 32)) for column in columns.T]],
        ["up0, step 15"],
        names,
        cell=88,
    )
)

# %% [markdown]
# Next: [07, classifier-free guidance](07_guidance.ipynb).
