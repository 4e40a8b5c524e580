"""Every random number is a function of (seed, purpose, ...): nothing depends on what was drawn
before, or on the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(
    seed: int, *purpose: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator for this seed and purpose. Those of a CPU and of a GPU draw different
    numbers.
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def randn(
    seeds: Sequence[int],
    shape: Sequence[int],
    *purpose: str | int,
    device=None,
    dtype: torch.dtype = torch.float32,
    generator_device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal noise [len(seeds), *shape]; row i depends on seeds[i] and the purpose alone.

    Drawn on the CPU unless told otherwise, so that every device gets the same numbers.
    """
    return torch.stack(
        [
            torch.randn(
                shape,
                generator=generator(s, *purpose, device=generator_device),
                device=generator_device,
            )
            for s in seeds
        ]
    ).to(device, dtype)


BLOCK = 8


def randn_blocked(
    numbers: Sequence[int], shape: Sequence[int], *purpose: str | int, device=None
) -> Tensor:
    """Standard normal noise [len(numbers), *shape]; row i depends on numbers[i] and the purpose
    alone.

    As `randn`, for batches: drawn on `device`, for a block of `BLOCK` numbers at a time. A
    generator for every row takes a GPU longer than a network.
    """
    needed = dict.fromkeys(number // BLOCK for number in numbers)
    generated = torch.cat(
        [
            torch.randn(
                BLOCK,
                *shape,
                generator=generator(block, *purpose, device=device or "cpu"),
                device=device,
            )
            for block in needed
        ]
    )
    first = {block: i * BLOCK for i, block in enumerate(needed)}
    rows = [first[number // BLOCK] + number % BLOCK for number in numbers]
    if rows == [*range(rows[0], rows[0] + len(rows))]:
        return generated[rows[0] : rows[0] + len(rows)]
    return generated[torch.tensor(rows, device=device)]
