"""Which device a model goes to, and in which dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aisp.errors import ConfigurationError

if TYPE_CHECKING:
    import torch


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device that was asked for; None takes CUDA, else MPS, else the CPU.

    Raises:
        ConfigurationError: No such device, or none of its kind on this machine.
    """
    import torch

    if device is None:
        others = "mps" if torch.backends.mps.is_available() else "cpu"
        device = "cuda" if torch.cuda.is_available() else others
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(
            f"device is {device!r}; expected one of torch's, as 'cpu', 'cuda:0' or 'mps'"
        ) from error
    if found.type == "cuda":
        count = torch.cuda.device_count()
        index = found.index if found.index is not None else (torch.cuda.current_device() if count else 0)
        if index >= count:
            raise ConfigurationError(
                f"device is {device!r} and torch sees {count} CUDA devices; choose another or 'cpu'"
            )
        return torch.device("cuda", index)
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigurationError("device is 'mps' and torch finds no such device here; choose 'cpu'")
    return found


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype that was asked for; None takes bfloat16 where the device is fast at it, else float32.

    Raises:
        ConfigurationError: Not a floating-point dtype of torch.
    """
    import torch

    if dtype is None:
        return torch.bfloat16 if is_fast_at_bfloat16(device) else torch.float32
    found: Any = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigurationError(
            f"dtype is {dtype!r}; expected a floating-point dtype, as 'float32', 'bfloat16' or 'float16', or None"
        )
    return found


def is_fast_at_bfloat16(device: torch.device) -> bool:
    """Tell whether the hardware multiplies bfloat16 natively: CUDA from Ampere on, CPUs with AMX or AVX512-BF16."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("amx_bf16") or able.get("avx512_bf16"))
    return False
