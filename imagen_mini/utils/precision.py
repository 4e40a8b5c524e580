"""Which number format a device computes in fastest, found by measuring."""

from __future__ import annotations

import time
from functools import cache

import torch
import torch.nn.functional as F

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS = ("auto", "bf16", "fp32")
WORTH_IT = 1.2  # bf16 must be this many times as fast, as it costs digits


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision to compute in.

    Args:
        precision: "fp32", "bf16", or "auto": bf16 where the device is clearly faster in it.
        device: Where it is computed.

    Returns:
        "fp32" or "bf16".

    Raises:
        ValueError: There is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        precision = "bf16" if speed_up_of_bf16(device) > WORTH_IT else "fp32"
    return precision


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`resolve_precision`, as torch names it."""
    return DTYPES[resolve_precision(precision, device)]


@cache
def speed_up_of_bf16(device: torch.device) -> float:
    """How many times as fast a 3x3 convolution, forward and backward, is in bf16 as in float32.

    It is measured once a process, in about 0.1 s. Both take turns, on one CPU thread, and the
    fastest of each counts, so that other work on the machine does not decide. Where a processor has
    no bf16, torch emulates it, slowly.
    """
    threads, times = torch.get_num_threads(), {torch.float32: [], torch.bfloat16: []}
    torch.set_num_threads(1)
    try:
        for _ in range(10):
            for dtype in times:
                times[dtype].append(_convolution(device, dtype))
    finally:
        torch.set_num_threads(threads)
    fp32, bf16 = (min(t) for t in times.values())
    return fp32 / bf16


@torch.enable_grad()
def _convolution(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds. A GPU gets many images: with few, starting a kernel takes longer than computing."""
    n = 4 if device.type == "cpu" else 512
    x, weight = (
        torch.ones(shape, device=device, dtype=dtype)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
        for shape in ((n, 64, 32, 32), (64, 64, 3, 3))
    )
    start = time.perf_counter()
    gradients = torch.autograd.grad(F.conv2d(x, weight, padding=1).sum(), (x, weight))
    gradients[0].flatten()[0].item()  # waits for a GPU
    return time.perf_counter() - start
