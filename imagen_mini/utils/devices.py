"""Devices by name, and the memory format that suits them."""

from __future__ import annotations

import torch


def device_name(device: torch.device) -> str:
    """Return what to call a device in a report: a GPU's name, or the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads != 1 else ''}"


def available_device(name: str) -> torch.device:
    """Return the device of this name.

    Args:
        name: As torch has it: "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ValueError: There is no such device on this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = torch.cuda.device_count()
        there = ["cpu", *(f"cuda:{i}" for i in range(gpus))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(
            f"device {name!r} cannot be used here; there is {', '.join(there)} "
            f"({str(error).partition(chr(10))[0]})"
        ) from error
    return device


def channels_last_on_cpu(device: torch.device) -> torch.memory_format:
    """Return the memory format in which networks train fastest on this device."""
    return torch.channels_last if device.type == "cpu" else torch.preserve_format
