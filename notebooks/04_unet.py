# %% [markdown]
# # 04 Anatomy of the U-Net
#
# **Objective:** know what passes through a U-Net, where its parameters and its FLOPs are, and how noise level, words and the small image enter.
#
# **Before this:** 02
#
# The denoiser of a diffusion model maps images to images of the same size. A *U-Net* first
# downsamples to a small grid, where it is cheap to exchange information between all spatial
# locations. Then it upsamples again, where outlines are formed. On each resolution it keeps the
# features of the way down (the *skip connection*) and uses them on the way up:
#
# $$h_i = \mathrm{down}_i(\mathrm{halve}(h_{i-1})), \qquad u_i = \mathrm{up}_i\big([\,\mathrm{double}(u_{i+1}),\; h_i\,]\big)$$
#
# Three more inputs are needed. The **noise level** scales and shifts the features of every block.
# The **words** enter by attention. And in super-resolution the **small image** is concatenated with
# the noisy one along the channels. We inspect all of this in the running module, not in a diagram
# of a paper.

# %%
from dataclasses import replace

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import augment_low_res
from imagen_mini.course.exercises import nb04
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.evaluation.unet_costs import (
    COST_KINDS,
    PROMPT_TOKENS,
    activation_count,
    count_costs,
    forward_stages,
    layer_flops,
    sum_costs,
    unet_ablations,
)
from imagen_mini.models.layers import ResBlock
from imagen_mini.models.unet import UNet
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.utils.rng import randn
from imagen_mini.viz.image_grid import as_jpeg, image_table
from imagen_mini.viz.style import STYLES, log_axis, subplots
from imagen_mini.viz.unet import plot_unet

setup_notebook()
_ = torch.set_grad_enabled(False)  # nothing is trained here
pipe = ImagenPipeline.from_pretrained("scenes")
base, sr = pipe.stages["base"], pipe.stages["sr_256"]

# %% [markdown]
# ## 1. The shapes of a forward pass
#
# A *hook* is a function that a module calls whenever it has run. We register one at every level of
# the U, pass one noisy image through, and read off the shapes.
#
# **Predict:** the base stage sees 64 x 64 pixels with 3 channels. It has three levels, with 48, 80
# and 128 channels. How many spatial locations does the lowest level have? Where is there the most
# data, and how many channels does a level on the way *up* take in?

# %%
ring = SceneObject(x=20, y=24, shape="ring", color="red", size="large", texture="solid")
star = SceneObject(x=44, y=42, shape="star", color="yellow", size="small", texture="solid")
scene = Scene((ring, star), "gray")
caption = "a large red ring and a small yellow star on a gray background"
text = pipe.text_encoder([caption])
x_0, eps = render([scene], 64), randn([0], (3, 64, 64), "eps")
log_snr = torch.tensor([-2.0])
x_t = q_sample(x_0, eps, log_snr)

seen = []
hooks = [
    module.register_forward_hook(
        lambda module, inputs, output, name=name: seen.append((name, inputs[0].shape, output.shape))
    )
    for name, module in forward_stages(base.net)
]
x_0_hat = base.net(x_t, log_snr, text)
for hook in hooks:
    hook.remove()

print(f"{'':10}{'in':>16}{'out':>16}{'values out':>12}{'parameters':>12}")
for (name, module), (_, shape_in, shape_out) in zip(forward_stages(base.net), seen):
    channels_in, channels_out = (
        f"{shape[1]} x {shape[2]} x {shape[3]}" for shape in (shape_in, shape_out)
    )
    print(
        f"{name:10}{channels_in:>16}{channels_out:>16}{shape_out.numel():>12,}{sum(p.numel() for p in module.parameters()):>12,}"
    )
image_table(
    [[x_t[0].clamp(-1, 1), x_0_hat[0], x_0[0]]],
    [""],
    ["x_t, in", "x_0_hat, out", "truth"],
    cell=128,
)

# %% [markdown]
# **What you should have seen.** The first operation is no convolution: 2 x 2 pixels with 3 channels
# become one location with 12 (a *patch*; `pixel_unshuffle`), and at the end 12 channels become 2 x
# 2 pixels again. On the way down the number of locations falls to a quarter at each level while the
# channels grow less than twofold, so the amount of data falls. Most of it is on the finest grid,
# four times as much as in the image. The lowest level holds in 64 locations what the image holds in
# 4,096 pixels. On the way up a level takes in twice its channels: those from below *and* the skip
# connection.
#
# The complete forward pass is not much longer than that:

# %%
show_source(UNet.forward)

