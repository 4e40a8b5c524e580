"""Claims that need networks trained for them: how text enters, which text encoder is used, and the
layout of the U-Net.

After a short training few images are correct. So beside the score the text gain is judged: by how
much the error of x_0_hat on unseen scenes is smaller with the correct caption than with another
image's. Each network is one run of one seed, and the intervals are over images alone. A difference
therefore counts only beyond a margin, and what stays within it cannot be told.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from imagen_mini import ImagenPipeline
from imagen_mini.cascade.stage import DiffusionStage
from imagen_mini.evaluation.benchmark import benchmark
from imagen_mini.evaluation.preview import sample_single_stage
from imagen_mini.evaluation.scoring import Result, evaluate
from imagen_mini.evaluation.statistics import Difference, difference_of_means, paired_agresti_min
from imagen_mini.scenes.world import find_world
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.viz.style import STYLES, save_figure, subplots
from sample.claims.cascade import at_level, closing, measure_augmentation
from sample.claims.claim import (
    FAILS,
    HOLDS,
    UNCLEAR,
    Claim,
    Experiment,
    Verdict,
    all_of,
    bars,
    beats,
    gain,
    gain_line,
    is_above,
    is_enough,
    percent,
    tally,
)
from sample.claims.guidance import BATCH, evenly_spaced, example_grid
from sample.sweep import BASE_CATEGORIES, SR_CATEGORIES
from train.variants import (
    AUGMENTED,
    CLEAN_ONLY,
    EFFICIENT,
    LOG_SNRS,
    POOLED,
    RANDOM_ENCODER,
    REFERENCE,
    SMALL_ENCODER,
    SMALL_UNET,
    STANDARD,
    Runs,
    Variant,
    errors_by_caption,
)

ERROR_MARGIN = 0.05  # share of the error: less may be due to one training run's seed
# share of the error with another caption: with less, a network does not use its caption yet
LEAST_GAIN = 0.05
IMAGES = {"base": 512, "sr_256": 128}  # unseen scenes whose errors are measured
SHOWN = 5  # examples in a row
ROUNDS = 20  # of timing a training step


# ---------------------------------------------------------------- numbers


def sample_benchmark(stage: DiffusionStage, encoder: TextEncoder, n: int) -> list[Result]:
    """Generate and judge n captions of each category with a single stage.

    Super-resolution gets true low-resolution images.
    """
    low = stage.config.unet.low_res_size
    categories = BASE_CATEGORIES if low is None else SR_CATEGORIES
    world = find_world(stage.config.world)
    prompts = benchmark(n, categories=categories, world=world)
    descriptions = {c.text: c.description for _, _, c in prompts}

    def generate(captions: list[str], seeds: list[int]) -> Tensor:
        low_res = (
            None
            if low is None
            else world.render(
                [world.scene_matching(descriptions[c], random.Random(c)) for c in captions],
                low,
                next(stage.parameters()).device,
            )
        )
        return sample_single_stage(stage, encoder, captions, seeds, low_res)

    return list(tqdm(evaluate(generate, prompts, BATCH, world), total=len(prompts), desc="images"))


def parameters(net: nn.Module) -> int:
    """Count parameters."""
    return sum(p.numel() for p in net.parameters())


def measure(runs: Runs, n: int, variants: tuple[Variant, ...]) -> tuple[dict, Image.Image]:
    """Train variants; return parameters, steps, errors and score of each, and some images."""
    found, shown = {"minutes": runs.minutes, "preset": runs.preset, "networks": {}}, []
    for name, (stage, encoder) in runs.networks(variants).items():
        results = sample_benchmark(stage, encoder, n)
        found["networks"][name] = {
            "parameters": parameters(stage),
            "encoder_parameters": parameters(encoder),
            "steps": runs.plan["steps"][stage.config.name],
            "errors": errors_by_caption(stage, encoder, IMAGES[stage.config.name]),
            "score": tally([r.correct for r in results]),
        }
        shown += [
            (r.image, r.correct, f"{name}: {r.caption.text}") for r in evenly_spaced(results, SHOWN)
        ]
    return found, example_grid(
        shown,
        columns=len(shown) // len(variants),
        cell=128 if len(results[0].image[0]) < 128 else 256,
    )


# ---------------------------------------------------------------- judging by text gain and score


def text_gains(network: dict) -> list[float]:
    """Return for each image the error with another image's caption less the error with its own."""
    each = network["errors"]["each"]
    return [other - own for own, other in zip(each["own"], each["other"])]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def relative(differences: list[float], unit: float) -> Difference:
    """Return the mean difference and its interval, as a share of `unit`."""
    return difference_of_means([d / unit for d in differences])


