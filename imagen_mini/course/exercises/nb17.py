"""Notebook 17: self-similarity, and what is wrong with an edit in a mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_mini.course.exercises import WrongAnswerError, checks, expect_close
from imagen_mini.evaluation.edit_measures import self_similarity as expected_similarity
from imagen_mini.utils.rng import randn


@checks
def check(self_similarity) -> str:
    """`self_similarity(features)`: [b, c, h, w] -> the cosine similarity of every two places,
    [b, h w, h w].
    """
    features = randn([0, 1], (5, 3, 4), "nb17", dtype=torch.float64)
    expected = expected_similarity(features)
    seen = self_similarity(features.clone())
    flat = features.flatten(2)
    if isinstance(seen, Tensor):
        if seen.shape == (2, 5, 5):
            raise WrongAnswerError(
                "the result is [2, 5, 5]: it compares channels. Places are compared: there are "
                "3 x 4 = 12 of them, so expected [2, 12, 12]"
            )
        if seen.shape == expected.shape:
            over_places = F.normalize(flat, dim=2)
            for wrong, message in (
                (
                    flat.transpose(1, 2) @ flat,
                    "these are dot products: bright places seem alike to all. Divide the features "
                    "of each place by their length",
                ),
                (
                    over_places.transpose(1, 2) @ over_places,
                    "each channel was divided by its length over all places; divide each place by "
                    "its length over the channels (dim=1)",
                ),
                (torch.cdist(flat.transpose(1, 2), flat.transpose(1, 2)), "these are distances"),
            ):
                if torch.allclose(seen.double(), wrong, atol=1e-5):
                    raise WrongAnswerError(message)
    expect_close(seen, expected, "the self-similarity", "S_ij = f_i . f_j / (|f_i| |f_j|)", 1e-5)
    expect_close(
        self_similarity(3 * features),
        expected,
        "the self-similarity of features of three times the length",
        "A cosine does not depend on the length",
        1e-5,
    )
    return "It says what belongs together, and not what it looks like."


# ---------------------------------------------------------------- what went wrong?

FINDINGS = ("fine", "nothing changed", "mask inverted", "outside not put back")


def edits_to_diagnose() -> list[tuple[str, Tensor, Tensor, Tensor]]:
    """What is wrong, the given image, the edit and the mask: [3, 8, 8] and bool [8, 8]."""
    source = randn([0], (3, 8, 8), "nb17", "image")[0].tanh()
    other = randn([0], (3, 8, 8), "nb17", "edit")[0].tanh()
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 1:4] = True
    # one pixel alone: inside; outside, in blue; and outside, up in red and down in green
    one, leak, kept = source.clone(), torch.where(mask, other, source), source.clone()
    one[0, 3, 2] += 0.2
    leak[2, 6, 6] += 0.2
    kept[:2, 6, 6] += torch.tensor([0.2, -0.2])
    rounded = (source + 1e-3).clamp(-1, 1)  # less than one of 256 levels
    return [
        ("fine", source, torch.where(mask, other, source), mask),
        ("fine", source, torch.where(mask, other, rounded), mask),
        ("nothing changed", source, source.clone(), mask),
        ("nothing changed", source, rounded, mask),
        ("mask inverted", source, torch.where(mask, source, other), mask),
        ("outside not put back", source, other, mask),
        ("fine", source, torch.where(~mask, other, source), ~mask),
        ("mask inverted", source, torch.where(~mask, source, other), ~mask),
        ("fine", source, one, mask),
        ("outside not put back", source, leak, mask),
        ("mask inverted", source, kept, mask),
    ]


@checks
def check_diagnosis(what_is_wrong) -> str:
    """`what_is_wrong(source, edited, mask)`: one of FINDINGS. The image may change where the mask
    is True; values that are less than 1 / 128 apart are saved as the same.
    """
    for expected, source, edited, mask in edits_to_diagnose():
        seen = what_is_wrong(source.clone(), edited.clone(), mask.clone())
        if seen not in FINDINGS:
            raise WrongAnswerError(f"got {seen!r}; expected one of {list(FINDINGS)}")
        if seen == expected:
            continue
        apart = (source - edited).abs().amax(0) >= 1 / 128
        about = (
            f"inside of the mask {apart[mask].sum()} of {mask.sum()} pixels changed, outside "
            f"{apart[~mask].sum()} of {(~mask).sum()}"
        )
        if not torch.equal(source, edited) and not apart[~mask].any() and seen != "fine":
            about += ". Values that are less than 1 / 128 apart are the same"
        raise WrongAnswerError(f"got {seen!r}, expected {expected!r}: {about}")
    return "Two numbers, changed inside and changed outside, tell all four cases apart."
