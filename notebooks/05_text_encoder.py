# %% [markdown]
# # 05 The frozen text encoder
#
# **Objective:** see which vectors a frozen T5 makes of a caption, what they know of meaning and order, and what must be done so that nothing of it is lost.
#
# **Before this:** 00, 04
#
# Imagen's recipe for text is short: take a language model that was trained on text alone, freeze it, and give the diffusion model its vectors, **one for
# every piece of a word**. This notebook looks at these vectors. Four things are easy to get wrong, and each has its section:
#
# 1. words are not pieces: what the model reads are pieces of words;
# 2. captions of a batch are padded, and padding must change nothing;
# 3. one vector for the whole caption is a bag of words, and images need to know what belongs to what;
# 4. when the caption is dropped, for guidance, really nothing may be left of it.
#
# Our T5 has 0.9 million parameters and was pre-trained in 20 minutes, on text about plain shapes. Imagen's has 4.6 billion and read much of the web. The
# interface is the same.

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
import torch.nn.functional as F
from IPython.display import display

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb05
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.diffusion.samplers import sample
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.models.layers import AttentionPooling
from imagen_mini.scenes.captions import RARE_WORDS
from imagen_mini.scenes.parse import parse_image
from imagen_mini.text.encoder import TextEmbeddings
from imagen_mini.utils.rng import randn
from imagen_mini.viz.image_grid import image_grid
from imagen_mini.viz.style import STYLES, subplots
from imagen_mini.viz.text_encoder import (
    common_part,
    cosines,
    linear_probe,
    masked_mean,
    matched,
    matched_matrix,
    matrix_sheet,
    nearest_is_correct,
    paraphrase_triples,
    piece_sheet,
    random_encoder_like,
    synonyms,
)

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes")
encoder, base = pipe.text_encoder, pipe.stages["base"]
trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
print(
    f"{sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} million parameters, of which {trained} are trained with the images"
)

# %% [markdown]
# ## 1. Pieces
#
# A tokenizer has a fixed vocabulary, here of 768 pieces. A word that was frequent in the text it was made from is one piece. A word that was not falls apart,
# in the worst case into single letters or bytes: there is no unknown word.
#
# **Predict:** which of these are one piece a word: "crimson" (rare, but the text had it), "circel" (misspelt), "turquoise" (never seen)?

# %%
prompts = [
    "a red circle",
    "a crimson disc",
    "a larg red circel",
    "a small turquoise ring",
    "three striped green stars",
    "a red circle 🙂",
]
tokens = [encoder.tokens(prompt) for prompt in prompts]
piece_sheet(tokens)

# %%
of = tokens[2]
print("words:   ", of.words)
print("pieces:  ", of.pieces)
print("word ids:", of.word_ids)
print("mask of row 0 in this batch:", encoder(prompts).mask[0].int().tolist())
print("pieces of 'circel':", of.positions_of_word(3))

# %% [markdown]
# A misspelt word is still there, in crumbs. What a language model knows of "circle" it must now find behind three pieces that mean nothing by themselves.
# Anything that speaks of *words* later, such as an attention map or an edit, must know which pieces make up which word. `word_ids` says so; decoding and
# counting spaces does not. And T5 puts **no token at the beginning**, only `</s>` at the end: code written for CLIP that skips position 0 is off by one here.
#
# **Predict:** does the cascade draw a misspelt caption? One with rare words, that no training image had but the text had?

# %%
for category in ("one object", "misspellings", "rare words"):
    _, seeds, captions = zip(*benchmark(7, categories=[category]))
    images = pipe(
        [c.text for c in captions], seed=list(seeds), stages=("base",), progress=False
    ).stages["base"]
    found = [c.description.fits(parsed.scene) for c, parsed in zip(captions, parse_image(images))]
    print(f"{category}: {score_line(found)}")
    display(image_grid(list(images), [c.text for c in captions], columns=7, cell=96, frames=found))

# %% [markdown]
# **What you should have seen.** Plain words are drawn right nearly always. Rare words are right at best every second time (over 30 captions: 37 %), misspelt ones
# less often (30 %): the frozen encoder has read both, but the U-Net was never shown what their vectors look like. Misspellings and rare words are categories of
# DrawBench, too, the list of prompts on which Imagen was compared with others.
#
# ## 2. Padding changes nothing
#
# Captions of a batch are filled up to the longest, and the **mask** says what is real. T5 must not look at padding, nor must anything after it. The test is
# simple: a caption alone, and the same caption beside a long one.

