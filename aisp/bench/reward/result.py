"""What a check of a reward found: `RewardCheck`, with a `Complaint` for each thing that is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from aisp.bench.reward.measures import Correlation, Spread, Ties
from aisp.bench.reward.scoring import Repeat
from aisp.records import Candidate, Score

Kind = Literal[
    "failed", "out_of_range", "vetoed", "samples", "constant", "saturated", "sparse", "ties", "prompts", "length",
    "contradiction", "redundant", "idle", "order", "batch", "cost",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """One thing that is wrong.

    Args:
        kind: What, in a word.
        text: In plain words, with the figure.
    """

    kind: Kind
    text: str


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
    groups: tuple[tuple[tuple[Candidate, Score], ...], ...] = field(default=(), repr=False)

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


_RECORDS = ("spread", "ties", "length", "again", "alone")


def _plain(value: Any) -> Any:
    """Return JSON: infinities and NaN become None."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
