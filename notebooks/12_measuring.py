# %% [markdown]
# # 12 Measuring: DrawBench-like
#
# **Objective:** say how good a text-to-image model is, with a number that others can trust, and know what the number cannot see.
#
# **Before this:** 00, and 07 for the guidance weight
#
# A few nice images prove nothing: they were chosen. A *benchmark* fixes the captions beforehand,
# generates an image for every one, and counts. DrawBench does so with about 200 captions in eleven
# categories, and people as judges. Ours has similar categories, but it is not DrawBench: its
# captions are of the world of shapes, and its judge is a parser that reads an image back into a
# scene. So it is cheap and reproducible. It is not automatically correct: a count needs an
# **interval**, and a judge has to be tested.

# %%
import random

import torch

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb12
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.evaluation.benchmark import CATEGORIES, HELD_OUT_CATEGORIES, benchmark
from imagen_mini.evaluation.corruptions import gaussian_noise
from imagen_mini.evaluation.error_analysis import classify_error, error_table
from imagen_mini.evaluation.metrics import frechet_distance, gaussian_statistics
from imagen_mini.evaluation.parser_robustness import measure_parser_robustness
from imagen_mini.evaluation.scene_features import features
from imagen_mini.evaluation.scoring import (
    evaluate,
    judge_images,
    sample_scene_matching,
    table,
    verdict_text,
)
from imagen_mini.evaluation.scoring_controls import chance_accuracy, sample_mixed, swap_colors
from imagen_mini.evaluation.statistics import (
    interval_coverage,
    newcombe_interval,
    score_line,
    wald_interval,
    wilson_interval,
)
from imagen_mini.scenes.render import render
from imagen_mini.utils.images import blur
from imagen_mini.viz.measuring import (
    audit_grid,
    gallery,
    plot_comparison,
    plot_corruptions,
    plot_coverage,
    plot_groups,
    plot_image_sets,
    plot_interval_widths,
    plot_shares,
)

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes", text_encoder="teacher")

# %% [markdown]
# ## 1. Captions, fixed beforehand
#
# Each category tests one ability. The first table is of what training has shown in other images;
# the second is of what it never showed. Captions and seeds are a function of a number, and none of
# them is used in training.

# %%
for title, categories in (
    ("kinds of captions that training has", CATEGORIES),
    ("never in training", HELD_OUT_CATEGORIES),
):
    print(f"{title}:")
    for category, _, caption in benchmark(1, seed=5, categories=list(categories)):
        print(f"    {category:28}{caption.text}")

# %% [markdown]
# ## 2. A run
#
# Generate an image for every caption once, parse it, compare. An image is correct only if *all* of
# it is as described: the correct objects, no others, each attribute, each relation. (The parser
# decides a relation by the larger of the two offsets, horizontal or vertical.) We take five
# categories, ten captions each, and only the base stage, whose 64 pixels show everything but
# textures. The text encoder is the one that the network was trained with, before it was taught what
# "no" means (notebook 05): so there is something to find.
#
# **Predict:** which of these will be nearly perfect, and which will fail most often?

# %%
chosen = ["one object", "positional", "counting", "binding", "negation"]
generate = lambda prompts, seeds: pipe(
    prompts, seed=seeds, stages=("base",), progress=False
).stages["base"]
results = list(evaluate(generate, benchmark(10, categories=chosen)))
rows = table(results)
plot_shares(rows)

# %%
for category, row in rows.items():
    print(
        f"{category:12} {row['right']:2} of {row['n']}, 95 % interval {row['low']:4.0%} to {row['high']:4.0%}, {row['unreadable']} unreadable"
    )

# %% [markdown]
# With these weights one object, and two objects in a relation, are nearly always correct; "no" is
# not understood: the object that should be absent is often generated. That much ten images can
# show. They cannot show whether relations (9 of 10) are harder than counts (10 of 10): note how far
# the intervals overlap. The README has all categories, with thirty captions each.
#
# ## 3. Why an interval?
#
# We have seen $k$ of $n$ correct. What we want is the share $p$ that would be correct of *all*
# captions of the kind. Take fifty captions of "negation", and suppose that five people measured the
# same model, each with ten.
#
# **Predict:** how far apart will the five results lie?

# %%
results_50 = [r for r in results if r.category == "negation"] + list(
    evaluate(generate, benchmark(50, categories=["negation"])[10:])
)
groups = [(sum(r.correct for r in results_50[i : i + 10]), 10) for i in range(0, 50, 10)]
plot_groups(groups, {"Wilson's interval": wilson_interval, "the naive interval": wald_interval})

