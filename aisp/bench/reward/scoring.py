"""Scores samples for a check: once for the verdicts, then again in other ways, and what can't be scored apart."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aisp.errors import RewardError
from aisp.records import Candidate, Score
from aisp.rewards.base import Reward
from aisp.rewards.candidates import unique

# Verdicts that differ by less, relative to their size, are equal: what other batches round otherwise.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """What scoring again changed.

    Args:
        changed: Share of the responses that were scored again whose verdict is another.
        largest: The largest change of a value, in the reward's unit.
        responses: How many were scored again.
    """

    changed: float
    largest: float
    responses: int


def first_scores(
    reward: Reward, groups: Sequence[Sequence[Candidate]], advance: Callable[[], None]
) -> tuple[list[list[Score]], float]:
    """Score each prompt's candidates in a session of its own, as a search would.

    Returns:
        The scores, and seconds a distinct candidate. What a first verdict costs on top (loading) is not counted.
    """
    _apart(reward, groups[0][:1])
    scores, seconds = [], 0.0
    for group in groups:
        started = time.monotonic()
        scores.append(_apart(reward, group))
        seconds += time.monotonic() - started
        advance()
    return scores, seconds / sum(len(unique(group)[0]) for group in groups)


def again(
    reward: Reward,
    groups: Sequence[Sequence[Candidate]],
    scores: Sequence[Sequence[Score]],
    alone: int,
    advance: Callable[[], None],
) -> tuple[Repeat, Repeat]:
    """Score once more, afresh and in reverse order, then the first of each prompt's responses one at a time.

    Args:
        reward: What is checked.
        groups: One sequence of candidates a prompt.
        scores: Their first scores.
        alone: Responses a prompt that are scored one at a time.
        advance: Called as each prompt is done.

    Returns:
        What another order changed, and what being alone did.
    """
    reversed_, singly = [], []
    for group, first in zip(groups, scores, strict=True):
        usable = [(c, s) for c, s in zip(group, first, strict=True) if s.error is None]
        scorer = reward.fresh()  # and no session, which would remember
        backwards = [candidate for candidate, _ in reversed(usable)]
        reversed_ += list(zip([s for _, s in reversed(usable)], _scored(scorer, backwards), strict=True))
        singly += [(s, _scored(scorer, [c])[0]) for c, s in usable[:alone]]
        advance()
    return _repeat(reversed_), _repeat(singly)


def _repeat(pairs: Sequence[tuple[Score, Score]]) -> Repeat:
    changes = [_change(one, other) for one, other in pairs]
    finite = [change for change in changes if math.isfinite(change)]
    return Repeat(
        changed=sum(change > 0 for change in changes) / len(changes) if changes else 0.0,
        largest=max(finite, default=0.0) if len(finite) == len(changes) else math.inf,
        responses=len(changes),
    )


def _change(one: Score, other: Score) -> float:
    """Return by how much two verdicts differ: infinitely where one is usable and the other is not."""
    if one.usable != other.usable:
        return math.inf
    if not one.usable or math.isclose(one.value, other.value, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        return 0.0
    return abs(one.value - other.value)


def _apart(reward: Reward, candidates: Sequence[Candidate]) -> list[Score]:
    """Score in one session; where that fails, find the culprits and score the rest without them."""
    try:
        return reward.session().score(candidates)
    except RewardError:
        alone = [_scored(reward.fresh(), [candidate])[0] for candidate in candidates]
    rest = [row for row, score in enumerate(alone) if score.error is None]
    together = _scored(reward.session(), [candidates[row] for row in rest])
    found = dict(zip(rest, together, strict=True))
    return [found.get(row, score) for row, score in enumerate(alone)]


def _scored(reward: Reward, candidates: Sequence[Candidate]) -> list[Score]:
    try:
        return reward.score(candidates)
    except RewardError as error:
        return [Score(value=math.nan, error=str(error))] * len(candidates)
