# %% [markdown]
# # 11 Prompt-to-Prompt
#
# **Objective:** edit an image by editing its caption, see what has to be held fixed so that everything else stays, and find out by ablation which part of a method does the work.
#
# **Before this:** 05, 06 and 09
#
# You have *a red ring* and want *the same image* with a green one. Nothing in a text-to-image model
# knows what "the same image" means: a new caption generates a new image. Prompt-to-Prompt (Hertz et
# al., 2022) finds the image's layout in the **cross-attention maps**: which pixel attends to which
# word. Keep these maps, and let only the *words* change. There is no training, no mask, and no
# second model.
#
# In this world it can be counted how well that works: the parser reads both images, and says
# whether the new caption holds and whether every other object is where it was.

# %%
import torch
from IPython.display import display

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb11
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.editing.alignment import refinement_mapper, replacement_mapper
from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.blending import DiffEditMask, LocalBlend
from imagen_mini.editing.controls import AttentionInjectionControl
from imagen_mini.editing.prompt_switching import PromptSwitching
from imagen_mini.editing.prompt_to_prompt import Chain, Refine, Replace, Reweight
from imagen_mini.evaluation.edit_benchmark import swaps
from imagen_mini.evaluation.edit_comparison import (
    compare_edits,
    compare_to_same_seed,
    edit_comparison_table,
)
from imagen_mini.evaluation.scoring import judge_image, judge_images
from imagen_mini.evaluation.word_weights import covered_share, sized_captions
from imagen_mini.text.encoder import Tokens
from imagen_mini.viz.edits import (
    attention_map_images,
    difference_image,
    plot_token_mappers,
    plot_window_sweep,
    plot_word_weights,
)
from imagen_mini.viz.image_grid import image_grid, image_table, quantize_colors

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")

# %% [markdown]
# ## 1. Fixed seed alone, and fixed attention
#
# The simplest idea is the same seed with a new caption. It costs nothing, so it is the baseline. We
# compare it with the paper's method on word swaps (one colour or one shape):
#
# - **same seed**: the new caption from the same noise;
# - **attention**: the same, with the source's cross-attention maps in the first 80 % of the steps,
#   and its self-attention maps in the first 40 %, as in the authors' code.
#
# **Predict:** which of them shows the new word more often? Which keeps the layout more often?

# %%
tasks = swaps("color", 5) + swaps("shape", 3)
methods = {"same seed": None, "attention": Replace()}
found = compare_edits(pipe, tasks, methods)

shown = range(len(found.tasks))[1::2]  # every other one
rows = [[found.images[i][k] for i in shown] for k in range(1 + len(methods))]
borders = [[None] * len(shown)] + [[found.scores[name][i].good for i in shown] for name in methods]
names = [f"{found.tasks[i].source.text} -> {found.tasks[i].target.text}" for i in shown]
display(quantize_colors(image_table(rows, ["source", *methods], names, cell=144, borders=borders)))
print(f"{len(found.tasks)} edits whose source image is correct, of {len(tasks)}")
print(edit_comparison_table(found.scores))

# %% [markdown]
# Green: the new caption holds *and* the layout is kept, with every object within 3/64 of the width
# of where it was.
#
# **What you should have seen.** The same seed with a new caption nearly always shows the new word,
# and mostly in another position. So a fixed seed alone does not fix the image. With the source's
# attention the object mostly stays where it was. Where an edit fails, look at the kind of failure:
# the new object is where the same seed with the new caption puts it. Few edits give wide intervals.
# Over 100 of each kind (the second table of the model card) attention keeps the layout and shows the
# new word in 89 % of swapped colours and 78 % of swapped **shapes**, the same seed in 28 and 35 %.
# (Sizes are not part of the layout: where no caption says it, the new object may be larger than the
# old one.)
#
# ## 2. What is injected
#
# In a cross-attention layer (notebook 06) each pixel has a query, and each word a key and a value:
#
# $$\text{out} = M V, \qquad M = \text{softmax}\left(\frac{Q K^\top}{\sqrt d}\right)$$
#
# $M_{ij}$ says how much pixel $i$ attends to word $j$: *where*. $V$ says what the word means:
# *what*. The source is generated with its maps $M_t$. The target is generated with it, in the same
# batch, from the same noise. Instead of its maps $M^*_t$ it uses
#
# $$\hat M_t = \begin{cases} M_t & \text{in the window: the source's maps, with the target's } V \\ M^*_t & \text{after it} \end{cases}$$

# %%
show_source(AttentionInjectionControl.modify_probs)

