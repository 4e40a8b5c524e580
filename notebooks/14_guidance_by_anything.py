# %% [markdown]
# # 14 Guidance by anything
#
# **Objective:** lead sampling by a classifier, by a loss, by attention, by several prompts and by a direction in the network, and see which of these are one equation.
#
# **Before this:** 07; 06 for attention
#
# In notebook 07 a caption led the trajectory. By Bayes' rule anything else can. If $y$ is something
# that we want to be true of the image, then
#
# $$\nabla_{x_t} \log p(x_t \mid y) = \nabla_{x_t} \log p(x_t) + \nabla_{x_t} \log p(y \mid x_t)$$
#
# The first term is the denoiser that we have. The second one is a gradient of a number. As
# $\hat x_0 = (x_t + \sigma_t^2 \nabla \log p(x_t)) / \alpha_t$ (Tweedie's formula), the predicted
# clean image is shifted by
#
# $$\hat x_0 \;\leftarrow\; \hat x_0 + s\, \frac{\sigma_t^2}{\alpha_t}\, \nabla_{x_t} \log p(y \mid x_t)$$
#
# with a scale $s$, which is 1 for the exact posterior. Where there is no probability, minus an
# *energy* stands in its place: a number that is low where the image is as we want it. Sections 2 and
# 3 have an energy each. In 4 and 5 the captions are the classifier. Section 6 leaves the equation.

# %%
import torch

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.sampling import starting_noise
from imagen_mini.cascade.sampling_options import resolve_sampling_options
from imagen_mini.course.exercises import nb14
from imagen_mini.course.notebook import judged_table, setup_notebook, show_source
from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.diffusion.guidance_rules import cfg_plus_plus_scale, guide_by_classifier
from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import alpha_sigma
from imagen_mini.editing.attention_guidance import (
    attention_box_energy,
    attention_recorder,
    descend_attention,
)
from imagen_mini.editing.guides import (
    AttentionLayout,
    AttentionRefocusing,
    ComposedPrompts,
    DirectionGuide,
    LossGuide,
)
from imagen_mini.editing.h_space import ShiftFeatures, jacobian_directions, middle_site
from imagen_mini.editing.image_losses import color_loss
from imagen_mini.evaluation.analytic_denoisers import mixture_denoiser
from imagen_mini.evaluation.guidance_comparison import sample_by_rule
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import COLORS, Scene, SceneObject
from imagen_mini.utils.rng import randn
from imagen_mini.viz.image_grid import image_table

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
base = pipe.stages["base"].requires_grad_(False)
schedule = base.schedule


def generate(caption, seeds, **options):
    """Images of one caption by the first stage, [n, 3, 64, 64]."""
    options = {"num_inference_steps": 12, "output_type": "pt", "progress": False} | options
    return pipe([caption] * len(seeds), seed=list(seeds), stages=("base",), **options).images


show_source(guide_by_classifier)

# %% [markdown]
# ## 1. A classifier, exactly
#
# A world of eight images: a circle or a star, red or blue, on the left or on the right. In so small
# a world everything is known: the best denoiser is a weighted mean of the eight, and the best
# classifier of *noisy* images adds up the weights of those that show a circle. So we can test the
# equation. The denoiser knows all eight images, and the classifier leads it to circles. If the
# equation holds, the result equals the denoiser that knows circles only.
#
# **Predict:** the noisy image below shows a star. What does the guided denoiser return: the star, a
# circle, or a mixture? And does it make a difference whether there is more or less noise?

# %%
world = torch.cat(
    [
        render(
            Scene(
                (SceneObject(x=x, y=32, shape=shape, color=color, size="large", texture="solid"),),
                "white",
            )
        )
        for shape in ("circle", "star")
        for color in ("red", "blue")
        for x in (20, 44)
    ]
)
anything, circles = mixture_denoiser(world, schedule), mixture_denoiser(world[:4], schedule)


