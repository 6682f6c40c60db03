"""One call that does it all: `aisp.align`, `aisp.aalign` on an event loop, `aisp.stream` for text piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from aisp.engines.base import Progress
from aisp.models import DEFAULT_MODEL
from aisp.records import Message
from aisp.rewards import Preferences, Reward
from aisp.search.events import SearchStep, TextCommitted
from aisp.search.trace import Alignment, Round
from aisp.service import Run, Service

OnRound = Callable[[Round], None]


def align(
    prompt: str | Sequence[Message],
    *,
    rewards: Reward | None = None,
    model: Any = DEFAULT_MODEL,
    dtype: Any = None,
    device: Any = None,
    preferences: Preferences | Mapping[str, float] | None = None,
    reference: Any = None,
    on_round: OnRound | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Alignment:
    """Answer a prompt with the response that the rewards like best.

    Args:
        prompt: The user's text, or OpenAI-style messages.
        rewards: What scores; None draws one plain sample.
        model: What `aisp.models.load` takes, or an `Engine`.
        dtype: Of the weights of a model that is named; None takes bfloat16 where the device is fast at it.
        device: Of a model that is named; None takes CUDA, else MPS, else the CPU.
        preferences: Weights of the rewards' parts, by name.
        reference: What rewards are given as `reference`.
        on_round: Called with each round as it ends.
        progress: Called between decode steps with the number of new tokens.
        **options: Fields of `aisp.settings.SearchSettings`; also `tools`, `tool_choice`, `parallel_tool_calls`,
            `response_format` and `template_kwargs`, in OpenAI's shapes.

    Raises:
        ConfigurationError: An unknown option, or options that contradict each other.
        ModelNotFoundError: There is no such model.
        RewardError: A reward failed.

    Example:
        >>> from aisp.rewards import Length
        >>> align("Hello!", rewards=Length(10, 20), budget=8, seed=1).best.reward  # doctest: +SKIP
        1.0
    """
    service = Service(model, rewards, dtype=dtype, device=device)
    run = service.run(prompt, progress=progress, preferences=preferences, reference=reference, **options)
    return _told(run, on_round)


async def aalign(
    prompt: str | Sequence[Message],
    *,
    rewards: Reward | None = None,
    model: Any = DEFAULT_MODEL,
    dtype: Any = None,
    device: Any = None,
    preferences: Preferences | Mapping[str, float] | None = None,
    reference: Any = None,
    on_round: OnRound | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Alignment:
    """Answer a prompt without blocking the caller's event loop. See `align`.

    Cancelling the task ends the search within a decode step. `on_round` is called on the event loop, `progress` on the
    search's thread.
    """
    service = Service(model, rewards, dtype=dtype, device=device)
    run = service.arun(prompt, progress=progress, preferences=preferences, reference=reference, **options)
    async with run:
        async for event in run:
            if isinstance(event, SearchStep) and on_round is not None:
                on_round(event.round)
        return await run.alignment()


def stream(
    prompt: str | Sequence[Message],
    *,
    rewards: Reward | None = None,
    model: Any = DEFAULT_MODEL,
    dtype: Any = None,
    device: Any = None,
    preferences: Preferences | Mapping[str, float] | None = None,
    reference: Any = None,
    on_round: OnRound | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> TextStream:
    """Return the answer's text in pieces as it is settled. See `align`.

    With `commit_tokens` a piece comes with every block; without, the whole text comes when it is chosen. Nothing is
    decoded while a piece is looked at, nor after the stream is closed.

    Example:
        >>> from aisp.rewards import Sentiment
        >>> answer = stream("Hello!", rewards=Sentiment(), commit_tokens=16, seed=1)  # doctest: +SKIP
        >>> for piece in answer:  # doctest: +SKIP
        ...     print(piece, end="", flush=True)
        >>> answer.alignment.best.reward  # doctest: +SKIP
        0.8
    """
    service = Service(model, rewards, dtype=dtype, device=device)
    run = service.run(prompt, progress=progress, preferences=preferences, reference=reference, **options)
    return TextStream(run, on_round)


class TextStream:
    """An answer's text in pieces. Iterating it runs the search; `alignment` runs it to its end.

    Args:
        run: The search.
        on_round: Called with each round as it ends.
    """

    def __init__(self, run: Run, on_round: OnRound | None = None) -> None:
        self._run = run
        self._on_round = on_round

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for event in self._run:
            if isinstance(event, SearchStep) and self._on_round is not None:
                self._on_round(event.round)
            if isinstance(event, TextCommitted):
                return event.text
        raise StopIteration

    @property
    def alignment(self) -> Alignment:
        """What was found and what it cost."""
        return _told(self._run, self._on_round)

    @property
    def text(self) -> str:
        """The whole text."""
        return self.alignment.text

    def close(self) -> None:
        """End the search, where it has not ended."""
        self._run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _told(run: Run, on_round: OnRound | None) -> Alignment:
    for event in run:
        if isinstance(event, SearchStep) and on_round is not None:
            on_round(event.round)
    return run.alignment
