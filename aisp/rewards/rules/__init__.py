"""Rules: rewards that need no model, in [0, 1]; 1 is kept, less says how far off, and `strict=True` makes that 0.

base.py         what rules share; Every, a mean that is kept where every rule is; as_strict
length.py       Length in words, sentences, characters, tokens
words.py        Contains, Avoids, Frequency, Regex, Matches, OneOf
edges.py        Starts, Ends, Wrapped, Case
layout.py       Elements (bullets, headings, paragraphs ...), Parts, FirstWord, postscript
data.py         ValidJSON, Schema, ValidPython
language.py     Language
readability.py  Readability
"""

from __future__ import annotations

from aisp.rewards.rules.base import Counted, Every, Graded, Rule, as_strict
from aisp.rewards.rules.data import Schema, ValidJSON, ValidPython
from aisp.rewards.rules.edges import Case, Ends, Starts, Wrapped
from aisp.rewards.rules.language import Language
from aisp.rewards.rules.layout import Elements, FirstWord, Parts, postscript
from aisp.rewards.rules.length import Length
from aisp.rewards.rules.readability import Readability
from aisp.rewards.rules.words import Avoids, Contains, Frequency, Matches, OneOf, Regex

__all__ = [
    "Avoids",
    "Case",
    "Contains",
    "Counted",
    "Elements",
    "Ends",
    "Every",
    "FirstWord",
    "Frequency",
    "Graded",
    "Language",
    "Length",
    "Matches",
    "OneOf",
    "Parts",
    "Readability",
    "Regex",
    "Rule",
    "Schema",
    "Starts",
    "ValidJSON",
    "ValidPython",
    "Wrapped",
    "as_strict",
    "postscript",
]
