"""Is a training run healthy? Measurements on a stage in training, each a number with a verdict in
plain words.

All are made on held-out samples with the same times and noise, so that what differs is what is
asked about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor

from imagen_mini.cascade.stage import DiffusionStage, augment_low_res
from imagen_mini.data.base import Batch, Dataset
from imagen_mini.diffusion.gaussian import q_sample, to_x_0
from imagen_mini.diffusion.losses import denoising_loss
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.loop import NOISE_BINS
from imagen_mini.utils.precision import compute_dtype
from imagen_mini.utils.rng import randn

OK, WARN, FAIL = "fine", "look", "bad"
AUG_LEVEL = 0.1  # of super-resolution's low-resolution images, as in sampling
GAP = 2.0  # standard errors from which a difference is taken to be one


@dataclass(frozen=True)
class Diagnostic:
    """One question about a run, its verdict (fine, look or bad), and the answer in words with its
    numbers.
    """

    about: str
    verdict: str
    words: str


@dataclass(frozen=True)
class NoiseBinStats:
    """What a stage does with held-out samples, by level of noise (LEVELS of them, equal parts of t,
    from little to much).
    """

    # of each kind of caption (true, shuffled, none): mean loss by level
    losses: dict[str, list[float]]
    # loss with the caption of another image, or none, over the loss with its own: mean, standard
    # error
    gaps: dict[str, tuple[float, float]]
    color: list[list[float]]  # by level: the mean of x_0_hat less that of x_0, of each channel
    saturated: list[float]  # by level: the share of x_0_hat beyond [-1, 1] by more than a hundredth
    # standard errors of `color`: in much noise, no caption tells the background
    color_errors: list[list[float]]


@torch.no_grad()
def measure_noise_bins(
    stage: DiffusionStage,
    encoder: TextEncoder,
    data: Dataset,
    numbers: Sequence[int],
    batch_size: int = 64,
) -> NoiseBinStats:
    """Look at samples `numbers` of `data`, with times spread evenly over [0, 1] and noise that
    depends on each sample's number alone.

    Times as in training's plain form: the weighting of levels by a recipe (time_power) does not
    enter.
    """
    device, unet = stage.net.out.weight.device, stage.config.unet
    dtype = compute_dtype("auto", device)
    n = len(numbers)
    # evenly spread, in any part of the samples too (golden ratio)
    times = (torch.arange(n) * 0.6180339887 + 0.5 / n) % 1
    per_sample: dict[str, list[Tensor]] = {"true": [], "shuffled": [], "none": []}
    color, beyond = [], []
    was_training = stage.training
    stage.eval()
    for at in range(0, n, batch_size):
        chosen = list(numbers[at : at + batch_size])
        batch: Batch = data.batch(chosen, unet.image_size, unet.low_res_size, device)
        t = times[at : at + len(chosen)].to(device)
        log_snr = stage.log_snr_of(t)
        x_t = q_sample(
            batch.images, randn(chosen, batch.images.shape[1:], "probe", device=device), log_snr
        )
        aug_level = low_res = None
        if batch.low_res is not None:
            aug_level = torch.full_like(t, AUG_LEVEL)
            low_res = augment_low_res(
                batch.low_res,
                aug_level,
                randn(chosen, batch.low_res.shape[1:], "probe", "low", device=device),
            )
        text = encoder(batch.captions)
        others = text[torch.arange(len(chosen), device=device).roll(1)]
        for kind, said in (
            ("true", text),
            ("shuffled", others),
            ("none", text.drop(torch.ones_like(t, dtype=torch.bool))),
        ):
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                prediction = stage.net(x_t, log_snr, said, low_res, aug_level)
            per_sample[kind].append(
                denoising_loss(
                    prediction, stage.config.prediction, batch.images, x_t, log_snr
                ).cpu()
            )
            if kind == "true":
                x_0_hat = to_x_0(prediction.float(), stage.config.prediction, x_t, log_snr)
                color.append((x_0_hat - batch.images).mean((2, 3)).cpu())
                beyond.append((x_0_hat.abs() > 1.01).float().mean((1, 2, 3)).cpu())
    stage.train(was_training)
    losses = {kind: torch.cat(values) for kind, values in per_sample.items()}
    level = (times * NOISE_BINS).long().clamp(max=NOISE_BINS - 1)

    def by_level(values: Tensor) -> list:
        return [
            values[level == i].mean(0).tolist() if (level == i).any() else math.nan
            for i in range(NOISE_BINS)
        ]

    def errors_by_level(values: Tensor) -> list:
        groups = [values[level == i] for i in range(NOISE_BINS)]
        return [
            (of.std(0) / len(of) ** 0.5).tolist() if len(of) > 1 else [math.inf] * values.shape[1]
            for of in groups
        ]

    gaps = {}
    for kind in ("shuffled", "none"):
        difference = losses[kind] - losses["true"]  # of the same image, noise and time: paired
        gaps[kind] = difference.mean().item(), (difference.std() / n**0.5).item()
    return NoiseBinStats(
        {kind: by_level(values) for kind, values in losses.items()},
        gaps,
        by_level(torch.cat(color)),
        by_level(torch.cat(beyond)),
        errors_by_level(torch.cat(color)),
    )


def gradient_norms(
    stage: DiffusionStage, encoder: TextEncoder, data: Dataset, numbers: Sequence[int]
) -> dict[str, float]:
    """The norm of each parameter's gradient on one batch, by name; NaN if no gradient reaches it."""
    device, unet = stage.net.out.weight.device, stage.config.unet
    batch = data.batch(numbers, unet.image_size, unet.low_res_size, device)
    t = (torch.arange(len(numbers), device=device) + 0.5) / len(numbers)
    low = (
        {}
        if batch.low_res is None
        else {
            "low_res": batch.low_res,
            "aug_level": torch.full_like(t, AUG_LEVEL),
            "low_res_noise": randn(numbers, batch.low_res.shape[1:], "probe", "low", device=device),
        }
    )
    stage.zero_grad(set_to_none=True)
    stage.loss(
        batch.images,
        encoder(batch.captions),
        t,
        randn(numbers, batch.images.shape[1:], "probe", device=device),
        **low,
    ).mean().backward()
    norms = {
        name: math.nan if p.grad is None else p.grad.norm().item()
        for name, p in stage.net.named_parameters()
    }
    stage.zero_grad(set_to_none=True)
    return norms


