"""Every random number is a function of (seed, purpose, ...): nothing depends on what was drawn before, or on the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for this seed and purpose. Those of a CPU and of a GPU draw different numbers."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def randn(seeds: Sequence[int], shape: Sequence[int], *purpose: str | int, device=None, dtype: torch.dtype = torch.float32,
          drawn_on: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise [len(seeds), *shape]; row i depends on seeds[i] and the purpose alone.

    Drawn on the CPU unless told otherwise, so that every device gets the same numbers.
    """
    return torch.stack([torch.randn(shape, generator=generator(s, *purpose, device=drawn_on), device=drawn_on) for s in seeds]).to(device, dtype)
