# %% [markdown]
# # 12 Measuring: DrawBench-like
#
# **Objective:** say how good a text-to-image model is, with a number that others can trust, and know what the number cannot see.
#
# **Before this:** 00, and 07 for the guidance weight
#
# A few nice images say nothing: they were chosen. A *benchmark* fixes the captions beforehand, draws every one, and counts. DrawBench does so with about 200 captions in eleven
# categories, and people as judges. Ours is like it in its categories, but it is not DrawBench: its captions are of the world of shapes, and its judge is a parser that reads
# an image back into a scene. So it is cheap and says the same every time. What it cannot be is right by itself: a count needs an **interval**, and a judge must be judged.

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
import random

import torch

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb12
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.evaluation.benchmark import CATEGORIES, HELD_OUT_CATEGORIES, benchmark
from imagen_mini.evaluation.corruptions import gaussian_noise
from imagen_mini.evaluation.error_analysis import classify_error, error_table
from imagen_mini.evaluation.metrics import frechet_distance, gaussian_statistics
from imagen_mini.evaluation.scene_features import features
from imagen_mini.evaluation.scoring import (
    evaluate,
    judge_images,
    sample_scene_matching,
    table,
    verdict_text,
)
from imagen_mini.evaluation.statistics import newcombe_interval, score_line, wilson_interval
from imagen_mini.scenes.render import render
from imagen_mini.utils.images import blur
from imagen_mini.viz.measuring import (
    audit_sheet,
    chance_rate,
    coverage,
    gallery,
    measure_parser_under,
    mixed,
    naive_interval,
    plot_comparison,
    plot_corruptions,
    plot_coverage,
    plot_groups,
    plot_sets,
    plot_shares,
    plot_widths,
    swap_colors,
)

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")

# %% [markdown]
# ## 1. Captions, fixed beforehand
#
# Each category asks for one ability. The first table is of what training has shown in other images; the second is of what it never showed. Captions and seeds are a function of
# a number, and none of them is used in training.

# %%
for title, categories in (
    ("of the kind that training has", CATEGORIES),
    ("held out of training", HELD_OUT_CATEGORIES),
):
    print(f"{title}:")
    for category, _, caption in benchmark(1, seed=5, categories=list(categories)):
        print(f"    {category:28}{caption.text}")

# %% [markdown]
# ## 2. A run
#
# Draw every caption once, read the image, compare. An answer is right only if the *whole* image is as described: the right things, no others, each attribute, each relation.
# We take five categories, ten captions each, and only the base stage, whose 64 pixels show all but textures.
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
# With these weights one thing, and two things in a relation, are drawn nearly always; "no" is not understood: the thing that should be absent is often drawn. That much ten
# images can tell. They cannot tell whether relations (9 of 10) are harder than counts (10 of 10): look how far the intervals overlap. The README has all categories, with thirty captions each.
#
# ## 3. Why an interval?
#
# We have seen $k$ of $n$ right. What we want is the share $p$ that would be right of *all* captions of the kind. Take fifty captions of "negation", and pretend that five people
# measured the same model, each with ten.
#
# **Predict:** how far apart will the five results lie?

# %%
results_50 = [r for r in results if r.category == "negation"] + list(
    evaluate(generate, benchmark(50, categories=["negation"])[10:])
)
groups = [(sum(r.right for r in results_50[i : i + 10]), 10) for i in range(0, 50, 10)]
plot_groups(groups, {"Wilson's interval": wilson_interval, "the naive interval": naive_interval})

# %%
print("right in each group of ten:", ", ".join(str(k) for k, _ in groups))
print("all:", score_line([r.right for r in results_50]))

# %% [markdown]
# One model, one kind of captions, and still results from 2 to 4 of ten: with so few, 20 percent more or less are nothing unusual. The deviation is $\sqrt{p(1-p)/n}$, with $n = 10$ up to 16 percent. Somebody
# who shows only the best group has "improved" the model.
#
# An interval says so honestly. The **naive** one is $\hat p \pm 1.96 \sqrt{\hat p (1 - \hat p)/n}$ with $\hat p = k/n$. Its mistake: it takes the deviation at the share that was *seen*. With 10 of 10
# right that deviation is 0, so it claims to be certain.
#
# **Wilson's** interval asks the right question: for which true shares $p$ would what we saw be nothing special? It holds all $p$ with
#
# $$|\hat p - p| \le z \sqrt{\frac{p(1-p)}{n}}, \qquad z = 1.96$$
#
# with the deviation at $p$, not at $\hat p$. At the end of this notebook you will solve that for $p$.

# %%
for k in (10, 9, 5):
    print(
        f"{k:2} of 10: naive {naive_interval(k, 10)[0]:4.0%} to {naive_interval(k, 10)[1]:4.0%}, Wilson {wilson_interval(k, 10)[0]:4.0%} to {wilson_interval(k, 10)[1]:4.0%}"
    )

