"""Length, words, patterns, JSON: scores in [0, 1], where 1 is kept and a soft rule says below it how far off."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.rewards.base import Reward

Unit = Literal["words", "sentences", "characters"]
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")


class Rule(Reward):
    """A reward that looks at the text alone."""

    cost = 0.001

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [self.check(candidate.text) for candidate in candidates]

    def check(self, text: str) -> float:
        """Return how well a text keeps the rule, in [0, 1]."""
        raise NotImplementedError

    def config(self) -> Mapping[str, Any]:
        return {
            key: value for key, value in vars(self).items() if not key.startswith("_") and key not in ("name", "cost")
        }


class Length(Rule):
    """Between two numbers of words, sentences or characters.

    1 within the bounds; outside them it falls with the ratio to the nearer bound (twice or half as long scores 0.5).

    Args:
        low: At least this many; 0 for no lower bound.
        high: At most this many; None for no upper bound.
        unit: What is counted.
    """

    def __init__(self, low: int = 0, high: int | None = None, *, unit: Unit = "words", **options: Any) -> None:
        super().__init__(**options)
        if unit not in ("words", "sentences", "characters"):
            raise ConfigurationError(f'unit is {unit!r}; expected "words", "sentences" or "characters"')
        if low < 0 or (high is not None and high < low):
            raise ConfigurationError(f"length is between {low} and {high}; expected 0 <= low <= high")
        self.low, self.high, self.unit = low, high, unit

    def check(self, text: str) -> float:
        count = count_units(text, self.unit)
        if count < self.low:
            return count / self.low
        if self.high is not None and count > self.high:
            return self.high / count
        return 1.0


class Contains(Rule):
    """The share of some words or phrases that occur, as whole words, whatever their case."""

    def __init__(self, *phrases: str, **options: Any) -> None:
        super().__init__(**options)
        self.phrases = _given(phrases, "contains")

    def check(self, text: str) -> float:
        return sum(occurs(phrase, text) for phrase in self.phrases) / len(self.phrases)


class Avoids(Rule):
    """1 where none of some words or phrases occurs, else less by each that does."""

    def __init__(self, *phrases: str, **options: Any) -> None:
        super().__init__(**options)
        self.phrases = _given(phrases, "avoids")

    def check(self, text: str) -> float:
        return 1.0 - sum(occurs(phrase, text) for phrase in self.phrases) / len(self.phrases)


class Regex(Rule):
    """1 where a pattern is found (`re.search`), else 0."""

    def __init__(self, pattern: str, *, flags: int = 0, **options: Any) -> None:
        super().__init__(**options)
        try:
            self._pattern = re.compile(pattern, flags)
        except re.error as error:
            raise ConfigurationError(f"{pattern!r} is no regular expression: {error}") from error
        self.pattern, self.flags = pattern, flags

    def check(self, text: str) -> float:
        return float(self._pattern.search(text) is not None)


class ValidJSON(Rule):
    """1 where the text is JSON, 0 where it is not."""

    def check(self, text: str) -> float:
        try:
            json.loads(text)
        except ValueError:
            return 0.0
        return 1.0


def count_units(text: str, unit: Unit) -> int:
    """Count words (runs without blanks), sentences (ends by . ! ?, and a rest without one) or characters."""
    if unit == "characters":
        return len(text)
    if unit == "words":
        return len(text.split())
    rest = _SENTENCE_END.split(text)[-1]
    return len(_SENTENCE_END.findall(text)) + bool(rest.strip())


def occurs(phrase: str, text: str) -> bool:
    """Return whether a phrase occurs as whole words, whatever its case."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def _given(phrases: Sequence[str], what: str) -> tuple[str, ...]:
    if not phrases or not all(isinstance(phrase, str) and phrase for phrase in phrases):
        raise ConfigurationError(f"{what} got {phrases!r}; expected at least one word or phrase")
    return tuple(phrases)