# %% [markdown]
# ## 2. Where the parameters are, and where the work is
#
# Both can be counted without running anything: `count_costs` builds the network of *shapes alone* and
# lets torch count the products of matrices and convolutions (a FLOP is an addition or a
# multiplication). So it can count networks that would fit no laptop.
#
# **Predict:** which level holds most parameters? Does it do most of the work? Which share of either
# belongs to attention, the part most papers are about?

# %%
parts = {"base": count_costs(base.config.unet), "sr_256": count_costs(sr.config.unet)}
for name, of in parts.items():
    stage = pipe.stages[name]
    counted = sum(p.numel() for p in stage.net.parameters())
    print(
        f"{name}: {counted:,} parameters ({sum_costs(of, 'parameters'):,} by parts), {sum_costs(of, 'flops') / 1e9:.2f} GFLOP for one image and one step"
    )

fig, axes = subplots(
    ["base, by grid", "super-resolution, by grid", "base, by kind", "super-resolution, by kind"],
    "% of the whole",
    columns=2,
)
for column, (name, of) in enumerate(parts.items()):
    grids = pipe.stages[name].config.unet.grids
    for ax, groups in (
        (axes[column], [(f"{g} x {g}", {"grid": g}) for g in grids]),
        (axes[2 + column], [(kind, {"kind": kind}) for kind in COST_KINDS]),
    ):
        rows = torch.arange(len(groups)) * 1.0
        for what, offset, style in (("parameters", -0.2, STYLES[0]), ("flops", 0.2, STYLES[1])):
            shares = [
                100 * sum_costs(of, what, **group) / sum_costs(of, what) for _, group in groups
            ]
            ax.barh(
                rows + offset,
                shares,
                height=0.38,
                color=style["color"],
                label={"flops": "FLOPs"}.get(what, what),
            )
        ax.set_yticks(rows, [label for label, _ in groups])
        ax.invert_yaxis()
        ax.set_xlim(0, 80)
axes[0].legend(frameon=False)
fig

# %%
for name, of in parts.items():
    grids = pipe.stages[name].config.unet.grids
    for grid in grids:
        shares = [
            sum_costs(of, what, grid=grid) / sum_costs(of, what) for what in ("parameters", "flops")
        ]
        print(
            f"{name:7}{grid:3} x {grid:<3} {shares[0]:4.0%} of parameters, {shares[1]:4.0%} of FLOPs"
        )

# %% [markdown]
# **What you should have seen.** A convolution from $c$ to $c$ channels has $9c^2$ weights, and uses
# each of them once *at every location*: $2 \cdot 9c^2 \cdot n^2$ FLOPs on an $n \times n$ grid. So
# parameters are concentrated where channels are many, at the lowest level, and work is spread over
# all levels: half the resolution costs a quarter, and twice the channels would cost four times as
# much. Residual blocks have most of both. Attention to the words is a small part of either. Yet it
# is the only part that gives the network the sentence word by word.
#
# ## 3. Base and Efficient U-Net, side by side
#
# Super-resolution sees 16 times as many pixels. Imagen's answer is the *Efficient U-Net* (Appendix
# B.1). It has more residual blocks on the small grids. It downsamples *before* a level's
# convolutions and upsamples *after* them. It scales skip connections by $1/\sqrt 2$ (which ones
# exactly, the paper does not say; here it is every residual sum). Ours follows it, with larger
# patches, and adds the skip connection instead of concatenating it.
#
# Below, a box is as wide as its level has channels. What the boxes lack of 100 % is in the first
# and last convolution, the changes of the resolution and the text layers. The three inputs that the
# boxes do not show are the subject of sections 4 to 6.

# %%
fig = Figure(figsize=(11, 5.6), layout="constrained")
for i, name in enumerate(parts):
    ax = fig.add_subplot(1, 2, i + 1)
    ax.set_title(
        f"{name}: {sum_costs(parts[name], 'parameters') / 1e6:.1f} M parameters, {sum_costs(parts[name], 'flops') / 1e9:.2f} GFLOP",
        fontsize=10,
    )
    plot_unet(ax, pipe.stages[name].config.unet, parts[name])
fig

# %%
rows = ["image_size", "low_res_size", "patch", "grids", "channels", "blocks", "attention", "skip"]
for row in rows:
    print(
        f"{row:13}" + "".join(f"{str(getattr(stage.config.unet, row)):36}" for stage in (base, sr))
    )

