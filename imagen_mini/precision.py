"""Which number format a device computes in fastest."""

from __future__ import annotations

import torch

PRECISIONS = ("auto", "bf16", "fp32")


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """"fp32" or "bf16" as asked for; "auto" is bfloat16 where the processor computes in it, else float32."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        with open("/proc/cpuinfo") as file:            # torch has no public question for this
            flags = file.read()
    except OSError:
        return False
    return device.type == "cpu" and any(name in flags for name in ("avx512_bf16", "amx_bf16", " bf16 "))
