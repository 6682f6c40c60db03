"""Selection rules: which of the responses that a search drew is returned. One rule a file, each a pure function.

A rule turns the rewards of all responses into the probability that each is returned. Strategies don't know of it: it
wraps the loop, and plain samples that were kept serve every rule.
"""

from __future__ import annotations

from collections.abc import Callable

from aisp.bench.rivals.pessimism import Pessimistic
from aisp.bench.rivals.selection import Best, Selection, choose
from aisp.bench.rivals.soft_best_of_n import SoftBest

RULES: dict[str, Callable[..., Selection]] = {"soft_best_of_n": SoftBest, "pessimism": Pessimistic}

__all__ = ["RULES", "Best", "Pessimistic", "Selection", "SoftBest", "choose"]
