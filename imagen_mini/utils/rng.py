"""Every random number is a function of (seed, purpose, ...). Nothing depends on the numbers before
it, or on the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(
    seed: int, *purpose: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator for this seed and purpose.

    Args:
        seed: The seed.
        purpose: Words and numbers; each purpose has other random numbers.
        device: Of the generator. A CPU and a GPU generate different numbers.
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
    """Standard normal noise. Row i depends on seeds[i] and the purpose alone.

    Args:
        seeds: One for each row.
        shape: Of a row.
        purpose: As in `generator`.
        device: Of the result.
        dtype: Of the result.
        generator_device: Where it is generated. By default the CPU, so that every device gets the
            same numbers.

    Returns:
        [len(seeds), *shape].
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


BLOCK = 8  # rows of `randn_blocked` that share a generator


def randn_blocked(
    indices: Sequence[int], shape: Sequence[int], *purpose: str | int, device=None
) -> Tensor:
    """Standard normal noise. Row i depends on indices[i] and the purpose alone.

    As `randn`, for batches: generated on `device`, for a block of `BLOCK` indices at a time. A
    generator for every row takes a GPU longer than a network.

    Args:
        indices: One for each row.
        shape: Of a row.
        purpose: As in `generator`.
        device: Where it is generated.

    Returns:
        [len(indices), *shape].
    """
    needed = dict.fromkeys(index // BLOCK for index in indices)
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
    rows = [first[index // BLOCK] + index % BLOCK for index in indices]
    if rows == [*range(rows[0], rows[0] + len(rows))]:
        return generated[rows[0] : rows[0] + len(rows)]
    return generated[torch.tensor(rows, device=device)]
