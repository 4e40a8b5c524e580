"""Notebook 07: classifier-free guidance in Imagen's convention, with one weight for each image."""

from __future__ import annotations

import torch

from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.diffusion.guidance import classifier_free_guidance
from imagen_mini.utils.rng import randn

WEIGHTS = (1.0, 0.0, 2.0, 7.5)


@checks
def check(guide) -> str:
    """`guide(cond, uncond, w)`: w cond + (1 - w) uncond, with w [b] for images [b, 3, h, w]; in
    float64.
    """
    w = torch.tensor(WEIGHTS, dtype=torch.float64)
    cond, uncond = (
        randn(range(len(w)), (3, 4, 4), "nb07", name, dtype=torch.float64)
        for name in ("cond", "uncond")
    )
    expected = torch.stack(
        [classifier_free_guidance(c, u, float(v)) for c, u, v in zip(cond, uncond, w)]
    )
    seen = guide(cond.clone(), uncond.clone(), w.clone())
    if isinstance(seen, torch.Tensor) and seen.shape == expected.shape:
        for wrong, message in mistakes(cond, uncond, w):
            if torch.allclose(seen.double(), wrong, rtol=0, atol=1e-6):
                raise WrongAnswerError(message)
    expect_close(
        seen,
        expected,
        f"the guided prediction for w = {w.tolist()}",
        "w cond + (1 - w) uncond, image by image: see section 5",
    )
    wide = guide(cond[:2, :, :, :3], uncond[:2, :, :, :3], w[:2])
    expect_close(wide, expected[:2, :, :, :3], "the guided prediction of 2 images of 4 x 3 pixels")
    return (
        "w = 1 returns the conditional prediction, w = 0 the unconditional one, and all others "
        "lie on the line through both."
    )


def mistakes(cond, uncond, w):
    """Yield what common mistakes return, and the message for each."""
    each = w[:, None, None, None]
    yield (
        (1 + each) * cond - each * uncond,
        (
            "at w = 1 you do not return the conditional prediction: this is (1 + w) cond - w "
            "uncond, the convention of "
            "Ho and Salimans, whose w is one less; see section 5"
        ),
    )
    yield (
        each * uncond + (1 - each) * cond,
        "at w = 1 you return the unconditional prediction: cond and uncond have changed places",
    )
    yield (
        w * cond + (1 - w) * uncond,
        (
            f"w [{len(w)}] met the last dimension, the columns of pixels, which happen to be "
            f"{len(w)} as well: every column had its own weight. Each image should have one: "
            "give w three more dimensions of size 1"
        ),
    )
