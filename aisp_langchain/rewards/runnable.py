"""A reward as a Runnable: the same object steers a model, stands in a chain, and evaluates a data set.

{"inputs", "outputs", "reference_outputs"} -> {"key", "score", "comment", "metadata"}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list

import aisp.rewards as algebra
from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards.preferences import Preferences
from aisp_langchain.rewards.coerce import as_reward
from aisp_langchain.rewards.evaluators import candidate_of

_INPUT = frozenset({"inputs", "outputs", "reference_outputs"})
Result = dict[str, Any]


class Reward(Runnable[Mapping[str, Any], Result]):
    """A reward that is a Runnable, and has the algebra of `aisp.rewards`.

    It takes `{"inputs", "outputs", "reference_outputs"}` (`outputs` an AIMessage or text, the others optional) and
    returns `{"key", "score", "comment", "metadata"}`, where the metadata holds the named `parts`, `vetoed`, and the
    `error` of what could not be scored; the score of either is None. A batch is scored as one batch.

    Args:
        source: What `as_reward` takes.
        name: The key of its results, and of its part in traces.

    Raises:
        ConfigurationError: What can't be made a reward.

    Example:
        >>> from aisp.rewards import Length
        >>> brief = Reward(Length(1, 3))
        >>> (2 * brief - 1).invoke({"outputs": "Well said."})["score"]
        1.0
    """

    def __init__(self, source: Any, *, name: str | None = None) -> None:
        self.reward = as_reward(source, name=name)
        self.name = self.reward.name

    def invoke(self, input: Mapping[str, Any], config: RunnableConfig | None = None, **kwargs: Any) -> Result:  # noqa: A002
        return self._call_with_config(lambda given: self._results([given])[0], input, config, **kwargs)

    async def ainvoke(self, input: Mapping[str, Any], config: RunnableConfig | None = None, **kwargs: Any) -> Result:  # noqa: A002
        async def one(given: Mapping[str, Any]) -> Result:
            return (await self._aresults([given]))[0]

        return await self._acall_with_config(one, input, config, **kwargs)

    def batch(
        self,
        inputs: Sequence[Mapping[str, Any]],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Result]:
        _refuse(kwargs)
        get_config_list(config, len(inputs))
        if not inputs:
            return []
        try:
            return self._results(inputs)
        except Exception:
            if not return_exceptions:
                raise
        return super().batch(list(inputs), config, return_exceptions=True)

    async def abatch(
        self,
        inputs: Sequence[Mapping[str, Any]],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Result]:
        _refuse(kwargs)
        get_config_list(config, len(inputs))
        if not inputs:
            return []
        try:
            return await self._aresults(inputs)
        except Exception:
            if not return_exceptions:
                raise
        return await super().abatch(list(inputs), config, return_exceptions=True)

    def as_evaluator(self) -> Callable[..., Result]:
        """Return an evaluator as openevals and LangSmith's `evaluate` know them.

        It is a function of `inputs`, `outputs` and `reference_outputs` that returns `{"key", "score", "comment"}`. What
        is vetoed or can't be scored has the score None, and the comment says so.
        """

        def evaluator(inputs: Any = None, outputs: Any = None, reference_outputs: Any = None) -> Result:
            given = {"inputs": inputs, "outputs": outputs, "reference_outputs": reference_outputs}
            [result] = self._results([given])
            closed = result["metadata"]["error"] or ("vetoed" if result["metadata"]["vetoed"] else None)
            said = "; ".join(filter(None, [closed, result["comment"]])) or None
            return {"key": result["key"], "score": result["score"], "comment": said}

        evaluator.__name__ = self.reward.name
        return evaluator

    def with_weights(self, preferences: Preferences | Mapping[str, float]) -> Reward:
        """Return this reward with other weights of its parts, by name."""
        return Reward(Preferences.of(preferences).apply(self.reward))

    def clip(self, low: float | None = None, high: float | None = None) -> Reward:
        """Return this reward held within bounds; None leaves a side open."""
        return Reward(self.reward.clip(low, high))

    def __add__(self, other: Any) -> Reward:
        return Reward(self.reward + _term(other))

    def __radd__(self, other: Any) -> Reward:
        return Reward(_term(other) + self.reward)

    def __sub__(self, other: Any) -> Reward:
        return Reward(self.reward - _term(other))

    def __rsub__(self, other: Any) -> Reward:
        return Reward(_term(other) - self.reward)

    def __mul__(self, factor: float) -> Reward:
        return Reward(self.reward * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Reward:
        return Reward(-self.reward)

    def __repr__(self) -> str:
        return f"Reward({self.reward!r})"

    def _results(self, inputs: Sequence[Mapping[str, Any]]) -> list[Result]:
        return [self._result(score) for score in self.reward.score([_candidate(given) for given in inputs])]

    async def _aresults(self, inputs: Sequence[Mapping[str, Any]]) -> list[Result]:
        scores = await self.reward.ascore([_candidate(given) for given in inputs])
        return [self._result(score) for score in scores]

    def _result(self, score: Score) -> Result:
        return {
            "key": self.reward.name,
            "score": score.value if score.usable else None,
            "comment": score.comment,
            "metadata": {"parts": dict(score.parts), "vetoed": score.vetoed, "error": score.error},
        }


def minimum(*sources: Any) -> Reward:
    """Return the least of some rewards."""
    return Reward(algebra.minimum(*map(as_reward, sources)))


def product(*sources: Any) -> Reward:
    """Return the product of some rewards."""
    return Reward(algebra.product(*map(as_reward, sources)))


def veto(source: Any, below: float | None = None) -> Reward:
    """Return a gate: what scores below a bound is never returned."""
    return Reward(algebra.veto(as_reward(source), below))


def when(condition: Any, source: Any) -> Reward:
    """Return a reward that counts only where another is above 0."""
    return Reward(algebra.when(as_reward(condition), as_reward(source)))


def normalize(source: Any) -> Reward:
    """Return a reward in units of its spread over a request's first round."""
    return Reward(algebra.normalize(as_reward(source)))


def _term(other: Any) -> Any:
    """Return what the algebra adds: a number as it is, anything else as a reward."""
    return other if isinstance(other, int | float) and not isinstance(other, bool) else as_reward(other)


def _candidate(given: Mapping[str, Any]) -> Candidate:
    if not isinstance(given, Mapping) or "outputs" not in given:
        raise ConfigurationError(f'a reward got {given!r}; expected {{"inputs": ..., "outputs": ...}}')
    unknown = sorted(given.keys() - _INPUT)
    if unknown:
        raise ConfigurationError(f"a reward got {', '.join(unknown)}; expected {', '.join(sorted(_INPUT))}")
    return candidate_of(given.get("inputs"), given["outputs"], given.get("reference_outputs"))


def _refuse(kwargs: Mapping[str, Any]) -> None:
    if kwargs:
        raise ConfigurationError(f"a reward takes no {', '.join(kwargs)}")
