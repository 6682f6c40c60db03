"""Strategies: how the next responses are proposed. One algorithm a file, each a pure function of its state."""

from __future__ import annotations

from aisp.strategies.aisp import AISP
from aisp.strategies.base import Info, SearchContext, Strategy
from aisp.strategies.best_of_n import BestOfN
from aisp.strategies.tilted_restart.strategy import TiltedRestart

__all__ = ["AISP", "BestOfN", "Info", "SearchContext", "Strategy", "TiltedRestart"]