def compare_networks(numbers: dict, worse: Variant, better: Variant) -> Verdict:
    """Judge two networks by how many of their images show what the caption says.

    The text gain is reported beside it. Where neither network uses its caption, nothing is judged.
    """
    a, b = (numbers["networks"][v.name] for v in (worse, better))
    gains_a, gains_b = text_gains(a), text_gains(b)
    unit = max(mean(gains_a), mean(gains_b))
    if unit <= LEAST_GAIN * mean(a["errors"]["other"]):
        return Verdict(
            UNCLEAR,
            f"Neither network has learned to use its caption after {a['steps']:,} steps: text "
            f"gains {mean(gains_a):.5f} and "
            f"{mean(gains_b):.5f} are less than {LEAST_GAIN:.0%} of the error.",
        )
    d = relative([y - x for x, y in zip(gains_a, gains_b)], unit)
    return Verdict(
        beats(a["score"], b["score"]),
        f"After {a['steps']:,} steps {percent(b['score'])} ({better.name}) against "
        f"{percent(a['score'])} ({worse.name}) of {a['score']['n']} images are correct: "
        f"{gain_line(a['score'], b['score'])}. Not judged: the text gain is {mean(gains_b):.4f} "
        f"against {mean(gains_a):.4f}, {d.mean:+.0%} ({d.low:+.0%} to {d.high:+.0%}) of the larger "
        f"one, {d.n} images. It also rewards a network for being hurt by a wrong caption.",
    )


def plot_networks(numbers: dict, path: Path) -> None:
    """Plot errors with the correct caption, text gains, and scores."""
    networks = numbers["networks"]
    n = next(iter(networks.values()))["score"]["n"]
    titles = [
        "error of x_0_hat with the correct caption",
        "text gain: error saved by the correct caption",
        f"share correct of {n}",
    ]
    fig, (error, text_gain, score) = subplots(titles, "log-SNR")
    for (name, network), style in zip(networks.items(), STYLES):
        found = network["errors"]
        error.plot(
            found["log_snr"],
            found["own"],
            label=f"{name}, {network['parameters'] / 1e6:.1f} M + text "
            f"{network['encoder_parameters'] / 1e6:.1f} M",
            **style,
        )
        text_gain.plot(
            found["log_snr"],
            [other - own for own, other in zip(found["own"], found["other"])],
            **style,
        )
    bars(score, {name: network["score"] for name, network in networks.items()})
    error.set_yscale("log")
    score.set_xlabel("")
    save_figure(fig, path)


# ---------------------------------------------------------------- the Efficient U-Net


def measure_efficient(runs: Runs, n: int) -> tuple[dict, Image.Image]:
    """Measure as for the other claims, and the time of a training step of both, in turns."""
    found, images = measure(runs, n, (STANDARD, EFFICIENT))
    return {
        **found,
        "step_seconds": runs.step_seconds((STANDARD, EFFICIENT), ROUNDS),
        "hardware": runs.hardware(EFFICIENT),
    }, images


