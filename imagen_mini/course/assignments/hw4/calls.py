"""How the functions of assignment 4 are called, one function for each question.

It runs in the box with the submitted function, and with the reference to find what is expected. It
holds no answers. Networks get their weights here, from a seed.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from imagen_mini.cascade import stage as stages
from imagen_mini.cascade.config import StageConfig
from imagen_mini.models.control import AttentionControl
from imagen_mini.models.unet import UNetConfig
from imagen_mini.text.encoder import TextEmbeddings

# Each box compiles what it imports, so the larger modules are imported where they are called.


def call_augment(case: dict):
    return stages.augment_low_res(case["low_res"], case["aug_level"], case["noise"])


# ---------------------------------------------------------------- one stage


def make_stage(case: dict, dtype: torch.dtype) -> stages.DiffusionStage:
    """The stage of a case, with weights that follow from its seed."""
    low_res = case.get("low_res")
    config = StageConfig(
        name="sr_256" if low_res is not None else "base",
        unet=UNetConfig(
            image_size=8,
            low_res_size=None if low_res is None else low_res.shape[-1],
            patch=1,
            channels=(16, 16),
            blocks=(1, 1),
            attention=("", "cross"),
            head_dim=16,
            emb_dim=16,
            text_width=case["emb"].shape[-1],
            text_layers=1,
        ),
        prediction=case["prediction"],
        log_snr_shift=case.get("shift", 0.0),
        guidance_scale=case.get("own_w", 3.0),
        guidance_interval=case.get("own_interval"),
        threshold=case.get("own_threshold", "none"),
    )
    stage = stages.DiffusionStage(config)
    source = torch.Generator().manual_seed(case["seed"])
    with torch.no_grad():
        for p in stage.parameters():
            value = torch.randn(p.shape, generator=source, dtype=torch.float64)
            p.copy_(value / math.sqrt(p[0].numel()) if p.ndim > 1 else 1 + 0.3 * value)
    return stage.to(dtype)


def text_of(case: dict, name: str = "") -> TextEmbeddings:
    """The text of a case."""
    return TextEmbeddings(case[name + "emb"], case[name + "mask"])


def call_stage_loss(case: dict):
    stage = make_stage(case, case["x_0"].dtype)
    names = ("low_res", "aug_level", "low_res_noise", "use_pooled", "noised_image")
    options = {k: case[k] for k in (*names, "alternative_x_0") if k in case}
    if "slope" in case:  # a weight that is none of the package's
        options["weight"] = lambda log_snr: torch.sigmoid(case["slope"] * log_snr) + 0.2
    loss = stage.loss(case["x_0"], text_of(case), case["t"], case["eps"], **options)
    if not case.get("gradient"):
        return loss
    weights = [stage.net.stem.weight, stage.net.out.weight]
    return loss, *torch.autograd.grad(loss.sum(), weights)


class OtherWords(AttentionControl):
    """Exchanges the words of all images, before any layer of the network uses them."""

    changes_text = True

    def modify_text(self, text: TextEmbeddings) -> TextEmbeddings:
        return TextEmbeddings(text.emb.flip(0), text.mask.flip(0))


def call_stage_denoiser(case: dict):
    dtype = torch.float32 if case.get("float32_weights") else case["x_t"].dtype
    stage = make_stage(case, dtype)
    options = {k: case[k] for k in ("low_res", "aug_level", "threshold") if k in case}
    if case.get("no_level"):
        del options["aug_level"]
    if "w" in case:
        options["guidance_scale"] = case["w"]
    if "neg_emb" in case:
        options["negative"] = text_of(case, "neg_")
    if case.get("control"):
        options["control_at"] = lambda t: OtherWords()
    denoise = stage.denoiser(text_of(case), **options)
    if case.get("no_level"):  # it should have been refused by now
        return torch.zeros(1)
    with torch.no_grad():
        return denoise(case["x_t"], case["t"])


def call_augmented(case: dict):
    from imagen_mini.pipeline import ImagenPipeline

    config = SimpleNamespace(name=case["name"])
    stage = SimpleNamespace(is_super_resolution=not case.get("base"), config=config)
    request = SimpleNamespace(low_res=case["low_res"], seeds=case["seeds"])
    pipe = SimpleNamespace(device=torch.device("cpu"))
    options = SimpleNamespace(aug_level=case["level"])
    low_res, level = ImagenPipeline._augmented(pipe, stage, request, options)
    if low_res is None and level is None:
        return torch.full((2,), -1.0)
    return low_res, level


# ---------------------------------------------------------------- training


def call_ema_update(case: dict):
    from imagen_mini.training import ema

    values = case["values"]  # [steps, 3, 2]: the weights after each step
    net = nn.Linear(2, 3, bias=False).to(values.dtype).requires_grad_(False)
    net.weight.copy_(case["start"])
    average = ema.EMA(net, case["half_life"])
    found = []
    for step, value in enumerate(values, case.get("first", 1)):
        net.weight.copy_(value)
        average.update(step)
        found.append(average.weights["weight"].clone())
    left_alone = net.weight.clone()
    net.weight.zero_()  # an average that is the network would be zero as well
    return torch.stack(found), left_alone, average.weights["weight"]


def call_learning_rate(case: dict):
    from imagen_mini.training import loop
    from imagen_mini.training.config import TrainConfig

    names = ("steps", "learning_rate", "lr_schedule", "warmup", "cooldown")
    config = TrainConfig(**{k: case[k] for k in names if k in case})
    rates = [float(loop.learning_rate(config, step)) for step in case["at"]]
    return torch.tensor(rates, dtype=torch.float64)


class Descent:
    """Gradient descent with momentum, with as much of an optimizer as a training step needs."""

    def __init__(self, groups: list[dict], momentum: float = 0.0):
        self.param_groups, self.momentum = groups, momentum
        self.moments: dict[int, Tensor] = {}

    def step(self) -> None:
        """Update all parameters by their gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                moment = p.grad + self.momentum * self.moments.get(id(p), torch.zeros_like(p.grad))
                self.moments[id(p)] = moment
                p.data -= group["lr"] * moment


def call_update_weights(case: dict):
    """Some updates of two matrices with given gradients."""
    from imagen_mini.training import ema, loop

    dtype = case["gradients"].dtype
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)).to(dtype)
    stage = nn.Module()
    stage.net = net
    stage.config = SimpleNamespace(name="base")
    for p, start in zip(net.parameters(), case["start"]):
        p.data = start.reshape(p.shape).clone()
    first, second = net.parameters()
    optimizers = {
        "a": Descent([{"params": [first], "lr": 7.0}], momentum=0.5),
        "b": Descent([{"params": [], "lr": 5.0}, {"params": [second], "lr": 9.0}]),
    }
    average = ema.EMA(net, case["half_life"])
    norms, refused = [], []
    for i, (gradients, rate) in enumerate(zip(case["gradients"], case["rates"])):
        for p, gradient in zip(net.parameters(), gradients):
            p.grad = gradient.reshape(p.shape).clone()
        loss = case["losses"][i]
        arguments = (stage, optimizers, average, case["first"] + i, rate, case["most"], loss)
        try:
            norms.append(float(loop.update_weights(*arguments)))
            refused.append(0.0)
        except FloatingPointError:
            norms.append(0.0)
            refused.append(1.0)
    weights: list[Tensor] = [p.detach() for p in net.parameters()]
    numbers = torch.tensor(norms, dtype=torch.float64), torch.tensor(refused)
    return *weights, *average.weights.values(), *numbers
