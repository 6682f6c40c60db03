"""Engines draw responses from a model. The one in this process runs any transformers causal language model."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from aisp.engines.base import Engine, Progress

if TYPE_CHECKING:
    from aisp.models import LoadedModel

__all__ = ["Engine", "Progress", "engine_for"]

_engines: weakref.WeakKeyDictionary[Any, Engine] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def engine_for(loaded: LoadedModel) -> Engine:
    """Return the engine of a loaded model: one a model, shared by all who ask, so that their requests share a batch.

    Raises:
        UnsupportedModelError: The model can't be split at its head, or its cache can't be decoded from.
    """
    from aisp.engines.transformers.engine import TransformersEngine

    with _lock:
        engine = _engines.get(loaded)
        if engine is None:
            engine = TransformersEngine(loaded.model, loaded.tokenizer, eos_token_ids=tuple(loaded.eos_token_ids))
            engine.codec = loaded.codec  # type: ignore
            _engines[loaded] = engine
        return engine
