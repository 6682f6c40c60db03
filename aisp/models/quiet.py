"""Loading without transformers' progress bars, which would end up in the logs of whoever uses this package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_inside = 0
_restore: Callable[[], None] | None = None


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch the bars off, and leave the process as it was: loads that overlap restore it once, at their end."""
    global _inside, _restore
    with _lock:
        if not _inside:
            _restore = _switched_off()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _restore is not None:
                _restore()


def _switched_off() -> Callable[[], None]:
    # Transformers takes seconds to import; who loads a model needs it anyway.
    from huggingface_hub import utils
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    bars: Any = logging  # not typed, as the other two
    hub: Any = utils
    gguf: Any = modeling_gguf_pytorch_utils
    were_on, hub_was_off, own_bar = bars.is_progress_bar_enabled(), hub.are_progress_bars_disabled(), gguf.tqdm
    bars.disable_progress_bar()
    gguf.tqdm = lambda items, **_: items  # this one asks nobody

    def restore() -> None:
        gguf.tqdm = own_bar
        if were_on:
            bars.enable_progress_bar()
        # Both switches of transformers turn those of the hub with them.
        (hub.disable_progress_bars if hub_was_off else hub.enable_progress_bars)()

    return restore