def log_p_circle(x_t: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """log p(the image shows a circle | x_t), [b], exactly."""
    alpha, sigma = (c[:, None] for c in alpha_sigma(log_snr.double()))
    centres = alpha[..., None] * world.double().flatten(1)
    far = (x_t.double().flatten(1)[:, None] - centres).square().sum(2)
    return (-far / (2 * sigma**2)).log_softmax(1)[:, :4].logsumexp(1)


guided = guide_by_classifier(anything, log_p_circle, 1.0, schedule)
times = [torch.tensor(t, dtype=torch.float64) for t in (0.6, 0.75, 0.85, 0.95)]
columns = []
for t in times:
    x_t = q_sample(world[6:7], randn([0], (3, 64, 64), "x"), schedule(t).float().expand(1))
    columns.append([x_t, anything(x_t, t), guided(x_t, t), circles(x_t, t)])
    p = log_p_circle(x_t, schedule(t).expand(1)).exp().item()
    far = (columns[-1][2] - columns[-1][3]).abs().max().item()
    print(f"t = {t:.2f}: p(circle | x_t) = {p:.3f}; guided and exact differ by {far:.1e}")
image_table(
    [[column[row][0].clamp(-1, 1) for column in columns] for row in range(4)],
    ["x_t, of a blue star", "knows all eight", "the same, guided", "knows circles only"],
    [f"t = {t:.2f}" for t in times],
    cell=96,
)

# %% [markdown]
# **What you should have seen.** The last two rows are equal. At the least noise shown the denoiser
# sees the star, and the classifier gives circles a probability of 2 %. The gradient is large enough
# to turn the star into a blue circle all the same: it is the *exact* posterior, in which stars do
# not exist. With more noise the estimate is a mixture of circles.
#
# Two conditions are hidden here. The classifier must know *noisy* images, and how noisy they are.
# And the scale is 1. With $s > 1$ each step follows $p(x_t)\, p(y \mid x_t)^s$: *noisy* images from
# which $y$ is read with more certainty have more weight, the exaggeration of notebook 07. The result
# is no sample of $p(x_0 \mid y)$. Nor is it one of $p(x_0)\, p(y \mid x_0)^s$, which is the same for
# every $s$ in this world. A classifier for this world's network is trained by
# `python -m train.noisy_classifier`; none is shipped.
#
# ## 2. A loss of the estimate
#
# Without a classifier of noisy images, one can ask a loss about $\hat x_0(x_t)$, which is a clean
# image, if a blurred one. This is *universal guidance*
# ([Bansal et al., 2023](https://arxiv.org/abs/2302.07121)):
#
# - **forward:** $\hat x_0 \leftarrow \hat x_0 - s\, \alpha_t \nabla_{x_t}\, \ell(\hat x_0(x_t))$,
#   with the gradient through the network;
# - **backward:** a few steps of gradient descent on $\ell$ by $\hat x_0$ itself, which cost almost
#   nothing;
# - **recurrence:** every step is taken several times, with noise back in between.
#
# The factor $\alpha_t$ is that of reconstruction guidance
# ([Ho et al., 2022](https://arxiv.org/abs/2204.03458)). The scale $s$ makes up for the difference to
# $\sigma_t^2 / \alpha_t$.
#
# The loss here is the squared distance to red, on a disc at the upper left. The caption is only "a
# circle".
#
# **Predict:** what happens to a circle that lies elsewhere: does it move, does it stay, and does a
# second one appear?

# %%
centre = torch.arange(64) + 0.5
disc = ((centre[:, None] - 18).square() + (centre[None] - 18).square() < 9**2).float()
red_here = color_loss(COLORS["red"], disc)

seeds, rows = [0, 2, 3], []
for name, guide, options in [
    ("no guide", None, {}),
    ("forward, s = 1000", LossGuide(red_here, 1000.0), {}),
    ("forward, s = 10000", LossGuide(red_here, 10000.0), {}),
    ("forward, s = 1000, DDIM", LossGuide(red_here, 1000.0), {"sampler": "ddim"}),
    (
        "all three, s = 1000, DDIM",
        LossGuide(red_here, 1000.0, backward_steps=5, backward_rate=30.0, rounds=3),
        {"sampler": "ddim"},
    ),
]:
    images = generate("a circle", seeds, guide=guide, **options)
    rows.append((name, "a circle", images))
    print(f"{name:25} loss {', '.join(f'{value:.4f}' for value in red_here(images))}")
judged_table(rows, [f"seed {s}" for s in seeds], cell=112)

# %% [markdown]
# **What you should have seen.** Forward guidance alone is a compromise between the network and the
# loss. With $s = 1000$ it works for two of the three seeds, and the third image is a blot; by DDIM,
# the sampler of the last row, it works for one. With ten times the scale $x_t$ leaves the noisy
# images that the network was trained on, and every image breaks. The backward steps obey the loss
# to the letter, and recurrence gives the network time to make an image of the result. Then every
# image has its red circle in the place, and nothing else, since "a circle" means one object.
# Replace `disc` by a square mask, and the circle becomes a square: the loss, not the caption,
# decides.
#
# **The price.** A forward step needs a backward pass through the network, so about three times the
# computation of a plain step. Three rounds multiply all by three.
#
# ## 3. Attention
#
# The network says itself where it is going to place which word: in its cross-attention (notebook
# 06). So the maps can be the argument of an energy, and $x_t$ moves along its gradient before each
# of the first steps ([Chen et al., 2023](https://arxiv.org/abs/2304.03373)):
#
# $$E = \sum_{words} \left(1 - \frac{\text{attention to the word inside its box}}{\text{attention to the word}}\right)^2,
# \qquad x_t \leftarrow x_t - \eta\, \nabla_{x_t} E$$
#
# No layout was ever in the training. *Attention refocusing*
# ([Phung et al., 2023](https://arxiv.org/abs/2306.05427)) has other losses for the same boxes: the
# *peak* of the attention to a word is in its box, and pixels of a box do not attend to pixels
# outside.
#
# **Predict:** the circle gets the upper left quarter, the square the lower right one. Without a
# guide, how many of six images have both objects there by chance?

# %%
caption = "a red circle and a blue square"
boxes = {"circle": (0.0, 0.0, 0.5, 0.5), "square": (0.5, 0.5, 1.0, 1.0)}


def centre_in_box(scene, shape):
    """Is the centre of the object of this shape in its box?"""
    left, top, right, bottom = (64 * edge for edge in boxes[shape])
    found = [o for o in (scene.objects if scene else ()) if o.shape == shape]
    return bool(found) and left <= found[0].x <= right and top <= found[0].y <= bottom


rows, seeds = [], range(6)
for name, guide in [
    ("no guide", None),
    ("layout", AttentionLayout(boxes)),
    ("refocusing", AttentionRefocusing(boxes)),
]:
    images = generate(caption, seeds, guide=guide)
    rows.append((name, caption, images))
    scenes = [parsed.scene for parsed in parse_image(images)]
    inside = [[centre_in_box(scene, shape) for shape in boxes] for scene in scenes]
    circles, squares = (sum(of) for of in zip(*inside))
    print(
        f"{name:12} centre in its box: circle {circles} of 6, square {squares} of 6, "
        f"both {sum(map(all, inside))}; {score_line(judge_images([caption] * 6, images))}"
    )
judged_table(rows, [f"seed {s}" for s in seeds], cell=96)

# %% [markdown]
# **What you should have seen.** Both guides draw the objects towards their boxes, and the images
# stay images: what moves $x_t$ is small, and it comes early, before anything is decided. A centre
# may still miss its box. The energy asks for attention, not for objects, and the network may do
# with an object what it likes once it attends to the right place. On more images
# `sample.guide --method layout refocus` counts whether captions stay correct; it measures no places.
#
# ## 4. Several prompts
#
# If two prompts are independent given the noisy image $x$, then
# $p(x \mid c_1, c_2) \propto p(x) \prod_i p(x \mid c_i) / p(x)$, so what they add can be added up.
# This is *composable diffusion* ([Liu et al., 2022](https://arxiv.org/abs/2206.01714)): AND, and
# with a negative weight NOT.
#
# $$\tilde x_0 = \hat x_0(x_t) + \sum_i w_i\, \bigl(\hat x_0(x_t, c_i) - \hat x_0(x_t)\bigr)$$
#
# Here each $w_i$ is the network's own guidance scale, 2 in its interval of noise levels and 1
# outside. Beside each composition stands the joint caption, read as one.
#
# **Predict:** which of the two works: "a red circle" AND "a circle on a black background", or "a
# star" AND "a ring"? In this world a caption names *all* objects of its image.

# %%
rows, seeds = [], range(4)
for parts, wanted in [
    (["a red circle", "a circle on a black background"], "a red circle on a black background"),
    (["a star", "a ring"], "a star and a ring"),
]:
    guide = ComposedPrompts([(part, 1.0) for part in parts])
    images = generate(parts[0], seeds, guide=guide)
    rows += [(" AND ".join(parts), wanted, images), (wanted, wanted, generate(wanted, seeds))]
    for name, _, found in rows[-2:]:
        print(f"{name}: {score_line(judge_images([wanted] * 4, found))}")
judged_table(rows, [f"seed {s}" for s in seeds], cell=112)

# %% [markdown]
# **What you should have seen.** Colour and background compose, as well as if one caption had said
# both: neither prompt says anything about what the other one asks for. "A star" and "a ring"
# contradict each other, because each says that there is one object. The product of the two has no
# image. What comes out is a ring, or a star and a ring on top of each other, where the joint caption
# gives both side by side.
#
# ## 5. Large scales, by other rules
#
# In notebook 07 a scale of 8 ruined the images. Between the two predictions there is room for other
# rules than the line through both. All have the same scale here, but for CFG++, whose strength goes
# from 0 to 1:
#
# | rule | idea |
# |---|---|
# | static, dynamic | clip $\hat x_0$ afterwards (notebook 08) |
# | interval ([Kynkäänniemi et al., 2024](https://arxiv.org/abs/2404.07724)) | guide only at middle noise levels |
# | rescaled ([Lin et al., 2023](https://arxiv.org/abs/2305.08891)) | keep the standard deviation of the conditional prediction |
# | CFG++ ([Chung et al., 2024](https://arxiv.org/abs/2406.08070)) | guide $\hat x_0$, but put back the unconditional noise |
#
# The first row has a scale of 2, at which this network works best.
#
# **Predict:** where does guidance do its harm: within the interval, or outside of it?

# %%
caption, seeds, rows = "a red circle above a blue square", range(4), []
options = resolve_sampling_options(base, num_inference_steps=12)
ways = [("dynamic", 2.0), *((rule, 8.0) for rule in ("static", "dynamic", "interval", "rescaled"))]
for rule, w in [*ways, ("cfg++", 1.0)]:
    images = sample_by_rule(base, pipe.text_encoder([caption] * 4), seeds, options, rule, w)
    rows.append((f"{rule}, {w:g}", caption, images))
    print(f"{rows[-1][0]:12} {score_line(judge_images([caption] * 4, images))}")
cfg_weights = cfg_plus_plus_scale(1.0, base.timesteps(12), schedule)
print("w(t) of CFG++:", ", ".join(f"{cfg_weights(float(t)):.2f}" for t in base.timesteps(12)[:-1]))
judged_table(rows, [f"seed {s}" for s in seeds], cell=96)

# %% [markdown]
# **What you should have seen.** The interval keeps its images clean at a scale of 8, where the others
# break theirs. So the harm is done outside of it; the figure does not say at which end. CFG++ is not
# at that scale: a step of it is one of plain guidance with the weight printed last, which is below 3
# at all times, by DDIM and without thresholding. Its row belongs beside the first one. Over many
# captions, scales and methods:
# `python -m sample.distribution_metrics --rules interval rescaled projected cfg++`.
#
# ## 6. A direction inside the network
#
# The features in the middle of the U-Net are called $h$. A shift of $h$ changes what the image
# shows, if the noise that is put back stays that of the unshifted network
# ([Kwon et al., 2023](https://arxiv.org/abs/2210.10960)):
#
# $$x_s = \alpha_s\, \hat x_0(x_t \mid h + \delta) + \sigma_s\, \hat\epsilon(x_t \mid h)$$
#
# Which directions $\delta$ are there? Nobody has to label any. The directions of $h$ that change
# $\hat x_0$ most are the singular vectors of its Jacobian, found by subspace iteration
# ([Haas et al., 2023](https://arxiv.org/abs/2303.11073)).
#
# **Predict:** the caption is "a circle". It leaves colour, size, position and background open.
# Which of these changes along the direction with the largest singular value, at an early step? And
# along a random direction of the same length?

# %%
caption, steps = "a circle", 16
text, site = pipe.text_encoder([caption]), middle_site(base.net.block_sites)
plain = base.denoiser(text, guidance_scale=1.0, threshold="none")
times = base.timesteps(steps)
early, seed = 4, 1  # the step and the seed at which directions are looked for
x_t = starting_noise(base, [seed])
with torch.no_grad():
    for state in sample(plain, x_t, times[: early + 1], schedule, "ddim"):
        x_t = state.x


def estimate(delta: torch.Tensor) -> torch.Tensor:
    """The predicted clean image, with h shifted by delta [c, g, g]."""
    control = ShiftFeatures(site, delta[None])
    denoise = base.denoiser(
        text, guidance_scale=1.0, threshold="none", control_at=lambda t: control
    )
    return denoise(x_t, times[early])


at = torch.zeros(base.config.unet.channels[-1], site.size, site.size)
directions, singular = jacobian_directions(estimate, at, count=2, iterations=4)
print(f"t = {times[early]:.2f}, singular values {', '.join(f'{v:.1e}' for v in singular)}")

random = randn([0], tuple(at.shape), "direction")[0]
named = {
    "direction 0": directions[0],
    "direction 1": directions[1],
    "a random one": random / random.norm(),
}
strengths, rows = torch.tensor([-3000.0, -600.0, 0.0, 600.0, 3000.0]), []
for name, direction in named.items():
    guide = DirectionGuide(strengths[:, None, None, None] * direction, until=0.7)
    images = generate(caption, [seed] * len(strengths), sampler="ddim", eta=0.0, guide=guide)
    rows.append((name, caption, images))
    found = [parsed.scene.objects[0] if parsed.scene else None for parsed in parse_image(images)]
    print(
        f"{name}:",
        ", ".join(f"{o.size} {o.color} at ({o.x}, {o.y})" if o else "unreadable" for o in found),
    )
judged_table(rows, [f"{s:+g}" for s in strengths], cell=96)

# %% [markdown]
# **What you should have seen.** Along the network's own directions the colour and the place of the
# circle change: what the caption leaves open and what is not yet decided at this step. The background
# was decided before. The shape stays, for of that the caption speaks, and the words enter at every
# level of the U-Net, not only in the middle. At 3000 in either sense most images break: a circle gets
# two colours, or another size, and the parser cannot read it. A random direction of the same length
# leaves at most a stain: it is the control without which the first two rows would prove little. The
# directions are mixed, though. None is "colour" alone, and on another seed they
# mean something else. `python -m sample.directions` looks for them by other methods as well, and
# counts what else they change.
#
# ## Exercise 1: the shift
#
# Write the equation at the top of this notebook: the shift of $\hat x_0$ by a classifier. You get
# $\hat x_0$ and the gradient of $\log p(y \mid x_t)$ with respect to $x_t$, both `[b, 3, h, w]`,
# the noise level of each image as `log_snr` `[b]`, and the scale $s$. `alpha_sigma(log_snr)` returns
# $\alpha_t$ and $\sigma_t$, each `[b]`.


# %%
def shift(
    x_0_hat: torch.Tensor, gradient: torch.Tensor, log_snr: torch.Tensor, s: float
) -> torch.Tensor: ...  # your answer


nb14.check(shift)

# %% [markdown]
# With it, the small world of section 1 is sampled with your guidance. Until you have answered, it
# is sampled without.

# %%
answered = nb14.check(shift).correct


def by_your_shift(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    log_snr = schedule(t).expand(len(x_t))
    with torch.enable_grad():
        at = x_t.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(log_p_circle(at, log_snr).sum(), at)
    return shift(anything(x_t, t), gradient, log_snr, 1.0)


x_T = randn(range(8), (3, 64, 64), "x_T").double()
*_, last = sample(
    by_your_shift if answered else anything, x_T, base.timesteps(32).double(), schedule, "ddim"
)
shows_circle = log_p_circle(last.x_0_hat, schedule(torch.tensor(0.0)).expand(8)).exp() > 0.5
print(f"{int(shows_circle.sum())} of 8 are circles", "" if answered else "(exercise open)")
image_table(
    [list(last.x_0_hat.float())], ["your guidance"], [f"seed {i}" for i in range(8)], cell=72
)

# %% [markdown]
# ## Exercise 2: an energy
#
# Write the energy of one box: $(1 - \text{inside} / \text{all})^2$. `maps` `[b, h, w]` is the
# attention of every location to one word, at least 0. `mask` `[h, w]` is 1 in the box and 0
# outside. Return `[b]`: one number for each image, since their trajectories do not depend on each
# other. Gradients have to pass through it.


# %%
def energy(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor: ...  # your answer


nb14.check_energy(energy)

# %% [markdown]
# With it the star goes where you want: change `box`. Until you have answered, it goes nowhere.

# %%
answered = nb14.check_energy(energy).correct
caption, box, seeds = "a star", (0.5, 0.0, 1.0, 0.5), range(6)
text = pipe.text_encoder([caption] * len(seeds))
star = pipe.text_encoder.tokenize_prompt(caption).positions_of_word(1)
mask = torch.zeros(16, 16)
left, top, right, bottom = (round(16 * edge) for edge in box)
mask[top:bottom, left:right] = 1
record = attention_recorder(
    lambda control: base.denoiser(
        text, guidance_scale=1.0, threshold="none", control_at=lambda t: control
    ),
    size=16,
)
times = base.timesteps(12)
yours = lambda maps: energy(maps[..., star].mean(-1), mask)
move = descend_attention(record, yours, times, rate=30.0, until=0.2, repeat=5)

x = starting_noise(base, seeds)
if answered:
    x = move(x, -1, float(times[0]))
with torch.no_grad():
    *_, last = sample(
        base.denoiser(text, guidance_scale=2.0),
        x,
        times,
        schedule,
        "ddim",
        after_step=move if answered else None,
    )
    first = attention_box_energy([{tuple(star): box}] * len(seeds))(
        record(starting_noise(base, seeds), times[0])
    )
    moved = attention_box_energy([{tuple(star): box}] * len(seeds))(record(x, times[0]))
print("energy at the first step, without:", ", ".join(f"{v:.2f}" for v in first))
print("                             with:", ", ".join(f"{v:.2f}" for v in moved))
judged_table(
    [("your energy", caption, last.x_0_hat.clamp(-1, 1))], [f"seed {s}" for s in seeds], 96
)

# %% [markdown]
# **What you should have seen** (once answered). Exercise 1: all eight are circles. Exercise 2: the
# energy falls before the first step, and most stars lie in the box or near it.
#
# Next: [15, train on your own images](15_your_own_images.ipynb).
