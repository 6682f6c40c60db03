"""The check of a reward: `check_reward` measures, `RewardCheck` holds what was found.

draw_samples(model, prompts) -> responses
check_reward(reward, responses) -> RewardCheck(spread, ties, length, agreement, ..., complaints)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from aisp.bench.reward.findings import Complaint, Thresholds, complaints
from aisp.bench.reward.measures import Correlation, Spread, Ties, rank_correlation, spread, ties
from aisp.bench.reward.scoring import Repeat, again, first_scores
from aisp.errors import ConfigurationError
from aisp.records import Candidate, FloatArray, Score
from aisp.rewards.algebra import part_signs
from aisp.rewards.base import Reward
from aisp.rewards.candidates import unique

_ALONE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardCheck:
    """What a reward says of a model's own samples.

    Args:
        reward: Its name.
        prompts: How many.
        responses: Of all prompts.
        distinct: Different ones among them, within prompts.
        usable: Responses with a value.
        vetoed: Responses that are vetoed.
        failed: Responses that could not be scored.
        first_error: Why the first of them could not.
        bounds: The range that values were said to keep.
        out_of_range: Responses whose value lies outside it.
        spread: None where nothing is usable, as `ties`.
        ties: Equal values.
        length: Rank correlation of the value with the number of words.
        parts: Names of the reward's parts.
        agreement: Rank correlation of each pair of parts, as they enter the whole (a negative weight turns a part).
        part_and_whole: Rank correlation of each part with the whole.
        again: Scored again, afresh and in another order.
        alone: A few responses a prompt, scored one at a time.
        seconds_per_candidate: Of the first scoring.
        complaints: What is wrong, in words.
        groups: Candidates and scores, prompt by prompt.
    """

    reward: str
    prompts: int
    responses: int
    distinct: int
    usable: int
    vetoed: int
    failed: int
    first_error: str | None
    bounds: tuple[float, float] | None
    out_of_range: int
    spread: Spread | None
    ties: Ties | None
    length: Correlation
    parts: tuple[str, ...]
    agreement: Mapping[tuple[str, str], Correlation]
    part_and_whole: Mapping[str, Correlation]
    again: Repeat
    alone: Repeat
    seconds_per_candidate: float
    complaints: tuple[Complaint, ...] = ()
    groups: tuple[tuple[tuple[Candidate, Score], ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON, each response with its verdict."""
        figures = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("agreement", "part_and_whole", "groups", "complaints", *_RECORDS)
        }
        records = {name: None if (own := getattr(self, name)) is None else asdict(own) for name in _RECORDS}
        whole: dict[str, Any] = _plain(
            {
                **figures,
                **records,
                "agreement": [{"parts": pair, **asdict(found)} for pair, found in self.agreement.items()],
                "part_and_whole": {name: asdict(found) for name, found in self.part_and_whole.items()},
                "complaints": [asdict(complaint) for complaint in self.complaints],
                "rows": [
                    {
                        "prompt": prompt,
                        "text": candidate.text,
                        "value": score.value if score.usable else None,
                        "parts": dict(score.parts),
                        "vetoed": score.vetoed,
                        "error": score.error,
                    }
                    for prompt, group in enumerate(self.groups)
                    for candidate, score in group
                ],
            }
        )
        return whole

    def plot(self, path: str | Path) -> None:
        """Draw it; the suffix says in which format. Needs the `plot` extra."""
        from aisp.bench.reward.plot import draw_check

        draw_check(self, path)


_RECORDS = ("spread", "ties", "length", "again", "alone")


def check_reward(
    reward: Reward,
    responses: Sequence[Sequence[Candidate]],
    *,
    bounds: tuple[float, float] | None = None,
    thresholds: Thresholds | None = None,
    advance: Callable[[], None] = lambda: None,
) -> RewardCheck:
    """Measure whether a reward gives a search something to go by.

    Each prompt's responses are scored in a session of their own, as a search would score them, then again.

    Args:
        reward: What is checked.
        responses: Several a prompt, as `draw_samples` returns them.
        bounds: The range that values should keep; None for any.
        thresholds: From where on something is complained of.
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
    found = complaints(check, thresholds or Thresholds())
    return RewardCheck(**{name: getattr(check, name) for name in check.__dataclass_fields__} | {"complaints": found})


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


def _plain(value: Any) -> Any:
    """Return JSON: infinities and NaN become None."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
