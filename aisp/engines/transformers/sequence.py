"""A response in the making (`Sequence`), and the flight that it belongs to as the decoding thread sees it.

Whichever thread decodes writes here, and the flight's own thread reads. A thread can be interrupted between any two
instructions, so that each change of state is one atomic operation, and `Sequence.rewind` repairs what was left half
done: the list of token ids is the truth, everything else is brought in line with it.
"""

from __future__ import annotations

import time
from collections import abc
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aisp.engines.grammar import Grammar, Matcher
from aisp.engines.logical import first_to_end
from aisp.engines.stopping import StopStrings, decode
from aisp.engines.transformers.calibration import ScaleMeter
from aisp.engines.transformers.memory import out_of_memory
from aisp.records import TOKEN_FIGURES, FinishReason, Limits, Measure, Prefix, Proposal, Rollout, Tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class CachedPrefix(Prefix):
    """A prompt with z_0, shape (dim,). Its keys and values are in the prefix cache, or are computed again."""

    pre_logit: Tensor


class RolloutCall:
    """What a flight and the decoding thread share.

    Args:
        prefix: The prompt of every sequence.
        limits: When they end.
        tokenizer: Makes their texts.
    """

    def __init__(self, prefix: CachedPrefix, limits: Limits, tokenizer: Any) -> None:
        self.prefix = prefix
        self.limits = limits
        self.tokenizer = tokenizer
        self.stop_strings = StopStrings(tokenizer, limits.stop)
        self.live: dict[int, Sequence] = {}  # by place, until they are handed out
        self.finished: dict[int, Sequence] = {}  # those of them that ended
        self.due: list[Sequence] = []  # those that are to be handed out next
        self.now = 0  # the tick of what was handed out last
        self.awaited = False
        self.generated = 0
        self.error: Exception | None = None
        self.closed = False
        self.cancelled = False

    @property
    def over(self) -> bool:
        """Whether its sequences need not go on: failed, closed, cancelled, or past the deadline."""
        limits = self.limits
        if self.error is not None or self.closed or self.cancelled:
            return True
        if limits.cancel is not None and limits.cancel.is_set():
            return True
        return limits.deadline is not None and time.monotonic() >= limits.deadline

    @property
    def settled(self) -> bool:
        """Whether its flight has something to learn, or nothing to wait for."""
        return bool(self.due or (self.over and self.finished)) or self.error is not None or not self.live

    def fail(self, error: Exception) -> None:
        """Note why it failed; the first reason stands."""
        if self.error is None:
            self.error = error

    def deliver(self, sequence: Sequence, rollout: Rollout) -> None:
        """Hand over a response. The flight's thread takes its sequence out of `live`, so that a second call is moot."""
        sequence.rollout = rollout
        self.finished[sequence.place] = sequence

    def publish(self) -> None:
        """Find what is to be handed out next. Runs between steps only, when no sequence is half done.

        Nothing is while the flight's thread is at work: what it will ask for may end before that.
        """
        if not self.awaited or self.due or not self.finished:
            return
        ended = {place: sequence.tick for place, sequence in list(self.finished.items()) if place in self.live}
        under_way = [sequence.tick for sequence in self.undecided()]
        self.due = [self.finished[place] for place in first_to_end(ended, under_way)]

    def undecided(self) -> list[Sequence]:
        """Return the sequences that have to be decoded further."""
        if self.error is not None or self.closed:
            return []
        return [sequence for sequence in list(self.live.values()) if sequence.rollout is None]


