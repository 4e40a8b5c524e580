# %% [markdown]
# # 04 Anatomy of the U-Net
#
# **Objective:** know what passes through a U-Net, where its parameters and its work sit, and how noise level, words and the small image get in.
#
# **Before this:** 02
#
# The denoiser of a diffusion model maps images to images of the same size. A *U-Net* goes down to a small grid, where every place can be told about all
# others cheaply, and up again, where outlines are drawn. On each grid it keeps what it saw on the way down (the *skip*) and reads it on the way up:
#
# $$h_i = \mathrm{down}_i(\mathrm{halve}(h_{i-1})), \qquad u_i = \mathrm{up}_i\big([\,\mathrm{double}(u_{i+1}),\; h_i\,]\big)$$
#
# Three more things must get in: the **noise level** scales and shifts every block; the **words** come in by attention; and in super-resolution the **small
# image** is laid beside the noisy one. We look at all of it from the running module, not from a diagram in a paper.

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
from imagen_mini.models.layers import ResBlock
from imagen_mini.models.unet import UNet
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.utils.rng import randn
from imagen_mini.viz.image_grid import as_jpeg, image_table
from imagen_mini.viz.style import STYLES, log_axis, subplots
from imagen_mini.viz.unet import (
    COST_KINDS,
    WORDS,
    ablations,
    activation_count,
    costs,
    flops_of_layer,
    forward_stages,
    plot_unet,
    total,
)

setup_notebook()
_ = torch.set_grad_enabled(False)  # nothing is trained here
pipe = ImagenPipeline.from_pretrained("scenes")
base, sr = pipe.stages["base"], pipe.stages["sr_256"]

# %% [markdown]
# ## 1. An image on its way
#
# A *hook* is a function that a module calls whenever it has run. We hang one on every station of the U, send one noisy image through, and read off the
# shapes.
#
# **Predict:** the base stage sees 64 x 64 pixels with 3 channels. It has three levels, with 48, 80 and 128 channels. On how many places does the lowest work?
# Where is there the most data, and how many channels does a stack on the way *up* take in?

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
# **What you should have seen.** The first thing is no convolution: 2 x 2 pixels with 3 channels become one place with 12 (a *patch*; `pixel_unshuffle`), and
# at the end 12 channels become 2 x 2 pixels again. On the way down the places become a quarter each time while the channels grow less than twofold, so that
# the data shrinks: most of it is on the finest grid, four times as much as in the image itself, and the lowest level says in 64 places what the image
# said in 4,096 pixels. On the way up a stack takes in twice its channels: those from below *and* the skip.
#
# The forward pass in full is not much longer than that:

# %%
show_source(UNet.forward)

# %% [markdown]
# ## 2. Where the parameters sit, and where the work
#
# Both can be counted without running anything: `costs` builds the network of *shapes alone* and lets torch count the products of matrices and convolutions (a
# FLOP is an addition or a multiplication). So it can count networks that would fit no laptop.
#
# **Predict:** which grid holds most parameters? Does it do most of the work? Which share of either belongs to attention, the part most papers are about?

# %%
parts = {"base": costs(base.config.unet), "sr_256": costs(sr.config.unet)}
for name, of in parts.items():
    stage = pipe.stages[name]
    counted = sum(p.numel() for p in stage.net.parameters())
    print(
        f"{name}: {counted:,} parameters ({total(of, 'parameters'):,} by parts), {total(of, 'flops') / 1e9:.2f} GFLOP for one image and one step"
    )

sheet, panels = subplots(
    ["base, by grid", "super-resolution, by grid", "base, by kind", "super-resolution, by kind"],
    "% of the whole",
    columns=2,
)
for column, (name, of) in enumerate(parts.items()):
    grids = pipe.stages[name].config.unet.grids
    for panel, groups in (
        (panels[column], [(f"{g} x {g}", {"grid": g}) for g in grids]),
        (panels[2 + column], [(kind, {"kind": kind}) for kind in COST_KINDS]),
    ):
        rows = torch.arange(len(groups)) * 1.0
        for what, offset, style in (("parameters", -0.2, STYLES[0]), ("flops", 0.2, STYLES[1])):
            shares = [100 * total(of, what, **group) / total(of, what) for _, group in groups]
            panel.barh(
                rows + offset,
                shares,
                height=0.38,
                color=style["color"],
                label={"flops": "FLOPs"}.get(what, what),
            )
        panel.set_yticks(rows, [label for label, _ in groups])
        panel.invert_yaxis()
        panel.set_xlim(0, 80)
