"""The training loop, as a generator: `for state in train(...)` may log, draw, save, or stop at any step.

Nothing random is kept between steps: data, times and noise of a step are functions of (seed, stage, step).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .cascade import Stage
from .config import TrainConfig
from .data import Data, Scenes
from .precision import compute_dtype
from .randomness import generator
from .text import TextEncoder


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up; then constant with a linear cool-down to 0 over the last `cooldown` of all steps, a cosine to 0, or constant.

    Imagen (2022), Appendix F: the cosine, with 10,000 steps of warm-up out of 2,500,000.
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.rate_schedule == "constant":
        return config.learning_rate * warm
    if config.rate_schedule == "cosine":
        progress = (step - config.warmup) / max(1, config.steps - config.warmup)
        return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    left = (config.steps - step) / max(1.0, config.cooldown * config.steps)
    return config.learning_rate * min(warm, max(0.0, left))


class EMA:
    """An exponential moving average of the weights. Its memory grows with the run, up to `half_life` steps."""

    def __init__(self, net: torch.nn.Module, half_life: int):
        self.net, self.half_life = net, half_life
        self.weights = {name: p.detach().clone() for name, p in net.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = 0.5 ** (1 / min(self.half_life, max(1.0, 0.1 * step)))
        current = self.net.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [current[k].detach() for k in self.weights], 1 - decay)


@dataclass(frozen=True)
class TrainState:
    """What the loop yields after each step."""

    step: int                                          # steps done
    loss: Tensor                                       # mean weighted loss of the step (a scalar on the device)
    gradient_norm: Tensor                              # before clipping
    learning_rate: float


def step_randomness(stage: Stage, config: TrainConfig, step: int, shape: torch.Size, low_res_shape: torch.Size | None, device) -> dict[str, Tensor]:
    """Everything random of one step, as arguments of the loss and of the dropping of text.

    Times are stratified: one in each of b equally likely parts of [0, 1], which lowers the variance of the loss and leaves each t
    its density, t^(time_power - 1).
    """
    g = generator(config.seed, "train", stage.config.name, step)
    b = shape[0]
    t = ((torch.randperm(b, generator=g) + torch.rand(b, generator=g)) / b) ** (1 / config.time_power)
    drop = torch.rand(b, generator=g) < config.drop_text
    out = {"t": t, "drop": drop, "use_pooled": (torch.rand(b, generator=g) >= config.drop_pooled).float()}
    if device.type == "cuda":                          # millions of numbers: drawn on the device, still a function of the step
        g = torch.Generator(device).manual_seed(int(torch.randint(2 ** 62, (1,), generator=g)))
    out["eps"] = torch.randn(shape, generator=g, device=g.device)
    if low_res_shape is not None:
        out["aug_level"] = torch.rand(b, generator=g, device=g.device) * stage.config.max_aug_level
        out["low_res_noise"] = torch.randn(low_res_shape, generator=g, device=g.device)
    return {k: v.to(device) for k, v in out.items()}


def train(stage: Stage, encoder: TextEncoder, config: TrainConfig, optimizers: dict[str, torch.optim.Optimizer], ema: EMA, start: int = 0,
          data: Data | None = None) -> Iterator[TrainState]:
    """Train from step `start` to `config.steps` on `data` (None: the built-in world); yields after every step.

    Raises FloatingPointError before a bad update.
    """
    data = Scenes(config.seed, config.counts) if data is None else data
    size, low = stage.config.unet.image_size, stage.config.unet.low_res_size
    device = next(stage.parameters()).device
    dtype = compute_dtype(config.precision, device)
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    stage.train()
    stage.net.checkpoint_gradients(config.gradient_checkpointing)
    for step in range(start, config.steps):
        x_0, low_res, captions = data.batch(range(step * config.batch_size, (step + 1) * config.batch_size), size, low, device)
        random = step_randomness(stage, config, step, x_0.shape, None if low_res is None else low_res.shape, device)
        text = encoder(captions).drop(random.pop("drop"))
        lr = learning_rate(config, step)
        for group in groups:
            group["lr"] = lr
        stage.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        for rows in torch.arange(config.batch_size, device=device).chunk(config.accumulate):
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = stage.loss(x_0[rows], text[rows], low_res=None if low_res is None else low_res[rows], cap=config.loss_cap,
                                  **{k: v[rows] for k, v in random.items()}).mean() / config.accumulate
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(stage.parameters(), config.clip)
        if not math.isfinite(norm.item()):
            raise FloatingPointError(f"step {step} of stage {stage.config.name}: loss {total.item()}, gradient norm {norm.item()} at "
                                     f"learning rate {lr:g}; the weights were left as they were. A lower learning_rate is the usual cure")
        for optimizer in optimizers.values():
            optimizer.step()
        ema.update(step + 1)
        yield TrainState(step + 1, total, norm, lr)
