"""How the functions of assignment 1 are called, one function for each question.

It runs in the box with the submitted function, and with the reference to find what is expected. It
holds no answers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from imagen_mini.diffusion import gaussian, losses, samplers, schedules


def call_alpha_sigma(case: dict):
    return schedules.alpha_sigma(case["log_snr"])


def call_cosine(case: dict):
    return schedules._cosine(case["u"])


def call_cosine_inverse(case: dict):
    return schedules._cosine_t(case["log_snr"])


def call_q_sample(case: dict):
    return gaussian.q_sample(case["x_0"], case["eps"], case["log_snr"])


def call_eps_from_x_0(case: dict):
    return gaussian.eps_from_x_0(case["x_0"], case["x_t"], case["log_snr"])


def call_x_0_from_eps(case: dict):
    return gaussian.x_0_from_eps(case["eps"], case["x_t"], case["log_snr"])


def call_v_from_x_0(case: dict):
    return gaussian.v_from_x_0(case["x_0"], case["x_t"], case["log_snr"])


def call_x_0_from_v(case: dict):
    return gaussian.x_0_from_v(case["v"], case["x_t"], case["log_snr"])


def call_min_snr_weight(case: dict):
    options = {k: v for k, v in case.items() if k == "gamma"}
    return losses.min_snr_weight(case["log_snr"], **options)


def call_denoising_loss(case: dict):
    prediction = case["prediction"].clone().requires_grad_(case.get("gradient", False))
    options = {}
    if "slope" in case:  # a weight that is none of the package's
        options["weight"] = lambda log_snr: torch.sigmoid(case["slope"] * log_snr) + 0.2
    loss = losses.denoising_loss(
        prediction, case["kind"], case["x_0"], case["x_t"], case["log_snr"], **options
    )
    if not case.get("gradient", False):
        return loss
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    return loss, gradient


def _step_arguments(case: dict) -> tuple[Tensor, ...]:
    return tuple(case[k] for k in ("x_t", "x_0_hat", "log_snr_t", "log_snr_s"))


def call_ddim_step(case: dict):
    options = {k: v for k, v in case.items() if k in ("noise", "eta")}
    return samplers.ddim_step(*_step_arguments(case), **options)


def call_ddpm_step(case: dict):
    options = {k: v for k, v in case.items() if k in ("noise", "gamma")}
    return samplers.ddpm_step(*_step_arguments(case), **options)


def call_dpmpp_2m_step(case: dict):
    options = {k: v for k, v in case.items() if k in ("noise", "eta")}
    if "x_0_hat_r" in case:
        options["previous"] = (case["x_0_hat_r"], case["log_snr_r"])
    return samplers.dpmpp_2m_step(*_step_arguments(case), **options)
