"""The numbers of assignment 3: drawn by the student's id, and measured with the student's code.

Students get this file as it is, and `figures.py` calls it. The grader calls it with the reference.
The networks of the first two figures are exact: they return E[x_0 | x_t] of data that are known. So
everything that guidance does to them is due to guidance, and to no error of training. The other two
figures are about the shipped weights of the world `studio`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from imagen_mini.diffusion.guidance import Network, guidance_interval, make_denoiser
from imagen_mini.diffusion.samplers import sample
from imagen_mini.diffusion.schedules import alpha_sigma, make_schedule
from imagen_mini.diffusion.timesteps import log_snr_timesteps
from imagen_mini.evaluation.metrics import frechet_distance, gaussian_statistics
from imagen_mini.evaluation.scene_features import features
from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.scenes.render import render
from imagen_mini.scenes.scene import Scene, SceneObject
from imagen_mini.scenes.world import WORLDS
from imagen_mini.text.encoder import TextEmbeddings
from imagen_mini.utils.rng import randn

STUDIO = WORLDS["studio"]
IMAGE_SIZE = 64
IMAGES = 24  # captions of a student
# the rows of the figure `images`: how each is sampled
ROWS: dict[str, dict] = {
    "1": {"guidance_scale": 1.0},
    "2": {"guidance_scale": 2.0, "threshold": "static"},
    "4": {"guidance_scale": 4.0, "threshold": "static"},
    "8": {"guidance_scale": 8.0, "threshold": "static"},
    "8_dynamic": {"guidance_scale": 8.0, "threshold": "dynamic"},
    "8_interval": {"guidance_scale": 8.0, "guidance_interval": (2.0, 60.0)},
}
STEPS = 16
ENOUGH_CORRECT = 16  # of IMAGES images in the row of w = 2, for all points
SCALES = (1.0, 1.5, 2.0, 4.0, 8.0)
THRESHOLDED_SCALES = (2.0, 8.0)
SCHEDULE = make_schedule("cosine")


def choices(student: str, purpose: str) -> random.Random:
    """A source of random choices for a student and a purpose."""
    return random.Random(f"hw3/{student.strip()}/{purpose}")


def class_text(number: int, b: int, classes: int) -> TextEmbeddings:
    """The text of a class: one word, whose embedding is 1 at the number of the class."""
    emb = torch.zeros(b, 1, classes, dtype=torch.float64)
    emb[..., number] = 1
    return TextEmbeddings(emb, torch.ones(b, 1, dtype=torch.bool))


# ---------------------------------------------------------------- figure 1: scales


def classes_of(student: str) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the student's three classes of numbers, equally frequent.
    The first class is the one that is asked for.
    """
    source = choices(student, "scales")
    means = [source.uniform(-0.1, 0.1), source.uniform(-0.9, -0.6), source.uniform(0.3, 0.5)]
    deviations = [source.uniform(0.15, 0.25) for _ in means]
    return torch.tensor(means, dtype=torch.float64), torch.tensor(deviations, dtype=torch.float64)


def class_posterior(x: Tensor, means: Tensor, deviations: Tensor) -> Tensor:
    """The probability of each class [n, classes], given numbers x [n] that are normally distributed
    in every class.
    """
    log_p = -((x[:, None] - means) ** 2) / (2 * deviations**2) - deviations.log()
    return log_p.softmax(1)


def number_network(student: str) -> Network:
    """The exact network of the student's numbers: E[x_0 | x_t, class], and E[x_0 | x_t] where the
    embedding is 0.
    """
    means, deviations = classes_of(student)

    def network(x_t: Tensor, log_snr: Tensor, text: TextEmbeddings, control=None) -> Tensor:
        alpha, sigma = (c[:, None] for c in alpha_sigma(log_snr))
        x = x_t.flatten()
        variances = alpha**2 * deviations**2 + sigma**2
        by_class = means + alpha * deviations**2 / variances * (x[:, None] - alpha * means)
        told = text.emb.sum(1)
        share = class_posterior(x, alpha * means, variances.sqrt())
        share = torch.where(told.sum(1, keepdim=True) > 0, told, share)
        return (share * by_class).sum(1).reshape(x_t.shape)

    return network


