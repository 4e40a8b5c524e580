# %% [markdown]
# # 05 The frozen text encoder
#
# **Objective:** see which vectors a frozen T5 makes of a caption, what they know that no image showed, and how to pass them on without loss.
#
# **Before this:** 00, 04
#
# Imagen's recipe for text is short: take a language model that was trained on text alone, freeze
# it, and give the diffusion model its vectors, **one for every token**. The hope is that text
# teaches what images do not show: a rare word, a misspelt one, a "no". This notebook examines the
# vectors, and asks how much of that hope comes true here:
#
# 1. words are not tokens: the model reads tokens, which are often only pieces of words;
# 2. captions of a batch are padded, and padding must change nothing;
# 3. one vector for the whole caption is a bag of words, and images depend on attribute binding and
#    relations;
# 4. do the vectors encode relations, and what belongs to what?
# 5. **what does the encoder know that no image showed?**
# 6. **what can text alone teach it?**
# 7. when the caption is dropped, for guidance, none of it may remain.
#
# Our T5 has 0.9 million parameters and was pre-trained in 20 minutes, on text about plain shapes.
# Imagen's has 4.6 billion and was trained on a large part of the web. The interface is the same.
# Ours is the one that the U-Net was trained with, and is shipped as `"teacher"`. By default the
# pipeline has a student of it, which section 6 is about. To examine another encoder in section 5,
# change `OTHER` in the next cell. For example, one that `python -m train.text_encoder --corpus
# text` has trained on text that is no caption.

# %%
import random

import torch
import torch.nn.functional as F
from IPython.display import display

from imagen_mini import ImagenPipeline
from imagen_mini.course.exercises import nb05
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.diffusion.samplers import sample
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.linear_probe import linear_probe
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.evaluation.text_knowledge import (
    FRAMES,
    absence_probe,
    caption_variant,
    count_probe,
    misspelt_words,
    nearest_words,
    transfer_probes,
)
from imagen_mini.evaluation.text_probes import (
    cosine_similarities,
    masked_mean,
    mean_token_vector,
    paraphrase_triples,
    random_encoder_like,
    set_similarity,
    set_similarity_matrix,
    synonym_similarities,
)
from imagen_mini.models.layers import AttentionPooling
from imagen_mini.scenes.captions import RARE_WORDS
from imagen_mini.scenes.parse import parse_image
from imagen_mini.scenes.prose.restatements import WORDINGS, restate
from imagen_mini.scenes.prose.words import ATTRIBUTE_OF, MORE_SYNONYMS
from imagen_mini.text.encoder import TextEmbeddings, TextEncoder
from imagen_mini.utils.rng import randn
from imagen_mini.viz.image_grid import image_grid
from imagen_mini.viz.style import STYLES, subplots
from imagen_mini.viz.text_encoder import plot_matrices, plot_token_pieces

OTHER = "teacher"  # the encoder of section 5; another: "runs/text_encoder_text"

setup_notebook()
pipe = ImagenPipeline.from_pretrained("scenes", text_encoder="teacher")
encoder, base = pipe.text_encoder, pipe.stages["base"]
trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
print(
    f"{sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} million parameters, of which {trained} are trained with the images"
)

# %% [markdown]
# ## 1. Tokens
#
# A tokenizer has a fixed vocabulary, here of 768 tokens. A word that was frequent in the text that
# the vocabulary was made from is one token. Any other word is split, in the worst case into single
# letters or bytes: there is no unknown word.
#
# **Predict:** which of these words are one token: "crimson" (rare, but the text had it), "circel"
# (misspelt), "turquoise" (never seen)?

# %%
prompts = [
    "a red circle",
    "a crimson disc",
    "a larg red circel",
    "a small turquoise ring",
    "three striped green stars",
    "a red circle 🙂",
]
tokens = [encoder.tokenize_prompt(prompt) for prompt in prompts]
plot_token_pieces(tokens)

# %%
of = tokens[2]
print("words:   ", of.words)
print("tokens:  ", of.pieces)
print("word ids:", of.word_ids)
print("mask of row 0 in this batch:", encoder(prompts).mask[0].int().tolist())
print("tokens of 'circel':", of.positions_of_word(3))

