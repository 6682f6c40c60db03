"""What a text is laid out in: bullets, headings, paragraphs, highlights, placeholders, parts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from aisp.errors import ConfigurationError
from aisp.rewards.rules.base import Counted, Rule, average, within
from aisp.rewards.rules.words import Regex, given

Kind = Literal["bullets", "numbered", "headings", "paragraphs", "highlights", "placeholders", "capitals"]
# Patterns here read a text in linear time, whatever a model writes: none tries again from inside what it has read.
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_BOLD = re.compile(r"\*\*([^*\n]*)\*\*")
_STARRED = re.compile(r"\*([^*\n]*)\*")
_CONTRACTION = re.compile(r"(?<=\w)(?=(?:n['’]t|['’](?:s|m|d|ll|re|ve))$)", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"[\s,;?!@#$%&*()\[\]{}<>\"“”«»‘`…–—]+|:(?!\d)|--+|\.{2,}|(?<!\w)['’]+|['’]+(?!\w)")


class Elements(Counted):
    """Between two numbers of some element of layout. See `Counted`.

    bullets       lines that begin with - or with one *
    numbered      lines that begin with a number and a . or )
    headings      Markdown headings, # to ######
    paragraphs    what stands between blank lines
    highlights    *highlighted* or **highlighted** in Markdown, on one line
    placeholders  [in square brackets], on one line
    capitals      words all in capitals; "well-known" is one word, "can't" is two

    Args:
        kind: What is counted.
        low: At least this many.
        high: At most this many; None for no upper bound.
    """

    def __init__(self, kind: Kind, low: int = 0, high: int | None = None, **options: Any) -> None:
        if kind not in _COUNTERS:
            raise ConfigurationError(f"there are no elements called {kind!r}; there are {', '.join(_COUNTERS)}")
        super().__init__(low, high, **{"name": kind, **options})
        self.kind = kind

    def count(self, text: str) -> int:
        return _COUNTERS[self.kind](text)


class Parts(Rule):
    """Between two numbers of parts with a separator between them, none of which is empty.

    Separators before the first part and after the last one are allowed. The score is the product of how near the number
    is, the share of the parts that are not empty, and, where they have to differ, the share of distinct ones.

    Args:
        low: At least this many.
        high: At most this many; None for no upper bound.
        separator: What stands between them.
        distinct: Whether no two may be the same.
    """

    def __init__(
        self, low: int, high: int | None, *, separator: str = "***", distinct: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        if low < 1 or (high is not None and high < low):
            raise ConfigurationError(f"parts are between {low} and {high}; expected 1 <= low <= high")
        self.low, self.high, self.distinct = low, high, distinct
        self.separator = given([separator], "parts")[0]

    def grade_text(self, text: str) -> float:
        pieces = [piece.strip() for piece in text.split(self.separator)]
        inner = pieces[not pieces[0] : len(pieces) - (len(pieces) > 1 and not pieces[-1])]
        parts = [piece for piece in inner if piece]
        if not parts:
            return 0.0
        different = len(set(parts)) / len(parts) if self.distinct else 1.0
        return within(len(parts), self.low, self.high) * len(parts) / len(inner) * different


class FirstWord(Rule):
    """The first word of a text, or of one of a number of paragraphs, whatever its case.

    The word ends at a blank or one of . , ? ! ' " (quotes before it don't count). Half of the score is how near the
    number of paragraphs is; half is 1/(1 + words before the word) in its paragraph, or 0.

    Args:
        word: The word.
        paragraph: Which paragraph begins with it, from 1. Two line breaks stand between paragraphs; an empty one has a
            place, though it is not among the number.
        paragraphs: How many there have to be; None for any number.
    """

    def __init__(self, word: str, paragraph: int = 1, paragraphs: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if paragraph < 1 or (paragraphs is not None and paragraphs < paragraph):
            raise ConfigurationError(
                f"paragraph {paragraph} of {paragraphs} begins with {word!r}; expected 1 <= paragraph <= paragraphs"
            )
        self.word, self.paragraph, self.paragraphs = given([word], "firstword")[0], paragraph, paragraphs

    def grade_text(self, text: str) -> float:
        pieces = text.split("\n\n")
        number = sum(1 for piece in pieces if piece.strip())
        place = pieces[self.paragraph - 1].split() if self.paragraph <= number else []
        words = [re.sub(r"""[.,?!'"].*""", "", re.sub("""^'*"*""", "", word)).lower() for word in place]
        first = 1.0 / (1.0 + words.index(self.word.lower())) if self.word.lower() in words else 0.0
        return first if self.paragraphs is None else average([within(number, self.paragraphs, self.paragraphs), first])


def postscript(marker: str = "P.S.", **options: Any) -> Regex:
    """Return a rule that wants a postscript: its marker, whatever its case; without its full stops it scores 0.5."""
    letters = given([marker.strip()], "postscript")[0]
    exact = re.sub(r"\\\.(?=.)", r"\\.\\s?", re.escape(letters))
    near = r"\b" + re.sub(r"\\\.", r"\\.?\\s?", re.escape(letters)) + r"(?!\w)"
    return Regex(exact, near=near, flags=re.IGNORECASE, **{"name": "postscript", **options})


def _lines(pattern: str) -> Callable[[str], int]:
    compiled = re.compile(pattern, re.MULTILINE)
    return lambda text: sum(1 for _ in compiled.finditer(text))


def _paragraphs(text: str) -> int:
    return sum(1 for paragraph in _BLANK_LINE.split(text) if paragraph.strip())


def _highlights(text: str) -> int:
    found = (*_STARRED.finditer(text), *_BOLD.finditer(text))
    return sum(1 for highlight in found if highlight[1].strip())


def _placeholders(text: str) -> int:
    count = 0
    for line in text.split("\n"):
        start = line.find("[")
        # Without a bracket that closes it, no later one on the line is closed either.
        while start >= 0 and (end := line.find("]", start)) >= 0:
            count += 1
            start = line.find("[", end + 1)
    return count


def _capitals(text: str) -> int:
    spans = (span for span in _BETWEEN_WORDS.split(text) if span)
    return sum(part.isupper() for span in spans for part in _CONTRACTION.split(span))


_COUNTERS: dict[str, Callable[[str], int]] = {
    "bullets": _lines(r"^[^\S\n]*(?:-|\*(?=[^*]))"),
    "numbered": _lines(r"^[^\S\n]*\d+[.)]\s"),
    "headings": _lines(r"^ {0,3}#{1,6}[^\S\n]+\S"),
    "paragraphs": _paragraphs,
    "highlights": _highlights,
    "placeholders": _placeholders,
    "capitals": _capitals,
}