# %%
print("correct in each group of ten:", ", ".join(str(k) for k, _ in groups))
print("all:", score_line([r.correct for r in results_50]))

# %% [markdown]
# One model, one kind of captions, and still results from 2 to 4 of ten: with so few, 20 per cent
# more or less are nothing unusual. The standard deviation is $\sqrt{p(1-p)/n}$, with $n = 10$ up to
# 16 per cent. Somebody who shows only the best group has "improved" the model.
#
# An interval states this. The **naive** one is $\hat p \pm 1.96 \sqrt{\hat p (1 - \hat p)/n}$ with
# $\hat p = k/n$. Its flaw: it uses the standard deviation at the share that was *observed*. With 10
# of 10 correct that is 0, so it claims to be certain.
#
# **Wilson's** interval asks instead: for which true shares $p$ would the observation be nothing
# unusual? It contains all $p$ with
#
# $$|\hat p - p| \le z \sqrt{\frac{p(1-p)}{n}}, \qquad z = 1.96$$
#
# with the standard deviation at $p$, not at $\hat p$. At the end of this notebook you will solve
# that for $p$.

# %%
for k in (10, 9, 5):
    print(
        f"{k:2} of 10: naive {wald_interval(k, 10)[0]:4.0%} to {wald_interval(k, 10)[1]:4.0%}, Wilson {wilson_interval(k, 10)[0]:4.0%} to {wilson_interval(k, 10)[1]:4.0%}"
    )

# %% [markdown]
# Both claim to contain the true share 95 times in 100. That can be checked exactly: for each true
# $p$, add up the probabilities of all $k$ whose interval contains $p$.

# %%
show_source(interval_coverage)

# %% [markdown]
# **Predict:** what happens to the naive interval where the model is very good or very bad?

# %%
plot_coverage({"Wilson's interval": wilson_interval, "the naive interval": wald_interval}, 10)

# %%
for name, interval in {"Wilson": wilson_interval, "naive": wald_interval}.items():
    print(
        f"{name:6} at a true accuracy of 50 %: {interval_coverage(interval, 10, 0.5):.0%}, 80 %: {interval_coverage(interval, 10, 0.8):.0%}, 95 %: {interval_coverage(interval, 10, 0.95):.0%}"
    )

# %% [markdown]
# Wilson's stays near 95 % on average, with a sawtooth, since $k$ is a whole number. The naive one
# falls far below it towards both ends, and that is where the interesting models are.
#
# ## 4. Which errors?
#
# A score says how often a model fails, not how. So each incorrect image is put into one of a few
# kinds; the first that applies counts.
#
# **Predict:** a caption of "negation" names an object, and one that should not be there. Which kind
# of error will be the most frequent?

# %%
show_source(classify_error)