# %% [markdown]
# A misspelt word is still represented, but in small pieces. What a language model knows of "circle"
# it now has to find from three tokens that mean nothing by themselves. Code that refers to *words*
# later, such as an attention map or an edit, needs to know which tokens form which word. `word_ids`
# says so; decoding and counting spaces does not. And T5 puts **no token at the beginning**, only
# `</s>` at the end: code written for CLIP that skips position 0 is off by one here.
#
# **Predict:** does the cascade generate the correct image for a misspelt caption? For one with rare
# words, which no training image had but the text had?


# %%
def show_images(pipe, category):
    """Seven captions of a kind, their images, and how many are correct."""
    _, seeds, captions = zip(*benchmark(7, categories=[category]))
    images = pipe(
        [c.text for c in captions], seed=list(seeds), stages=("base",), progress=False
    ).stages["base"]
    found = [c.description.fits(parsed.scene) for c, parsed in zip(captions, parse_image(images))]
    print(f"{category}: {score_line(found)}")
    display(
        image_grid(list(images), [c.text for c in captions], columns=7, cell=128, borders=found)
    )


for category in ("one object", "misspellings", "rare words"):
    show_images(pipe, category)

# %% [markdown]
# **What you should have seen.** The images of plain captions are nearly always correct. Rare words
# work at best every second time (over 30 captions: 37 %), misspelt ones less often (30 %): the
# frozen encoder has seen both, but the U-Net was never trained on their vectors. Misspellings and
# rare words are also categories of DrawBench, the list of prompts on which Imagen was compared with
# others.
#
# ## 2. Padding changes nothing
#
# Captions of a batch are padded to the longest, and the **mask** says which tokens are real. T5
# must not attend to padding, nor must anything after it. The test is simple: a caption alone, and
# the same caption in a batch with a long one.

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

ids = torch.tensor([encoder.tokenize_prompt(short).ids + (0,) * (batch.emb.shape[1] - n)])
print(
    f"the same if T5 is given no mask:     {(alone.emb[0] - encoder.model(input_ids=ids).last_hidden_state[0, :n]).abs().max():.1e}"
)

one, two = (
    pipe(p, seed=0, stages=("base",), progress=False).stages["base"][0]
    for p in (short, [short, long])
)
print(
    f"the image, sampled alone or in a batch with the long one: largest difference {(one - two).abs().max():.1e} (images are in -1 ... 1)"
)

# %% [markdown]
# With the mask the difference is rounding error. Without it, it is of the size of the vectors
# themselves, and a caption's image would depend on the other captions of the batch. This bug raises
# no error, and single captions do not show it. That makes it a classic.
#
# ## 3. One vector, or one for each token?
#
# The simple way to condition on text is one vector for the caption: the mean of all of them, for
# example. We compare captions that use the same words. The measure is the cosine,
#
# $$\cos(a, b) = \frac{a \cdot b}{|a|\,|b|}$$
#
# of the pooled vectors, or of the vectors position by position, and then the mean. T5's vectors
# have a large common part that carries no information, so the mean vector of 200 captions is
# subtracted first.
#
# **Predict:** how near is "a red circle left of a blue square" to "a blue square left of a red
# circle"? And which of the six captions is nearest to the first?

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
common = mean_token_vector(encoder(world))

text = encoder(captions)
pooled = masked_mean(text) - common
by_place = F.normalize(text.emb - common, dim=-1)
matrices = [
    cosine_similarities(pooled, pooled),
    torch.einsum("ind, jnd -> ijn", by_place, by_place).mean(-1),
]
print(
    f"circle left of square against square left of circle: pooled {matrices[0][0, 1]:.3f}, position by position {matrices[1][0, 1]:.3f}"
)
print(
    f"the first against the star and the ring:             pooled {matrices[0][0, 5]:.3f}, position by position {matrices[1][0, 5]:.3f}"
)
letters = "ABCDEF"
plot_matrices(
    matrices,
    ["pooled: the mean", "the sequence, position by position"],
    [f"{a}  {c}" for a, c in zip(letters, captions)],
    list(letters),
    low=0.3,
)

# %% [markdown]
# **Pooled, A, B and C are nearly one vector**, though they ask for three different images. A mean
# does not know the order of what it averages. All that is left of the order is what each vector
# encodes of its neighbours. The sequence distinguishes A and B: at the position of "red" is "blue".
# That is why Imagen's U-Net attends to the whole sequence, by cross-attention, at every step. But
# neither measure finds that E *means the same* as A. Section 4 comes back to this.
#
# Ours has a pooled vector, too, as Imagen's has: it is added to the embedding of the noise level,
# and conditions every block. It is a weighted mean, with learned weights:

# %%
show_source(AttentionPooling)

# %%
unet_pooled = base.net.prepare_text(text).pooled.detach()
unet_pooled = unet_pooled - base.net.prepare_text(encoder(world)).pooled.detach().mean(0)
print(
    f"the U-Net's pooled vector: A against B {cosine_similarities(unet_pooled, unet_pooled)[0, 1]:.3f}, A against F {cosine_similarities(unet_pooled, unet_pooled)[0, 5]:.3f}"
)

# %% [markdown]
# ## 4. Does the sequence encode relations?
#
# "At the position of *red* is *blue*" needs no language model: a table of word vectors would give
# the same. And cross-attention itself has no order. It treats the caption as a **set** of vectors,
# so what no vector encodes is lost. The question is therefore whether "red" is a different vector
# when the red object is on the left.
#
# So we compare captions as sets: for each vector the most similar one in the other caption, and the
# mean of these cosines. We apply this to triples:

# %%
triples = paraphrase_triples(100)
print(*triples[0], sep="\n")
show_source(set_similarity)

# %% [markdown]
# The second has the **same words, but another meaning**; the third has **other words, but the same
# meaning**. We compare three encoders: the same T5 with random weights; our T5; and our T5 followed
# by the two small transformer layers over the words that belong to our U-Net and were trained with
# it, on images.
#
# **Predict:** for which of the three is the third caption nearer to the first than the second is?

# %%
random_encoder = random_encoder_like(encoder)  # the same T5, but with random weights
encoders = {
    "random T5": lambda prompts: random_encoder(prompts),
    "our T5": lambda prompts: encoder(prompts),
    "with the U-Net's text layers": lambda prompts: base.net.through_text_layers(encoder(prompts)),
}
shown, names = [], ["the caption", "same words, other meaning", "same meaning, other words"]
with torch.no_grad():
    for name, encode in encoders.items():
        off = mean_token_vector(encode(world))
        each = [set_similarity_matrix(encode(list(triple)), off) for triple in triples]
        shown.append(torch.stack(each).mean(0))
        nearer = [bool(m[0, 2] > m[0, 1]) for m in each]
        print(
            f"{name}: the same meaning is nearer in {score_line(nearer).replace('correct', 'triples')}"
        )
plot_matrices(shown, list(encoders), names, ["caption", "same words", "same meaning"], low=0.7)

# %% [markdown]
# **What you should have seen.** For the frozen encoder, random or trained, the same words are
# always nearer than the same meaning. After the U-Net's two layers it is the other way round. They
# were trained with one objective, what the image has to show, and this is the same for both
# wordings. Imagen has no such layers; its T5 is five thousand times as large. With a small encoder,
# they are what makes "left of" work here.
#
# A cosine is a coarse measure, though. A *linear probe* measures what can be read off a vector at
# all: it is a linear map, fitted to 3/4 of 600 held-out captions of two objects, and tested on the
# other 1/4.
#
# - **color**, from the token of a shape: what colour has this object? The other object's colour is
#   in the caption, too.
# - **place**, from the same token: is this object left, right, above or below?
# - **relation**, from the token "left", "above", ...: what shape has the object of which it is
#   said?
# - **relation, pooled**: the same, from the mean of the whole caption.
#
# A reader that knows the words but not what belongs to what is left with two possible colours,
# shapes or positions, and has to guess: about 50 %.

# %%
answers = {
    "random T5": linear_probe(random_encoder, 600),
    "our T5": linear_probe(encoder, 600),
    "with the U-Net's text layers": linear_probe(encoder, 600, read=base.net.through_text_layers),
}
for name, row in answers.items():
    print(f"{name:30}" + ", ".join(f"{task} {share:.0%}" for task, share in row.items()))
shares = [list(row.values()) for row in answers.values()]
plot_matrices(
    [shares],
    ["accuracy of a linear probe (guessing between two: 0.50)"],
    list(answers),
    list(answers["our T5"]),
    low=0.4,
    label="accuracy",
)

