"""Claims about the cascade: what noise-conditioning augmentation is for, and whether
super-resolution uses the text.

Only super-resolution can know textures: at 64 px all four look alike. So only the textures decide
here whether an image is correct.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.sampling_options import resolve_sampling_options
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.statistics import Difference, paired_agresti_min
from imagen_mini.scenes.captions import Caption, Description, caption_from
from imagen_mini.scenes.scene import HELD_OUT_TEXTURE_SHAPE, TEXTURES, Scene
from imagen_mini.text.encoder import TextEmbeddings
from imagen_mini.viz.guidance import plot_accuracy
from imagen_mini.viz.style import STYLES, percent_axis, save_figure, subplots
from sample.claims.claim import (
    FAILS,
    HOLDS,
    MEANINGFUL,
    UNCLEAR,
    Claim,
    Experiment,
    Verdict,
    all_of,
    bars,
    beats,
    gain,
    has_room,
    is_above,
    is_enough,
    percent,
    tally,
)
from sample.claims.guidance import BATCH, base_of, evenly_spaced, example_grid
from sample.sweep import SR_CATEGORIES

LEVELS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
SHOWN = 5  # examples in a row
CHANCE = 1 / len(TEXTURES)  # accuracy of a network that always generates the same texture
RECOMMENDED = (0.1, 0.3)  # Imagen (2022), Appendix D.2: generally used for the best samples


def low_res_images(pipe: ImagenPipeline, captions: list[str], seeds: list[int]) -> Tensor:
    """Generate images [n, 3, size, size] with the base stage and its defaults."""
    base = base_of(pipe)
    return torch.cat(
        [
            pipe(
                captions[at : at + BATCH],
                seed=seeds[at : at + BATCH],
                stages=(base,),
                output_type="pt",
                progress=False,
            )
            .stages[base]
            .float()
            .cpu()
            for at in tqdm(range(0, len(captions), BATCH), desc="base stage", unit="batch")
        ]
    )


def enlarge(
    pipe: ImagenPipeline,
    captions: list[str],
    text: TextEmbeddings,
    seeds: list[int],
    low_res: Tensor,
    aug_level: float | None = None,
) -> Tensor:
    """Apply super-resolution to given low-resolution images, with any text."""
    name = list(pipe.stages)[1]
    return (
        pipe.sample_stage(
            name,
            pipe.make_request(captions, seeds, text, low_res=low_res),
            resolve_sampling_options(pipe.stages[name], aug_level=aug_level),
            progress=False,
        )
        .clamp(-1, 1)
        .float()
        .cpu()
    )


# ---------------------------------------------------------------- noise-conditioning augmentation


def without_textures(scene: Scene) -> Scene:
    """Return the scene as it can be rendered at the base stage's size, where no texture shows."""
    return replace(scene, objects=tuple(replace(o, texture="solid") for o in scene.objects))


