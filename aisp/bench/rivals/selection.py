"""The contract of a selection rule, and the rule that everything else is compared with: the best response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from aisp.errors import ConfigurationError
from aisp.records import FloatArray


class Selection(Protocol):
    """Which response is returned."""

    name: ClassVar[str]

    def probabilities(self, rewards: FloatArray) -> FloatArray:
        """Return how probable it is that each response is returned.

        Args:
            rewards: Shape (n,); -inf takes a response out. At least one is finite.

        Returns:
            Shape (n,), summing to 1.
        """


@dataclass(frozen=True, slots=True)
class Best:
    """Return the response of the highest reward; the one drawn first wins a tie."""

    name: ClassVar[str] = "best"

    def probabilities(self, rewards: FloatArray) -> FloatArray:
        chosen = np.zeros(len(rewards))
        chosen[int(np.argmax(rewards))] = 1.0
        return chosen


def choose(selection: Selection, rewards: FloatArray, rng: np.random.Generator) -> int:
    """Draw which response is returned: its place among `rewards`, shape (n,), of which at least one is finite."""
    return int(rng.choice(len(rewards), p=selection.probabilities(rewards)))


def check_temperature(reward_temperature: float | str, target_ess_fraction: float) -> None:
    """Refuse what is no temperature.

    Raises:
        ConfigurationError: A value outside its range.
    """
    if reward_temperature != "auto" and not (isinstance(reward_temperature, int | float) and reward_temperature >= 0):
        raise ConfigurationError(f'reward_temperature is {reward_temperature!r}; expected a number >= 0, or "auto"')
    if not 0 < target_ess_fraction <= 1:
        raise ConfigurationError(f"target_ess_fraction is {target_ess_fraction}; expected a number in (0, 1]")
