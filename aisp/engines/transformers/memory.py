"""How much memory there is, and whether it has run out."""

from __future__ import annotations

import os

import torch


def free_bytes(device: torch.device) -> int:
    """Return what is free on a device, or in the machine; 4 GiB where the system doesn't tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 << 30


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on a device or in the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch, on the CPU