def measure_augmentation(pipe: ImagenPipeline, n: int) -> tuple[dict, Image.Image]:
    """Enlarge each correct base image, and the same scene by the renderer, at each level of
    augmentation.
    """
    # 1. Base images; keep the correct ones.
    config = pipe.stages[list(pipe.stages)[1]].config
    levels = sorted(
        {level for level in LEVELS if level <= config.max_aug_level} | {config.aug_level}
    )
    prompts = benchmark(n, categories=SR_CATEGORIES, world=pipe.world)
    generated = low_res_images(
        pipe, [c.text for _, _, c in prompts], [seed for _, seed, _ in prompts]
    )
    read = [parsed for part in generated.split(64) for parsed in pipe.world.parse_image(part)]
    kept = [i for i, (_, _, c) in enumerate(prompts) if c.description.fits(read[i].scene)]
    # 2. Beside each generated image a clean one of the same scene.
    low_res = {
        "clean": pipe.world.render(
            [without_textures(read[i].nearest) for i in kept], generated.shape[-1]
        )
        if kept
        else generated[:0],
        "generated": generated[kept],
    }
    found = {
        "own_level": config.aug_level,
        "levels": levels,
        "categories": SR_CATEGORIES,
        "category": [prompts[i][0] for i in kept],
        "base_right": len(kept),
        "captions": len(prompts),
        "clean": [],
        "generated": [],
    }
    # 3. Enlarge and judge them.
    examples, shown = evenly_spaced(range(len(kept)), SHOWN), []
    with tqdm(total=2 * len(levels) * len(kept), desc="augmentation") as bar:
        for source, images in low_res.items():
            for level in levels:
                correct = []
                for at in range(0, len(kept), BATCH):
                    part = [prompts[i] for i in kept[at : at + BATCH]]
                    captions = [c.text for _, _, c in part]
                    large = enlarge(
                        pipe,
                        captions,
                        pipe.text_encoder(captions),
                        [seed for _, seed, _ in part],
                        images[at : at + BATCH],
                        level,
                    )
                    correct += [
                        c.description.fits(parsed.scene)
                        for (_, _, c), parsed in zip(part, pipe.world.parse_image(large))
                    ]
                    if level in (0.0, config.aug_level, levels[-1]):
                        shown += [
                            (
                                large[i - at],
                                correct[i],
                                f"{source}, level {level:g}: {captions[i - at]}",
                            )
                            for i in examples
                            if at <= i < at + BATCH
                        ]
                    bar.update(len(part))
                found[source].append({"level": level, **tally(correct)})
    return found, example_grid(
        shown or [(torch.ones(3, 256, 256), None, "no base image was correct")],
        columns=max(1, len(examples)),
        cell=256,
    )


def at_level(numbers: dict, source: str, level: float) -> dict:
    """Return the row of one augmentation level."""
    return next(row for row in numbers[source] if row["level"] == level)


def judge_gap(numbers: dict) -> Verdict:
    """Judge the gap: accuracy from clean less accuracy from generated low-resolution images.

    Without a gap there is nothing to close.
    """
    own = numbers["own_level"]
    gap_0, gap_own = (
        gain(at_level(numbers, "generated", level), at_level(numbers, "clean", level))
        for level in (0.0, own)
    )
    rows = [
        at_level(numbers, source, level)["each"]
        for source, level in (
            ("clean", 0.0),
            ("generated", 0.0),
            ("clean", own),
            ("generated", own),
        )
    ]
    closed = paired_agresti_min(
        [(int(a) - int(b)) - (int(c) - int(d)) for a, b, c, d in zip(*rows)]
    )
    sentence = (
        f"Correct from clean less from generated low-resolution images, {gap_0.n} pairs: at "
        f"level 0 {gap_0}, at level {own:g} {gap_own}; "
        f"closed by {closed}. Generated, at level 0: "
        f"{percent(at_level(numbers, 'generated', 0.0))} correct, at level {own:g}: "
        f"{percent(at_level(numbers, 'generated', own))}."
    )
    before = at_level(numbers, "generated", 0.0)
    return closing(at_level(numbers, "clean", 0.0), before, gap_0, closed, sentence)


def closing(
    clean: dict, generated: dict, gap: Difference, closed: Difference, sentence: str
) -> Verdict:
    """Judge whether a gap becomes smaller.

    Nothing can be judged where even from clean images a network generates no more correct textures
    than chance, or where there is no room for a gap: nearly all are correct from generated images.
    """
    if clean["low"] <= CHANCE + MEANINGFUL:
        return Verdict(
            UNCLEAR,
            "Even from clean images hardly more are correct than random textures would be. "
            + sentence,
        )
    if not has_room(generated):
        return Verdict(
            UNCLEAR,
            f"From generated images {percent(generated)} are correct before anything is closed: "
            "there is no room for a gap. " + sentence,
        )
    if is_above(gap) == FAILS:
        return Verdict(FAILS, "There is no gap of 10 points to close. " + sentence)
    return Verdict(is_above(closed) if is_above(gap) == HOLDS else UNCLEAR, sentence)


