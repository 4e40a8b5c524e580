"""Fréchet distance, precision and recall, against cases whose answer is known."""

import math

import pytest
import torch

from imagen_mini.evaluation.metrics import (
    frechet_distance,
    gaussian_statistics,
    nearest_neighbours,
    precision_and_recall,
    psnr,
)


def covariance(d, seed, rank=None):
    x = torch.randn(
        d, rank or d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return x @ x.T


def distance(a, b):
    return frechet_distance(*a, *b)


def test_of_one_dimension_it_is_the_difference_of_means_and_of_deviations_squared():
    one = torch.tensor([1.5]), torch.tensor([[4.0]])
    other = torch.tensor([-0.5]), torch.tensor([[0.25]])
    assert distance(one, other) == pytest.approx(2.0**2 + (2.0 - 0.5) ** 2, abs=1e-12)


def test_of_covariances_that_commute_it_is_that_of_their_eigenvalues():
    q, _ = torch.linalg.qr(covariance(6, 0))
    a, b = (
        torch.tensor([1.0, 2, 3, 4, 5, 6]).double(),
        torch.tensor([9.0, 1, 4, 0.5, 2, 6]).double(),
    )
    mean = torch.arange(6.0)
    found = frechet_distance(mean, q @ a.diag() @ q.T, torch.zeros(6), q @ b.diag() @ q.T)
    assert found == pytest.approx(
        mean.square().sum().item() + (a.sqrt() - b.sqrt()).square().sum().item(), abs=1e-9
    )


@pytest.mark.parametrize("d, rank", [(5, 5), (64, 64), (64, 10), (300, 20)])
def test_it_equals_the_general_formula_where_that_can_be_computed_and_is_a_metric_elsewhere(
    d, rank
):
    zero = torch.zeros(d)
    a, b, c = (covariance(d, seed, rank) for seed in range(3))
    # the trace of the root of a b, without symmetry
    overlap = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    expected = (a.trace() + b.trace() - 2 * overlap).item()
    assert frechet_distance(zero, a, zero, b) == pytest.approx(
        expected, rel=1e-3 if rank < d else 1e-6
    )
    # the root of a zero that is not quite one
    assert frechet_distance(zero, a, zero, b) == pytest.approx(
        frechet_distance(zero, b, zero, a), rel=1e-6
    )
    assert frechet_distance(zero, a, zero, a) < 1e-5 * a.trace()
    ab, bc, ac = (
        math.sqrt(frechet_distance(zero, x, zero, y)) for x, y in ((a, b), (b, c), (a, c))
    )
    assert ac <= ab + bc and ab > 0


def test_samples_of_one_distribution_come_near_as_they_grow():
    g = torch.Generator().manual_seed(0)
    mix = covariance(8, 1)
    far, near, large = (
        distance(
            *(
                gaussian_statistics(torch.randn(n, 8, generator=g, dtype=torch.float64) @ mix)
                for _ in range(2)
            )
        )
        for n in (30, 300, 30_000)
    )
    assert far > near > large and large < 0.01 * far


def test_moments_are_those_of_the_sample():
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 1.0]])
    mean, cov = gaussian_statistics(x)
    assert mean.tolist() == [3, 3] and cov.dtype == torch.float64
    assert torch.allclose(cov, torch.tensor([[4.0, -1.0], [-1.0, 7.0]], dtype=torch.float64))
    assert gaussian_statistics(torch.tensor([[1.0], [2.0]]))[1].shape == (1, 1)


@pytest.mark.parametrize(
    "features, message",
    [
        (torch.zeros(1, 4), "n of at least 2"),
        (torch.zeros(4), "n of at least 2"),
        (torch.tensor([[0.0], [math.nan]]), "1 of 2 rows"),
    ],
)
def test_features_that_have_no_moments_are_an_error(features, message):
    with pytest.raises(ValueError, match=message):
        gaussian_statistics(features)


def test_precision_falls_when_images_are_incorrect_and_recall_when_they_are_all_alike():
    g = torch.Generator().manual_seed(0)
    true = torch.randn(400, 4, generator=g)
    same = precision_and_recall(true, torch.randn(400, 4, generator=g))
    assert min(same) > 0.8
    far = torch.cat([torch.randn(200, 4, generator=g), torch.randn(200, 4, generator=g) + 50])
    assert precision_and_recall(true, far)[0] == pytest.approx(same[0] / 2, abs=0.06)
    alike = 0.05 * torch.randn(400, 4, generator=g)
    precision, recall = precision_and_recall(true, alike)
    assert precision > 0.95 and recall < 0.1
    assert precision_and_recall(true, true) == (1, 1)


def test_the_radius_is_that_of_the_kth_neighbour():
    true = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    for k, radius in ((1, 1.0), (2, 2.0), (3, 3.0)):
        inside, outside = torch.tensor([[3 + radius - 0.1]]), torch.tensor([[3 + radius + 0.1]])
        assert (
            precision_and_recall(true, inside.repeat(5, 1), k)[0] == 1
            and precision_and_recall(true, outside.repeat(5, 1), k)[0] == 0
        )
    with pytest.raises(ValueError, match="more than k = 4"):
        precision_and_recall(true, true, 4)


def test_what_was_copied_is_found():
    known = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    distances, which = nearest_neighbours(torch.stack([known[7], known[3] + 10, known[9]]), known)
    assert (
        distances[0] == 0 == distances[2] and distances[1] > 1 and which[0] == 7 and which[2] == 9
    )


def test_psnr_is_twenty_for_an_error_of_a_tenth_of_the_range():
    images = torch.rand(2, 3, 8, 8)
    assert psnr(
        images, images + torch.tensor([0.2, -0.02]).view(2, 1, 1, 1)
    ).tolist() == pytest.approx([20, 40], abs=1e-3)