# %% [markdown]
# Row 0 of the batch is the source. In self-attention its maps replace the others'. In
# cross-attention its columns are mapped to the target's order (section 3), used in the window only,
# and multiplied by a factor for each word (section 6). Only the conditional branch of guidance is
# changed.
#
# **Predict:** below, *red* becomes *green*. The figure shows the map of *red* in the source, and
# for *green* in the target two maps: the one that the network computes, and the one that the edit
# replaces it by. How different will they be?

# %%
prompts, seed = ["a red circle above a blue square", "a green circle above a blue square"], 3
maps = AttentionStore()
base = pipe(
    prompts,
    seed=seed,
    stages=("base",),
    edit=Replace(),
    attention_store=maps,
    progress=False,
).stages["base"]
tiles, labels = attention_map_images(maps, list(base), None)
display(
    quantize_colors(
        image_grid(
            [base[0], base[1], *tiles],
            ["source", "edited, attention injected", *labels],
            columns=5,
            cell=144,
        )
    )
)
for name, prompt, image in zip(("source", "edited"), prompts, base):
    print(f"{name}: {prompt}: {judge_image(prompt, image)}")

# %% [markdown]
# The map *as edited* is the map of *red* in the source: the circle is where the attention to *red*
# was, and it is green, because the value is that of *green*. The network's map of *green*, before
# the replacement, is in about the same place. But it is computed in an image that the edit holds in
# place, so it does not show where *green* would be without the edit. Compare also the backgrounds:
# maps fix the layout, and the shade of the background may still change.
#
# ## 3. Which column goes where
#
# Captions have words, attention has columns for *tokens*. A matrix $A$ [source tokens, target
# tokens] says how a column of the target is made of columns of the source:
#
# $$\hat M_t = M_t\, A$$

# %%
show_source(replacement_mapper, refinement_mapper)

# %% [markdown]
# **Predict:** three edits. In which of them is $A$ the identity? In which is a column empty, and
# what does an empty column mean?

# %%
tokenize = pipe.text_encoder.tokenize_prompt
for a, b, matrix_of, name in [
    (
        "a red ring above a star",
        "a blue ring above a star",
        replacement_mapper,
        "Replace: one word for one word",
    ),
    (
        "a ring above a star",
        "a small ring above a red star",
        refinement_mapper,
        "Refine: added words",
    ),
    (
        "a red ring above a star",
        "a magenta ring above a star",
        replacement_mapper,
        "Replace: a word of many tokens",
    ),
]:
    matrix = matrix_of(tokenize(a), tokenize(b))
    display(plot_token_mappers(tokenize(a), tokenize(b), {name: matrix}))
    print(
        f"{a} -> {b}: rows add up to {matrix.sum(1).unique().tolist()}, columns to {[round(v, 2) for v in matrix.sum(0).unique().tolist()]}"
    )

# %% [markdown]
# One word for one word is the identity. An added word has an empty column: no word of the source
# corresponds to it, so it keeps the target's maps ($A(j) = $ None in the paper). A word that the
# small vocabulary does not contain is split into several tokens. The attention of *red* is divided
# evenly among them, so that its sum stays, and **all later tokens are shifted**.
#
# ## 4. Kinds of edits
#
# `Replace` swaps words, `Refine` adds them, and `Reweight` changes the weight of a word.
# `LocalBlend` lets the image change only where the attention to the named words is. `DiffEditMask`
# lets it change only where the predictions for the two captions, from the finished source with some
# noise on it, differ. `Chain` combines them.
#
# **Predict:** the last example multiplies the attention to *small* by -2. What will be generated?

# %%
one, other = "a pink square right of a red ring", "a pink square right of a green ring"
examples = [
    ("Replace", one, other, 3, Replace()),
    ("Replace and LocalBlend", one, other, 3, Chain(Replace(), LocalBlend("ring"))),
    ("Replace and DiffEditMask", one, other, 3, Chain(Replace(), DiffEditMask())),
    ("Refine", "a cross over a green ring", "a pink cross over a green ring", 1, Refine()),
    (
        "Reweight: small x -2",
        "a small orange square",
        "a small orange square",
        0,
        Chain(PromptSwitching(0.5), Refine(0.7), Reweight({"small": -2.0})),
    ),
]