# %% [markdown]
# The same class, a fifth fewer parameters, 16 times the pixels, and yet only about four times the
# work. What makes it cheap? Change one property at a time and count again. Beside our network is
# Imagen's super-resolution stage in this package's terms (preset `paper`, 467 million parameters):
# it is counted, not built.
#
# **Predict:** which change costs most: larger inputs for the blocks (patches of half the side make
# every grid twice as fine, which is what downsampling *after* each level's convolutions would do);
# reversing the order of the blocks, most on the *finest* grid; or attention everywhere?

# %%
imagens, lines = PRESETS["paper"]["sr_256"].unet, []
for name, unet in (("ours", sr.config.unet), ("Imagen's, 64 to 256", imagens)):
    lines.append(f"{name:36}{'M parameters':>13}{'GFLOP':>10}{'activations':>20}")
    for change, changed in unet_ablations(unet).items():
        of = count_costs(changed)
        lines.append(
            f"    {change:32}{sum_costs(of, 'parameters') / 1e6:>13.1f}{sum_costs(of, 'flops') / 1e9:>10.1f}{activation_count(changed) / 1e6:>13.1f} M values"
        )
print("\n".join(lines))

# %% [markdown]
# **What you should have seen.** Working at half the resolution throughout is what saves most:
# without it there is about four times the work, and four times as many activations (which training
# has to keep). Self-attention on fine grids is the next most expensive part. In our network, whose
# channels are few, it would cost nearly as much.
#
# The position of the blocks is more subtle. In Imagen's network the channels double from level to
# level, so a block costs the **same** FLOPs on each: with the order reversed, the network has just
# as many FLOPs. But then it holds less than half the parameters, and has to keep nearly twice the
# activations. So moving blocks down adds parameters and saves memory, and costs no work. That is
# the paper's argument: more capacity where it is cheap. (Our channels grow by less than a factor of
# two a level, so blocks on small grids take fewer FLOPs as well.)
#
# ## 4. How the noise level enters
#
# The network is given $\lambda = \log \mathrm{SNR}$, one number. Sines and cosines make 64 numbers
# of it, and two linear layers make an *embedding*, to which the pooled text is added. In every
# residual block a linear layer turns it into a scale $s$ and a shift $b$ for each channel, the same
# at every spatial location (FiLM):
#
# $$h \leftarrow (1 + s)\, \mathrm{norm}(h) + b, \qquad [s, b] = W\, e(\lambda, c) + a$$

# %%
show_source(ResBlock.forward)

# %% [markdown]
# Is one number strong enough? **Predict:** below, each row gives the network the *same* $x_t$. Only
# the stated noise level changes from left to right. What will it predict when the stated level is
# far too high? When it is far too low?

# %%
true_levels, stated_levels = [1.0, -2.0, -5.0], [8.0, 3.0, 1.0, -2.0, -5.0, -8.0, -14.0]
rows, borders, errors = [], [], {}
for level in true_levels:
    noisy = q_sample(x_0, eps, torch.tensor([level]))
    answers = base.net(
        noisy.expand(len(stated_levels), -1, -1, -1),
        torch.tensor(stated_levels),
        text[[0] * len(stated_levels)],
    )
    errors[level] = [(answer - x_0[0]).square().mean().item() for answer in answers]
    rows.append([noisy[0].clamp(-1, 1), *answers])
    borders.append(
        [None, *("#0072B2" if level_stated == level else None for level_stated in stated_levels)]
    )  # blue: the true level
as_jpeg(
    image_table(
        rows,
        [f"log-SNR is {level:g}" for level in true_levels],
        ["x_t", *(f"stated {level_stated:g}" for level_stated in stated_levels)],
        cell=104,
        borders=borders,
    )
)

# %%
for level, of in errors.items():
    print(
        f"log-SNR {level:2g}: squared error "
        + ", ".join(
            f"stated {level_stated:g}: {error:.4f}"
            for level_stated, error in zip(stated_levels, of)
        )
    )

# %% [markdown]
# **What you should have seen.** (A blue frame marks the true noise level.) With a stated level that
# is too high, the network blurs what is plainly visible: the prediction approaches the mean image,
# whatever $x_t$ shows. With a stated level that is too low, it takes noise for image, and forms
# sharp parts of objects where there is only noise. (Where there is so little noise that everything
# is visible, it makes no difference. And for a single image the true level need not give the
# smallest error, as in the last row: it does only on average.) So one number decides how far the
# network relies on $x_t$. The blocks show how:

