"""What one user wants: weights by the name of a reward's part, so that users of one model differ in a mapping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from aisp.errors import ConfigurationError
from aisp.rewards.base import Reward, Sum


class Preferences(BaseModel):
    """Weights of a reward's parts, by name.

    Parts that are not named keep their weight; a weight of 0 takes a part out of the sum, though not out of the trace.

    Attributes:
        weights: Finite numbers, by the names that parts have in traces.

    Example:
        >>> from aisp.rewards import Length, Regex
        >>> reward = Length(5, 20) + Regex("please", name="polite")
        >>> Preferences(weights={"polite": 3.0}).apply(reward).parts[1].factor
        3.0
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: dict[str, float]

    @field_validator("weights")
    @classmethod
    def _finite(cls, weights: dict[str, float]) -> dict[str, float]:
        wrong = {name: weight for name, weight in weights.items() if not math.isfinite(weight)}
        if wrong:
            raise ValueError(f"weights are {wrong}; expected finite numbers")
        return weights

    @classmethod
    def from_yaml(cls, source: str | Path) -> Preferences:
        """Read `weights:` or a plain mapping of names to numbers.

        Args:
            source: A path, or YAML itself where it is a text of several lines or holds a colon.

        Raises:
            ConfigurationError: No such file, no YAML, or something else in it.
        """
        import yaml

        inline = isinstance(source, str) and (":" in source or "\n" in source) and not Path(source).is_file()
        try:
            content = source if inline else Path(source).read_text(encoding="utf-8")
            found = yaml.safe_load(str(content))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigurationError(f"the preferences can't be read: {error}") from error
        if not isinstance(found, Mapping):
            raise ConfigurationError(
                f"the preferences are {type(found).__name__}; expected a mapping of names to weights"
            )
        return cls.of(found)

    @classmethod
    def of(cls, source: Preferences | Mapping[str, Any]) -> Preferences:
        """Return preferences from themselves, `{"weights": {...}}`, or a mapping of names to numbers.

        Raises:
            ConfigurationError: Anything else.
        """
        if isinstance(source, Preferences):
            return source
        if not isinstance(source, Mapping):
            raise ConfigurationError(
                f"preferences are {source!r}; expected Preferences, or a mapping of names to weights"
            )
        try:
            return cls(**(source if isinstance(source.get("weights"), Mapping) else {"weights": dict(source)}))
        except (ValidationError, TypeError) as error:
            raise ConfigurationError(f"preferences: {error}") from error

    def apply(self, reward: Reward | None) -> Reward:
        """Return a reward with these weights.

        Raises:
            ConfigurationError: A name that no part has; no reward to weigh.
        """
        if reward is None:
            raise ConfigurationError("there are preferences but no rewards that they could weigh; give rewards")
        return (reward if isinstance(reward, Sum) else Sum(reward)).with_weights(self.weights)
