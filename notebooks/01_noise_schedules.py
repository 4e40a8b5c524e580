# %% [markdown]
# # 01 Noise schedules and the forward process
#
# **Objective:** see what the noise level means, what a schedule decides, and why a larger image needs another one.
#
# **Before this:** 00
#
# A diffusion model is trained to remove noise. We take a clean image $x_0$, add a known amount of
# noise $\epsilon \sim N(0, 1)$, and ask the network for the clean image:
#
# $$x_t = \alpha\, x_0 + \sigma\, \epsilon, \qquad \alpha^2 + \sigma^2 = 1$$
#
# This is the *forward process*. How noisy $x_t$ is depends on one number only, the ratio of the two
# parts. This is the *signal-to-noise ratio* (SNR), and we use its logarithm:
#
# $$\text{log-SNR} = \log \frac{\alpha^2}{\sigma^2}$$
#
# 0 means as much noise as image. A difference of 2.3 (that is, $\ln 10$) is a factor of 10. A
# *noise schedule* is a function from time $t$ (0: image, 1: noise) to log-SNR. It is decreasing.
# Nothing in it is learned: it is chosen, and the choice decides on which noise levels a network
# spends its capacity.

# %%
import torch
import torch.nn.functional as F

from imagen_mini.cascade.config import PRESETS
from imagen_mini.cascade.stage import augment_low_res
from imagen_mini.course.exercises import nb01
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.diffusion.gaussian import q_sample
from imagen_mini.diffusion.schedules import (
    alpha_sigma,
    cosine_log_snr,
    cosine_t,
    linear_log_snr,
    numeric_t,
    resolution_shift,
    sigmoid_log_snr,
    zero_terminal_snr,
)
from imagen_mini.evaluation.metrics import measure_log_snr
from imagen_mini.evaluation.parser_robustness import read_correctly
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import HELD_OUT_SEED, Scene, SceneObject, training_scene
from imagen_mini.utils.rng import randn
from imagen_mini.viz.image_grid import image_grid, image_table
from imagen_mini.viz.schedules import (
    legend_below,
    plot_against_normal,
    plot_noise_level_density,
    plot_schedule_curves,
)
from imagen_mini.viz.style import STYLES, percent_axis, subplots

setup_notebook()

# %% [markdown]
# ## 1. Adding noise
#
# Two functions are the two equations above. $\alpha$ and $\sigma$ follow from the log-SNR alone.

# %%
show_source(alpha_sigma, q_sample)

# %% [markdown]
# **Predict:** here is one image at nine noise levels. At which log-SNR will *you* lose the shapes?
# At which the colours? The parser of notebook 00 is strict: it needs every outline. A green frame
# says that it still reads the scene. Where does it fail?

# %%
star = SceneObject(x=19, y=42, shape="star", color="blue", size="large", texture="solid")
ring = SceneObject(x=44, y=20, shape="ring", color="red", size="large", texture="solid")
scene = Scene((star, ring), "beige")
x_0 = render(scene)  # [1, 3, 64, 64] in [-1, 1]
eps = randn([1], (3, 64, 64), "eps")

levels = torch.tensor([8.0, 6, 4, 2, 0, -2, -4, -6, -8])
noised = q_sample(x_0, eps, levels)
borders = [
    read_correctly([scene], (x / alpha_sigma(level)[0])[None])[0]
    for x, level in zip(noised, levels)
]
image_table(
    [list(noised)], ["x_t"], [f"log-SNR\n{level:g}" for level in levels], cell=96, borders=[borders]
).quantize(96)  # 96 colours: a smaller file

# %%
for level, readable in zip(levels, borders):
    alpha, sigma = alpha_sigma(level)
    verdict = "read by the parser" if readable else "not read"
    print(
        f"log-SNR {level:4.0f}: alpha {alpha:.3f}, sigma {sigma:.3f}, as noise of standard deviation {sigma / alpha:6.2f} on the image: {verdict}"
    )

