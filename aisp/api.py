"""One call that does it all: `aisp.align`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from aisp.aligner import Request
from aisp.engines import Progress, engine_for
from aisp.errors import ConfigurationError
from aisp.models import DEFAULT_MODEL, LoadedModel, load
from aisp.records import Message
from aisp.rewards import Preferences, Reward
from aisp.settings import SearchSettings
from aisp.trace import Alignment, Round


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
    rounds = aligner.rounds(request, progress)
    while True:
        try:
            round_ = next(rounds)
        except StopIteration as stop:
            alignment: Alignment = stop.value
            return alignment
        if on_round is not None:
            on_round(round_)