# %%
short, long = (
    "a red circle",
    "a large striped orange star to the right of a small dotted green cross on a white background",
)
alone, batch = encoder(short), encoder([short, long])
n = alone.emb.shape[1]
print("shapes: alone", list(alone.emb.shape), "and in the batch", list(batch.emb.shape))
print(f"real tokens, largest difference:     {(alone.emb[0] - batch.emb[0, :n]).abs().max():.1e}")
print(f"padding, largest number:             {batch.emb[0, n:].abs().max():.1e}")

ids = torch.tensor([encoder.tokens(short).ids + (0,) * (batch.emb.shape[1] - n)])
print(
    f"the same if T5 is given no mask:     {(alone.emb[0] - encoder.model(input_ids=ids).last_hidden_state[0, :n]).abs().max():.1e}"
)

one, two = (
    pipe(p, seed=0, stages=("base",), progress=False).stages["base"][0]
    for p in (short, [short, long])
)
print(
    f"the image, drawn alone or beside the long one: largest difference {(one - two).abs().max():.1e} (images are in -1 ... 1)"
)

# %% [markdown]
# With the mask the difference is rounding; without, it is of the size of the vectors themselves, and a caption's image would depend on its neighbours in
# the batch. It does not crash, and it looks right as long as one tries single captions. That makes it a classic.
#
# ## 3. One vector, or one for each piece?
#
# The easy way to condition on text is one vector for the caption: the mean of all of them, say. Let us compare captions that use the same words. As a measure
# take the cosine,
#
# $$\cos(a, b) = \frac{a \cdot b}{|a|\,|b|}$$
#
# of the pooled vectors, or of the vectors place by place, and then the mean. T5's vectors have a large part in common that says nothing, so the mean vector
# of 200 captions is taken off first.
#
# **Predict:** how near is "a red circle left of a blue square" to "a blue square left of a red circle"? And which of the six captions is nearest to the
# first?

# %%
captions = [
    "a red circle left of a blue square",
    "a blue square left of a red circle",
    "a blue circle left of a red square",
    "a red circle right of a blue square",
    "a blue square right of a red circle",
    "a green star left of a yellow ring",
]
world = [
    c.text
    for _, _, c in benchmark(
        40, seed=5, categories=["one object", "binding", "positional", "counting", "description"]
    )
]
common = common_part(encoder(world))

text = encoder(captions)
pooled = masked_mean(text) - common
by_place = F.normalize(text.emb - common, dim=-1)
matrices = [cosines(pooled, pooled), torch.einsum("ind, jnd -> ijn", by_place, by_place).mean(-1)]
print(
    f"circle left of square against square left of circle: pooled {matrices[0][0, 1]:.3f}, place by place {matrices[1][0, 1]:.3f}"
)
print(
    f"the first against the star and the ring:             pooled {matrices[0][0, 5]:.3f}, place by place {matrices[1][0, 5]:.3f}"
)
letters = "ABCDEF"
matrix_sheet(
    matrices,
    ["pooled: the mean", "the sequence, place by place"],
    [f"{a}  {c}" for a, c in zip(letters, captions)],
    list(letters),
    low=0.3,
)

# %% [markdown]
# **Pooled, A, B and C are nearly one vector**, though they ask for three different images. A mean does not know the order of what it averages; all that is
# left of the order is what each vector knows of its neighbours. The sequence keeps A and B apart: at the place of "red" stands "blue". That is why Imagen's
# U-Net looks at the whole sequence, by cross-attention, at every step. But neither measure finds that E *means the same* as A. Of that more below.
#
# Ours has a pooled vector, too, as Imagen's has: it is added to the embedding of the noise level, and sets the tone. It is a weighted mean, with learned
# weights:

# %%
show_source(AttentionPooling)

# %%
own = base.net.read(text).pooled.detach()
own = own - base.net.read(encoder(world)).pooled.detach().mean(0)
print(
    f"the U-Net's own pooled vector: A against B {cosines(own, own)[0, 1]:.3f}, A against F {cosines(own, own)[0, 5]:.3f}"
)

# %% [markdown]
# ## 4. Does the sequence know who is where?
#
# "At the place of *red* stands *blue*" is no feat of a language model: a table of word vectors would do that. And cross-attention itself has no order. To it,
# the caption is a **set** of vectors, so what a vector does not say itself is not said. The question is therefore whether "red" is another vector where the
# red thing is on the left.
#
# So let us compare captions as sets: for each vector the one most like it in the other caption, and the mean of these cosines. We ask it of triples:

# %%
triples = paraphrase_triples(100)
print(*triples[0], sep="\n")
show_source(matched)

