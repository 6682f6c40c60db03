"""A reward from a plain function, whose arguments are bound by name."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.rewards.base import Reward, Verdict
from aisp.rewards.scope import stop_if_given_up
from aisp.rewards.scorer import is_own_failure, is_tasks_own_failure

Binders = Mapping[str, Callable[[Candidate], Any]]

BINDERS: Binders = {
    "text": lambda candidate: candidate.text,
    "prompt": lambda candidate: last_user_text(candidate),
    "messages": lambda candidate: candidate.messages,
    "tool_calls": lambda candidate: candidate.tool_calls,
    "structure": lambda candidate: candidate.structure,
    "reasoning": lambda candidate: candidate.reasoning,
    "reference": lambda candidate: candidate.reference,
    "candidate": lambda candidate: candidate,
}
"""What a function's parameters may be called, and what each is given."""


class FunctionReward(Reward):
    """Scores with a function of one candidate, sync or async.

    Args:
        function: Takes any of `text`, `prompt` (the last user message), `messages`, `tool_calls`, `structure`,
            `reasoning`, `reference` and `candidate` by name; a single parameter of any other name is given the text.
            Returns a number, a bool, or a `Score`.
        name: The function's name by default.
        binders: What parameters may be called, and what each is given.
        version: Of what the function does, to share cache entries between processes. Without it, no two objects share
            any.

    Raises:
        ConfigurationError: A parameter that nothing can be given to.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        binders: Binders = BINDERS,
        version: str | None = None,
        **options: Any,
    ) -> None:
        own = getattr(function, "__name__", type(function).__name__)
        super().__init__(name=name or ("function" if own == "<lambda>" else own), **options)
        self.function = function
        self._bound = bind(function, binders)
        self._by_place = len(self._bound) == 1 and not _takes_names(function)
        self._version = version or uuid.uuid4().hex

    def config(self) -> Mapping[str, Any]:
        return {"function": getattr(self.function, "__qualname__", repr(self.function)), "version": self._version}

    @property
    def is_async(self) -> bool:
        return is_async(self.function)

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        return [self._tried(candidate) for candidate in candidates]

    async def _ascore(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        return list(await asyncio.gather(*(self._atried(candidate) for candidate in candidates)))

    # What fails is named here, where it is known which candidate it was.
    def _tried(self, candidate: Candidate) -> Verdict:
        stop_if_given_up()
        try:
            return self._call(candidate)  # type: ignore[no-any-return]
        except BaseException as error:
            if not is_own_failure(error):
                raise
            return self._failed(candidate, error)

    async def _atried(self, candidate: Candidate) -> Verdict:
        try:
            return await self._call(candidate)  # type: ignore[no-any-return]
        except BaseException as error:
            if not is_tasks_own_failure(error):
                raise
            return self._failed(candidate, error)

    def _call(self, candidate: Candidate) -> Any:
        given = {name: give(candidate) for name, give in self._bound.items()}
        return self.function(*given.values()) if self._by_place else self.function(**given)


class BatchReward(Reward):
    """Scores with a function of all candidates at once, sync or async.

    Args:
        function: Takes a sequence of candidates, and returns a number for each.
        version: See `FunctionReward`.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Candidate]], Any],
        *,
        version: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.function = function
        self._version = version or uuid.uuid4().hex

    def config(self) -> Mapping[str, Any]:
        return {"version": self._version}

    @property
    def is_async(self) -> bool:
        return is_async(self.function)

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        verdicts: Sequence[Verdict] = self.function(candidates)
        return verdicts

    async def _ascore(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        verdicts: Sequence[Verdict] = await self.function(candidates)
        return verdicts


def bind(function: Callable[..., Any], binders: Binders) -> dict[str, Callable[[Candidate], Any]]:
    """Return what each parameter of a function is to be given.

    Raises:
        ConfigurationError: A required parameter that nothing can be given to, or no parameter that can be given
            anything.
    """
    if not callable(function):
        raise ConfigurationError(f"{function!r} is not a function; expected a callable with parameters by name")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the parameters of {function!r} can't be read: {error}; wrap it in a function"
        ) from error
    named = [
        parameter for parameter in parameters if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    bound = {parameter.name: binders[parameter.name] for parameter in named if parameter.name in binders}
    required = [
        parameter.name for parameter in named if parameter.default is parameter.empty and parameter.name not in bound
    ]
    if len(required) == 1 and not bound and "text" in binders:
        return {required[0]: binders["text"]}
    if required or not bound:
        what = ", ".join(required) or "no parameter of a known name"
        raise ConfigurationError(
            f"a reward function has {what}, which nothing can be given to; "
            f"its parameters may be called {', '.join(binders)}"
        )
    return bound


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether a function, or an object's own `__call__`, must be awaited."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _takes_names(function: Callable[..., Any]) -> bool:
    """Return whether arguments may be given by name; those of many built-in functions may not."""
    return all(
        parameter.kind is not parameter.POSITIONAL_ONLY for parameter in inspect.signature(function).parameters.values()
    )


def last_user_text(candidate: Candidate) -> str:
    """Return the text of the last user message, "" where there is none."""
    for message in reversed(candidate.messages):
        if message.get("role") == "user":
            content = message.get("content") or ""
            return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)
    return ""
