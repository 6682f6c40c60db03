"""Strategies: how the next responses are proposed. One algorithm a file, each a pure function of its state."""

from __future__ import annotations

from aisp.strategies.aisp import AISP
from aisp.strategies.base import Info, Setting, Strategy
from aisp.strategies.best_of_n import BestOfN

__all__ = ["AISP", "BestOfN", "Info", "Setting", "Strategy"]