# %% [markdown]
# The second has the **same words, but another meaning**; the third has **other words, but the same meaning**. We ask three readers: the same T5 with random
# weights; our T5; and our T5 followed by the two small transformer layers over the words that belong to our U-Net and were trained with it, on images.
#
# **Predict:** for which of the three is the third caption nearer to the first than the second is?

# %%
twin = random_encoder_like(encoder)  # the same T5, but with random weights
readers = {
    "random T5": lambda prompts: twin(prompts),
    "our T5": lambda prompts: encoder(prompts),
    "with the U-Net's text layers": lambda prompts: base.net.through_text_layers(encoder(prompts)),
}
shown, names = [], ["the caption", "same words, other meaning", "same meaning, other words"]
with torch.no_grad():
    for name, reader in readers.items():
        off = common_part(reader(world))
        each = [matched_matrix(reader(list(triple)), off) for triple in triples]
        shown.append(torch.stack(each).mean(0))
        nearer = [bool(m[0, 2] > m[0, 1]) for m in each]
        print(
            f"{name}: the same meaning is nearer in {score_line(nearer).replace('right', 'triples')}"
        )
matrix_sheet(shown, list(readers), names, ["caption", "same words", "same meaning"], low=0.7)

# %% [markdown]
# **What you should have seen.** For the frozen encoder, random or trained, the same words are always nearer than the same meaning. After the U-Net's own two
# layers it is the other way round. They were trained with one question, what the image must show, and the answer is the same for both ways of saying it.
# Imagen has no such layers; its T5 is five thousand times as large. With a small encoder, they are what makes "left of" work here.
#
# A cosine is a coarse measure, though. A *probe* asks what can be read off a vector at all: a linear map, fitted to 3/4 of 600 held-out captions of two
# things, and tried on the other 1/4.
#
# - **color**, asked of the token of a shape: what colour has this thing? The other thing's colour stands in the caption, too.
# - **place**, asked of the same token: is this thing left, right, above or below?
# - **relation**, asked of the token "left", "above", ...: what shape has the thing of which it is said?
# - **relation, pooled**: the same, asked of the mean of the whole caption.
#
# Who knows the words but not what belongs to what can say which two colours, shapes or places come in question, and guess: about 50 %.

# %%
answers = {
    "random T5": linear_probe(twin, 600),
    "our T5": linear_probe(encoder, 600),
    "with the U-Net's text layers": linear_probe(encoder, 600, read=base.net.through_text_layers),
}
for name, row in answers.items():
    print(f"{name:30}" + ", ".join(f"{task} {share:.0%}" for task, share in row.items()))
shares = [list(row.values()) for row in answers.values()]
matrix_sheet(
    [shares],
    ["right answers of a linear probe (guessing between two: 0.50)"],
    list(answers),
    list(answers["our T5"]),
    low=0.4,
    label="share right",
)

# %% [markdown]
# **What you should have seen.** Pre-training has bound colours to their things: from about a half to nearly all. A mean of all vectors loses some of what the
# single ones know. But whether a thing is the one on the left, our T5 hardly tells the word for that thing, little more is right than by guessing, and the
# U-Net's layers add exactly this. (They need not keep what nobody asks for: the word of the relation itself knows less after them.) With 150 captions to be
# tried on, a difference of less than about 0.1 means nothing.
#
# ## 5. Trained against random: which words are near one another?
#
# T5 never saw an image. What can it know of "crimson"? That it stands where "red" stands. Its training text had lines such as "crimson is another word for
# red", and now and then the rare word instead of the common one.
#
# **Predict:** of 18 rare words, how often is the nearest common word of its kind the one that it stands for? With random weights, too?

# %%
found = {
    name: synonyms(which, common_part(which(world)))
    for name, which in (("our T5", encoder), ("random T5", twin))
}
hits = nearest_is_correct(found["our T5"])
others = [
    sum(nearest_is_correct(synonyms(other, common_part(other(world)))).values())
    for other in (random_encoder_like(encoder, seed) for seed in range(5))
]
print("our T5, the nearest common word:", score_line(list(hits.values())))
print("random T5, five times:          ", ", ".join(f"{n} of {len(hits)}" for n in others))
print(
    "not found by our T5:",
    ", ".join(f"{rare} ({RARE_WORDS[rare]})" for rare, hit in hits.items() if not hit),
)
colors = {name: of["color"] for name, of in found.items()}
rows, columns = list(colors["our T5"]), list(colors["our T5"]["crimson"])
right = [(i, columns.index(RARE_WORDS[rare])) for i, rare in enumerate(rows)]
matrix_sheet(
    [[list(of[rare].values()) for rare in rows] for of in colors.values()],
    list(colors),
    rows,
    columns,
    marked=right,
)

