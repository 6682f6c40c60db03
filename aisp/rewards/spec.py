"""Rewards as words, for the command line.

sentiment                       lexicon sentiment, -1 to 1
length:20..40                   words; length:20..40:sentences or :characters
contains:rain,snow              share of the words that occur
avoids:sorry,unfortunately      1 where none occurs
regex:^Dear                     1 where it is found
json                            1 where the text is JSON
classifier:FOLDER               also classifier:FOLDER:pair, classifier:FOLDER:text:probability
python:module:function          a function or reward of your own
veto:SPEC                       what scores below 0.5 is never returned
0.5*SPEC                        a weight
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from aisp.errors import ConfigurationError
from aisp.rewards.algebra import Sum, scaled, veto
from aisp.rewards.base import Reward
from aisp.rewards.classifier import Classifier
from aisp.rewards.function import FunctionReward
from aisp.rewards.rules import Avoids, Contains, Length, Regex, ValidJSON
from aisp.rewards.sentiment import Sentiment

_WEIGHTED = re.compile(r"\s*([+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*\*\s*(.+)", re.DOTALL)
_RANGE = re.compile(r"(\d*)\.\.(\d*)(?::(\w+))?")


def parse_rewards(specs: Sequence[str]) -> Reward | None:
    """Return the sum of some rewards; None of none.

    Raises:
        ConfigurationError: A word that names no reward, or arguments that it doesn't take.
    """
    rewards = [parse_reward(spec) for spec in specs]
    if not rewards:
        return None
    return rewards[0] if len(rewards) == 1 else Sum(*rewards)


def parse_reward(spec: str) -> Reward:
    """Return the reward that one specification stands for. See `parse_rewards`."""
    weighted = _WEIGHTED.fullmatch(spec)
    if weighted:
        return scaled(parse_reward(weighted[2]), float(weighted[1]))
    name, _, arguments = spec.strip().partition(":")
    if name not in _BUILDERS:
        raise ConfigurationError(
            f"{spec!r} names no reward; there are {', '.join(sorted(_BUILDERS))}, and 0.5*NAME weighs one"
        )
    return _BUILDERS[name](arguments)


def _length(arguments: str) -> Reward:
    found = _RANGE.fullmatch(arguments)
    if not found:
        raise ConfigurationError(
            f"length:{arguments} has no range; expected length:LOW..HIGH, as in length:20..40:words"
        )
    low, high, unit = found.groups()
    options: dict[str, Any] = {} if unit is None else {"unit": unit}
    return Length(int(low or 0), int(high) if high else None, **options)


def _phrases(kind: Callable[..., Reward]) -> Callable[[str], Reward]:
    return lambda arguments: kind(*(phrase.strip() for phrase in arguments.split(",") if phrase.strip()))


def _plain(kind: Callable[[], Reward], name: str) -> Callable[[str], Reward]:
    def build(arguments: str) -> Reward:
        if arguments:
            raise ConfigurationError(f"{name} takes no arguments, and got {arguments!r}")
        return kind()

    return build


def _classifier(arguments: str) -> Reward:
    source, *rest = arguments.split(":")
    return Classifier(source, **dict(zip(("input", "output", "label"), rest, strict=False)))  # type: ignore[arg-type]


def _python(arguments: str) -> Reward:
    module, _, attribute = arguments.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"python:{arguments} can't be found: {error}; expected python:module:function"
        ) from error
    return found if isinstance(found, Reward) else FunctionReward(found, version=arguments)


_BUILDERS: dict[str, Callable[[str], Reward]] = {
    "avoids": _phrases(Avoids),
    "classifier": _classifier,
    "contains": _phrases(Contains),
    "json": _plain(ValidJSON, "json"),
    "length": _length,
    "python": _python,
    "regex": Regex,
    "sentiment": _plain(Sentiment, "sentiment"),
    "veto": lambda arguments: veto(parse_reward(arguments)),
}
