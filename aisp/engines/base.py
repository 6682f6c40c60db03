"""The contract of an engine: it owns the model and knows nothing of rewards or strategies.

prefix = engine.prefill(prompt_tokens)                  one forward pass a prompt
flight = engine.start(prefix, proposals, limits)        responses in the making
flight.add(more); flight.wait() -> those that finished  a search need not wait for the slowest
engine.rollout(prefix, proposals, limits)               start, and wait for all
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from aisp.errors import ConfigurationError
from aisp.records import Capability, FloatArray, Limits, Prefix, Proposal, Rollout

if TYPE_CHECKING:
    from aisp.models.codec import ChatCodec

Progress = Callable[[int], None]
"""Called between decode steps with the number of response tokens generated since the last call."""


DEFAULT_WIDTH = 16
"""Of an engine that says nothing else."""


class Finished(NamedTuple):
    """A response that a flight hands out.

    Args:
        place: Which of the flight's proposals it is of, counted from 0 in the order in which they were given.
        rollout: The response.
    """

    place: int
    rollout: Rollout


class Flight(ABC):
    """Responses of one prompt in the making, with one set of limits. Used by one thread at a time."""

    @property
    @abstractmethod
    def pending(self) -> int:
        """Responses that were asked for and not yet handed out."""

    @abstractmethod
    def add(self, proposals: Sequence[Proposal]) -> None:
        """Ask for more responses, while others are being decoded.

        Raises:
            ConfigurationError: A proposal that can't be drawn from: the flight goes on without all of these.
        """

    @abstractmethod
    def wait(self, progress: Progress | None = None) -> list[Finished]:
        """Return what ended first of all that is pending, waiting for it; in the order of their places.

        First is meant in logical time (`aisp.engines.logical`), so that the order does not depend on who shares the
        batch. An empty list says that nothing is pending. At the deadline, or once the cancel event is set, everything
        that is pending finishes as "cancelled".

        Raises:
            EngineError: Decoding failed. Nothing is pending afterwards.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop what is pending, and free what it holds. Closing again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Engine(ABC):
    """Draws responses from a model. Thread-safe: requests of several threads share its batch."""

    @property
    @abstractmethod
    def codec(self) -> ChatCodec:
        """The model's tokenizer and chat template."""

    @property
    @abstractmethod
    def offers(self) -> frozenset[Capability]:
        """What proposals may ask of it."""

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and response may have together; None where the model sets no limit."""
        return self.codec.context_length

    @property
    def width(self) -> int:
        """Responses that it decodes at once at hardly more than the cost of one: what a search keeps in flight.

        A constant of the machine. Measured as it runs it would be nearer to the truth, but then equal seeds would give
        other answers under another load.
        """
        return DEFAULT_WIDTH

    @abstractmethod
    def prefill(self, token_ids: Sequence[int]) -> Prefix:
        """Run the prompt through the model, once.

        Raises:
            PromptError: An empty prompt, or one that leaves no room for a response.
        """

    @abstractmethod
    def start(self, prefix: Prefix, proposals: Sequence[Proposal], limits: Limits) -> Flight:
        """Begin to draw one response a proposal.

        Raises:
            ConfigurationError: A proposal that can't be drawn from.
        """

    def rollout(
        self, prefix: Prefix, proposals: Sequence[Proposal], limits: Limits, progress: Progress | None = None
    ) -> list[Rollout]:
        """Draw one response a proposal; the result runs parallel to the proposals.

        Raises:
            ConfigurationError: A proposal that can't be drawn from.
            EngineError: Decoding failed.
        """
        found: dict[int, Rollout] = {}
        with self.start(prefix, proposals, limits) as flight:
            while finished := flight.wait(progress):
                found.update(finished)
        return [found[place] for place in range(len(proposals))]

    def log_probs(self, token_ids: Sequence[int], next_tokens: Sequence[int]) -> FloatArray:
        """Return the log-probabilities of some tokens behind a prompt, in nats, shape (len(next_tokens),).

        Raises:
            ConfigurationError: The engine does not offer "next_token_log_probs".
            PromptError: As `prefill`.
            EngineError: The forward pass failed.
        """
        raise ConfigurationError(
            f"{type(self).__name__} does not offer next_token_log_probs; use an engine that runs the model in this "
            "process"
        )

    def close(self) -> None:  # noqa: B027 - an engine may have nothing to free
        """Free what the engine holds. Requests that are under way end as "cancelled"."""