def judge_sweep(numbers: dict) -> Verdict:
    """Judge the mean of the levels that the paper recommends against none and the largest."""
    inside = [
        row for row in numbers["generated"] if RECOMMENDED[0] <= row["level"] <= RECOMMENDED[1]
    ]
    if not inside:
        return Verdict(
            UNCLEAR, f"This stage was trained with levels up to {numbers['levels'][-1]:g}."
        )
    per_prompt = [
        sum(map(int, each)) / len(inside) for each in zip(*(row["each"] for row in inside))
    ]
    none, largest = numbers["generated"][0], numbers["generated"][-1]
    over = [
        paired_agresti_min([p - int(e) for p, e in zip(per_prompt, row["each"])])
        for row in (none, largest)
    ]
    share = sum(per_prompt) / max(1, len(per_prompt))
    judged = is_enough(*numbers["generated"]) and has_room(none) and has_room(largest)
    outcome = all_of(*map(is_above, over)) if judged else UNCLEAR
    return Verdict(
        outcome,
        f"Levels {RECOMMENDED[0]} to {RECOMMENDED[1]}: {share:.0%} correct of {none['n']}; "
        "against level 0 "
        f"({percent(none)}) {over[0]}, against level {largest['level']:g} "
        f"({percent(largest)}) {over[1]}.",
    )


def plot_augmentation(numbers: dict, path: Path) -> None:
    categories = numbers["category"]
    of = {
        "all": range(len(categories)),
        **{
            name: [i for i, c in enumerate(categories) if c == name]
            for name in numbers["categories"]
        },
    }
    fig, axes = subplots(
        [f"{name}: share correct of {len(which)}" for name, which in of.items()],
        "augmentation level when sampling",
    )
    for ax, which in zip(axes, of.values()):
        for source, style in zip(("clean", "generated"), STYLES):
            rows = [tally([row["each"][i] == "1" for i in which]) for row in numbers[source]]
            plot_accuracy(ax, numbers["levels"], rows, f"{source} low-resolution images", style)
        ax.axvline(numbers["own_level"], color="#777777", linestyle=":")
        percent_axis(ax)
    axes[0].plot([], [], color="#777777", linestyle=":", label="the stage's default level")
    save_figure(fig, path)


AUGMENTATION = Experiment(
    "augmentation",
    "The base stage generates n captions of each of the two texture categories. Each image "
    "that is correct, and the same scene by the renderer (clean), "
    "are enlarged at each augmentation level with the same noise.",
    30,
    (
        Claim(
            "Augmentation when sampling closes the gap between clean and generated low-resolution "
            "images.",
            "Imagen (2022), Section 2.4",
            judge_gap,
        ),
        Claim(
            "When sampling, levels from 0.1 to 0.3 are better than none and than the largest.",
            "Imagen (2022), Appendix D.2: generally used for the best samples; level 0 has the "
            "best FID (Fig. A.11a)",
            judge_sweep,
        ),
    ),
    measure_augmentation,
    plot_augmentation,
    cascade=True,
)


# ---------------------------------------------------------------- text in super-resolution

TEXTS = ("own caption", "no text", "other textures")


def retextured(description: Description, rng: random.Random) -> Description:
    """Return the same objects with other textures, as training may have them."""

    def other(shape: str, texture: str) -> str:
        return rng.choice(
            [t for t in TEXTURES if t != texture and (t, shape) not in HELD_OUT_TEXTURE_SHAPE]
        )

    return replace(
        description,
        objects=tuple(replace(t, texture=other(t.shape, t.texture)) for t in description.objects),
    )


def with_other_textures(caption: Caption) -> tuple[Caption, Caption]:
    """Return a caption of the same description, and one that differs in its textures alone."""
    own, other = caption.description, retextured(caption.description, random.Random(caption.text))
    return caption_from(own, random.Random(caption.text)), caption_from(
        other, random.Random(caption.text)
    )


