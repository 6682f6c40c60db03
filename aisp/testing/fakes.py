"""An engine of canned texts and a clock that tests set: what a search does, without a model and without waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np

from aisp.engines.base import Engine, Flight
from aisp.engines.proposals import check_offered, check_proposal
from aisp.errors import PromptError
from aisp.models.codec import ChatCodec
from aisp.records import (
    TOKEN_FIGURES,
    Capability,
    FinishReason,
    Limits,
    Measure,
    Prefix,
    Proposal,
    Rollout,
    Tokens,
)
from aisp.testing.flights import PlainEncoder, StepwiseFlight, Writing

WORDS = ("ash", "birch", "cedar", "elm", "fir", "gum", "hazel", "ivy")
_DIM = 4
_END = 0


class FakeClock:
    """A clock that stands until it is told to go on. Called, it tells the time in seconds, as `time.monotonic` does.

    Example:
        >>> clock = FakeClock()
        >>> clock.advance(1.5)
        >>> clock()
        1.5
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass. It can stand in for `time.sleep`."""
        self.now += seconds


class FakeTokenizer:
    """One token a word, with the space before it; token 0 ends a response and has no text.

    Args:
        texts: Where the words come from.
    """

    is_fast = False
    eos_token_id = _END

    def __init__(self, texts: Sequence[str]) -> None:
        pieces = dict.fromkeys(piece for text in texts for piece in self.split(text))
        self._pieces = ["", *pieces]
        self._ids = {piece: place for place, piece in enumerate(self._pieces)}

    def __len__(self) -> int:
        return len(self._pieces)

    def split(self, text: str) -> list[str]:
        """Return a text's words, each with the space before it."""
        first, *others = text.split(" ")
        return [piece for piece in [first, *(f" {word}" for word in others)] if piece]

    def encode(self, text: str) -> list[int]:
        return [self._ids[piece] for piece in self.split(text)]

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return "".join(self._pieces[token] for token in ids)


class FakeEngine(Engine):
    """Answers with the text that a proposal's seed chooses, a word a token; what is asked of it is noted.

    Steering changes its figures and nothing else.

    Args:
        texts: What it can say.
        seconds: What the first response of every `start` and `add` takes: on a `FakeClock` it is put on at once, else
            it is waited for, unless the flight is cancelled meanwhile.
        clock: What deadlines are compared with.
        codec: Its tokenizer and template. None takes one that knows the texts' words.
        offers: What proposals may ask of it.
    """

    ALL: frozenset[Capability] = frozenset(get_args(Capability)) - {"grammar", "score_vectors", "next_token_log_probs"}

    def __init__(
        self,
        texts: Sequence[str] = WORDS,
        *,
        seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        codec: ChatCodec | None = None,
        offers: frozenset[Capability] = ALL,
    ) -> None:
        self.texts = texts
        self.seconds = seconds
        self.clock = clock
        self.prompts: list[tuple[int, ...]] = []
        self.limits: list[Limits] = []
        self.proposals: list[Proposal] = []
        self.calls: list[int] = []
        """How many responses each `start` or `add` asked for."""
        self.cancelled = threading.Event()
        self.closed = False
        self._offers = offers
        encoder: Any = PlainEncoder()
        self._codec = codec or ChatCodec(
            name="fake", tokenizer=self._tokenizer, eos_token_ids=(_END,), context_length=None, encoder=encoder
        )

    @property
    def texts(self) -> tuple[str, ...]:
        """What it can say. Others may be set, where the codec is not its own."""
        return self._texts

    @texts.setter
    def texts(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)
        self._tokenizer = FakeTokenizer(self._texts)

    @property
    def codec(self) -> ChatCodec:
        return self._codec

    @property
    def offers(self) -> frozenset[Capability]:
        return self._offers

    @property
    def drawn(self) -> int:
        """Responses that were asked for."""
        return sum(self.calls)

    def prefill(self, token_ids: Sequence[int]) -> Prefix:
        if not token_ids:
            raise PromptError("the prompt has no tokens; give at least one")
        self.prompts.append(tuple(token_ids))
        return Prefix(token_ids=tuple(token_ids))

    def start(self, prefix: Prefix, proposals: Sequence[Proposal], limits: Limits) -> Flight:
        def begin(proposal: Proposal) -> Writing:
            check_offered(self, [proposal])
            check_proposal(proposal, limits.max_tokens, len(self.codec.tokenizer))
            return _FakeWriting(self, proposal, limits)

        self.limits.append(limits)
        flight = _FakeFlight(self, begin, limits)
        flight.add(proposals)
        return flight

    def close(self) -> None:
        self.closed = True

    def spend(self, limits: Limits) -> None:
        """Let the time of a response pass."""
        if isinstance(self.clock, FakeClock):
            self.clock.advance(self.seconds)
        elif self.seconds:
            (limits.cancel or threading.Event()).wait(self._wait_seconds(limits))

    def ids_of(self, proposal: Proposal) -> list[int]:
        """Return the whole response to a proposal: what it keeps, and what its seed's text has from there."""
        kept = list(proposal.kept.ids)
        for turn in range(len(self.texts)):
            text = self.texts[(proposal.seed + turn) % len(self.texts)]
            ids = [*self._tokenizer.encode(text), _END][len(kept) :] or [_END]
            if ids[0] not in proposal.excluded:
                break
        return kept + ids

    def text_of(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)

    def _wait_seconds(self, limits: Limits) -> float:
        return self.seconds if limits.deadline is None else max(min(self.seconds, limits.deadline - self.clock()), 0.0)