# %% [markdown]
# **What you should have seen.** The parser fails at a noise level that hardly disturbs you:
# somewhere between a log-SNR of 4 and 2. Your eye follows easily to 0, and with some effort to -2.
# From -4 on a person sees only noise. But the image holds more information than the eye can see, as
# section 4 shows.
#
# ## 2. Schedules: which noise level at which time
#
# Four common choices:
#
# - **cosine**: $\alpha = \cos(\pi t / 2)$;
# - **linear**: DDPM's thousand steps of growing noise, in continuous time;
# - **sigmoid**: $\alpha^2$ falls along a part of a sigmoid;
# - **shifted**: any of them, shifted in log-SNR by a constant. Here the constant is -2.77, which
#   section 5 derives.

# %%
show_source(cosine_log_snr, linear_log_snr)

# %% [markdown]
# **Predict:** at $t = 0.5$, which of the four is noisiest? And which of them reach pure noise at
# $t = 1$?

# %%
schedules = {
    "cosine": cosine_log_snr,
    "linear": linear_log_snr,
    "sigmoid": sigmoid_log_snr,
    "cosine, shifted by -2.77": lambda t: cosine_log_snr(t, resolution_shift(256)),
}
plot_schedule_curves(schedules)

# %%
for name, schedule in schedules.items():
    at = schedule(torch.tensor([0, 0.5, 1.0], dtype=torch.float64))
    print(f"{name:25} log-SNR at t = 0, 0.5, 1: {at[0]:6.2f} {at[1]:6.2f} {at[2]:6.2f}")

# %% [markdown]
# **What you should have seen.** At $t = 0.5$ the shifted schedule is noisiest, and linear is close
# to it. Linear has as much noise as image (log-SNR 0) at $t \approx 0.26$ already, cosine at 0.5.
# The sigmoid with its usual parameters is nearly the cosine. A shift moves the whole curve down and
# keeps its form. None of them quite reaches $\alpha = 0$: the log-SNR would be $-\infty$ there. The
# papers' cosine and sigmoid formulas do reach it, so here both are clipped at 12 and -12. Linear
# ends at -10.05 without clipping.
#
# ## 3. A schedule says *when*, not *what*
#
# **Predict:** the same image and the same noise under three schedules, first at equal times, then
# at equal log-SNR. How different will the rows be?

# %%
times = torch.tensor([0.15, 0.35, 0.55, 0.75])
names = list(schedules)[:3]
strips = [q_sample(x_0, eps, schedules[name](times)) for name in names]
image_table(
    [list(strip) for strip in strips], names, [f"t = {t:.2f}" for t in times], cell=112
).quantize(96)

# %%
levels = torch.tensor([5.0, 2, -1, -4])
when = {
    name: numeric_t(levels.double(), schedules[name]) for name in names
}  # at which t each schedule has these log-SNRs
strips = [q_sample(x_0, eps, schedules[name](when[name])) for name in names]
difference = max((strip - strips[0]).abs().max() for strip in strips)
print(f"largest difference between the rows below: {difference:.0e}")
labels = [
    f"{name}, t {t:.2f}, log-SNR {level:g}"
    for name in names
    for t, level in zip(when[name], levels)
]
image_grid(
    [image for strip in strips for image in strip], labels, columns=len(levels), cell=112
).quantize(96)

# %% [markdown]
# **What you should have seen.** At equal times the rows differ. At equal log-SNR they are the same
# image, up to rounding error: only the time written below differs. So networks here are given the
# log-SNR and never $t$. A schedule does just one thing: it distributes times over noise levels. In
# training, $t$ is sampled uniformly from [0, 1], so the figure below is the distribution *that a
# network is trained on*. In sampling, steps that are uniform in $t$ have the same distribution.
#
# **Predict:** the base stage of this package was trained with a cosine schedule, shifted by -4. Its
# images are a few flat shapes on a plain background. Why so much noise?

# %%
base = PRESETS["mini"]["base"]
schedules["cosine, shifted by -4 (our base stage)"] = lambda t: cosine_log_snr(
    t, base.log_snr_shift
)
plot_noise_level_density(schedules)