@dataclass(slots=True, eq=False)
class Sequence:
    """A response in the making. `ids` and `figures` begin with the kept tokens.

    Args:
        call: What it belongs to.
        place: Its place in the flight.
        proposal: What it is drawn from.
        grammar: What it is held to, compiled.
    """

    call: RolloutCall
    place: int
    proposal: Proposal
    grammar: Grammar | None = None
    number: int = 0  # in the order of arrival, over all flights
    began: int = 0  # the tick at which it was asked for
    ids: list[int] = field(default_factory=list)
    figures: list[tuple[float, ...]] = field(default_factory=list)
    slot: int = -1
    forward_tokens: int = 0
    noise: Tensor | None = None
    noise_block: int = -1
    meter: ScaleMeter | None = None
    matcher: Matcher | None = None
    matched: int = 0  # tokens that the matcher has taken in; -1 while it is being changed
    score_vectors: list[Tensor] = field(default_factory=list)
    rollout: Rollout | None = None

    def __post_init__(self) -> None:
        kept = self.proposal.kept
        self.ids = list(kept.ids)
        self.figures = list(zip(*(getattr(kept, name).tolist() for name in TOKEN_FIGURES), strict=True))
        self._start_matcher()

    @property
    def position(self) -> int:
        """The response position of the next token."""
        return len(self.ids)

    @property
    def drawn(self) -> int:
        """Tokens that were drawn, the kept ones not counted."""
        return len(self.ids) - len(self.proposal.kept)

    @property
    def tick(self) -> int:
        """The logical time that it has reached."""
        return self.began + self.drawn

    @property
    def remaining(self) -> int:
        """Tokens that may still come."""
        return self.call.limits.max_tokens - len(self.ids)

    @property
    def paused(self) -> bool:
        """Whether the proposal wants the response back as far as it is."""
        pause_after = self.proposal.pause_after
        return pause_after is not None and self.drawn >= pause_after

    @property
    def horizon(self) -> int:
        limit = self.call.limits.max_tokens
        return limit if self.proposal.horizon is None else min(self.proposal.horizon, limit)

    @property
    def excluded(self) -> tuple[int, ...]:
        """Tokens that the next one is not to be."""
        return () if self.drawn else self.proposal.excluded

    @property
    def perturbed(self) -> bool:
        return self.proposal.steered and self.position < self.horizon

    def hold(self, token: int) -> int:
        """Return the token that the grammar takes in place of a drawn one."""
        if self.matcher is None:
            return token
        self.matched = -1
        held = self.matcher.hold(token, self.remaining)
        self.matched = len(self.ids)
        return held

    def append(self, token: int, figures: tuple[float, ...]) -> None:
        """Take a token."""
        self.figures.append(figures)
        self.ids.append(token)
        self.call.generated += 1
        if self.matcher is not None:
            self.matched = -1
            self.matcher.advance(token)
            self.matched = len(self.ids)

    def end_reason(self, eos_token_ids: abc.Set[int]) -> FinishReason | None:
        """Return why the response ends with the token that was taken last; None if it goes on."""
        done = self.matcher is not None and self.matcher.done
        if done or self.ids[-1] in eos_token_ids or self.call.stop_strings.hit(self.ids):
            return "stop"
        if len(self.ids) >= self.call.limits.max_tokens:
            return "length"
        return "paused" if self.paused else None

    def rewind(self) -> None:
        """Bring everything in line with the tokens that were taken, after a cycle that didn't end."""
        self.slot = -1
        del self.figures[len(self.ids) :]
        del self.score_vectors[self.drawn :]
        if self.meter is not None:
            self.meter.rewind(self.drawn)
        if self.grammar is not None and self.matched != len(self.ids):
            self._start_matcher()

    def to_rollout(self, reason: FinishReason, measured: dict[Measure, Any]) -> Rollout:
        """Return the response as it is.

        Args:
            reason: Why it ended.
            measured: What was measured of it outside the sequence.
        """
        if self.meter is not None and self.drawn:
            measured["natural_scale"] = self.meter.scale()
        if self.score_vectors:
            measured["score_vectors"] = self._stack_scores()
        columns = np.array(self.figures, dtype=np.float64).reshape(len(self.ids), len(TOKEN_FIGURES)).T
        return Rollout(
            tokens=Tokens(ids=tuple(self.ids), **dict(zip(TOKEN_FIGURES, columns, strict=True))),
            text=self.call.stop_strings.cut(decode(self.call.tokenizer, self.ids)),
            finish_reason=reason,
            forward_tokens=self.forward_tokens,
            kept_tokens=len(self.proposal.kept),
            measured=measured,
        )

    def _start_matcher(self) -> None:
        """Lead a new matcher through the tokens; what it had been told of the drawn ones it is told again."""
        if self.grammar is None:
            return
        matcher, kept = self.grammar.matcher(), len(self.proposal.kept)
        for place, token in enumerate(self.ids):
            if place >= kept:
                matcher.hold(token, self.call.limits.max_tokens - place)
            matcher.advance(token)
        self.matcher, self.matched = matcher, len(self.ids)

    def _stack_scores(self) -> NDArray[np.float32]:
        """Return W[y_t] - E_q[W] of every position, 0 for kept tokens."""
        new = torch.stack(self.score_vectors).float().cpu().numpy()
        return np.concatenate([np.zeros((len(self.ids) - len(new), new.shape[1]), dtype=np.float32), new])


class SequenceError(Exception):
    """What went wrong with one sequence; its cause says what. The batch that it was in is not to be used again.

    Args:
        sequence: The one.
    """

    def __init__(self, sequence: Sequence) -> None:
        super().__init__(f"response {sequence.place} of its flight")
        self.sequence = sequence


def sequence_error(sequence: Sequence, error: Exception) -> Exception:
    """Return what to raise for an error that came up with one sequence; memory runs out for all of them."""
    return error if out_of_memory(error) else SequenceError(sequence)
