"""Published rivals of the default strategy, for comparison: guests that come in by the entry points "aisp.strategies".

Five are strategies. Two of these, `SoftBestOfN` and `Pessimism`, draw plain samples and differ from best-of-n only in
the response that they return: that rule is usable alone, over a pool of samples that is there already (`Selection`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aisp.bench.rivals.blockwise import Blockwise
from aisp.bench.rivals.misvo import MISVO
from aisp.bench.rivals.pessimism import Pessimism, Pessimistic
from aisp.bench.rivals.qalign import QAlign
from aisp.bench.rivals.selection import Best, Selection, choose
from aisp.bench.rivals.soft_best_of_n import SoftBest, SoftBestOfN

RULES: Mapping[str, Callable[..., Selection]] = {"soft_best_of_n": SoftBest, "pessimism": Pessimistic}
"""Rules over a pool of plain samples, by the names of their strategies."""

__all__ = [
    "MISVO",
    "RULES",
    "Best",
    "Blockwise",
    "Pessimism",
    "Pessimistic",
    "QAlign",
    "Selection",
    "SoftBest",
    "SoftBestOfN",
    "choose",
]
