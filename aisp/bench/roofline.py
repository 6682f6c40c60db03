"""The least time that decoding can take: what every step has to read, over how fast the device reads.

A step reads the weights once, whatever the number of rows, the prompt's keys and values once, and each row's own.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

_BYTES, _TIMES = 1 << 29, 7


def read_bytes(model: Any, token_bytes: int, prompt: int, n: int, new_tokens: int) -> int:
    """Return what n responses to one prompt have to read, prefill included.

    Args:
        model: Its weights count once a step, without an embedding table of its own, of which a step reads a few rows.
        token_bytes: Keys and values of one token.
        prompt: Tokens of the prompt.
        n: Responses.
        new_tokens: Tokens of each.
    """
    weights = sum(parameter.nbytes for parameter in model.parameters())
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if table is not head and table.data_ptr() != head.data_ptr():
        weights -= table.nbytes
    steps = new_tokens - 1  # the first token comes out of the prefill, and the last is never run
    own = n * steps * (steps - 1) // 2
    return int(weights * (1 + steps) + token_bytes * (prompt * steps + own))


def bandwidth(device: torch.device) -> float:
    """Measure how fast a device reads and writes, in bytes a second: the median of a few large copies."""
    source = torch.zeros(_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(_TIMES):
        wait(device)
        started = time.perf_counter()
        target.copy_(source)
        wait(device)
        rates.append(2 * _BYTES / (time.perf_counter() - started))
    return statistics.median(rates)


def wait(device: torch.device) -> None:
    """Return when a device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
