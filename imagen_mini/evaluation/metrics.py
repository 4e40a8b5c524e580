"""How far two sets of images are from one another, by their features: Fréchet distance, precision
and recall, nearest neighbours. And, pixel by pixel, how alike two images are.

Features are [n, d], one row an image, from any frozen network. A distance means something only
beside others with the same features, the same number of images and the same captions; no number
here can be compared with a published FID.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and unbiased covariance [d, d] of features [n, d], in float64. ValueError for fewer
    than 2 rows or for values that are not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features {list(features.shape)}; expected [n, d] with n of at least 2")
    if not features.isfinite().all():
        raise ValueError(
            f"{(~features.isfinite()).any(1).sum()} of {len(features)} rows of features are "
            "not finite"
        )
    features = features.double()
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], -1)


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """The squared Fréchet distance of two Gaussians, which is FID's formula:

        |mean_a - mean_b|^2 + Tr(cov_a + cov_b - 2 (cov_a^1/2 cov_b cov_a^1/2)^1/2)

    Means [d], covariances [d, d], computed in float64. The root is taken of a symmetric matrix, by
    its eigenvalues: with fewer images than features covariances are singular, where the general
    matrix root of cov_a cov_b, which is often taken, may fail or turn complex. Source: Dowson and
    Landau (1982); Heusel et al. (2017).
    """
    mean_a, cov_a, mean_b, cov_b = (x.double() for x in (mean_a, cov_a, mean_b, cov_b))
    root = _root(cov_a)
    eigenvalues = torch.linalg.eigvalsh(root @ cov_b @ root)
    overlap = eigenvalues.clamp(min=0).sqrt().sum()
    return max(
        0.0, ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap).item()
    )


def _root(symmetric: Tensor) -> Tensor:
    """The positive root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(symmetric)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def precision_and_recall(true: Tensor, made: Tensor, k: int = 3) -> tuple[float, float]:
    """How much of what was made lies where true images are (precision), and of the true ones where
    the made are (recall).

    Features [n, d] and [m, d]. A set's manifold is the union of balls around its members, each as
    large as the distance to the k-th nearest other member. Source: Kynkäänniemi et al. (2019), Eq.
    (1) and (2).
    """
    if min(len(true), len(made)) <= k:
        raise ValueError(
            f"{len(true)} true and {len(made)} made images; expected more than k = {k} of each"
        )

    def share_inside(points: Tensor, members: Tensor) -> float:
        # the nearest is the member itself
        radius = torch.cdist(members, members).kthvalue(k + 1, dim=1).values
        return (torch.cdist(points, members) <= radius).any(1).double().mean().item()

    true, made = true.double(), made.double()
    return share_inside(made, true), share_inside(true, made)


def nearest_neighbours(features: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of features [n, d] the distance to the nearest row of `among` [m, d], and which
    that is: a small one among what a network was trained on is a sign that it was memorised.
    """
    found = torch.cdist(features.double(), among.double()).min(1)
    return found.values, found.indices


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images [b, ...] in [-1, 1], in dB, [b]: 10 log10(2^2 / mean
    squared difference). Twice the error in each pixel costs 6 dB.
    """
    error = (a.float().cpu() - b.float().cpu()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-12))