# %%
for category, kinds in error_table([*results, *results_50[10:]]).items():
    print(f"{category:12}", ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
gallery([*results, *results_50[10:]], correct=0, incorrect=4, columns=4, cell=128)

# %% [markdown]
# Where a caption says "no", the object is there all the same, mostly beside the other one: *too
# many*. Some errors are called *shape* because `classify_error` tests that first. They are the same
# error, but with the object that should be absent alone in the image. And in the one relation that
# is incorrect, the ring does lie to the left, but further below than to the left, and the larger of
# the two counts. The name of an error is a guess at a cause: count, and then look at the images.
#
# ## 5. Test the judge, by eye
#
# Here are fifteen of the images, with their captions, in random order; at least four of them are
# incorrect. **Judge first:** write down the numbers of those that do *not* show exactly what the
# caption says.

# %%
audited = sample_mixed([*results, *results_50[10:]], 15, incorrect=4)
audit_grid(audited, judged=False, columns=5, cell=128)

# %%
wrong_by_eye = []  # for example [3, 7, 12]

wrong_by_parser = [i for i, r in enumerate(audited) if not r.correct]
print("incorrect by the parser:")
for i in wrong_by_parser:
    print(
        f"    {i:2} {audited[i].caption.text}: {verdict_text(audited[i].caption.description, audited[i].parsed)}"
    )
print(
    "you disagree on:",
    sorted(set(wrong_by_eye) ^ set(wrong_by_parser)) if wrong_by_eye else "(fill in wrong_by_eye)",
)

# %% [markdown]
# Where you disagree, look again, with what the parser read. It is strict: an object that is only
# nearly a star is *unreadable*, and counts as incorrect. That lowers the score a little, but it
# misleads nobody. In one way it is lenient: an object has the colour that most of its inside has,
# so a square with one corner in another colour may pass. In this figure there is no such case: none
# is unreadable, and the errors are plainly visible.
#
# It would be worse to read another scene with confidence. How often does that happen when images
# get worse? Render true scenes, corrupt them, and parse again.
#
# **Predict:** which is more dangerous for the parser, noise or blur?

# %%
corrupted = {
    "noise, standard deviation": measure_parser_robustness(
        40, 64, gaussian_noise, (0, 0.05, 0.1, 0.2, 0.3, 0.5)
    ),
    "blur, in pixels": measure_parser_robustness(40, 64, blur, (0, 0.5, 0.75, 1, 1.5, 2)),
}
fig = plot_corruptions(corrupted)
fig.axes[0].legend(frameon=False)
fig

# %%
for corruption, of in corrupted.items():
    print(
        f"{corruption}, misread of 40:",
        ", ".join(f"{r['misread']} at {r['strength']:g}" for r in of),
    )

# %% [markdown]
# Images with noise are refused, never misread. Blur is worse: up to a pixel it does no harm, but at
# two pixels small squares and stars have lost their corners and are read as circles. So the parser
# can be trusted with sharp images, such as these networks generate, and not with blurred ones.
#
# ## 6. Controls: three results that are known beforehand
#
# Before an evaluation is trusted, it should be run on images whose score is known. Any evaluation
# should pass these tests:
#
# 1. **rendered scenes** of the captions: 100 %;
# 2. the same images with the **captions shuffled**: chance, and not more;
# 3. a **planted error**, the colours swapped in every tenth image: 90 %.
#
# **Predict:** how high is chance for captions of one object with a colour and a background? There
# are 8 colours, 6 shapes and 4 backgrounds.

# %%
prompts = benchmark(200, seed=2, categories=["colors"])
rng = random.Random(0)
scenes = [sample_scene_matching(caption.description, rng) for _, _, caption in prompts]
shuffled = rng.sample(scenes, len(scenes))  # the same scenes, in another order
shown = {
    "rendered scenes": scenes,
    "captions shuffled": shuffled,
    "planted error": swap_colors(scenes, every=10),
}
controls = {
    name: list(evaluate(lambda texts, seeds, of=of: render(of, 64), prompts, batch=len(prompts)))
    for name, of in shown.items()
}
by_chance = chance_accuracy(
    [c.description for _, _, c in prompts], [r.parsed for r in controls["rendered scenes"]]
)

for name, expected in {
    "rendered scenes": 1,
    "captions shuffled": by_chance,
    "planted error": 0.9,
}.items():
    print(
        f"{name:18} expected {expected:6.1%}, found {score_line([r.correct for r in controls[name]])}"
    )
print("the planted errors are found as:", error_table(controls["planted error"])["colors"])

# %% [markdown]
# One in 192 would be about half a per cent. A shuffle also leaves a caption with its original image
# now and then, and `chance` includes that.
#
# If the first fails, the judge is broken. If the second is higher than chance, the judge does not
# use the caption. If the third is not found, the judge cannot see that error. A score by a network
# that compares images with captions, such as a CLIP score, can be put to the same three tests.
# There the second and the third are likely to fail.
#
# ## 7. Is it better?
#
# Two settings: guidance off ($w = 1$), and the stage's default weight. The same fifty captions and
# seeds for both. One share is higher: by chance, or not? Two intervals that overlap do not answer
# that. The interval **of the difference** does, if it excludes 0.

# %%
show_source(newcombe_interval)

# %% [markdown]
# **Predict:** how large must a difference be for fifty images to show it?

# %%
captions_50 = [r.caption.text for r in results_50]
without = pipe(
    captions_50,
    seed=[r.seed for r in results_50],
    stages=("base",),
    guidance_scale=1.0,
    progress=False,
).stages["base"]
off, on = judge_images(captions_50, without), [r.correct for r in results_50]
w = pipe.stages["base"].config.guidance_scale
plot_comparison(("w = 1", sum(off), 50), (f"w = {w:g}", sum(on), 50))

# %%
difference, low, high = newcombe_interval(sum(off), 50, sum(on), 50)
print("w = 1:", score_line(off))
print(f"w = {w:g}:", score_line(on))
print(
    f"difference {difference:+.0%}, 95 % interval {low:+.0%} to {high:+.0%}:",
    "it may be chance" if low <= 0 <= high else "not chance alone",
)
print(
    f"image by image: {sum(a and not b for a, b in zip(off, on))} only correct at w = 1, {sum(b and not a for a, b in zip(off, on))} only at w = {w:g}"
)

# %% [markdown]
# The interval of the difference is almost 20 per cent to either side, so fifty images show only
# large differences. To show 5 per cent takes some 800 images for each setting, where half is
# correct. As captions and seeds are shared, the last line says more: only the images on which the
# two *differ* can decide. And beware of multiple comparisons: of twenty settings that are all
# equally good, one will look better "with 95 %".
#
# ## 8. A measure without captions: the Fréchet distance
#
# Papers report FID: take features of many true and of many generated images by some frozen network,
# describe each set by its mean $\mu$ and covariance $\Sigma$, and compare those:
#
# $$d = |\mu_a - \mu_b|^2 + \mathrm{Tr}\left(\Sigma_a + \Sigma_b - 2\,(\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2})^{1/2}\right)$$
#
# In papers the network is Inception-v3. Its features have 2,048 numbers, and the sets have from
# 10,000 to 50,000 images.

# %%
show_source(frechet_distance)

# %% [markdown]
# Our features are those of a small classifier of scenes; no number here can be compared with a
# published FID. A distance also depends on the number of images: with fewer it is larger. So all
# sets below have the same number, the same captions, and are compared with the same true images
# (ten of each caption):
#
# - *true*: other true images of the captions;
# - *generated*: the model's images;
# - *shuffled*: the generated images, with the captions in another order;
# - *one background*: true images, but all of them on white. The captions here do not mention a
#   background.
#
# **Predict** for each: will the share of correct images change? Will the distance?

# %%
everything = [*results, *results_50[10:]]
texts, descriptions = (
    [r.caption.text for r in everything],
    [r.caption.description for r in everything],
)
rng = random.Random(1)
reference = gaussian_statistics(
    features(render([sample_scene_matching(d, rng) for d in descriptions for _ in range(10)]))
)
true = [sample_scene_matching(d, rng) for d in descriptions]
generated = torch.stack([r.image for r in everything])

sets = {
    "true": (texts, render(true)),
    "generated": (texts, generated),
    "shuffled": (rng.sample(texts, len(texts)), generated),
    "one background": (texts, render([type(scene)(scene.objects, "white") for scene in true])),
}
measured = {
    name: (
        sum(judge_images(*of)) / len(texts),
        frechet_distance(*reference, *gaussian_statistics(features(of[1]))),
    )
    for name, of in sets.items()
}
plot_image_sets(measured)

# %%
for name, (share, distance) in measured.items():
    print(f"{name:16} {share:5.1%} correct, Fréchet distance {distance:6.2f}")

# %% [markdown]
# **What you should have seen.** Even true images are not at 0: two samples of the same distribution
# differ. Shuffling the captions ruins the share and leaves the distance *exactly* as it was,
# because it never uses a caption. With one background the share stays at 100 %, as no caption
# mentions it, while the distance is the largest of all. This has happened in practice: an earlier
# sampler of this project generated nearly everything on gray, and the score did not notice (see the
# README). Neither measure is enough. Use both, and look at the images.
#
# ## Exercise: Wilson's interval, by hand
#
# Solve $|\hat p - p| = z \sqrt{p(1-p)/n}$ for $p$, with $z = 1.96$. Square both sides: it is a
# quadratic equation in $p$. Its two roots are the ends of the interval. Return `(low, high)`.


# %%
def interval(successes: int, n: int) -> tuple[float, float]: ...  # your answer


nb12.check(interval)

# %% [markdown]
# How many images does one need? The figure below has your interval once it is correct, and the
# naive one until then. **Predict:** from 100 to 400 images, how much narrower does it become?

# %%
answered = nb12.check(interval).correct
plot_interval_widths(
    interval if answered else wald_interval,
    (0.5, 0.8, 1.0),
    (10, 30, 100, 300, 1000),
    "yours" if answered else "naive; exercise open",
)

# %% [markdown]
# Four times the images for half the width. With the naive interval the line of 100 % lies at 0 for
# every $n$, which cannot be: ten images do not prove that a model never fails. With Wilson's, ten
# of ten correct leave room for a model that fails on one image in four.
#
# Next: [13, playground](13_playground.ipynb).
