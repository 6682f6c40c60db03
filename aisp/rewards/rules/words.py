"""Words, phrases and patterns: which occur, and how often."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from aisp.errors import ConfigurationError
from aisp.rewards.rules.base import Counted, Rule, below_one, within

_LONG = 64


class Contains(Rule):
    """The share of some words or phrases that occur, whatever their case.

    One that doesn't counts half as much as its longest piece that does, if that is at least half of it.

    Args:
        phrases: At least one.
        whole: As whole words only: "rain" is not in "train".
    """

    def __init__(self, *phrases: str, whole: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.phrases, self.whole = given(phrases, "contains"), whole

    def grade_text(self, text: str) -> float:
        occur = (count_phrase(phrase, text, whole=self.whole) > 0 or _nearly(phrase, text) for phrase in self.phrases)
        return sum(occur) / len(self.phrases)


class Avoids(Rule):
    """1 where none of some words or phrases occurs, else less by each that does. See `Contains`."""

    def __init__(self, *phrases: str, whole: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.phrases, self.whole = given(phrases, "avoids"), whole

    def grade_text(self, text: str) -> float:
        return sum(count_phrase(phrase, text, whole=self.whole) == 0 for phrase in self.phrases) / len(self.phrases)


class Frequency(Counted):
    """How often a word or phrase occurs, whatever its case: between two numbers. See `Counted`.

    Of what has to occur and doesn't, a piece counts as for `Contains`.

    Args:
        phrase: A word, a phrase, a letter, a comma.
        low: At least this often.
        high: At most this often; None for no upper bound.
        whole: As whole words only.
    """

    def __init__(
        self, phrase: str, low: int = 0, high: int | None = None, *, whole: bool = True, **options: Any
    ) -> None:
        super().__init__(low, high, **options)
        self.phrase, self.whole = given([phrase], "frequency")[0], whole

    def count(self, text: str) -> int:
        return count_phrase(self.phrase, text, whole=self.whole)

    def grade_text(self, text: str) -> float:
        count = self.count(text) or (_nearly(self.phrase, text) if self.low else 0)
        return within(count, self.low, self.high)


class Regex(Rule):
    """1 where a pattern is found (`re.search`), else 0.

    Args:
        pattern: A regular expression.
        near: Another one; where it alone is found, the text scores 0.5.
        flags: Of the `re` module, for both.
    """

    def __init__(self, pattern: str, *, near: str | None = None, flags: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self._pattern = compiled(pattern, flags)
        self._near = None if near is None else compiled(near, flags)
        self.pattern, self.near, self.flags = pattern, near, flags

    def grade_text(self, text: str) -> float:
        if self._pattern.search(text):
            return 1.0
        return 0.5 if self._near is not None and self._near.search(text) else 0.0


class Matches(Counted):
    """How often a pattern is found: between two numbers. See `Counted`.

    Args:
        pattern: A regular expression.
        low: At least this often.
        high: At most this often; None for no upper bound.
        flags: Of the `re` module.
    """

    def __init__(self, pattern: str, low: int = 0, high: int | None = None, *, flags: int = 0, **options: Any) -> None:
        super().__init__(low, high, **options)
        self._pattern = compiled(pattern, flags)
        self.pattern, self.flags = pattern, flags

    def count(self, text: str) -> int:
        return sum(1 for _ in self._pattern.finditer(text))


class OneOf(Rule):
    """1 where one of some phrases occurs just as given, else the longest piece of one that does, as a share of it."""

    def __init__(self, *phrases: str, **options: Any) -> None:
        super().__init__(**options)
        self.phrases = given(phrases, "oneof")

    def grade_text(self, text: str) -> float:
        return max(longest_piece(phrase, text) for phrase in self.phrases)


def count_phrase(phrase: str, text: str, *, whole: bool) -> int:
    """Count a phrase, whatever its case; occurrences don't overlap."""
    if not whole:
        return text.lower().count(phrase.lower())
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE))


def longest_piece(phrase: str, text: str) -> float:
    """Return the length of the longest piece of a phrase that occurs in a text, as a share of the phrase.

    Of a long phrase pieces are runs of words, for the sake of speed.
    """
    if phrase in text:
        return 1.0
    ours, theirs = (phrase, text) if len(phrase) <= _LONG else (phrase.split(), text.split())
    matcher: SequenceMatcher[str] = SequenceMatcher(None, ours, theirs, autojunk=False)
    return below_one(matcher.find_longest_match(0, len(ours), 0, len(theirs)).size / len(ours))


def _nearly(phrase: str, text: str) -> float:
    """Return what a phrase that doesn't occur counts: half its longest piece that does, as a share of it.

    0 where that is less than half of it: such pieces are in any text.
    """
    piece = longest_piece(phrase.lower(), text.lower())
    return piece / 2 if piece >= 0.5 else 0.0


def compiled(pattern: str, flags: int) -> re.Pattern[str]:
    """Compile a pattern.

    Raises:
        ConfigurationError: It is not a regular expression.
    """
    try:
        return re.compile(pattern, flags)
    except re.error as error:
        raise ConfigurationError(f"{pattern!r} is not a regular expression: {error}") from error


def given(phrases: Sequence[str], what: str) -> tuple[str, ...]:
    """Return phrases as they were given.

    Raises:
        ConfigurationError: There are none, or one isn't text.
    """
    if not phrases or not all(isinstance(phrase, str) and phrase for phrase in phrases):
        raise ConfigurationError(f"{what} got {phrases!r}; expected at least one word or phrase")
    return tuple(phrases)
