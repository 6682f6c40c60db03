"""Engines over tiny models, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from aisp.engines.base import Engine, Finished, Flight
from aisp.engines.transformers.engine import TransformersEngine
from aisp.models.codec import ChatCodec
from aisp.models.loaded import wrap
from aisp.records import Rollout
from aisp.testing import FakeEngine, tiny_tokenizer


def codec_of(model: Any, eos: Sequence[int] = (2,)) -> ChatCodec:
    """The tiny tokenizer's codec, with the tokens that end a response."""
    return replace(wrap("tiny", model, tiny_tokenizer()).codec, eos_token_ids=tuple(eos))


def engine_of(model: Any, eos: Sequence[int] = (2,), **options: Any) -> TransformersEngine:
    """An engine; without `eos` its responses never end by themselves."""
    return TransformersEngine(model, codec_of(model, eos), **options)


def canned(text: str) -> FakeEngine:
    """An engine that says one thing: the registry finds it by its place."""
    return FakeEngine([text])


class ChangedFlight(Flight):
    """Hands out another flight's rollouts, changed."""

    def __init__(self, flight: Flight, change: Callable[[Rollout], Rollout]) -> None:
        self._flight = flight
        self._change = change

    @property
    def pending(self) -> int:
        return self._flight.pending

    def add(self, proposals) -> None:
        self._flight.add(proposals)

    def wait(self, progress=None) -> list[Finished]:
        return [Finished(place, self._change(rollout)) for place, rollout in self._flight.wait(progress)]

    def close(self) -> None:
        self._flight.close()


def change_rollouts(engine: Engine, change: Callable[[Rollout], Rollout]) -> Engine:
    """Have an engine hand out changed rollouts from now on."""
    start = engine.start
    engine.start = lambda *asked: ChangedFlight(start(*asked), change)  # type: ignore[method-assign]
    return engine