# %%
t = torch.linspace(0, 1, 10_001)
for name, schedule in schedules.items():
    log_snr = schedule(t)
    between, above = ((-8 < log_snr) & (log_snr < -1)).float().mean(), (log_snr > -1).float().mean()
    print(
        f"{name:40} {between:4.0%} of the times lie between log-SNR -8 and -1, {above:4.0%} above"
    )

# %% [markdown]
# **What you should have seen.** In this world an image's layout and shapes are decided at log-SNRs
# from about -8 to -1 (notebook 02 measures it): large flat shapes stay visible through much noise.
# An unshifted schedule spends most of its times on images that are nearly clean, where there is
# little left to learn. Photographs are full of fine detail and need these times. There is no best
# schedule, only one that fits the images.
#
# ## 4. Is it pure noise yet?
#
# Sampling starts from pure noise, so the end of the forward process should be pure noise, too. We
# look at the single values of $x_t$, of 200 images.
#
# **Predict:** from which log-SNR on can you no longer distinguish the histogram from N(0, 1)?

# %%
scenes = [training_scene(HELD_OUT_SEED, i) for i in range(200)]
images = render(scenes)
noise = randn(range(200), (3, 64, 64), "eps")
levels = [6.0, 1.0, -2.0, -6.0]
x_t = {
    f"x_t at log-SNR {level:g}": q_sample(images, noise, torch.tensor(level)) for level in levels
}
plot_against_normal({name: x[:, :, ::4, ::4] for name, x in x_t.items()})

# %%
for name, x in x_t.items():
    print(f"{name:20} mean {x.mean():6.3f}, standard deviation {x.std():.3f}")

# %% [markdown]
# At -2 the histogram is nearly that of noise. At -6 nobody can distinguish the two by eye. (The
# standard deviation is below 1 at the start because that of the clean images is, too. With
# $\alpha^2 + \sigma^2 = 1$ it would stay at exactly 1 if theirs were.)
#
# But a histogram of single values says nothing about correlations between pixels. What if we first
# *average* all $n = 3 \cdot 64 \cdot 64$ values of an image? The mean of $n$ independent noise
# values has the standard deviation $1 / \sqrt n$. So $\sqrt n$ times the mean is N(0, 1) again, if
# it is noise.
#
# **Predict:** is it, at a log-SNR of -6? At the very end of the linear schedule, -10.05?

# %%
count = images[0].numel()
levels = [-6.0, -8.0, linear_log_snr(torch.tensor(1.0)).item(), -12.0]
plot_against_normal(
    {
        f"means at log-SNR {level:.4g}": q_sample(images, noise, torch.tensor(level)).mean(
            (1, 2, 3)
        )
        * count**0.5
        for level in levels
    },
    limit=9,
)

# %%
of_means = images.mean((1, 2, 3)).var()  # over images: white and black backgrounds differ much
schedules["linear, zero terminal SNR"] = zero_terminal_snr(linear_log_snr)
for name, schedule in schedules.items():
    alpha, sigma = alpha_sigma(schedule(torch.ones((), dtype=torch.float64)))
    deviations = [(sigma**2 + alpha**2 * of_means * 3 * size**2).sqrt() for size in (64, 256)]
    print(
        f"{name:40} at t = 1, standard deviation of the means: {deviations[0]:.2f} (64 px), {deviations[1]:.2f} (256 px); noise has 1.00"
    )

# %% [markdown]
# **What you should have seen.** At -6 the values look like noise, and yet the means are spread over
# several groups: black backgrounds on the left, gray in the middle, beige and white on the right.
# The average of 12,288 values detects an image in noise that hides every single value. At the end
# of the linear schedule there is still a trace in images of 64 px and a clear one in those of 256
# px. A sampler that starts from *pure* noise then starts from an input that training never showed:
# an image of medium brightness. This flaw, and the remedy, a schedule with zero terminal SNR, are
# the subject of Lin et al. (2023).
#
# Remember: **how noisy an image is depends on how many pixels there are to average.**
#
# ## 5. 64 and 256 pixels at the same $t$
#
# **Predict:** one scene at 64 px and at 256 px, both at the same $t$ of the cosine schedule. Then
# the large one is averaged over squares of 4 x 4 pixels. Is it as noisy as the small one?

