"""Optimizers: AdamW or Adafactor throughout, or Muon for the kernels and AdamW for the rest."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from imagen_mini.utils.precision import compute_dtype

OPTIMIZERS = ("muon", "adamw", "adafactor")


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly.

    Newton-Schulz iteration pushes the singular values to about 1. The coefficients of the quintic
    are chosen for speed, not for convergence to exactly 1.

    Args:
        matrix: [..., rows, columns], one or several.
        steps: Iterations.

    Returns:
        [..., rows, columns].

    Reference:
        Muon (Jordan et al., 2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if tall else x
    add = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(steps):  # x <- a x + (b g + c g^2) x,  g = x x^T
        gram = x @ x.mT
        x = add(x, add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized: every direction of a kernel's update is equally long.

    Kernels of any shape are taken as matrices [out, everything else]. The update is scaled to the
    size of AdamW's, so that one learning rate serves both (Moonlight, 2025). torch.optim.Muon is
    the same for matrices, but refuses convolutions.

    Args:
        params: Parameters with two or more axes.
        lr: Learning rate.
        momentum: Decay of the average of gradients, in [0, 1).
        weight_decay: Decoupled, as in AdamW.
        dtype: In which kernels are orthogonalized (default: bfloat16 where the device is faster in
            it). Several processes have to agree on one.
    """

    def __init__(
        self,
        params,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters by their gradients."""
        for group in self.param_groups:
            params = sorted(
                (p for p in group["params"] if p.grad is not None), key=lambda p: p.shape
            )
            if not params:
                continue
            for p in params:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            # 1. Nesterov momentum
            gradients = [p.grad for p in params]
            moments = [self.state[p]["momentum"] for p in params]
            torch._foreach_lerp_(moments, gradients, 1 - group["momentum"])
            ahead, updates = torch._foreach_lerp(gradients, moments, group["momentum"]), []
            # 2. orthogonalize; kernels of one shape together
            for _, alike in itertools.groupby(ahead, key=lambda m: m.shape):
                matrices = torch.stack([m.flatten(1) for m in alike])
                dtype = self.dtype or compute_dtype("auto", matrices.device)
                updates += (
                    orthogonalize(matrices.to(dtype)).to(matrices.dtype)
                    * 0.2
                    * math.sqrt(max(matrices.shape[1:]))
                ).unbind()
            # 3. weight decay and update
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(
                params, [u.view(p.shape) for u, p in zip(updates, params)], alpha=-group["lr"]
            )


def make_optimizers(
    net: nn.Module,
    name: str,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    dtype: torch.dtype | None = None,
) -> dict[str, torch.optim.Optimizer]:
    """The optimizers of a U-Net, by name.

    With Muon, norms, biases, positions and the first and last layers go to AdamW. Adafactor keeps
    row and column means of the squared gradient instead of AdamW's two moments. Its rate is
    relative to the size of each parameter. torch's factors the last two axes, which saves memory in
    linear layers; of a convolution these are 3 x 3. Imagen trains its base stage with Adafactor and
    finds that it hurts super-resolution.

    Args:
        net: The U-Net.
        name: "muon", "adamw" or "adafactor".
        lr: Learning rate.
        betas: Of AdamW.
        weight_decay: Of kernels; other parameters have none.
        dtype: Of Muon's products, see `Muon`.

    Raises:
        ValueError: There is no such optimizer.

    Reference:
        Adafactor (Shazeer and Stern, 2018), arXiv 1804.04235; Imagen (Saharia et al., 2022),
        arXiv 2205.11487, Section 4.1.
    """
    edges = {id(net.stem.weight), id(net.out.weight), id(net.pooled_text.score.weight)}
    kernels = [
        p
        for key, p in net.named_parameters()
        if p.ndim >= 2 and key.endswith("weight") and not (name == "muon" and id(p) in edges)
    ]
    chosen = {id(p) for p in kernels}
    others = [p for p in net.parameters() if id(p) not in chosen]
    groups = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = net.out.weight.device.type in ("cpu", "cuda")  # one kernel for all parameters
    if name == "muon":
        return {
            "muon": Muon(kernels, lr, weight_decay=weight_decay, dtype=dtype),
            "adamw": torch.optim.AdamW(others, lr, betas, weight_decay=0.0, fused=fused),
        }
    if name == "adamw":
        return {"adamw": torch.optim.AdamW(groups, lr, betas, fused=fused)}
    if name == "adafactor":
        return {"adafactor": torch.optim.Adafactor(groups, lr)}
    raise ValueError(f"optimizer {name!r}; expected one of {', '.join(OPTIMIZERS)}")


def one_cycle(
    optimizer: torch.optim.Optimizer, rate: float, steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """A learning rate that rises to `rate` in a tenth of the steps, and falls to 0 in the rest.

    torch's divides by 0 where that tenth is one step. So a run of fewer than 11 steps is the
    beginning of one of 11.
    """
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, max(steps, 11), pct_start=0.1)