def measure_text(pipe: ImagenPipeline, n: int) -> tuple[dict, Image.Image]:
    """Enlarge each base image with three texts."""
    prompts = [
        (category, seed, *with_other_textures(caption))
        for category, seed, caption in benchmark(n, categories=SR_CATEGORIES, world=pipe.world)
    ]
    low_res = low_res_images(
        pipe, [own.text for _, _, own, _ in prompts], [seed for _, seed, _, _ in prompts]
    )
    correct: dict[str, list[bool]] = {name: [] for name in (*TEXTS, "as told otherwise")}
    examples, shown = evenly_spaced(range(len(prompts)), SHOWN), {name: [] for name in TEXTS}
    with tqdm(total=len(TEXTS) * len(prompts), desc="super-resolution") as bar:
        for at in range(0, len(prompts), BATCH):
            part = prompts[at : at + BATCH]
            captions, others, seeds = (
                [own.text for _, _, own, _ in part],
                [other.text for _, _, _, other in part],
                [seed for _, seed, _, _ in part],
            )
            own_text = pipe.text_encoder(captions)
            for name, text in zip(TEXTS, (own_text, own_text.null(), pipe.text_encoder(others))):
                large = enlarge(pipe, captions, text, seeds, low_res[at : at + BATCH])
                scenes = [parsed.scene for parsed in pipe.world.parse_image(large)]
                correct[name] += [
                    own.description.fits(scene) for (_, _, own, _), scene in zip(part, scenes)
                ]
                if name == "other textures":
                    correct["as told otherwise"] += [
                        other.description.fits(scene)
                        for (_, _, _, other), scene in zip(part, scenes)
                    ]
                said = {
                    "own caption": captions,
                    "no text": ["no text"] * len(part),
                    "other textures": others,
                }[name]
                shown[name] += [
                    (large[i - at], correct[name][i], said[i - at])
                    for i in examples
                    if at <= i < at + BATCH
                ]
                bar.update(len(part))
    found = {
        "category": [category for category, *_ in prompts],
        **{name: tally(each) for name, each in correct.items()},
    }
    return found, example_grid(
        [each for row in shown.values() for each in row], columns=len(examples), cell=256
    )


def judge_text(numbers: dict) -> Verdict:
    own, none, other = (numbers[name] for name in TEXTS)
    over_none, over_other = gain(none, own), gain(other, own)
    return Verdict(
        all_of(beats(none, own), beats(other, own)),
        f"As the caption says, of {own['n']}: {percent(own)} with it, "
        f"{percent(none)} with no text ({over_none}), {percent(other)} with "
        "other "
        f"textures in it ({over_other}); of the last "
        f"{percent(numbers['as told otherwise'])} show the other textures.",
    )


def plot_text(numbers: dict, path: Path) -> None:
    categories = list(dict.fromkeys(numbers["category"]))
    fig, axes = subplots(
        [f"{name}: share correct of {numbers['category'].count(name)}" for name in categories],
        "text of super-resolution",
    )
    for ax, category in zip(axes, categories):
        which = [i for i, c in enumerate(numbers["category"]) if c == category]
        bars(ax, {name: tally([numbers[name]["each"][i] == "1" for i in which]) for name in TEXTS})
    save_figure(fig, path)


SUPER_RESOLUTION_TEXT = Experiment(
    "super-resolution-text",
    "The base stage generates n captions of each of the two texture categories; each image is "
    "enlarged with its own caption, with the null "
    "text, and with a caption that differs in its textures alone. Correct is what its own "
    "caption says.",
    30,
    (
        Claim(
            "Super-resolution needs the text.",
            "Imagen (2022), Appendix F.2: its super-resolution attends to the text; in this form "
            "the claim is ours",
            judge_text,
        ),
    ),
    measure_text,
    plot_text,
    cascade=True,
)