# %%
t = torch.tensor([0.3, 0.6, 0.85])
eps_256 = randn([1], (3, 256, 256), "eps, 256 px")
x_64 = q_sample(x_0, eps, cosine_log_snr(t))
x_256 = q_sample(render(scene, 256), eps_256, cosine_log_snr(t))
averaged = F.avg_pool2d(x_256, 4)
rows = {
    "64 px": x_64,
    "256 px, same t (every second pixel shown)": x_256,
    "256 px, 4 x 4 pixels averaged": averaged,
}
image_table(
    [list(x) for x in rows.values()], list(rows), [f"t = {x:.2f}" for x in t], cell=128
).quantize(96)

# %%
shift = resolution_shift(256)
print(f"resolution_shift(256) = {shift:.3f}. Log-SNR, measured at 64 px over 24 scenes:")
chosen = scenes[:24]
small, large = render(chosen), render(chosen, 256)
noise_small, noise_large = (
    randn(range(24), (3, 64, 64), "eps"),
    randn(range(24), (3, 256, 256), "eps, 256 px"),
)
for log_snr in cosine_log_snr(t):
    same, shifted = (
        q_sample(large, noise_large, log_snr),
        q_sample(large, noise_large, log_snr + shift),
    )
    seen = [q_sample(small, noise_small, log_snr), F.avg_pool2d(same, 4), F.avg_pool2d(shifted, 4)]
    measured = [measure_log_snr(x, small) for x in seen]
    print(
        f"small {measured[0]:5.2f},  large, averaged {measured[1]:5.2f},  large with the shift, averaged {measured[2]:5.2f}"
    )

# %% [markdown]
# Averaging $k \times k$ pixels leaves a flat image as it is and divides the noise's standard
# deviation by $k$. So it multiplies the SNR by $k^2$: here by 16, a log-SNR higher by
# $2 \log 4 = 2.77$. To hide as much in a larger image as in a small one, subtract that:

# %%
show_source(resolution_shift)

# %% [markdown]
# With the shift, the numbers of a row agree. More than that: let the noise of the small image *be*
# the averaged noise of the large one (times 4, so that it is N(0, 1) again). Then the averaged
# large image *is* the small one, up to a scale factor:

# %%
eps_64 = 4 * F.avg_pool2d(eps_256, 4)
log_snr = cosine_log_snr(torch.tensor(0.5))
x_small = q_sample(F.avg_pool2d(render(scene, 256), 4), eps_64, log_snr)
x_large = F.avg_pool2d(q_sample(render(scene, 256), eps_256, log_snr + shift), 4)
scale = alpha_sigma(log_snr)[0] / alpha_sigma(log_snr + shift)[0]
print(
    f"the averaged noise has standard deviation {eps_64.std():.3f}; largest difference of the two images: {(x_small - scale * x_large).abs().max():.0e}"
)

# %% [markdown]
# Now the parser measures what can still be read.
#
# **Predict:** it reads 24 scenes at growing $t$, always from 64 px. Where are the three curves?

# %%
times = torch.linspace(0.02, 0.58, 15)
correct = {"64 px": [], "256 px, averaged": [], "256 px with the shift, averaged": []}
for t in times:
    log_snr = cosine_log_snr(t)
    same, shifted = (
        q_sample(large, noise_large, log_snr),
        q_sample(large, noise_large, log_snr + shift),
    )
    seen = [q_sample(small, noise_small, log_snr), F.avg_pool2d(same, 4), F.avg_pool2d(shifted, 4)]
    alphas = [alpha_sigma(x)[0] for x in (log_snr, log_snr, log_snr + shift)]
    for found, x, alpha in zip(correct.values(), seen, alphas):
        found.append(read_correctly(chosen, x / alpha))

fig, (ax,) = subplots(["what the parser still reads"], "t, cosine schedule   (1 noise)")
fig.set_size_inches(6, 3.6)
for (name, found), style in zip(correct.items(), STYLES):
    ax.plot(times, [sum(each) / len(each) for each in found], label=name, **style)
