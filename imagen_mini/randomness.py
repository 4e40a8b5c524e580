"""Every random number is a function of (seed, purpose, ...): nothing depends on what was drawn before, or on the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A fresh CPU generator for this seed and purpose. On the CPU always, so that every device draws the same numbers."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def randn(seeds: Sequence[int], shape: Sequence[int], *purpose: str | int, device=None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal noise [len(seeds), *shape]; row i depends on seeds[i] and the purpose alone."""
    return torch.stack([torch.randn(shape, generator=generator(s, *purpose)) for s in seeds]).to(device, dtype)
