"""Makes a reward of whatever can be one: a reward, a function, a Runnable, or several of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.runnables import Runnable

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards.algebra import Sum
from aisp.rewards.base import Reward, Verdict
from aisp.rewards.function import BINDERS, Binders, FunctionReward

LANGCHAIN_BINDERS: Binders = {
    **BINDERS,
    "inputs": lambda candidate: inputs_of(candidate),
    "outputs": lambda candidate: outputs_of(candidate),
    "reference_outputs": lambda candidate: candidate.reference,
}
"""What a reward function's parameters may be called here: those of `aisp`, and LangChain's evaluators' names."""


def as_reward(source: Any, *, name: str | None = None) -> Reward:
    """Return a reward.

    Args:
        source: A reward of `aisp`; a function, sync or async, with any of `outputs` (an AIMessage), `inputs` (the prompt's
            messages) and `reference_outputs` as parameters, or those of `aisp.rewards.FunctionReward`; a Runnable that
            takes a mapping of those three; a mapping of names to any of these, or a sequence of them: their sum.
        name: Of the part in traces.

    Raises:
        ConfigurationError: What can't be made a reward.
    """
    if isinstance(source, Reward):
        return source
    if isinstance(source, Mapping):
        if not source:
            raise ConfigurationError("rewards is an empty mapping; give at least one reward, or None")
        return Sum(*(as_reward(part, name=key) for key, part in source.items()))
    if isinstance(source, Runnable):
        return RunnableReward(source, name=name)
    if isinstance(source, Sequence) and not isinstance(source, str) and source:
        return Sum(*(as_reward(part) for part in source))
    if callable(source):
        return FunctionReward(_readable(source), name=name, binders=LANGCHAIN_BINDERS)
    raise ConfigurationError(
        f"rewards is {source!r}; expected a reward of aisp.rewards, a function of `outputs`, a Runnable, or a mapping of "
        "names to these"
    )


class RunnableReward(Reward):
    """Scores with a Runnable that takes `{"inputs", "outputs", "reference_outputs"}`.

    Its result may be a number, a bool, or a mapping with a `score` (and a `comment`), as openevals and LangSmith
    have it. Candidates are given to `batch`, so that they run side by side.

    Args:
        runnable: What scores.
        version: Of what it does, to share cache entries between processes. Without it, no two objects share any.
    """

    def __init__(self, runnable: Runnable[Any, Any], *, name: str | None = None, version: str | None = None, **options: Any) -> None:
        own = (name or getattr(runnable, "name", None) or type(runnable).__name__).replace(".", "_")
        super().__init__(name=own, **options)
        self.runnable = runnable
        self._version = version or uuid.uuid4().hex

    def config(self) -> Mapping[str, Any]:
        return {"runnable": type(self.runnable).__qualname__, "version": self._version}

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        payloads = [
            {"inputs": inputs_of(candidate), "outputs": outputs_of(candidate), "reference_outputs": candidate.reference}
            for candidate in candidates
        ]
        # No callbacks: what a judge says is none of the user's stream.
        return [to_verdict(result) for result in self.runnable.batch(payloads, config={"callbacks": []})]


def to_verdict(result: Any) -> Verdict:
    """Return a verdict from what evaluators return: a number, or a mapping or object with `score` and `comment`."""
    if isinstance(result, Mapping):
        if "score" not in result:
            raise ConfigurationError(f"a reward returned a mapping of {', '.join(map(str, result)) or 'nothing'}; expected a score")
        score, comment = result["score"], result.get("comment")
    elif not isinstance(result, Score) and hasattr(result, "score"):
        score, comment = result.score, getattr(result, "comment", None)
    else:
        return result  # type: ignore[no-any-return]
    return score if comment is None or score is None else Score(value=float(score), comment=str(comment))


def inputs_of(candidate: Candidate) -> list[BaseMessage]:
    """Return the prompt's messages."""
    return list(convert_to_messages([dict(message) for message in candidate.messages]))


def outputs_of(candidate: Candidate) -> AIMessage:
    """Return the response as a message."""
    calls = [{**call, "type": "tool_call"} for call in candidate.tool_calls]
    return AIMessage(content=candidate.text, tool_calls=calls)


def _readable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that what it returns is read as an evaluator's result."""
    import functools
    import inspect

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return to_verdict(await function(*args, **kwargs))

        return awaited

    def called(*args: Any, **kwargs: Any) -> Any:
        return to_verdict(function(*args, **kwargs))

    try:
        return functools.wraps(function)(called)
    except AttributeError:
        return function
