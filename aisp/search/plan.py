"""How many responses are drawn, and in how many rounds: budget = num_samples x num_rounds."""

from __future__ import annotations

from dataclasses import dataclass

from aisp.engines.base import DEFAULT_WIDTH
from aisp.errors import ConfigurationError

DEFAULT_BUDGET = 64
_LEAST_IN_FLIGHT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A budget and the size of its rounds.

    Args:
        budget: Responses generated and scored in all, calibration included.
        num_samples: Responses a round at most, and in the making at once.
    """

    budget: int
    num_samples: int

    @property
    def in_flight(self) -> int:
        """Responses in the making at most, for a search without rounds.

        No more than a quarter of the budget, so that most of it is drawn knowing something, but for small budgets.
        """
        return min(self.num_samples, max(_LEAST_IN_FLIGHT, self.budget // 4))


def make_plan(budget: int | None, num_samples: int | None, num_rounds: int | None, width: int = DEFAULT_WIDTH) -> Plan:
    """Find what is missing of budget = num_samples x num_rounds.

    Any two determine the third. Where fewer are given, the budget is 64, and a round has `width`.

    Raises:
        ConfigurationError: A number below 1, or three that disagree.
    """
    for name, value in (("budget", budget), ("num_samples", num_samples), ("num_rounds", num_rounds)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} is {value}; expected an integer >= 1")
    if budget is None:
        both = num_samples is not None and num_rounds is not None
        budget = (num_samples or 1) * (num_rounds or 1) if both else DEFAULT_BUDGET
    if num_samples is None:
        num_samples = min(width, budget) if num_rounds is None else ceil_div(budget, num_rounds)
    rounds = ceil_div(budget, num_samples)
    if num_rounds is not None and num_rounds != rounds:
        raise ConfigurationError(
            f"budget={budget} in rounds of num_samples={num_samples} makes {rounds} rounds, "
            f"not num_rounds={num_rounds}; give two of the three"
        )
    return Plan(budget=budget, num_samples=min(num_samples, budget))


def ceil_div(total: int, parts: int) -> int:
    """Return total / parts, rounded up. Whole numbers have no bound, where floats have."""
    return -(-total // parts)
