"""Sentiment by a lexicon: VADER (Hutto and Gilbert, ICWSM 2014), through the vaderSentiment library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.rewards.base import Reward


class Sentiment(Reward):
    """VADER's compound score of the text: -1 (negative) to 1 (positive). Needs the `sentiment` extra."""

    cost = 0.01
    partial = True

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        analyser = _analyser()
        return [float(analyser.polarity_scores(candidate.text)["compound"]) for candidate in candidates]


@cache
def _analyser() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ConfigurationError('sentiment needs vaderSentiment: pip install "aisp-langchain[sentiment]"') from error
    return SentimentIntensityAnalyzer()