def interval_of(student: str) -> tuple[float, float]:
    """The student's interval of noise levels sigma / alpha."""
    source = choices(student, "interval")
    return round(source.uniform(0.15, 0.3), 2), round(source.uniform(1.0, 2.0), 2)


def guided_numbers(student: str, scale: float | Callable[[float], float], n: int = 500) -> Tensor:
    """n numbers of the first class, sampled with guidance."""
    # The starting noise is spread evenly, so that n numbers show the distribution without chance.
    even = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x_T = torch.special.ndtri(even).reshape(n, 1, 1, 1)
    text = class_text(0, n, 3)
    denoise = make_denoiser(number_network(student), text, SCHEDULE, "x_0", scale, "none")
    *_, last = sample(denoise, x_T, log_snr_timesteps(64, SCHEDULE).double(), SCHEDULE, "ddim")
    return last.x_0_hat.flatten()


def alignment_and_distance(student: str, numbers: Tensor) -> tuple[float, float]:
    """How much numbers look like the first class, and how far they are from its distribution.

    Alignment is the mean probability of the class. Distance is the root of the Fréchet distance.
    """
    means, deviations = classes_of(student)
    alignment = class_posterior(numbers, means, deviations)[:, 0].mean()
    distance = torch.hypot(numbers.mean() - means[0], numbers.std() - deviations[0])
    return alignment.item(), distance.item()


def measure_scales(student: str) -> dict[str, float]:
    """Alignment and distance at every scale, and at one scale within the student's interval."""
    found = {}
    inside = guidance_interval(4.0, *interval_of(student), SCHEDULE)
    for name, scale in [*((f"{w:g}", w) for w in SCALES), ("4_interval", inside)]:
        pair = alignment_and_distance(student, guided_numbers(student, scale))
        found[f"alignment_{name}"], found[f"distance_{name}"] = pair
    return {k.replace(".", "_"): v for k, v in found.items()}


# ---------------------------------------------------------------- figure 2: thresholds


def small_images(student: str) -> tuple[Tensor, Tensor]:
    """All images of the student's little world [n, 3, 16, 16], and the class of each: circles of
    four colours at nine places, on gray.
    """
    source = choices(student, "thresholds")
    colors = source.sample(["red", "blue", "green", "yellow", "purple", "orange"], 4)
    places = [(x, y) for x in (18, 32, 46) for y in (18, 32, 46)]
    circles = [
        SceneObject(x=x, y=y, shape="circle", color=color, size="large", texture="solid")
        for color in colors
        for x, y in places
    ]
    scenes = [Scene((circle,), "gray") for circle in circles]
    return render(scenes, 16).double(), torch.arange(len(scenes)) // len(places)


def image_network(student: str) -> Network:
    """The exact network of the student's little world, for the class that the text names."""
    images, of_class = small_images(student)
    known = images.flatten(1)

    def network(x_t: Tensor, log_snr: Tensor, text: TextEmbeddings, control=None) -> Tensor:
        alpha, sigma = (c[:, None] for c in alpha_sigma(log_snr))
        # how likely each image is, by Bayes' rule
        close = alpha * x_t.flatten(1) @ known.T - alpha**2 * known.square().sum(1) / 2
        told = text.emb.sum(1)
        allowed = (told.sum(1, keepdim=True) == 0) | (told[:, of_class] > 0)
        share = (close / sigma**2).masked_fill(~allowed, -torch.inf).softmax(1)
        return (share @ known).reshape(x_t.shape)

    return network


def image_estimates(student: str, scale: float, threshold: str, n: int = 6) -> list[Tensor]:
    """x_0_hat [n, 3, 16, 16] after every step of sampling images of the first class."""
    text = class_text(0, n, 4)
    denoise = make_denoiser(image_network(student), text, SCHEDULE, "x_0", scale, threshold)
    x_T = randn(range(n), (3, 16, 16), "hw3", student.strip(), "x_T", dtype=torch.float64)
    times = log_snr_timesteps(24, SCHEDULE).double()
    return [state.x_0_hat for state in sample(denoise, x_T, times, SCHEDULE, "ddim")]


