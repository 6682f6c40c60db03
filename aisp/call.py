"""One call: its options, the request that they make of messages, and what its search is made of."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aisp import models
from aisp.engines.base import Engine
from aisp.errors import ConfigurationError
from aisp.forms import Form
from aisp.forms.room import check_room
from aisp.forms.templates import opens_reasoning
from aisp.models import LoadedModel
from aisp.models.codec import ChatCodec
from aisp.records import Message
from aisp.rewards import Reward
from aisp.search.loop import Aligner
from aisp.search.request import Request
from aisp.settings import SearchSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call's options.

    Args:
        settings: How to search.
        reward: What scores; None draws one plain sample.
        engine: What draws, as `Service` takes it.
        reference: What rewards are given as `reference`.
        template: Variables of the chat template, as `enable_thinking`.
        form: Tools and formats that the answer is held to.
    """

    settings: SearchSettings
    reward: Reward | None
    engine: Any
    reference: Any
    template: Mapping[str, Any]
    form: Form


def make_aligner(engine: Engine, call: Call) -> Aligner:
    """Return what a call's search is made of.

    Raises:
        ConfigurationError: Settings that contradict each other, or that the reward or the engine can't serve.
    """
    settings, rewarded = call.settings, call.reward is not None
    return Aligner(
        engine,
        settings.make_strategy(rewarded=rewarded),
        call.reward,
        settings.make_plan(rewarded=rewarded, width=engine.width),
        parse=call.form.parse,
        settle=call.form.settle,
        stops=settings.make_stops(),
        kl_budget=settings.kl_budget,
        guarded=settings.guard is not None,
        commit_tokens=settings.commit_tokens,
    )


def make_request(
    codec: ChatCodec, messages: str | Sequence[Message], call: Call, cancel: threading.Event | None = None
) -> Request:
    """Return what a search is asked for: messages as tokens, and what decoding is held to.

    The clock of a `timeout` starts now.

    Raises:
        PromptError: The template can't hold the messages.
        ConfigurationError: Tools and a format that can't be had together, a schema that can't be compiled, or one whose
            shortest answer has more tokens than an answer may have.
    """
    form, limits = call.form, call.settings.make_limits(cancel=cancel)
    grammar, explored = form.grammar(codec), form.explored(codec)
    check_room(codec, (grammar, explored), limits.max_tokens)
    asked = read_messages(messages)
    prompt_tokens = form.encode(codec, asked, call.template)
    return Request(
        messages=asked,
        prompt_tokens=prompt_tokens,
        limits=limits,
        seed=call.settings.seed,
        reference=call.reference,
        grammar=grammar,
        reasoning=opens_reasoning(codec, prompt_tokens),
        explored=explored,
    )


def read_messages(messages: str | Sequence[Message]) -> list[dict[str, Any]]:
    """Return a prompt as messages: a text is the user's."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return [dict(message) for message in messages]


def hold_model(source: Any) -> Any:
    """Return what stands for a model, with a (model, tokenizer) tuple loaded once.

    Engines are shared by what wraps the two, so somebody who calls again has to hold it.

    Raises:
        ConfigurationError: A tuple of another length.
    """
    if not isinstance(source, tuple):
        return source
    if len(source) != 2:
        raise ConfigurationError(f"model is a tuple of {len(source)}; expected (model, tokenizer)")
    loaded: LoadedModel = models.load(source[0], tokenizer=source[1])
    return loaded


def model_name(source: Any) -> str:
    """Return what a model is called in messages and traces."""
    if isinstance(source, str):
        return source
    named = source.codec if isinstance(source, Engine) else source
    return str(getattr(named, "name", type(source).__name__))
