"""The exponential moving average of the weights, which is the network that samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class EMA:
    """An exponential moving average of the weights of a network.

    Early in training the average is short: its half-life is a tenth of the steps so far, at most
    `half_life`.

    Args:
        net: The network.
        half_life: Steps after which a weight counts half.
    """

    def __init__(self, net: torch.nn.Module, half_life: int):
        self.net, self.half_life = net, half_life
        self.weights = {name: p.detach().clone() for name, p in net.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the current weights, after `step` steps (from 1)."""
        half_life = min(self.half_life, max(1.0, 0.1 * step))
        decay = 0.5 ** (1 / half_life)
        current = self.net.state_dict()
        latest = [current[name].detach() for name in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), latest, 1 - decay)

    @contextmanager
    @torch.no_grad()
    def average_parameters(self) -> Iterator[None]:
        """Within this context the network has the average weights; after it, the latest again."""
        names, latest = zip(*self.net.state_dict().items())
        kept = [w.detach().clone() for w in latest]
        torch._foreach_copy_(latest, [self.weights[name] for name in names])
        try:
            yield
        finally:
            torch._foreach_copy_(latest, kept)