# %% [markdown]
# **What you should have seen.** Pre-training has bound colours to their objects: from about a half
# to nearly all. A mean of all vectors loses some of what the single ones encode. But whether an
# object is the one on the left is hardly encoded in our T5's vector of that object: little more is
# correct than by guessing. The U-Net's layers add exactly this. (They need not keep what is not
# used: the word of the relation itself encodes less after them.) With 150 captions for the test, a
# difference of less than about 0.1 means nothing.
#
# ## 5. What does it know that no image showed?
#
# T5 never saw an image. What can it know of "crimson"? That it occurs where "red" occurs. Its
# training text had lines such as "crimson is another word for red", and now and then the rare word
# instead of the common one.
#
# This matters because the U-Net is trained on captions, and captions here have common words alone.
# **A word that captions never have can be drawn only as far as its vector is like that of a word
# they have.** So that is what we measure, first by eye. We put a rare word and all common words of
# its kind in the same captions, and compare their vectors.
#
# **Predict:** which common words will be nearest to "crimson", "disc" and "tiny"? With random
# weights, too?

# %%
other = encoder if OTHER == "teacher" else TextEncoder.from_pretrained(OTHER)
other_random = random_encoder_like(other)  # the same network with random weights
readers = {"this encoder": other, "random weights": other_random}
synonyms = {rare: (ATTRIBUTE_OF[word], word) for rare, word in (RARE_WORDS | MORE_SYNONYMS).items()}
print("the frames for a colour:", *FRAMES["colour"], sep="\n    ")
shown = {
    w: synonyms[w][0] for w in ("crimson", "emerald", "ivory", "disc", "box", "tiny", "banded")
}
for name, reader in readers.items():
    print(f"\n{name}")
    for word, nearest in nearest_words(reader, shown).items():
        print(f"    {word:10} ({synonyms[word][1]}): {', '.join(nearest[:4])}")

# %% [markdown]
# Then with numbers: for rare words that our T5 has read, for others that it has not,
# and for misspelt ones. Chance is one in the number of words of a kind. Random weights are a better
# comparison: the pieces of a misspelt word are often those of the right one, and that needs no
# training.

# %%
misspelt = misspelt_words(per_word=1)
words = {
    "rare words": {word: synonyms[word] for word in RARE_WORDS},
    "other rare words": {word: synonyms[word] for word in MORE_SYNONYMS},
    "misspelt words": misspelt,
}
print(
    "misspelt, for example:", ", ".join(f"{w} ({of})" for w, (_, of) in list(misspelt.items())[:6])
)
for kind, of_kind in words.items():
    for name, reader in readers.items():
        nearest = nearest_words(reader, {word: k for word, (k, _) in of_kind.items()})
        hits = [nearest[word][0] == right for word, (_, right) in of_kind.items()]
        print(f"{kind:16} {name:14}: {score_line(hits)}")

# %% [markdown]
# The matrices show the cosine of each rare colour with each common one. The frames mark what each
# word stands for.

# %%
found = {
    name: synonym_similarities(reader, mean_token_vector(reader(world)))["color"]
    for name, reader in readers.items()
}
rows = list(found["this encoder"])
columns = list(found["this encoder"][rows[0]])
plot_matrices(
    [[list(of[rare].values()) for rare in rows] for of in found.values()],
    list(found),
    rows,
    columns,
    marked=[(i, columns.index(RARE_WORDS[rare])) for i, rare in enumerate(rows)],
)

# %% [markdown]
# A nearest neighbour asks for one word. The U-Net asks for more: *what belongs to this shape?* So
# we do what the U-Net does. A linear probe learns, **on captions in common words**, to read the
# shape, the colour, the size and the place of a thing from the vector of its word. Then it reads
# captions in other words, which it was not fitted to:

# %%
rng_captions = {
    name: caption_variant(name, random.Random(3)).text
    for name in ("seen words", "rare words", "misspelt words", "unseen phrases")
}
for name, caption in rng_captions.items():
    print(f"{name:15} {caption}")
probes = {name: transfer_probes(reader, 300) for name, reader in readers.items()}
questions = list(probes["this encoder"])
variants = list(probes["this encoder"][questions[0]])
plot_matrices(
    [[[of[q][v] for v in variants] for q in questions] for of in probes.values()],
    [f"{name}: accuracy of a probe" for name in probes],
    questions,
    variants,
    low=0.0,
    label="accuracy",
)