ax.set_ylabel("scenes read correctly")
percent_axis(ax)
legend_below(fig, ax)
fig

# %%
for name, found in correct.items():
    last = max(
        (t for t, each in zip(times.tolist(), found) if sum(each) >= len(each) / 2), default=0
    )
    print(
        f"{name:32} half of the scenes are read up to t = {last:.2f}; at t = {times[5]:.2f}: {score_line(found[5])}"
    )

# %% [markdown]
# **What you should have seen.** The large image can be read for more than three times as long. The
# shift brings its curve back to that of the small one. An unshifted schedule at 256 px would spend
# most of its times on images whose layout is clearly visible.
#
# ## 6. And noise augmentation?
#
# Consider the super-resolution stage. Its input is *two* noisy images: $x_t$ at 256 px, and the
# base's small image, to which a little noise is added on purpose (`augment_low_res`, level 0.1 by
# default). Both carry information about the same 64 px layout, each with its own log-SNR. The
# calculation of section 5 compares them.
#
# **Predict:** if the small image came without noise, would the stage ever use $x_t$ for the layout,
# even where the small image is wrong?

# %%
sr = PRESETS["mini"]["sr_256"]
aug = torch.tensor([0.0, 0.1, 0.3, 0.5])
augmented = augment_low_res(x_0.expand(4, -1, -1, -1), aug, randn([2], (3, 64, 64), "aug"))
for level in aug.double():
    offered = cosine_log_snr(level)  # log-SNR of the small image
    equal = cosine_t(offered + shift, sr.log_snr_shift).clamp(
        0, 1
    )  # the time at which x_t, averaged, has as much
    print(
        f"aug_level {level:.1f}: the small image has log-SNR {offered:5.2f}; x_t has more information about the layout before t = {equal:.2f}"
    )
image_table(
    [list(augmented)],
    ["input of the stage"],
    [f"aug_level {level:.1f}" for level in aug],
    cell=128,
).quantize(96)

# %% [markdown]
# **What you should have seen.** Without noise on it, the small image carries more information at
# nearly all times. A network trained in this way can learn to copy it, errors of the base stage
# included. With a little noise on it, the small image is no longer the best source at all times,
# and the last part of the trajectory can rely on what has formed in $x_t$. What that is worth in
# images is the subject of notebook 10.
#
# ## Exercise: equal noise at another size
#
# Suppose the schedule may not be shifted: cosine for all sizes. You can still make a large image as
# noisy as a small one, by choosing another *time*. Write the function: a 64 px image is at time
# `t`; at which time is an image of `size` pixels, once averaged down to 64, as noisy? `t` is a
# tensor. You may use `cosine_log_snr`, its inverse `cosine_t`, and `resolution_shift`.


# %%
def time_for(size: int, t: torch.Tensor) -> torch.Tensor: ...  # your answer


nb01.check(time_for)

# %% [markdown]
# Once it is correct, the lower row below is as noisy as the upper one: the noise is not the same,
# but there is as much of it. Until then it is at the time of the upper row.

# %%
answered = nb01.check(time_for).correct
t = torch.tensor([0.2, 0.4, 0.6, 0.8])
other = time_for(256, t) if answered else t
upper = q_sample(x_0, eps, cosine_log_snr(t))
lower = F.avg_pool2d(q_sample(render(scene, 256), eps_256, cosine_log_snr(other)), 4)
for x, a, b in zip(t, upper, lower):
    print(
        f"t = {x:.1f}: measured log-SNR {measure_log_snr(a[None], x_0):4.1f} above, {measure_log_snr(b[None], x_0):4.1f} below"
    )
stretch = lambda x: 0.7 * x / x.std((1, 2, 3), keepdim=True)  # equal contrast, for display
names = ["64 px at t", "256 px at time_for(256, t)" if answered else "256 px at t (exercise open)"]
image_table(
    [list(stretch(upper)), list(stretch(lower))], names, [f"t = {x:.1f}" for x in t], cell=112
).quantize(96)

# %% [markdown]
# Next: [02, denoising](02_denoising.ipynb).
