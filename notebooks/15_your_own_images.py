# %% [markdown]
# # 15 Train on your own images
#
# **Objective:** turn a folder of captioned images into a trained network, and find out what it has learned, what it has copied, and what it can combine.
#
# **Before this:** 03, and 12 for intervals
#
# So far all images were rendered, in any number, and a parser could judge them. Your own images are
# few, they are of different sizes, and nobody has written a parser for them. This notebook goes the
# whole way on 54 small images, and says at each step what you would do with yours:
#
# 1. what a folder must look like;
# 2. what has to be decided before training: the background, the shape of an image, what is held out;
# 3. the run;
# 4. the health report;
# 5. three questions without a parser: are captions used, is training data copied, can it combine?
# 6. what more compute brings.
#
# To use your own images, write their folder into the next cell and run all of it again. For a folder
# with captions alone, set `LABELS = ()` and `HELD_OUT = 0.1` there as well.

# %%
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.config import PRESETS
from imagen_mini.course.exercises import nb15
from imagen_mini.course.notebook import setup_notebook, show_source
from imagen_mini.course.small_run import COLOURED_EMOJI, diagnose_run, start_small_run
from imagen_mini.data.folder import ImageFolderDataset
from imagen_mini.data.held_out import rows_held_out
from imagen_mini.data.image_io import open_rgb
from imagen_mini.data.prepared import SquareFit
from imagen_mini.evaluation.folder_score import caption_use, memorised, small_pixels
from imagen_mini.evaluation.metrics import nearest_neighbours
from imagen_mini.evaluation.preview import sample_single_stage
from imagen_mini.evaluation.statistics import score_line
from imagen_mini.models.unet import UNetConfig
from imagen_mini.training.config import TrainConfig
from imagen_mini.training.loop import train
from imagen_mini.utils.images import to_rgb
from imagen_mini.viz.image_grid import as_jpeg, image_grid, image_table
from imagen_mini.weights import WEIGHTS

FOLDER = Path(COLOURED_EMOJI)  # yours: Path("my_images")
LABELS = ("color", "shape", "style")  # columns of its metadata, if it has more than captions
HELD_OUT = 0.0  # for a folder without a split `test`: 0.1

setup_notebook()
encoder = ImagenPipeline.from_pretrained("scenes").text_encoder

# %% [markdown]
# ## 1. The folder
#
# A folder of images and a table that says which image has which caption. The table may be a
# `metadata.jsonl`, as here, a `metadata.csv`, or a text file beside each image. Further columns are
# allowed. Of two folders `train` and `test`, `train` is trained on.

# %%
for table in sorted(FOLDER.rglob("metadata.jsonl")):
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    print(f"{table.relative_to(FOLDER)}: {len(rows)} images, for example")
    print("   ", json.dumps(rows[0]))

cache = tempfile.mkdtemp()  # prepared images; by default they are kept in FOLDER/.prepared
options = {"cache": cache, "progress": False, "label_columns": LABELS, "held_out": HELD_OUT}
data = ImageFolderDataset(FOLDER, (64,), **options)
shown = data.batch(range(min(len(data), 16)), 64)
image_grid(list(shown.images), shown.captions, columns=8, cell=96)

# %% [markdown]
# These are emoji of two styles: flat ones of Microsoft's Fluent set (MIT licence), and shaded ones
# of Google's Noto set (Apache-2.0). The captions **compose**: a colour, a shape and a style. Captions
# that compose are worth more than captions that number: a network can learn "purple" from one image
# and "heart" from another, but nothing from "IMG_0042".
#
# Outside of a notebook, this finds every problem at once, such as broken files, empty captions, and
# captions that are cut off by the text encoder:
#
#     python -m train.check_dataset my_images --image sheet.png
#
# ## 2. Three decisions before training
#
# **The background.** Drawings are often transparent, and a network knows no transparency. What they
# are put on becomes part of what is learned.
#
# **Predict:** what happens to the white heart on white?

# %%
heart = Path(COLOURED_EMOJI) / "train" / "fluent_white_heart.png"
squares = [
    Image.fromarray(SquareFit().square(open_rgb(heart, color), 96))
    for color in ("#ffffff", "#c8c8c8", "#303030")
]
image_grid(squares, ["on white", "on light gray", "on dark gray"], cell=96)

