"""Selection rules: which of the responses that a search drew is returned. One rule a file, each a pure function.

A rule turns the rewards of all responses into the probability that each is returned. Strategies don't know of it: it
wraps the loop, and plain samples that were kept serve every rule.
"""

from __future__ import annotations

from aisp.selection.base import Best, Selection, choose
from aisp.selection.pessimistic import Pessimistic
from aisp.selection.soft import SoftBest

__all__ = ["Best", "Pessimistic", "Selection", "SoftBest", "choose"]
