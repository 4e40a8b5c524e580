"""Devices by name, and the memory format that suits them."""

from __future__ import annotations

import torch


def device_name(device: torch.device) -> str:
    """Return what to call a device in a report: a GPU's name, or the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads != 1 else ''}"


def channels_last_on_cpu(device: torch.device) -> torch.memory_format:
    """Return the memory format in which networks train fastest on this device."""
    return torch.channels_last if device.type == "cpu" else torch.preserve_format