# %% [markdown]
# On white little more than its gray outline tells it from the background. So we take a light gray.
#
# **The shape.** Networks want squares. The usual answer is to keep the central square, and an
# elongated image loses its ends. The other answer keeps all of it, with bars beside it. Then the
# network learns to generate bars, too.

# %%
with Image.open(heart) as image:
    wide = Image.new("RGBA", (3 * image.width, image.height))
    for i in range(3):
        wide.alpha_composite(image.convert("RGBA").rotate(120 * i), (i * image.width, 0))
wide = to_rgb(wide, background="#c8c8c8")
squares = [Image.fromarray(SquareFit(fit, "#c8c8c8").square(wide, 96)) for fit in ("crop", "pad")]
image_grid(squares, ["three hearts in a row, crop", "pad"], cell=96)

# %% [markdown]
# Ours are square already. With your own, look at both; `--fit pad` of `train.train` is the second.
#
# **What is held out.** A number that is measured on training images says how well they were learned
# by heart. So some images are kept apart. There are two ways, and they ask different questions:
#
# - a *random share*: does it generalise to more images of the same kind? All images that share a
#   caption must go to the same side, or the test knows its answers (see the exercise);
# - *combinations*: can it join what it has only seen apart? Our folder `test` is of this kind.

# %%
data = ImageFolderDataset(FOLDER, (64,), background="#c8c8c8", **options)
apart = ImageFolderDataset(FOLDER, (64,), background="#c8c8c8", part="held_out", **options)
captions = data.batch(range(len(data)), 64).captions
unseen = apart.batch(range(len(apart)), 64)
print(f"{len(data)} images are trained on, {len(apart)} are held out")
print("captions on both sides:", set(captions) & set(unseen.captions) or "none")
for caption in unseen.captions:
    words = caption.replace(",", "").split()
    print(f"  {caption}:", ", ".join(f"{w} in {sum(w in c for c in captions)}" for w in words))
image_grid(list(unseen.images), unseen.captions, columns=len(apart), cell=96)

# %% [markdown]
# Each word of a held-out caption is trained on in other company. An orange square is trained on in
# no style at all, the others in the other style alone. This is how the package chooses a random
# share, for folders that have no `test`:

# %%
show_source(rows_held_out)

# %% [markdown]
# ## 3. The run
#
# The network and the recipe are those of notebook 03. Only the data are others.
#
# **Predict:** there are fewer than 50 images. Will the network learn faster or more slowly than on
# the endless stream of notebook 03? What will go wrong if it trains for very long?

