"""Is a training run healthy? Measurements on a stage in training, and a status for each in plain
words.

All are made on held-out samples with the same times and noise, so that two measurements differ only
in what is compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor

from imagen_mini.cascade.stage import DiffusionStage, augment_low_res
from imagen_mini.data.base import Dataset
from imagen_mini.diffusion.gaussian import q_sample, to_x_0
from imagen_mini.diffusion.losses import denoising_loss
from imagen_mini.text.encoder import TextEncoder
from imagen_mini.training.loop import NOISE_BINS
from imagen_mini.utils.precision import compute_dtype
from imagen_mini.utils.rng import randn

OK, WARN, FAIL = "fine", "look", "bad"
AUG_LEVEL = 0.1  # of super-resolution's low-resolution images, as in sampling
GAP = 2.0  # standard errors above which a difference counts as one


@dataclass(frozen=True)
class Diagnostic:
    """The answer to one question about a run."""

    name: str
    status: str  # "fine", "look" (at it) or "bad"
    message: str  # the answer in words, with its numbers


@dataclass(frozen=True)
class NoiseBinStats:
    """Errors of a stage on held-out samples, by noise level: NOISE_BINS equal parts of t, from
    little noise to much.
    """

    # by kind of caption (true, shuffled, none): mean loss by noise level
    losses: dict[str, list[float]]
    # loss with another image's caption, or none, minus the loss with its own: mean, standard error
    gaps: dict[str, tuple[float, float]]
    # by noise level: the mean of x_0_hat minus that of x_0, of each channel
    color: list[list[float]]
    # by noise level: the share of x_0_hat beyond [-1, 1] by more than a hundredth
    saturated: list[float]
    # standard errors of `color`; in much noise, no caption tells the background
    color_errors: list[list[float]]


@torch.no_grad()
def measure_noise_bins(
    stage: DiffusionStage,
    encoder: TextEncoder,
    data: Dataset,
    indices: Sequence[int],
    batch_size: int = 64,
) -> NoiseBinStats:
    """Measure a stage on samples, by noise level.

    Times are spread evenly over [0, 1], as in plain training: `time_power` does not enter. The
    noise depends on each sample's index alone.

    Args:
        stage: The stage.
        encoder: Its text encoder, on the same device.
        data: The data set.
        indices: Of the samples.
        batch_size: Samples that are computed together.
    """
    device, unet = stage.net.out.weight.device, stage.config.unet
    dtype = compute_dtype("auto", device)
    n = len(indices)
    # evenly spread, also within any part of the samples (golden ratio)
    times = (torch.arange(n) * 0.6180339887 + 0.5 / n) % 1
    per_sample: dict[str, list[Tensor]] = {"true": [], "shuffled": [], "none": []}
    color, beyond = [], []
    was_training = stage.training
    stage.eval()
    for at in range(0, n, batch_size):
        # 1. noisy images
        chosen = list(indices[at : at + batch_size])
        batch = data.batch(chosen, unet.image_size, unet.low_res_size, device)
        t = times[at : at + len(chosen)].to(device)
        log_snr = stage.schedule(t)
        eps = randn(chosen, batch.images.shape[1:], "probe", device=device)
        x_t = q_sample(batch.images, eps, log_snr)
        aug_level = low_res = None
        if batch.low_res is not None:
            aug_level = torch.full_like(t, AUG_LEVEL)
            noise = randn(chosen, batch.low_res.shape[1:], "probe", "low", device=device)
            low_res = augment_low_res(batch.low_res, aug_level, noise)
        # 2. three captions for each: its own, another image's, none
        text = encoder(batch.captions)
        captions = {
            "true": text,
            "shuffled": text[torch.arange(len(chosen), device=device).roll(1)],
            "none": text.drop(torch.ones_like(t, dtype=torch.bool)),
        }
        # 3. the loss with each caption; colour and saturation with the true one
        for kind, said in captions.items():
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                prediction = stage.net(x_t, log_snr, said, low_res, aug_level)
            loss = denoising_loss(prediction, stage.config.prediction, batch.images, x_t, log_snr)
            per_sample[kind].append(loss.cpu())
            if kind == "true":
                x_0_hat = to_x_0(prediction.float(), stage.config.prediction, x_t, log_snr)
                color.append((x_0_hat - batch.images).mean((2, 3)).cpu())
                beyond.append((x_0_hat.abs() > 1.01).float().mean((1, 2, 3)).cpu())
    stage.train(was_training)
    # 4. means by noise level
    losses = {kind: torch.cat(values) for kind, values in per_sample.items()}
    bins = (times * NOISE_BINS).long().clamp(max=NOISE_BINS - 1)
    gaps = {}
    for kind in ("shuffled", "none"):
        difference = losses[kind] - losses["true"]  # of the same image, noise and time: paired
        gaps[kind] = difference.mean().item(), (difference.std() / n**0.5).item()
    return NoiseBinStats(
        losses={kind: _means_by_bin(values, bins) for kind, values in losses.items()},
        gaps=gaps,
        color=_means_by_bin(torch.cat(color), bins),
        saturated=_means_by_bin(torch.cat(beyond), bins),
        color_errors=_errors_by_bin(torch.cat(color), bins),
    )


def _means_by_bin(values: Tensor, bins: Tensor) -> list:
    """The mean of the values in each bin; NaN where there are none."""
    return [
        values[bins == i].mean(0).tolist() if (bins == i).any() else math.nan
        for i in range(NOISE_BINS)
    ]


def _errors_by_bin(values: Tensor, bins: Tensor) -> list:
    """The standard errors of these means; infinite where there are fewer than two values."""
    groups = [values[bins == i] for i in range(NOISE_BINS)]
    return [
        (of.std(0) / len(of) ** 0.5).tolist() if len(of) > 1 else [math.inf] * values.shape[1]
        for of in groups
    ]


def gradient_norms(
    stage: DiffusionStage, encoder: TextEncoder, data: Dataset, indices: Sequence[int]
) -> dict[str, float]:
    """The norm of each parameter's gradient on one batch.

    Args:
        stage: The stage. Its gradients are cleared.
        encoder: Its text encoder, on the same device.
        data: The data set.
        indices: Of the samples.

    Returns:
        The norms by name; NaN if no gradient reaches a parameter.
    """
    device, unet = stage.net.out.weight.device, stage.config.unet
    batch = data.batch(indices, unet.image_size, unet.low_res_size, device)
    t = (torch.arange(len(indices), device=device) + 0.5) / len(indices)
    low = (
        {}
        if batch.low_res is None
        else {
            "low_res": batch.low_res,
            "aug_level": torch.full_like(t, AUG_LEVEL),
            "low_res_noise": randn(indices, batch.low_res.shape[1:], "probe", "low", device=device),
        }
    )
    stage.zero_grad(set_to_none=True)
    stage.loss(
        batch.images,
        encoder(batch.captions),
        t,
        randn(indices, batch.images.shape[1:], "probe", device=device),
        **low,
    ).mean().backward()
    norms = {
        name: math.nan if p.grad is None else p.grad.norm().item()
        for name, p in stage.net.named_parameters()
    }
    stage.zero_grad(set_to_none=True)
    return norms


# ---------------------------------------------------------------- statuses


def check_loss(log: list[dict], from_trained: bool = False) -> Diagnostic:
    """Does the loss fall? By the medians of the first and last tenths of the log.

    Args:
        log: Lines from `train.log.read_log`.
        from_trained: The run began with trained weights, so the loss may stay level.
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
    message = f"{first:.4f} in the first tenth, {before:.4f} and {last:.4f} in the last two"
    if last > (1.1 if from_trained else 0.9) * first:
        return Diagnostic(
            "loss",
            FAIL,
            message
            + ": it does not fall. Try the overfit check (python -m train.overfit); if that "
            "passes, a lower learning_rate",
        )
    if last > 1.5 * before:
        return Diagnostic(
            "loss",
            FAIL,
            message
            + ": it is rising again. A lower learning_rate, and --resume from before the rise",
        )
    return Diagnostic("loss", OK, message)


