"""Engines draw responses from a model. The one in this process runs any transformers causal language model."""

from __future__ import annotations

from aisp.engines.base import Engine, Finished, Flight, Progress
from aisp.engines.registry import engine_for

__all__ = ["Engine", "Finished", "Flight", "Progress", "engine_for"]