panels[0].legend(frameon=False)
sheet

# %%
for name, of in parts.items():
    grids = pipe.stages[name].config.unet.grids
    for grid in grids:
        shares = [total(of, what, grid=grid) / total(of, what) for what in ("parameters", "flops")]
        print(
            f"{name:7}{grid:3} x {grid:<3} {shares[0]:4.0%} of parameters, {shares[1]:4.0%} of FLOPs"
        )

# %% [markdown]
# **What you should have seen.** A convolution from $c$ to $c$ channels has $9c^2$ weights, and uses each of them once *at every place*: $2 \cdot 9c^2 \cdot
# n^2$ FLOPs on an $n \times n$ grid. So parameters gather where channels are many, at the bottom, and work is spread over all levels: half the grid takes a
# quarter, and twice the channels would give four times as much. Residual blocks have most of both. Attention to the words is a small part of either, and is
# all the network is told of the sentence, word by word.
#
# ## 3. Base and Efficient U-Net, side by side
#
# Super-resolution sees 16 times as many pixels. Imagen's answer is the *Efficient U-Net* (Appendix B.1): more residual blocks on the small grids; halve the
# grid *before* a level's convolutions and double it *after* them; scale skip connections by $1/\sqrt 2$ (which ones exactly, the paper does not say; here it
# is every residual sum). Ours follows it, with larger patches, and adds what comes across the U instead of laying it beside.
#
# Below, a box is as wide as its stack has channels. What the boxes lack of 100 % is in the first and last convolution, the changes of the grid and the text
# layers.

# %%
sheet = Figure(figsize=(11, 5.6), layout="constrained")
for i, name in enumerate(parts):
    panel = sheet.add_subplot(1, 2, i + 1)
    panel.set_title(
        f"{name}: {total(parts[name], 'parameters') / 1e6:.1f} M parameters, {total(parts[name], 'flops') / 1e9:.2f} GFLOP",
        fontsize=10,
    )
    plot_unet(panel, pipe.stages[name].config.unet, parts[name])
sheet

# %%
rows = ["image_size", "low_res_size", "patch", "grids", "channels", "blocks", "attention", "skip"]
for row in rows:
    print(
        f"{row:13}" + "".join(f"{str(getattr(stage.config.unet, row)):36}" for stage in (base, sr))
    )

# %% [markdown]
# The same class, a fifth fewer parameters, 16 times the pixels, and yet only about four times the work. What makes it cheap? Change one thing at a time and
# count again. Beside our network stands Imagen's own super-resolution stage in this package's terms (preset `paper`, 467 million parameters): it is counted,
# not built.
#
# **Predict:** which change costs most: larger images for the blocks (patches of half the side make every grid twice as fine, which is what halving *after*
# each level's convolutions would do); turning the order of the blocks around, most on the *finest* grid; or attention everywhere?

# %%
imagens, lines = PRESETS["paper"]["sr_256"].unet, []
for name, unet in (("ours", sr.config.unet), ("Imagen's, 64 to 256", imagens)):
    lines.append(f"{name:36}{'M parameters':>13}{'GFLOP':>10}{'blocks give':>20}")
    for change, changed in ablations(unet).items():
        of = costs(changed)
        lines.append(
            f"    {change:32}{total(of, 'parameters') / 1e6:>13.1f}{total(of, 'flops') / 1e9:>10.1f}{activation_count(changed) / 1e6:>13.1f} M values"
        )
print("\n".join(lines))

# %% [markdown]
# **What you should have seen.** Working at half the resolution throughout is what saves most: about four times the work, and four times the values that the
# blocks give (and that training must keep). Attention between places on fine grids is the next dear thing; in our network, whose channels are few, it would
# cost nearly as much.
#
# Where the blocks stand is more subtle. In Imagen's network the channels double from level to level, so a block costs the **same** FLOPs on each: turned
# around, the network takes just as many. But then it holds less than half the parameters, and must keep nearly twice the values. So moving blocks down buys
# parameters and saves memory, and costs no work. That is the paper's argument: more capacity where it is cheap. (Ours widens by less than two a level; there
# blocks on small grids take fewer FLOPs as well.)
#
# ## 4. How the noise level gets in
#
# The network is told $\lambda = \log \mathrm{SNR}$, one number. Sines and cosines make it 64, two linear layers make an *embedding*, to which the pooled text
# is added. In every residual block a linear layer turns it into a scale $s$ and a shift $b$ for each channel, the same at every place (FiLM):
#
# $$h \leftarrow (1 + s)\, \mathrm{norm}(h) + b, \qquad [s, b] = W\, e(\lambda, c) + a$$