def check_gradients(log: list[dict]) -> Diagnostic:
    """Spikes of the gradient norm, in the second half of the log."""
    norms = [line["gradient_norm"] for line in log if "gradient_norm" in line]
    late = norms[len(norms) // 2 :]
    if len(late) < 10:
        return Diagnostic("gradient norm", WARN, "too few lines in the log to say")
    middle, spikes = median(late), sum(v > 10 * median(late) for v in late)
    message = (
        f"median {middle:.3g}, highest {max(late):.3g}; {spikes} of {len(late)} lines above "
        "ten times the median"
    )
    if spikes > 0.02 * len(late):
        return Diagnostic(
            "gradient norm",
            FAIL,
            message + ": unstable. A lower learning_rate, or a longer warm-up",
        )
    return Diagnostic("gradient norm", WARN if spikes else OK, message)


def check_conditioning(stats: NoiseBinStats) -> Diagnostic:
    """Is the loss lower with an image's own caption than with another's, and with none?"""
    own = _mean(stats.losses["true"])
    (other, se), (none, _) = stats.gaps["shuffled"], stats.gaps["none"]
    message = (
        f"loss {own:.4f} with each image's caption, {100 * other / own:+.1f} % with another's "
        f"(standard error {100 * se / own:.1f}), {100 * none / own:+.1f} % with none"
    )
    if other <= GAP * se:
        return Diagnostic(
            "captions",
            FAIL,
            message
            + ": captions are not used. Early on that is so for some thousand steps; later, look "
            "at the captions "
            "(python -m train.check_dataset) and at cond_drop_prob",
        )
    if none < 0:
        return Diagnostic(
            "captions",
            WARN,
            message + ": better without captions than with them, so guidance will hurt",
        )
    return Diagnostic("captions", OK, message)


def check_color(stats: NoiseBinStats) -> Diagnostic:
    """Do the channel means of x_0_hat fit the data? A network that misses them tints every
    image.
    """
    # Chance is no tint: 1 of 80 such means lies beyond 2.5 standard errors.
    worst, off, level, channel = max(
        (abs(v) - 2.5 * e, abs(v), i, c)
        for i, of in enumerate(stats.color)
        if isinstance(of, list)
        for c, (v, e) in enumerate(zip(of, stats.color_errors[i]))
    )
    message = (
        f"the mean of x_0_hat is off by at most {off:.3f} of 2 "
        f"({('red', 'green', 'blue')[channel]}, t {level / NOISE_BINS:.1f} to "
        f"{(level + 1) / NOISE_BINS:.1f})"
    )
    return Diagnostic(
        "colour",
        OK if worst < 0.05 else WARN if worst < 0.15 else FAIL,
        message
        + (
            ""
            if worst < 0.05
            else ": images will have a tint; train longer, and use the average weights"
        ),
    )


def check_saturation(stats: NoiseBinStats) -> Diagnostic:
    """How much of x_0_hat lies outside the range of an image."""
    worst = max(v for v in stats.saturated if not math.isnan(v))
    return Diagnostic(
        "saturation",
        OK if worst < 0.25 else WARN,
        f"at most {worst:.1%} of x_0_hat lies beyond [-1, 1] (by noise level)"
        + ("" if worst < 0.25 else ": thresholding will have much to cut"),
    )


def check_average(latest: NoiseBinStats, averaged: NoiseBinStats, distance: float) -> Diagnostic:
    """Is the average of the weights better than the weights, as it should be, or does it lag?"""
    a, b = _mean(latest.losses["true"]), _mean(averaged.losses["true"])
    message = (
        f"loss {b:.4f} with the average weights, {a:.4f} with the latest; they are "
        f"{distance:.1%} apart"
    )
    if math.isnan(a + b):
        return Diagnostic(
            "average",
            FAIL,
            message + ": some weights are not numbers. A lower learning_rate, from the start or "
            "a checkpoint before",
        )
    if b > 1.05 * a:
        return Diagnostic(
            "average",
            WARN,
            message + ": the average lags behind, as it does early on. If it stays so: a shorter "
            "ema_half_life",
        )
    return Diagnostic("average", OK, message)


def check_dead_parameters(norms: dict[str, float]) -> Diagnostic:
    """Parameters that no gradient reaches."""
    dead = [name for name, norm in norms.items() if math.isnan(norm) or norm == 0]
    message = f"{len(dead)} of {len(norms)} tensors have none" + (
        f": {', '.join(dead[:4])}" + (", ..." if len(dead) > 4 else "") if dead else ""
    )
    return Diagnostic(
        "dead gradients",
        OK if not dead else WARN if len(dead) < 0.1 * len(norms) else FAIL,
        message,
    )


def check_throughput(log: list[dict]) -> Diagnostic:
    """Does the network wait for data?"""
    timed = [line for line in log if "data_wait_share" in line][-100:]
    if not timed:
        return Diagnostic("data", WARN, "the log has no times")
    wait_share = median([line["data_wait_share"] for line in timed])
    rate = median([line["images_per_second"] for line in timed])
    message = (
        f"{rate:.1f} images a second; {wait_share:.0%} of the time is spent waiting for "
        "images and captions"
    )
    return Diagnostic(
        "data",
        OK if wait_share < 0.1 else WARN,
        message + ("" if wait_share < 0.1 else ": more data workers (num_workers=4) would help"),
    )


def check_reference(stats: NoiseBinStats, steps: int, reference: list[dict]) -> Diagnostic:
    """The loss beside that of the run behind the shipped weights, as it was after as many steps."""
    latest, expected = (
        _mean(stats.losses["true"]),
        _interpolate(steps, [(r["steps"], _mean(r["losses"]["true"])) for r in reference]),
    )
    message = (
        f"{latest:.4f} after {steps:,} steps; "
        f"that of the shipped weights was {expected:.4f} by then"
    )
    if latest > 1.25 * expected:
        return Diagnostic(
            "reference",
            WARN,
            message
            + ". Another network, batch size or learning rate may be the reason; on the built-in "
            "world with preset mini it should not be so",
        )
    return Diagnostic("reference", OK, message)


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
    there = [v for v in values if not math.isnan(v)]  # a bin without a sample has none
    return fmean(there) if there else math.nan
