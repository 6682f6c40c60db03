"""Rewards from what users of LlamaIndex have: functions, and the evaluators of their query engines."""

from __future__ import annotations

import asyncio
import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama_index.core.evaluation import BaseEvaluator

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards.base import Reward, Sum, Verdict
from aisp.rewards.function import BINDERS, Binders, FunctionReward, last_user_text

_CONTEXT = re.compile(r"^-{5,}\n(?P<context>.*?)\n-{5,}$", re.DOTALL | re.MULTILINE)
_QUERY = re.compile(r"^(?:Query|Question): *(?P<query>.*?)\s*(?:\nAnswer: *)?\Z", re.DOTALL | re.MULTILINE)

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

    Evaluators of what was retrieved (Faithfulness, Relevancy) are given `contexts`: those of this reward, else those of
    the call (`llm.complete(question, reference={"contexts": [...]})`), else those that LlamaIndex's question-answering
    prompts hold between their lines of dashes, so that a query engine needs nothing. `reference={"reference": ...}`, or
    a text as `reference`, is what evaluators of correctness compare with.

    Args:
        evaluator: Given `query`, `response` and `contexts`, and `reference` where it takes one.
        contexts: Texts, or a function of the candidate that returns them; None for those of the call or the prompt.

    Example:
        >>> from llama_index.core.evaluation import FaithfulnessEvaluator
        >>> reward = EvaluatorReward(FaithfulnessEvaluator(llm=judge))  # doctest: +SKIP
        >>> llm = AISPLLM(rewards=reward, budget=8)  # doctest: +SKIP
        >>> llm.complete("Where is the oak?", reference={"contexts": ["The oak is by the brook."]})  # doctest: +SKIP
    """

    def __init__(
        self,
        evaluator: BaseEvaluator,
        *,
        contexts: Sequence[str] | Callable[[Candidate], Sequence[str]] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name or type(evaluator).__name__, **options)
        self.evaluator = evaluator
        self.contexts = contexts

    async def _ascore(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        return list(await asyncio.gather(*(self._evaluate(candidate) for candidate in candidates)))

    async def _evaluate(self, candidate: Candidate) -> Verdict:
        known: dict[str, Any] = {"contexts": self._contexts_of(candidate)}
        reference = _reference_of(candidate)
        if reference is not None and "reference" in inspect.signature(self.evaluator.aevaluate).parameters:
            known["reference"] = reference
        result = await self.evaluator.aevaluate(query=question_of(candidate), response=candidate.text, **known)
        value = result.score if result.score is not None else result.passing
        if result.invalid_result or value is None:
            raise ValueError(result.invalid_reason or "the evaluator gave neither a score nor whether it passes")
        return Score(value=value, comment=result.feedback)

    def _contexts_of(self, candidate: Candidate) -> Sequence[str] | None:
        if callable(self.contexts):
            return list(self.contexts(candidate))
        return list(self.contexts) if self.contexts is not None else contexts_of(candidate)


def contexts_of(candidate: Candidate) -> list[str] | None:
    """Return what was retrieved for a candidate's question: of the call's `reference`, else of the prompt; or None."""
    reference = candidate.reference
    given = reference.get("contexts") if isinstance(reference, Mapping) else None
    if given is not None:
        return [given] if isinstance(given, str) else [_text_of(context) for context in given]
    if isinstance(reference, Sequence) and not isinstance(reference, str):
        return [_text_of(context) for context in reference]
    found = _CONTEXT.search(last_user_text(candidate))
    return [found["context"]] if found else None


def question_of(candidate: Candidate) -> str:
    """Return what was asked: within LlamaIndex's question-answering prompts the query, else what the user said last."""
    text = last_user_text(candidate)
    found = _CONTEXT.search(text)
    asked = _QUERY.search(text, found.end()) if found else None
    return asked["query"] if asked else text


def _text_of(context: Any) -> str:
    """Return the text of a context, which may be a node of LlamaIndex."""
    return str(context.get_content()) if hasattr(context, "get_content") else str(context)


def _reference_of(candidate: Candidate) -> str | None:
    reference = candidate.reference
    if isinstance(reference, Mapping):
        reference = reference.get("reference")
    return reference if isinstance(reference, str) else None


def _renamed(reward: Reward, name: str) -> Reward:
    clone = copy.copy(reward)
    clone.name = name
    return clone