# %%
small = UNetConfig(
    patch=4,
    channels=(32, 64, 96),
    blocks=(1, 1, 1),
    attention=("", "cross", "self+cross"),
    head_dim=16,
    text_layers=1,
)
stage_config = replace(PRESETS["mini"]["base"], unet=small, num_inference_steps=12)
recipe = TrainConfig(
    steps=300,
    batch_size=16,
    learning_rate=8e-3,
    warmup=20,
    cooldown=0.4,
    ema_half_life=60,
    pooled_drop_prob=0.0,
    loss_weight="balanced",
    loss_cap=60.0,
)
asked = captions[:4] + unseen.captions[:4]
measured_steps = [recipe.steps // 12, recipe.steps // 4, recipe.steps // 2, recipe.steps]

stage, optimizers, ema = start_small_run(stage_config, recipe)
states, sheets, seconds, began = [], [], 0.0, time.perf_counter()
for state in train(stage, encoder, recipe, optimizers, ema, data=data):
    states.append(state)
    seconds += time.perf_counter() - began  # training alone, without sampling
    if state.step in measured_steps:
        with ema.average_parameters():
            sheets.append(list(sample_single_stage(stage, encoder, asked, range(len(asked)))))
    began = time.perf_counter()
seen = recipe.steps * recipe.batch_size
print(
    f"{recipe.steps} steps of {recipe.batch_size} images in {seconds:.0f} s: each image was seen {seen / len(data):.0f} times"
)

# %%
columns = [f"{c} (held out)" if c in unseen.captions else c for c in asked]
as_jpeg(image_table(sheets, [f"step {step}" for step in measured_steps], columns, cell=104))

# %% [markdown]
# **What you should have seen.** The object's place comes first, since it is the same in all images.
# Colours follow, and outlines come last. In notebook 03 an object could be anywhere, so there was
# more to learn. What goes wrong if this goes on for very long, section 5 shows.
#
# ## 4. The health report
#
# A run can fail without an error message. These are the questions that `python -m train.report`
# asks of a run on disk, each with what was measured and a verdict.

# %%
for found in diagnose_run(stage, ema, encoder, apart, states, n=len(apart) * 4):
    print(f"{found.status:5} {found.name}: {found.message}")

# %% [markdown]
# Read each line before you look at more images. "look" is no alarm: so short a run on so few images
# has something to be looked at. The line on captions is the most telling one. If a wrong
# caption costs nothing, the network does not read, whatever its images look like.
#
# ## 5. Three questions without a parser
#
# An image of each caption, of those trained on and of those held out. Here, too, the average of the
# weights is used. First: what does another image's caption, or none, add to the loss?

# %%
with torch.no_grad(), ema.average_parameters():
    for name, part in (("trained on", data), ("held out", apart)):
        use = caption_use(stage, encoder, part, range(len(part)))
        print(
            f"{name:10}: loss {use['loss']:.4f}; with another caption {use['another']:+.0%}, with none {use['none']:+.0%}"
        )
    true = data.batch(range(len(data)), 64)
    made = sample_single_stage(stage, encoder, true.captions, range(len(data)))
    combined = sample_single_stage(stage, encoder, unseen.captions, range(len(apart)))

# %% [markdown]
# Second: **is training data copied?** For each generated image we look up the nearest training
# image, by pixels at a small size. A distance alone says nothing. So beside it stands the distance
# of a true image that was not trained on.
#
# **Predict:** with 47 images, each seen a hundred times, what will the network have done?

# %%
near, which = memorised(small_pixels(made), small_pixels(unseen.images), small_pixels(true.images))
print(
    f"median distance to the nearest training image: generated {near['generated']:.2f}, true held-out images {near['unseen']:.2f}"
)
print(f"generated images nearer than 95 % of the held-out ones: {near['nearer']:.0%}")
rows = list(range(8))
image_table(
    [list(made[rows]), [true.images[which[i]] for i in rows]],
    ["generated", "nearest in training"],
    [true.captions[i] for i in rows],
    cell=96,
)

# %% [markdown]
# **What you should have seen.** The generated image and its neighbour are nearly the same. For a
# colour, a shape and a style there is exactly one image. So this test cannot tell a copy from a
# correct drawing; the third question can. Where a caption fits many images, as with photographs, it
# tells: there a network that was trained for long on a small folder copies, too.
#
# Third: **can it combine?** The captions held out ask for combinations that training never showed.
# There is no parser. But the true images have labels, and the nearest of *all* true images, trained
# on or not, says which colour, shape and style a generated image has. That is the simplest
# classifier there is.

# %%
everything = torch.cat([true.images, unseen.images])
labels = [data.labels(i) for i in range(len(data))] + [apart.labels(i) for i in range(len(apart))]
found = {}
for name, images, own in (
    ("trained on", made, labels[: len(data)]),
    ("held out", combined, labels[len(data) :]),
):
    _, nearest = nearest_neighbours(small_pixels(images), small_pixels(everything))
    found[name] = [labels[i] for i in nearest]
    for label in LABELS:
        right = [told[label] == asked_for[label] for told, asked_for in zip(found[name], own)]
        print(f"{name:10} {label:6}: {score_line(right)}")

print()
for caption, told in zip(unseen.captions, found["held out"]):
    print(f"{caption:24} looks most like {' '.join(told[label][0] for label in LABELS)}")
image_table([list(combined), list(unseen.images)], ["generated", "true"], unseen.captions, cell=96)

# %% [markdown]
# **What you should have seen.** On captions that were trained on it is nearly always right. On the
# seven new combinations all three words are right in most images, too: it does not only copy, it
# joins what it saw apart. But seven images cannot give a share with a narrow interval, and the
# interval says so.
#
# A nearest neighbour judges only what has hardly any variation. For larger sets, a small network
# does it: `python -m train.folder_classifier` trains one on the columns of your metadata, and writes
# its own accuracy into its card.
#
# ## 6. More compute, and more data
#
# The shipped cascade `emoji` was trained by one command, on 10,117 emoji in three styles. Their captions
# compose: "woman running, fluent style, dark skin tone". Each row of the picture is its base stage after
# more steps of 32 images, on one CPU core. The captions were held out; the last row has the true images.
#
# **Predict:** what does it learn first, and what last: the colours, the style, a person's pose, the shape
# of a single object?

# %%
EMOJI = WEIGHTS.parent / "emoji"
as_jpeg(Image.open(EMOJI / "images" / "timeline.png").convert("RGB"), quality=60)

# %%
files = [EMOJI / "report.json", *EMOJI.glob("report_at_*.json")]
reports = [json.loads(file.read_text()) for file in files]
print("  steps  images seen  hours   style     tone   loss with another caption")
for report in sorted(reports, key=lambda r: r["training"]["base"]["steps"]):
    age, found = report["training"]["base"], report["labels"]["all"]["generated"]
    style, tone = (f"{found[c]['right']}/{found[c]['n']}" for c in ("style", "tone, if named"))
    use = report["caption_use"]["all"]["base"]["another"]
    print(
        f"{age['steps']:7,} {age['steps'] * 32:12,} {age['seconds'] / 3600:6.1f} {style:>8} {tone:>8}   {use:+.0%}"
    )

# %% [markdown]
# **What you should have seen.** After 73 steps there are colours, but the shapes are the solid ones of
# `studio`, where this network started. Then come poses, styles and skin tones, and last the details.
# The palm and the tamale never come: of each object the folder has three images, of each person up to
# eighteen. So captions of persons compose, and those of objects hardly do. What each costs:
#
# | images seen | command |
# |---|---|
# | 5 thousand | this notebook |
# | 83 thousand | `python -m train.train --stage base --data FOLDER steps=2600 batch_size=32` |
# | 173 thousand | the base stage of `emoji` |
# | 1.3 million | `python -m train.cascade emoji --data FOLDER`, which adds super-resolution, and a text encoder that has read real text |
#
# More steps on the same few images only improve the copies. What helps is more images whose
# captions compose. `python -m train.make_dataset emoji` makes a folder of 14,408 such images.
# `python -m sample.evaluate --data FOLDER` answers the questions of section 5 for it.
#
# Before you share weights that were trained on images of others, read their licence.
#
# ## Exercise: hold out by caption
#
# Write the choice of the images that are held out. `captions` is a list with one caption for each
# image, and `share` is a number in (0, 1). Return the indices of the images held out, as a list.
#
# - Images with the same caption are on the same side. Capitals, and spaces at the ends or between
#   words, make no difference.
# - At most `share` of the images are held out, and as many as fit where every caption is another
#   one.
# - The choice does not depend on the order of the images: another listing of the same folder holds
#   out the same captions. Nor does it depend on the session: Python's `hash` of a text, and the order
#   of a `set` of texts, are others in each.


# %%
def hold_out(captions: list[str], share: float) -> list[int]: ...  # your answer


nb15.check(hold_out)

# %% [markdown]
# With it, a folder of four photographs of each of ten animals is split. The first line is the usual
# mistake, a random choice of images.

# %%
animals = [f"A photograph of a {a}" for a in "cat dog cow pig hen fox owl bee ant eel".split()] * 4
splits = {"images at random": torch.randperm(40, generator=torch.Generator().manual_seed(0))[:8]}
if nb15.check(hold_out).correct:
    splits["yours, by caption"] = torch.tensor(hold_out(animals, 0.2))
for name, chosen in splits.items():
    kept = {animals[i] for i in range(40) if i not in chosen.tolist()}
    known = sum(animals[i] in kept for i in chosen.tolist())
    print(f"{name}: {known} of {len(chosen)} captions held out are trained on as well")

# %% [markdown]
# Next: [16, editing given images](16_editing_given_images.ipynb).
