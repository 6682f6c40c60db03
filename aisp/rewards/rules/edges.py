"""How a text begins and ends, and the case of its letters."""

from __future__ import annotations

from itertools import takewhile
from typing import Any, Literal

from aisp.errors import ConfigurationError
from aisp.rewards.rules.base import Rule, average, below_one
from aisp.rewards.rules.words import given, longest_piece


class Starts(Rule):
    """1 where a text starts with a phrase, whatever its case and whatever blanks are around.

    Else half for the longest piece of the phrase that occurs anywhere, half for the piece that the text starts with,
    each as a share of the phrase.
    """

    def __init__(self, phrase: str, **options: Any) -> None:
        super().__init__(**options)
        self.phrase = given([phrase.strip()], "starts")[0]

    def grade_text(self, text: str) -> float:
        return _at_the_start(self.phrase.lower(), text.strip().lower())


class Ends(Rule):
    """1 where a text ends with a phrase, whatever its case and whatever blanks and double quotes come last.

    Else half for the longest piece of the phrase that occurs anywhere, half for the piece that the text ends with.
    """

    def __init__(self, phrase: str, **options: Any) -> None:
        super().__init__(**options)
        self.phrase = given([phrase.strip()], "ends")[0]

    def grade_text(self, text: str) -> float:
        return _at_the_start(self.phrase.lower()[::-1], text.strip().strip('"').lower()[::-1])


class Wrapped(Rule):
    """1 where a text stands between two marks, whatever blanks are around.

    Else half for each mark: all of it for one that stands at its edge, half the share of the text that lies on its
    inner side for one that occurs elsewhere. An occurrence counts as one of the two.

    Args:
        before: What it starts with.
        after: What it ends with; `before` by default.
    """

    def __init__(self, before: str = '"', after: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.before, self.after = given([before, before if after is None else after], "wrapped")

    def grade_text(self, text: str) -> float:
        text = text.strip()
        _, _, behind = text.partition(self.before)
        both = average([_opens(self.before, text), _closes(self.after, behind)])
        return max(both, _closes(self.after, text) / 2)


class Case(Rule):
    """The share of the letters that are in one case. A text without such letters scores 0.

    Args:
        case: "upper" or "lower".
    """

    def __init__(self, case: Literal["upper", "lower"], **options: Any) -> None:
        super().__init__(**options)
        if case not in ("upper", "lower"):
            raise ConfigurationError(f'case is {case!r}; expected "upper" or "lower"')
        self.case = case

    def grade_text(self, text: str) -> float:
        upper, lower = sum(map(str.isupper, text)), sum(map(str.islower, text))
        # Titlecase letters, as in ǅ, are neither.
        letters = upper + lower + sum(char.istitle() and not char.isupper() for char in text)
        return (upper if self.case == "upper" else lower) / letters if letters else 0.0


def _at_the_start(phrase: str, text: str) -> float:
    if text.startswith(phrase):
        return 1.0
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(phrase, text, strict=False)))
    return below_one((shared / len(phrase) + longest_piece(phrase, text)) / 2)


def _opens(mark: str, text: str) -> float:
    """Return 1 for a text that starts with a mark, else half the share of the text that the first one comes before."""
    if text.startswith(mark):
        return 1.0
    return (1 - text.find(mark) / len(text)) / 2 if mark in text else 0.0


def _closes(mark: str, text: str) -> float:
    return _opens(mark[::-1], text[::-1])
