"""What a search tells the callbacks of the call that it serves.

After each round a custom event, `ROUND_EVENT`, goes to the handlers (`astream_events` shows it as `on_custom_event`).
The runs of rewards are kept from them, or are children of the call's run where that is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, get_callback_manager_for_config

from aisp.trace import Round

ROUND_EVENT = "aisp_round"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """Who listens to a call.

    Args:
        handlers: The callback handlers.
        run_id: Of the call's run, or of the run that it is part of.
        loop: Where they are to be called, for calls from an event loop.
    """

    handlers: list[BaseCallbackHandler]
    run_id: UUID | None
    loop: asyncio.AbstractEventLoop | None

    def round_teller(self) -> Callable[[Round], None] | None:
        """Return what is to be called after each round; None where nobody listens, or there is no run to speak of."""
        return self._tell if self.handlers and self.run_id is not None else None

    def _tell(self, round_: Round) -> None:
        data = {"round": round_.index, **round_.to_dict()}
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


def audience_of(run_manager: Any, loop: asyncio.AbstractEventLoop | None = None) -> Audience:
    """Return who listens: to the run, or where core gives none (it doesn't to streams), to the chain around it.

    Args:
        run_manager: Of the call, where there is one.
        loop: The event loop of an async call.
    """
    if run_manager is not None:
        return Audience(handlers=list(run_manager.handlers), run_id=run_manager.run_id, loop=loop)
    manager = get_callback_manager_for_config(ensure_config())
    return Audience(handlers=list(manager.handlers), run_id=manager.parent_run_id, loop=loop)
