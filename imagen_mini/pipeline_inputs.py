"""What a call of the pipeline is given: seeds, edits, names of stages and images, each in one form,
or a plain error.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from imagen_mini.editing.attention_store import AttentionStore
from imagen_mini.editing.base import Edit, check_is_edit
from imagen_mini.editing.prompt_to_prompt import Chain
from imagen_mini.utils.checks import as_integer
from imagen_mini.utils.images import Images, images_to_tensor

# None: a fresh one
Seed = int | Sequence[int | torch.Generator] | np.ndarray | Tensor | torch.Generator | None
MAX_FRESH_SEED = 2**31  # short enough to be read out and typed again


def resolve_seeds(seed: Seed, n: int, shared: bool) -> list[int]:
    """One seed for each of n prompts.

    Args:
        seed: As the caller gives it.
        n: How many prompts.
        shared: All prompts share one, so that only one is drawn.

    Returns:
        n seeds.

    Raises:
        TypeError: Not an integer, or none of the other kinds of seeds.
        ValueError: Another number of seeds than of prompts.
    """
    drawn = 1 if shared else n
    if seed is None:
        seeds = [secrets.randbelow(MAX_FRESH_SEED) for _ in range(drawn)]
    elif isinstance(seed, torch.Generator):
        seeds = [_drawn(seed) for _ in range(drawn)]
    elif isinstance(seed, (list, tuple, range)) or getattr(seed, "ndim", 0) == 1:
        seeds = [
            _drawn(s) if isinstance(s, torch.Generator) else as_integer("seed", s) for s in seed
        ]
        if len(seeds) != n:
            raise ValueError(
                f"got {len(seeds)} seeds for {n} prompts; give one for each, or a single number"
            )
    else:
        seeds = [
            as_integer("seed", seed, what="an integer, a list of them, a torch.Generator or None")
        ]
    return seeds * n if len(seeds) < n else seeds


def _drawn(generator: torch.Generator) -> int:
    """A seed, drawn from a generator."""
    return int(torch.randint(MAX_FRESH_SEED, (), generator=generator, device=generator.device))


def as_edit(edit: Edit | Sequence[Edit] | None) -> Edit | None:
    """The edit that is asked for; several are a chain.

    Raises:
        TypeError: Something is no edit.
    """
    several = isinstance(edit, (list, tuple))
    for one in edit if several else [edit] if edit is not None else []:
        check_is_edit(one)
    return Chain(*edit) if several else edit


def stage_names(option: str, names: str | Sequence[str]) -> list[str]:
    """Names of stages: one, or a list.

    Args:
        option: Which argument they are, for the message.
        names: As the caller gives them.

    Raises:
        TypeError: Neither a string nor a sequence.
    """
    if isinstance(names, str):
        return [names]
    try:
        return list(names)
    except TypeError:
        raise TypeError(f"{option} {names!r}; expected names of stages") from None


def resolve_edit_stages(
    edit: Edit | None, edit_stages: str | Sequence[str] | None, names: list[str], seeds: list[int]
) -> list[str]:
    """The names of the stages that are edited.

    Args:
        edit: The edit, or None.
        edit_stages: As the caller gives them. None: the first one.
        names: The stages that are sampled.
        seeds: The seeds of all prompts.

    Raises:
        ValueError: A stage that is not sampled, stages without an edit, or an edit with more than
            one seed.
    """
    if edit is not None and len(set(seeds)) > 1:
        raise ValueError(
            f"an edit generates source and target from one noise: give one seed; got {seeds}"
        )
    if edit is None and edit_stages is not None:
        raise ValueError(
            f"edit_stages {edit_stages!r} without an edit: pass edit=, or leave it out"
        )
    edited = names[:1] if edit_stages is None else stage_names("edit_stages", edit_stages)
    _check_sampled("edit_stages", edited, names)
    return edited


def recorded_stage(store: AttentionStore | None, names: list[str]) -> str | None:
    """The name of the stage whose attention is recorded; None without a store.

    Args:
        store: The store, or None.
        names: The stages that are sampled.

    Raises:
        TypeError: The store is none.
        ValueError: Its stage is not sampled.
    """
    if store is None:
        return None
    if not isinstance(store, AttentionStore):
        raise TypeError(f"attention_store {store!r}; expected an AttentionStore()")
    recorded = store.stage or names[0]
    _check_sampled("attention_store.stage", [recorded], names)
    return recorded


def _check_sampled(option: str, chosen: Collection[str], names: list[str]) -> None:
    if unknown := [name for name in chosen if name not in names]:
        raise ValueError(f"{option}: no stage {unknown} is sampled; expected of {names}")


def given_images(name: str, images: Images, size: int | None = None) -> Tensor:
    """Given images as a tensor [b, 3, h, w] in [-1, 1]; see `images_to_tensor`.

    A tensor of floats without a negative value may well be in [0, 1], where it would be washed out.
    Nobody can tell, so this is said.

    Args:
        name: The argument of the pipeline that they are.
        images: As the caller gives them.
        size: PIL images are brought to this size. None: they keep theirs.
    """
    found = images_to_tensor(images, name, size)
    first = images[0] if isinstance(images, (list, tuple)) else images
    if isinstance(first, Tensor) and first.is_floating_point() and found.min() >= 0:
        warnings.warn(
            f"{name}: tensors of floats are read as [-1, 1], and no value of this one is negative. "
            f"If it is in [0, 1], pass 2 * {name} - 1",
            stacklevel=4 if name == "low_res" else 5,  # to where the pipeline was called
        )
    return found


def check_batch(name: str, images: Tensor, b: int, size: int, edited: bool) -> Tensor:
    """A given batch of images, as one row for each prompt.

    Args:
        name: The argument of the pipeline that it is.
        images: [b, 3, size, size], or [1, 3, size, size] for all prompts.
        b: How many prompts.
        size: Pixels of a side.
        edited: There is an edit, for which all rows must be the same.

    Returns:
        [b, 3, size, size].

    Raises:
        TypeError: No tensor of floats.
        ValueError: Another shape, values that are not finite, or rows that differ under an edit.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} {type(images).__name__}; expected a tensor")
    if not images.is_floating_point():
        raise TypeError(f"{name}: values of type {images.dtype}; expected floats")
    if images.shape[1:] != (3, size, size) or len(images) not in (1, b):
        rows = f"[{b}, 3, {size}, {size}]" + (f" or [1, 3, {size}, {size}]" if b > 1 else "")
        raise ValueError(f"{name} {list(images.shape)}: expected {rows}, for {b} prompts")
    if not images.isfinite().all():
        raise ValueError(f"{name}: not all values are finite")
    if edited and not (images == images[:1]).all():
        raise ValueError(
            f"an edit generates source and target from one noise: {name} differs between prompts; "
            f"expected the same for all, for example [1, 3, {size}, {size}]"
        )
    return images.expand(b, -1, -1, -1)