# %% [markdown]
# **What you should have seen.** The frames mark what each word stands for. Trained, about half of all rare words have the right neighbour, several times as
# many as with random weights, where it is a matter of luck. That is better than nothing and far from good: most colours are fairly near to most rare ones,
# because what the model learned best is *that a colour stands here*. The share agrees with the images of section 1, though not word by word: "crimson" is
# found here, and was drawn in purple there. How good the text encoder is limits how good
# the images can be, which is one of Imagen's main findings: a larger text encoder helped more than a larger U-Net.
#
# ## 6. Nothing said
#
# For classifier-free guidance (notebook 07) the network must also draw *without* the caption. It is trained for that by dropping the caption now and then. As
# in Imagen, dropping means that the vectors are set to zero:

# %%
show_source(TextEmbeddings.null, TextEmbeddings.drop)

# %% [markdown]
# The mask stays, so the null text of a long caption still has more tokens than that of a short one. **Predict:** does the number of tokens, at least, leak to
# the image?

# %%
with torch.no_grad():
    nothing, said = (
        base.net.read(encoder([long, short]).null()),
        base.net.read(encoder([long, short])),
    )
for name, read in (("caption", said), ("nothing said", nothing)):
    tokens_differ = (read.emb[0] - read.emb[0, :1]).abs().max() / read.emb[0].abs().max()
    pooled_differ = (read.pooled[0] - read.pooled[1]).abs().max() / read.pooled.abs().max()
    print(
        f"{name:13} differ, in shares of the largest number: its tokens by {tokens_differ:.0e}, pooled vectors of the long and the short one by {pooled_differ:.0e}"
    )

x_T = randn(range(8), (3, 64, 64), "base", "x_T")
denoise = base.denoiser(
    encoder([long] * 8).null(), guidance_scale=1.0
)  # w = 1: no guidance, one call, with the null text
*_, last = sample(denoise, x_T, base.times(), base.log_snr_of, base.config.sampler)
images = last.x_0_hat.clamp(-1, 1)
parsed_scenes = parse_image(images)
print(
    f"images that the parser can read: {sum(r.scene is not None for r in parsed_scenes)} of {len(parsed_scenes)}"
)
labels = [
    ", ".join(f"{o.color} {o.shape}" for o in r.scene.objects) if r.scene else "not readable"
    for r in parsed_scenes
]
image_grid(list(images), labels, columns=8, cell=96)

# %% [markdown]
# **What you should have seen.** All tokens of the null text are one and the same vector, so attention reads the same from any number of them: nothing leaks.
# And with nothing said the network draws *some* image of its world: this or that number of things, of all shapes and colours, and often one of two
# colours at once. It is what guidance leads away from.
#
# Other code encodes the empty prompt instead, or learns a vector. Either works; what does not is to train with one and to sample with another.
#
# ## Exercise: pool what is there
#
# Write the mean over the real tokens. `emb` is [b, n, d] and `mask` is bool [b, n], True where a token is real. The result is [b, d], and it must not depend
# on how far a row is padded, nor on what numbers stand at the padding.


# %%
def pool(emb: torch.Tensor, mask: torch.Tensor) -> torch.Tensor: ...  # your answer


nb05.check(pool)

# %% [markdown]
# With it, the figure shows how far a caption's vector moves when its row is padded more and more. The mean that forgets the mask is there to compare with.

# %%
means = {"forgets the mask": lambda emb, mask: emb.mean(1)}
if nb05.check(pool).right:
    means["yours"] = pool
sheet, (panel,) = subplots([f'the pooled vector of "{short}", padded'], "padding (tokens)")
for (name, mean), style in zip(means.items(), STYLES):
    start, moved = mean(alone.emb, alone.mask), []
    for extra in range(0, 21, 2):
        padded = mean(F.pad(alone.emb, (0, 0, 0, extra)), F.pad(alone.mask, (0, extra)))
        moved.append(((padded - start).norm() / start.norm()).item())
    panel.plot(range(0, 21, 2), moved, label=name, **style)
    print(
        f"{name}: after 20 tokens of padding the vector has moved by {moved[-1]:.0%} of its length"
    )
panel.set_ylabel("moved by (share of its length)")
panel.set_ylim(-0.05, 1.05)
panel.legend(frameon=False)
sheet

# %% [markdown]
# Next: [06, cross-attention](06_cross_attention.ipynb).