def measure_thresholds(student: str) -> dict[str, float]:
    """For each threshold and scale: the largest |x_0_hat| of a step, as a mean over images; and the
    mean |x_0_hat| over all steps.
    """
    found = {}
    for threshold in ("none", "static", "dynamic"):
        for w in THRESHOLDED_SCALES:
            sizes = torch.stack(image_estimates(student, w, threshold)).abs()
            largest = sizes.flatten(2).amax(2).mean(1).max()
            found[f"{threshold}_{w:g}_largest"] = largest.item()
            found[f"{threshold}_{w:g}_mean"] = sizes.mean().item()
    return found


MEASURED: dict[str, Callable[[str], dict[str, float]]] = {
    "scales": measure_scales,
    "thresholds": measure_thresholds,
}


# ---------------------------------------------------------------- figures 3, 4: shipped weights


def captions_of(student: str) -> list[tuple[str, int]]:
    """The student's captions, with the seeds of their images."""
    source = choices(student, "images")
    captions = []
    for _ in range(IMAGES // 4):
        one, other = source.sample(["red", "blue", "green", "yellow", "purple"], 2)
        shape, second = source.sample(["circle", "square", "star", "ring", "cross"], 2)
        captions += [
            f"a large {one} {shape}",
            f"a {other} {second}",
            f"a {one} {second} above a {other} {shape}",
            f"a {other} {shape} to the left of a {one} {second}",
        ]
    return [(caption, source.randrange(1000)) for caption in captions]


def true_features(student: str, rounds: int = 8) -> Tensor:
    """Features of rendered images of the student's captions, in every round of other scenes."""
    source = choices(student, "true images")
    described = [STUDIO.parse_caption(caption) for caption, _ in captions_of(student)]
    found = []
    for _ in range(rounds):  # one by one, which takes less memory
        scenes = [STUDIO.scene_matching(caption, source) for caption in described]
        found.append(features(STUDIO.render(scenes, IMAGE_SIZE), world=STUDIO))
    return torch.cat(found)


def read_images(student: str, table: Tensor) -> dict[str, float]:
    """Alignment and distance of the images in each row of a table.

    Alignment is how many images show their caption, by the judge of the world. Distance is the
    Fréchet distance from rendered images of the same captions, by the features of a small
    classifier.

    Args:
        student: Whose images they are.
        table: The table [3, 64 rows, 64 images] in [-1, 1]: a column for each caption, a row for
            each of ROWS.
    """
    tiles = table.unfold(1, IMAGE_SIZE, IMAGE_SIZE).unfold(2, IMAGE_SIZE, IMAGE_SIZE)
    captions = [caption for caption, _ in captions_of(student)]
    true = gaussian_statistics(true_features(student))
    found = {}
    for row, name in enumerate(ROWS):
        images = tiles[:, row].transpose(0, 1).contiguous()
        found[f"alignment_{name}"] = sum(map(bool, judge_images(captions, images, STUDIO)))
        seen = gaussian_statistics(features(images, world=STUDIO))
        found[f"distance_{name}"] = frechet_distance(*true, *seen)
    return found


# ---------------------------------------------------------------- written answers


def given_numbers(student: str) -> dict[str, float]:
    """What is given in the written questions."""
    source = choices(student, "written")
    s_c = round(source.uniform(0.2, 0.5), 2)
    return {
        "w": round(source.uniform(2.0, 8.0), 1),
        "s_c": s_c,
        "s": round(s_c * source.uniform(1.5, 3.0), 2),
        "w_hs": round(source.uniform(0.5, 6.0), 1),
        "eps_c": round(source.uniform(-1.5, -0.3), 2),
        "eps_u": round(source.uniform(0.3, 1.5), 2),
        "x_t": round(source.uniform(0.5, 2.0), 2),
        "snr": round(source.uniform(0.2, 4.0), 2),
        "low": round(source.uniform(0.1, 0.5), 2),
        "high": round(source.uniform(2.0, 9.0), 2),
    }
