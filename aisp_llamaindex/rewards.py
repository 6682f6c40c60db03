"""Rewards from what users of LlamaIndex have: functions, and the evaluators of their query engines."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.evaluation import BaseEvaluator

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards.base import Reward, Sum, Verdict
from aisp.rewards.function import BINDERS, Binders, FunctionReward, last_user_text

LLAMAINDEX_BINDERS: Binders = {
    **BINDERS,
    "query": last_user_text,
    "response": lambda candidate: candidate.text,
}
"""What a reward function's parameters may be called here: those of `aisp`, and those of LlamaIndex's evaluators."""


def as_reward(source: Any, *, name: str | None = None) -> Reward:
    """Return a reward.

    Args:
        source: A reward of `aisp`; a function, sync or async, with any of `query` (what the user said last), `response`
            (the candidate's text) and the parameters of `aisp.rewards.FunctionReward`; an evaluator of LlamaIndex,
            which is given query and response; a mapping of names to any of these, or a sequence of them: their sum.
        name: Of the part in traces.

    Raises:
        ConfigurationError: What can't be made a reward.
    """
    if isinstance(source, Reward):
        return source if name is None else _renamed(source, name)
    if isinstance(source, BaseEvaluator):
        return EvaluatorReward(source, name=name)
    if isinstance(source, Mapping) and source:
        return Sum(*(as_reward(part, name=key) for key, part in source.items()))
    if isinstance(source, Sequence) and not isinstance(source, str) and source:
        return Sum(*(as_reward(part) for part in source))
    if callable(source):
        return FunctionReward(source, name=name, binders=LLAMAINDEX_BINDERS)
    raise ConfigurationError(
        f"rewards is {source!r}; expected a reward of aisp.rewards, a function of `response`, an evaluator of "
        "LlamaIndex, or a mapping of names to these"
    )


class EvaluatorReward(Reward):
    """Scores with an evaluator of LlamaIndex: its score, or 1 and 0 for passing and not where it gives none.

    A result that the evaluator calls invalid can't be scored; see `on_error`.

    Args:
        evaluator: Given `query` and `response`; evaluators that need `contexts` have to be wrapped in a function.
    """

    def __init__(self, evaluator: BaseEvaluator, *, name: str | None = None, **options: Any) -> None:
        super().__init__(name=name or type(evaluator).__name__, **options)
        self.evaluator = evaluator

    async def _ascore(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        return list(await asyncio.gather(*(self._evaluate(candidate) for candidate in candidates)))

    async def _evaluate(self, candidate: Candidate) -> Verdict:
        result = await self.evaluator.aevaluate(query=last_user_text(candidate), response=candidate.text)
        value = result.score if result.score is not None else result.passing
        if result.invalid_result or value is None:
            raise ValueError(result.invalid_reason or "the evaluator gave neither a score nor whether it passes")
        return Score(value=value, comment=result.feedback)


def _renamed(reward: Reward, name: str) -> Reward:
    clone = copy.copy(reward)
    clone.name = name
    return clone
