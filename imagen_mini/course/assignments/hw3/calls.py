"""How the functions of assignment 3 are called, one function for each question.

It runs in the box with the submitted function, and with the reference to find what is expected. It
holds no answers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from imagen_mini.diffusion import guidance, schedules
from imagen_mini.text import encoder
from imagen_mini.text.encoder import TextEmbeddings


def call_guide(case: dict):
    return guidance.classifier_free_guidance(case["cond"], case["uncond"], case["w"])


def call_interval(case: dict):
    if case.get("straight"):  # its log-SNR is exactly 0 at t = 1/2
        schedule = lambda t: 8 * (0.5 - t)  # noqa: E731
    else:
        schedule = schedules.make_schedule("cosine", case["shift"])
    scale = guidance.guidance_interval(case["w"], case["low"], case["high"], schedule)
    return torch.tensor([float(scale(t)) for t in case["times"].tolist()], dtype=torch.float64)


def call_static(case: dict):
    return guidance.static_threshold(case["x_0_hat"])


def call_dynamic(case: dict):
    options = {k: case[k] for k in ("percentile",) if k in case}
    return guidance.dynamic_threshold(case["x_0_hat"], **options)


def text_of(case: dict, name: str = "") -> TextEmbeddings:
    """The text of a case."""
    return TextEmbeddings(case[name + "emb"], case[name + "mask"])


class CountedNetwork:
    """A network whose output depends on all that it is given, and which counts the images."""

    def __init__(self):
        self.images = 0

    def __call__(self, x_t: Tensor, log_snr: Tensor, text: TextEmbeddings, control=None) -> Tensor:
        self.images += len(x_t)
        # 1. the mean of the real words; of no word it would be nan
        real = text.mask[..., None].to(text.emb.dtype)
        words = (text.emb * real).sum(1) / real.sum(1)
        # 2. one value for each channel
        level = log_snr.reshape(-1, 1, 1, 1).to(x_t.dtype) / 9
        out = torch.tanh(x_t * (1 + words[:, :1, None, None]) + level)
        out = out + 0.5 * words[:, :3, None, None] - 0.1 * words[:, 3:, None, None]
        return out if control is None else out + control


def call_denoiser(case: dict):
    network = CountedNetwork()
    options = {}
    if "w" in case:
        options["guidance_scale"] = case["w"]
    if "slope" in case:  # a scale that depends on t, and is 1 at late times
        options["guidance_scale"] = lambda t: 1.0 if t < 0.3 else 1 + case["slope"] * t
    if "control" in case:  # active early only
        options["control_at"] = lambda t: case["control"] if t > 0.4 else None
    if "neg_emb" in case:
        options["negative"] = text_of(case, "neg_")
    if "threshold" in case:
        options["threshold"] = case["threshold"]
    schedule = schedules.make_schedule("cosine", case.get("shift", 0.0))
    denoise = guidance.make_denoiser(network, text_of(case), schedule, case["kind"], **options)
    found = denoise(case["x_t"], case["t"])
    return found, torch.tensor(float(network.images))


def call_null_text(case: dict):
    text = text_of(case)
    null = text.null()
    return null.emb, null.mask, text.emb


def call_drop_text(case: dict):
    text = text_of(case)
    some = text.drop(case["dropped"])
    return some.emb, some.mask, text.emb


def call_concatenate(case: dict):
    texts = [text_of(case, name) for name in ("a_", "b_", "c_") if name + "emb" in case]
    whole = encoder.concatenate(texts)
    return whole.emb, whole.mask