# %% [markdown]
# Both promise to hold the truth 95 times in 100. That can be checked exactly: for each true $p$, add up the probabilities of all $k$ whose interval holds $p$.

# %%
show_source(coverage)

# %% [markdown]
# **Predict:** what happens to the naive interval where the model is very good or very bad?

# %%
plot_coverage({"Wilson's interval": wilson_interval, "the naive interval": naive_interval}, 10)

# %%
for name, interval in {"Wilson": wilson_interval, "naive": naive_interval}.items():
    print(
        f"{name:6} at a true accuracy of 50 %: {coverage(interval, 10, 0.5):.0%}, 80 %: {coverage(interval, 10, 0.8):.0%}, 95 %: {coverage(interval, 10, 0.95):.0%}"
    )

# %% [markdown]
# Wilson's stays near 95 % on average, with teeth, since $k$ is a whole number. The naive one falls far below it towards both ends, and there are the interesting models.
#
# ## 4. What goes wrong
#
# A score says how often, not at what. So each wrong image is put into one of a few kinds; the first that applies counts.
#
# **Predict:** a caption of "negation" names a thing, and one that should not be there. Which kind of error will be the most frequent?

# %%
show_source(classify_error)

# %%
for category, kinds in error_table([*results, *results_50[10:]]).items():
    print(f"{category:12}", ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
gallery([*results, *results_50[10:]], right=0, wrong=4, columns=4, cell=128)

# %% [markdown]
# Where a caption says "no", the thing is there all the same, mostly beside the other one: *too many*. What is called *shape* is so because that is what `classify_error` asks first; look closer: it is the same mistake, only that the thing which
# should be absent is there alone. And in the one relation that is wrong, the ring does lie to the left, but further below than to the left, and the larger of the two counts. The name of an error is a guess at a cause; count, and then look.
#
# ## 5. Judge the judge, by eye
#
# Here are fifteen of the images, with their captions, in random order; at least four of them are wrong. **Judge first:** write down the numbers of those that do *not* show exactly what is said.

# %%
audited = mixed([*results, *results_50[10:]], 15, wrong=4)
audit_sheet(audited, judged=False, columns=5, cell=128)

# %%
wrong_by_eye = []  # for example [3, 7, 12]

wrong_by_parser = [i for i, r in enumerate(audited) if not r.right]
print("wrong by the parser:")
for i in wrong_by_parser:
    print(
        f"    {i:2} {audited[i].caption.text}: {verdict_text(audited[i].caption.description, audited[i].parsed)}"
    )
print(
    "you disagree on:",
    sorted(set(wrong_by_eye) ^ set(wrong_by_parser)) if wrong_by_eye else "(fill in wrong_by_eye)",
)

# %% [markdown]
# Where you disagree, look again, with what the parser saw. It is strict: a thing that is only nearly a star is *unreadable*, and counts as wrong. That costs the model an image, but deceives nobody. In one way it is lenient: a
# thing has the colour that most of its inside has, so a square with one corner in another colour may pass. On this sheet there is none: none is unreadable, and what is wrong is plain to see.
#
# Worse would be to read another scene with confidence. How often does that happen when images get worse? Render true scenes, spoil them, and read again.
#
# **Predict:** which is more dangerous for the judge, noise or blur?

# %%
spoilt = {
    "noise, deviation": measure_parser_under(40, 64, gaussian_noise, (0, 0.05, 0.1, 0.2, 0.3, 0.5)),
    "blur, in pixels": measure_parser_under(40, 64, blur, (0, 0.5, 0.75, 1, 1.5, 2)),
}
sheet = plot_corruptions(spoilt)
sheet.axes[0].legend(frameon=False)
sheet

# %%
for way, of in spoilt.items():
    print(f"{way}, misread of 40:", ", ".join(f"{r['misread']} at {r['strength']:g}" for r in of))

# %% [markdown]
# Images with noise are refused, never misread. Blur is worse: up to a pixel it does no harm, but at two pixels small squares and stars have lost their corners and pass for circles.
# So the judge can be trusted with sharp images, such as these networks draw, and not with blurred ones.
#
# ## 6. Controls: three answers that are known beforehand
#
# Before one believes an evaluation, one gives it images whose score one knows. Any evaluation must pass these:
#
# 1. **rendered scenes** of the captions: 100 %;
# 2. the same images with the **captions shuffled**: chance, and not more;
# 3. a **planted mistake**, the colours swapped in every tenth image: 90 %.
#
# **Predict:** how high is chance for captions of one thing with a colour and a background? There are 8 colours, 6 shapes and 4 backgrounds.

# %%
prompts = benchmark(200, seed=2, categories=["colors"])
rng = random.Random(0)
scenes = [sample_scene_matching(caption.description, rng) for _, _, caption in prompts]
dealt_out = rng.sample(scenes, len(scenes))  # the same scenes, in another order
shown = {
    "rendered scenes": scenes,
    "captions shuffled": dealt_out,
    "planted mistake": swap_colors(scenes, every=10),
}
controls = {
    name: list(evaluate(lambda texts, seeds: render(of, 64), prompts, batch=len(prompts)))
    for name, of in shown.items()
}
by_chance = chance_rate(
    [c.description for _, _, c in prompts], [r.parsed for r in controls["rendered scenes"]]
)

for name, expected in {
    "rendered scenes": 1,
    "captions shuffled": by_chance,
    "planted mistake": 0.9,
}.items():
    print(
        f"{name:18} expected {expected:6.1%}, found {score_line([r.right for r in controls[name]])}"
    )
print("the planted mistakes are found as:", error_table(controls["planted mistake"])["colors"])

# %% [markdown]
# One in 192 would be a half percent; a shuffle also leaves a caption with its own image now and then, and `chance` counts that in.
#
# If the first fails, the judge is broken; if the second is higher than chance, the judge does not read the caption; if the third is not found, the judge is blind there. A score by a network that compares
# images with captions, such as a CLIP score, can be put to the same three tests. There the second and the third are the ones to fear.
#
# ## 7. Is it better?
#
# Two settings: guidance off ($w = 1$), and the stage's default weight. The same fifty captions and seeds for both. The share of one lies higher: by chance, or not? Two intervals that
# overlap do not answer that; the interval **of the difference** does, if it leaves out 0.

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
off, on = judge_images(captions_50, without), [r.right for r in results_50]
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
    f"image by image: {sum(a and not b for a, b in zip(off, on))} only right at w = 1, {sum(b and not a for a, b in zip(off, on))} only at w = {w:g}"
)

