"""Rejection sampling: an image that a verifier does not accept is sampled again, from another seed.

It costs no training, but what chooses an image must not be what judges it afterwards: the score
would count what the two have in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from imagen_mini.evaluation.scoring import judge_images
from imagen_mini.pipeline import ImagenPipeline
from imagen_mini.scenes.world import World

# (captions, images [b, 3, h, w] in [-1, 1]) -> which of the images show their captions
Verifier = Callable[[list[str], Tensor], Sequence[bool]]
SEED_STRIDE = 1_000_000  # from a seed to that of the next attempt


@dataclass
class SampledImages:
    """What `rejection_sample` returns."""

    stages: dict[str, Tensor]  # the images of every stage, [b, 3, size, size] in [-1, 1]
    seeds: list[int]  # of each image: `pipe(prompts, seed=seeds)` repeats them
    attempts: list[int]  # how many images were sampled for each prompt
    accepted: list[bool]  # whether the verifier accepted one of them
    seconds: Counter[str] = field(default_factory=Counter)  # by stage


def caption_verifier(world: World) -> Verifier:
    """A verifier that reads images of a world, with its second parser or, where there is none, the
    only one. What cannot be read in this size, or is not said in the world's words, is accepted.
    """
    reader = replace(world, parser=world.second_parser or world.parser)
    return lambda captions, images: [
        shown is not False for shown in judge_images(captions, images, reader)
    ]


def rejection_sample(
    pipe: ImagenPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    verifier: Verifier,
    attempts: int = 4,
    captions: Sequence[str] | None = None,
    **options,
) -> SampledImages:
    """Sample an image of each prompt until the verifier accepts it.

    An image that is accepted in attempt k is that of the seed + (k - 1) SEED_STRIDE. Where none is,
    it is that of the first attempt.

    Args:
        pipe: The pipeline.
        prompts: b captions.
        seeds: The seed of each first attempt.
        verifier: (captions, images of the last stage) -> which of them it accepts.
        attempts: Images sampled for a prompt at most (default: 4).
        captions: What the verifier is told, where it is not the prompts (default: the prompts).
        **options: Of `ImagenPipeline.__call__`.

    Returns:
        The accepted images, or first attempts where none was, and how many there were.

    Raises:
        ValueError: `attempts` is below 1, there is not one seed and one caption for each prompt, or
            the verifier does not return one verdict for each image.

    Reference: VQ-VAE-2 (Razavi et al., 2019), arXiv 1906.00446, which lets a classifier reject;
        DALL-E (Ramesh et al., 2021), arXiv 2102.12092, which keeps the best of 512 by CLIP; as a
        search among seeds: Ma et al. (2025), arXiv 2501.09732.
    """
    captions = list(prompts if captions is None else captions)
    if attempts < 1 or not len(prompts) == len(seeds) == len(captions):
        raise ValueError(
            f"{len(prompts)} prompts, {len(seeds)} seeds, {len(captions)} captions, {attempts} "
            "attempts; expected as many of the first three, and at least 1 attempt"
        )
    found = SampledImages({}, list(seeds), [0] * len(prompts), [False] * len(prompts))
    rejected = list(range(len(prompts)))
    for attempt in range(attempts):
        # 1. What was not accepted so far is sampled from another seed.
        tried = [seeds[i] + attempt * SEED_STRIDE for i in rejected]
        out = pipe([prompts[i] for i in rejected], seed=tried, output_type="pt", **options)
        found.seconds.update(out.seconds)
        verdicts = list(verifier([captions[i] for i in rejected], out.images))
        if len(verdicts) != len(rejected):
            raise ValueError(f"{len(verdicts)} verdicts of the verifier on {len(rejected)} images")
        # 2. The first attempt is kept until one is accepted.
        if attempt == 0:
            found.stages = {name: images.clone() for name, images in out.stages.items()}
        for row, (i, is_accepted) in enumerate(zip(rejected, verdicts)):
            found.attempts[i] += 1
            if is_accepted:
                found.accepted[i], found.seeds[i] = True, tried[row]
                for name, images in out.stages.items():
                    found.stages[name][i] = images[row]
        rejected = [i for i in rejected if not found.accepted[i]]
        if not rejected:
            break
    return found