# %% [markdown]
# And two things that no single word says: how many things a caption lists, and whether a thing is
# there or only mentioned ("and no ring"). Guessing gives 25 % and 50 %.

# %%
for name, reader in readers.items():
    print(
        f"{name:14}: number of things {count_probe(reader, 300):.0%}, there or absent {absence_probe(reader, 300):.0%}"
    )

# %% [markdown]
# **What you should have seen, with our T5.** Of the rare words that it has read,
# several times as many have the correct neighbour as with random weights. That is better than
# nothing and far from good: most colours are fairly near to most rare ones, because what the model
# learned best is *that this is the position of a colour*. Of rare words that it has not read it
# knows no more than random weights do, and for misspelt ones training helps little. The probe tells
# more. In common words it reads nearly all colours. In rare or misspelt words it reads few, and
# random weights do about as well there. So what this encoder knows of rare words is too little to
# draw by, and the images of section 1 say the same. What it has learned for certain is binding, and
# whether a thing is there. How many things there are, random weights tell as well: for that, the
# words alone are enough.
#
# With another text encoder the same numbers say whether it knows more: change `OTHER`. In the
# paper, a larger text encoder helped more than a larger U-Net (Imagen, Section 4.4). Here the
# README's claims say what can be told of it.
#
# ## 6. What text alone can teach
#
# The U-Net understands the vectors of the words of captions, and no others. So there is one thing
# to teach an encoder: to give *other words for a caption* the vectors that the frozen T5 gives *the
# caption itself*. Sentences in two wordings are enough for that. No image is needed, and the U-Net
# stays as it is. (Reimers and Gurevych, 2020, do it with translations: the T5 is the *teacher*, the
# encoder that learns is the *student*.)
#
# Each pair is a list of parts, other words and words of the caption. What is absent has no words in
# the caption, so its vectors should be those of the end token: nothing more to say.

# %%
caption = benchmark(1, seed=2, categories=["positional"])[0][2]
for kind, (wording, _) in WORDINGS.items():
    print(f"{kind:18} {restate(caption, wording, random.Random(42))}")

# %% [markdown]
# `python -m train.distill_text_encoder` teaches that. The student is what the pipeline has unless
# another encoder is named. Its weights are the only thing that changes.
#
# **Predict:** of the same misspelt and rare captions, how many are correct now? And of captions
# that say what is *not* there?

# %%
taught = ImagenPipeline.from_pretrained("scenes")
print(
    "the same U-Net:", all(map(torch.equal, base.parameters(), taught.stages["base"].parameters()))
)
for category in ("misspellings", "rare words"):
    show_images(taught, category)
for name, which in (("the T5", pipe), ("its student", taught)):
    print(name)
    show_images(which, "negation")

# %%
readers["its student"] = taught.text_encoder
for kind, of_kind in words.items():
    for name, reader in readers.items():
        nearest = nearest_words(reader, {word: k for word, (k, _) in of_kind.items()})
        hits = [nearest[word][0] == right for word, (_, right) in of_kind.items()]
        print(f"{kind:16} {name:14}: {score_line(hits)}")

# %% [markdown]
# **What you should have seen.** With the student, every misspelt and every rare caption is drawn as
# it is meant, and the nearest word is always the correct one. Of a caption with "no" the T5 draws
# both objects, or the wrong one: to it, "no" is a word beside a shape. The student's vectors of
# "and no yellow ring" are those of the end of the sentence, and the ring is gone. All that with the
# same U-Net. What looked like a weakness of the image model was one of the text encoder.
#
# Is this what the paper found? Half of it. A frozen encoder that has read more makes the picture:
# that is so. But Imagen's T5 was never told that crimson is a red. It filled in hidden words of
# much text, and likeness came with that. Ours was told, word by word. A word that nobody told it,
# such as "maroon", it does not know. A T5 of the same size that only filled in hidden words, in
# 320,000 lines of text with these words, knows rare ones no better than our T5
# ([log](../train/LOG.md)). So little text and so small a model are not enough for the rest.
#
# ## 7. The unconditional embedding
#
# For classifier-free guidance (notebook 07) the network also has to predict *without* the caption
# (unconditionally). It is trained for that by dropping the caption now and then. As in Imagen,
# dropping means that the vectors are set to zero:

# %%
show_source(TextEmbeddings.null, TextEmbeddings.drop)

