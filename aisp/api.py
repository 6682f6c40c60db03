"""One call that does it all: `aisp.align`, and `aisp.stream` for its text piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from aisp.engines import Progress, engine_for
from aisp.errors import ConfigurationError
from aisp.models import DEFAULT_MODEL, LoadedModel, load
from aisp.records import Message
from aisp.rewards import Preferences, Reward
from aisp.search.loop import Request
from aisp.search.trace import Alignment, Round
from aisp.settings import SearchSettings


def align(
    prompt: str | Sequence[Message],
    *,
    rewards: Reward | None = None,
    model: Any = DEFAULT_MODEL,
    preferences: Preferences | Mapping[str, float] | None = None,
    reference: Any = None,
    on_round: Callable[[Round], None] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Alignment:
    """Answer a prompt with the response that the rewards like best.

    Args:
        prompt: The user's text, or OpenAI-style messages.
        rewards: What scores; None draws one plain sample.
        model: What `aisp.models.load` takes.
        preferences: Weights of the rewards' parts, by name.
        reference: What rewards are given as `reference`.
        on_round: Called with each round as it ends.
        progress: Called between decode steps with the number of new tokens.
        **settings: Fields of `aisp.settings.SearchSettings`.

    Raises:
        ConfigurationError: An unknown setting, or settings that contradict each other.
        ModelNotFoundError: There is no such model.
        RewardError: A reward failed.

    Example:
        >>> from aisp.rewards import Length
        >>> align("Hello!", rewards=Length(10, 20), budget=8, seed=1).best.reward  # doctest: +SKIP
        1.0
    """
    rounds = _rounds(prompt, rewards, model, preferences, reference, progress, settings)
    while True:
        try:
            round_ = next(rounds)
        except StopIteration as stop:
            alignment: Alignment = stop.value
            return alignment
        if on_round is not None:
            on_round(round_)


def stream(
    prompt: str | Sequence[Message],
    *,
    rewards: Reward | None = None,
    model: Any = DEFAULT_MODEL,
    preferences: Preferences | Mapping[str, float] | None = None,
    reference: Any = None,
    on_round: Callable[[Round], None] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Generator[str, None, Alignment]:
    """Yield the answer's text in pieces as it is settled, and return the alignment.

    With `commit_tokens` a piece comes with every block; without, the whole text comes when it is chosen. Nothing is
    decoded while a piece is looked at, nor after the generator is closed.

    Args:
        prompt: As in `align`, as all others are.
        rewards: With `commit_tokens`, those that declare `partial=True`.
        model: What `aisp.models.load` takes.
        preferences: Weights of the rewards' parts, by name.
        reference: What rewards are given as `reference`.
        on_round: Called with each round as it ends.
        progress: Called between decode steps with the number of new tokens.
        **settings: Fields of `aisp.settings.SearchSettings`.

    Raises:
        ConfigurationError: As in `align`, and blocks for a reward that can't score unfinished text.
        ModelNotFoundError: There is no such model.
        RewardError: A reward failed.

    Example:
        >>> from aisp.rewards import Sentiment
        >>> for piece in stream("Hello!", rewards=Sentiment(), commit_tokens=16, seed=1):  # doctest: +SKIP
        ...     print(piece, end="", flush=True)
    """
    rounds = _rounds(prompt, rewards, model, preferences, reference, progress, settings)
    shown = 0
    while True:
        try:
            round_ = next(rounds)
        except StopIteration as stop:
            alignment: Alignment = stop.value
            break
        if on_round is not None:
            on_round(round_)
        if round_.committed:
            shown += len(round_.committed)
            yield round_.committed
    if alignment.text[shown:]:
        yield alignment.text[shown:]
    return alignment


def _rounds(
    prompt: str | Sequence[Message],
    rewards: Reward | None,
    model: Any,
    preferences: Preferences | Mapping[str, float] | None,
    reference: Any,
    progress: Progress | None,
    settings: Mapping[str, Any],
) -> Generator[Round, None, Alignment]:
    """Make the request and the search of it."""
    try:
        search = SearchSettings(**settings)
    except ValidationError as error:
        raise ConfigurationError(str(error)) from error
    messages: Sequence[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if preferences is not None:
        rewards = Preferences.of(preferences).apply(rewards)
    loaded: LoadedModel = load(model)
    aligner = search.make_aligner(engine_for(loaded), rewards)
    request = Request(
        messages=messages,
        prompt_tokens=loaded.encode(messages),
        limits=search.make_limits(),
        seed=search.seed,
        reference=reference,
    )
    return aligner.rounds(request, progress)