def judge_efficient(numbers: dict) -> Verdict:
    """Judge speed and quality.

    Faster: by the ratio of the times of a step, turn by turn. At equal score: after equally many
    steps, if scores are meaningful, its error is not larger by more than ERROR_MARGIN.
    """
    seconds, (a, b) = (
        numbers["step_seconds"],
        (numbers["networks"][v.name] for v in (STANDARD, EFFICIENT)),
    )
    slower = difference_of_means(
        [math.log(s / e) for s, e in zip(seconds[STANDARD.name], seconds[EFFICIENT.name])]
    )
    own_a, own_b = a["errors"]["each"]["own"], b["errors"]["each"]["own"]
    more = relative([y - x for x, y in zip(own_a, own_b)], mean(own_a))
    as_good = HOLDS if more.high < ERROR_MARGIN else FAILS if more.low > ERROR_MARGIN else UNCLEAR
    if not is_enough(a["score"], b["score"]):
        as_good = UNCLEAR
    score = gain(a["score"], b["score"])
    times, where = (
        (mean(seconds[EFFICIENT.name]), mean(seconds[STANDARD.name])),
        f" ({numbers['hardware']})" if "hardware" in numbers else "",
    )
    return Verdict(
        all_of(is_above(slower, meaningful=0.05), as_good),
        f"A training step takes {times[0]:.3f} s against {times[1]:.3f} "
        f"s{where}, {math.exp(slower.mean):.2f} times as fast "
        f"({math.exp(slower.low):.2f} to {math.exp(slower.high):.2f}), with "
        f"{b['parameters'] / 1e6:.1f} M against {a['parameters'] / 1e6:.1f} M "
        f"parameters. After {a['steps']:,} steps "
        f"its error differs by {more.mean:+.1%} ({more.low:+.1%} to "
        f"{more.high:+.1%}), {more.n} images, where more than "
        f"{ERROR_MARGIN:+.0%} is worse; correct "
        f"{percent(b['score'])} against {percent(a['score'])} of {score.n}: {score}.",
    )


# ---------------------------------------------------------------- augmentation in training


def measure_training_augmentation(runs: Runs, n: int) -> tuple[dict, Image.Image]:
    """Measure both networks after the pipeline's base stage.

    They enlarge clean and generated low-resolution images, at each level that they were trained
    with.
    """
    base, found, shown = (
        next(iter(runs.pipe.stages.values())),
        {
            "minutes": runs.minutes,
            "preset": runs.preset,
            "init_from": runs.plan["init_from"],
            "networks": {},
        },
        [],
    )
    for name, (stage, encoder) in runs.networks((CLEAN_ONLY, AUGMENTED)).items():
        found["networks"][name], images = measure_augmentation(
            ImagenPipeline(encoder, [base, stage]), n
        )
        found["networks"][name]["steps"] = runs.plan["steps"][stage.config.name]
        shown.append(images)
    both = Image.new("RGB", (max(p.width for p in shown), sum(p.height for p in shown)), "white")
    for image, y in zip(shown, (0, shown[0].height)):
        both.paste(image, (0, y))
    return found, both


def own_rows(network: dict) -> tuple[dict, dict]:
    """Return the rows of clean and of generated images, at the network's default level."""
    return tuple(
        at_level(network, source, network["own_level"]) for source in ("clean", "generated")
    )


def judge_training_augmentation(numbers: dict) -> Verdict:
    """Judge the gap of the network trained on clean images, and how much the other one closes.

    Each is sampled at its default level.
    """
    (clean_a, made_a), (clean_b, made_b) = (
        own_rows(numbers["networks"][v.name]) for v in (CLEAN_ONLY, AUGMENTED)
    )
    gap_a, gap_b = gain(made_a, clean_a), gain(made_b, clean_b)
    each = zip(clean_a["each"], made_a["each"], clean_b["each"], made_b["each"])
    closed = paired_agresti_min([(int(a) - int(b)) - (int(c) - int(d)) for a, b, c, d in each])
    begun = "Trained without augmentation"
    if numbers.get("init_from"):
        steps = numbers["networks"][AUGMENTED.name]["steps"]
        begun = (
            f"Both began from the weights of {numbers['init_from']}; trained for {steps:,} more "
            "steps without augmentation"
        )
    return closing(
        clean_a,
        made_a,
        gap_a,
        closed,
        f"{begun}, {percent(clean_a)} are correct from clean and "
        f"{percent(made_a)} from generated images, a gap of "
        f"{gap_a}; with it, {percent(clean_b)} and {percent(made_b)}, a gap of "
        f"{gap_b}; closed by {closed}, {closed.n} pairs.",
    )


def plot_training_augmentation(numbers: dict, path: Path) -> None:
    networks = numbers["networks"]
    n = next(iter(networks.values()))["base_right"]
    fig, axes = subplots(
        [f"{name}: share correct of {n}" for name in networks], "low-resolution images"
    )
    for ax, network in zip(axes, networks.values()):
        bars(ax, dict(zip(("clean", "generated"), own_rows(network))))
    save_figure(fig, path)