# %%
show_source(ResBlock.forward)

# %% [markdown]
# Is one number strong enough? **Predict:** below, each row shows the network the *same* $x_t$. Only what it is *told* changes from left to right. What will
# it answer when it is told that there is far more noise than there is? When it is told that there is hardly any?

# %%
true_levels, told = [1.0, -2.0, -5.0], [8.0, 3.0, 1.0, -2.0, -5.0, -8.0, -14.0]
rows, frames, errors = [], [], {}
for level in true_levels:
    noisy = q_sample(x_0, eps, torch.tensor([level]))
    answers = base.net(
        noisy.expand(len(told), -1, -1, -1), torch.tensor(told), text[[0] * len(told)]
    )
    errors[level] = [(answer - x_0[0]).square().mean().item() for answer in answers]
    rows.append([noisy[0].clamp(-1, 1), *answers])
    frames.append(
        [None, *("#0072B2" if said == level else None for said in told)]
    )  # blue: told the truth
as_jpeg(
    image_table(
        rows,
        [f"log-SNR is {level:g}" for level in true_levels],
        ["x_t", *(f"told {said:g}" for said in told)],
        cell=104,
        frames=frames,
    )
)

# %%
for level, of in errors.items():
    print(
        f"log-SNR {level:2g}: squared error "
        + ", ".join(f"told {said:g}: {error:.4f}" for said, error in zip(told, of))
    )

# %% [markdown]
# **What you should have seen.** (Framed in blue: told the truth.) Told of more noise than there is, the network melts what it could plainly see: the answer
# goes to the mean image, whatever $x_t$ shows. Told of less noise, it believes in the noise, and draws sharp pieces of things where there is only chance.
# (Where there is so little noise that all is plain, it does not mind. And of a single image the truth need not give the smallest error, as in the last row:
# only on average it does.) So one number decides how far $x_t$ is believed. How it does so can be read off the blocks:

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

titles = ["1 + s of the first block's 48 channels", "size of 1 + s, mean over channels"]
sheet, (channels, sizes) = subplots(titles, "log-SNR that the network is told")
first = factors["first block, 32 x 32"]
shade = channels.imshow(
    first.T[first.mean(0).argsort()],
    aspect="auto",
    extent=(-14, 8, 48, 0),
    cmap="PuOr",
    vmin=-12,
    vmax=12,
)
channels.set_ylabel("channel, in order of the mean")
channels.grid(False)
sheet.colorbar(shade, ax=channels)
for (name, values), style in zip(factors.items(), STYLES):
    sizes.plot(levels, values.abs().mean(1), label=name, markevery=11, **style)
sizes.set_yscale("log")
sizes.legend(frameon=False, fontsize=8)
sheet

# %%
for name, values in factors.items():
    size = values.abs().mean(1)
    print(
        f"{name:22} mean size of 1 + s: {size[:20].mean():5.1f} below log-SNR -9, {size[-28:].mean():5.1f} above 1"
    )

# %% [markdown]
# **What you should have seen.** Hardly a channel stays as it is. From log-SNR -7 to 0, where shapes begin to show, the blocks on the way up, which draw
# outlines, are turned up three times and more; the first block hardly changes there. And at log-SNR 1 all of them jump, to about twice the size. That is
# probably the mark of this training: below 1 it also showed images that were still undecided or wrong, above it only true ones.
#
# ### Zero to begin with
#
# The last convolution of the network, and the last of every residual block, start at zero.
#
# **Predict:** what does a fresh network answer? What is its loss before the first step?

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
    f"a fresh residual block changes what passes by {(block(h, torch.randn(1, 256)) - h).abs().max():.1f}"
)
print(
    f"norm of the last convolution's weights: fresh {fresh.out.weight.norm():.2f}, trained {base.net.out.weight.norm():.2f}"
)

