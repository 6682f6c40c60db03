"""The check of a reward: `check_reward` measures, and returns a `RewardCheck`.

draw_samples(model, prompts) -> responses
check_reward(reward, responses) -> RewardCheck(spread, ties, length, agreement, ..., complaints)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from aisp.bench.reward.findings import Thresholds, complaints
from aisp.bench.reward.measures import rank_correlation, spread, ties
from aisp.bench.reward.result import RewardCheck
from aisp.bench.reward.scoring import again, first_scores
from aisp.errors import ConfigurationError
from aisp.records import Candidate, FloatArray, Score
from aisp.rewards.algebra import part_signs
from aisp.rewards.base import Reward
from aisp.rewards.candidates import unique

_ALONE = 2


def check_reward(
    reward: Reward,
    responses: Sequence[Sequence[Candidate]],
    *,
    bounds: tuple[float, float] | None = None,
    thresholds: Thresholds | None = None,
    advance: Callable[[], None] = lambda: None,
) -> RewardCheck:
    """Measure whether a reward gives a search something to climb.

    Each prompt's responses are scored in a session of their own, as a search would score them, then again.

    Args:
        reward: What is checked.
        responses: Several a prompt, as `draw_samples` returns them.
        bounds: The range that values should keep; None for any.
        thresholds: Limits from which on a finding is reported.
        advance: Called twice a prompt.

    Raises:
        ConfigurationError: No prompt, or one with fewer than two responses.

    Example:
        >>> from aisp.rewards import Length
        >>> one = [Candidate(messages=(), text=text) for text in ("Yes.", "No.", "Well, it depends.")]
        >>> check_reward(Length(1, 5), [one]).complaints[0].text
        'every response gets exactly 1: nothing to optimise'
    """
    if not responses or min(map(len, responses)) < 2:
        raise ConfigurationError("a reward is checked on two or more responses a prompt; some prompt has fewer")
    scores, seconds = first_scores(reward, responses, advance)
    order, alone = again(reward, responses, scores, _ALONE, advance)
    measured = _measured(reward, responses, scores, bounds)
    check = RewardCheck(again=order, alone=alone, seconds_per_candidate=seconds, **measured)
    return replace(check, complaints=complaints(check, thresholds or Thresholds()))


def _measured(
    reward: Reward,
    responses: Sequence[Sequence[Candidate]],
    scores: Sequence[Sequence[Score]],
    bounds: tuple[float, float] | None,
) -> dict[str, Any]:
    flat = [score for group in scores for score in group]
    values = [score.value for score in flat if score.usable]
    low, high = bounds or (-math.inf, math.inf)
    firsts = [_first_rows(group) for group in responses]
    kept = [[group[row] for row in rows] for group, rows in zip(scores, firsts, strict=True)]
    whole = [np.array([s.value if s.usable else np.nan for s in group]) for group in kept]
    words = [
        np.array([float(len(group[row].text.split())) for row in rows])
        for group, rows in zip(responses, firsts, strict=True)
    ]
    parts = _parts(reward, kept)
    groups = [own for group in scores if len(own := np.array([s.value for s in group if s.usable]))]
    return {
        "reward": reward.name,
        "prompts": len(responses),
        "responses": len(flat),
        "distinct": sum(map(len, firsts)),
        "usable": len(values),
        "vetoed": sum(score.vetoed for score in flat),
        "failed": sum(score.error is not None for score in flat),
        "first_error": next((score.error for score in flat if score.error is not None), None),
        "bounds": bounds,
        "out_of_range": sum(not low <= value <= high for value in values),
        "spread": spread(groups) if groups else None,
        "ties": ties(groups, [group[~np.isnan(group)] for group in whole]) if groups else None,
        "length": rank_correlation(whole, words),
        "parts": tuple(parts),
        "agreement": {(a, b): rank_correlation(parts[a], parts[b]) for a, b in combinations(parts, 2)},
        "part_and_whole": {name: rank_correlation(columns, whole) for name, columns in parts.items()},
        "groups": tuple(tuple(zip(c, s, strict=True)) for c, s in zip(responses, scores, strict=True)),
    }


def _first_rows(group: Sequence[Candidate]) -> list[int]:
    """Return the rows of responses that no earlier one of the prompt repeats."""
    places = unique(group)[1]
    return [row for row, place in enumerate(places) if place not in places[:row]]


def _parts(reward: Reward, scores: Sequence[Sequence[Score]]) -> dict[str, list[FloatArray]]:
    """Return the values of each part that enters the whole, one array a prompt, NaN where it has none.

    They are turned where a weight is negative. A veto is none: what it lets through it likes alike.
    """
    signs = part_signs(reward)
    found = dict.fromkeys(name for group in scores for score in group for name in score.parts)
    names = [name for name in found if signs.get(name, 1)]
    return {
        name: [
            np.array([signs.get(name, 1) * s.parts.get(name, np.nan) if s.usable else np.nan for s in group])
            for group in scores
        ]
        for name in names
    }
