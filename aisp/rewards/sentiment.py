"""Sentiment by a lexicon: VADER (Hutto and Gilbert, ICWSM 2014), through the vaderSentiment library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.rewards.base import Reward


class Sentiment(Reward):
    """How positive a text is by VADER, -1 to 1. Needs the `sentiment` extra.

    Args:
        measure: "compound", VADER's own sum, which a few warm words bring close to 1; or "balance", the share of
            positive words less that of negative ones, which has room left to climb.
    """

    cost = 0.01
    partial = True

    def __init__(self, *, measure: Literal["compound", "balance"] = "compound", **options: Any) -> None:
        super().__init__(**options)
        if measure not in ("compound", "balance"):
            raise ConfigurationError(f'measure is {measure!r}; expected "compound" or "balance"')
        self.measure = measure

    def config(self) -> Mapping[str, Any]:
        return {"measure": self.measure}

    def check(self) -> None:
        """Find that vaderSentiment is missing.

        Raises:
            ConfigurationError: It is.
        """
        _analyser()

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        scores = [_analyser().polarity_scores(candidate.text) for candidate in candidates]
        if self.measure == "compound":
            return [float(score["compound"]) for score in scores]
        return [float(score["pos"] - score["neg"]) for score in scores]


@cache
def _analyser() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ConfigurationError('sentiment needs vaderSentiment: pip install "aisp-langchain[sentiment]"') from error
    return SentimentIntensityAnalyzer()
