"""The exponential moving average of the weights, which is what samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class EMA:
    """An exponential moving average of the weights. Its memory grows with the run, up to
    `half_life` steps.
    """

    def __init__(self, net: torch.nn.Module, half_life: int):
        self.net, self.half_life = net, half_life
        self.weights = {name: p.detach().clone() for name, p in net.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = 0.5 ** (1 / min(self.half_life, max(1.0, 0.1 * step)))
        current = self.net.state_dict()
        torch._foreach_lerp_(
            list(self.weights.values()), [current[k].detach() for k in self.weights], 1 - decay
        )

    @contextmanager
    @torch.no_grad()
    def average_parameters(self) -> Iterator[None]:
        """Within this, the network has the average weights; after it, its own again."""
        names, own = zip(*self.net.state_dict().items())
        kept = [w.detach().clone() for w in own]
        torch._foreach_copy_(own, [self.weights[name] for name in names])
        try:
            yield
        finally:
            torch._foreach_copy_(own, kept)
