"""Rewards: what a response is worth to its user. They add up, and each named part survives into the trace.

reward = 0.7 * Sentiment() + 0.3 * Length(20, 60) + veto(Avoids("as an AI"))
"""

from __future__ import annotations

from aisp.rewards.algebra import minimum, normalize, product, veto, when
from aisp.rewards.base import Reward
from aisp.rewards.classifier import Classifier
from aisp.rewards.coherence import Coherence
from aisp.rewards.function import FunctionReward
from aisp.rewards.local_judge import LocalJudge
from aisp.rewards.preferences import Preferences
from aisp.rewards.remote import Remote
from aisp.rewards.rubric import Criterion, Rubric
from aisp.rewards.rules import (
    Avoids,
    Case,
    Contains,
    Elements,
    Ends,
    Every,
    FirstWord,
    Frequency,
    Language,
    Length,
    Matches,
    OneOf,
    Parts,
    Readability,
    Regex,
    Rule,
    Schema,
    Starts,
    ValidJSON,
    ValidPython,
    Wrapped,
    as_strict,
    postscript,
)
from aisp.rewards.sentiment import Sentiment

__all__ = [
    "Avoids",
    "Case",
    "Classifier",
    "Coherence",
    "Contains",
    "Criterion",
    "Elements",
    "Ends",
    "Every",
    "FirstWord",
    "Frequency",
    "FunctionReward",
    "Language",
    "Length",
    "LocalJudge",
    "Matches",
    "OneOf",
    "Parts",
    "Preferences",
    "Readability",
    "Regex",
    "Remote",
    "Reward",
    "Rubric",
    "Rule",
    "Schema",
    "Sentiment",
    "Starts",
    "ValidJSON",
    "ValidPython",
    "Wrapped",
    "as_strict",
    "minimum",
    "normalize",
    "postscript",
    "product",
    "veto",
    "when",
]
