"""The one place that makes a request of messages, and a search of the request. Every front door is built on it.

Service(engine, rewards, settings).run(messages, **call) -> Run
    for event in run: ...       responses scored, steps of the search, text that stays
    run.alignment, run.text     what was found, once it is over; asking for it runs the search to its end
    run.close()                 ends it early

Service(...).arun(messages, **call) -> AsyncRun       the same for callers on an event loop
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from aisp import engines
from aisp.call import Call, make_aligner, make_request, read_messages
from aisp.engines.base import Engine, Progress
from aisp.errors import ConfigurationError, EngineError
from aisp.forms import make_form
from aisp.invalid import explain_unknown
from aisp.models import DEFAULT_MODEL
from aisp.models.codec import ChatCodec
from aisp.records import Message
from aisp.rewards import Preferences, Reward
from aisp.rewards.base import check_reward
from aisp.search.blocks import next_block
from aisp.search.checks import check_commits, check_needs
from aisp.search.events import Event, SearchEnded, TextCommitted
from aisp.search.loop import Search
from aisp.search.trace import Alignment
from aisp.settings import SearchSettings, override
from aisp.threads import iterate_in_thread

SETTINGS = frozenset(SearchSettings.model_fields)
FORM_OPTIONS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "response_format", "explore_calls"})
OTHER_OPTIONS = frozenset({"engine", "rewards", "preferences", "reference", "template_kwargs"})
CALL_OPTIONS = SETTINGS | FORM_OPTIONS | OTHER_OPTIONS
"""What may be given to a call, over what the service was built with."""


class Service:
    """Answers requests with the responses that rewards like best.

    Building one loads nothing: a model is loaded by the first call, and shared by every service that names it.

    Args:
        engine: What draws responses: a model's name (embedded, hub id, checkpoint folder or GGUF file), a
            `LoadedModel`, a transformers model with its tokenizer as a tuple, or an `Engine`.
        rewards: What scores; None draws one plain sample.
        settings: How to search.
        dtype: Of the weights of a model that is named; None takes bfloat16 where the device is fast at it.
        device: Of a model that is named; None takes CUDA, else MPS, else the CPU.
        template_kwargs: Variables of the chat template.
        explore_calls: See `aisp.forms.Form.explore`.
    """

    def __init__(
        self,
        engine: Any = DEFAULT_MODEL,
        rewards: Reward | None = None,
        settings: SearchSettings | None = None,
        *,
        dtype: Any = None,
        device: Any = None,
        template_kwargs: Mapping[str, Any] | None = None,
        explore_calls: bool = False,
    ) -> None:
        self._source = engine
        self._rewards = None if rewards is None else check_reward(rewards)
        self._settings = settings or SearchSettings()
        self._placed = {"dtype": dtype, "device": device}
        self._template = dict(template_kwargs or {})
        self._explore_calls = explore_calls

    @property
    def engine(self) -> Engine:
        """The engine; the first look loads the model."""
        return self._engine_of(self._source)

    @property
    def codec(self) -> ChatCodec:
        """The model's tokenizer and chat template; the first look loads the model."""
        return self.engine.codec

    def check(self) -> None:
        """Raise what is wrong with the settings, as far as it can be seen before a model is loaded.

        Raises:
            ConfigurationError: Settings that contradict each other, or that the reward or the engine can't serve.
        """
        settings, rewards = self._settings, self._rewards
        plan = settings.make_plan(rewarded=rewards is not None)
        strategy = settings.make_strategy(rewarded=rewards is not None)
        check_commits(settings.commit_tokens, rewards)
        if rewards is not None:  # else a call may bring some, and what they need differs
            rewards.check()
            tokens = settings.make_limits().max_tokens
            block = next_block(plan, 0, settings.commit_tokens, tokens, None, None)
            strategy.init(
                block.context(
                    root_seed=0,
                    num_samples=plan.num_samples,
                    max_tokens=tokens,
                    partial=rewards.partial,
                    kl_budget=settings.kl_budget,
                )
            )
        if isinstance(self._source, Engine):
            check_needs(strategy, self._source)

    def read(self, call: Mapping[str, Any]) -> Call:
        """Return a call's options put over the service's own.

        Raises:
            ConfigurationError: An unknown name, or a value out of range.
        """
        unknown = {name: value for name, value in call.items() if name not in CALL_OPTIONS}
        if unknown:
            raise ConfigurationError(f"a call got {', '.join(unknown)}: {explain_unknown(unknown, CALL_OPTIONS)}")
        reward = call.get("rewards", self._rewards)
        reward = None if reward is None else check_reward(reward)
        if call.get("preferences") is not None:
            reward = Preferences.of(call["preferences"]).apply(reward)
        source = call.get("engine")
        return Call(
            settings=override(self._settings, call),
            reward=reward,
            engine=self._source if source is None else source,
            reference=call.get("reference"),
            template={**self._template, **(call.get("template_kwargs") or {})},
            form=make_form(
                tuple(call.get("tools") or ()),
                tool_choice=call.get("tool_choice"),
                parallel_tool_calls=call.get("parallel_tool_calls"),
                response_format=call.get("response_format"),
                explore_calls=bool(call.get("explore_calls", self._explore_calls)),
            ),
        )

    def run(
        self,
        messages: str | Sequence[Message],
        *,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        **call: Any,
    ) -> Run:
        """Make a request of messages, and return the search for its answer.

        Nothing is drawn before the run is iterated, or its alignment asked for.

        Args:
            messages: The user's text, or OpenAI-style messages.
            progress: Called between decode steps with the number of new tokens.
            cancel: Ends the search once it is set.
            **call: Any of `CALL_OPTIONS`.

        Raises:
            ConfigurationError: An unknown option, or options that contradict each other.
            ModelNotFoundError: There is no such model.
            PromptError: The template can't hold the messages.
        """
        asked = self.read(call)
        if asked.reward is not None:
            asked.reward.check()
        engine = self._engine_of(asked.engine)
        cancel = cancel or threading.Event()
        request = make_request(engine.codec, messages, asked, cancel)
        return Run(make_aligner(engine, asked).search(request, progress), cancel)

    def arun(self, messages: str | Sequence[Message], *, progress: Progress | None = None, **call: Any) -> AsyncRun:
        """Return the search for an answer, for a caller on an event loop. See `run`.

        Nothing happens before it is iterated or its alignment is awaited; all of it happens on a thread of its own.
        """
        return AsyncRun(lambda cancel: self.run(messages, progress=progress, cancel=cancel, **call))

    def encode(
        self, messages: str | Sequence[Message], tools: Sequence[Any] = (), template: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Return the prompt's tokens."""
        form = make_form(tuple(tools))
        return form.encode(self.codec, read_messages(messages), {**self._template, **(template or {})})

    def _engine_of(self, source: Any) -> Engine:
        placed = self._placed if isinstance(source, str) else {}
        return engines.engine_for(source, **placed)


class Run:
    """One request's search under way. Iterating it runs it. Used by one thread at a time.

    Args:
        search: The search.
        cancel: Ends it once it is set.
    """

    def __init__(self, search: Search, cancel: threading.Event) -> None:
        self._events = search.events()
        self._cancel = cancel
        self._alignment: Alignment | None = None

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = next(self._events)
        if isinstance(event, SearchEnded):
            self._alignment = event.alignment
            raise StopIteration
        return event

    @property
    def alignment(self) -> Alignment:
        """What was found and what it cost; runs the search to its end.

        Raises:
            EngineError: The search was closed before its end, or has failed before.
            RewardError: As `Search.events`, as are the other errors of a search.
        """
        for _ in self:
            pass
        if self._alignment is None:
            raise EngineError("the search ended without an answer: it was closed, or failed before; start another run")
        return self._alignment

    @property
    def text(self) -> str:
        """The answer's text; runs the search to its end."""
        return self.alignment.text

    def texts(self) -> Iterator[str]:
        """Yield the answer's text in pieces, as it is settled."""
        return (event.text for event in self if isinstance(event, TextCommitted))

    def close(self) -> None:
        """End the search, where it has not ended; closing again does nothing. Another thread may do so."""
        if self._alignment is None:
            self._cancel.set()
        close = getattr(self._events, "close", None)
        if close is not None:
            with suppress(ValueError):  # a thread is iterating: it sees the event
                close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncRun:
    """One request's search under way, for a caller on an event loop. Cancelling the caller's task ends it.

    Args:
        start: Makes the run, on the search's own thread; is given the event that ends it.
    """

    def __init__(self, start: Any) -> None:
        ends = self._ends = list[threading.Event]()

        def begin(cancel: threading.Event) -> Iterator[Event | SearchEnded]:
            ends.append(cancel)
            return _with_end(start(cancel))

        self._items = iterate_in_thread(begin)
        self._alignment: Alignment | None = None

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await anext(self._items)
        if isinstance(event, SearchEnded):
            self._alignment = event.alignment
            await self.aclose()
            raise StopAsyncIteration
        return event

    async def alignment(self) -> Alignment:
        """Return what was found and what it cost, once the search has ended. See `Run.alignment`."""
        async for _ in self:
            pass
        if self._alignment is None:
            raise EngineError("the search ended without an answer: it was closed, or failed before; start another run")
        return self._alignment

    async def text(self) -> str:
        """Return the answer's text, once the search has ended."""
        return (await self.alignment()).text

    async def texts(self) -> AsyncIterator[str]:
        """Yield the answer's text in pieces, as it is settled."""
        async for event in self:
            if isinstance(event, TextCommitted):
                yield event.text

    async def aclose(self) -> None:
        """End the search, where it has not ended; closing again does nothing. Another task may do so."""
        for cancel in self._ends:
            cancel.set()
        if not getattr(self._items, "ag_running", False):
            await self._items.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _with_end(run: Run) -> Iterator[Event | SearchEnded]:
    with run:
        yield from run
        yield SearchEnded(run.alignment)
