"""The numbers that derivations lead to, each computed once more in another way: by matrices,
integrals and searches in place of the formula.
"""

import math
from pathlib import Path

import pytest
import torch

from imagen_mini.course.assignments.hw1 import cases as hw1
from imagen_mini.course.assignments.hw2 import cases as hw2
from imagen_mini.course.assignments.hw3 import cases as hw3
from imagen_mini.course.assignments.hw4 import cases as hw4
from imagen_mini.course.assignments.hw5 import cases as hw5
from imagen_mini.diffusion.gaussian import x_0_from_eps
from imagen_mini.diffusion.samplers import ddim_step
from imagen_mini.evaluation.analytic_denoisers import gaussian_denoiser

STUDENTS = ["maria.k@example.edu", "s1", "a b"]
GRID = torch.linspace(0, 1, 200_001, dtype=torch.float64)


def near(value, rel=1e-4):
    return pytest.approx(float(value), rel=rel)


@pytest.mark.parametrize("student", STUDENTS)
def test_keys_of_assignment_1(student):
    given, key = hw1.measurements.written_numbers(student), hw1.hw1_written_answers(student)
    # W1: the step of the package, from x_t = alpha y_t
    schedule = lambda r: -2 * torch.log(r)  # log-SNR; the denoiser's time is r here
    r_t, r_s = (torch.tensor(given[k], dtype=torch.float64) for k in ("r_t", "r_s"))
    alpha_t, alpha_s = (1 / (1 + r**2).sqrt() for r in (r_t, r_s))
    x_t = (given["y_t"] * alpha_t).reshape(1, 1, 1, 1)
    x_0_hat = gaussian_denoiser(given["mean"], given["std"], schedule)(x_t, r_t)
    x_s = ddim_step(x_t, x_0_hat, schedule(r_t), schedule(r_s))
    assert key["euler"] == near(x_s / alpha_s)
    # W2: x_s given x_t, from the joint normal distribution of both given x_0 = 1
    a_t, a_s = (math.sqrt(given[k] / (1 + given[k])) for k in ("snr_t", "snr_s"))
    v_t, v_s = 1 - a_t**2, 1 - a_s**2
    covariance = a_t / a_s * v_s
    factor = a_s - covariance / v_t * a_t
    deviation = math.sqrt(v_s - covariance**2 / v_t)
    assert key["posterior"] == near(factor / deviation)
    # W3: the variance of a mean, by the covariance matrix of the pixels
    n = given["k"] ** 2
    noise = torch.full((n, n), given["rho"], dtype=torch.float64).fill_diagonal_(1)
    assert key["shift"] == near(-torch.log(noise.sum() / n**2)) and key["shift"] > 0


@pytest.mark.parametrize("student", STUDENTS)
def test_keys_of_assignment_2(student):
    given, key = hw2.measurements.given_numbers(student), hw2.hw2_written_answers(student)
    c, side = given["c"], key["flops"]
    attention = 4 * c * c * side**2 + 2 * side**2 * side**2 * c
    assert attention == near(3 * 3 * c * c * side**2)
    growth = 1.0
    for _ in range(given["blocks"]):
        growth = given["s"] ** 2 * (growth + given["g"] * growth)
    assert key["variance"] == near(growth)
    scores = torch.zeros(given["n"] + given["m"], dtype=torch.float64)
    scores[0] = given["delta"]
    masked, open_ = scores[: given["n"]].softmax(0)[0], scores.softmax(0)[0]
    assert key["softmax"] == near(masked - open_)


@pytest.mark.parametrize("student", STUDENTS)
def test_keys_of_assignment_3(student):
    given, key = hw3.measurements.given_numbers(student), hw3.hw3_written_answers(student)
    # W1: the deviation of the density, on a grid
    x = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    w = given["w"]
    log_p = -(x**2) / 2 * (w / given["s_c"] ** 2 + (1 - w) / given["s"] ** 2)
    p = log_p.softmax(0)
    assert key["narrow"] == near((p * x**2).sum().sqrt())
    # W2: guide x_0_hat instead of eps
    log_snr = torch.tensor(math.log(given["snr"]), dtype=torch.float64)
    x_t = torch.full((1, 1, 1, 1), given["x_t"], dtype=torch.float64)
    cond, uncond = (
        x_0_from_eps(torch.full_like(x_t, given[k]), x_t, log_snr) for k in ("eps_c", "eps_u")
    )
    assert key["convert"] == near((1 + given["w_hs"]) * cond - given["w_hs"] * uncond)
    # W3: the mean over times
    level = torch.tan(math.pi * GRID[1:-1] / 2)
    calls = torch.where((level > given["low"]) & (level <= given["high"]), 2.0, 1.0)
    assert key["calls"] == near(calls.mean())


@pytest.mark.parametrize("student", STUDENTS)
def test_keys_of_assignment_4(student):
    given, key = hw4.measurements.given_numbers(student), hw4.hw4_written_answers(student)
    # W1: the least of the error, by search; x_hat = alpha (alpha (x + e) + sigma n)
    alpha, sigma = torch.cos(math.pi * GRID / 2), torch.sin(math.pi * GRID / 2)
    error = (1 - alpha**2) ** 2 + alpha**4 * given["g"] ** 2 + alpha**2 * sigma**2
    assert key["level"] == near(GRID[error.argmin()], rel=1e-3)
    # W2: the weights of an average with this half-life
    decay = 0.5 ** (1 / key["halflife"])
    weights = (1 - decay) * decay ** torch.arange(5000, dtype=torch.float64)
    assert weights.square().sum().sqrt() == near(1 / given["k"])
    # W3: variances within equal parts, by integrals
    b = given["b"]
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    squares = ((torch.arange(b)[:, None] + u) / b) ** 2
    stratified = squares.var(1, correction=0).mean() / b
    assert key["strata"] == near(squares.var(correction=0) / b / stratified)


@pytest.mark.parametrize("student", STUDENTS)
def test_keys_of_assignment_5(student):
    given, key = hw5.measurements.given_numbers(student), hw5.hw5_written_answers(student)
    # W1: a row of k equal entries through the mapper
    row, mapper = torch.full((given["k"],), given["p"]), torch.full((given["k"], given["m"]), 1.0)
    assert (row @ mapper / given["m"]).tolist() == pytest.approx([key["columns"]] * given["m"])
    # W2: a constant added to the score of a word whose probability was q
    scores = torch.tensor([given["q"], 1 - given["q"]], dtype=torch.float64).log()
    scores[0] += key["weights"]
    assert given["c"] * given["q"] == near(scores.softmax(0)[0])
    # W3: the smallest p for which the count is within 1.96 standard deviations
    n, kept = given["n"], given["kept"]
    inside = (kept - n * GRID).abs() <= 1.96 * (n * GRID * (1 - GRID)).sqrt()
    assert key["wilson"] == pytest.approx(float(GRID[inside].min()), abs=2e-3)


def test_the_handout_of_assignment_5_shows_the_numbers_of_the_example():
    """Students check their figure `maps` by them."""
    words = (Path(hw5.__file__).parent / "handout.md").read_text(encoding="utf-8").split()
    for name, value in hw5.measurements.measure_maps("example").items():
        assert float(words[words.index(name) + 1]) == pytest.approx(value, abs=1e-4)