rows, borders = [], []
for name, before, after, seed, edit in examples:
    first, by_seed, edited = compare_to_same_seed(pipe, before, after, seed, None, edit)
    rows.append([first, by_seed, edited, difference_image(first, edited)])
    borders.append(
        [*judge_images([before, after, after], torch.stack([first, by_seed, edited])), None]
    )
    changed = ((edited - first).abs().amax(0) > 0.02).float().mean()
    print(
        f"{name}: {after}: {judge_image(after, edited)}; {changed:.0%} of the pixels differ from the source's by more than 1 % of the range"
    )
columns = ["source", "same seed, new caption", "edit", "difference of source and edit"]
quantize_colors(
    image_table(rows, [name for name, *_ in examples], columns, cell=128, borders=borders)
)

# %% [markdown]
# Green and orange are the verdicts on the caption alone. With `LocalBlend` only those pixels differ
# that attend to *ring*, and a margin; all others are the source's. If the attention does not cover
# the whole ring, a part of it stays red. With `DiffEditMask` the mask is where the two captions
# disagree. `Refine` gives the cross a colour that the source had left open: the kind of edit that
# fails most often here (section 7). And `Reweight` reverses *small*: where the object gets large,
# the parser calls it incorrect, as it should, because the caption is as before.
#
# ## 5. The control: who does the work?
#
# That edits succeed does not show that *attention* makes them succeed. Here is a method without any
# attention, **prompt switching**: the target reads the *source's* caption in the first 80 % of the
# steps, and its own in the rest. Until the switch both are one image. It is close to SDEdit (notebook
# 13). A critical reader will ask for it, so we run it, and both together: first switching, then
# attention in the steps that are left.
#
# **Predict:** the same edits as in section 1. How many are good by switching alone? How many more if
# attention is injected after the switch?

# %%
controls = {
    "prompt switching": PromptSwitching(0.8),
    "switching, then attention": Chain(PromptSwitching(0.8), Replace(1.0)),
}
scores = found.scores | compare_edits(pipe, found.tasks, controls).scores
print(edit_comparison_table(scores))

# %% [markdown]
# **What you should have seen.** Switching alone is at least as good as attention alone, and
# attention after it changes next to nothing. Over 100 edits of each kind it is the same. So a demo of
# the last row under the name of Prompt-to-Prompt would credit attention with what switching does.
#
# Why can this network be switched so late? It was trained with images that contradict their captions,
# and corrects such contradictions even when most of the noise is gone. A network without this
# training may need attention. And switching has limits of its own: it is one moment for all words, it
# has no maps to blend by, and it has nothing to weight.
#
# ### Exercise: an ablation
#
# Totals can deceive: a part of a method may save some edits and lose as many others. So compare each
# edit with itself. Write a function of two lists of booleans, for the same edits in the same order:
# was the edit good *with* the part, and *without* it? It returns two numbers: how many were good only
# with it, and how many only without it.


# %%
def gained_and_lost(with_it: list[bool], without: list[bool]) -> tuple[int, int]: ...  # your answer


nb11.check_ablation(gained_and_lost)

# %% [markdown]
# Once it is correct, it answers three questions. **Predict:** which of the three lines has a large
# first number, and which has the smallest two?

# %%
good = {name: [score.good for score in of] for name, of in scores.items()}
comparisons = {
    "attention, to the same seed": ("attention", "same seed"),
    "switching, to the same seed": ("prompt switching", "same seed"),
    "attention, to switching": ("switching, then attention", "prompt switching"),
}
if nb11.check_ablation(gained_and_lost).correct:
    for name, (with_it, without) in comparisons.items():
        gained, lost = gained_and_lost(good[with_it], good[without])
        print(f"what {name:30} adds: {gained} of {len(found.tasks)} gained, {lost} lost")
else:
    print("the exercise is open")

# %% [markdown]
# ### The injection window
#
# For how long should the source's attention be injected? That is the paper's $\tau$. Here it is the
# window of cross-attention; that of self-attention stays at 40 %.
#
# **Predict:** the maps of the first half of the steps alone: do they keep the layout? And what do
# maps in all steps keep that they should not?

# %%
others = compare_edits(pipe, found.tasks, {"0.5": Replace(0.5), "1.0": Replace(1.0)}).scores
by_attention = {
    0.0: scores["same seed"],
    0.5: others["0.5"],
    0.8: scores["attention"],
    1.0: others["1.0"],
}
by_switch = {0.0: scores["same seed"], 0.8: scores["prompt switching"]}
plot_window_sweep({"attention injected": by_attention, "prompt switched after": by_switch})