# ---------------------------------------------------------------- verdicts


def check_loss(log: list[dict], from_trained: bool = False) -> Diagnostic:
    """Does the loss fall? By the medians of the first and last tenths of the log. A run that began
    with trained weights may keep it level.
    """
    losses = [line["loss"] for line in log if "loss" in line]
    if len(losses) < 10:
        return Diagnostic(
            "loss", WARN, f"only {len(losses)} lines in the log so far: too early to say"
        )
    tenth = max(1, len(losses) // 10)
    first, last, before = (
        median(losses[:tenth]),
        median(losses[-tenth:]),
        median(losses[-2 * tenth : -tenth]),
    )
    words = f"{first:.4f} in the first tenth, {before:.4f} and {last:.4f} in the last two"
    if last > (1.1 if from_trained else 0.9) * first:
        return Diagnostic(
            "loss",
            FAIL,
            words + ": it does not fall. Try the overfit check (python -m train.overfit); if that "
            "passes, a lower learning_rate",
        )
    if last > 1.5 * before:
        return Diagnostic(
            "loss",
            FAIL,
            words
            + ": it is rising again. A lower learning_rate, and --resume from before the rise",
        )
    return Diagnostic("loss", OK, words)


def check_gradients(log: list[dict]) -> Diagnostic:
    """Spikes of the gradient norm, in the second half of the log."""
    norms = [line["gradient_norm"] for line in log if "gradient_norm" in line]
    late = norms[len(norms) // 2 :]
    if len(late) < 10:
        return Diagnostic("gradient norm", WARN, "too few lines in the log to say")
    middle, spikes = median(late), sum(v > 10 * median(late) for v in late)
    words = (
        f"median {middle:.3g}, highest {max(late):.3g}; {spikes} of {len(late)} lines above "
        "ten times the median"
    )
    if spikes > 0.02 * len(late):
        return Diagnostic(
            "gradient norm", FAIL, words + ": unstable. A lower learning_rate, or a longer warm-up"
        )
    return Diagnostic("gradient norm", WARN if spikes else OK, words)


def check_conditioning(probe: NoiseBinStats) -> Diagnostic:
    """Is the loss lower with an image's own caption than with another's, and with none?"""
    own = _mean(probe.losses["true"])
    (other, se), (none, _) = probe.gaps["shuffled"], probe.gaps["none"]
    words = (
        f"loss {own:.4f} with each image's caption, {100 * other / own:+.1f} % with another's "
        f"(standard error {100 * se / own:.1f}), {100 * none / own:+.1f} % with none"
    )
    if other <= GAP * se:
        return Diagnostic(
            "captions",
            FAIL,
            words
            + ": captions are not used. Early on that is so for some thousand steps; later, look "
            "at the captions "
            "(python -m train.check_dataset) and at drop_text",
        )
    if none < 0:
        return Diagnostic(
            "captions",
            WARN,
            words + ": better without captions than with them, so guidance will hurt",
        )
    return Diagnostic("captions", OK, words)


def check_color(probe: NoiseBinStats) -> Diagnostic:
    """Do the channel means of x_0_hat fit the data? A network that misses them paints everything in
    a tint.
    """
    # What the images at hand may do by chance (1 of 80 such means lies beyond 2.5 standard errors)
    # is no tint.
    worst, off, level, channel = max(
        (abs(v) - 2.5 * e, abs(v), i, c)
        for i, of in enumerate(probe.color)
        if isinstance(of, list)
        for c, (v, e) in enumerate(zip(of, probe.color_errors[i]))
    )
    words = (
        f"the mean of x_0_hat is off by at most {off:.3f} of 2 "
        f"({('red', 'green', 'blue')[channel]}, t {level / NOISE_BINS:.1f} to "
        f"{(level + 1) / NOISE_BINS:.1f})"
    )
    return Diagnostic(
        "colour",
        OK if worst < 0.05 else WARN if worst < 0.15 else FAIL,
        words
        + (
            ""
            if worst < 0.05
            else ": images will have a tint; train longer, and use the average weights"
        ),
    )


def check_saturation(probe: NoiseBinStats) -> Diagnostic:
    """How much of x_0_hat lies outside the range of an image."""
    worst = max(v for v in probe.saturated if not math.isnan(v))
    return Diagnostic(
        "saturation",
        OK if worst < 0.25 else WARN,
        f"at most {worst:.1%} of x_0_hat lies beyond [-1, 1] (by level of noise)"
        + ("" if worst < 0.25 else ": thresholding will have much to cut"),
    )


def check_average(own: NoiseBinStats, averaged: NoiseBinStats, distance: float) -> Diagnostic:
    """Is the average of the weights ahead of the weights, as it should be, or does it lag?"""
    a, b = _mean(own.losses["true"]), _mean(averaged.losses["true"])
    words = (
        f"loss {b:.4f} with the average weights, {a:.4f} with the latest; they are "
        f"{distance:.1%} apart"
    )
    if math.isnan(a + b):
        return Diagnostic(
            "average",
            FAIL,
            words
            + ": there are weights that are no numbers. A lower learning_rate, from the start or "
            "a checkpoint before",
        )
    if b > 1.05 * a:
        return Diagnostic(
            "average",
            WARN,
            words + ": the average lags behind, as it does early on. If it stays so: a shorter "
            "ema_half_life",
        )
    return Diagnostic("average", OK, words)


def check_dead_parameters(norms: dict[str, float]) -> Diagnostic:
    """Parameters that no gradient reaches."""
    dead = [name for name, norm in norms.items() if math.isnan(norm) or norm == 0]
    words = f"{len(dead)} of {len(norms)} tensors have none" + (
        f": {', '.join(dead[:4])}" + (", ..." if len(dead) > 4 else "") if dead else ""
    )
    return Diagnostic(
        "dead gradients", OK if not dead else WARN if len(dead) < 0.1 * len(norms) else FAIL, words
    )


def check_throughput(log: list[dict]) -> Diagnostic:
    """Does the network wait for data?"""
    timed = [line for line in log if "waited" in line][-100:]
    if not timed:
        return Diagnostic("data", WARN, "the log has no times")
    data_wait_seconds, rate = (
        median([line["waited"] for line in timed]),
        median([line["pictures_per_second"] for line in timed]),
    )
    words = (
        f"{rate:.1f} images a second; {data_wait_seconds:.0%} of the time is spent waiting for "
        "images and captions"
    )
    return Diagnostic(
        "data",
        OK if data_wait_seconds < 0.1 else WARN,
        words + ("" if data_wait_seconds < 0.1 else ": more workers (workers=4) would help"),
    )


def check_reference(probe: NoiseBinStats, steps: int, reference: list[dict]) -> Diagnostic:
    """The loss beside that of the run behind the shipped weights, as it was after as many steps."""
    own, expected = (
        _mean(probe.losses["true"]),
        _interpolate(steps, [(r["steps"], _mean(r["losses"]["true"])) for r in reference]),
    )
    words = (
        f"{own:.4f} after {steps:,} steps; that of the shipped weights was {expected:.4f} by then"
    )
    if own > 1.25 * expected:
        return Diagnostic(
            "reference",
            WARN,
            words
            + ". Another network, batch size or learning rate may be the reason; on the built-in "
            "world with preset mini it should not be so",
        )
    return Diagnostic("reference", OK, words)


def _interpolate(x: float, points: list[tuple[float, float]]) -> float:
    """Linear in log x and log y between the points, constant beyond them."""
    points = sorted(points)
    if x <= points[0][0] or len(points) == 1:
        return points[0][1]
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x <= x1:
            share = math.log(x / x0) / math.log(x1 / x0)
            return math.exp((1 - share) * math.log(y0) + share * math.log(y1))
    return points[-1][1]


def _mean(values: list[float]) -> float:
    there = [v for v in values if not math.isnan(v)]  # a level without a sample has none
    return fmean(there) if there else math.nan