# %%
levels = torch.linspace(-14, 8, 89)
null = text.null()[[0] * len(levels)]
emb = base.net.embed(
    levels, base.net.through_text_layers(null), None, torch.zeros(len(levels))
)  # the noise level alone, no words
blocks = {
    "first block, 32 x 32": base.net.down[0].blocks[0],
    "middle, 8 x 8": base.net.mid.blocks[0],
    "last but one, 16 x 16": base.net.up[1].blocks[0],
    "last block, 32 x 32": base.net.up[0].blocks[0],
}
factors = {
    name: 1 + block.emb(emb).chunk(2, dim=1)[0] for name, block in blocks.items()
}  # 1 + s: [89, channels]

titles = ["1 + s of the first block's 48 channels", "mean |1 + s| over channels"]
fig, (channel_ax, size_ax) = subplots(titles, "stated log-SNR")
first = factors["first block, 32 x 32"]
shade = channel_ax.imshow(
    first.T[first.mean(0).argsort()],
    aspect="auto",
    extent=(-14, 8, 48, 0),
    cmap="PuOr",
    vmin=-12,
    vmax=12,
)
channel_ax.set_ylabel("channel, in order of the mean")
channel_ax.grid(False)
fig.colorbar(shade, ax=channel_ax, label="1 + s")
for (name, values), style in zip(factors.items(), STYLES):
    size_ax.plot(levels, values.abs().mean(1), label=name, markevery=11, **style)
size_ax.set_yscale("log")
size_ax.legend(frameon=False, fontsize=8)
fig

# %%
for name, values in factors.items():
    size = values.abs().mean(1)
    print(
        f"{name:22} mean size of 1 + s: {size[:20].mean():5.1f} below log-SNR -9, {size[-28:].mean():5.1f} above 1"
    )

# %% [markdown]
# **What you should have seen.** Hardly a channel stays as it is. From log-SNR -7 to 0, where shapes
# begin to show, the blocks on the way up, which form outlines, are scaled up by a factor of three
# and more. The first block hardly changes there. And at log-SNR 1 all of them jump, to about twice
# the size. The likely cause is the training of this network: below 1 it also used images that were
# still undecided or contradicted their captions, above it only correct ones.
#
# ### Zero initialisation
#
# The last convolution of the network, and the last of every residual block, start at zero.
#
# **Predict:** what does a fresh network predict? What is its loss before the first step?

# %%
torch.manual_seed(0)
fresh = UNet(base.config.unet)
answer = fresh(x_t, log_snr, text)
block, h = fresh.down[0].blocks[0], torch.randn(1, 48, 32, 32)
print(f"largest value that a fresh network answers: {answer.abs().max():.1f}")
print(
    f"its squared error: {(answer - x_0).square().mean():.3f}; the mean of x_0 squared: {x_0.square().mean():.3f}"
)
print(
    f"a fresh residual block changes its input by {(block(h, torch.randn(1, 256)) - h).abs().max():.1f}"
)
print(
    f"norm of the last convolution's weights: fresh {fresh.out.weight.norm():.2f}, trained {base.net.out.weight.norm():.2f}"
)

# %% [markdown]
# A fresh network predicts medium gray, everywhere and for every input, and its blocks pass their
# input through. So training starts from a known loss (the mean square of the images), however deep
# the network is, and each block starts as the identity. If your first loss is another, look there.
#
# ## 5. How the words enter: attention
#
# Scale and shift are the same at every spatial location. They can say *how noisy* and, by the
# pooled text, *what it is about*. They cannot say *red at this location*. That is done by
# attention: each location is a query, and words (cross-attention) or other locations
# (self-attention) are the keys. The network lists its attention layers:

# %%
for name, stage in pipe.stages.items():
    print(name)
    for site in stage.net.sites:
        keys = f"{site.size**2} locations" if site.kind == "self" else "the words"
        print(
            f"    {site.name:12} {site.place_in_unet:5} {site.kind:6} {site.size**2:5} queries, keys: {keys}"
        )

# %% [markdown]
# **Predict:** cross-attention is on all three grids of the base, self-attention on the smallest
# only. Why not on all? How does the work of each grow, if the grid's side is doubled?

# %%
sides = [8, 16, 32, 64, 128]
lines = [f"{'MFLOP':20}" + "".join(f"{f'{side} x {side}':>11}" for side in sides)]
fig, (ax,) = subplots([f"one layer of 128 channels, {PROMPT_TOKENS} words"], "side of the grid")
fig.set_size_inches(6, 4)
for (label, kind), style in zip(
    {
        "residual block": "residual block",
        "attention to words": "cross",
        "self-attention": "self",
    }.items(),
    STYLES,
):
    work = [layer_flops(kind, side) / 1e6 for side in sides]
    ax.plot(sides, work, label=label, **style)
    lines.append(
        f"{label:20}"
        + "".join(f"{flops:11,.0f}" for flops in work)
        + f"   from 64 to 128: {work[-1] / work[-2]:.1f} times"
    )