# %% [markdown]
# The mask stays, so the null text of a long caption still has more tokens than that of a short one.
# **Predict:** does at least the number of tokens influence the image?

# %%
with torch.no_grad():
    unconditional, conditional = (
        base.net.prepare_text(encoder([long, short]).null()),
        base.net.prepare_text(encoder([long, short])),
    )
for name, read in (("caption", conditional), ("no caption", unconditional)):
    tokens_differ = (read.emb[0] - read.emb[0, :1]).abs().max() / read.emb[0].abs().max()
    pooled_differ = (read.pooled[0] - read.pooled[1]).abs().max() / read.pooled.abs().max()
    print(
        f"{name:13} differ, in shares of the largest number: its tokens by {tokens_differ:.0e}, pooled vectors of the long and the short one by {pooled_differ:.0e}"
    )

x_T = randn(range(8), (3, 64, 64), "base", "x_T")
denoise = base.denoiser(
    encoder([long] * 8).null(), guidance_scale=1.0
)  # w = 1: no guidance, one call, with the null text
*_, last = sample(denoise, x_T, base.timesteps(), base.schedule, base.config.sampler)
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
# **What you should have seen.** All tokens of the null text are one and the same vector, so
# attention returns the same for any number of them: nothing leaks. And without a caption the
# network samples *some* image of its world: various numbers of objects, of all shapes and colours,
# and often one of two colours at once. Guidance leads away from this unconditional prediction.
#
# Other code encodes the empty prompt instead, or learns a vector. Either works. What does not work
# is to train with one and to sample with another.
#
# ## Exercise: masked mean pooling
#
# Write the mean over the real tokens. `emb` is [b, n, d] and `mask` is bool [b, n], True where a
# token is real. A mask may have gaps: real tokens need not come first. The result is [b, d], and it
# must not depend on how far a row is padded, nor on what numbers are at the padding.


# %%
def pool(emb: torch.Tensor, mask: torch.Tensor) -> torch.Tensor: ...  # your answer


nb05.check(pool)

# %% [markdown]
# With it, the figure shows how far a caption's vector moves when its row is padded more and more.
# The mean that ignores the mask is there for comparison.

# %%
means = {"forgets the mask": lambda emb, mask: emb.mean(1)}
if nb05.check(pool).correct:
    means["yours"] = pool
fig, (ax,) = subplots([f'the pooled vector of "{short}", padded'], "padding (tokens)")
for (name, mean), style in zip(means.items(), STYLES):
    start, moved = mean(alone.emb, alone.mask), []
    for extra in range(0, 21, 2):
        padded = mean(F.pad(alone.emb, (0, 0, 0, extra)), F.pad(alone.mask, (0, extra)))
        moved.append(((padded - start).norm() / start.norm()).item())
    ax.plot(range(0, 21, 2), moved, label=name, **style)
    print(
        f"{name}: after 20 tokens of padding the vector has moved by {moved[-1]:.0%} of its length"
    )
ax.set_ylabel("moved by (share of its length)")
ax.set_ylim(-0.05, 1.05)
ax.legend(frameon=False)
fig

# %% [markdown]
# ## Exercise: what does it know that no image showed?
#
# Find a word or a phrase of which the encoder knows what it means, though no caption has it. Use
# `nearest_words` with words of yours and their kind, a key of `FRAMES`. To be sure that it is
# knowledge, answer three questions:
#
# 1. Is the nearest word the right one with random weights, too? Then the pieces alone explain it.
# 2. Is it right for a made-up word of the same length? Then it is the position, or chance.
# 3. Does an image follow? Ask the cascade for it, with several seeds.
# 4. Was the student told? The list is `imagen_mini/scenes/prose/words.py`. A word that is not there
#    and is read correctly all the same would be a finding.
#
# Then write down one thing that an encoder knows and the images do not show. What would have to
# change so that they do: the encoder, the U-Net, or the captions that it was trained on?

# %%
# your words, and their kinds
mine = {"scarlet": "colour", "maroon": "colour", "blorp": "colour", "orb": "shape"}
for name, reader in readers.items():
    print(name)
    for word, nearest in nearest_words(reader, mine).items():
        print(f"    {word:10} {', '.join(nearest[:4])}")

# %% [markdown]
# Next: [06, cross-attention](06_cross_attention.ipynb).
