"""Makes a reward of whatever can be one: a reward, a function, a Runnable, or several of them."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableLambda, RunnableSequence
from langchain_core.runnables.base import RunnableParallel

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Message, Score
from aisp.rewards.algebra import Sum
from aisp.rewards.base import Reward, Verdict
from aisp.rewards.function import BINDERS, Binders, FunctionReward
from aisp.rewards.loop import run

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
        source: A reward of `aisp`; a function, sync or async, with any of `outputs` (an AIMessage), `inputs` (the
            prompt's messages) and `reference_outputs` as parameters, or those of `aisp.rewards.FunctionReward`; a
            Runnable that takes a mapping of those three; a mapping of names to any of these, or a sequence of them:
            their sum.
        name: Of the part in traces.

    Raises:
        ConfigurationError: What can't be made a reward.
    """
    if isinstance(source, Reward):
        return source if name is None else _renamed(source, name)
    if isinstance(source, Mapping):
        if not source:
            raise ConfigurationError("rewards is an empty mapping; give at least one reward, or None")
        return Sum(*(as_reward(part, name=key) for key, part in source.items()))
    if isinstance(source, BaseLanguageModel):
        raise ConfigurationError(
            f"rewards is the language model {type(source).__name__}, which says something and scores nothing; build a "
            "judge of it: a function, or a chain of a prompt, the model and a parser, that returns a number"
        )
    if isinstance(source, Runnable):
        return RunnableReward(source, name=name)
    if isinstance(source, Sequence) and not isinstance(source, str) and source:
        return Sum(*(as_reward(part) for part in source))
    if callable(source):
        return FunctionReward(_readable(source), name=name, binders=LANGCHAIN_BINDERS)
    raise ConfigurationError(
        f"rewards is {source!r}; expected a reward of aisp.rewards, a function of `outputs`, a Runnable, or a "
        "mapping of names to these"
    )


class RunnableReward(Reward):
    """Scores with a Runnable that takes `{"inputs", "outputs", "reference_outputs"}`.

    Its result may be a number, a bool, or a mapping with a `score` (and a `comment`), as openevals and LangSmith
    have it. Candidates are given to `batch`, so that they run side by side.

    Args:
        runnable: What scores.
        max_concurrency: Candidates that it is given at once; None leaves that to LangChain.
        version: Of what it does, to share cache entries between processes. Without it, no two objects share any.
    """

    def __init__(
        self,
        runnable: Runnable[Any, Any],
        *,
        name: str | None = None,
        version: str | None = None,
        max_concurrency: int | None = None,
        **options: Any,
    ) -> None:
        own = (name or getattr(runnable, "name", None) or type(runnable).__name__).replace(".", "_")
        super().__init__(name=own, **options)
        self.runnable = runnable
        self.max_concurrency = max_concurrency
        self._version = version or uuid.uuid4().hex

    def config(self) -> Mapping[str, Any]:
        return {"runnable": type(self.runnable).__qualname__, "version": self._version}

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        payloads = [payload_of(candidate) for candidate in candidates]
        if async_only(self.runnable):
            results = run(self.runnable.abatch(payloads, config=self._config()))
        else:  # on threads of its own, which it can't run out of, however deep judges are nested
            results = self.runnable.batch(payloads, config=self._config())
        return [to_verdict(result) for result in results]

    def _config(self) -> RunnableConfig:
        return {"max_concurrency": self.max_concurrency}


def async_only(runnable: Runnable[Any, Any]) -> bool:
    """Return whether a Runnable has a part that can only be awaited."""
    if isinstance(runnable, RunnableLambda):
        return not hasattr(runnable, "func")
    if isinstance(runnable, RunnableSequence):
        return any(async_only(step) for step in runnable.steps)
    if isinstance(runnable, RunnableParallel):
        return any(async_only(step) for step in runnable.steps__.values())
    return isinstance(runnable, RunnableBinding) and async_only(runnable.bound)


def to_verdict(result: Any) -> Verdict:
    """Return a verdict from what evaluators return: a number, or a mapping or object with `score` and `comment`."""
    if isinstance(result, Mapping):
        if "score" not in result:
            raise ConfigurationError(
                f"a reward returned a mapping of {', '.join(map(str, result)) or 'nothing'}; expected a score"
            )
        score, comment = result["score"], result.get("comment")
    elif not isinstance(result, Score) and hasattr(result, "score"):
        score, comment = result.score, getattr(result, "comment", None)
    else:
        return result  # type: ignore[no-any-return]
    return score if comment is None or score is None else Score(value=float(score), comment=str(comment))


def payload_of(candidate: Candidate) -> dict[str, Any]:
    """Return what a Runnable that scores is given."""
    return {
        "inputs": inputs_of(candidate),
        "outputs": outputs_of(candidate),
        "reference_outputs": candidate.reference,
    }


def inputs_of(candidate: Candidate) -> list[BaseMessage]:
    """Return the prompt's messages."""
    return list(convert_to_messages([_with_json_arguments(message) for message in candidate.messages]))


def outputs_of(candidate: Candidate) -> AIMessage:
    """Return the response as a message."""
    calls = [{**call, "type": "tool_call"} for call in candidate.tool_calls]
    invalid = [{**call, "type": "invalid_tool_call"} for call in candidate.invalid_tool_calls]
    return AIMessage(content=candidate.text, tool_calls=calls, invalid_tool_calls=invalid)


def _renamed(reward: Reward, name: str) -> Reward:
    clone = copy.copy(reward)
    clone.name = name
    return clone


def _with_json_arguments(message: Message) -> dict[str, Any]:
    """Write the arguments of tool calls as JSON again, which LangChain reads."""
    calls = [
        {**call, "function": {**call["function"], "arguments": _json(call["function"]["arguments"])}}
        for call in message.get("tool_calls") or ()
    ]
    return {**message, "tool_calls": calls} if calls else dict(message)


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _readable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that what it returns is read as an evaluator's result."""
    called = getattr(function, "__call__", None)  # noqa: B004 - an object's own, which may be async
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return to_verdict(await function(*args, **kwargs))

        return awaited

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return to_verdict(function(*args, **kwargs))

    return plain
