"""The training loop of text encoders. What is learnt in a step is said by `train.text_encoder` and
`train.distill_text_encoder`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from imagen_mini.training.optimizers import Muon


def t5_optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of a T5, AdamW for embeddings and the rest."""
    matrices = {
        name: p
        for name, p in model.named_parameters()
        if p.ndim == 2 and "shared" not in name and "bias" not in name
    }
    others = [p for name, p in model.named_parameters() if name not in matrices]
    return [
        Muon(list(matrices.values()), lr),
        torch.optim.AdamW(others, lr=lr, weight_decay=0.0),
    ]


def fit(
    model: nn.Module,
    learn: Callable[[], float],
    measure: Callable[[], Any],
    steps: int,
    lr: float,
    time_limit: float,
    eval_every: int,
    warmup: int,
    least: float,
    name: str,
) -> dict:
    """Train a model, in place.

    Args:
        model: A T5. Weights whose gradient is None are left alone.
        learn: Adds the gradients of one step to the weights, and returns its loss.
        measure: Returns the held-out loss, in any form.
        steps: At most this many.
        lr: Highest learning rate. It rises in `warmup` steps, and then falls linearly.
        time_limit: In seconds; the learning rate reaches its end with it, if it comes before
            `steps`.
        eval_every: Steps between two measurements. There is one more at the end.
        warmup: Steps.
        least: Share of `lr` below which the fall of the learning rate ends.
        name: Of the progress bar.

    Returns:
        What the run took: steps, seconds, loss, and the curve, a list of [step, seconds, loss,
        held-out loss]. Ctrl-C ends the run early.

    Raises:
        SystemExit: It was stopped before its first step.
    """
    optimizers, start = t5_optimizers(model, lr), time.monotonic()
    average, done, curve = 0.0, 0, []

    def point() -> list:
        return [done, round(time.monotonic() - start, 1), round(average, 4), measure()]

    bar = tqdm(range(steps), desc=name)
    try:
        for step in bar:
            progress = max(step / steps, (time.monotonic() - start) / time_limit)
            if progress >= 1:
                break
            for group in (g for o in optimizers for g in o.param_groups):
                group["lr"] = lr * min((step + 1) / warmup, 1.0) * max(1 - progress, least)
            model.zero_grad()
            loss = learn()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            done = step + 1
            average = loss if step == 0 else 0.98 * average + 0.02 * loss
            if step % 20 == 0:
                bar.set_postfix(loss=f"{average:.3f}")
            if done % eval_every == 0:
                curve.append(point())
    except KeyboardInterrupt:
        bar.write("stopped; what is trained is saved")
    if done == 0:
        raise SystemExit("stopped before its first step; nothing is saved")
    if not curve or curve[-1][0] != done:
        curve.append(point())
    seconds = round(time.monotonic() - start)
    return {"steps": done, "seconds": seconds, "loss": round(average, 4), "curve": curve}