class _FakeFlight(StepwiseFlight):
    def __init__(self, engine: FakeEngine, begin: Callable[[Proposal], Writing], limits: Limits) -> None:
        super().__init__(begin, limits, engine.clock, lambda: engine.spend(limits))
        self._engine = engine

    def add(self, proposals: Sequence[Proposal]) -> None:
        super().add(proposals)
        self._engine.calls.append(len(proposals))
        self._engine.proposals.extend(proposals)


class _FakeWriting(Writing):
    def __init__(self, engine: FakeEngine, proposal: Proposal, limits: Limits) -> None:
        self._engine, self._proposal, self._limits = engine, proposal, limits
        self._whole = engine.ids_of(proposal)
        self._length = len(proposal.kept)

    def step(self) -> Rollout | None:
        self._length += 1
        reason = self._end_reason()
        return None if reason is None else self._rollout(reason)

    def cancel(self) -> Rollout:
        cancel = self._limits.cancel
        if cancel is not None and cancel.is_set():
            self._engine.cancelled.set()
        return self._rollout("cancelled")

    def _end_reason(self) -> FinishReason | None:
        text = self._engine.text_of(self._whole[: self._length])
        if self._length == len(self._whole) or any(stop in text for stop in self._limits.stop):
            return "stop"
        if self._length == self._limits.max_tokens:
            return "length"
        pause_after, drawn = self._proposal.pause_after, self._length - len(self._proposal.kept)
        return "paused" if pause_after is not None and drawn >= pause_after else None

    def _rollout(self, reason: FinishReason) -> Rollout:
        proposal, count = self._proposal, self._length - len(self._proposal.kept)
        ids = tuple(self._whole[: self._length])
        values = {
            "kl_to_base": 0.1 if proposal.steered and proposal.horizon != 0 else 0.0,
            "mean_dot": 0.0,
            "entropy": 1.0,
        }
        new = Tokens(
            ids=ids[len(proposal.kept) :],
            **{name: np.full(count, values.get(name, -1.0)) for name in TOKEN_FIGURES},
        )
        text = self._engine.text_of(ids)
        ends = [text.index(stop) for stop in self._limits.stop if stop in text]
        measured: dict[Measure, Any] = {
            "natural_scale": 0.5,
            "unused_mean_dot": 0.0,
            "bag": np.array([ids.count(token) for token in range(_DIM)], dtype=np.float64),
        }
        return Rollout(
            tokens=proposal.kept.followed_by(new),
            text=text[: min(ends)] if ends else text,
            finish_reason=reason,
            forward_tokens=max(count - 1, 0),
            kept_tokens=len(proposal.kept),
            measured={name: value for name, value in measured.items() if name in proposal.measures},
        )
