"""Distances between sets of images by their features: Fréchet distance, precision and recall,
nearest neighbours. And PSNR, pixel by pixel.

Features are [n, d], one row per image, from any frozen network. Distances are comparable only with
the same features, the same number of images and the same captions. None can be compared with a
published FID.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of features.

    Args:
        features: [n, d], with n of at least 2.

    Returns:
        Mean [d] and unbiased covariance [d, d], in float64.

    Raises:
        ValueError: for fewer than 2 rows, or for values that are not finite.
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
    """Return the squared Fréchet distance of two Gaussians, which is FID's formula:

        |mean_a - mean_b|^2 + Tr(cov_a + cov_b - 2 (cov_a^1/2 cov_b cov_a^1/2)^1/2)

    The root is taken of a symmetric matrix, by its eigenvalues. With fewer images than features
    covariances are singular, and the general matrix root of cov_a cov_b, which is often used, may
    fail or become complex.

    Args:
        mean_a: [d], of the first set.
        cov_a: [d, d], of the first set.
        mean_b: [d], of the second set.
        cov_b: [d, d], of the second set.

    Returns:
        The distance, at least 0, computed in float64.

    Reference:
        Dowson and Landau (1982); Heusel et al. (2017), arXiv 1706.08500.
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


def precision_and_recall(true: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """Return precision and recall of generated images against true ones.

    Precision is the share of generated images that lie on the manifold of true ones, recall the
    share of true images on the manifold of generated ones. A set's manifold is the union of balls
    around its members, each as large as the distance to the k-th nearest other member.

    Args:
        true: Features of true images [n, d], n > k.
        generated: Features of generated images [m, d], m > k.
        k: Number of the neighbour (default: 3).

    Returns:
        (precision, recall), each in [0, 1].

    Raises:
        ValueError: if there are too few images for k.

    Reference:
        Kynkäänniemi et al. (2019), arXiv 1904.06991, Eq. (1) and (2).
    """
    if min(len(true), len(generated)) <= k:
        raise ValueError(
            f"{len(true)} true and {len(generated)} generated images; expected more than k = {k} "
            "of each"
        )

    def share_inside(points: Tensor, members: Tensor) -> float:
        # the nearest is the member itself
        radius = torch.cdist(members, members).kthvalue(k + 1, dim=1).values
        return (torch.cdist(points, members) <= radius).any(1).double().mean().item()

    true, generated = true.double(), generated.double()
    return share_inside(generated, true), share_inside(true, generated)


def nearest_neighbours(features: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest neighbour of each image, by its features.

    A small distance to an image of the training set is a sign that this was memorised.

    Args:
        features: [n, d].
        among: [m, d], the candidates.

    Returns:
        Distances [n] and the rows of `among` [n].
    """
    found = torch.cdist(features.double(), among.double()).min(1)
    return found.values, found.indices


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB: 10 log10(2^2 / mean squared difference).

    Twice the error in each pixel costs 6 dB.

    Args:
        a: Images [b, ...] in [-1, 1].
        b: Images of the same shape.

    Returns:
        [b], on the CPU.
    """
    error = (a.float().cpu() - b.float().cpu()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-12))


def measure_log_snr(x_t: Tensor, x_0: Tensor) -> float:
    """Return the log-SNR of noisy images, measured with the clean ones.

    The part of x_t along x_0 is image, the rest is noise:

        alpha = <x_t, x_0> / <x_0, x_0>
        sigma = rms(x_t - alpha x_0)
        log_snr = log(alpha^2 / sigma^2)

    The scale of x_t does not matter.

    Args:
        x_t: Noisy images [b, c, h, w].
        x_0: Clean images of the same shape.
    """
    x_t, x_0 = x_t.double(), x_0.double()
    alpha = (x_t * x_0).sum() / (x_0 * x_0).sum()
    return torch.log(alpha**2 / (x_t - alpha * x_0).square().mean()).item()


def pooled_psnr(a: Tensor, b: Tensor) -> float:
    """Return the PSNR in dB of all images taken together, as one image.

    The denoiser with the least mean squared error then has the highest PSNR.

    Args:
        a: Images [b, ...] in [-1, 1].
        b: Images of the same shape.
    """
    return psnr(a.flatten()[None], b.flatten()[None]).item()