# %% [markdown]
# Around the difference lie almost 20 percent on either side, so fifty images show only large differences. To show 5 percent takes some 800 images for each setting, where half is right. As captions and seeds are shared, the last line says more: only the images
# on which the two *differ* can decide. And beware of many comparisons: of twenty settings that are all alike, one will look better "with 95 %".
#
# ## 8. A measure without captions: the Fréchet distance
#
# Papers report FID: take features of many true and of many drawn images by some frozen network, describe each set by its mean $\mu$ and covariance $\Sigma$, and compare those:
#
# $$d = |\mu_a - \mu_b|^2 + \mathrm{Tr}\left(\Sigma_a + \Sigma_b - 2\,(\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2})^{1/2}\right)$$

# %%
show_source(frechet_distance)

# %% [markdown]
# Our features are those of a small classifier of scenes; no number here can be compared with a published FID. A distance also depends on the number of images: with fewer it is larger. So all sets below have the same number, the
# same captions, and are held against the same true images (ten of each caption):
#
# - *true*: other true images of the captions;
# - *drawn*: what the model drew;
# - *shuffled*: the drawn images, their captions dealt out anew;
# - *one background*: true images, but all of them on white. The captions here do not mention a background.
#
# **Predict** for each: will the share of captions that are right notice? Will the distance?

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
    "drawn": (texts, generated),
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
plot_sets(measured)

# %%
for name, (share, distance) in measured.items():
    print(f"{name:16} {share:5.1%} right, Fréchet distance {distance:6.2f}")

# %% [markdown]
# **What you should have seen.** Even true images are not at 0: two samples of the same thing differ. Shuffling the captions ruins the share and leaves the distance *exactly* as it was, for it
# never looks at a caption. With one background the share stays at 100 %, as no caption asked, while the distance is the largest of all. That is not made up: an earlier sampler of this project drew nearly
# everything on gray, and the score did not mind (see the README). Neither measure is enough. Use both, and look at the images.
#
# ## Exercise: Wilson's interval, by hand
#
# Solve $|\hat p - p| = z \sqrt{p(1-p)/n}$ for $p$, with $z = 1.96$. Square both sides: it is a quadratic equation in $p$. Its two roots are the ends of the interval. Return `(low, high)`.


# %%
def interval(successes: int, n: int) -> tuple[float, float]: ...  # your answer


nb12.check(interval)

# %% [markdown]
# How many images does one need? The figure below has your interval once it is right, and the naive one until then. **Predict:** from 100 to 400 images, how much narrower does it become?

# %%
answered = nb12.check(interval).right
plot_widths(
    interval if answered else naive_interval,
    (0.5, 0.8, 1.0),
    (10, 30, 100, 300, 1000),
    "yours" if answered else "naive; exercise open",
)

# %% [markdown]
# Four times the images for half the width. With the naive interval the line of 100 % lies at 0 for every $n$, which cannot be: nobody knows everything after ten images. With Wilson's, ten of ten right
# leave room for a model that fails on one image in four.
#
# Next: [13, playground](13_playground.ipynb).