log_axis(ax, sides)
ax.set_yscale("log")
ax.set_ylabel("MFLOP")
ax.legend(frameon=False)
print("\n".join(lines))
fig

# %% [markdown]
# **What you should have seen.** The work of residual blocks and of cross-attention grows with the
# number of locations, four times for twice the side. That of self-attention grows with its square,
# up to 16 times: it is cheap on 8 x 8, more expensive than a residual block from 32 x 32 on, and
# impractical at 128. So it is used at the lowest level, where 64 locations are the whole image.
# (Imagen's base has attention on its 32, 16 and 8 grids: Appendix F.1.)
#
# ## 6. How the small image enters
#
# In super-resolution, the small image is upsampled by interpolation and concatenated with the noisy
# one along the channels: six channels instead of three. A little noise is added to it, and its
# `aug_level` goes into the embedding, beside the noise level (notebook 10).
#
# **Predict:** from pure noise, one prediction. What does the stage predict from the words and
# *another* small image? From its words and a gray one?

# %%
other = Scene(tuple(replace(obj, x=64 - obj.x, color="blue") for obj in scene.objects), "white")
level = torch.tensor([sr.config.aug_level])
smalls = {"its small image": x_0, "another": render([other], 64), "gray": torch.zeros_like(x_0)}
noise = randn([0], (3, 256, 256), "x_T")
columns = []
for small in smalls.values():
    shown = augment_low_res(small, level, randn([0], (3, 64, 64), "aug"))
    answer = sr.net(noise, sr.schedule(torch.ones(1)), text, shown, level)
    columns.append((small[0], shown[0].clamp(-1, 1), answer[0].clamp(-1, 1)))
as_jpeg(
    image_table(
        list(zip(*columns)),
        ["small image", "as it is shown", "x_0_hat from noise"],
        list(smalls),
        cell=144,
    )
)

# %%
for name, (small, _, answer) in zip(smalls, columns):
    difference = (F.avg_pool2d(answer, 4) - small).square().mean().sqrt()
    print(
        f"{name:18} the answer, averaged down to 64 px, differs from the small image by {difference:.3f} (root mean square)"
    )

# %% [markdown]
# **What you should have seen.** Already the first prediction, from pure noise, is the small image
# at a higher resolution: positions, colours and background are taken from it even where they
# contradict the words. From a gray one nothing is made, whatever the words say. So the words are
# needed for what the small image cannot show: notebook 10.
#
# ## Exercise: scale and shift
#
# Write the modulation of a residual block. `h` [b, c, h, w] is already normalised, `emb` [b, e] is
# the embedding, `weight` [2c, e] and `bias` [2c] are those of the linear layer, whose first half of
# outputs is the scale $s$ and whose second half is the shift.


# %%
def modulate(
    h: torch.Tensor, emb: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor: ...  # your answer


nb04.check(modulate)

# %% [markdown]
# With it, the figure below shows three channels of the last block of the base stage: the *same*
# normalised features, modulated for five noise levels by your function. Until you have answered,
# they are shown as they are.

# %%
answered = nb04.check(modulate).correct
block, caught = base.net.up[0].blocks[0], []
hook = block.norm2.register_forward_hook(lambda module, inputs, output: caught.append(output))
base.net(x_t, log_snr, text)
hook.remove()
(features,) = caught  # [1, 48, 32, 32]

asked = torch.tensor([6.0, 2.0, -2.0, -6.0, -10.0])
emb = base.net.embed(asked, base.net.through_text_layers(text[[0] * 5]), None, None)
same = features.expand(5, -1, -1, -1)
shown = modulate(same, emb, block.emb.weight, block.emb.bias) if answered else same
chosen = (
    factors["last block, 32 x 32"].std(0).topk(3).indices.tolist()
)  # the channels whose factor changes most
rows = [
    [(row / shown[:, channel].abs().max()).expand(3, -1, -1) for row in shown[:, channel]]
    for channel in chosen
]
print("modulated by your function" if answered else "not modulated (exercise open)")
image_table(
    rows,
    [f"channel {channel}" for channel in chosen],
    [f"log-SNR {level:g}" for level in asked.tolist()],
    cell=96,
)

# %% [markdown]
# With your function, the same features are scaled up, scaled down or switched off, depending on the
# noise level. Nothing else has changed from one column to the next. (Each row has its own gray
# scale, and medium gray is zero.)
#
# Next: [05, the frozen text encoder](05_text_encoder.ipynb).
