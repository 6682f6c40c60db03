"""What a search tells the callbacks of the call that it serves.

After each round a custom event, `ROUND_EVENT`, goes to the handlers (`astream_events` shows it as `on_custom_event`)
and into the custom stream of a LangGraph graph (`stream_mode="custom"`, as `{ROUND_EVENT: {...}}`). The runs of rewards
are kept from the handlers, or are children of the call's run where that is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, CallbackManager, Callbacks
from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, get_callback_manager_for_config, merge_configs

from aisp.search.trace import Round

ROUND_EVENT = "aisp_round"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSink:
    """Who listens to a call.

    Args:
        handlers: The callback handlers.
        run_id: Of the call's run, or of the run that it is part of.
        loop: Where they are to be called, for calls from an event loop.
        graph: Writes into the custom stream of the graph that the call is made in; None outside of graphs.
    """

    handlers: list[BaseCallbackHandler]
    run_id: UUID | None
    loop: asyncio.AbstractEventLoop | None
    graph: Callable[[Any], None] | None = None

    def round_teller(self) -> Callable[[Round], None] | None:
        """Return what is to be called after each round; None where nobody listens, or there is no run to speak of."""
        return self._tell if self._heard or self.graph is not None else None

    @property
    def _heard(self) -> bool:
        return bool(self.handlers) and self.run_id is not None

    def _tell(self, round_: Round) -> None:
        data = {"round": round_.index, **round_.to_dict()}
        if self.graph is not None:
            self.graph({ROUND_EVENT: data})
        if not self._heard:
            return
        common: tuple[Any, ...] = (self.handlers, "on_custom_event", "ignore_custom_event", ROUND_EVENT, data)
        options: dict[str, Any] = {"run_id": self.run_id, "tags": [], "metadata": {}}
        if self.loop is None:
            handle_event(*common, **options)
        else:  # the search is on a thread of its own
            asyncio.run_coroutine_threadsafe(ahandle_event(*common, **options), self.loop)

    def config_of_rewards(self, *, traced: bool) -> RunnableConfig:
        """Return the configuration that rewards run with: without callbacks, unless they are to be traced.

        Even then LangGraph is told not to stream them.
        """
        if not traced or self.run_id is None:
            return {"callbacks": []}
        manager = CallbackManager(handlers=[], parent_run_id=self.run_id)
        manager.set_handlers(self.handlers)
        return {"callbacks": manager, "tags": ["nostream"]}


@dataclass(slots=True, kw_only=True)
class _Run:
    """A streamed call's own run, which core doesn't tell the model of."""

    given: Callbacks
    own: Callbacks
    run_id: UUID | None = None

    def handlers(self) -> list[BaseCallbackHandler]:
        manager = CallbackManager.configure(self.given, self.own)
        return [handler for handler in manager.handlers if not isinstance(handler, _RunIdCatcher)]


_streamed: contextvars.ContextVar[_Run | None] = contextvars.ContextVar("aisp_streamed", default=None)


class _RunIdCatcher(BaseCallbackHandler):
    """Hears which run a streamed call is."""

    run_inline = True

    def __init__(self, run: _Run) -> None:
        self._run = run

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        if self._run.run_id is None:
            self._run.run_id = run_id


def with_run_id(
    stream: Callable[[RunnableConfig], Iterator[T]], config: RunnableConfig | None, own: Callbacks
) -> Generator[T, None, None]:
    """Stream, with the run known to `event_sink_of`.

    Args:
        stream: Core's own, given a configuration.
        config: The caller's.
        own: The model's own callbacks.
    """
    run, config = _with_catcher(config, own)
    with closing(stream(config)) as chunks:  # type: ignore[type-var] # core's is a generator
        while True:
            token = _streamed.set(run)
            try:
                chunk = next(chunks)
            except StopIteration:
                return
            finally:
                _streamed.reset(token)
            yield chunk


async def awith_run_id(
    stream: Callable[[RunnableConfig], AsyncIterator[T]], config: RunnableConfig | None, own: Callbacks
) -> AsyncGenerator[T, None]:
    """Stream on an event loop. See `with_run_id`."""
    run, config = _with_catcher(config, own)
    async with aclosing(stream(config)) as chunks:  # type: ignore[type-var] # core's is a generator
        while True:
            token = _streamed.set(run)
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            finally:
                _streamed.reset(token)
            yield chunk


def _with_catcher(config: RunnableConfig | None, own: Callbacks) -> tuple[_Run, RunnableConfig]:
    config = ensure_config(config)
    run = _Run(given=config.get("callbacks"), own=own)
    return run, merge_configs(config, {"callbacks": [_RunIdCatcher(run)]})


def event_sink_of(run_manager: Any, loop: asyncio.AbstractEventLoop | None = None) -> EventSink:
    """Return who listens: to the run, or where nobody knows of one, to the chain around it.

    Args:
        run_manager: Of the call, where there is one.
        loop: The event loop of an async call.
    """
    graph = _graph_writer()
    if run_manager is not None:
        return EventSink(handlers=list(run_manager.handlers), run_id=run_manager.run_id, loop=loop, graph=graph)
    run = _streamed.get()
    if run is not None and run.run_id is not None:
        return EventSink(handlers=run.handlers(), run_id=run.run_id, loop=loop, graph=graph)
    manager = get_callback_manager_for_config(ensure_config())
    return EventSink(handlers=list(manager.handlers), run_id=manager.parent_run_id, loop=loop, graph=graph)


def _graph_writer() -> Callable[[Any], None] | None:
    """Return what writes into the custom stream of the graph around, from any thread."""
    if "langgraph" not in sys.modules:  # then there is no graph, and nothing to import it for
        return None
    from langgraph.config import get_stream_writer

    with contextlib.suppress(RuntimeError, KeyError):  # outside of a graph
        writer, context = get_stream_writer(), contextvars.copy_context()
        return lambda data: context.run(writer, data)
    return None