# %% [markdown]
# A fresh network answers mid gray, everywhere and to everything, and its blocks pass on what they get. So training starts from a known loss (the mean square
# of the images), however deep the network is, and each block grows from doing nothing. If your first loss is another, look there.
#
# ## 5. How the words get in: where attention sits
#
# Scale and shift are the same at every place. They can say *how noisy* and, by the pooled text, *what it is about*; they cannot say *there, red*. That is
# attention's part: each place asks, words (cross) or other places (self) answer. The network lists its own:

# %%
for name, stage in pipe.stages.items():
    print(name)
    for site in stage.net.sites:
        keys = f"{site.size**2} places" if site.kind == "self" else "the words"
        print(f"    {site.name:12} {site.place:5} {site.kind:6} {site.size**2:5} places ask {keys}")

# %% [markdown]
# **Predict:** attention to words stands on all three grids of the base, attention to places on the smallest only. Why not on all? How does the work of each
# grow, if the grid's side is doubled?

# %%
sides = [8, 16, 32, 64, 128]
lines = [f"{'MFLOP':20}" + "".join(f"{f'{side} x {side}':>11}" for side in sides)]
sheet, (panel,) = subplots([f"one layer of 128 channels, {WORDS} words"], "side of the grid")
sheet.set_size_inches(6, 4)
for (label, kind), style in zip(
    {
        "residual block": "residual block",
        "attention to words": "cross",
        "attention to places": "self",
    }.items(),
    STYLES,
):
    work = [flops_of_layer(kind, side) / 1e6 for side in sides]
    panel.plot(sides, work, label=label, **style)
    lines.append(
        f"{label:20}"
        + "".join(f"{flops:11,.0f}" for flops in work)
        + f"   from 64 to 128: {work[-1] / work[-2]:.1f} times"
    )
log_axis(panel, sides)
panel.set_yscale("log")
panel.set_ylabel("MFLOP")
panel.legend(frameon=False)
print("\n".join(lines))
sheet

# %% [markdown]
# **What you should have seen.** Residual blocks and attention to words grow with the number of places, four times for twice the side. Attention between
# places grows with its square, up to 16 times: a bargain on 8 x 8, dearer than a residual block from 32 x 32 on, out of the question at 128. So it stands at
# the bottom, where 64 places are the whole image. (Imagen's base has attention on its 32, 16 and 8 grids: Appendix F.1.)
#
# ## 6. How the small image gets in
#
# In super-resolution, the small image is enlarged by interpolation and laid beside the noisy one: six channels instead of three. It is noised a little,
# and its `aug_level` goes into the embedding, beside the noise level (notebook 10).
#
# **Predict:** pure noise in, one answer out. What does the stage draw from the words and *another* small image? From its words and a gray one?

# %%
other = Scene(tuple(replace(obj, x=64 - obj.x, color="blue") for obj in scene.objects), "white")
level = torch.tensor([sr.config.aug_level])
smalls = {"its small image": x_0, "another": render([other], 64), "gray": torch.zeros_like(x_0)}
noise = randn([0], (3, 256, 256), "x_T")
columns = []
for small in smalls.values():
    shown = augment_low_res(small, level, randn([0], (3, 64, 64), "aug"))
    answer = sr.net(noise, sr.log_snr_of(torch.ones(1)), text, shown, level)
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
# **What you should have seen.** Already the first answer, from pure noise, is the small image, drawn larger: places, colours and background are taken from
# it even where they contradict the words, and from a gray one nothing is made, whatever the words say. What the words are for, then, is what the small
# image cannot show: notebook 10.
#
# ## Exercise: scale and shift
#
# Write the modulation of a residual block. `h` [b, c, h, w] is already normalised, `emb` [b, e] is the embedding, `weight` [2c, e] and `bias` [2c] are those
# of the linear layer, whose first half of outputs is the scale $s$ and whose second half is the shift.


# %%
def modulate(
    h: torch.Tensor, emb: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor: ...  # your answer


nb04.check(modulate)

# %% [markdown]
# With it, the figure below shows three channels of the last block of the base stage: the *same* normalised features, modulated for five noise levels by your
# function. Until you have answered, they are shown as they are.

# %%
answered = nb04.check(modulate).right
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
# With your function, the same features are turned up, down or off, as the noise level says: nothing else has changed from one column to the next. (Each row
# is shown in shades of its own, gray is zero.)
#
# Next: [05, the frozen text encoder](05_text_encoder.ipynb).
