"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import torch

_SECONDS = 0.01
_STATM = Path("/proc/self/statm")


class PeakMemory:
    """Measures the peak above what was held at the start: the device's own count on CUDA, else resident memory sampled.

    `bytes` holds it afterwards; 0 where neither can be had.
    """

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0
        self._cuda = device if device.type == "cuda" else None
        self._done = threading.Event()
        self._start = 0

    def __enter__(self) -> PeakMemory:
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
            self._start = torch.cuda.memory_allocated(self._cuda)
        elif _STATM.exists():
            self._start = _resident()
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._cuda is not None:
            self.bytes = torch.cuda.max_memory_allocated(self._cuda) - self._start
        elif _STATM.exists():
            self._sampler.join()

    def _sample(self) -> None:
        while not self._done.wait(_SECONDS):
            self.bytes = max(self.bytes, _resident() - self._start)


def _resident() -> int:
    import resource

    return int(_STATM.read_text().split()[1]) * resource.getpagesize()