# %% [markdown]
# Attention for half of the trajectory keeps few more layouts than none: released in the middle, the
# object may still move. The last fifth of the steps keeps no more. What it costs, eight edits cannot
# tell. Over 100 of each kind 100 % of swapped colours are shown with a window of 0.8, and 91 % with
# 1.0: the old maps keep the new word from being shown. So 0.8 is the default. `python -m
# sample.edit_sweep` measures this, for added words too.
#
# ## 6. Fading a word
#
# A column of $M$ can be multiplied by a number $c$, from -2 to 2. It is not normalised again. We
# fade *small*, and measure the area that the object covers in the image, in pixels.
#
# Scaled from the first step on, the word changes all that depends on it: another size fits in
# another place, and even the shape may change. So the first half of the steps is shared here
# (`PromptSwitching(0.5)`), and the word is faded after it.
#
# **Predict:** $c = 0$: no attention to *small*. What is generated at $c = -1$?

# %%
weights = [-2.0, -1.0, 0.0, 1.0, 2.0]  # one call generates the source and an image for each
captions = sized_captions(3, "small")
fading = Chain(PromptSwitching(0.5), Refine(0.7), Reweight({"small": weights}))
images = [
    pipe([caption] * 6, seed=seed, stages=("base",), edit=fading, progress=False).stages["base"][1:]
    for seed, caption in enumerate(captions)
]
areas = torch.tensor([[covered_share(image) for image in row] for row in images])

borders = [judge_images([caption] * 5, row) for caption, row in zip(captions, images)]
display(
    quantize_colors(
        image_table(
            [list(row) for row in images],
            captions,
            [f"c = {c:g}" for c in weights],
            cell=112,
            borders=borders,
        )
    )
)
print(
    "mean area:",
    ", ".join(f"c = {c:g}: {area:.1%}" for c, area in zip(weights, areas.mean(0).tolist())),
)
plot_word_weights("small", weights, areas, captions)

# %% [markdown]
# The frames are the parser's verdicts on *small*. With a smaller $c$ the object grows, mostly in one
# jump, at a weight that differs from image to image: this world has two sizes, and the network
# learned two. On average over many captions the change is gradual
# (`python -m sample.reweight --n 16`). No switch of prompts does this: the caption stays as it is.
#
# ## 7. Where the maps are not enough
#
# By attention alone, an **added colour** keeps the layout in about half of the edits. Activation
# patching says why (`python -m sample.edit_patching`): give the target one more activation from the
# source beside the maps, and see which one brings the layout back. The pooled caption does not, nor
# do the values of the words that both captions have. The features of *one* block of the decoder do,
# on its coarsest grid of 8 x 8: the layout passes the maps through convolutions and skip connections.
# `FeatureInjection` injects these features, as Plug-and-Play (Tumanyan et al., 2022) does. With it
# added colours keep the layout in 85 % of the edits, swapped colours and shapes in 98 and 97 %.
# `DiffEditMask` (section 4) in the same chain keeps the rest: of 100 swapped colours nothing else
# changes in 99, without it in 92.
#
# ## Exercise: the alignment matrix
#
# Write $A$ for a word swap. Word $i$ of the target corresponds to word $i$ of the source, and
# several words may differ. With equally many tokens they correspond one to one. Otherwise each
# token of the source's word is spread evenly over all tokens of the target's. The end token, which
# belongs to no word, corresponds to the end token.
#
# `tokens.words` are the words, `tokens.positions_of_word(i)` gives the positions of word $i$,
# `tokens.ids` has all tokens, of which the last one is the end. A word may occur twice, so do not
# search by spelling. Beware of an error that is found in published code: to use a token's position
# in the target as its position in the source.


# %%
def alignment(source: Tokens, target: Tokens) -> torch.Tensor: ...  # your answer


nb11.check(alignment)

# %% [markdown]
# Once it is correct, the left figure is yours. Until then, it is the matrix that uses positions as
# they are. **Predict:** which token of the source does *ring* take in the left one?

# %%
a, b = tokenize("a red ring above a star"), tokenize("a maroon ring above a star")
expected = replacement_mapper(a, b)
answered = nb11.check(alignment).correct
mine = alignment(a, b) if answered else torch.eye(len(a.ids), len(b.ids))
plot_token_mappers(
    a,
    b,
    {"yours" if answered else "positions as they are (exercise open)": mine, "correct": expected},
)

# %% [markdown]
# With positions as they are, *ring* takes the attention of the end token, the tokens of *maroon*
# that of other words, and the last tokens take none. Such an edit runs without an error, and
# generates the wrong image. That is why the alignment is by words.
#
# Next: [12, measuring](12_measuring.ipynb).