# ---------------------------------------------------------------- the claims

COMMON = (
    "Networks that differ in one respect, trained equally many steps on the same images from the "
    "same seed, one run each. Errors are of unseen "
    f"scenes at {len(LOG_SNRS)} levels of noise; most of what a caption saves, it saves "
    "where there is much noise, in backgrounds and places. n captions of each "
    "category are generated, and the verdict is of the images that are correct. "
)

CROSS_ATTENTION = Experiment(
    "cross-attention",
    COMMON + "The reference attends to the words and has the pooled text added to the time "
    "embedding, as in the paper; pooled-only has "
    "the latter alone.",
    30,
    (
        Claim(
            "Cross-attention to the words beats pooled text.",
            "Imagen (2022), Sections 4.4 and D.3.1",
            lambda numbers: compare_networks(numbers, POOLED, REFERENCE),
        ),
    ),
    lambda runs, n: measure(runs, n, (POOLED, REFERENCE)),
    plot_networks,
    variants=(POOLED, REFERENCE),
    of_text_encoder=True,
)

TEXT_ENCODER = Experiment(
    "text-encoder",
    COMMON + "The random text encoder has the trained one's shape and tokenizer.",
    30,
    (
        Claim(
            "A text encoder trained on text beats a random one.",
            "Imagen (2022), Section 2.1: a frozen language model trained on text only; in this "
            "form the "
            "claim is ours",
            lambda numbers: compare_networks(numbers, RANDOM_ENCODER, REFERENCE),
        ),
    ),
    lambda runs, n: measure(runs, n, (RANDOM_ENCODER, REFERENCE)),
    plot_networks,
    variants=(RANDOM_ENCODER, REFERENCE),
    of_text_encoder=True,
)

ENCODER_OR_UNET = Experiment(
    "encoder-or-unet",
    COMMON
    + "Of the reference, once the text encoder is cut to its first layers, a quarter of them "
    "(which were never trained to be read by "
    "others), once the U-Net to half its width: of the shipped encoder and the mini "
    "preset, both to about a third of their parameters. The claim says that the "
    "first does more harm.",
    30,
    (
        Claim(
            "A larger text encoder matters more than a larger U-Net.",
            "Imagen (2022), Section 4.4",
            lambda numbers: compare_networks(numbers, SMALL_ENCODER, SMALL_UNET),
        ),
    ),
    lambda runs, n: measure(runs, n, (SMALL_ENCODER, SMALL_UNET, REFERENCE)),
    plot_networks,
    variants=(SMALL_ENCODER, SMALL_UNET, REFERENCE),
    of_text_encoder=True,
)

EFFICIENT_UNET = Experiment(
    "efficient-unet",
    COMMON + "Super-resolution, from true low-resolution images: as many blocks on all grids and "
    "concatenated skips, against more blocks on "
    "small grids and residual sums times 1/sqrt(2). Both change resolution outside of "
    "their blocks: the order of the paper's third change is built into this "
    "U-Net.",
    20,
    (
        Claim(
            "The Efficient U-Net is faster at equal score.",
            "Imagen (2022), Appendix B.1",
            judge_efficient,
        ),
    ),
    measure_efficient,
    plot_networks,
    variants=(STANDARD, EFFICIENT),
    of_text_encoder=True,
)

TRAINING_AUGMENTATION = Experiment(
    "training-augmentation",
    "Super-resolution trained with augmentation levels from 0 to 0.5, and with clean "
    "images alone, equally many steps, one run each. "
    "After the pipeline's base stage, n captions of each of the two texture categories: "
    "each base image that is correct, and the same scene by the renderer, "
    "are enlarged.",
    30,
    (
        Claim(
            "Training with noise-conditioning augmentation closes the gap between clean and "
            "generated low-resolution images.",
            "Imagen (2022), Section 2.4",
            judge_training_augmentation,
        ),
    ),
    measure_training_augmentation,
    plot_training_augmentation,
    variants=(CLEAN_ONLY, AUGMENTED),
    one_form=True,
)
